package clickhouse

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

// capi holds the functions of libchdb's C interface that the engine needs, loaded
// without cgo. Handles are C pointers; nothing in Go memory is kept by the
// library after a call returns (chdb_stream_append copies).
type capi struct {
	setSignalHandlers func(enabled int32)
	connect           func(argc int32, argv unsafe.Pointer) unsafe.Pointer
	closeConn         func(conn unsafe.Pointer)
	version           func() string

	queryWithParams  func(conn unsafe.Pointer, q unsafe.Pointer, n uintptr, f unsafe.Pointer, fn uintptr, names, nameLens, values, valueLens unsafe.Pointer, count uintptr) unsafe.Pointer
	streamWithParams func(conn unsafe.Pointer, q unsafe.Pointer, n uintptr, f unsafe.Pointer, fn uintptr, names, nameLens, values, valueLens unsafe.Pointer, count uintptr) unsafe.Pointer
	fetch            func(conn, result unsafe.Pointer) unsafe.Pointer
	cancelQuery      func(conn, result unsafe.Pointer)
	destroyResult    func(result unsafe.Pointer)
	classify         func(conn unsafe.Pointer, q unsafe.Pointer, n uintptr, db unsafe.Pointer, dn uintptr, out unsafe.Pointer) int32

	insertWithParams func(conn unsafe.Pointer, q unsafe.Pointer, n uintptr, f unsafe.Pointer, fn uintptr, names, nameLens, values, valueLens unsafe.Pointer, count uintptr) unsafe.Pointer
	insertError      func(stream unsafe.Pointer) string
	insertAppend     func(stream unsafe.Pointer, data unsafe.Pointer, n uintptr) int32
	insertDone       func(stream unsafe.Pointer) unsafe.Pointer
	insertCancel     func(stream unsafe.Pointer)
	insertDestroy    func(stream unsafe.Pointer)

	resultError       func(result unsafe.Pointer) string
	resultBuffer      func(result unsafe.Pointer) unsafe.Pointer
	resultLength      func(result unsafe.Pointer) uintptr
	resultRows        func(result unsafe.Pointer) uint64
	resultBytes       func(result unsafe.Pointer) uint64
	resultReadRows    func(result unsafe.Pointer) uint64
	resultReadBytes   func(result unsafe.Pointer) uint64
	resultWrittenRows func(result unsafe.Pointer) uint64
	resultWrittenByte func(result unsafe.Pointer) uint64

	// sigaction is libc's, used to put the Go runtime's signal handlers back.
	sigaction func(signum int32, act, old unsafe.Pointer) int32

	// connecting serialises connects: each one resets signal dispositions of the
	// whole process for a moment.
	connecting sync.Mutex
}

// loadCAPI loads the library at path and binds its functions. A process loads
// it once; the library is never unloaded.
func loadCAPI(path string) (c *capi, err error) {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", path, err)
	}
	c = &capi{}
	for name, fn := range map[string]any{
		"chdb_set_signal_handlers_enabled": &c.setSignalHandlers,
		"chdb_connect":                     &c.connect,
		"chdb_close_conn":                  &c.closeConn,
		"chdb_version":                     &c.version,
		"chdb_query_with_params_n":         &c.queryWithParams,
		"chdb_stream_query_with_params_n":  &c.streamWithParams,
		"chdb_stream_fetch_result":         &c.fetch,
		"chdb_stream_cancel_query":         &c.cancelQuery,
		"chdb_destroy_query_result":        &c.destroyResult,
		"chdb_classify_query_n":            &c.classify,
		"chdb_stream_insert_with_params_n": &c.insertWithParams,
		"chdb_stream_insert_error":         &c.insertError,
		"chdb_stream_append":               &c.insertAppend,
		"chdb_stream_done":                 &c.insertDone,
		"chdb_stream_cancel_insert":        &c.insertCancel,
		"chdb_destroy_insert_stream":       &c.insertDestroy,
		"chdb_result_error":                &c.resultError,
		"chdb_result_buffer":               &c.resultBuffer,
		"chdb_result_length":               &c.resultLength,
		"chdb_result_rows_read":            &c.resultRows,
		"chdb_result_bytes_read":           &c.resultBytes,
		"chdb_result_storage_rows_read":    &c.resultReadRows,
		"chdb_result_storage_bytes_read":   &c.resultReadBytes,
		"chdb_result_rows_written":         &c.resultWrittenRows,
		"chdb_result_bytes_written":        &c.resultWrittenByte,
	} {
		sym, err := purego.Dlsym(handle, name)
		if err != nil {
			return nil, fmt.Errorf("finding %s in %s (want libchdb %s): %w", name, path, LibraryVersion, err)
		}
		purego.RegisterFunc(fn, sym)
	}
	sym, err := purego.Dlsym(purego.RTLD_DEFAULT, "sigaction")
	if err != nil {
		return nil, fmt.Errorf("finding sigaction in libc: %w", err)
	}
	purego.RegisterFunc(&c.sigaction, sym)
	c.keepingSignals(func() { c.setSignalHandlers(0) })
	return c, nil
}

// sigactionSize is above sizeof(struct sigaction) on every platform the library
// exists for: 152 bytes with glibc, 16 on macOS.
const sigactionSize = 256

// keepingSignals runs fn and puts back the handlers of the signals that libchdb
// resets to their defaults as a side effect of disabling its own handlers and of
// every connect. The Go runtime owns these: without its SIGSEGV handler a nil
// dereference ends the process instead of panicking.
func (c *capi) keepingSignals(fn func()) {
	c.connecting.Lock()
	defer c.connecting.Unlock()
	saved := make([][sigactionSize]byte, len(ownedSignals))
	for i, s := range ownedSignals {
		c.sigaction(s, nil, unsafe.Pointer(&saved[i])) //nolint:gosec // G103: libc call
	}
	fn()
	for i, s := range ownedSignals {
		c.sigaction(s, unsafe.Pointer(&saved[i]), nil) //nolint:gosec // G103: libc call
	}
}

// open connects to the database with the given engine arguments (--path=...).
func (c *capi) open(args []string) (unsafe.Pointer, error) {
	argv := make([]unsafe.Pointer, 0, len(args)+2)
	for _, a := range append([]string{"clickhouse"}, args...) {
		b := append([]byte(a), 0)
		argv = append(argv, unsafe.Pointer(&b[0])) //nolint:gosec // G103: C string
	}
	n := int32(len(argv))
	argv = append(argv, nil)
	var conn unsafe.Pointer
	c.keepingSignals(func() { conn = c.connect(n, unsafe.Pointer(&argv[0])) }) //nolint:gosec // G103: argv
	runtime.KeepAlive(argv)
	if conn == nil {
		return nil, errors.New("connecting to the engine: it refused (its reason is on standard error)")
	}
	return conn, nil
}

// cparams are query parameters in the form the library takes them.
type cparams struct {
	names, values     []unsafe.Pointer
	nameLen, valueLen []uintptr
}

func newCParams(params []param) *cparams {
	p := &cparams{}
	for _, x := range params {
		p.names = append(p.names, strPtr(x.name))
		p.nameLen = append(p.nameLen, uintptr(len(x.name)))
		p.values = append(p.values, strPtr(x.value))
		p.valueLen = append(p.valueLen, uintptr(len(x.value)))
	}
	return p
}

func (p *cparams) args() (names, nameLens, values, valueLens unsafe.Pointer, count uintptr) {
	if len(p.names) == 0 {
		return nil, nil, nil, nil, 0
	}
	//nolint:gosec // G103: arrays for the C interface, alive until the caller's KeepAlive
	return unsafe.Pointer(&p.names[0]), unsafe.Pointer(&p.nameLen[0]), unsafe.Pointer(&p.values[0]), unsafe.Pointer(&p.valueLen[0]), uintptr(len(p.names))
}

// emptyString gives an empty Go string an address, since some calls take NULL
// for "not given".
var emptyString = [1]byte{}

func strPtr(s string) unsafe.Pointer {
	if s == "" {
		return unsafe.Pointer(&emptyString) //nolint:gosec // G103: C string of length 0
	}
	return unsafe.Pointer(unsafe.StringData(s)) //nolint:gosec // G103: length is passed beside it
}

// param is one query parameter ({name:Type} in the text).
type param struct{ name, value string }

// stats are the counters of one statement.
type stats struct {
	resultRows, resultBytes   uint64
	readRows, readBytes       uint64
	writtenRows, writtenBytes uint64
}

func (c *capi) stats(result unsafe.Pointer) stats {
	return stats{
		resultRows: c.resultRows(result), resultBytes: c.resultBytes(result),
		readRows: c.resultReadRows(result), readBytes: c.resultReadBytes(result),
		writtenRows: c.resultWrittenRows(result), writtenBytes: c.resultWrittenByte(result),
	}
}

// resultPtr is a result in C memory.
type resultPtr = unsafe.Pointer

// bytes returns a result's data in place: valid until it is destroyed.
func (c *capi) bytes(result resultPtr) []byte {
	n := c.resultLength(result)
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(c.resultBuffer(result)), n) //nolint:gosec // G103: the library's buffer
}

// take copies a result's error, data and counters and destroys it.
func (c *capi) take(result unsafe.Pointer, buf []byte) ([]byte, stats, error) {
	if result == nil {
		return nil, stats{}, &Exception{Code: codeLogical, Message: "Code: 49. DB::Exception: the engine returned no result. (LOGICAL_ERROR)"}
	}
	defer c.destroyResult(result)
	if msg := c.resultError(result); msg != "" {
		return nil, stats{}, parseException(msg)
	}
	return append(buf, c.bytes(result)...), c.stats(result), nil
}

// statementClass is what a statement does to state that outlives it, as the
// engine's own parser sees it.
type statementClass uint32

const (
	classReadOnly statementClass = iota
	classMutating
	classMutatingGlobal
	classControl
	classUnknown
)

// analyse classifies a statement. count is 0 when it does not parse.
func (c *capi) analyse(conn unsafe.Pointer, query string) (class statementClass, count uint32) {
	out := struct{ size, count, flags, class uint32 }{size: 16}
	if c.classify(conn, strPtr(query), uintptr(len(query)), nil, 0, unsafe.Pointer(&out)) != 0 { //nolint:gosec // G103: out parameter
		return classUnknown, 0
	}
	runtime.KeepAlive(query)
	return statementClass(out.class), out.count
}

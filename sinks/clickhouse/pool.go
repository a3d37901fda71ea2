package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sort"
	"strings"
	"sync"
	"unsafe"
)

// pool holds the connections to the database inside this process. A connection
// runs one statement at a time; one more, the anchor, is never lent out for
// queries: it kills what a client no longer waits for, and keeps the engine from
// shutting down with its last connection.
type pool struct {
	api  *capi
	args []string
	// slots bounds the connections that are lent out, by who they are for.
	slots [2]chan struct{}
	// initial are the settings that a fresh connection has changed: ours
	// (async_insert=0: an insert is stored before it is acknowledged) and the
	// library's own. SET x=DEFAULT would lose them.
	initial map[string]string

	mu     sync.Mutex
	idle   []*conn
	closed bool

	anchorMu sync.Mutex
	anchor   *conn
}

// slotClass says for whom a connection is: readers cannot take those of the writer,
// however many they are and however slowly they read.
type slotClass uint8

const (
	ownSlots slotClass = iota // the writer, and what asks for health
	readerSlots
)

// conn is one connection of the pool; its user owns it until release.
type conn struct {
	slot slotClass
	api  *capi
	raw  unsafe.Pointer // what chdb_connect returned
	h    unsafe.Pointer // the connection itself
	db   string         // current database
}

// newPool opens the database in dir with the given server options, which only
// the first connection reads.
func newPool(api *capi, dir string, own, readers int, options []string) (*pool, error) {
	p := &pool{api: api, args: []string{"--path=" + dir, "--async_insert=0"}}
	p.slots[ownSlots], p.slots[readerSlots] = make(chan struct{}, own), make(chan struct{}, readers)
	raw, err := api.open(append(append([]string{}, p.args...), options...))
	if err != nil {
		return nil, err
	}
	p.anchor = newConn(api, raw)
	out, _, err := p.anchor.query("SELECT name, value FROM system.settings WHERE changed", "TabSeparatedRaw", nil)
	if err != nil {
		api.closeConn(raw)
		return nil, fmt.Errorf("reading the engine's initial settings: %w", err)
	}
	p.initial = make(map[string]string)
	for _, line := range strings.Split(strings.TrimSuffix(string(out), "\n"), "\n") {
		if name, value, ok := strings.Cut(line, "\t"); ok {
			p.initial[name] = value
		}
	}
	return p, nil
}

func newConn(api *capi, raw unsafe.Pointer) *conn {
	return &conn{api: api, raw: raw, h: *(*unsafe.Pointer)(raw), db: "default"}
}

var errPoolClosed = errors.New("the engine is shutting down")

// acquire lends a connection out; it waits for a free one until ctx ends.
func (p *pool) acquire(ctx context.Context, class slotClass) (*conn, error) {
	slots := p.slots[class]
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		<-slots
		return nil, errPoolClosed
	}
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		c.slot = class
		return c, nil
	}
	p.mu.Unlock()
	raw, err := p.api.open(p.args)
	if err != nil {
		<-slots
		return nil, err
	}
	c := newConn(p.api, raw)
	c.slot = class
	return c, nil
}

// release takes a connection back. A tainted one, whose session state is not
// known any more, is closed instead.
func (p *pool) release(c *conn, tainted bool) {
	p.mu.Lock()
	keep, slots := !tainted && !p.closed, p.slots[c.slot]
	if keep {
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		p.api.closeConn(c.raw)
	}
	<-slots
}

// kill cancels the running statements whose log_comment is the given one. It
// does not wait for them: KILL ... SYNC never returns in this engine, because a
// statement stays listed until its connection runs the next one.
func (p *pool) kill(comment string) {
	p.anchorMu.Lock()
	defer p.anchorMu.Unlock()
	if p.anchor == nil {
		return
	}
	// An error means that nothing runs under that name any more.
	_, _, _ = p.anchor.query("KILL QUERY WHERE Settings['log_comment'] = "+quote(comment)+" ASYNC", "Null", nil)
}

// close waits until ctx ends for connections to come back and closes the
// engine. What still runs then is left to the end of the process.
func (p *pool) close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	for _, slots := range p.slots {
		for range cap(slots) {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return fmt.Errorf("waiting for running statements: %w", ctx.Err())
			}
		}
	}
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, c := range idle {
		p.api.closeConn(c.raw)
	}
	p.anchorMu.Lock()
	defer p.anchorMu.Unlock()
	if p.anchor != nil {
		p.api.closeConn(p.anchor.raw)
		p.anchor = nil
	}
	return nil
}

// query runs a statement and returns its whole output in the given format.
func (c *conn) query(sql, format string, params []param) ([]byte, stats, error) {
	return c.api.take(c.start(sql, format, params, false), nil)
}

// start runs a statement (whole) or begins it (streaming); the result belongs to
// the caller.
func (c *conn) start(sql, format string, params []param, streaming bool) unsafe.Pointer {
	cp := newCParams(params)
	names, nameLens, values, valueLens, n := cp.args()
	run := c.api.queryWithParams
	if streaming {
		run = c.api.streamWithParams
	}
	r := run(c.h, strPtr(sql), uintptr(len(sql)), strPtr(format), uintptr(len(format)), names, nameLens, values, valueLens, n)
	runtime.KeepAlive(params)
	runtime.KeepAlive(cp)
	return r
}

// insert begins an INSERT whose data follow in pieces.
func (c *conn) insert(sql, format string, params []param) (*insertStream, error) {
	cp := newCParams(params)
	names, nameLens, values, valueLens, n := cp.args()
	h := c.api.insertWithParams(c.h, strPtr(sql), uintptr(len(sql)), strPtr(format), uintptr(len(format)), names, nameLens, values, valueLens, n)
	runtime.KeepAlive(params)
	runtime.KeepAlive(cp)
	s := &insertStream{api: c.api, h: h}
	if msg := c.api.insertError(h); msg != "" {
		s.close()
		return nil, parseException(msg)
	}
	return s, nil
}

// use makes db the current database.
func (c *conn) use(db string) error {
	if db == "" {
		db = "default"
	}
	if c.db == db {
		return nil
	}
	if _, _, err := c.query("USE "+quoteIdent(db), "Null", nil); err != nil {
		return err
	}
	c.db = db
	return nil
}

// set applies settings to the session.
func (c *conn) set(settings []param) error {
	if len(settings) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("SET ")
	for i, s := range settings {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quoteIdent(s.name))
		b.WriteString(" = ")
		b.WriteString(quote(s.value))
	}
	_, _, err := c.query(b.String(), "Null", nil)
	return err
}

// reset puts the settings back to what a fresh connection has. Running it also
// takes the last statement out of system.processes.
func (c *conn) reset(settings []param, initial map[string]string) error {
	var b strings.Builder
	b.WriteString("SET log_comment = ''")
	sort.Slice(settings, func(i, j int) bool { return settings[i].name < settings[j].name })
	for _, s := range settings {
		if s.name == "log_comment" {
			continue
		}
		b.WriteString(", ")
		b.WriteString(quoteIdent(s.name))
		if v, ok := initial[s.name]; ok {
			b.WriteString(" = " + quote(v))
		} else {
			b.WriteString(" = DEFAULT")
		}
	}
	_, _, err := c.query(b.String(), "Null", nil)
	return err
}

// insertStream is an open INSERT. close must be called on every path; closing an
// unfinished one cancels it, though blocks that were already flushed stay.
type insertStream struct {
	api    *capi
	h      unsafe.Pointer
	failed bool
}

// append hands a piece of data over; it blocks while the engine is behind.
func (s *insertStream) append(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	if s.api.insertAppend(s.h, unsafe.Pointer(unsafe.SliceData(data)), uintptr(len(data))) != 0 { //nolint:gosec // G103: copied by the callee
		s.failed = true
		if msg := s.api.insertError(s.h); msg != "" {
			return parseException(msg)
		}
		return errors.New("appending to the insert: the engine refused the data")
	}
	return nil
}

// done ends the data; the rows are stored when it returns no error.
func (s *insertStream) done() (stats, error) {
	_, st, err := s.api.take(s.api.insertDone(s.h), nil)
	return st, err
}

func (s *insertStream) cancel() { s.api.insertCancel(s.h) }
func (s *insertStream) close()  { s.api.insertDestroy(s.h) }

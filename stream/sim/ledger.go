package sim

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/autohedge/autohedge/stream/event"
)

// The ledger is a text file, tab separated, one line a trade:
//
//	venue  symbol  trade id  price  quantity  aggressor  Unix ns
//
// Lines that begin with # are the simulator's own state: "#state" holds one
// symbol's ids and last trade, "#checkpoint N" announces the N states that
// follow it. Reading forward from the last whole checkpoint gives the state at
// the end of the file, so a start costs the same however long the ledger is.
const (
	ledgerName    = "ledger"
	olderName     = "ledger.1"
	lockName      = "ledger.lock"
	stateMark     = "#state\t"
	checkMark     = "#checkpoint\t"
	maxLedgerLine = 4096
	// checkpointBytes is how much of the ledger a start reads at least.
	checkpointBytes = 4 << 20
	// reserveUpdates is how many update ids one state line sets aside; what a
	// kill leaves of them is skipped, so none is ever used twice.
	reserveUpdates = 100_000
)

// LedgerTrade is one trade as the simulator made it.
type LedgerTrade struct {
	Venue     string
	Symbol    string // as the venue writes it
	ID        uint64
	Price     event.Decimal
	Qty       event.Decimal
	Aggressor event.Side
	Time      int64 // Unix ns
}

// ReadLedger calls fn for every trade in the ledger of the folder, oldest first,
// until fn returns an error. It may run beside a live simulator: a line that is
// not complete yet is left out.
func ReadLedger(dir string, fn func(LedgerTrade) error) error {
	found := false
	for _, name := range []string{olderName, ledgerName} {
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("opening the simulator's ledger: %w", err)
		}
		found = true
		err = readTrades(f, fn)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", filepath.Join(dir, name), err)
		}
	}
	if !found {
		return fmt.Errorf("opening the simulator's ledger in %s: %w", dir, os.ErrNotExist)
	}
	return nil
}

func readTrades(r io.Reader, fn func(LedgerTrade) error) error {
	br := bufio.NewReaderSize(r, 256<<10)
	names := make(map[string]string)
	for n := 1; ; n++ {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return nil // a rest without newline is being written
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if line[0] == '#' {
			continue
		}
		t, err := parseTrade(line[:len(line)-1], names)
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if err := fn(t); err != nil {
			return err
		}
	}
}

// parseTrade reads one trade line; names interns venues and symbols.
func parseTrade(line []byte, names map[string]string) (t LedgerTrade, err error) {
	var f [8][]byte
	n := 0
	for n < len(f) {
		i := bytes.IndexByte(line, '\t')
		if i < 0 {
			f[n] = line
			n++
			break
		}
		f[n], line = line[:i], line[i+1:]
		n++
	}
	if n != 7 {
		return t, fmt.Errorf("want 7 fields, found %d", n)
	}
	intern := func(b []byte) string {
		s, ok := names[string(b)]
		if !ok {
			s = string(b)
			names[s] = s
		}
		return s
	}
	t.Venue, t.Symbol = intern(f[0]), intern(f[1])
	if t.ID, err = strconv.ParseUint(string(f[2]), 10, 64); err != nil {
		return t, fmt.Errorf("reading the trade id: %w", err)
	}
	if t.Price, err = event.ParseDecimal(f[3]); err != nil {
		return t, fmt.Errorf("reading price %q: %w", f[3], err)
	}
	if t.Qty, err = event.ParseDecimal(f[4]); err != nil {
		return t, fmt.Errorf("reading quantity %q: %w", f[4], err)
	}
	switch string(f[5]) {
	case "buy":
		t.Aggressor = event.Buy
	case "sell":
		t.Aggressor = event.Sell
	default:
		return t, fmt.Errorf("reading side %q: want buy or sell", f[5])
	}
	if t.Time, err = strconv.ParseInt(string(f[6]), 10, 64); err != nil {
		return t, fmt.Errorf("reading the time: %w", err)
	}
	return t, nil
}

// ledgerState is what a symbol needs to go on after a restart.
type ledgerState struct {
	venue, name string
	next        uint64 // the next trade id
	updates     uint64 // all update ids below this may have been used
	// The last trade; its time is 0 when there was none.
	price, qty string
	sell       bool
	time       int64
}

func (s *ledgerState) append(dst []byte) []byte {
	dst = append(dst, stateMark...)
	dst = append(dst, s.venue...)
	dst = append(dst, '\t')
	dst = append(dst, s.name...)
	dst = append(dst, '\t')
	dst = strconv.AppendUint(dst, s.next, 10)
	dst = append(dst, '\t')
	dst = strconv.AppendUint(dst, s.updates, 10)
	dst = append(dst, '\t')
	dst = append(dst, s.price...)
	dst = append(dst, '\t')
	dst = append(dst, s.qty...)
	dst = append(dst, '\t')
	dst = append(dst, sideName(s.sell)...)
	dst = append(dst, '\t')
	dst = strconv.AppendInt(dst, s.time, 10)
	return append(dst, '\n')
}

func parseState(line string) (s ledgerState, err error) {
	f := strings.Split(strings.TrimPrefix(line, stateMark), "\t")
	if len(f) != 8 {
		return s, fmt.Errorf("want 8 fields of state, found %d", len(f))
	}
	s.venue, s.name, s.price, s.qty, s.sell = f[0], f[1], f[4], f[5], f[6] == "sell"
	if s.next, err = strconv.ParseUint(f[2], 10, 64); err != nil {
		return s, fmt.Errorf("reading the next trade id: %w", err)
	}
	if s.updates, err = strconv.ParseUint(f[3], 10, 64); err != nil {
		return s, fmt.Errorf("reading the update id: %w", err)
	}
	if s.time, err = strconv.ParseInt(f[7], 10, 64); err != nil {
		return s, fmt.Errorf("reading the time: %w", err)
	}
	return s, nil
}

func sideName(sell bool) string {
	if sell {
		return "sell"
	}
	return "buy"
}

// ledger appends to the file. It is used by the market loop only.
type ledger struct {
	dir      string
	f        *os.File
	lock     *os.File
	buf      []byte
	size     int64
	since    int64 // bytes written since the last checkpoint
	maxBytes int64
	repaired int64 // bytes of a half-written line that open removed
}

// openLedger opens or creates the ledger, cuts off what a kill left half-written
// and returns the state of every symbol at its end.
func openLedger(dir string, maxBytes int64) (*ledger, map[string]ledgerState, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, nil, fmt.Errorf("creating the simulator's folder: %w", err)
	}
	l := &ledger{dir: dir, maxBytes: maxBytes}
	var err error
	if l.lock, err = os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, nil, fmt.Errorf("opening the ledger's lock: %w", err)
	}
	if err = unix.Flock(int(l.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = l.lock.Close()
		return nil, nil, fmt.Errorf("locking the ledger in %s: another simulator writes it: %w", dir, err)
	}
	states, err := l.open()
	if err != nil {
		_ = l.close()
		return nil, nil, err
	}
	return l, states, nil
}

func (l *ledger) open() (map[string]ledgerState, error) {
	path := filepath.Join(l.dir, ledgerName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the ledger: %w", err)
	}
	l.f = f
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening the ledger: %w", err)
	}
	size, err := lastLineEnd(f, info.Size())
	if err != nil {
		return nil, fmt.Errorf("repairing %s: %w", path, err)
	}
	if size < info.Size() {
		l.repaired = info.Size() - size
		if err := f.Truncate(size); err != nil {
			return nil, fmt.Errorf("repairing %s: %w", path, err)
		}
	}
	var states map[string]ledgerState
	if size == 0 {
		// Either the first start, or a kill between the two steps of a
		// change of files: then the older file has the state.
		if states, err = olderStates(l.dir); err != nil {
			return nil, err
		}
	} else if states, err = readStates(f, size); err != nil {
		return nil, fmt.Errorf("reading the state from the end of %s: %w", path, err)
	}
	if _, err := f.Seek(size, io.SeekStart); err != nil {
		return nil, fmt.Errorf("opening the ledger: %w", err)
	}
	l.size = size
	l.checkpoint(states)
	return states, l.flush()
}

func olderStates(dir string) (map[string]ledgerState, error) {
	path := filepath.Join(dir, olderName)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return map[string]ledgerState{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening the older ledger: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening the older ledger: %w", err)
	}
	states, err := readStates(f, info.Size())
	if err != nil {
		return nil, fmt.Errorf("reading the state from the end of %s: %w", path, err)
	}
	return states, nil
}

// lastLineEnd returns the offset after the last newline of the file.
func lastLineEnd(f *os.File, size int64) (int64, error) {
	buf := make([]byte, 64<<10)
	for end := size; end > 0; {
		start := max(0, end-int64(len(buf)))
		b := buf[:end-start]
		if _, err := f.ReadAt(b, start); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
			return start + int64(i) + 1, nil
		}
		end = start
	}
	return 0, nil
}

// readStates finds the last whole checkpoint before size, which ends a line, and
// reads forward from there.
func readStates(f *os.File, size int64) (map[string]ledgerState, error) {
	for window := int64(2 * checkpointBytes); ; window *= 2 {
		start := max(0, size-window)
		b := make([]byte, size-start)
		if _, err := f.ReadAt(b, start); err != nil {
			return nil, err
		}
		for end := len(b); ; {
			i := bytes.LastIndex(b[:end], []byte(checkMark))
			if i < 0 {
				break
			}
			if i == 0 && start == 0 || i > 0 && b[i-1] == '\n' {
				if whole(b[i:]) {
					return forward(b[i:], start+int64(i))
				}
			}
			end = i
		}
		if start == 0 {
			return nil, errors.New("it has no checkpoint: it is not a ledger of the simulator")
		}
	}
}

// whole reports whether all states of the checkpoint that b begins with are there.
func whole(b []byte) bool {
	head, rest, _ := bytes.Cut(b, []byte{'\n'})
	n, err := strconv.Atoi(string(head[len(checkMark):]))
	if err != nil {
		return false
	}
	for ; n > 0; n-- {
		if !bytes.HasPrefix(rest, []byte(stateMark)) {
			return false
		}
		var ok bool
		if _, rest, ok = bytes.Cut(rest, []byte{'\n'}); !ok {
			return false
		}
	}
	return true
}

func forward(b []byte, at int64) (map[string]ledgerState, error) {
	states := make(map[string]ledgerState)
	names := make(map[string]string)
	for len(b) > 0 {
		line, rest, _ := bytes.Cut(b, []byte{'\n'})
		switch {
		case bytes.HasPrefix(line, []byte(stateMark)):
			s, err := parseState(string(line))
			if err != nil {
				return nil, fmt.Errorf("byte %d: %w", at, err)
			}
			states[s.venue+"|"+s.name] = s
		case len(line) == 0 || line[0] == '#':
		default:
			t, err := parseTrade(line, names)
			if err != nil {
				return nil, fmt.Errorf("byte %d: %w", at, err)
			}
			key := t.Venue + "|" + t.Symbol
			s, ok := states[key]
			if !ok || s.next != t.ID {
				return nil, fmt.Errorf("byte %d: trade %d of %s, want %d", at, t.ID, key, s.next)
			}
			s.next, s.time, s.sell = t.ID+1, t.Time, t.Aggressor == event.Sell
			s.price, s.qty = t.Price.String(), t.Qty.String()
			states[key] = s
		}
		at += int64(len(line)) + 1
		b = rest
	}
	return states, nil
}

// checkpoint appends all states to the buffer.
func (l *ledger) checkpoint(states map[string]ledgerState) {
	l.buf = append(l.buf, checkMark...)
	l.buf = strconv.AppendInt(l.buf, int64(len(states)), 10)
	l.buf = append(l.buf, '\n')
	keys := make([]string, 0, len(states))
	for k := range states {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		s := states[k]
		l.buf = s.append(l.buf)
	}
	l.since = 0
}

// flush hands the buffer to the kernel, where it survives a kill of the process.
func (l *ledger) flush() error {
	if len(l.buf) == 0 {
		return nil
	}
	n, err := l.f.Write(l.buf)
	l.size += int64(n)
	l.since += int64(n)
	l.buf = l.buf[:0]
	if err != nil {
		return fmt.Errorf("writing the ledger: %w", err)
	}
	return nil
}

// due reports whether it is time for a checkpoint.
func (l *ledger) due() bool { return l.since >= checkpointBytes }

// turn begins a new file when the present one is over its limit; the checkpoint
// that opens it follows in the buffer.
func (l *ledger) turn() error {
	if l.maxBytes == 0 || l.size < l.maxBytes {
		return nil
	}
	path := filepath.Join(l.dir, ledgerName)
	if err := os.Rename(path, filepath.Join(l.dir, olderName)); err != nil {
		return fmt.Errorf("turning the ledger: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("turning the ledger: %w", err)
	}
	err = l.f.Close()
	l.f, l.size = f, 0
	if err != nil {
		return fmt.Errorf("turning the ledger: %w", err)
	}
	return nil
}

func (l *ledger) close() error {
	var err error
	if l.f != nil {
		err = l.f.Close()
	}
	if cerr := l.lock.Close(); err == nil {
		err = cerr
	}
	return err
}

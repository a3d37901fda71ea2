package execution

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// board is the kill switch of a running engine: halted when the latch, the file or
// control says so, or when one of them cannot be read.
//
// The latch is set before anything is waited for, and no broker call holds a lock: a
// send counts itself in flight, then looks at the latch, so that once a halt has set the
// latch every send either sees it or is counted.
type board struct {
	env  component.Env
	file haltFile
	// publish appends to control and waits for the acknowledgement.
	publish func(context.Context, *event.Control) error
	gauge   prometheus.Gauge
	// findScope writes a scope as what there is is written, an error where it means
	// nothing; nil takes every scope as it is.
	findScope func(scope string) (string, error)
	// instrumentName is the normal form of an instrument, or empty.
	instrumentName func(venue, symbol string) string
	// unprotected lists the positions of a scope.
	unprotected func(scope string) []string

	latch    atomic.Pointer[haltSet] // never changed, only replaced
	inFlight atomic.Int64

	acts sync.Mutex // one halt or resume at a time, behind the latch

	mu         sync.RWMutex // never held while anything is waited for
	inFile     haltSet
	fileErr    error
	fileStamp  fileStamp
	control    haltSet
	controlErr error
	// own are the control records of this process that its follower has not seen yet,
	// with who waits for that.
	own map[event.ID]chan struct{}
}

func newBoard(path string, env component.Env, gauge prometheus.Gauge) *board {
	b := &board{instrumentName: func(string, string) string { return "" }, env: env, file: haltFile(path), gauge: gauge, inFile: haltSet{}, control: haltSet{}, own: make(map[event.ID]chan struct{})}
	b.latch.Store(&haltSet{})
	b.refresh()
	return b
}

// refresh reads the file again if it is not the one that was read last.
func (b *board) refresh() {
	stamp := b.file.stamp()
	b.mu.RLock()
	same := stamp == b.fileStamp && stamp.err == nil
	b.mu.RUnlock()
	if same {
		return
	}
	halts, err := b.file.read()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inFile, b.fileErr, b.fileStamp = halts, err, stamp
	b.showLocked()
}

// showLocked sets the gauge.
func (b *board) showLocked() {
	if len(*b.latch.Load())+len(b.inFile)+len(b.control) > 0 || b.fileErr != nil || b.controlErr != nil {
		b.gauge.Set(1)
	} else {
		b.gauge.Set(0)
	}
}

// blocked returns why an order is refused now, or nothing; reduces says that it only
// reduces a position.
func (b *board) blocked(account, venue, symbol string, reduces bool) string {
	name := b.instrumentName(venue, symbol)
	if h, ok := b.latch.Load().match(account, venue, symbol, name, reduces); ok {
		return h.String()
	}
	b.refresh()
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.fileErr != nil {
		return fmt.Sprintf("the halt file is not readable: %v", b.fileErr)
	}
	if b.controlErr != nil {
		return fmt.Sprintf("control is not readable: %v", b.controlErr)
	}
	for _, s := range []haltSet{b.inFile, b.control} {
		if h, ok := s.match(account, venue, symbol, name, reduces); ok {
			return h.String()
		}
	}
	return ""
}

// send calls f, which hands an order to its broker, unless the order is halted, and
// returns why it is.
func (b *board) send(account, venue, symbol string, reduces bool, f func()) string {
	b.inFlight.Add(1) // before the look at the latch, see board
	defer b.inFlight.Add(-1)
	if why := b.blocked(account, venue, symbol, reduces); why != "" {
		return why
	}
	f()
	return ""
}

// setLatch adds a halt to the latch at once.
func (b *board) setLatch(h Halt) {
	for {
		old := b.latch.Load()
		next := old.with(h)
		if b.latch.CompareAndSwap(old, &next) {
			return
		}
	}
}

// clearLatch lifts what a resume lifts.
func (b *board) clearLatch(scope string, at int64) {
	for {
		old := b.latch.Load()
		next := haltSet{}
		for k, h := range *old {
			next[k] = h
		}
		next.clear(scope, at)
		if b.latch.CompareAndSwap(old, &next) {
			return
		}
	}
}

// haltRequest is one request to halt.
type haltRequest struct {
	scope, who, why string
	level           event.HaltLevel
	whence          string // engine, socket
}

// halt sets the latch, then writes the file, then control. It fails only when
// the request makes no sense: what could not be written is a warning, the latch
// holds.
func (b *board) halt(ctx context.Context, q haltRequest) (HaltReport, error) {
	if err := checkRequest(q.scope, q.who, q.why); err != nil {
		return HaltReport{}, err
	}
	scope, err := b.resolve(q.scope)
	if err != nil {
		return HaltReport{}, fmt.Errorf("halting: %w", err)
	}
	h := Halt{Scope: scope, Who: q.who, Why: q.why, Time: b.env.Clock.Now().UnixNano(), Level: q.level}
	b.setLatch(h)
	r := HaltReport{Engine: true, InFlight: int(b.inFlight.Load())}
	b.mu.Lock()
	b.showLocked()
	b.mu.Unlock()

	b.acts.Lock()
	defer b.acts.Unlock()
	r.File, r.Control = true, true
	b.env.Log.Warn("halted", "scope", h.Scope, "level", h.Level.String(), "who", h.Who, "whence", q.whence, "why", h.Why, "in_flight", r.InFlight)
	if err := b.file.add(h); err != nil {
		r.File = false
		r.Warnings = append(r.Warnings, fmt.Sprintf("the halt file could not be written, so a restart may not know of the halt: %v", err))
	}
	c := controlRecord(event.ControlHalt, h)
	b.mu.Lock()
	b.own[c.ID] = nil
	b.mu.Unlock()
	if err := b.publish(ctx, c); err != nil {
		r.Control = false
		r.Warnings = append(r.Warnings, fmt.Sprintf("control could not be written, so other processes do not know of the halt: %v", err))
	}
	if h.Level != event.HaltReduce && b.unprotected != nil {
		r.Unprotected = b.unprotected(h.Scope)
	}
	b.refresh()
	r.Halts = b.list()
	return r, nil
}

// resolve writes a scope as what there is is written.
func (b *board) resolve(scope string) (string, error) {
	if scope == ScopeAll || b.findScope == nil {
		return scope, nil
	}
	return b.findScope(scope)
}

// resume writes control and waits until it has followed its own record there, which
// lifts what control says in the order of the log: a halt that came later stays. Then
// the file and the latch are lifted, as far as they are older. If it fails on the way
// everything is still halted.
func (b *board) resume(ctx context.Context, scope, who, why, whence string) (HaltReport, error) {
	if err := checkRequest(scope, who, why); err != nil {
		return HaltReport{}, err
	}
	b.acts.Lock()
	defer b.acts.Unlock()
	scope, err := b.haltedScope(scope)
	if err != nil {
		return HaltReport{Halts: b.list()}, err
	}
	h := Halt{Scope: scope, Who: who, Why: why, Time: b.env.Clock.Now().UnixNano()}
	c := controlRecord(event.ControlResume, h)
	applied := make(chan struct{})
	b.mu.Lock()
	b.own[c.ID] = applied
	b.mu.Unlock()
	if err := b.publish(ctx, c); err != nil {
		return HaltReport{Halts: b.list()}, fmt.Errorf("resuming: nothing changed, for control could not be written: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	select {
	case <-applied:
	case <-wait.Done():
		return HaltReport{Halts: b.list()}, errors.New("resuming: still halted: control was written, and has not come back yet; look again with halt --status")
	}
	r := HaltReport{Halts: b.list(), Engine: true, File: true, Control: true}
	b.env.Log.Warn("resumed", "scope", scope, "who", who, "whence", whence, "why", why, "still_halted", len(r.Halts))
	for _, left := range r.Halts {
		if scope == ScopeAll || left.Scope == scope {
			r.Warnings = append(r.Warnings, fmt.Sprintf("still halted: %s (%s)", left, left.Source))
		}
	}
	return r, nil
}

// haltedScope finds the scope that a resume means among those that are halted, in any
// case of letters or as the instrument's normal form.
func (b *board) haltedScope(scope string) (string, error) {
	if scope == ScopeAll {
		return scope, nil
	}
	wanted := []string{scope}
	if found, err := b.resolve(scope); err == nil {
		wanted = append(wanted, found)
	}
	var there []string
	for _, h := range b.list() {
		for _, w := range wanted {
			if strings.EqualFold(h.Scope, w) {
				return h.Scope, nil
			}
		}
		there = append(there, h.Scope)
	}
	slices.Sort(there)
	if there = slices.Compact(there); len(there) == 0 {
		return "", fmt.Errorf("resuming %s: nothing is halted", scope)
	}
	return "", fmt.Errorf("resuming %s: that is not halted; these are: %s", scope, strings.Join(there, ", "))
}

// list returns every halt, of every source.
func (b *board) list() []Halt {
	b.refresh()
	b.mu.RLock()
	defer b.mu.RUnlock()
	out := slices.Concat([]Halt{}, b.latch.Load().list("latch"), b.inFile.list("file"), b.control.list("control"))
	now := b.env.Clock.Now().UnixNano()
	if b.fileErr != nil {
		out = append(out, Halt{Scope: ScopeAll, Who: "engine", Why: fmt.Sprintf("the halt file is not readable: %v", b.fileErr), Time: now, Source: "file"})
	}
	if b.controlErr != nil {
		out = append(out, Halt{Scope: ScopeAll, Who: "engine", Why: fmt.Sprintf("control is not readable: %v", b.controlErr), Time: now, Source: "control"})
	}
	return out
}

// apply takes a record of control, in the order of the log. Only records that come
// while the engine runs lift the latch and the file: a restart never resumes.
func (b *board) apply(rec bus.Record, running bool) {
	where := fmt.Sprintf("control/%d at offset %d", rec.Partition, rec.Offset)
	c, err := event.DecodeAs[*event.Control](rec.Value)
	if err != nil {
		h := unreadableControl(&rec, err)
		b.mu.Lock()
		b.control[ScopeAll] = h
		b.showLocked()
		b.mu.Unlock()
		b.env.Log.Error("halted", "scope", h.Scope, "who", h.Who, "whence", where, "why", h.Why)
		return
	}
	if c.Kind != event.ControlHalt && c.Kind != event.ControlResume {
		return
	}
	b.mu.Lock()
	foldControl(b.control, c)
	if c.Kind == event.ControlResume && c.Scope == ScopeAll {
		b.controlErr = nil
	}
	applied, own := b.own[c.ID]
	delete(b.own, c.ID)
	b.mu.Unlock()
	if c.Kind == event.ControlResume && running {
		b.clearLatch(c.Scope, c.Time)
		if err := b.file.clear(c.Scope, c.Time); err != nil {
			b.env.Log.Error("staying halted by the file after a resume", "err", err)
		}
	}
	b.mu.Lock()
	b.fileStamp = fileStamp{} // the next refresh reads what the file says now
	b.showLocked()
	b.mu.Unlock()
	b.refresh()
	if applied != nil {
		close(applied)
	}
	if own || !running {
		return
	}
	say := []any{"scope", c.Scope, "level", c.Level.String(), "who", c.Who, "whence", where, "why", c.Why}
	if c.Kind == event.ControlHalt {
		b.env.Log.Warn("halted", say...)
	} else {
		b.env.Log.Warn("resumed", say...)
	}
}

// fail notes that control cannot be read any more.
func (b *board) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.controlErr = err
	b.showLocked()
}

// logHalts logs what is halted at a start.
func (b *board) logHalts() {
	for _, h := range b.list() {
		b.env.Log.Warn("halted since before the start", "scope", h.Scope, "level", h.Level.String(), "who", h.Who, "whence", h.Source, "why", h.Why)
	}
}

// wrong says what is halted, for /health.
func (b *board) wrong() string {
	halts := b.list()
	if len(halts) == 0 {
		return ""
	}
	return fmt.Sprintf("halted: %s (%s)", halts[0], halts[0].Source)
}

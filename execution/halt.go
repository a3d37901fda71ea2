package execution

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// ScopeAll halts everything; account:NAME and symbol:SYMBOL (or
// symbol:VENUE|SYMBOL) halt a part.
const ScopeAll = "all"

const (
	scopeAccount = "account:"
	scopeSymbol  = "symbol:"
)

// Halt is one reason why orders are refused.
type Halt struct {
	Scope string `json:"scope"`
	Who   string `json:"who"`
	Why   string `json:"why"`
	Time  int64  `json:"time"` // Unix nanoseconds
	// Source is where it stands: latch (in the running engine), file or control.
	Source string `json:"source,omitempty"`
}

func (h Halt) String() string { return fmt.Sprintf("%s by %s: %s", h.Scope, h.Who, h.Why) }

// HaltReport is the state of the kill switch after a request.
type HaltReport struct {
	Halts []Halt `json:"halts"`
	// Engine, File and Control say where the request was carried out.
	Engine  bool `json:"engine"`
	File    bool `json:"file"`
	Control bool `json:"control"`
	// Warnings tell what could not be reached, though the request holds.
	Warnings []string `json:"warnings,omitempty"`
}

// CheckScope reports whether a scope can be halted.
func CheckScope(scope string) error {
	account, isAccount := strings.CutPrefix(scope, scopeAccount)
	symbol, isSymbol := strings.CutPrefix(scope, scopeSymbol)
	if scope == ScopeAll || (isAccount && account != "") || (isSymbol && symbol != "") {
		return nil
	}
	return fmt.Errorf("unknown scope %q: want all, account:NAME or symbol:SYMBOL", scope)
}

// checkRequest reports whether who and why were given.
func checkRequest(scope, who, why string) error {
	if err := CheckScope(scope); err != nil {
		return err
	}
	if strings.TrimSpace(who) == "" || strings.TrimSpace(why) == "" {
		return errors.New("a halt or resume needs a name and a reason")
	}
	return nil
}

// haltSet is what one source says: by scope, the newest halt.
type haltSet map[string]Halt

// clear removes what a resume of that scope at that time lifts: the same scope,
// or every one for all; a halt that came later stays.
func (s haltSet) clear(scope string, at int64) {
	for k, h := range s {
		if (scope == ScopeAll || scope == k) && h.Time <= at {
			delete(s, k)
		}
	}
}

// match returns the halt that covers an order, all first.
func (s haltSet) match(account, venue, symbol string) (Halt, bool) {
	if len(s) == 0 {
		return Halt{}, false
	}
	for _, scope := range []string{ScopeAll, scopeAccount + account, scopeSymbol + symbol, scopeSymbol + venue + "|" + symbol} {
		if h, ok := s[scope]; ok {
			return h, true
		}
	}
	return Halt{}, false
}

func (s haltSet) list(source string) []Halt {
	out := make([]Halt, 0, len(s))
	for _, h := range s {
		h.Source = source
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b Halt) int { return strings.Compare(a.Scope, b.Scope) })
	return out
}

// board is the kill switch of a running engine: halted when the latch, the file
// or control says so, or when one of them cannot be read. Senders hold it for
// reading while they send, so that once halt has returned nothing is sent.
type board struct {
	env  component.Env
	file haltFile
	// publish appends to control and waits for the acknowledgement.
	publish func(context.Context, *event.Control) error
	gauge   prometheus.Gauge

	acts sync.Mutex // one halt or resume at a time

	mu         sync.RWMutex
	latch      haltSet
	inFile     haltSet
	fileErr    error
	fileStamp  fileStamp
	control    haltSet
	controlErr error
}

func newBoard(path string, env component.Env, gauge prometheus.Gauge) *board {
	b := &board{env: env, file: haltFile(path), gauge: gauge, latch: haltSet{}, inFile: haltSet{}, control: haltSet{}}
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
	b.show()
}

// show sets the gauge; b.mu is held.
func (b *board) show() {
	if len(b.latch)+len(b.inFile)+len(b.control) > 0 || b.fileErr != nil || b.controlErr != nil {
		b.gauge.Set(1)
	} else {
		b.gauge.Set(0)
	}
}

// covers returns why an order is halted, or nothing; b.mu is held.
func (b *board) covers(account, venue, symbol string) string {
	if b.fileErr != nil {
		return fmt.Sprintf("the halt file is not readable: %v", b.fileErr)
	}
	if b.controlErr != nil {
		return fmt.Sprintf("control is not readable: %v", b.controlErr)
	}
	for _, s := range []haltSet{b.latch, b.inFile, b.control} {
		if h, ok := s.match(account, venue, symbol); ok {
			return h.String()
		}
	}
	return ""
}

// halted returns why an order would be refused now, or nothing.
func (b *board) halted(account, venue, symbol string) string {
	b.refresh()
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.covers(account, venue, symbol)
}

// send calls f unless the order is halted, and returns why it is. A halt that
// begins meanwhile waits until f has returned.
func (b *board) send(account, venue, symbol string, f func()) string {
	b.refresh()
	b.mu.RLock()
	defer b.mu.RUnlock()
	if why := b.covers(account, venue, symbol); why != "" {
		return why
	}
	f()
	return ""
}

// halt sets the latch, then writes the file, then control. It fails only when
// the request makes no sense: what could not be written is a warning, the latch
// holds.
func (b *board) halt(ctx context.Context, scope, who, why string) (HaltReport, error) {
	if err := checkRequest(scope, who, why); err != nil {
		return HaltReport{}, err
	}
	b.acts.Lock()
	defer b.acts.Unlock()
	h := Halt{Scope: scope, Who: who, Why: why, Time: b.env.Clock.Now().UnixNano()}
	b.mu.Lock()
	b.latch[scope] = h
	b.show()
	b.mu.Unlock()
	b.env.Log.Warn("halted", "scope", scope, "who", who, "why", why)

	r := HaltReport{Engine: true}
	if err := b.file.add(h); err != nil {
		r.Warnings = append(r.Warnings, fmt.Sprintf("the halt file could not be written, so a restart may not know of the halt: %v", err))
	} else {
		r.File = true
	}
	b.refresh()
	if err := b.publish(ctx, controlRecord(event.ControlHalt, h)); err != nil {
		r.Warnings = append(r.Warnings, fmt.Sprintf("control could not be written, so other processes do not know of the halt: %v", err))
	} else {
		r.Control = true
	}
	r.Halts = b.list()
	return r, nil
}

// resume writes control, then the file, then clears the latch: if it fails on the
// way everything is still halted.
func (b *board) resume(ctx context.Context, scope, who, why string) (HaltReport, error) {
	if err := checkRequest(scope, who, why); err != nil {
		return HaltReport{}, err
	}
	b.acts.Lock()
	defer b.acts.Unlock()
	h := Halt{Scope: scope, Who: who, Why: why, Time: b.env.Clock.Now().UnixNano()}
	if err := b.publish(ctx, controlRecord(event.ControlResume, h)); err != nil {
		return HaltReport{Halts: b.list()}, fmt.Errorf("resuming: nothing changed, for control could not be written: %w", err)
	}
	if err := b.file.clear(scope, h.Time); err != nil {
		return HaltReport{Halts: b.list()}, fmt.Errorf("resuming: still halted by the file: %w", err)
	}
	b.mu.Lock()
	b.latch.clear(scope, h.Time)
	b.control.clear(scope, h.Time)
	if scope == ScopeAll {
		b.controlErr = nil
	}
	b.mu.Unlock()
	b.refresh()
	b.mu.Lock()
	b.show()
	b.mu.Unlock()
	b.env.Log.Warn("resumed", "scope", scope, "who", who, "why", why)
	return HaltReport{Halts: b.list(), Engine: true, File: true, Control: true}, nil
}

// list returns every halt, of every source.
func (b *board) list() []Halt {
	b.refresh()
	b.mu.RLock()
	defer b.mu.RUnlock()
	out := slices.Concat(b.latch.list("latch"), b.inFile.list("file"), b.control.list("control"))
	if b.fileErr != nil {
		out = append(out, Halt{Scope: ScopeAll, Who: "engine", Why: fmt.Sprintf("the halt file is not readable: %v", b.fileErr), Source: "file"})
	}
	if b.controlErr != nil {
		out = append(out, Halt{Scope: ScopeAll, Who: "engine", Why: fmt.Sprintf("control is not readable: %v", b.controlErr), Source: "control"})
	}
	return out
}

// apply takes a record of control. Only records that come while the engine runs
// lift the latch and the file: a restart never resumes.
func (b *board) apply(rec bus.Record, running bool) {
	c, err := event.DecodeAs[*event.Control](rec.Value)
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.show()
	if err != nil {
		h := unreadableControl(&rec, err)
		b.control[ScopeAll] = h
		b.env.Log.Error("halted", "scope", h.Scope, "who", h.Who, "whence", "control", "why", h.Why)
		return
	}
	foldControl(b.control, c)
	if c.Kind != event.ControlResume {
		return
	}
	if c.Scope == ScopeAll {
		b.controlErr = nil
	}
	if running {
		b.latch.clear(c.Scope, c.Time)
		if err := b.file.clear(c.Scope, c.Time); err != nil {
			b.env.Log.Error("staying halted by the file after a resume", "err", err)
		}
		// The next refresh reads what the file says now.
		b.fileStamp = fileStamp{}
	}
}

// unreadableControl is the halt of everything that a record of control means that
// cannot be read: it may have been a halt. A resume of everything lifts it, as does
// skipping the record.
func unreadableControl(rec *bus.Record, err error) Halt {
	return Halt{Scope: ScopeAll, Who: "engine", Why: fmt.Sprintf("control/%d holds a record at offset %d that cannot be read: %v; go on: autohedge resume --why \"...\", or for good: "+
		"autohedge topics skip control/%d --at %d --why \"...\"", rec.Partition, rec.Offset, err, rec.Partition, rec.Offset)}
}

// fail notes that control cannot be read any more.
func (b *board) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.controlErr = err
	b.show()
}

// foldControl applies one record to what control says; the log's order decides.
func foldControl(s haltSet, c *event.Control) {
	switch c.Kind {
	case event.ControlHalt:
		s[c.Scope] = Halt{Scope: c.Scope, Who: c.Who, Why: c.Why, Time: c.Time}
	case event.ControlResume:
		s.clear(c.Scope, 1<<63-1)
	}
}

func controlRecord(kind event.ControlKind, h Halt) *event.Control {
	return &event.Control{
		ID:   event.HashStrings("control", kind.String(), h.Scope, h.Who, h.Why, strconv.FormatInt(h.Time, 10)),
		Kind: kind, Scope: h.Scope, Who: h.Who, Why: h.Why, Time: h.Time,
	}
}

// controlTimeout bounds how long a halt waits for Kafka; the latch and the file
// hold by then.
const controlTimeout = 3 * time.Second

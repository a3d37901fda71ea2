package execution

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
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
	// Level is reduce (entries are refused and withdrawn, what only reduces a position
	// passes) or stop (nothing is sent). Unset is stop: halts of former builds were.
	Level event.HaltLevel `json:"level,omitempty"`
	// Source is where it is: latch (in the running engine), file or control.
	Source string `json:"source,omitempty"`
}

func (h Halt) String() string {
	return fmt.Sprintf("%s by %s: %s", h.Scope, h.Who, h.Why)
}

// blocks reports whether the halt refuses an order that only reduces, or does not.
func (h Halt) blocks(reduces bool) bool { return !reduces || h.Level != event.HaltReduce }

// HaltReport is the state of the kill switch after a request.
type HaltReport struct {
	Halts []Halt `json:"halts"`
	// Engine, File and Control say where the request was carried out.
	Engine  bool `json:"engine"`
	File    bool `json:"file"`
	Control bool `json:"control"`
	// InFlight is how many orders were on their way to their brokers when the halt took
	// effect: they cannot be called back, and are canceled once they are known.
	InFlight int `json:"in_flight"`
	// Unprotected are the positions, account|venue|symbol and quantity, that a halt of
	// level stop leaves without protection.
	Unprotected []string `json:"unprotected,omitempty"`
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
		if (scope == ScopeAll || strings.EqualFold(scope, k)) && h.Time <= at {
			delete(s, k)
		}
	}
}

// match returns a halt that refuses an order, that of all first; name is the normal
// form of its instrument.
func (s haltSet) match(account, venue, symbol, name string, reduces bool) (found Halt, ok bool) {
	for scope, h := range s {
		if h.blocks(reduces) && covers(scope, account, venue, symbol, name) && (!ok || scope < found.Scope) {
			found, ok = h, true
		}
	}
	return found, ok
}

// with returns the set with one more halt; a reduce does not weaken a stop.
func (s haltSet) with(h Halt) haltSet {
	next := maps.Clone(s)
	if old, ok := next[h.Scope]; ok && old.Level != event.HaltReduce && h.Level == event.HaltReduce {
		h.Level = old.Level
	}
	next[h.Scope] = h
	return next
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

// unreadableControl is the halt of everything that a record of control means that
// cannot be read: it may have been a halt. A resume of everything lifts it, as does
// skipping the record.
func unreadableControl(rec *bus.Record, err error) Halt {
	return Halt{Scope: ScopeAll, Who: "engine", Why: fmt.Sprintf("control/%d holds a record at offset %d that cannot be read: %v; go on: autohedge resume --why \"...\", or for good: "+
		"autohedge topics skip control/%d --at %d --why \"...\"", rec.Partition, rec.Offset, err, rec.Partition, rec.Offset)}
}

// foldControl applies one record to what control says; the log's order decides.
func foldControl(s haltSet, c *event.Control) {
	switch c.Kind {
	case event.ControlHalt:
		maps.Copy(s, s.with(Halt{Scope: c.Scope, Who: c.Who, Why: c.Why, Time: c.Time, Level: c.Level}))
	case event.ControlResume:
		s.clear(c.Scope, 1<<63-1)
	}
}

func controlRecord(kind event.ControlKind, h Halt) *event.Control {
	return &event.Control{
		ID:   event.HashStrings("control", kind.String(), h.Scope, h.Who, h.Why, strconv.FormatInt(h.Time, 10)),
		Kind: kind, Scope: h.Scope, Who: h.Who, Why: h.Why, Time: h.Time, Level: h.Level,
	}
}

// controlTimeout bounds how long a halt waits for Kafka; the latch and the file
// hold by then.
const controlTimeout = 3 * time.Second

package signals

import (
	"strings"

	"github.com/autohedge/autohedge/signals/indicator"
	"github.com/autohedge/autohedge/stream/event"
)

// rule is a rule ready to run. It is not changed after compile.
type rule struct {
	canonicalRule
	hash event.ID
	// inert says why a stored rule cannot run here; nil for every other. Of an inert
	// rule only its name and hash are known.
	inert error
	place int // in its set
	// watch names the indicator with its parameters and source: rules with the
	// same watch share one indicator per instrument.
	watch string
	cfg   any    // parameters, as indicator.Factory.New takes them
	form  uint64 // of the indicator's state, see indicator.Factory.StateForm

	source    indicator.Source
	up        bool // fires above the threshold
	crossing  bool
	quiet     float64 // at or behind this value the rule is armed
	side      event.Side
	debounce  int64
	cooldown  int64
	horizon   int64
	ttl       int64
	drift     event.Decimal
	leastRuns int
}

// ruleState is what a rule remembers of one instrument.
type ruleState struct {
	armed bool
	fired bool  // at least once: last counts
	runs  int   // values in a row beyond the threshold
	since int64 // time of the first of them
	last  int64 // time of the last signal
}

// verdict is what a rule makes of a value.
type verdict uint8

const (
	silent     verdict = iota
	suppressed         // a crossing that the cooldown swallowed
	fire
)

// begin puts the state where nothing has been seen. The cooldown outlives it: a
// hole in the data is no reason to fire sooner.
func (r *rule) begin(s *ruleState) { *s = ruleState{armed: !r.crossing, fired: s.fired, last: s.last} }

// step takes the next value of the rule's indicator; now is receive time.
//
// Armed rules fire once the value has been beyond the threshold for as many
// values and as long as debounce demands, and are armed again once it came back
// to quiet, threshold less hysteresis. A crossing is armed only by a value on
// the quiet side, and one that completes within the cooldown is dropped; a level
// is armed from the start, and fires when the cooldown ends if it still holds.
func (r *rule) step(s *ruleState, value float64, now int64) verdict {
	var beyond bool
	if r.up {
		s.armed = s.armed || value <= r.quiet
		beyond = value > r.Threshold
	} else {
		s.armed = s.armed || value >= r.quiet
		beyond = value < r.Threshold
	}
	if !beyond {
		s.runs = 0
		return silent
	}
	// A receive time that goes back proves no time beyond the threshold: the
	// debounce is counted from there.
	if s.runs++; s.runs == 1 || now < s.since {
		s.since = now
	}
	if !s.armed || s.runs < r.leastRuns || now-s.since < r.debounce {
		return silent
	}
	if s.fired && within(now-s.last, r.cooldown) {
		if r.crossing {
			s.armed = false
			return suppressed
		}
		return silent
	}
	s.armed, s.fired, s.last = false, true, now
	return fire
}

// within reports whether less than the cooldown has passed. Receive time of two
// connections may go back a little, which is no passing of time; a clock that
// was set far back must not silence a rule until it has caught up, so that counts
// as passed.
func within(elapsed, cooldown int64) bool { return elapsed < cooldown && elapsed > -cooldown }

// evaluatesLike reports whether what the rule does with a tick is what the other
// does: then its state can go on under the other's name for it.
func (r *rule) evaluatesLike(other *rule) bool {
	return r.inert == nil && other.inert == nil && r.watch == other.watch && r.Direction == other.Direction && r.Threshold == other.Threshold &&
		r.Hysteresis == other.Hysteresis && r.debounce == other.debounce && r.leastRuns == other.leastRuns
}

// matches reports whether the rule runs and watches the instrument.
func (r *rule) matches(venue, symbol string) bool {
	return r.inert == nil && anyMatches(r.Venues, venue) && anyMatches(r.Symbols, symbol)
}

func anyMatches(patterns []string, s string) bool {
	for _, p := range patterns {
		if matchWildcard(p, s) {
			return true
		}
	}
	return len(patterns) == 0
}

// matchWildcard matches * to any text, the empty one too, and ? to one byte. Its
// time is bounded by the product of both lengths: only the last * is tried again.
func matchWildcard(pattern, s string) bool {
	p, i := 0, 0
	star, retry := -1, 0 // of the last *, and where in s what follows it was tried last
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, retry = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p, i = p+1, i+1
		case star >= 0:
			retry++
			p, i = star+1, retry
		default:
			return false
		}
	}
	return strings.TrimLeft(pattern[p:], "*") == ""
}

package indicator

import (
	"math"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// SpreadConfig sets up a Spread.
type SpreadConfig struct {
	Smooth int `yaml:"smooth" doc:"quotes of an exponential average over the spread; 1 takes every quote as it is"`
}

// Validate implements component.Validator.
func (c *SpreadConfig) Validate() component.Problems {
	var p component.Problems
	period(&p, "smooth", c.Smooth, 1)
	return p
}

func init() {
	register("spread", "quoted spread, in basis points of the mid", Factory{Sources: Quotes, StateForm: 1, Low: 0, High: math.Inf(1)}, SpreadConfig{Smooth: 1},
		func(c SpreadConfig) Indicator { return &Spread{avg: newAverage(c.Smooth)} })
}

// Spread is the proportional quoted spread, (ask - bid) / mid, in basis points
// (L. Harris, "Trading and Exchanges", 2003, chapter 14). It is negative while
// a book is crossed.
type Spread struct {
	avg average
	raw float64
}

// Update implements Indicator.
func (s *Spread) Update(t *Tick) (float64, bool) {
	mid := (t.Bid + t.Ask) / 2
	if !(t.Bid > 0 && t.Ask > 0) {
		return 0, false
	}
	s.raw = (t.Ask - t.Bid) / mid * bps
	ok := s.avg.add(s.raw)
	return s.avg.value, ok
}

// Values implements Indicator.
func (s *Spread) Values(dst []event.Value) []event.Value {
	return append(dst, event.Value{Name: "spread_bps", Value: s.avg.value}, event.Value{Name: "spread_bps_raw", Value: s.raw})
}

// Reset implements Indicator.
func (s *Spread) Reset() { s.avg.reset() }

// AppendState implements Indicator.
func (s *Spread) AppendState(dst []byte) []byte { return appendFloat(s.avg.appendState(dst), s.raw) }

// RestoreState implements Indicator.
func (s *Spread) RestoreState(r *StateReader) error {
	s.avg.restoreState(r)
	s.raw = r.Float()
	return r.Err()
}

package indicator

import (
	"encoding/binary"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// EMAConfig sets up an EMA.
type EMAConfig struct {
	Period int `yaml:"period" doc:"ticks of the (slow) average"`
	Fast   int `yaml:"fast" doc:"ticks of a fast average to compare with it; 0 compares the price itself"`
}

// Validate implements component.Validator.
func (c *EMAConfig) Validate() component.Problems {
	var p component.Problems
	period(&p, "period", c.Period, 1)
	if c.Fast != 0 {
		period(&p, "fast", c.Fast, 1)
		if c.Fast >= c.Period {
			p.Addf("fast", "is %d: want less than period (%d), or 0 for the price", c.Fast, c.Period)
		}
	}
	return p
}

func init() {
	register("ema", "distance of the price, or of a fast average, from an exponential moving average, in basis points",
		Factory{Sources: Trades | Quotes, StateForm: 1}, EMAConfig{Period: 20}, func(c EMAConfig) Indicator {
			return &EMA{slow: newAverage(c.Period), fast: newAverage(max(c.Fast, 1)), hasFast: c.Fast > 0}
		})
}

// average is an exponential moving average with alpha = 2/(n+1), which begins
// as the plain mean of its first n values (the convention of TA-Lib's EMA; the
// weight is that of J. S. Hunter, "The Exponentially Weighted Moving Average",
// Journal of Quality Technology 18(4), 1986).
type average struct {
	alpha float64
	value float64
	seen  int // up to period
	n     int
}

func newAverage(n int) average { return average{alpha: 2 / (float64(n) + 1), n: n} }

func (a *average) reset() { a.value, a.seen = 0, 0 }

// add returns whether the average is warmed up.
func (a *average) add(x float64) bool {
	if a.seen < a.n {
		a.seen++
		a.value += (x - a.value) / float64(a.seen)
		return a.seen == a.n
	}
	a.value += float64(a.alpha * (x - a.value))
	return true
}

func (a *average) appendState(dst []byte) []byte {
	return appendFloat(binary.AppendUvarint(dst, uint64(a.seen)), a.value)
}

func (a *average) restoreState(r *StateReader) {
	a.seen = r.Count(a.n)
	a.value = r.Float()
}

// EMA measures how far the price, or a fast average, lies from an exponential
// moving average, in basis points of the latter: a crossing of 0 is the price
// crossing the average, or the fast average the slow one.
type EMA struct {
	slow, fast average
	hasFast    bool
	value      float64
}

// Update implements Indicator.
func (e *EMA) Update(t *Tick) (float64, bool) {
	x := t.Price
	ok := e.slow.add(x)
	if e.hasFast {
		e.fast.add(x)
		x = e.fast.value
	}
	if !ok {
		return 0, false
	}
	e.value = (x - e.slow.value) / e.slow.value * bps
	return e.value, true
}

// Values implements Indicator.
func (e *EMA) Values(dst []event.Value) []event.Value {
	dst = append(dst, event.Value{Name: "ema_bps", Value: e.value}, event.Value{Name: "ema", Value: e.slow.value})
	if e.hasFast {
		dst = append(dst, event.Value{Name: "ema_fast", Value: e.fast.value})
	}
	return dst
}

// Reset implements Indicator.
func (e *EMA) Reset() {
	e.slow.reset()
	e.fast.reset()
}

// AppendState implements Indicator.
func (e *EMA) AppendState(dst []byte) []byte {
	return appendFloat(e.fast.appendState(e.slow.appendState(dst)), e.value)
}

// RestoreState implements Indicator.
func (e *EMA) RestoreState(r *StateReader) error {
	e.slow.restoreState(r)
	e.fast.restoreState(r)
	e.value = r.Float()
	return r.Err()
}

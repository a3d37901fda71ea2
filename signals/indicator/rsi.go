package indicator

import (
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// RSIConfig sets up an RSI.
type RSIConfig struct {
	Period int `yaml:"period" doc:"price changes that the averages remember"`
}

// Validate implements component.Validator.
func (c *RSIConfig) Validate() component.Problems {
	var p component.Problems
	period(&p, "period", c.Period, 2)
	return p
}

func init() {
	register("rsi", "Wilder's relative strength index, 0 to 100", Factory{Sources: Trades | Quotes, StateForm: 1, Low: 0, High: 100}, RSIConfig{Period: 14},
		func(c RSIConfig) Indicator { return &RSI{n: float64(c.Period), inverse: 1 / float64(c.Period)} })
}

// faded is the sum of averages, in units of price, below which decay stops.
const faded = 1e-100

// RSI is the relative strength index of J. Welles Wilder, "New Concepts in
// Technical Trading Systems", 1978: 100 * G / (G + L), where G and L are the
// averages of gains and losses, first the mean of period changes, then
// G = (G * (period-1) + gain) / period. No movement at all gives 50.
type RSI struct {
	n, inverse float64
	seen       float64 // changes, up to n
	last       float64 // 0 before the first price
	gain, loss float64
	value      float64
}

// Update implements Indicator.
func (r *RSI) Update(t *Tick) (float64, bool) {
	if r.last == 0 {
		r.last = t.Price
		return 0, false
	}
	d := t.Price - r.last
	r.last = t.Price
	var up, down float64
	if d > 0 {
		up = d
	} else {
		down = -d
	}
	if r.seen < r.n {
		r.seen++
		r.gain += (up - r.gain) / r.seen
		r.loss += (down - r.loss) / r.seen
		if r.seen < r.n {
			return 0, false
		}
	} else if d != 0 || r.gain+r.loss > faded {
		// An unchanged price scales both by the same factor and leaves their
		// ratio; once they are far below any tick, scaling on would only run
		// into denormal numbers, which are slow and lose that ratio.
		r.gain += float64((up - r.gain) * r.inverse)
		r.loss += float64((down - r.loss) * r.inverse)
	}
	if sum := r.gain + r.loss; sum > 0 {
		r.value = 100 * (r.gain / sum) // 100 exactly where nothing fell
	} else {
		r.value = 50
	}
	return r.value, true
}

// Values implements Indicator.
func (r *RSI) Values(dst []event.Value) []event.Value {
	return append(dst, event.Value{Name: "rsi", Value: r.value}, event.Value{Name: "avg_gain", Value: r.gain},
		event.Value{Name: "avg_loss", Value: r.loss})
}

// Reset implements Indicator.
func (r *RSI) Reset() { *r = RSI{n: r.n, inverse: r.inverse} }

// AppendState implements Indicator.
func (r *RSI) AppendState(dst []byte) []byte {
	for _, x := range [...]float64{r.seen, r.last, r.gain, r.loss, r.value} {
		dst = appendFloat(dst, x)
	}
	return dst
}

// RestoreState implements Indicator.
func (r *RSI) RestoreState(s *StateReader) error {
	r.seen, r.last, r.gain, r.loss, r.value = s.Float(), s.Float(), s.Float(), s.Float(), s.Float()
	if !(r.seen >= 0 && r.seen <= r.n) {
		s.Failf("%v changes were seen of %v", r.seen, r.n)
	}
	return s.Err()
}

package indicator

import (
	"math"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// ZScoreConfig sets up a ZScore.
type ZScoreConfig struct {
	Period int `yaml:"period" doc:"earlier ticks that the price is measured against"`
}

// Validate implements component.Validator.
func (c *ZScoreConfig) Validate() component.Problems {
	var p component.Problems
	period(&p, "period", c.Period, 2)
	return p
}

func init() {
	register("zscore", "distance of the price from the mean of the ticks before it, in their standard deviations",
		Factory{Sources: Trades | Quotes, StateForm: 1}, ZScoreConfig{Period: 50}, func(c ZScoreConfig) Indicator { return &ZScore{win: newWindow(c.Period)} })
}

// ZScore is the standard score of a price against the period prices before it:
// (x - mean) / s with the sample standard deviation (n - 1). Unlike Bollinger's
// window it leaves the price itself out, so that an outlier does not widen its
// own yardstick (NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.17).
// When all earlier prices are equal, an equal price scores 0 and another one has
// no score.
type ZScore struct {
	win                window
	value, mean, sigma float64
}

// Update implements Indicator.
func (z *ZScore) Update(t *Tick) (float64, bool) {
	ok := z.win.full()
	if ok {
		z.mean = z.win.mean()
		z.sigma = math.Sqrt(z.win.squares() / float64(z.win.n-1))
		switch {
		case z.sigma > 0:
			z.value = (t.Price - z.mean) / z.sigma
		case t.Price == z.win.last:
			z.value = 0
		default:
			ok = false
		}
	}
	z.win.add(t.Price)
	return z.value, ok
}

// Values implements Indicator.
func (z *ZScore) Values(dst []event.Value) []event.Value {
	return append(dst, event.Value{Name: "zscore", Value: z.value}, event.Value{Name: "mean", Value: z.mean},
		event.Value{Name: "sigma", Value: z.sigma})
}

// Reset implements Indicator.
func (z *ZScore) Reset() { z.win.reset() }

// AppendState implements Indicator.
func (z *ZScore) AppendState(dst []byte) []byte {
	dst = z.win.appendState(dst)
	for _, x := range [...]float64{z.value, z.mean, z.sigma} {
		dst = appendFloat(dst, x)
	}
	return dst
}

// RestoreState implements Indicator.
func (z *ZScore) RestoreState(r *StateReader) error {
	z.win.restoreState(r)
	z.value, z.mean, z.sigma = r.Float(), r.Float(), r.Float()
	return r.Err()
}

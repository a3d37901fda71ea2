package indicator

import (
	"math"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Outputs of Bollinger.
const (
	BollingerSigmas   = "sigmas"
	BollingerPercentB = "percent_b"
)

// BollingerConfig sets up Bollinger.
type BollingerConfig struct {
	Period int     `yaml:"period" doc:"ticks of the moving average and deviation"`
	Width  float64 `yaml:"width" doc:"distance of the bands from the average, in standard deviations"`
	Output string  `yaml:"output" doc:"sigmas (distance from the average) or percent_b (0 lower band, 1 upper band)"`
}

// Validate implements component.Validator.
func (c *BollingerConfig) Validate() component.Problems {
	var p component.Problems
	period(&p, "period", c.Period, 2)
	if !(c.Width > 0 && c.Width <= 100) {
		p.Addf("width", "is %v standard deviations: want more than 0, at most 100", c.Width)
	}
	if c.Output != BollingerSigmas && c.Output != BollingerPercentB {
		p.Addf("output", "is %q: want %s or %s", c.Output, BollingerSigmas, BollingerPercentB)
	}
	return p
}

func init() {
	register("bollinger", "position of the price within its Bollinger bands, in standard deviations or percent b",
		Factory{Sources: Trades | Quotes, StateForm: 1}, BollingerConfig{Period: 20, Width: 2, Output: BollingerSigmas}, func(c BollingerConfig) Indicator {
			return &Bollinger{win: newWindow(c.Period), width: c.Width, percent: c.Output == BollingerPercentB}
		})
}

// Bollinger places the price within the bands of John Bollinger, "Bollinger on
// Bollinger Bands", 2001: the mean of the last period prices, this one
// included, and width population standard deviations around it. Percent b is
// (price - lower) / (upper - lower). While all prices of the window are equal,
// the price lies in the middle.
type Bollinger struct {
	win     window
	width   float64
	percent bool

	sigmas, mean, sigma float64
}

// Update implements Indicator.
func (b *Bollinger) Update(t *Tick) (float64, bool) {
	b.win.add(t.Price)
	if !b.win.full() {
		return 0, false
	}
	b.mean = b.win.mean()
	b.sigma = math.Sqrt(b.win.squares() * b.win.inverse)
	if b.sigma > 0 {
		b.sigmas = (t.Price - b.mean) / b.sigma
	} else {
		b.sigmas = 0
	}
	return b.value(), true
}

func (b *Bollinger) value() float64 {
	if b.percent {
		return b.percentB()
	}
	return b.sigmas
}

func (b *Bollinger) percentB() float64 { return 0.5 + b.sigmas/(2*b.width) }

// Values implements Indicator.
func (b *Bollinger) Values(dst []event.Value) []event.Value {
	sigmas := event.Value{Name: "sigmas", Value: b.sigmas}
	percent := event.Value{Name: "percent_b", Value: b.percentB()}
	if b.percent {
		dst = append(dst, percent, sigmas)
	} else {
		dst = append(dst, sigmas, percent)
	}
	half := float64(b.width * b.sigma)
	return append(dst, event.Value{Name: "mean", Value: b.mean},
		event.Value{Name: "upper", Value: b.mean + half}, event.Value{Name: "lower", Value: b.mean - half})
}

// Reset implements Indicator.
func (b *Bollinger) Reset() { b.win.reset() }

// AppendState implements Indicator.
func (b *Bollinger) AppendState(dst []byte) []byte {
	dst = b.win.appendState(dst)
	for _, x := range [...]float64{b.sigmas, b.mean, b.sigma} {
		dst = appendFloat(dst, x)
	}
	return dst
}

// RestoreState implements Indicator.
func (b *Bollinger) RestoreState(r *StateReader) error {
	b.win.restoreState(r)
	b.sigmas, b.mean, b.sigma = r.Float(), r.Float(), r.Float()
	return r.Err()
}

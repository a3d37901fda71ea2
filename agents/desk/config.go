package desk

import (
	"time"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Budget is how much one decision may move.
type Budget struct {
	Notional         event.Decimal `yaml:"notional" doc:"size of a decision of full conviction, in the symbol's quote currency"`
	PositionCap      event.Decimal `yaml:"position_cap" doc:"the desk's soft cap on a strategy's position in one symbol, in quote currency; Risk rejects what would pass it"`
	QuantityDecimals int           `yaml:"quantity_decimals" doc:"decimals of an order's quantity where the venue's step is not known; rounded down"`
	AllowShort       bool          `yaml:"allow_short" doc:"whether a position may go below zero; spot accounts cannot"`
}

// Quote says which market state is too poor to judge in: the desk abstains.
type Quote struct {
	MaxSpreadBps event.Decimal `yaml:"max_spread_bps" doc:"widest spread, in basis points of the mid, at which a quote counts as reliable"`
	MaxAge       time.Duration `yaml:"max_age" doc:"oldest quote, at the signal, that counts as reliable; 0 does not check"`
	MaxEventAge  time.Duration `yaml:"max_event_age" doc:"longest time from the venue's event to its arrival here; 0 does not check (clocks apart)"`
}

// Policy is what the deterministic desk judges by; slippage also bounds a model.
type Policy struct {
	EdgeBps        float64 `yaml:"edge_bps" doc:"expected move of a full-strength signal, in basis points, that you have measured; 0: nobody has, then only probes are traded"`
	ProbeEvery     uint32  `yaml:"probe_every" doc:"while the edge is unknown, every so many signals (by their id) are traded with the smallest size, the others are no_edge; 0 trades none"`
	FeeBps         float64 `yaml:"fee_bps" doc:"taker fee of one side, in basis points of notional"`
	StopBps        uint32  `yaml:"stop_bps" doc:"protective stop, basis points from the entry; 0 is none"`
	TargetBps      uint32  `yaml:"target_bps" doc:"target, basis points from the entry; 0 is none"`
	MaxSlippageBps uint32  `yaml:"max_slippage_bps" doc:"how far beyond the best price a limit order may reach, in basis points"`
	Order          string  `yaml:"order" doc:"order of the deterministic desk: limit (crossing, immediate or cancel) or market"`
}

// Config is what both desks share.
type Config struct {
	Budget Budget
	Quote  Quote
	Policy Policy
	// OnFailure is one of the constants of that name.
	OnFailure string
}

// DefaultConfig is a small desk on liquid spot symbols. Nobody has measured an edge of
// the default rules, so that it only probes. Two strategies at their caps fit the
// default account's largest position.
func DefaultConfig() Config {
	return Config{
		Budget: Budget{
			Notional:         event.MustDecimal("1000"),
			PositionCap:      event.MustDecimal("1200"),
			QuantityDecimals: 5,
		},
		Quote: Quote{
			MaxSpreadBps: event.MustDecimal("8"),
			MaxAge:       2 * time.Second,
			MaxEventAge:  5 * time.Second,
		},
		Policy: Policy{
			ProbeEvery:     20,
			FeeBps:         5,
			StopBps:        60,
			TargetBps:      120,
			MaxSlippageBps: 5,
			Order:          "limit",
		},
		OnFailure: OnFailureReduceOnly,
	}
}

// Bounds of values that reach exact arithmetic: products of these and a price of
// 18 digits stay exact.
const maxDecimals = 8

// Validate implements component.Validator.
func (b *Budget) Validate() component.Problems {
	var p component.Problems
	money(&p, "notional", b.Notional)
	money(&p, "position_cap", b.PositionCap)
	if b.Notional.Sign() > 0 && b.PositionCap.Sign() > 0 && b.PositionCap.Money().Mul64(conviction).LessThan(b.Notional.Money()) {
		p.Addf("position_cap", "is %s: not even the smallest decision (a fifth of notional %s) fits", b.PositionCap, b.Notional)
	}
	if b.QuantityDecimals < 0 || b.QuantityDecimals > 12 {
		p.Addf("quantity_decimals", "is %d: want 0 to 12", b.QuantityDecimals)
	}
	return p
}

// Validate implements component.Validator.
func (q *Quote) Validate() component.Problems {
	var p component.Problems
	if q.MaxSpreadBps.Sign() <= 0 || q.MaxSpreadBps.Cmp(event.MustDecimal("10000")) > 0 || q.MaxSpreadBps.Scale() > 2 {
		p.Addf("max_spread_bps", "is %s: want more than 0, at most 10000, with at most 2 decimals", q.MaxSpreadBps)
	}
	if q.MaxAge < 0 {
		p.Addf("max_age", "is %s: want 0 or more", q.MaxAge)
	}
	if q.MaxEventAge < 0 {
		p.Addf("max_event_age", "is %s: want 0 or more", q.MaxEventAge)
	}
	return p
}

// Validate implements component.Validator.
func (y *Policy) Validate() component.Problems {
	var p component.Problems
	if !(y.EdgeBps >= 0 && y.EdgeBps <= 10_000) {
		p.Addf("edge_bps", "is %v: want 0 to 10000", y.EdgeBps)
	}
	if y.EdgeBps == 0 && y.ProbeEvery == 0 {
		p.Warnf("probe_every", "is 0 and edge_bps too: the deterministic desk opens no position")
	}
	if !(y.FeeBps >= 0 && y.FeeBps <= 1_000) {
		p.Addf("fee_bps", "is %v: want 0 to 1000", y.FeeBps)
	}
	if y.StopBps > maxStopBps {
		p.Addf("stop_bps", "is %d: want 0 to %d", y.StopBps, maxStopBps)
	}
	if y.TargetBps > maxTargetBps {
		p.Addf("target_bps", "is %d: want 0 to %d", y.TargetBps, maxTargetBps)
	}
	if y.MaxSlippageBps > maxSlippageBps {
		p.Addf("max_slippage_bps", "is %d: want 0 to %d", y.MaxSlippageBps, maxSlippageBps)
	}
	if y.Order != "limit" && y.Order != "market" {
		p.Addf("order", "is %q: want limit or market", y.Order)
	}
	if y.TargetBps > 0 && float64(y.TargetBps) <= 2*y.FeeBps {
		p.Warnf("target_bps", "is %d, which the fees of a round trip (2 x %v) eat: the deterministic desk will never trade", y.TargetBps, y.FeeBps)
	}
	if y.EdgeBps > 0 && y.EdgeBps <= 2*y.FeeBps {
		p.Warnf("edge_bps", "is %v, which the fees of a round trip (2 x %v) eat: the deterministic desk will never trade", y.EdgeBps, y.FeeBps)
	}
	return p
}

// Validate implements component.Validator.
func (c *Config) Validate() component.Problems {
	var p component.Problems
	p.Under("budget", c.Budget.Validate())
	p.Under("quote", c.Quote.Validate())
	p.Under("policy", c.Policy.Validate())
	return p
}

func money(p *component.Problems, path string, d event.Decimal) {
	if d.Sign() <= 0 || d.Scale() > maxDecimals {
		p.Addf(path, "is %s: want more than 0, with at most %d decimals", d, maxDecimals)
	}
}

var (
	_ component.Validator = (*Budget)(nil)
	_ component.Validator = (*Quote)(nil)
	_ component.Validator = (*Policy)(nil)
	_ component.Validator = (*Config)(nil)
)

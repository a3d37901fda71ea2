package desk

import (
	"fmt"
	"math"
	"time"

	"github.com/quagmt/udecimal"

	"github.com/autohedge/autohedge/stream/event"
)

// Case is one signal under judgement: the signal, and the numbers that Go
// computed for all agents. It belongs to one judgement and is not shared.
type Case struct {
	cfg      *Config
	in       Input
	sig      *event.Signal
	decision event.ID
	// deadline is the signal's, or earlier where time is kept for the rules.
	deadline int64
	// calls counts the questions to each role, so that the second thesis' calls
	// have identities of their own.
	calls map[string]uint32

	bid, ask, ref, position udecimal.Decimal
	// exposure is |position| x the price it could be closed at, quote currency.
	exposure udecimal.Decimal

	// For judging only, never for money.
	spreadBps, costBps, strength, edgeBps float64

	inputTokens, outputTokens uint32
}

// newCase computes the numbers, or says why the signal cannot be judged.
func newCase(cfg *Config, in Input, decision event.ID) (*Case, *Abstention) {
	s := in.Signal
	if a := checkSignal(cfg, in); a != nil {
		return nil, a
	}
	c := &Case{
		cfg: cfg, in: in, sig: s, decision: decision, deadline: s.Deadline, calls: make(map[string]uint32),
		bid: s.Bid.Decimal.Money(), ask: s.Ask.Decimal.Money(), ref: s.RefPrice.Money(), position: in.Position.Money(),
	}
	if a := c.checkQuote(); a != nil {
		return nil, a
	}
	exit := c.bid
	if c.position.IsNeg() {
		exit = c.ask
	}
	c.exposure = c.position.Abs().Mul(exit)

	bid, ask := s.Bid.Decimal.Float64(), s.Ask.Decimal.Float64()
	c.spreadBps = (ask - bid) / ((ask + bid) / 2) * 1e4
	c.costBps = c.spreadBps + 2*cfg.Policy.FeeBps
	c.strength = strength(s.Value, s.Threshold)
	c.edgeBps = cfg.Policy.EdgeBps * c.strength
	return c, nil
}

func checkSignal(cfg *Config, in Input) *Abstention {
	s := in.Signal
	if now := in.Time.Now(); now >= s.Deadline {
		return &Abstention{ReasonDeadline, fmt.Sprintf("deadline passed %s before judging began", time.Duration(now-s.Deadline))}
	}
	if s.Side != event.Buy && s.Side != event.Sell {
		return &Abstention{ReasonBadSignal, "signal has no side"}
	}
	if s.Account == "" || s.Venue == "" || s.Symbol == "" {
		return &Abstention{ReasonBadSignal, "signal names no account, venue or symbol"}
	}
	if s.RefPrice.Sign() <= 0 {
		return &Abstention{ReasonBadSignal, "signal has no reference price"}
	}
	if s.MaxDriftBps.Sign() < 0 {
		return &Abstention{ReasonBadSignal, "signal's maximum drift is negative"}
	}
	for _, v := range append([]event.Value{{Name: "value", Value: s.Value}, {Name: "threshold", Value: s.Threshold}}, s.Values...) {
		if math.IsNaN(v.Value) || math.IsInf(v.Value, 0) {
			return &Abstention{ReasonBadSignal, "an indicator value is not a number"}
		}
	}
	if age := time.Duration(s.Time - s.EventTime); cfg.Quote.MaxEventAge > 0 && s.EventTime > 0 && age > cfg.Quote.MaxEventAge {
		return &Abstention{ReasonStaleData, fmt.Sprintf("record was %s old when it arrived, more than %s", age, cfg.Quote.MaxEventAge)}
	}
	if !s.Bid.Valid || !s.Ask.Valid {
		return &Abstention{ReasonNoQuote, "no two-sided quote at the signal"}
	}
	for _, v := range s.Values {
		if limit := cfg.Quote.MaxAge; v.Name == quoteAge && limit > 0 && v.Value > limit.Seconds()*1e3 {
			return &Abstention{ReasonStaleQuote, fmt.Sprintf("quote was %.0f ms old at the signal, more than %s", v.Value, limit)}
		}
	}
	return nil
}

// quoteAge is the value by which a signal says how old its quote was, in
// milliseconds.
const quoteAge = "quote_age_ms"

// checkQuote compares exactly and without division: with s the sum of both
// sides, (ask - bid) / (s/2) <= m/10^4 is (ask - bid) x 20000 <= m x s, and
// |ref - s/2| / (s/2) <= m/10^4 is |2 ref - s| x 10000 <= m x s.
func (c *Case) checkQuote() *Abstention {
	if !c.bid.IsPos() || !c.ask.IsPos() || c.bid.GreaterThan(c.ask) {
		return &Abstention{ReasonCrossedQuote, fmt.Sprintf("bid %s, ask %s", c.sig.Bid, c.sig.Ask)}
	}
	sum := c.bid.Add(c.ask)
	limit := sum.Mul(c.cfg.Quote.MaxSpreadBps.Money())
	if c.ask.Sub(c.bid).Mul64(20_000).GreaterThan(limit) {
		return &Abstention{ReasonSpread, fmt.Sprintf("bid %s, ask %s: spread beyond %s bps", c.sig.Bid, c.sig.Ask, c.cfg.Quote.MaxSpreadBps)}
	}
	if c.ref.Mul64(2).Sub(sum).Abs().Mul64(10_000).GreaterThan(limit) {
		return &Abstention{ReasonStaleQuote, fmt.Sprintf("reference price %s is more than %s bps from bid %s, ask %s", c.sig.RefPrice, c.cfg.Quote.MaxSpreadBps, c.sig.Bid, c.sig.Ask)}
	}
	return nil
}

// strength maps a crossing to 0.5..1: a value at the threshold is worth half, one
// a tenth of the threshold beyond it is worth all. A threshold of zero gives no
// scale, so that every crossing of it is worth the same.
func strength(value, threshold float64) float64 {
	if threshold == 0 {
		return 0.6
	}
	return math.Min(1, 0.5+5*math.Abs(value-threshold)/math.Abs(threshold))
}

// expired reports the abstention of a judgement that took too long.
func (c *Case) expired() error {
	if now := c.in.Time.Now(); now >= c.deadline {
		return &Abstention{ReasonDeadline, fmt.Sprintf("deadline passed %s ago while judging", time.Duration(now-c.deadline))}
	}
	return nil
}

// holding names the position for agents: flat, long or short.
func (c *Case) holding() string {
	switch c.position.Sign() {
	case 1:
		return Long
	case -1:
		return Short
	}
	return Flat
}

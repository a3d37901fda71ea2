package desk

import (
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/autohedge/autohedge/stream/event"
)

func rat(t interface{ Fatalf(string, ...any) }, d event.Decimal) *big.Rat {
	r, ok := new(big.Rat).SetString(d.String())
	if !ok {
		t.Fatalf("%s is no number", d)
	}
	return r
}

// For any quote and budget: the price is within slippage and drift and crosses
// the quote, the notional is within the budget, and one step more would not be.
func TestOrderNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scale := uint8(rapid.IntRange(0, 9).Draw(t, "scale"))
		bidM := rapid.Int64Range(1_000, 1_000_000_000_000).Draw(t, "bid")
		bid := event.NewDecimal(bidM, scale)
		ask := event.NewDecimal(bidM+rapid.Int64Range(0, bidM/500).Draw(t, "spread"), scale)
		cfg := scripted()
		cfg.Budget.Notional = event.NewDecimal(rapid.Int64Range(1, 1_000_000_000).Draw(t, "notional"), uint8(rapid.IntRange(0, 4).Draw(t, "notional scale")))
		cfg.Budget.PositionCap = event.MustDecimal("10000000000000")
		cfg.Budget.QuantityDecimals = rapid.IntRange(0, 12).Draw(t, "decimals")
		cfg.Policy.MaxSlippageBps = uint32(rapid.IntRange(0, 100).Draw(t, "slippage"))
		s := testSignal()
		s.Bid, s.Ask, s.RefPrice = event.Some(bid), event.Some(ask), bid
		s.MaxDriftBps = event.NewDecimal(rapid.Int64Range(0, 5_000).Draw(t, "drift"), 2)
		in := Input{Signal: s, Time: &still{s.Time}}
		if rapid.Bool().Draw(t, "steps known") {
			in.PriceTick = event.NewDecimal(1, scale)
			in.QtyStep = event.NewDecimal(rapid.Int64Range(1, 50).Draw(t, "step"), uint8(rapid.IntRange(0, 8).Draw(t, "step scale")))
		}
		c, a := newCase(&cfg, in, event.ID{})
		if a != nil {
			t.Fatalf("%s", a.Error())
		}
		side, direction := event.Buy, Long
		if rapid.Bool().Draw(t, "sell") {
			side, direction = event.Sell, Short
		}
		size := rapid.IntRange(1, 5).Draw(t, "size")
		o, reason := c.write(Thesis{Direction: direction}, Sizing{Size: size}, OrderPlan{Type: "limit", TIF: "ioc", MaxSlippageBps: maxSlippageBps})

		one, bps := big.NewRat(1, 1), big.NewRat(1, 10_000)
		sign := big.NewRat(1, 1)
		best := rat(t, ask)
		if side == event.Sell {
			sign.SetInt64(-1)
			best = rat(t, bid)
		}
		reach := func(from, by *big.Rat) *big.Rat { // from x (1 +- by/10^4)
			f := new(big.Rat).Mul(new(big.Rat).Mul(by, bps), sign)
			return new(big.Rat).Mul(from, f.Add(f, one))
		}
		worse := func(a, b *big.Rat) bool { return new(big.Rat).Mul(new(big.Rat).Sub(a, b), sign).Sign() > 0 }
		drift := reach(rat(t, bid), rat(t, s.MaxDriftBps))
		if reason == ReasonBeyondDrift {
			if !worse(best, drift) {
				t.Fatalf("refused though %s is within the drift %s", best, drift)
			}
			return
		}
		if reason == ReasonBelowMinimum {
			return
		}
		limit := rat(t, o.LimitPrice.Decimal)
		if worse(best, limit) || worse(limit, drift) || worse(limit, reach(best, new(big.Rat).SetInt64(int64(cfg.Policy.MaxSlippageBps)))) {
			t.Fatalf("limit %s, best %s, drift bound %s", limit, best, drift)
		}
		price := best
		if side == event.Buy {
			price = limit
		}
		budget := new(big.Rat).Mul(rat(t, cfg.Budget.Notional), big.NewRat(int64(size), conviction))
		qty := rat(t, o.Qty)
		if new(big.Rat).Mul(qty, price).Cmp(budget) > 0 {
			t.Fatalf("%s x %s is more than %s", qty, price, budget)
		}
		step := rat(t, event.NewDecimal(1, uint8(cfg.Budget.QuantityDecimals)))
		if in.QtyStep.Sign() > 0 {
			step = rat(t, in.QtyStep)
		}
		if new(big.Rat).Mul(new(big.Rat).Add(qty, step), price).Cmp(budget) <= 0 {
			t.Fatalf("%s could be a step larger", qty)
		}
		if !new(big.Rat).Quo(qty, step).IsInt() {
			t.Fatalf("%s is no multiple of %s", qty, step)
		}
	})
}

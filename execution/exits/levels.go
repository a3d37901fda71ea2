package exits

import (
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/event"
)

// Quote is a top of book; a side that is empty is 0. RecvTime in Unix nanoseconds of
// the session.
type Quote struct {
	Bid, Ask event.Decimal
	RecvTime int64
}

// Sided reports whether the quote has both sides and they do not cross.
func (q *Quote) Sided() bool {
	return q.Bid.Sign() > 0 && q.Ask.Sign() > 0 && q.Bid.Cmp(q.Ask) <= 0
}

// Touch is the side of the quote that an order of that side takes.
func (q *Quote) Touch(s event.Side) event.Decimal {
	if s == event.Sell {
		return q.Bid
	}
	return q.Ask
}

// Unusable says why a quote closes nothing by orders of a side at a time, empty where it
// may: it is older than maxAge or further ahead than maxAhead, has one side or crosses, or
// the price that such orders take is outside of the band around each of the references,
// which are other prices of the instrument. One that agrees is enough: a stop must not
// wait in a market that moves fast. Where there is none, nothing confirms the quote.
func (q *Quote) Unusable(side event.Side, now int64, maxAge, maxAhead time.Duration, bandBps event.Decimal, references []event.Decimal) string {
	if !q.Sided() {
		return fmt.Sprintf("the quote has one side or crosses: bid %s, ask %s", q.Bid, q.Ask)
	}
	if age := time.Duration(now - q.RecvTime); age > maxAge || age < -maxAhead {
		return fmt.Sprintf("the quote is %s old, at most %s is allowed, and at most %s ahead", age, maxAge, maxAhead)
	}
	touch := q.Touch(side)
	switch {
	case len(references) == 0:
		return fmt.Sprintf("nothing confirms the quote's %s: no last trade, no mean of mids, no quote before it", touch)
	case !slices.ContainsFunc(references, func(r event.Decimal) bool { return !apart(touch, r, bandBps) }):
		return fmt.Sprintf("the quote's %s is more than %s bps from every other price that is known: %v", touch, bandBps, references)
	}
	return ""
}

// apart reports whether price is more than bps from reference, exactly.
func apart(price, reference, bps event.Decimal) bool {
	distance, err := ledger.Sub(price, reference)
	if err == nil {
		distance, err = ledger.Mul(ledger.Abs(distance), whole)
	}
	if err == nil {
		var allowed event.Decimal
		if allowed, err = ledger.Mul(reference, bps); err == nil {
			return distance.Cmp(allowed) > 0
		}
	}
	// It does not fit 18 decimals, as a mean of prices has them.
	diff := new(big.Int).Sub(unscaled(price), unscaled(reference))
	diff.Abs(diff).Mul(diff, big.NewInt(10_000)).Mul(diff, pow18) // scale 18 + 4 + 18
	return diff.Cmp(new(big.Int).Mul(unscaled(reference), unscaled(bps))) > 0
}

// whole is a whole price in basis points.
var whole = event.NewDecimal(10_000, 0)

// Levels are what closes a lot: two prices, absent where there is none, and a time in
// Unix nanoseconds, 0 where there is none.
type Levels struct {
	Stop, Target event.NullDecimal
	Due          int64
}

// Levels computes the levels of a lot from its average fill. Prices are rounded to the
// tick on the side that limits the loss, which is that of the entry; a tick of 0 is not
// known, and then they are exact to 18 decimals.
func (l *Lot) Levels(tick event.Decimal) Levels {
	var out Levels
	if l.Horizon > 0 && l.Opened > 0 {
		out.Due = l.Opened + l.Horizon
	}
	out.Stop = l.level(l.StopBps, !l.Long(), tick)
	out.Target = l.level(l.TargetBps, l.Long(), tick)
	return out
}

// level is the price that is bps above or below the average fill, rounded towards it.
func (l *Lot) level(bps uint32, above bool, tick event.Decimal) event.NullDecimal {
	if bps == 0 || l.Entered.Sign() <= 0 || !above && bps >= 10_000 {
		return event.NullDecimal{}
	}
	factor := int64(10_000) + int64(bps)
	if !above {
		factor = 10_000 - int64(bps)
	}
	step := big.NewInt(1) // of 18 decimals
	if tick.Sign() > 0 {
		step = unscaled(tick)
	}
	// cost / entered has scale 0, times 10^18 it has 18: what step has.
	n := new(big.Int).Mul(unscaled(l.Cost), big.NewInt(factor))
	n.Mul(n, pow18)
	d := new(big.Int).Mul(unscaled(l.Entered), big.NewInt(10_000))
	return toStep(n, d.Mul(d, step), step, !above)
}

// toStep returns n/d steps, rounded up or down, as a price; absent where that is none.
func toStep(n, d, step *big.Int, up bool) event.NullDecimal {
	q, r := new(big.Int).QuoRem(n, d, new(big.Int))
	if up && r.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	price, err := event.ParseDecimal(fmt.Appendf(nil, "%se-18", q.Mul(q, step)))
	if err != nil || price.Sign() <= 0 {
		return event.NullDecimal{}
	}
	return event.Some(ledger.Trim(price))
}

var pow18 = new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil)

// unscaled returns the value times 10^18 as an integer.
func unscaled(d event.Decimal) *big.Int {
	hi, lo := d.Int128()
	n := new(big.Int).Lsh(big.NewInt(hi), 64)
	return n.Add(n, new(big.Int).SetUint64(lo))
}

// Check says whether a quote that is usable, or the time, closes a lot: by which leg,
// and why, for people. q is nil where there is no usable quote. The stop comes first.
func (v Levels) Check(long bool, q *Quote, now int64) (leg event.Leg, cause string) {
	if q != nil {
		price, name, sign := q.Bid, "bid", 1
		if !long {
			price, name, sign = q.Ask, "ask", -1
		}
		if v.Stop.Valid && price.Cmp(v.Stop.Decimal)*sign <= 0 {
			return event.LegStop, fmt.Sprintf("%s %s reached the stop %s", name, price, v.Stop)
		}
		if v.Target.Valid && price.Cmp(v.Target.Decimal)*sign >= 0 {
			return event.LegTarget, fmt.Sprintf("%s %s reached the target %s", name, price, v.Target)
		}
	}
	if v.Due > 0 && now >= v.Due {
		return event.LegTime, fmt.Sprintf("due at %s", time.Unix(0, v.Due).UTC().Format(time.RFC3339Nano))
	}
	return event.LegUnset, ""
}

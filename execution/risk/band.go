package risk

import (
	"fmt"
	"time"

	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/event"
)

// wholePrice is a whole price in basis points.
var wholePrice = event.NewDecimal(10000, 0)

// reference is a price that the quote is compared with.
type reference struct {
	name  string
	price event.Decimal
}

// fresh lists what is known of the market beside the quote and is not too old.
func (c *check) fresh() []reference {
	var out []reference
	if t := c.v.Trade; t != nil && sane(t.Price) {
		age := time.Duration(c.v.Now - t.RecvTime)
		if age <= c.cfg.MaxTradeAge && -age <= c.cfg.MaxClockSkew {
			out = append(out, reference{"last trade", t.Price})
		}
	}
	if m := c.v.MeanMid; m.Valid && sane(m.Decimal) {
		out = append(out, reference{"mean mid of " + meanSpan.String(), m.Decimal})
	}
	return out
}

// references is the price band. An order's limit price must be within the band of the
// side of the quote that it takes, either way: what is far worse pays too much, and
// what is far better is a mistake. An entry needs a second price, and both the quote
// and the limit price must be within the band of every one that is fresh: one bad quote
// is no market. What only reduces must not wait for a market that moves fast: it passes
// where one of the fresh prices agrees with the quote, or where there is none.
func (c *check) references() *Rejection {
	if r := c.within("price", c.o.LimitPrice, reference{"quote", c.touch()}); r != nil {
		return r
	}
	fresh := c.fresh()
	if c.reducing {
		var first *Rejection
		for _, ref := range fresh {
			r := c.within("the quote's price", c.touch(), ref)
			if r == nil {
				return nil
			}
			if first == nil {
				first = r
			}
		}
		return first
	}
	if len(fresh) == 0 {
		return refuse(ReferenceMissing, "nothing confirms the quote of %s on %s: no trade within %s and less than %s of quotes within %s", c.d.Symbol, c.d.Venue, c.cfg.MaxTradeAge, meanLeast, meanSpan)
	}
	if c.d.Type == event.Market { // a book that is wide apart has no price
		if r := c.within("price", c.touch(), reference{"quote's other side", c.otherSide()}); r != nil {
			return r
		}
	}
	for _, ref := range fresh {
		if r := c.within("the quote's price", c.touch(), ref); r != nil {
			return r
		}
		if r := c.within("price", c.o.LimitPrice, ref); r != nil {
			return r
		}
	}
	return nil
}

func (c *check) within(what string, price event.Decimal, ref reference) *Rejection {
	apart, beyond, err := apartBps(price, ref.price, c.cfg.CollarBps)
	if err != nil {
		return refuse(Malformed, "%v", err)
	}
	if beyond {
		return refuse(Collar, "%s %s is %s bps from the %s's %s, at most %s is allowed", what, price, apart, ref.name, ref.price, c.cfg.CollarBps)
	}
	return nil
}

// otherSide is the side of the quote that the order would not take.
func (c *check) otherSide() event.Decimal {
	if c.d.Side == event.Buy {
		return c.v.Quote.Bid
	}
	return c.v.Quote.Ask
}

// marketLimit is the worst price of a market order: the touch and the smaller of band
// and the decision's slippage beyond it, and for an entry no further than the band of
// every fresh price.
func (c *check) marketLimit() (event.Decimal, error) {
	beyond := c.cfg.CollarBps
	if s := c.d.MaxSlippageBps; s.Valid && s.Decimal.Cmp(beyond) < 0 {
		beyond = s.Decimal
	}
	limit, err := c.beyond(c.touch(), beyond)
	if err != nil || c.reducing {
		return limit, err
	}
	for _, ref := range c.fresh() {
		edge, err := c.beyond(ref.price, c.cfg.CollarBps)
		if err != nil {
			return limit, err
		}
		if (edge.Cmp(limit) < 0) == (c.d.Side == event.Buy) {
			limit = edge
		}
	}
	// A touch beyond an edge is refused by the band; the order is priced at the touch
	// until then.
	if t := c.touch(); (limit.Cmp(t) < 0) == (c.d.Side == event.Buy) {
		limit = t
	}
	return limit, nil
}

// beyond is a price and bps of it, dearer for a buyer and cheaper for a seller.
func (c *check) beyond(price, bps event.Decimal) (event.Decimal, error) {
	factor, err := ledger.Add(wholePrice, bps)
	if c.d.Side == event.Sell {
		factor, err = ledger.Sub(wholePrice, bps)
	}
	if err != nil {
		return price, err
	}
	// Whole basis points divide exactly; what has more decimals is cut, on the inside for
	// a buyer and by less than 10^-18 outside for a seller.
	scaled, err := ledger.Mul(price, factor)
	if err != nil {
		return price, err
	}
	out, err := scaled.Money().Div(wholePrice.Money())
	if err != nil {
		return price, fmt.Errorf("reaching %s bps beyond %s: %w", bps, price, err)
	}
	return event.FromMoney(out.Trunc(event.MaxScale))
}

// apartBps tells how far price is from reference, in basis points of the
// reference (cut to two decimals, for people), and whether that is more than
// limit (exactly).
func apartBps(price, reference, limit event.Decimal) (string, bool, error) {
	diff, err := ledger.Sub(price, reference)
	if err != nil {
		return "", false, err
	}
	scaled, err := ledger.Mul(ledger.Abs(diff), event.NewDecimal(10000, 0))
	if err != nil {
		return "", false, err
	}
	allowed, err := ledger.Mul(reference, limit)
	if err != nil {
		return "", false, err
	}
	bps, err := scaled.Money().Div(reference.Money())
	if err != nil {
		return "", false, err
	}
	return bps.Trunc(2).String(), scaled.Cmp(allowed) > 0, nil
}

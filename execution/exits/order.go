package exits

import (
	"fmt"
	"math/big"

	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/event"
)

// Reasons for which an exit, or a part of it, is not sent.
const (
	WouldFlip = "would_flip" // it would do more than reduce
	Dust      = "dust"       // what is left is less than the venue takes
)

// Band is how far beyond the touch an exit may reach after that many misses, in basis
// points: it doubles with each of them up to most.
func Band(first, most, misses uint32) uint32 {
	band := uint64(first)
	for ; misses > 0 && band < uint64(most); misses-- {
		band *= 2
	}
	return uint32(min(band, uint64(most)))
}

// Exhausted reports whether an exit at the bound of the band was tried in vain.
func Exhausted(first, most, misses uint32) bool {
	return misses > 0 && Band(first, most, misses-1) >= most
}

// Limit is the limit price of an exit of that side: band basis points beyond the touch,
// rounded to the tick towards it. A tick of 0 is not known. It is absent where the quote
// has no such side.
func Limit(side event.Side, q *Quote, band uint32, tick event.Decimal) event.NullDecimal {
	touch := q.Touch(side)
	if touch.Sign() <= 0 || band >= 10_000 {
		return event.NullDecimal{}
	}
	factor := int64(10_000) + int64(band)
	if side == event.Sell {
		factor = 10_000 - int64(band)
	}
	step := big.NewInt(1)
	if tick.Sign() > 0 {
		step = unscaled(tick)
	}
	n := new(big.Int).Mul(unscaled(touch), big.NewInt(factor))
	price := toStep(n, new(big.Int).Mul(step, big.NewInt(10_000)), step, side == event.Sell)
	if !price.Valid || side == event.Sell && price.Decimal.Cmp(touch) > 0 || side == event.Buy && price.Decimal.Cmp(touch) < 0 {
		return event.Some(touch) // the band is less than a tick
	}
	return price
}

// Holding is what an order of one side could reduce: the strategy's position and the
// account's net, signed, and what exits of that side that work, or whose outcome is not
// known, may still take of each.
type Holding struct {
	Own, Net               event.Decimal
	OwnWorking, NetWorking event.Decimal
}

// Fit returns how much of a quantity an order of that side may have so that it only
// reduces: the least of it, the strategy's position and the account's net, each less
// what works. cut says why it is less, empty where it is not.
func Fit(side event.Side, qty event.Decimal, h Holding) (fits event.Decimal, cut string, err error) {
	fits = qty
	for _, r := range []struct {
		name             string
		holding, working event.Decimal
	}{{"the strategy's position", h.Own, h.OwnWorking}, {"the account's net", h.Net, h.NetWorking}} {
		room := event.Decimal{}
		if (side == event.Sell) == (r.holding.Sign() > 0) && !r.holding.IsZero() {
			if room, err = ledger.Sub(ledger.Abs(r.holding), r.working); err != nil {
				return event.Decimal{}, "", fmt.Errorf("fitting an exit: %w", err)
			}
		}
		if room.Sign() < 0 {
			room = event.Decimal{}
		}
		if room.Cmp(fits) < 0 {
			fits, cut = room, fmt.Sprintf("%s of %s: %s is %s, and %s orders of %s work", room, qty, r.name, r.holding, side, r.working)
		}
	}
	return fits, cut, nil
}

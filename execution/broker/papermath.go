package broker

import (
	"fmt"
	"math/big"

	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/event"
)

// feeDecimals is to how many decimals a fee is rounded up.
const feeDecimals = 8

// unscaled returns the value times 10^18 as an integer.
func unscaled(d event.Decimal) *big.Int {
	hi, lo := d.Int128()
	n := new(big.Int).Lsh(big.NewInt(hi), 64)
	return n.Add(n, new(big.Int).SetUint64(lo))
}

func pow10(n int) *big.Int {
	return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil)
}

// decimalOf returns mantissa x 10^-scale.
func decimalOf(mantissa *big.Int, scale int) (event.Decimal, error) {
	d, err := event.ParseDecimal(fmt.Appendf(nil, "%se-%d", mantissa, scale))
	if err != nil {
		return d, fmt.Errorf("holding %s with %d decimals: %w", mantissa, scale, err)
	}
	return d, nil
}

// feeOf returns notional x bps / 10000, rounded up to 8 decimals: exact in
// between, never in our favour.
func feeOf(notional, bps event.Decimal) (event.Decimal, error) {
	n := new(big.Int).Mul(unscaled(notional), unscaled(bps)) // scale 36, then 4 more for the basis points
	unit := pow10(36 + 4 - feeDecimals)
	q, r := new(big.Int).QuoRem(n, unit, new(big.Int))
	if r.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	return decimalOf(q, feeDecimals)
}

// slip makes a price worse by bps and moves it on to the next step of tick;
// without a tick to the next step of the price's own last decimal.
func slip(price, bps, tick event.Decimal, s event.Side) (event.Decimal, error) {
	if bps.Sign() == 0 {
		return price, nil
	}
	if tick.Sign() <= 0 {
		tick = event.NewDecimal(1, price.Scale())
	}
	factor := new(big.Int).Mul(big.NewInt(10000), pow10(18))
	if s == event.Buy {
		factor.Add(factor, unscaled(bps))
	} else {
		factor.Sub(factor, unscaled(bps))
	}
	// price x factor has scale 36 + 4; in steps of tick, whose scale is 18:
	n := new(big.Int).Mul(unscaled(price), factor)
	step := new(big.Int).Mul(unscaled(tick), pow10(18+4))
	q, r := new(big.Int).QuoRem(n, step, new(big.Int))
	if s == event.Buy && r.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	if q.Sign() <= 0 { // a sale below the first step: there is no worse price
		q.SetInt64(1)
	}
	d, err := decimalOf(q.Mul(q, unscaled(tick)), 18)
	return ledger.Trim(d), err
}

// sizeFor returns how much of an instrument an amount of quote currency is, to
// 8 decimals, rounded down.
func sizeFor(amount, price event.Decimal) event.Decimal {
	q := new(big.Int).Mul(unscaled(amount), pow10(8))
	d, err := decimalOf(q.Quo(q, unscaled(price)), 8)
	if err != nil {
		return event.Decimal{} // a price so small that no size is known
	}
	return d
}

// shareDecimals is to how many decimals a share of a size is rounded down where the
// step of quantities is not known.
const shareDecimals = 8

// shareOf returns share x size, rounded down to a multiple of step; without a step
// to the decimals that the size has itself, at least 8: a size that is sent without
// decimals says nothing of the step.
func shareOf(size, share, step event.Decimal) event.Decimal {
	if share.Cmp(event.NewDecimal(1, 0)) == 0 && step.Sign() <= 0 {
		return size
	}
	if step.Sign() <= 0 {
		step = event.NewDecimal(1, max(size.Scale(), shareDecimals))
	}
	// The product has scale 36; in steps, whose scale is 18:
	q := new(big.Int).Mul(unscaled(size), unscaled(share))
	q.Quo(q, new(big.Int).Mul(unscaled(step), pow10(18)))
	d, err := decimalOf(q.Mul(q, unscaled(step)), 18)
	if err != nil {
		return event.Decimal{} // cannot happen: it is not above size
	}
	return ledger.Trim(d)
}

package risk

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Amounts is a limit in money: one amount for each currency. A currency without an
// entry has no limit that could be held, so nothing is traded in it.
type Amounts map[string]event.Decimal

// dollars is the same amount of US dollars and of the currency that most pairs of the
// venues are quoted in.
func dollars(amount string) Amounts {
	d := event.MustDecimal(amount)
	return Amounts{"USD": d, "USDT": d}
}

// WantMapping is the error for one number that is meant for every currency: it says what
// to write.
func (Amounts) WantMapping(scalar string) string {
	return fmt.Sprintf("is %s of no currency: write an amount for each quote currency that may be traded, such as {USD: %s, USDT: %s}", scalar, scalar, scalar)
}

// Currencies lists the currencies in alphabetical order.
func (a Amounts) Currencies() []string { return slices.Sorted(maps.Keys(a)) }

var currencyCode = regexp.MustCompile(`^[A-Z0-9]{2,16}$`)

// checkAmount reports a limit that is no limit.
func checkAmount(p *component.Problems, path string, value event.Decimal) {
	if value.Sign() <= 0 {
		p.Addf(path, "is %s: want a number above 0", value)
	} else if value.Cmp(absurd) >= 0 {
		p.Addf(path, "is %s: want a number below %s", value, absurd)
	}
}

// validateMoney reports what is wrong with the limits in money, and warns where one of
// them lacks a currency that another has: an order passes all three.
func (c *Config) validateMoney(p *component.Problems) {
	limits := []struct {
		path    string
		amounts Amounts
	}{{"max_order_notional", c.MaxOrderNotional}, {"max_position_notional", c.MaxPositionNotional}, {"max_daily_loss", c.MaxDailyLoss}}
	for _, l := range limits {
		if len(l.amounts) == 0 {
			p.Addf(l.path, "is empty, so nothing could be traded: write an amount for each quote currency, such as {USD: 3000}")
			continue
		}
		for _, currency := range l.amounts.Currencies() {
			path := l.path + "." + currency
			if !currencyCode.MatchString(currency) {
				p.Addf(path, "is no currency: want its code in capital letters, such as %s", codeOf(currency))
				continue
			}
			checkAmount(p, path, l.amounts[currency])
		}
	}
	for _, l := range limits {
		for _, currency := range c.currencies() {
			if _, ok := l.amounts[currency]; !ok && len(l.amounts) > 0 {
				p.Warnf(l.path, "has no entry for %s: orders in %s are refused, though another limit has one", currency, currency)
			}
		}
	}
	for _, currency := range c.MaxOrderNotional.Currencies() {
		order, position := c.MaxOrderNotional[currency], c.MaxPositionNotional[currency]
		if turn := position.Money().Mul64(2); position.Sign() > 0 && order.Money().GreaterThan(turn) {
			p.Warnf("max_order_notional."+currency, "is %s, more than it takes to turn a position of max_position_notional, %s, around: the position limit decides alone", order, position)
		}
	}
}

// currencies lists those of all limits.
func (c *Config) currencies() []string {
	all := maps.Clone(c.MaxOrderNotional)
	if all == nil {
		all = make(Amounts)
	}
	maps.Copy(all, c.MaxPositionNotional)
	maps.Copy(all, c.MaxDailyLoss)
	return slices.DeleteFunc(all.Currencies(), func(code string) bool { return !currencyCode.MatchString(code) })
}

// codeOf is a code that may be meant by what was written.
func codeOf(written string) string {
	if code := strings.ToUpper(written); currencyCode.MatchString(code) {
		return code
	}
	return "USD"
}

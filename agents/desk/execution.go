package desk

import (
	"context"
	_ "embed"

	"github.com/quagmt/udecimal"

	"github.com/autohedge/autohedge/stream/event"
)

// maxSlippageBps is the most that Execution may ever ask for.
const maxSlippageBps = 100

// OrderPlan is Execution's answer: how to trade, not how much or at what price.
// Orders live for a moment only (immediate or cancel, fill or kill): a resting
// order would outlive the signal's deadline.
type OrderPlan struct {
	Type           string `json:"order_type"`
	TIF            string `json:"time_in_force"`
	MaxSlippageBps int    `json:"max_slippage_bps"`
	Rationale      string `json:"rationale"`
}

// Check implements llm.Checker.
func (o *OrderPlan) Check() error {
	return firstOf(
		oneOf("order_type", o.Type, "market", "limit"),
		oneOf("time_in_force", o.TIF, "ioc", "fok"),
		within("max_slippage_bps", o.MaxSlippageBps, 0, maxSlippageBps),
		text("rationale", o.Rationale),
	)
}

// Order is what Execution wrote, in exact numbers.
type Order struct {
	Side       event.Side        `json:"side"`
	Qty        event.Decimal     `json:"qty"`
	Type       event.OrderType   `json:"type"`
	TIF        event.TimeInForce `json:"tif"`
	LimitPrice event.NullDecimal `json:"limit_price"`
	// SlippageBps is how far beyond the best price the order may fill.
	SlippageBps int `json:"slippage_bps"`
}

var (
	//go:embed prompts/execution.md
	executionPrompt string
	//go:embed schemas/order.json
	orderSchema []byte
)

// Order asks the model.
func (m *modelAgents) Order(ctx context.Context, c *Case, t Thesis, s Sizing) (OrderPlan, error) {
	data := struct {
		market
		Position    position `json:"position"`
		Thesis      thesis   `json:"thesis"`
		Size        int      `json:"size"`
		MaxSlippage uint32   `json:"max_slippage_bps"`
	}{c.market(), c.positionData(), t.data(), s.Size, m.cfg.Policy.MaxSlippageBps}
	var o OrderPlan
	err := m.ask(ctx, c, question{role: roleExecution, system: executionPrompt, name: "order", schema: orderSchema, data: data}, &o)
	return o, err
}

// data is what the Director is shown of the order: the terms, not the money.
func (o *Order) data(c *Case) any {
	return struct {
		Side     string `json:"side"`
		Type     string `json:"order_type"`
		TIF      string `json:"time_in_force"`
		Slippage int    `json:"max_slippage_bps"`
		Percent  int    `json:"percent_of_budget"`
	}{o.Side.String(), o.Type.String(), o.TIF.String(), o.SlippageBps, c.percentOfBudget(o)}
}

// write turns the agreed terms into an order, or says why there can be none.
//
//	limit, buying:  ask x (1 + slippage), at most ref x (1 + drift), rounded down to the tick
//	limit, selling: bid x (1 - slippage), at least ref x (1 - drift), rounded up to the tick
//	market:         as limit; execution sends it as such an order at the touch of that moment
//	quantity:       size x budget / 5 / price, rounded down to the step; the whole position when closing
//
// The price of the quantity is the worst one that the order can fill at (for a
// sale the bid), so that the notional never exceeds the budget at the quote that
// was judged.
func (c *Case) write(t Thesis, s Sizing, p OrderPlan) (*Order, string) {
	o := &Order{Side: event.Buy, Type: event.Market, TIF: event.IOC}
	if t.Direction == Short || (t.Direction == Flat && c.position.IsPos()) {
		o.Side = event.Sell
	}
	if p.TIF == "fok" {
		o.TIF = event.FOK
	}
	best := c.ask
	if o.Side == event.Sell {
		best = c.bid
	}
	worst, ok := c.driftBound(o.Side)
	if !ok || beyond(o.Side, best, worst) {
		return nil, ReasonBeyondDrift
	}
	// A model narrows the bound and does not lift it, by "market" as little as by a
	// large number. It often writes 0 beside "market", which has no price to bound.
	o.SlippageBps = int(c.cfg.Policy.MaxSlippageBps)
	if p.Type == "limit" || p.MaxSlippageBps > 0 {
		o.SlippageBps = min(p.MaxSlippageBps, o.SlippageBps)
	}
	limit := c.limitPrice(o.Side, best, worst, o.SlippageBps)
	d, err := event.FromMoney(limit)
	if err != nil || limit.Sign() <= 0 || beyond(o.Side, best, limit) {
		return nil, ReasonBeyondDrift
	}
	if p.Type == "limit" {
		o.Type, o.LimitPrice = event.Limit, event.Some(d)
	}
	price := best
	if o.Side == event.Buy {
		price = limit
	}
	qty := c.position.Abs()
	if t.Direction != Flat {
		qty = c.quantity(s.Size, price)
	}
	d, err = event.FromMoney(qty)
	if err != nil || d.Sign() <= 0 {
		return nil, ReasonBelowMinimum
	}
	o.Qty = d
	return o, ""
}

// driftBound is the worst price that the signal's maximum drift allows.
func (c *Case) driftBound(side event.Side) (udecimal.Decimal, bool) {
	one := udecimal.MustFromInt64(10_000, 0)
	drift := c.sig.MaxDriftBps.Money()
	factor := one.Add(drift)
	if side == event.Sell {
		factor = one.Sub(drift)
	}
	bound, err := c.ref.Mul(factor).Div64(10_000)
	return bound, err == nil
}

// beyond reports whether a is a worse price than b for the side.
func beyond(side event.Side, a, b udecimal.Decimal) bool {
	if side == event.Buy {
		return a.GreaterThan(b)
	}
	return a.LessThan(b)
}

// limitPrice reaches slippage beyond the best price but not beyond worst, rounded
// towards the best price.
func (c *Case) limitPrice(side event.Side, best, worst udecimal.Decimal, slippageBps int) udecimal.Decimal {
	factor := uint64(10_000 + slippageBps)
	if side == event.Sell {
		factor = uint64(10_000 - slippageBps)
	}
	limit, err := best.Mul64(factor).Div64(10_000)
	if err != nil { // cannot happen: ten thousand is not zero
		limit = best
	}
	if beyond(side, limit, worst) {
		limit = worst
	}
	if tick := c.in.PriceTick.Money(); tick.IsPos() {
		return toStep(limit, tick, side == event.Sell)
	}
	// The venue's tick is not known: as many decimals as its quote uses, without
	// the zeros with which some venues fill them up. (The reference price may be
	// a mid, half a tick off.)
	decimals := max(decimals(c.sig.Bid.Decimal), decimals(c.sig.Ask.Decimal))
	if side == event.Sell {
		return limit.RoundAwayFromZero(decimals)
	}
	return limit.Trunc(decimals)
}

// decimals counts the decimals of a price without trailing zeros.
func decimals(d event.Decimal) uint8 {
	n := d.Scale()
	for text := d.String(); n > 0 && text[len(text)-1] == '0'; text = text[:len(text)-1] {
		n--
	}
	return n
}

// quantity is the size's share of the budget at a price, rounded down.
func (c *Case) quantity(size int, price udecimal.Decimal) udecimal.Decimal {
	qty, err := c.notional(size).Div(price) // truncates at 19 decimals
	if err != nil {
		return udecimal.Zero // a price of zero buys nothing
	}
	if step := c.in.QtyStep.Money(); step.IsPos() {
		return toStep(qty, step, false)
	}
	return qty.Trunc(uint8(c.cfg.Budget.QuantityDecimals))
}

// toStep rounds a positive value down, or up, to a multiple of step.
func toStep(v, step udecimal.Decimal, up bool) udecimal.Decimal {
	n, rest, err := v.QuoRem(step)
	if err != nil {
		return v
	}
	down := n.Mul(step)
	if up && !rest.IsZero() {
		return down.Add(step)
	}
	return down
}

// percentOfBudget is for showing only.
func (c *Case) percentOfBudget(o *Order) int {
	budget := c.cfg.Budget.Notional.Float64()
	return int(o.Qty.Float64() * c.sig.RefPrice.Float64() / budget * 100)
}

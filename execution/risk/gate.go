package risk

import (
	"fmt"
	"slices"
	"time"

	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/event"
)

// Names of the limits: the reason of a risk_rejected order.
const (
	Malformed         = "malformed"
	UnknownAccount    = "account_unknown"
	KillSwitch        = "kill_switch"
	Children          = "children"
	NothingToClose    = "nothing_to_close"
	UnknownOrder      = "unknown_order"
	UnknownInstrument = "instrument_unknown"
	SymbolNotAllowed  = "symbol_not_allowed"
	Expired           = "expired"
	QuoteMissing      = "quote_missing"
	QuoteStale        = "quote_stale"
	MinQty            = "min_qty"
	MinNotional       = "min_notional"
	MaxOrderQty       = "max_order_qty"
	MaxOrderNotional  = "max_order_notional"
	Collar            = "price_collar"
	Drifted           = "drifted"
	MaxPosition       = "max_position"
	DailyLoss         = "daily_loss"
	OrderRate         = "order_rate"
	ClockSkew         = "clock_skew"
)

// Limits lists every limit, in the order in which they are checked.
func Limits() []string {
	return []string{
		Malformed, UnknownAccount, KillSwitch, Children, NothingToClose, UnknownOrder, UnknownInstrument, SymbolNotAllowed, Expired, ClockSkew, QuoteMissing,
		QuoteStale, MinQty, MinNotional, MaxOrderQty, MaxOrderNotional, Collar, Drifted, MaxPosition, DailyLoss, OrderRate,
	}
}

// absurd is above any price, quantity or limit of a real instrument.
var absurd = event.NewDecimal(1_000_000_000_000, 0)

// Quote is the last top of book: a side that is empty is 0. RecvTime in Unix
// nanoseconds of the session.
type Quote struct {
	Bid, Ask event.Decimal
	RecvTime int64
}

// View is what the gate judges a decision against. The caller fills it in at the
// moment of the check.
type View struct {
	Now int64 // session time, Unix nanoseconds
	// Halted is why the kill switch refuses every order; empty when it does not.
	Halted string
	// ReduceOnly is why the kill switch refuses every order that does more than reduce
	// the account's position; empty when it does not.
	ReduceOnly string
	// Orders counts the orders that the decision has in the order log.
	Orders int
	// Unknown is the client order id of an order of the account whose outcome is
	// not known; empty when there is none.
	Unknown string
	// Instrument and Quote are nil when they are not known.
	Instrument *event.Instrument
	Quote      *Quote
	// Position is the account's signed holding; WorkingBuy and WorkingSell are
	// the open quantities of its orders in the same instrument.
	Position, WorkingBuy, WorkingSell event.Decimal
	// Own is the signed holding of the decision's strategy in the instrument;
	// OwnWorking is what its orders of the decision's side may still fill, those
	// with an unknown outcome included.
	Own, OwnWorking event.Decimal
	// DayPnL is the account's profit of the day in the instrument's quote
	// currency; absent when it cannot be told.
	DayPnL event.NullDecimal
}

// Order is what passed: the decision's order, rounded to the instrument's steps.
type Order struct {
	Qty        event.Decimal
	LimitPrice event.NullDecimal
	// Price is what the limits valued the order at: its limit price, or the side
	// of the quote that a market order would take.
	Price event.Decimal
	// Reducing says that the order can only bring the account's position closer
	// to zero, whatever becomes of its other orders.
	Reducing bool
	// Detail tells, for people, how the order differs from the decision's; empty
	// when rounding is all that changed.
	Detail string
}

// Rejection says which limit refused an order, and both numbers.
type Rejection struct{ Limit, Detail string }

// Gate checks the orders of one account. It is not safe for concurrent use.
type Gate struct {
	cfg Config
	// sent holds the times of the orders of the last minute, oldest first.
	sent []int64
}

// NewGate returns a gate with the given limits.
func NewGate(cfg Config) *Gate { return &Gate{cfg: cfg} }

// check is one decision on its way through the limits.
type check struct {
	*Gate
	d        *event.Decision
	v        View
	qty      event.Decimal // the decision's, or what is left to close
	detail   string
	o        Order
	notional event.Decimal
	reducing bool
}

// Check runs every limit in order and returns the order that may be sent, or
// the first limit that refuses it. It changes nothing: Charge does.
func (g *Gate) Check(d *event.Decision, v View) (Order, *Rejection) {
	c := &check{Gate: g, d: d, v: v, qty: d.Qty.Decimal}
	for _, limit := range []func() *Rejection{
		c.malformed, c.killSwitch, c.children, c.closing, c.unknownOrder, c.reduceOnly, c.instrument, c.allowed, c.expired, c.quote, c.steps,
		c.orderSize, c.collar, c.drift, c.position, c.dailyLoss, c.rate,
	} {
		if r := limit(); r != nil {
			return Order{}, r
		}
	}
	return c.o, nil
}

// Charge counts an order against the rate limits at time t, when it is about to
// be sent; the charge is never taken back (RTS 6 article 15(2)).
func (g *Gate) Charge(t int64) {
	g.sent = append(g.sent, t)
	old := 0
	for old < len(g.sent) && g.sent[old] <= t-int64(time.Minute) {
		old++
	}
	g.sent = slices.Delete(g.sent, 0, old)
}

func refuse(limit, format string, args ...any) *Rejection {
	return &Rejection{Limit: limit, Detail: fmt.Sprintf(format, args...)}
}

func (c *check) malformed() *Rejection {
	d := c.d
	switch {
	case d.ID.IsZero() || d.Account == "" || d.Venue == "" || d.Symbol == "":
		return refuse(Malformed, "decision names no id, account, venue or symbol")
	case d.Side != event.Buy && d.Side != event.Sell:
		return refuse(Malformed, "side is %s, want buy or sell", d.Side)
	case d.Action == event.ActionLong && d.Side != event.Buy, d.Action == event.ActionShort && d.Side != event.Sell:
		return refuse(Malformed, "action is %s, side is %s", d.Action, d.Side)
	case d.Type != event.Market && d.Type != event.Limit:
		return refuse(Malformed, "order type is %s, want market or limit", d.Type)
	case d.TIF != event.GTC && d.TIF != event.IOC && d.TIF != event.FOK:
		return refuse(Malformed, "time in force is %s, want gtc, ioc or fok", d.TIF)
	case !d.Qty.Valid || !sane(d.Qty.Decimal):
		return refuse(Malformed, "quantity is %q, want above 0 and below %s", d.Qty, absurd)
	case d.Type == event.Limit && (!d.LimitPrice.Valid || !sane(d.LimitPrice.Decimal)):
		return refuse(Malformed, "limit price is %q, want above 0 and below %s", d.LimitPrice, absurd)
	case d.Type == event.Market && d.LimitPrice.Valid:
		return refuse(Malformed, "a market order has limit price %s", d.LimitPrice)
	case !sane(d.RefPrice):
		return refuse(Malformed, "reference price is %s, want above 0 and below %s", d.RefPrice, absurd)
	case d.MaxDriftBps.Sign() < 0:
		return refuse(Malformed, "largest drift is %s bps, want 0 or more", d.MaxDriftBps)
	case d.Deadline <= 0 || d.Time <= 0:
		return refuse(Malformed, "decision has no time or no deadline")
	}
	return nil
}

func sane(d event.Decimal) bool { return d.Sign() > 0 && d.Cmp(absurd) < 0 }

// killSwitch refuses every order after a halt of level stop, also one that would
// reduce.
func (c *check) killSwitch() *Rejection {
	if c.v.Halted != "" {
		return refuse(KillSwitch, "halted: %s", c.v.Halted)
	}
	return nil
}

// reduceOnly refuses after a halt of level reduce what does more than reduce the
// account's position; reducing is known by now.
func (c *check) reduceOnly() *Rejection {
	if c.v.ReduceOnly != "" && !c.reducing {
		return refuse(KillSwitch, "halted, and the order does more than reduce a position: %s", c.v.ReduceOnly)
	}
	return nil
}

func (c *check) children() *Rejection {
	if c.v.Orders > 0 {
		return refuse(Children, "the decision has %d orders, at most 1 is allowed", c.v.Orders)
	}
	return nil
}

// closing keeps a flat decision from doing more than its name says: its order
// takes at most what is left of its strategy's own position once every working
// order of that side has filled. So no number of flat decisions, in whatever
// order they and their fills arrive, carries a position across zero.
func (c *check) closing() *Rejection {
	if c.d.Action != event.ActionFlat {
		return nil
	}
	own := c.v.Own
	if (c.d.Side == event.Sell) != (own.Sign() > 0) && !own.IsZero() {
		return refuse(NothingToClose, "the strategy's position is %s, a %s of %s would add to it", own, c.d.Side, c.qty)
	}
	left, err := ledger.Sub(ledger.Abs(own), c.v.OwnWorking)
	if err != nil {
		return refuse(Malformed, "%v", err)
	}
	if left.Sign() <= 0 {
		return refuse(NothingToClose, "the strategy's position is %s and its working %s orders are %s: nothing of %s is left to close", own, c.d.Side, c.v.OwnWorking, c.qty)
	}
	if c.qty.Cmp(left) > 0 {
		c.detail = fmt.Sprintf("reduced from %s to %s: the strategy's position is %s and its working %s orders are %s", c.qty, left, own, c.d.Side, c.v.OwnWorking)
		c.qty = left
	}
	return nil
}

func (c *check) unknownOrder() *Rejection {
	if c.d.Side == event.Buy {
		open, err := ledger.Add(c.v.WorkingBuy, c.qty)
		c.reducing = err == nil && c.v.Position.Sign() < 0 && open.Cmp(ledger.Abs(c.v.Position)) <= 0
	} else {
		open, err := ledger.Add(c.v.WorkingSell, c.qty)
		c.reducing = err == nil && c.v.Position.Sign() > 0 && open.Cmp(c.v.Position) <= 0
	}
	if c.v.Unknown != "" && !c.reducing {
		return refuse(UnknownOrder, "order %s of the account has an unknown outcome, 0 such orders are allowed", c.v.Unknown)
	}
	return nil
}

func (c *check) instrument() *Rejection {
	if c.v.Instrument == nil {
		return refuse(UnknownInstrument, "nothing is known of %s on %s", c.d.Symbol, c.d.Venue)
	}
	return nil
}

func (c *check) allowed() *Rejection {
	for _, s := range c.cfg.Symbols {
		if s == "*" || s == c.d.Symbol || s == c.d.Venue+"|"+c.d.Symbol {
			return nil
		}
	}
	return refuse(SymbolNotAllowed, "%s|%s is none of the %d that are allowed", c.d.Venue, c.d.Symbol, len(c.cfg.Symbols))
}

func (c *check) expired() *Rejection {
	if late := c.v.Now - c.d.Deadline; late > 0 {
		return refuse(Expired, "%s past the deadline, at most 0s is allowed", time.Duration(late))
	}
	if ahead := time.Duration(c.d.Time - c.v.Now); ahead > c.cfg.MaxClockSkew {
		return refuse(ClockSkew, "the decision's time is %s ahead, at most %s is allowed: compare the clocks of the machines", ahead, c.cfg.MaxClockSkew)
	}
	if age := time.Duration(c.v.Now - c.d.Time); age > c.cfg.MaxDecisionAge {
		return refuse(Expired, "decision is %s old, at most %s is allowed", age, c.cfg.MaxDecisionAge)
	}
	return nil
}

// quote also chooses the price at which the other limits value the order.
func (c *check) quote() *Rejection {
	q := c.v.Quote
	if q == nil || !sane(q.Bid) || !sane(q.Ask) {
		return refuse(QuoteMissing, "no quote with both sides of %s on %s", c.d.Symbol, c.d.Venue)
	}
	if q.Bid.Cmp(q.Ask) > 0 {
		return refuse(QuoteMissing, "the last quote is crossed: bid %s above ask %s", q.Bid, q.Ask)
	}
	if ahead := time.Duration(q.RecvTime - c.v.Now); ahead > c.cfg.MaxClockSkew {
		return refuse(ClockSkew, "the last quote's time is %s ahead, at most %s is allowed: compare the clocks of the machines", ahead, c.cfg.MaxClockSkew)
	}
	if age := time.Duration(c.v.Now - q.RecvTime); age > c.cfg.MaxQuoteAge {
		return refuse(QuoteStale, "the last quote is %s old, at most %s is allowed", age, c.cfg.MaxQuoteAge)
	}
	return nil
}

// touch is the side of the quote that the order would take.
func (c *check) touch() event.Decimal {
	if c.d.Side == event.Buy {
		return c.v.Quote.Ask
	}
	return c.v.Quote.Bid
}

// steps rounds the quantity down and the limit price away from the market, to
// the instrument's steps, and refuses what is then too small.
func (c *check) steps() *Rejection {
	in := c.v.Instrument
	qty, err := floorTo(c.qty, in.QtyStep)
	if err != nil {
		return refuse(Malformed, "rounding quantity %s to steps of %s: %v", c.qty, in.QtyStep, err)
	}
	smallest := in.QtyStep
	if in.MinQty.Valid {
		smallest = in.MinQty.Decimal
	}
	if qty.Sign() <= 0 || qty.Cmp(smallest) < 0 {
		return refuse(MinQty, "quantity %s in steps of %s is %s, at least %s is needed", c.qty, in.QtyStep, qty, smallest)
	}
	c.o = Order{Qty: qty, LimitPrice: c.d.LimitPrice, Price: c.touch(), Reducing: c.reducing, Detail: c.detail}
	if c.d.Type == event.Limit {
		price, err := floorTo(c.d.LimitPrice.Decimal, in.PriceTick)
		if err == nil && c.d.Side == event.Sell && price.Cmp(c.d.LimitPrice.Decimal) < 0 {
			price, err = ledger.Add(price, in.PriceTick)
		}
		if err != nil || price.Sign() <= 0 {
			return refuse(Malformed, "limit price %s in steps of %s is no price", c.d.LimitPrice, in.PriceTick)
		}
		c.o.LimitPrice, c.o.Price = event.Some(price), price
	}
	own, err := ledger.Mul(c.o.Price, qty)
	if err != nil {
		return refuse(Malformed, "%v", err)
	}
	if in.MinNotional.Valid && own.Cmp(in.MinNotional.Decimal) < 0 {
		return refuse(MinNotional, "order is worth %s %s, at least %s is needed", own, in.Quote, in.MinNotional)
	}
	// The other limits take the dearer of limit price and touch: a sale far below the
	// market is filled at the market.
	c.notional = own
	if c.touch().Cmp(c.o.Price) > 0 {
		if c.notional, err = ledger.Mul(c.touch(), qty); err != nil {
			return refuse(Malformed, "%v", err)
		}
	}
	return nil
}

// floorTo returns the largest multiple of step that is not above v; a step of 0
// is no step.
func floorTo(v, step event.Decimal) (event.Decimal, error) {
	if step.Sign() <= 0 {
		return v, nil
	}
	_, rest, err := v.Money().QuoRem(step.Money())
	if err != nil {
		return v, err
	}
	r, err := event.FromMoney(rest)
	if err != nil {
		return v, err
	}
	f, err := ledger.Sub(v, r)
	return ledger.Trim(f), err
}

// orderSize bounds entries. What only reduces is bounded by the position: one that rose
// beyond the limit can be closed.
func (c *check) orderSize() *Rejection {
	if c.reducing {
		return nil
	}
	if c.o.Qty.Cmp(c.cfg.MaxOrderQty) > 0 {
		return refuse(MaxOrderQty, "quantity is %s, at most %s is allowed", c.o.Qty, c.cfg.MaxOrderQty)
	}
	if c.notional.Cmp(c.cfg.MaxOrderNotional) > 0 {
		return refuse(MaxOrderNotional, "order is worth %s %s, at most %s is allowed", c.notional, c.v.Instrument.Quote, c.cfg.MaxOrderNotional)
	}
	return nil
}

// collar compares a limit price with the side of the quote that it would take,
// and that side with the other one for a market order: a book that wide has no
// price.
func (c *check) collar() *Rejection {
	reference := c.touch()
	if c.d.Type == event.Market {
		reference = c.v.Quote.Bid
		if c.d.Side == event.Sell {
			reference = c.v.Quote.Ask
		}
	}
	apart, beyond, err := apartBps(c.o.Price, reference, c.cfg.CollarBps)
	if err != nil {
		return refuse(Malformed, "%v", err)
	}
	if beyond {
		return refuse(Collar, "price %s is %s bps from the quote's %s, at most %s is allowed", c.o.Price, apart, reference, c.cfg.CollarBps)
	}
	return nil
}

// drift bounds how far an entry's price may have moved since the signal: by the drift
// that is allowed against it, dearer for a buyer and cheaper for a seller, and by the
// collar the other way, for a price that is far too good is a bad quote.
func (c *check) drift() *Rejection {
	if c.reducing {
		return nil
	}
	limit := c.cfg.MaxDriftBps
	if c.d.MaxDriftBps.Sign() > 0 && c.d.MaxDriftBps.Cmp(limit) < 0 {
		limit = c.d.MaxDriftBps
	}
	now := c.touch()
	better := (c.d.Side == event.Buy) != (now.Cmp(c.d.RefPrice) > 0)
	if better && c.cfg.CollarBps.Cmp(limit) > 0 {
		limit = c.cfg.CollarBps
	}
	apart, beyond, err := apartBps(now, c.d.RefPrice, limit)
	if err != nil {
		return refuse(Malformed, "%v", err)
	}
	if beyond && better {
		return refuse(Collar, "the quote's price %s is %s bps better than the signal's %s, at most %s is believed", now, apart, c.d.RefPrice, limit)
	}
	if beyond {
		return refuse(Drifted, "price went from %s to %s, %s bps against the signal, at most %s is allowed", c.d.RefPrice, now, apart, limit)
	}
	return nil
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

func (c *check) position() *Rejection {
	if c.reducing {
		return nil
	}
	after, err := ledger.Add(c.v.Position, c.v.WorkingBuy)
	if err == nil {
		after, err = ledger.Add(after, c.o.Qty)
	}
	if c.d.Side == event.Sell {
		if after, err = ledger.Sub(c.v.Position, c.v.WorkingSell); err == nil {
			after, err = ledger.Sub(after, c.o.Qty)
		}
	}
	var worth event.Decimal
	if err == nil {
		price := c.o.Price
		if t := c.touch(); t.Cmp(price) > 0 {
			price = t
		}
		worth, err = ledger.Mul(ledger.Abs(after), price)
	}
	if err != nil {
		return refuse(Malformed, "%v", err)
	}
	if worth.Cmp(c.cfg.MaxPositionNotional) > 0 {
		return refuse(MaxPosition, "position would be %s, worth %s %s, at most %s is allowed", after, worth, c.v.Instrument.Quote, c.cfg.MaxPositionNotional)
	}
	return nil
}

func (c *check) dailyLoss() *Rejection {
	if c.reducing {
		return nil
	}
	if !c.v.DayPnL.Valid {
		return refuse(DailyLoss, "the day's profit is not known: an open position has no mark")
	}
	if floor := ledger.Neg(c.cfg.MaxDailyLoss); c.v.DayPnL.Decimal.Cmp(floor) <= 0 {
		return refuse(DailyLoss, "the day's profit is %s %s, it must stay above %s", c.v.DayPnL, c.v.Instrument.Quote, floor)
	}
	return nil
}

// rate bounds entries; what reduces is charged, and passes.
func (c *check) rate() *Rejection {
	if c.reducing {
		return nil
	}
	for _, w := range []struct {
		span time.Duration
		max  int
	}{{time.Second, c.cfg.MaxOrdersPerSecond}, {time.Minute, c.cfg.MaxOrdersPerMinute}} {
		n := 0
		for _, t := range c.sent {
			if t > c.v.Now-int64(w.span) {
				n++
			}
		}
		if n >= w.max {
			return refuse(OrderRate, "%d orders within %s, at most %d are allowed", n, w.span, w.max)
		}
	}
	return nil
}

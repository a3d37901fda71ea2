package risk

import (
	"fmt"
	"maps"
	"slices"
	"strings"
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
	WouldFlip         = "would_flip"
	NoLimit           = "currency_without_limit"
	ReferenceMissing  = "reference_missing"
)

// Limits lists every limit, in the order in which they are checked.
func Limits() []string {
	return []string{
		Malformed, UnknownAccount, KillSwitch, Children, NothingToClose, WouldFlip, UnknownOrder, UnknownInstrument, SymbolNotAllowed, NoLimit, Expired, ClockSkew,
		QuoteMissing, QuoteStale, MinQty, MinNotional, MaxOrderQty, MaxOrderNotional, ReferenceMissing, Collar, Drifted, MaxPosition, DailyLoss, OrderRate,
	}
}

// exitQuoteAge is how old the last quote may be that an order which only reduces is
// priced by.
const exitQuoteAge = 30 * time.Second

// absurd is above any price, quantity or limit of a real instrument.
var absurd = event.NewDecimal(1_000_000_000_000, 0)

// Quote is the last top of book: a side that is empty is 0. RecvTime in Unix
// nanoseconds of the session.
type Quote struct {
	Bid, Ask event.Decimal
	RecvTime int64
}

// Trade is the last trade that did not come late; RecvTime as in Quote.
type Trade struct {
	Price    event.Decimal
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
	// Entered is the client order id of the entry that another decision on the signal of
	// this one made for the account; empty when there is none, and for what closes.
	Entered string
	// Unknown is the client order id of an order of the account whose outcome is
	// not known; empty when there is none.
	Unknown string
	// Instrument and Quote are nil when they are not known.
	Instrument *event.Instrument
	Quote      *Quote
	// Trade is the instrument's last trade, nil where none is known; MeanMid the mean of
	// its mids, absent where it is not known. They say whether the quote can be believed.
	Trade   *Trade
	MeanMid event.NullDecimal
	// Position is the account's signed holding; WorkingBuy and WorkingSell are
	// the open quantities of its orders in the same instrument.
	Position, WorkingBuy, WorkingSell event.Decimal
	// Own is the signed holding of the decision's strategy in the instrument;
	// OwnWorking is what its orders of the decision's side may still fill, those
	// with an unknown outcome included.
	Own, OwnWorking event.Decimal
	// ExitsWorking is what the account's orders of the decision's side that close
	// positions in the instrument may still fill, those with an unknown outcome included.
	ExitsWorking event.Decimal
	// DayPnL is the account's profit of the day by currency; absent where it cannot be
	// told.
	DayPnL map[string]event.NullDecimal
}

// Order is what passed: the decision's order, rounded to the instrument's steps. It is
// always a limit order: a market order goes out as one that takes what it can at once.
type Order struct {
	Qty        event.Decimal
	LimitPrice event.Decimal
	TIF        event.TimeInForce
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
	// entries and exits hold the times of the orders of the last minute that add risk and
	// that only reduce, oldest first. Each has a budget of its own: a burst of entries
	// keeps nobody from closing.
	entries, exits []int64
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
		c.orderSize, c.references, c.drift, c.position, c.dailyLoss, c.rate,
	} {
		if r := limit(); r != nil {
			return Order{}, r
		}
	}
	return c.o, nil
}

// Charge counts an order against the rate limits at time t, when it is about to
// be sent; the charge is never taken back (RTS 6 article 15(2)).
func (g *Gate) Charge(t int64, reducing bool) {
	sent := &g.entries
	if reducing {
		sent = &g.exits
	}
	*sent = append(*sent, t)
	old := 0
	for old < len(*sent) && (*sent)[old] <= t-int64(time.Minute) {
		old++
	}
	*sent = slices.Delete(*sent, 0, old)
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
	case d.MaxSlippageBps.Valid && (d.MaxSlippageBps.Decimal.Sign() < 0 || d.MaxSlippageBps.Decimal.Cmp(wholePrice) >= 0):
		return refuse(Malformed, "largest slippage is %s bps, want 0 or more, below 10000", d.MaxSlippageBps)
	case d.Action != event.ActionFlat && (d.StopBps >= 10_000 || d.Horizon < 0):
		return refuse(Malformed, "stop is %d bps and horizon %s, want below 10000 and 0 or more", d.StopBps, time.Duration(d.Horizon))
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
	if c.v.Entered != "" {
		return refuse(Children, "order %s entered on the signal already, at most 1 is allowed, whatever the arm", c.v.Entered)
	}
	return nil
}

// closing keeps a flat decision from doing more than its name says: its order takes
// at most what is left of its strategy's own position, and of the account's position
// in the instrument, once every working order that closes them has filled. So no
// number of flat decisions, in whatever order they and their fills arrive, carries a
// position across zero, neither the strategy's nor the account's.
func (c *check) closing() *Rejection {
	if c.d.Action != event.ActionFlat {
		return nil
	}
	own := c.v.Own
	if !c.closes(own) && !own.IsZero() {
		return refuse(NothingToClose, "the strategy's position is %s, a %s of %s would add to it", own, c.d.Side, c.qty)
	}
	left, err := ledger.Sub(ledger.Abs(own), c.v.OwnWorking)
	if err != nil {
		return refuse(Malformed, "%v", err)
	}
	if left.Sign() <= 0 {
		return refuse(NothingToClose, "the strategy's position is %s and its working %s orders are %s: nothing of %s is left to close", own, c.d.Side, c.v.OwnWorking, c.qty)
	}
	asked := c.qty
	if c.qty.Cmp(left) > 0 {
		c.detail = fmt.Sprintf("reduced from %s to %s: the strategy's position is %s and its working %s orders are %s", asked, left, own, c.d.Side, c.v.OwnWorking)
		c.qty = left
	}
	net := event.Decimal{}
	if c.closes(c.v.Position) {
		if net, err = ledger.Sub(ledger.Abs(c.v.Position), c.v.ExitsWorking); err != nil {
			return refuse(Malformed, "%v", err)
		}
	}
	if net.Sign() <= 0 {
		return refuse(WouldFlip, "the account's position is %s and its closing %s orders are %s: a %s of %s would open the other side", c.v.Position, c.d.Side, c.v.ExitsWorking, c.d.Side, c.qty)
	}
	if c.qty.Cmp(net) > 0 {
		c.detail = fmt.Sprintf("reduced from %s to %s, the rest would_flip: the account's position is %s and its closing %s orders are %s", asked, net, c.v.Position, c.d.Side, c.v.ExitsWorking)
		c.qty = net
	}
	c.reducing = true
	return nil
}

// closes reports whether an order of the decision's side makes a position smaller.
func (c *check) closes(position event.Decimal) bool {
	if c.d.Side == event.Buy {
		return position.Sign() < 0
	}
	return position.Sign() > 0
}

func (c *check) unknownOrder() *Rejection {
	working := c.v.WorkingBuy
	if c.d.Side == event.Sell {
		working = c.v.WorkingSell
	}
	if open, err := ledger.Add(working, c.qty); err == nil && c.closes(c.v.Position) && open.Cmp(ledger.Abs(c.v.Position)) <= 0 {
		c.reducing = true
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

// allowed bounds entries: a position in what is not traded any more can be closed.
func (c *check) allowed() *Rejection {
	if c.reducing {
		return nil
	}
	if !slices.ContainsFunc(c.cfg.Symbols, func(s string) bool { return s == "*" || s == c.d.Symbol || s == c.d.Venue+"|"+c.d.Symbol }) {
		return refuse(SymbolNotAllowed, "%s|%s is none of the %d that are allowed", c.d.Venue, c.d.Symbol, len(c.cfg.Symbols))
	}
	quote := c.v.Instrument.Quote
	for _, l := range []struct {
		key     string
		amounts Amounts
	}{{"max_order_notional", c.cfg.MaxOrderNotional}, {"max_position_notional", c.cfg.MaxPositionNotional}, {"max_daily_loss", c.cfg.MaxDailyLoss}} {
		if _, ok := l.amounts[quote]; !ok {
			return refuse(NoLimit, "%s is quoted in %s, for which %s has no entry (it has %s)", c.d.Symbol, quote, l.key, strings.Join(l.amounts.Currencies(), ", "))
		}
	}
	return nil
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

// quote asks for a top of book that can be believed as far as its age and sides go.
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
	oldest := c.cfg.MaxQuoteAge
	if c.reducing {
		oldest = max(oldest, exitQuoteAge)
	}
	if age := time.Duration(c.v.Now - q.RecvTime); age > oldest {
		return refuse(QuoteStale, "the last quote is %s old, at most %s is allowed", age, oldest)
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
	c.o = Order{Qty: qty, TIF: c.d.TIF, Reducing: c.reducing, Detail: c.detail}
	limit := c.d.LimitPrice.Decimal
	if c.d.Type == event.Market {
		if limit, err = c.marketLimit(); err != nil {
			return refuse(Malformed, "pricing a market order: %v", err)
		}
		if c.o.TIF == event.GTC {
			c.o.TIF = event.IOC
		}
	}
	price, err := floorTo(limit, in.PriceTick)
	if err == nil && c.d.Side == event.Sell && price.Cmp(limit) < 0 {
		price, err = ledger.Add(price, in.PriceTick)
	}
	if err != nil || price.Sign() <= 0 {
		return refuse(Malformed, "limit price %s in steps of %s is no price", limit, in.PriceTick)
	}
	c.o.LimitPrice = price
	own, err := ledger.Mul(price, qty)
	if err != nil {
		return refuse(Malformed, "%v", err)
	}
	if in.MinNotional.Valid && own.Cmp(in.MinNotional.Decimal) < 0 {
		return refuse(MinNotional, "order is worth %s %s, at least %s is needed", own, in.Quote, in.MinNotional)
	}
	// The other limits take the dearer of limit price and touch: a sale far below the
	// market is filled at the market.
	c.notional = own
	if c.touch().Cmp(price) > 0 {
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
	quote := c.v.Instrument.Quote
	if most := c.cfg.MaxOrderNotional[quote]; c.notional.Cmp(most) > 0 {
		return refuse(MaxOrderNotional, "order is worth %s %s, at most %s is allowed", c.notional, quote, most)
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
		price := c.o.LimitPrice
		if t := c.touch(); t.Cmp(price) > 0 {
			price = t
		}
		worth, err = ledger.Mul(ledger.Abs(after), price)
	}
	if err != nil {
		return refuse(Malformed, "%v", err)
	}
	quote := c.v.Instrument.Quote
	if most := c.cfg.MaxPositionNotional[quote]; worth.Cmp(most) > 0 {
		return refuse(MaxPosition, "position would be %s, worth %s %s, at most %s is allowed", after, worth, quote, most)
	}
	return nil
}

// dailyLoss looks at every currency in which the account has a result: a loss in one
// of them stops entries in all. A currency without a limit may not lose anything.
func (c *check) dailyLoss() *Rejection {
	if c.reducing {
		return nil
	}
	for _, currency := range slices.Sorted(maps.Keys(c.v.DayPnL)) {
		pnl := c.v.DayPnL[currency]
		if !pnl.Valid {
			return refuse(DailyLoss, "the day's profit in %s is not known: an open position has no mark yet", currency)
		}
		most, limited := c.cfg.MaxDailyLoss[currency]
		floor := ledger.Neg(most)
		if limited && pnl.Decimal.Cmp(floor) <= 0 || !limited && pnl.Decimal.Sign() < 0 {
			return refuse(DailyLoss, "the day's profit is %s %s, it must stay above %s", pnl, currency, floor)
		}
	}
	return nil
}

// rate bounds the orders sent; what reduces has a budget of the same size for itself.
func (c *check) rate() *Rejection {
	sent := c.entries
	if c.reducing {
		sent = c.exits
	}
	for _, w := range []struct {
		span time.Duration
		max  int
	}{{time.Second, c.cfg.MaxOrdersPerSecond}, {time.Minute, c.cfg.MaxOrdersPerMinute}} {
		n := 0
		for _, t := range sent {
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

package broker

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/event"
)

// market is what the paper broker sees of one instrument.
type market struct {
	quote Quote
	seen  bool
	// bidTaken and askTaken are what fills took of the sizes that are shown at the
	// current quote's prices.
	bidTaken, askTaken event.Decimal
	// resting orders, oldest first.
	resting []*paperOrder
	// crossing are the quotes that cross a resting order and were not acted on yet,
	// oldest first, at most maxCrossing; former is what fills took at such a price
	// after the market had moved on.
	crossing []crossing
	former   [2]level // of buys, of sells
}

// maxCrossing bounds the quotes that wait for the disk; the oldest is let go of.
const maxCrossing = 1024

// crossing is a quote that crosses resting orders, of which takers did not rest yet.
type crossing struct {
	Quote
	takers []*paperOrder
}

// level is a price at which fills took something.
type level struct{ price, taken event.Decimal }

// levelOf returns where a crossing quote's price for an order of that side counts
// what was taken, and what that was.
func (m *market) levelOf(price event.Decimal, s event.Side) (current bool, taken event.Decimal) {
	if now, _ := m.quote.showing(s); price.Cmp(now) == 0 {
		return true, m.taken(s)
	}
	l := &m.former[side(s)]
	if l.price.Cmp(price) != 0 {
		*l = level{price: price}
	}
	return false, l.taken
}

func side(s event.Side) int {
	if s == event.Sell {
		return 1
	}
	return 0
}

type instrument struct{ venue, symbol string }

// match decides what becomes of a new order.
func (p *Paper) match(o *paperOrder, e *entry) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return p.broken
	}
	if _, dup := p.orders[o.ClientOrderID]; dup {
		return fmt.Errorf("submitting order %s: the client order id was used before", o.ClientOrderID)
	}
	r := &e.Report
	reject := func(reason, detail string) error {
		r.State, r.Reason, r.Detail = event.OrderRejected, reason, detail
		return nil
	}
	if o.ClientOrderID == "" || o.Qty.Sign() <= 0 || (o.Side != event.Buy && o.Side != event.Sell) || (o.Type == event.Limit) != o.LimitPrice.Valid || (o.LimitPrice.Valid && o.LimitPrice.Decimal.Sign() <= 0) {
		return reject("invalid", "the order has no id, side or quantity, or its limit price does not fit its type")
	}
	m := p.market(o.Venue, o.Symbol)
	var price, size event.Decimal
	ok := false
	if m.seen {
		price, size, ok = p.touch(&m.quote, m.taken(o.Side), &o.Order)
	}
	if !ok && o.Type == event.Market {
		return reject("no_quote", "there is no quote to fill against")
	}
	crosses := ok && (o.Type == event.Market || !worse(o.Side, price, o.LimitPrice.Decimal))
	qty := event.Decimal{}
	if crosses {
		if qty = size; o.Qty.Cmp(size) < 0 {
			qty = o.Qty
		}
	}
	if o.TIF == event.FOK && qty.Cmp(o.Qty) < 0 {
		r.State, r.Reason, r.Detail = event.OrderExpired, "fok", fmt.Sprintf("%s of %s could be filled at once", qty, o.Qty)
		return nil
	}
	if qty.Sign() > 0 {
		x, err := p.execute(o, &m.quote, price, qty, event.Taker)
		if err != nil {
			return reject("inexact", err.Error())
		}
		r.Fills = append(r.Fills, x)
		r.State = event.OrderPartiallyFilled
	}
	switch {
	case qty.Cmp(o.Qty) == 0:
		r.State = event.OrderFilled
	case o.TIF != event.GTC || o.Type == event.Market:
		r.State, r.Reason, r.Detail = event.OrderExpired, "ioc", fmt.Sprintf("%s of %s could be filled at once", qty, o.Qty)
	}
	if qty.Sign() > 0 {
		m.take(o.Side, qty)
	}
	e.Crossed = crosses && !r.State.Terminal()
	return nil
}

// showing is what a quote shows to an order of that side.
func (q *Quote) showing(s event.Side) (price event.Decimal, size event.NullDecimal) {
	if s == event.Sell {
		return q.Bid, q.BidQty
	}
	return q.Ask, q.AskQty
}

// touch is the price that an order would take and how much it may take there: a
// share of the quote's size, less what earlier fills took.
func (p *Paper) touch(q *Quote, taken event.Decimal, o *Order) (price, left event.Decimal, ok bool) {
	price, size := q.showing(o.Side)
	if price.Sign() <= 0 {
		return price, left, false
	}
	shown := size.Decimal
	if !size.Valid {
		shown = sizeFor(p.cfg.DefaultSize, price)
	}
	left, err := ledger.Sub(shareOf(shown, p.cfg.Participation, o.QtyStep), taken)
	if err != nil || left.Sign() < 0 {
		left = event.Decimal{}
	}
	return price, left, true
}

// taken is what fills of that side took of what the current quote shows.
func (m *market) taken(s event.Side) event.Decimal {
	if s == event.Sell {
		return m.bidTaken
	}
	return m.askTaken
}

// take notes that a fill used some of the quote's size.
func (m *market) take(s event.Side, qty event.Decimal) {
	taken := &m.askTaken
	if s == event.Sell {
		taken = &m.bidTaken
	}
	if sum, err := ledger.Add(*taken, qty); err == nil {
		*taken = sum
	}
}

// show takes a quote over. What fills took at a price stays taken while the price
// stays, whatever size the venue shows there: it does not know of them.
func (m *market) show(q *Quote) {
	if m.seen {
		m.askTaken = stillTaken(m.askTaken, &m.quote, q, event.Buy)
		m.bidTaken = stillTaken(m.bidTaken, &m.quote, q, event.Sell)
	}
	m.quote, m.seen = *q, true
}

func stillTaken(taken event.Decimal, was, is *Quote, s event.Side) event.Decimal {
	before, _ := was.showing(s)
	if price, _ := is.showing(s); before.Cmp(price) != 0 {
		return event.Decimal{}
	}
	return taken
}

// worse reports whether price is worse than limit for an order of that side.
func worse(s event.Side, price, limit event.Decimal) bool {
	if s == event.Buy {
		return price.Cmp(limit) > 0
	}
	return price.Cmp(limit) < 0
}

// execute makes the fill: a taker pays slippage, though never beyond its limit,
// a resting order gets its own price.
func (p *Paper) execute(o *paperOrder, q *Quote, price, qty event.Decimal, l event.Liquidity) (Execution, error) {
	fee := p.cfg.MakerBps
	if l == event.Taker {
		slipped, err := slip(price, p.cfg.SlippageBps, o.PriceTick, o.Side)
		if err != nil {
			return Execution{}, err
		}
		price, fee = slipped, p.cfg.TakerBps
		if o.LimitPrice.Valid && worse(o.Side, price, o.LimitPrice.Decimal) {
			price = o.LimitPrice.Decimal
		}
	}
	notional, err := ledger.Mul(price, qty)
	if err != nil {
		return Execution{}, err
	}
	paid, err := feeOf(notional, fee)
	if err != nil {
		return Execution{}, err
	}
	return Execution{
		ExecID: "X" + strconv.FormatUint(p.execs+1, 10), Price: price, Qty: qty, Liquidity: l, Fee: paid, FeeCurrency: o.QuoteCurrency, FeeQuote: paid,
		QuoteID: q.ID(), Time: p.env.Clock.Now().UnixNano(), Life: p.life,
	}, nil
}

// Quote implements QuoteTaker: resting orders that the quote crosses are filled,
// oldest first, up to its size. It does not wait for the disk; whoever asks about an
// order afterwards hears of the fill.
func (p *Paper) Quote(q *Quote) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return
	}
	m := p.market(q.Venue, q.Symbol)
	m.show(q)
	crosses, c := false, crossing{Quote: *q}
	for _, o := range m.resting {
		price, _ := q.showing(o.Side)
		if price.Sign() <= 0 {
			continue
		}
		if worse(o.Side, price, o.LimitPrice.Decimal) {
			o.crossed = false
			continue
		}
		crosses = true
		if o.crossed {
			c.takers = append(c.takers, o)
		}
	}
	if crosses {
		if len(m.crossing) == 0 {
			p.crossed = append(p.crossed, m)
		}
		m.crossing = append(m.crossing[max(0, len(m.crossing)+1-maxCrossing):], c)
		select {
		case p.work <- struct{}{}:
		default: // it is awake
		}
	}
}

// fillCrossed fills the resting orders that quotes crossed. It is called with
// p.writing.
func (p *Paper) fillCrossed() {
	p.mu.Lock()
	crossed := p.crossed
	p.crossed = nil
	p.mu.Unlock()
	for _, m := range crossed {
		p.mu.Lock()
		quotes := m.crossing
		m.crossing = nil
		p.mu.Unlock()
		for i := range quotes {
			if err := p.fillAt(m, &quotes[i]); err != nil {
				p.env.Log.Error("stopping the paper broker", "err", err)
				return
			}
		}
	}
}

// fillAt fills the resting orders that one quote crosses.
func (p *Paper) fillAt(m *market, c *crossing) error {
	p.mu.Lock()
	resting := slices.Clone(m.resting)
	p.mu.Unlock()
	for _, o := range resting {
		e, err := p.cross(o, m, &c.Quote, slices.Contains(c.takers, o))
		if err != nil {
			p.env.Log.Error("leaving a resting order unfilled", "order", o.ClientOrderID, "err", err)
			continue
		}
		if e == nil {
			continue
		}
		if err := p.commit(o, e); err != nil {
			return err
		}
	}
	return nil
}

// cross fills a resting order against the quote as far as it can, or returns
// nothing. An order that takes pays the quote's price, one that rests gets its own.
func (p *Paper) cross(o *paperOrder, m *market, q *Quote, takes bool) (*entry, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	shown, _ := q.showing(o.Side)
	current, taken := m.levelOf(shown, o.Side)
	price, size, ok := p.touch(q, taken, &o.Order)
	if p.broken != nil || !ok || size.Sign() <= 0 || worse(o.Side, price, o.LimitPrice.Decimal) {
		return nil, nil
	}
	qty := size
	if o.left.Cmp(size) < 0 {
		qty = o.left
	}
	liquidity := event.Taker
	if !takes {
		price, liquidity = o.LimitPrice.Decimal, event.Maker
	}
	x, err := p.execute(o, q, price, qty, liquidity)
	if err != nil {
		return nil, err
	}
	if current {
		m.take(o.Side, qty)
	} else if sum, err := ledger.Add(taken, qty); err == nil {
		m.former[side(o.Side)].taken = sum
	}
	e := &entry{Report: Report{State: event.OrderPartiallyFilled, Fills: []Execution{x}}}
	if qty.Cmp(o.left) == 0 {
		e.Report.State = event.OrderFilled
	}
	return e, nil
}

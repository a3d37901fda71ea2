package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// PaperConfig is how the paper broker fills and what it charges.
type PaperConfig struct {
	TakerBps    event.Decimal `yaml:"taker_bps" doc:"fee of a fill that takes liquidity, in basis points; rounded up to 8 decimals"`
	MakerBps    event.Decimal `yaml:"maker_bps" doc:"fee of a resting order's fill, in basis points"`
	SlippageBps event.Decimal `yaml:"slippage_bps" doc:"how much worse than the quote a taker fills, in basis points, rounded to the next price step"`
	// Participation keeps a simulated order from taking a whole quote, for which it
	// would in truth compete with others.
	Participation event.Decimal `yaml:"participation" doc:"largest share of a quote's size that fills take, above 0, at most 1; rounded down to the quantity step"`
	DefaultSize   event.Decimal `yaml:"default_size" doc:"size of a quote whose venue sends none, in quote currency"`
}

// DefaultPaperConfig returns the fees of a large venue's lowest tier, roughly,
// half a basis point of slippage, and half of what a quote shows.
func DefaultPaperConfig() PaperConfig {
	return PaperConfig{
		TakerBps:      event.MustDecimal("5"),
		MakerBps:      event.MustDecimal("2"),
		SlippageBps:   event.MustDecimal("0.5"),
		Participation: event.MustDecimal("0.5"),
		DefaultSize:   event.MustDecimal("10000"),
	}
}

// Validate reports every value that makes no sense.
func (c *PaperConfig) Validate() component.Problems {
	var p component.Problems
	for _, d := range []struct {
		path  string
		value event.Decimal
	}{{"taker_bps", c.TakerBps}, {"maker_bps", c.MakerBps}, {"slippage_bps", c.SlippageBps}} {
		if d.value.Sign() < 0 || d.value.Cmp(event.NewDecimal(1000, 0)) > 0 || d.value.Scale() > 4 {
			p.Addf(d.path, "is %s: want 0 to 1000 basis points with at most 4 decimals", d.value)
		}
	}
	if d := c.Participation; d.Sign() <= 0 || d.Cmp(event.NewDecimal(1, 0)) > 0 || d.Scale() > 4 {
		p.Addf("participation", "is %s: want a share above 0, at most 1, with at most 4 decimals", d)
	}
	if d := c.DefaultSize; d.Sign() <= 0 || d.Cmp(event.NewDecimal(1_000_000_000_000, 0)) > 0 {
		p.Addf("default_size", "is %s: want an amount of quote currency above 0", d)
	}
	return p
}

func init() {
	Registry.Register(component.Spec[Kind]{
		Name:    "paper",
		Summary: "fills against live quotes, up to a share of their displayed size, with fees and slippage; keeps its ledger on disk",
		Config:  func() any { c := DefaultPaperConfig(); return &c },
		New: Kind{
			Profile: Profile{Dedupe: DedupePermanent, Immediate: true},
			Validate: func(s *Settings) component.Problems {
				var p component.Problems
				p.Under("paper", s.Paper.Validate())
				return p
			},
			Open: func(_ context.Context, a Account) (Broker, error) {
				return OpenPaper(a.Settings.Paper, a.Dir, a.Env)
			},
		},
	})
}

// paperOrder is an order at the paper broker; it is never forgotten.
type paperOrder struct {
	Order
	report Report
	left   event.Decimal
}

// market is what the paper broker sees of one instrument.
type market struct {
	quote Quote
	seen  bool
	// bidTaken and askTaken are what fills took of the current quote's sizes.
	bidTaken, askTaken event.Decimal
	// resting orders, oldest first.
	resting []*paperOrder
}

type instrument struct{ venue, symbol string }

// Paper is the reference broker. Every change is in its ledger file, and synced,
// before anybody hears of it; what it answers is what the file says.
type Paper struct {
	cfg PaperConfig
	env component.Env

	// writing is held for a whole change, its sync included, and comes before mu;
	// what both guard is changed under both. So a quote waits for no disk, unless
	// a resting order is to be filled.
	writing sync.Mutex
	file    *ledgerFile

	mu      sync.Mutex
	broken  error // why nothing is accepted any more
	seq     uint64
	orders  map[string]*paperOrder
	execs   uint64
	changed []*paperOrder // since the account was opened, by Seq of their last report
	wake    chan struct{} // closed and replaced when something changed
	markets map[instrument]*market
}

// OpenPaper opens the account whose ledger lies in dir, or makes it. Only one
// process can have it open.
func OpenPaper(cfg PaperConfig, dir string, env component.Env) (*Paper, error) {
	p := &Paper{cfg: cfg, env: env, orders: make(map[string]*paperOrder), wake: make(chan struct{}), markets: make(map[instrument]*market)}
	file, torn, err := openLedgerFile(dir, p.replay)
	if err != nil {
		return nil, fmt.Errorf("opening the paper broker's ledger: %w", err)
	}
	if torn > 0 {
		env.Log.Warn("cut a torn entry off the paper broker's ledger", "bytes", torn)
	}
	p.file = file
	return p, nil
}

// entry is one line of the ledger: what an order became.
type entry struct {
	Order  *Order `json:"order,omitempty"` // with the first entry of an order
	Report Report `json:"report"`          // Fills holds only the new ones
}

// replay applies an entry read from the file, or just written to it.
func (p *Paper) replay(e *entry) error {
	o := p.orders[e.Report.ClientOrderID]
	switch {
	case e.Order != nil && o != nil:
		return fmt.Errorf("order %s is there twice", e.Report.ClientOrderID)
	case e.Order == nil && o == nil:
		return fmt.Errorf("order %s has no beginning", e.Report.ClientOrderID)
	case e.Report.Seq != p.seq+1:
		return fmt.Errorf("entry %d follows %d", e.Report.Seq, p.seq)
	}
	if o == nil {
		o = &paperOrder{Order: *e.Order, left: e.Order.Qty}
		p.orders[o.ClientOrderID] = o
	}
	fills := o.report.Fills
	for _, f := range e.Report.Fills {
		left, err := ledger.Sub(o.left, f.Qty)
		if err != nil || left.Sign() < 0 {
			return fmt.Errorf("order %s is filled beyond its quantity", o.ClientOrderID)
		}
		o.left = left
		fills = append(fills, f)
		p.execs++
	}
	p.seq = e.Report.Seq
	o.report = e.Report
	o.report.Fills = slices.Clip(fills)

	m := p.market(o.Venue, o.Symbol)
	at := slices.Index(m.resting, o)
	switch rests := !o.report.State.Terminal(); {
	case rests && at < 0:
		m.resting = append(m.resting, o)
	case !rests && at >= 0:
		m.resting = slices.Delete(m.resting, at, at+1)
	}
	return nil
}

func (p *Paper) market(venue, symbol string) *market {
	k := instrument{venue, symbol}
	m := p.markets[k]
	if m == nil {
		m = new(market)
		p.markets[k] = m
	}
	return m
}

// commit writes an entry, syncs it, applies it and tells who waits. When the
// disk fails nobody knows what is on it: the broker answers nothing more. It is
// called with p.writing.
func (p *Paper) commit(o *paperOrder, e *entry) error {
	e.Report.Seq = p.seq + 1
	e.Report.ClientOrderID = cmp.Or(e.Report.ClientOrderID, o.ClientOrderID)
	e.Report.BrokerOrderID = cmp.Or(o.report.BrokerOrderID, "P"+strconv.FormatUint(e.Report.Seq, 10))
	e.Report.Time = p.env.Clock.Now().UnixNano()
	err := p.file.append(e)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.broken = fmt.Errorf("writing the paper broker's ledger: %w", err)
		return p.broken
	}
	if err := p.replay(e); err != nil {
		p.broken = fmt.Errorf("applying what was written to the paper broker's ledger: %w", err)
		return p.broken
	}
	o = p.orders[e.Report.ClientOrderID]
	if i := slices.Index(p.changed, o); i >= 0 {
		p.changed = slices.Delete(p.changed, i, i+1)
	}
	p.changed = append(p.changed, o)
	close(p.wake)
	p.wake = make(chan struct{})
	return nil
}

// Submit implements Broker. One entry holds the order and all that it came to at
// once, so that a crash leaves all of it or nothing.
func (p *Paper) Submit(_ context.Context, o Order) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	po := &paperOrder{Order: o, left: o.Qty}
	e := &entry{Order: &o, Report: Report{ClientOrderID: o.ClientOrderID, State: event.OrderAccepted}}
	if err := p.match(po, e); err != nil {
		return err
	}
	return p.commit(po, e)
}

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
	price, size, ok := p.touch(m, &o.Order)
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
		x, err := p.execute(o, m, price, qty, event.Taker, p.execs+1)
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
	return nil
}

// touch is the price that an order would take and how much it may take there: a
// share of the quote's size, less what earlier fills took.
func (p *Paper) touch(m *market, o *Order) (price, left event.Decimal, ok bool) {
	if !m.seen {
		return price, left, false
	}
	price, size, taken := m.quote.Ask, m.quote.AskQty, m.askTaken
	if o.Side == event.Sell {
		price, size, taken = m.quote.Bid, m.quote.BidQty, m.bidTaken
	}
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

// worse reports whether price is worse than limit for an order of that side.
func worse(s event.Side, price, limit event.Decimal) bool {
	if s == event.Buy {
		return price.Cmp(limit) > 0
	}
	return price.Cmp(limit) < 0
}

// execute makes the fill: a taker pays slippage, though never beyond its limit,
// a resting order gets its own price.
func (p *Paper) execute(o *paperOrder, m *market, price, qty event.Decimal, l event.Liquidity, n uint64) (Execution, error) {
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
		ExecID: "X" + strconv.FormatUint(n, 10), Price: price, Qty: qty, Liquidity: l, Fee: paid, FeeCurrency: o.QuoteCurrency, FeeQuote: paid,
		QuoteID: m.quote.ID(), Time: p.env.Clock.Now().UnixNano(),
	}, nil
}

// Quote implements QuoteTaker: resting orders that the quote crosses are filled,
// oldest first, up to its size.
func (p *Paper) Quote(q *Quote) {
	p.mu.Lock()
	m := p.market(q.Venue, q.Symbol)
	m.quote, m.seen = *q, true
	m.bidTaken, m.askTaken = event.Decimal{}, event.Decimal{}
	idle := len(m.resting) == 0 || p.broken != nil
	p.mu.Unlock()
	if idle {
		return
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	p.mu.Lock()
	resting := slices.Clone(m.resting)
	p.mu.Unlock()
	for _, o := range resting {
		e, err := p.cross(o, m)
		if err != nil {
			p.env.Log.Error("leaving a resting order unfilled", "order", o.ClientOrderID, "err", err)
			continue
		}
		if e == nil {
			continue
		}
		if err := p.commit(o, e); err != nil {
			p.env.Log.Error("stopping the paper broker", "err", err)
			return
		}
	}
}

// cross fills a resting order against the quote as far as it can, or returns
// nothing.
func (p *Paper) cross(o *paperOrder, m *market) (*entry, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	price, size, ok := p.touch(m, &o.Order)
	if p.broken != nil || !ok || size.Sign() <= 0 || worse(o.Side, price, o.LimitPrice.Decimal) {
		return nil, nil
	}
	qty := size
	if o.left.Cmp(size) < 0 {
		qty = o.left
	}
	x, err := p.execute(o, m, o.LimitPrice.Decimal, qty, event.Maker, p.execs+1)
	if err != nil {
		return nil, err
	}
	m.take(o.Side, qty)
	e := &entry{Report: Report{State: event.OrderPartiallyFilled, Fills: []Execution{x}}}
	if qty.Cmp(o.left) == 0 {
		e.Report.State = event.OrderFilled
	}
	return e, nil
}

// Cancel implements Broker.
func (p *Paper) Cancel(_ context.Context, clientOrderID string) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.mu.Lock()
	o, ok := p.orders[clientOrderID]
	broken := p.broken
	p.mu.Unlock()
	if broken != nil {
		return broken
	}
	if !ok {
		return fmt.Errorf("canceling order %s: %w", clientOrderID, ErrNotFound)
	}
	if o.report.State.Terminal() {
		return nil
	}
	return p.commit(o, &entry{Report: Report{State: event.OrderCanceled, Reason: "requested"}})
}

// Query implements Broker. It waits for an order that is being submitted.
func (p *Paper) Query(_ context.Context, clientOrderID string) (Report, error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return Report{}, p.broken
	}
	o, ok := p.orders[clientOrderID]
	if !ok {
		return Report{}, ErrNotFound
	}
	return o.report, nil
}

// Next implements Broker.
func (p *Paper) Next(ctx context.Context, after uint64) ([]Report, error) {
	for {
		p.mu.Lock()
		if p.broken != nil {
			err := p.broken
			p.mu.Unlock()
			return nil, err
		}
		// What the caller has seen need not be kept.
		p.changed = slices.DeleteFunc(p.changed, func(o *paperOrder) bool { return o.report.Seq <= after })
		var out []Report
		for _, o := range p.changed {
			out = append(out, o.report)
		}
		wake := p.wake
		p.mu.Unlock()
		if len(out) > 0 {
			return out, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Close implements Broker.
func (p *Paper) Close() error {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(p.broken, errClosed) {
		return nil
	}
	p.broken = errClosed
	close(p.wake)
	p.wake = make(chan struct{})
	return p.file.close()
}

var errClosed = errors.New("the paper broker is closed")

var (
	_ Broker     = (*Paper)(nil)
	_ QuoteTaker = (*Paper)(nil)
)

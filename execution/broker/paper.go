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
			Profile: Profile{Dedupe: DedupePermanent, Immediate: true, Keeps: true},
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
	// crossed says that the market has been on the order's side of its limit ever
	// since it came: what it fills there it takes, at the quote's price. Once the
	// market was beyond the limit, the order rests, and others come to it.
	crossed bool
}

// Paper is the reference broker. Every change is in its ledger file, and synced,
// before anybody hears of it; what it answers is what the file says.
type Paper struct {
	cfg PaperConfig
	env component.Env

	// writing is held for a whole change, its sync included, and comes before mu;
	// what both guard is changed under both. So a quote waits for no disk: resting
	// orders that it crosses are filled by fillCrossed, which work wakes.
	writing sync.Mutex
	file    *ledgerFile
	work    chan struct{}
	worker  sync.WaitGroup

	mu      sync.Mutex
	broken  error // why nothing is accepted any more
	life    string
	adopted *Adoption
	seq     uint64
	orders  map[string]*paperOrder
	execs   uint64
	changed []*paperOrder // since the account was opened, by Seq of their last report
	wake    chan struct{} // closed and replaced when something changed
	markets map[instrument]*market
	crossed []*market // those with a crossing quote
}

// OpenPaper opens the account whose ledger lies in dir, or makes it. Only one
// process can have it open.
func OpenPaper(cfg PaperConfig, dir string, env component.Env) (*Paper, error) {
	p := &Paper{
		cfg: cfg, env: env, orders: make(map[string]*paperOrder), wake: make(chan struct{}), work: make(chan struct{}, 1),
		markets: make(map[instrument]*market),
	}
	file, torn, err := openLedgerFile(dir, p.replay)
	if err != nil {
		return nil, fmt.Errorf("opening the paper broker's ledger: %w", err)
	}
	if torn > 0 {
		env.Log.Warn("cut a torn entry off the paper broker's ledger", "bytes", torn)
	}
	p.file = file
	p.worker.Go(func() {
		for range p.work {
			p.writing.Lock()
			p.fillCrossed()
			p.writing.Unlock()
		}
	})
	return p, nil
}

// Ledger implements Keeper.
func (p *Paper) Ledger() LedgerState {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := LedgerState{Path: p.file.f.Name(), Life: p.life, Adopted: p.adopted}
	for id, o := range p.orders {
		if !o.report.State.Terminal() {
			s.Open = append(s.Open, id)
		}
	}
	slices.Sort(s.Open)
	return s
}

// entry is one line of the ledger: what an order became, or that a life begins.
type entry struct {
	Order  *Order `json:"order,omitempty"` // with the first entry of an order
	Report Report `json:"report,omitzero"` // Fills holds only the new ones
	// Crossed says of an order that came and rests that the quote crossed it.
	Crossed bool `json:"crossed,omitempty"`
	// Life is the random name of the ledger from here on, and Adopted why it has a
	// new one; they are on a line of their own.
	Life    string    `json:"life,omitempty"`
	Adopted *Adoption `json:"adopted,omitempty"`
}

// replay applies an entry read from the file, or just written to it.
func (p *Paper) replay(e *entry) error {
	if e.Life != "" {
		p.life, p.adopted = e.Life, e.Adopted
		return nil
	}
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
	if e.Order != nil {
		// Ledgers of before do not say whether an order crossed: one that took did.
		o.crossed = e.Crossed || len(e.Report.Fills) > 0
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
	p.fillCrossed()
	po := &paperOrder{Order: o, left: o.Qty}
	e := &entry{Order: &o, Report: Report{ClientOrderID: o.ClientOrderID, State: event.OrderAccepted}}
	if err := p.match(po, e); err != nil {
		return err
	}
	return p.commit(po, e)
}

// Cancel implements Broker.
func (p *Paper) Cancel(_ context.Context, clientOrderID string) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.fillCrossed()
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
	p.fillCrossed()
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
	if !p.shut() {
		return nil
	}
	p.worker.Wait()
	return p.file.close()
}

// shut ends all calls, once.
func (p *Paper) shut() bool {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.fillCrossed()
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(p.broken, errClosed) {
		return false
	}
	p.broken = errClosed
	close(p.work)
	close(p.wake)
	p.wake = make(chan struct{})
	return true
}

var errClosed = errors.New("the paper broker is closed")

var (
	_ Broker     = (*Paper)(nil)
	_ QuoteTaker = (*Paper)(nil)
	_ Keeper     = (*Paper)(nil)
)

package execution

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/execution/risk"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// top is the last quote of one instrument, and the prices that confirm it.
type top struct {
	venue, symbol string
	key           []byte
	quote         event.Quote
	from          event.Lineage
	quoted        bool
	trade         risk.Trade // price 0 until there is one
	mean          *risk.MeanMid
}

func (t *top) id() string { return string(t.quote.AppendID(nil, t.key)) }

// market is what execution knows of the market: the last quote of each
// instrument, read from the end of md, and the instruments themselves. It hands
// every quote to the brokers that simulate.
type market struct {
	client *bus.Client
	env    component.Env
	// advance moves a session's clock in a process that has no stream role.
	advance func(int64)

	mu          sync.RWMutex
	tops        map[string]*top
	instruments map[string]*event.Instrument
	takers      map[broker.QuoteTaker]struct{}
	watchers    []*exitWatch

	readers []*bus.Reader
	// ended is closed once every partition of md was read to the end of a drain.
	ended chan struct{}
}

func newMarket(client *bus.Client, env component.Env) *market {
	m := &market{
		client: client, env: env, advance: func(int64) {}, tops: make(map[string]*top), instruments: make(map[string]*event.Instrument),
		takers: make(map[broker.QuoteTaker]struct{}), ended: make(chan struct{}),
	}
	if c, ok := env.Clock.(*component.SessionClock); ok {
		m.advance = c.Advance
	}
	return m
}

// open positions a reader at the end of every partition of md, so that what comes
// later is seen.
func (m *market) open(ctx context.Context) error {
	for p := range m.client.Partitions(event.TopicMarket) {
		r, err := m.client.NewReader(ctx, bus.ReaderConfig{Topic: event.TopicMarket, Partition: p, Offset: bus.FromEnd}, m.env)
		if err != nil {
			m.close()
			return fmt.Errorf("opening market data: %w", err)
		}
		m.readers = append(m.readers, r)
	}
	return nil
}

func (m *market) close() {
	for _, r := range m.readers {
		r.Close()
	}
}

// follow reads md until ctx ends or, in a drain, to its end.
func (m *market) follow(ctx context.Context) error {
	errs := make(chan error, len(m.readers))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i, r := range m.readers {
		go func() { errs <- m.read(ctx, int32(i), r) }()
	}
	var first error
	for range m.readers {
		if err := <-errs; err != nil && first == nil {
			first = err
			cancel()
		}
	}
	if first == nil {
		close(m.ended)
	}
	return first
}

func (m *market) read(ctx context.Context, partition int32, r *bus.Reader) error {
	var q event.Quote
	var t event.Trade
	for {
		records, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading market data: %w", err)
		}
		for i := range records {
			rec := &records[i]
			switch event.TypeOf(rec.Value) {
			case event.TypeQuote:
				if err := event.DecodeQuote(rec.Value, &q); err != nil {
					m.env.Log.Warn("leaving out a quote that does not decode", "partition", partition, "offset", rec.Offset, "err", err)
					continue
				}
				m.advance(q.RecvTime)
				m.note(rec, &q)
			case event.TypeTrade:
				if err := event.DecodeTrade(rec.Value, &t); err != nil {
					m.env.Log.Warn("leaving out a trade that does not decode", "partition", partition, "offset", rec.Offset, "err", err)
					continue
				}
				if !t.Late {
					m.noteTrade(rec.Key, &t)
				}
			case event.TypeClock:
				c, err := event.DecodeAs[*event.Clock](rec.Value)
				if err != nil {
					m.env.Log.Warn("leaving out a clock record that does not decode", "partition", partition, "offset", rec.Offset, "err", err)
					continue
				}
				m.advance(c.Time)
			}
		}
	}
}

// note keeps a quote and hands it on.
func (m *market) note(rec *bus.Record, q *event.Quote) {
	now := m.env.Clock.Now().UnixNano()
	m.mu.Lock()
	t := m.atLocked(rec.Key)
	// A time ahead of the clock would keep every quote until then out of the mean.
	t.mean.Add(min(q.RecvTime, now), q.Bid, q.Ask)
	t.quote, t.quoted = *q, true
	t.from = event.Lineage{Topic: event.TopicMarket, Partition: rec.Partition, Offset: rec.Offset}
	takers, watchers := m.takers, m.watchers // replaced, never changed
	watched := slices.ContainsFunc(watchers, func(w *exitWatch) bool { return w.some.Load() })
	if len(takers) == 0 && !watched {
		m.mu.Unlock()
		return
	}
	kept := *t
	m.mu.Unlock()
	if len(takers) > 0 {
		out := &broker.Quote{Quote: *q, Venue: kept.venue, Symbol: kept.symbol, ID: kept.id}
		for b := range takers {
			b.Quote(out)
		}
	}
	if !watched {
		return
	}
	for _, w := range watchers { // once the brokers that simulate have seen the quote
		w.see(rec.Key, &kept)
	}
}

// noteTrade keeps a trade.
func (m *market) noteTrade(key []byte, t *event.Trade) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.atLocked(key).trade = risk.Trade{Price: t.Price, RecvTime: t.RecvTime}
}

func (m *market) atLocked(key []byte) *top {
	t := m.tops[string(key)]
	if t == nil {
		venue, symbol := event.SplitKey(key)
		t = &top{venue: string(venue), symbol: string(symbol), key: append([]byte(nil), key...), mean: new(risk.MeanMid)}
		m.tops[string(key)] = t
	}
	return t
}

// join lets a broker see every quote from now on, the last ones first.
func (m *market) join(b broker.QuoteTaker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	takers := map[broker.QuoteTaker]struct{}{b: {}}
	for t := range m.takers {
		takers[t] = struct{}{}
	}
	m.takers = takers
	for _, t := range m.tops {
		if !t.quoted {
			continue
		}
		kept := *t
		b.Quote(&broker.Quote{Quote: kept.quote, Venue: kept.venue, Symbol: kept.symbol, ID: kept.id})
	}
}

func (m *market) leave(b broker.QuoteTaker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	takers := make(map[broker.QuoteTaker]struct{})
	for t := range m.takers {
		if t != b {
			takers[t] = struct{}{}
		}
	}
	m.takers = takers
}

// watch lets the exits of an owner see every quote from now on, after the brokers;
// unwatch ends that.
func (m *market) watch(w *exitWatch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watchers = append(slices.Clone(m.watchers), w)
}

func (m *market) unwatch(w *exitWatch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watchers = slices.DeleteFunc(slices.Clone(m.watchers), func(x *exitWatch) bool { return x == w })
}

// drain makes follow end where md ends now.
func (m *market) drain(ctx context.Context) error {
	bounds, err := m.client.Offsets(ctx, event.TopicMarket)
	if err != nil {
		return fmt.Errorf("draining market data: %w", err)
	}
	for i, r := range m.readers {
		r.EndAt(bounds[i].End)
	}
	return nil
}

// last returns the last quote of an instrument.
func (m *market) last(venue, symbol string) (top, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	t, ok := m.tops[string(event.Key(venue, symbol))]
	if !ok || !t.quoted {
		return top{}, false
	}
	return *t, true
}

// forRisk returns what limits compare an order's price with; what is not known is nil or
// absent.
func (m *market) forRisk(venue, symbol string, now int64) (*risk.Quote, *risk.Trade, event.NullDecimal) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	t, ok := m.tops[string(event.Key(venue, symbol))]
	if !ok {
		return nil, nil, event.NullDecimal{}
	}
	var quote *risk.Quote
	var trade *risk.Trade
	if t.quoted {
		quote = &risk.Quote{Bid: t.quote.Bid, Ask: t.quote.Ask, RecvTime: t.quote.RecvTime}
	}
	if t.trade.Price.Sign() > 0 {
		last := t.trade
		trade = &last
	}
	return quote, trade, t.mean.Mean(now)
}

// prices returns the last bid and ask of an instrument, 0 where there is none.
func (m *market) prices(venue, symbol string) (bid, ask event.Decimal) {
	var key [64]byte
	m.mu.RLock()
	defer m.mu.RUnlock()
	if t, ok := m.tops[string(event.AppendKey(key[:0], venue, symbol))]; ok {
		bid, ask = t.quote.Bid, t.quote.Ask
	}
	return bid, ask
}

func (t *top) forLedger() ledger.Quote {
	return ledger.Quote{Bid: t.quote.Bid, Ask: t.quote.Ask, ID: t.id()}
}

// instrument returns what is known of an instrument, or nil.
func (m *market) instrument(venue, symbol string) *event.Instrument {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.instruments[string(event.Key(venue, symbol))]
}

// quoted is the currency that an instrument is quoted in, "" where it is not known.
func (m *market) quoted(venue, symbol string) string {
	if in := m.instrument(venue, symbol); in != nil {
		return in.Quote
	}
	return ""
}

// learn takes a record of instruments; a tombstone forgets.
func (m *market) learn(rec bus.Record) {
	key := string(rec.Key)
	if len(rec.Value) == 0 {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.instruments, key)
		return
	}
	in, err := event.DecodeAs[*event.Instrument](rec.Value)
	if err != nil {
		m.env.Log.Warn("leaving out an instrument that does not decode", "key", key, "err", err)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.instruments[key] = in
}

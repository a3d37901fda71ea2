package execution

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

var dec = event.MustDecimal

const (
	venue  = "binance"
	symbol = "BTCUSDT"
)

// world is a broker, topics, a data folder and whoever feeds execution.
type world struct {
	stopBroker, startBroker func() // Kafka, which comes back with its data

	t      testing.TB
	addr   string
	client *bus.Client
	feed   *bus.Producer
	paths  Paths
	cfg    Config
	seq    uint64
	sent   int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	kafka := bus.EmbeddedConfig{Dir: t.TempDir()}
	b, err := bus.StartEmbedded(t.Context(), kafka, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	kafka.Addr = b.Addr()
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	dir, err := os.MkdirTemp("", "ah") // a Unix socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	w := &world{
		t: t, addr: b.Addr(), cfg: DefaultConfig(),
		stopBroker: func() { _ = b.Close() },
		startBroker: func() {
			if b, err = bus.StartEmbedded(context.Background(), kafka, component.Discard()); err != nil {
				t.Fatal(err)
			}
		},
		paths: Paths{PaperDir: filepath.Join(dir, "paper"), HaltFile: filepath.Join(dir, "halt"), Socket: filepath.Join(dir, "execution.sock")},
	}
	w.cfg.Accounts[0].Limits.MaxQuoteAge = time.Minute // tests do not race with it
	w.cfg.Accounts[0].Settings.Paper.Participation = dec("1")
	w.cfg.Accounts[0].Limits.MaxOrdersPerSecond = 100
	w.cfg.QueryInterval = 20 * time.Millisecond
	if w.client, err = w.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.client.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.feed, err = w.client.NewProducer(t.Context(), bus.ProducerConfig{Name: "test", Blocking: true}, component.Discard()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(w.feed.Close(context.Background()), w.client.Close()); err != nil {
			t.Error(err)
		}
	})
	w.publish(event.TopicInstruments, event.Key(venue, symbol), &event.Instrument{
		Venue: venue, Symbol: symbol, Name: "BTC-USDT", Base: "BTC", Quote: "USDT", PriceTick: dec("0.01"), QtyStep: dec("0.00001"),
		MinQty: event.Some(dec("0.00001")), MinNotional: event.Some(dec("5")), Source: "config",
	})
	return w
}

// connect is what the command line hands to RequestHalt.
func (w *world) connect(ctx context.Context) (*bus.Client, error) {
	cfg := bus.DefaultConfig()
	cfg.Partitions = 4
	cfg.Brokers, cfg.Partitions = []string{w.addr}, 2
	return bus.Connect(ctx, cfg, component.Discard())
}

func (w *world) publish(topic string, key []byte, m event.Message) {
	w.t.Helper()
	if _, _, err := w.feed.Publish(w.t.Context(), topic, key, m); err != nil {
		w.t.Fatal(err)
	}
}

// quote publishes a trade at the bid and a top of book.
func (w *world) quote(bid, bidQty, ask, askQty string) {
	w.t.Helper()
	w.quoteAt(time.Now(), bid, bidQty, ask, askQty)
}

// quoteAt publishes a top of book that came at that time.
func (w *world) quoteAt(at time.Time, bid, bidQty, ask, askQty string) {
	w.t.Helper()
	w.seq++
	now := at.UnixNano()
	w.publish(event.TopicMarket, event.Key(venue, symbol), &event.Trade{
		Channel: event.ChannelTrade, TradeID: w.seq, Price: dec(bid), Qty: event.Some(dec("1")), EventTime: now, RecvTime: now, TimeSource: event.TimeReceive,
	})
	w.publish(event.TopicMarket, event.Key(venue, symbol), &event.Quote{
		Channel: event.ChannelBookTicker, Sequence: w.seq, Bid: dec(bid), BidQty: event.Some(dec(bidQty)), Ask: dec(ask), AskQty: event.Some(dec(askQty)),
		RecvTime: now, TimeSource: event.TimeReceive,
	})
}

// decision makes a market order of the desk's; ref is the signal's price.
func (w *world) decision(side event.Side, qty, ref string) *event.Decision {
	w.sent++
	now := time.Now().UnixNano()
	action := event.ActionLong
	if side == event.Sell {
		action = event.ActionShort
	}
	signal := event.HashStrings("signal", fmt.Sprint(w.sent))
	return &event.Decision{
		ID: event.DecisionID(signal, "paper", "champion"), SignalID: signal, Arm: "champion", Account: "paper", Strategy: "momentum", Venue: venue, Symbol: symbol,
		Desk: "deterministic", Action: action, Reason: "test", Side: side, Qty: event.Some(dec(qty)), Type: event.Market, TIF: event.IOC, RefPrice: dec(ref),
		SignalTime: now, Deadline: now + int64(time.Minute), MaxDriftBps: dec("50"), StartedAt: now, Time: now,
	}
}

func (w *world) decide(d *event.Decision) *event.Decision {
	w.t.Helper()
	w.publish(event.TopicDecisions, []byte(d.Account), d)
	return d
}

// env discards logs and metrics; those of a role that runs can be asked for.
func (w *world) env() component.Env { return component.Discard() }

// metric is the sum of a metric of the role, by its name without prefix.
func (r *running) metric(name string) float64 {
	r.t.Helper()
	g, ok := r.role.env.Metrics.(prometheus.Gatherer)
	if !ok {
		r.t.Fatalf("metrics are of type %T", r.role.env.Metrics)
	}
	all, err := g.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range all {
		if f.GetName() != "autohedge_execution_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return sum
}

// running is a role that runs.
type running struct {
	t    testing.TB
	role *Role
	err  chan error
	stop context.CancelFunc
}

// start runs a role, which change may alter first, and waits until it is ready.
func (w *world) start(change func(*Role)) *running {
	w.t.Helper()
	r := w.run(change)
	select {
	case <-r.role.Ready():
	case err := <-r.err:
		w.t.Fatalf("starting: %v", err)
	case <-time.After(20 * time.Second):
		w.t.Fatal("not ready")
	}
	return r
}

func (w *world) run(change func(*Role)) *running {
	w.t.Helper()
	env := w.env()
	role, err := New(w.cfg, w.client, w.paths, env)
	if err != nil {
		w.t.Fatal(err)
	}
	role.saveEvery, role.saveLeast = 10*time.Millisecond, 1
	if change != nil {
		change(role)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: w.t, role: role, err: make(chan error, 1), stop: cancel}
	go func() { r.err <- role.Run(ctx) }()
	w.t.Cleanup(func() { cancel(); <-role.done })
	return r
}

// drain stops the role as the engine does.
func (r *running) drain() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := r.role.Drain(ctx); err != nil {
		r.t.Fatalf("draining: %v", err)
	}
	if err := <-r.err; err != nil {
		r.t.Fatalf("after the drain: %v", err)
	}
	r.err <- nil
}

// seesQuote waits until the role knows the newest quote.
func (w *world) seesQuote(r *running) {
	w.t.Helper()
	w.until("the quote is seen", func() bool {
		top, ok := r.role.market.last(venue, symbol)
		return ok && top.quote.Sequence == w.seq
	})
}

// until polls.
func (w *world) until(what string, done func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("waiting in vain until %s", what)
		}
	}
}

func all[M event.Message](w *world, topic string) []M {
	w.t.Helper()
	var out []M
	for p := range w.client.Partitions(topic) {
		if _, err := w.client.ReadAll(w.t.Context(), topic, p, bus.FromStart, func(rec bus.Record) error {
			if event.TypeOf(rec.Value) == event.TypeEpoch {
				return nil
			}
			m, err := event.DecodeAs[M](rec.Value)
			out = append(out, m)
			return err
		}); err != nil {
			w.t.Fatal(err)
		}
	}
	return out
}

// history is the entries of one decision's own order, without exits of its lot.
func (w *world) history(d *event.Decision) []*event.OrderEvent {
	w.t.Helper()
	var out []*event.OrderEvent
	for _, e := range all[*event.OrderEvent](w, event.TopicOrders) {
		if e.DecisionID == d.ID && e.Lot == "" {
			out = append(out, e)
		}
	}
	return out
}

// states is the history as text.
func (w *world) states(d *event.Decision) string {
	w.t.Helper()
	text := ""
	for i, e := range w.history(d) {
		if int(e.Seq) != i {
			w.t.Errorf("entry %d of order %s has sequence %d", i, e.ClientOrderID, e.Seq)
		}
		if i > 0 {
			text += " "
		}
		text += e.State.String()
		if e.Reason != "" {
			text += ":" + e.Reason
		}
	}
	return text
}

func (w *world) wantStates(d *event.Decision, want string) {
	w.t.Helper()
	got := ""
	defer func() {
		if got != want {
			w.t.Errorf("got %q, want %q", got, want)
		}
	}()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if got = w.states(d); got == want {
			return
		}
	}
}

// rat is a decimal as a rational number.
func rat(d event.Decimal) *big.Rat {
	r, ok := new(big.Rat).SetString(d.String())
	if !ok {
		panic("not a number: " + d.String())
	}
	return r
}

// paperReports reads the paper broker's ledger: every order, once, as of now.
func (w *world) paperReports() map[string]broker.Report {
	w.t.Helper()
	b, err := broker.OpenPaper(w.cfg.Accounts[0].Settings.Paper, filepath.Join(w.paths.PaperDir, "paper"), component.Discard())
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			w.t.Error(err)
		}
	}()
	out := make(map[string]broker.Report)
	for _, e := range all[*event.OrderEvent](w, event.TopicOrders) {
		r, err := b.Query(w.t.Context(), e.ClientOrderID)
		if err == nil {
			out[e.ClientOrderID] = r
		} else if !errors.Is(err, broker.ErrNotFound) {
			w.t.Fatal(err)
		}
	}
	return out
}

// audit compares our logs with the paper broker's own ledger, exactly: every
// order of the broker is in the order log, at most one a decision; fills are the
// same, each once; the last position follows from the broker's fills.
func (w *world) audit() {
	w.t.Helper()
	reports := w.paperReports()
	last := make(map[string]*event.OrderEvent)
	for _, e := range all[*event.OrderEvent](w, event.TopicOrders) {
		if p := last[e.ClientOrderID]; p != nil && e.Seq != p.Seq+1 {
			w.t.Errorf("order %s goes from entry %d to %d", e.ClientOrderID, p.Seq, e.Seq)
		}
		last[e.ClientOrderID] = e
	}
	byDecision := make(map[event.ID]int)
	qty, cash, fees := new(big.Rat), new(big.Rat), new(big.Rat)
	want := make(map[event.ID]broker.Execution)
	for id, r := range reports {
		e := last[id]
		if e.Lot == "" { // exits are further orders of their lot's decision
			byDecision[e.DecisionID]++
		}
		if r.State != e.State {
			w.t.Errorf("order %s is %s, the broker says %s", id, e.State, r.State)
		}
		sum := new(big.Rat)
		for _, f := range r.Fills {
			want[event.FillID(venue, symbol, id, f.ExecID, f.Life)] = f
			signed := rat(f.Qty)
			sum.Add(sum, signed)
			if e.Side == event.Sell {
				signed.Neg(signed)
			}
			qty.Add(qty, signed)
			cash.Sub(cash, new(big.Rat).Mul(signed, rat(f.Price)))
			fees.Add(fees, rat(f.FeeQuote))
		}
		if rat(e.FilledQty).Cmp(sum) != 0 {
			w.t.Errorf("order %s is filled %s, the broker says %s", id, e.FilledQty, sum)
		}
	}
	for d, n := range byDecision {
		if n != 1 {
			w.t.Errorf("decision %s has %d orders at the broker", d, n)
		}
	}
	got := make(map[event.ID]bool)
	for _, f := range all[*event.Fill](w, event.TopicFills) {
		x, ok := want[f.ID]
		if !ok || got[f.ID] {
			w.t.Errorf("fill %s: at the broker %v, recorded before %v", f.ID, ok, got[f.ID])
		}
		got[f.ID] = true
		if f.Price.Cmp(x.Price) != 0 || f.Qty.Cmp(x.Qty) != 0 || f.FeeQuote.Cmp(x.FeeQuote) != 0 || f.QuoteID == "" || f.QuoteID != x.QuoteID {
			w.t.Errorf("fill %s is %+v, the broker says %+v", f.ID, f, x)
		}
	}
	if len(got) != len(want) {
		w.t.Errorf("%d fills recorded, the broker has %d", len(got), len(want))
	}
	positions := all[*event.Position](w, event.TopicPositions)
	if len(want) == 0 {
		return
	}
	for i, p := range positions {
		if p.Version != uint64(i) || p.ID != event.PositionID(p.Account, p.Strategy, p.Venue, p.Symbol, p.Version) {
			w.t.Errorf("record %d of the position has version %d", i, p.Version)
		}
	}
	p := positions[len(positions)-1]
	if rat(p.Qty).Cmp(qty) != 0 || rat(p.Cash).Cmp(cash) != 0 || rat(p.Fees).Cmp(fees) != 0 || int(p.Fills) != len(want) {
		w.t.Errorf("position is %s, cash %s, fees %s of %d fills; from the broker's ledger %s, %s, %s of %d", p.Qty, p.Cash, p.Fees, p.Fills,
			qty.FloatString(18), cash.FloatString(18), fees.FloatString(18), len(want))
	}
	if p.Mark.Valid {
		total := new(big.Rat).Mul(qty, rat(p.Mark.Decimal))
		total.Add(total, cash).Sub(total, fees)
		if !p.Total.Valid || rat(p.Total.Decimal).Cmp(total) != 0 {
			w.t.Errorf("total is %s, want %s", p.Total, total.FloatString(18))
		}
	}
}

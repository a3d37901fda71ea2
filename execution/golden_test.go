package execution

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// golden is the world in a data folder that an earlier build left; partitions is the
// number that its topics have.
func golden(t *testing.T, name string, partitions int) *world {
	t.Helper()
	data := bustest.UnpackFolder(t, filepath.Join("..", "cmd", "internal", "app", "testdata", "golden", name+".tar.gz"))
	b, err := bus.StartEmbedded(t.Context(), bus.EmbeddedConfig{Dir: filepath.Join(data, "kafka")}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, addr: b.Addr(), cfg: DefaultConfig(), paths: Paths{PaperDir: filepath.Join(data, "paper"), HaltFile: filepath.Join(data, "halt")}}
	w.cfg.Accounts[0].Limits.MaxQuoteAge = time.Minute
	w.cfg.Accounts[0].Settings.Paper.Participation = dec("1")
	cfg := bus.DefaultConfig()
	cfg.Brokers, cfg.Partitions = []string{w.addr}, partitions
	if w.client, err = bus.Connect(t.Context(), cfg, component.Discard()); err != nil {
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
	return w
}

// Orders that a build without lives left filled in part go on under this one: their
// fills stay as they are, new ones are told from them, and they are filled to the end.
func TestGoldenOrdersGoOn(t *testing.T) {
	w := golden(t, "f028329", 4)
	before := all[*event.Fill](w, event.TopicFills)
	open := map[string]*event.OrderEvent{"ahbwwz6r2hw3yi7iutzn": nil, "ahadhwb6dzle7y73jbb5": nil}
	for _, e := range all[*event.OrderEvent](w, event.TopicOrders) {
		if _, ok := open[e.ClientOrderID]; ok {
			open[e.ClientOrderID] = e
		}
	}
	r := w.start(nil)
	if n := r.metric("refused_accounts") + r.metric("unproven_orders"); n != 0 {
		t.Fatalf("%v accounts and orders are in doubt", n)
	}
	if n := len(all[*event.Fill](w, event.TopicFills)); n != len(before) {
		t.Errorf("the start recorded %d fills", n-len(before))
	}
	done := func(id string) bool {
		entries := all[*event.OrderEvent](w, event.TopicOrders)
		return slices.ContainsFunc(entries, func(e *event.OrderEvent) bool { return e.ClientOrderID == id && e.State == event.OrderFilled })
	}
	for id, e := range open {
		// Half of what is left, then the rest at another price.
		for i, ask := range []string{"3390.00", "3380.00"} {
			w.publish(event.TopicMarket, event.Key(e.Venue, e.Symbol), &event.Quote{
				Channel: event.ChannelBookTicker, Sequence: 1<<40 + uint64(i), Bid: dec("3300.00"), BidQty: event.Some(dec("1")), Ask: dec(ask), AskQty: event.Some([]event.Decimal{dec("0.01"), dec("5")}[i]),
				RecvTime: time.Now().UnixNano(), TimeSource: event.TimeReceive,
			})
		}
		w.until("the order is filled", func() bool { return done(id) })
	}
	w.proofs()
	after := all[*event.Fill](w, event.TopicFills)
	byID := make(map[event.ID]*event.Fill)
	for _, f := range after {
		byID[f.ID] = f
	}
	for _, f := range before {
		if g := byID[f.ID]; g == nil || g.ExecID != f.ExecID || g.Qty.Cmp(f.Qty) != 0 || g.Price.Cmp(f.Price) != 0 || g.Life != "" {
			t.Errorf("fill %s was %+v, is %+v", f.ID, f, g)
		}
	}
	for _, f := range after[len(before):] {
		// The ledger is of before lives: its new fills have life 0.
		if want := event.FillID(f.Venue, f.Symbol, f.ClientOrderID, f.ExecID, ""); f.ID != want || f.Life != "" || open[f.ClientOrderID] == nil {
			t.Errorf("the new fill is %+v, want id %s", f, want)
		}
	}
	if n := len(after) - len(before); n != 4 {
		t.Errorf("%d new fills, want 4 of %v", n, slices.Collect(maps.Keys(open)))
	}
	if h := r.role.board.list(); len(h) != 0 {
		t.Errorf("halted: %v", h)
	}
	r.drain()
	// And once more, from a snapshot of this build.
	r = w.start(nil)
	if n := len(all[*event.Fill](w, event.TopicFills)); n != len(after) {
		t.Errorf("the second start recorded %d fills", n-len(after))
	}
	r.drain()
}

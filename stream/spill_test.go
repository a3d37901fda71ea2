package stream

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// restartable is a broker that a test takes away and brings back with its data.
type restartable struct {
	t    *testing.T
	dir  string
	addr string
	b    *bus.Embedded
}

func (r *restartable) start() {
	r.t.Helper()
	addr := r.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	b, err := bus.StartEmbedded(context.Background(), bus.EmbeddedConfig{Dir: r.dir, Addr: addr, Partitions: 4}, component.Discard())
	if err != nil {
		r.t.Fatal(err)
	}
	r.b, r.addr = b, b.Addr()
}

func (r *restartable) stop() {
	if r.b != nil {
		_ = r.b.Close()
		r.b = nil
	}
}

func restartableBroker(t *testing.T) (*restartable, *bus.Client) {
	t.Helper()
	r := &restartable{t: t, dir: t.TempDir()}
	r.start()
	t.Cleanup(r.stop)
	cfg := bus.DefaultConfig()
	cfg.Partitions = 4
	cfg.Brokers = []string{r.addr}
	c, err := bus.Connect(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r, c
}

// startSpilling is start with little memory and a folder.
func startSpilling(t *testing.T, client *bus.Client, dir string, f FeedConfig) *Role {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Feeds, cfg.QueueBytes, cfg.SpillBytes, cfg.SpillDir = []FeedConfig{f}, 1<<20, 64<<20, dir
	r, err := New(cfg, client, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error, 1)
	go func() { failed <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-failed; err != nil && !strings.Contains(err.Error(), "flushing") {
			t.Errorf("running the role: %v", err)
		}
	})
	return r
}

// TestBrokerAwaySpillsTradesAndConflatesQuotes: the broker is away for longer than
// memory lasts. No trade is missing, none is there twice, no gap is stated, and of
// the quotes, which are fewer than came, the last one is there.
func TestBrokerAwaySpillsTradesAndConflatesQuotes(t *testing.T) {
	b, client := restartableBroker(t)
	const trades = 20_000
	gone, sent, quiet := make(chan struct{}), make(chan struct{}), make(chan struct{})
	s := serveVenue(t, func(_ int, ws *websocket.Conn) {
		for i := 1; i <= trades; i++ {
			if i == 100 {
				<-gone
			}
			if ws.WriteMessage(websocket.TextMessage, []byte(bnTrade(i))) != nil {
				return
			}
			for q := range 3 {
				send(ws, bnQuote(10*i+q))
			}
		}
		close(sent)
		<-quiet
	})
	defer close(quiet)
	r := startSpilling(t, client, t.TempDir(), binanceFeed(s))
	status(t, r, func(f FeedStatus) bool { return f.Trades >= 99 })
	b.stop()
	close(gone)
	<-sent
	status(t, r, func(f FeedStatus) bool { return f.Trades == trades })
	out := r.output()
	spilled, queued := out.Spilled(), out.Queued()
	if spilled == 0 || queued > 1<<20 {
		t.Errorf("%d bytes are spilled, %d queued", spilled, queued)
	}
	b.start()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := out.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	lines, _ := logged(t, client, event.TopicMarket)
	next, quotes, last := 1, 0, ""
	for _, l := range lines["binance|BTCUSDT"] {
		id := 0
		switch {
		case strings.HasPrefix(l, "quote"):
			quotes++
			seq := 0
			if _, err := fmt.Sscanf(l, "quote %d", &seq); err != nil || seq/10 != next-1 {
				t.Fatalf("%s stands behind trade %d", l, next-1)
			}
			last = l
		case strings.HasPrefix(l, "trade"):
			if _, err := fmt.Sscanf(l, "trade %d@", &id); err != nil || id != next {
				t.Fatalf("%q where trade %d belongs", l, next)
			}
			next++
		case !strings.HasPrefix(l, "received"):
			t.Errorf("a gap is stated: %s", l)
		}
	}
	if want := fmt.Sprintf("quote %d", 10*trades+2); next != trades+1 || last != want {
		t.Errorf("the log ends with trade %d and %q, want %d and %q", next-1, last, trades, want)
	}
	conflated := out.Conflated()["binance|BTCUSDT"]
	if conflated == 0 || quotes+int(conflated) != 3*trades {
		t.Errorf("%d quotes in the log and %d replaced, want %d in all", quotes, conflated, 3*trades)
	}
	t.Logf("%d trades, %d quotes kept, %d replaced, %d bytes spilled at the worst", trades, quotes, conflated, spilled)
}

// TestSpillThatCannotBeWrittenStatesTheGap: memory is full and there is no folder
// to spill to any more. The socket is closed, and once the broker is back what was
// missed is stated.
func TestSpillThatCannotBeWrittenStatesTheGap(t *testing.T) {
	b, client := restartableBroker(t)
	gone, back := make(chan struct{}), make(chan struct{})
	s := serveVenue(t, func(n int, ws *websocket.Conn) {
		if n > 1 { // it comes back when half of the queue is free
			<-back
			send(ws, bnTrade(1_000_000), bnTrade(1_000_001))
			<-t.Context().Done()
			return
		}
		for i := 1; ; i++ {
			if i == 100 {
				<-gone
			}
			if ws.WriteMessage(websocket.TextMessage, []byte(bnTrade(i))) != nil {
				return
			}
		}
	})
	dir := t.TempDir()
	r := startSpilling(t, client, dir, binanceFeed(s))
	status(t, r, func(f FeedStatus) bool { return f.Trades >= 99 })
	b.stop()
	if err := os.RemoveAll(filepath.Join(dir, "live")); err != nil {
		t.Fatal(err)
	}
	close(gone)
	status(t, r, func(f FeedStatus) bool { return f.Connections == 0 })
	accepted := r.Feeds()[0].Trades
	b.start()
	close(back)
	status(t, r, func(f FeedStatus) bool { return f.Trades >= accepted+2 })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := r.output().Flush(ctx); err != nil {
		t.Fatal(err)
	}
	lines, _ := logged(t, client, event.TopicMarket)
	got := lines["binance|BTCUSDT"]
	// That the end is not known yet is stated only where there was room before the
	// venue was back.
	unknown := fmt.Sprintf("unknown trade %d-0: queue full", accepted+1)
	got = slices.DeleteFunc(got, func(l string) bool { return l == unknown })
	// Trades 1 to accepted, then what became of the rest.
	want := []string{
		fmt.Sprintf("trade %d@100.10", accepted),
		fmt.Sprintf("lost trade %d-999999 bounded: queue full", accepted+1), "received trade 1000000-0", "trade 1000000@100.10", "trade 1000001@100.10",
	}
	if diff := cmp.Diff(want, got[max(len(got)-len(want), 0):]); diff != "" {
		t.Errorf("the end of the log (-want +got):\n%s", diff)
	}
}

// TestDamagedSpillIsStated: what is missing in the middle of what an earlier run
// spilled is not known to any instrument of the partition.
func TestDamagedSpillIsStated(t *testing.T) {
	q := &queue{room: 100}
	cfg := DefaultFeed()
	cfg.Venue, cfg.Symbols = "binance", []string{"BTCUSDT"}
	f := bare(t, q, cfg)
	c := f.bareConn()
	if err := c.feedFrame(5, bnTrade(7)); err != nil {
		t.Fatal(err)
	}
	q.lines = nil
	f.stateDamage([]bus.SpillDamage{
		{Topic: event.TopicMarket, Partition: 0, Records: 3, Since: 1, Until: 2},
		{Topic: event.TopicMarket, Partition: 1, Records: 3, Since: 1, Until: 2},
		{Topic: event.TopicInstruments, Partition: 0, Records: 3, Since: 1, Until: 2},
		{Topic: event.TopicMarket, Partition: 0, Records: -1, Since: 1},
	})
	if diff := cmp.Diff([]string{"unknown trade bounded: spilled records were damaged"}, q.lines); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

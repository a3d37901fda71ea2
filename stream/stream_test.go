package stream

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// only keeps the lines about one channel, or of one kind.
func only(lines []string, words ...string) []string {
	var out []string
	for _, l := range lines {
		for _, w := range words {
			if strings.Contains(l, w) {
				out = append(out, l)
				break
			}
		}
	}
	return out
}

func TestGapsAreStatedThroughDropsAndRestart(t *testing.T) {
	client := broker(t)
	var s *server
	s = serveVenue(t, func(n int, ws *websocket.Conn) {
		switch n {
		case 1:
			send(ws, `{"result":null,"id":1}`, bnTrade(1), bnQuote(10), bnTrade(2), bnTrade(2), bnTrade(1), "garbage", bnTrade(6), bnQuote(12), bnQuote(11))
		case 2:
			send(ws, bnTrade(10), bnQuote(20), `{"e":"kline"}`, `{"stream":"x","data":`+bnTrade(11)+`}`)
			s.drain(ws)
		case 3: // of the second run
			send(ws, bnTrade(11), bnTrade(15), bnQuote(30))
			s.drain(ws)
		}
	})
	feed := binanceFeed(s)
	r := start(t, client, component.Discard(), feed)
	<-r.Ready()
	status(t, r, func(f FeedStatus) bool { return f.Trades == 5 && f.Quotes == 3 && f.Connections == 1 })
	want := FeedStatus{Name: "binance", Connections: 1, Trades: 5, Quotes: 3, Duplicates: 3, Refused: 1, Gaps: 3, LostIDs: 6, Reconnects: 1, BadFrames: map[string]uint64{"malformed": 1}}
	got := r.Feeds()[0]
	got.LastFrame = time.Time{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	frames := map[string]FrameCount{
		"ack":        {Read: 1, Ignored: map[string]uint64{"control": 1}},
		"trade":      {Read: 7, Published: 5, Ignored: map[string]uint64{"duplicate": 2}},
		"bookTicker": {Read: 4, Published: 3, Ignored: map[string]uint64{"duplicate": 1}},
		"kline":      {Read: 1, Ignored: map[string]uint64{"not_used": 1}},
		"unknown":    {Read: 1, Refused: 1, Ignored: map[string]uint64{}},
	}
	if diff := cmp.Diff(frames, r.Frames()); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
	eventually(t, func() (bool, string) {
		return strings.Contains(s.messages(), `{"method":"SUBSCRIBE","params":["btcusdt@trade","btcusdt@bookTicker"],"id":1}`), "subscribing: " + s.messages()
	})
	drainRole(t, r)

	lines, clocks := logged(t, client, event.TopicMarket)
	if diff := cmp.Diff([]string{
		"received trade 1-0", "trade 1@100.10", "received bookTicker 10-0", "quote 10", "trade 2@100.10",
		"lost trade 3-5 bounded: ids jumped", "trade 6@100.10", "quote 12",
		"unknown trade 7-0: connection dropped", "unknown bookTicker: connection dropped",
		"lost trade 7-9 bounded: connection dropped", "received trade 10-0", "trade 10@100.10",
		"lost bookTicker bounded: connection dropped", "received bookTicker 20-0", "quote 20", "trade 11@100.10",
	}, lines["binance|BTCUSDT"]); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if last := clocks[len(clocks)-1]; !last.Closing || last.Connections != 0 || last.Feed != "binance" {
		t.Errorf("last clock record is %+v", last)
	}
	dead, _ := logged(t, client, event.TopicDead)
	if diff := cmp.Diff(map[string][]string{"binance|": {"dead garbage: malformed at byte 0: want a value"}}, dead); diff != "" {
		t.Errorf("dead letters (-want +got):\n%s", diff)
	}

	// Another run on the same log goes on from it.
	before := len(lines["binance|BTCUSDT"])
	r = start(t, client, component.Discard(), feed)
	status(t, r, func(f FeedStatus) bool { return f.Trades == 1 && f.Quotes == 1 })
	drainRole(t, r)
	lines, _ = logged(t, client, event.TopicMarket)
	if diff := cmp.Diff([]string{
		"lost trade 12-14 bounded: not running", "received trade 15-0", "trade 15@100.10",
		"lost bookTicker bounded: not running", "received bookTicker 30-0", "quote 30",
	}, lines["binance|BTCUSDT"][before:]); diff != "" {
		t.Errorf("log of the second run (-want +got):\n%s", diff)
	}
	if n := r.feeds[0].numbers.last; n != 3 {
		t.Errorf("the second run's connection has number %d, want 3", n)
	}
}

// reconnects runs a feed whose first connection misbehaves and returns how long
// the first frame of the second took after the last of the first.
func reconnects(t *testing.T, feed func(*server) FeedConfig, why string, first func(s *server, ws *websocket.Conn)) time.Duration {
	t.Helper()
	client := broker(t)
	var s *server
	var quiet, back time.Time
	s = serveVenue(t, func(n int, ws *websocket.Conn) {
		if n == 1 {
			first(s, ws)
			return
		}
		s.mu.Lock()
		back = time.Now()
		s.mu.Unlock()
		send(ws, bnTrade(100000))
		s.drain(ws)
	})
	r := start(t, client, component.Discard(), feed(s))
	status(t, r, func(f FeedStatus) bool { return f.Trades > 0 })
	for last := uint64(0); ; { // the last frame of the first connection
		now := r.Feeds()[0].Trades
		if now == last {
			break
		}
		last, quiet = now, time.Now()
		time.Sleep(20 * time.Millisecond)
	}
	status(t, r, func(f FeedStatus) bool { return f.Reconnects == 1 && f.LostIDs > 0 })
	drainRole(t, r)
	lines, _ := logged(t, client, event.TopicMarket)
	if got := only(lines["binance|BTCUSDT"], "unknown trade"); len(got) != 1 || !strings.HasSuffix(got[0], why) {
		t.Errorf("stated %q, want the reason %q", got, why)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return back.Sub(quiet)
}

func TestStallIsNoticed(t *testing.T) {
	took := reconnects(t, func(s *server) FeedConfig {
		f := binanceFeed(s)
		f.Stall = time.Second
		return f
	}, whyStall, func(s *server, ws *websocket.Conn) {
		for i := range 2500 { // beyond the first second, which sets no pace
			send(ws, bnTrade(i+1))
			time.Sleep(time.Millisecond) // the rate of a busy feed
		}
		s.drain(ws) // answers pings, sends nothing
	})
	if took > 3*time.Second {
		t.Errorf("noticed after %s", took)
	}
	t.Logf("a stall, with a limit of 1 s, was noticed and mended after %s", took)
}

func TestSilenceIsNoticed(t *testing.T) {
	took := reconnects(t, func(s *server) FeedConfig {
		f := binanceFeed(s)
		f.Idle = time.Second
		return f
	}, whyIdle, func(_ *server, ws *websocket.Conn) {
		send(ws, bnTrade(1))
		time.Sleep(5 * time.Second) // a half-open connection: no reading, no pongs
	})
	if took > 3*time.Second {
		t.Errorf("noticed after %s", took)
	}
}

func TestDropIsMendedAtOnce(t *testing.T) {
	took := reconnects(t, func(s *server) FeedConfig {
		f := binanceFeed(s)
		f.BackoffMin = DefaultFeed().BackoffMin
		return f
	}, whyDropped, func(_ *server, ws *websocket.Conn) { send(ws, bnTrade(1)) })
	if took > 500*time.Millisecond {
		t.Errorf("reconnected after %s", took)
	}
	t.Logf("reconnected after %s", took)
}

func TestVenueErrorReconnects(t *testing.T) {
	reconnects(t, binanceFeed, "the venue refused", func(s *server, ws *websocket.Conn) {
		send(ws, bnTrade(1), `{"code":2,"msg":"Invalid request"}`)
		s.drain(ws)
	})
}

func TestPlannedRotationLosesNothing(t *testing.T) {
	client := broker(t)
	var s *server
	second := make(chan struct{})
	s = serveVenue(t, func(n int, ws *websocket.Conn) {
		go s.drain(ws)
		if n == 1 {
			send(ws, bnTrade(1), bnQuote(1), bnTrade(2), `{"e":"serverShutdown","E":1770123456789}`)
			<-second
			send(ws, bnTrade(3), bnTrade(4), bnQuote(2)) // while both listen
			time.Sleep(3 * time.Second)
			return
		}
		send(ws, `{"result":null,"id":1}`, bnTrade(4), bnQuote(2), bnTrade(5), bnQuote(3)) // ahead of the first
		close(second)
		time.Sleep(5 * time.Second)
	})
	r := start(t, client, component.Discard(), binanceFeed(s))
	status(t, r, func(f FeedStatus) bool { return f.Trades == 5 && f.Quotes == 3 })
	drainRole(t, r)
	lines, _ := logged(t, client, event.TopicMarket)
	if diff := cmp.Diff([]string{
		"received trade 1-0", "trade 1@100.10", "received bookTicker 1-0", "quote 1", "trade 2@100.10", "trade 3@100.10", "trade 4@100.10", "quote 2",
		"received trade 5-0", "received bookTicker", "trade 5@100.10", "quote 3",
	}, lines["binance|BTCUSDT"]); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if got := r.Feeds()[0]; got.Gaps != 0 || got.Reconnects != 0 || got.Duplicates != 2 {
		t.Errorf("status %+v", got)
	}
}

func TestClockRecordsGoOnWithoutConnection(t *testing.T) {
	client := broker(t)
	var s *server
	s = serveVenue(t, func(n int, ws *websocket.Conn) { s.drain(ws) })
	feed := binanceFeed(s)
	feed.Symbols = []string{"BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT", "DOTUSDT"}
	s.Close() // nobody listens
	r := start(t, client, component.Discard(), feed)
	<-r.Ready()
	eventually(t, func() (bool, string) {
		_, clocks := logged(t, client, event.TopicMarket)
		return len(clocks) >= 3*len(r.feeds[0].partitions), "too few clock records"
	})
	drainRole(t, r)
	_, clocks := logged(t, client, event.TopicMarket)
	closing := 0
	for _, c := range clocks {
		if c.Connections != 0 {
			t.Errorf("clock record %+v", c)
		}
		closing += boolInt(c.Closing)
	}
	if n := len(r.feeds[0].partitions); closing != n || n < 2 {
		t.Errorf("%d closing clock records in %d partitions", closing, n)
	}
}

func TestCoinbaseTellsWhatWasMissed(t *testing.T) {
	client := broker(t)
	match := func(kind, id string) string {
		return `{"type":"` + kind + `","trade_id":` + id + `,"side":"sell","size":"1","price":"2.50","product_id":"BTC-USD","sequence":` + id + `0,"time":"2026-01-01T00:00:00.000000Z"}`
	}
	var s *server
	s = serveVenue(t, func(n int, ws *websocket.Conn) {
		if n == 1 {
			send(ws, match("last_match", "6"), match("match", "7"))
			return
		}
		send(ws, match("last_match", "9"), match("match", "10"))
		s.drain(ws)
	})
	feed := binanceFeed(s)
	feed.Name, feed.Venue, feed.Symbols = "cb", "coinbase", []string{"BTC-USD"}
	r := start(t, client, component.Discard(), feed)
	status(t, r, func(f FeedStatus) bool { return f.Trades == 2 })
	drainRole(t, r)
	lines, _ := logged(t, client, event.TopicMarket)
	if diff := cmp.Diff([]string{
		"received matches 7-0", "trade 7@2.50", "unknown matches 8-0: connection dropped",
		"lost matches 8-9 bounded: connection dropped", "received matches 10-0", "trade 10@2.50",
	}, lines["coinbase|BTC-USD"]); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestInstruments(t *testing.T) {
	client := broker(t)
	var s *server
	s = serveVenue(t, func(n int, ws *websocket.Conn) { s.drain(ws) })
	feed := binanceFeed(s)
	feed.REST = s.URL
	feed.Symbols = []string{"BTCUSDT", "ETHBTC", "DOGEUSDT", "???"}
	feed.Instruments = []InstrumentConfig{{Symbol: "DOGEUSDT", Base: "DOGE", Quote: "USDT", PriceTick: event.MustDecimal("0.001"), QtyStep: event.MustDecimal("1"), MinQty: event.MustDecimal("10")}}
	want := map[string][]string{
		"binance|BTCUSDT":  {"instrument BTC-USDT tick 0.01000000 step 0.00001000 min 0.00001000 notional 5.00000000 (venue)"},
		"binance|ETHBTC":   {"instrument ETH-BTC tick 0.00000001 step 0.00000001 min  notional  (inferred)"},
		"binance|DOGEUSDT": {"instrument DOGE-USDT tick 0.001 step 1 min 10 notional  (config)"},
	}
	for range 2 { // a second run has nothing new to say
		r := start(t, client, component.Discard(), feed)
		eventually(t, func() (bool, string) {
			lines, _ := logged(t, client, event.TopicInstruments)
			return len(lines) == 3, cmp.Diff(want, lines)
		})
		drainRole(t, r)
		lines, _ := logged(t, client, event.TopicInstruments)
		if diff := cmp.Diff(want, lines); diff != "" {
			t.Errorf("instruments (-want +got):\n%s", diff)
		}
	}
}

// TestCancelStopsInOrder ends a role by its context: it still says goodbye.
func TestCancelStopsInOrder(t *testing.T) {
	client := broker(t)
	var s *server
	s = serveVenue(t, func(_ int, ws *websocket.Conn) {
		send(ws, bnTrade(1))
		s.drain(ws)
	})
	cfg := DefaultConfig()
	cfg.Feeds = []FeedConfig{binanceFeed(s)}
	r, err := New(cfg, client, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() { failed <- r.Run(ctx) }()
	status(t, r, func(f FeedStatus) bool { return f.Trades == 1 })
	cancel()
	if err := <-failed; err != nil {
		t.Errorf("Run returned %v", err)
	}
	if _, clocks := logged(t, client, event.TopicMarket); len(clocks) == 0 || !clocks[len(clocks)-1].Closing {
		t.Errorf("the last clock record is not a closing one: %+v", clocks)
	}
	select {
	case <-r.Done():
	default:
		t.Error("Done is open")
	}
}

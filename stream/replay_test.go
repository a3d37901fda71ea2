package stream

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/venue"
)

// replayEnv has a session's clock.
func replayEnv() (component.Env, *component.SessionClock) {
	env := component.Discard()
	clock := new(component.SessionClock)
	env.Clock = clock
	return env, clock
}

// player serves recorded frames and ends as the player does.
func player(t *testing.T, times []int64, frames []string) *server {
	t.Helper()
	return serveVenue(t, func(_ int, ws *websocket.Conn) {
		for i, f := range frames {
			if ws.WriteMessage(websocket.BinaryMessage, stamped(times[i], f)) != nil {
				return
			}
		}
		_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
		_, _, _ = ws.ReadMessage() // the answer
	})
}

func waitDone(t *testing.T, r *Role) {
	t.Helper()
	select {
	case <-r.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the replay does not end")
	}
}

func TestReplayFollowsRecordedTime(t *testing.T) {
	client := broker(t)
	const t0 = int64(1600000000_250000000)
	times := []int64{t0, t0 + 100e6, t0 + 2500e6, t0 + 3600e9, t0 + 3600e9 + 1e9}
	s := player(t, times, []string{bnTrade(1), bnTrade(2), bnTrade(5), bnQuote(7), `{"e":"aggTrade","E":1700000000000,"s":"BTCUSDT","a":9,"p":"1","q":"1","T":1700000000000,"m":true}`})
	feed := binanceFeed(s)
	feed.Replay, feed.Symbols = true, nil
	env, clock := replayEnv()
	r := start(t, client, env, feed)
	waitDone(t, r)
	drainRole(t, r)
	if got := clock.Now().UnixNano(); got != times[4] {
		t.Errorf("the session's clock stands at %d, want %d", got, times[4])
	}
	lines, clocks := logged(t, client, event.TopicMarket)
	if diff := cmp.Diff([]string{
		"received trade 1-0", "trade 1@100.10", "trade 2@100.10", "lost trade 3-4 bounded: ids jumped", "trade 5@100.10", "received bookTicker 7-0", "quote 7",
	}, lines["binance|BTCUSDT"]); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	var at []string
	for _, c := range clocks {
		at = append(at, fmt.Sprintf("%d %d %v", c.Time-t0, c.Connections, c.Closing))
	}
	// Seconds of receive time; an hour's pause of the recorder is not filled.
	if diff := cmp.Diff([]string{"750000000 1 false", "1750000000 1 false", "2750000000 1 false", "3600750000000 1 false", "3601000000000 0 true"}, at); diff != "" {
		t.Errorf("clock records (-want +got):\n%s", diff)
	}
	// A symbol's trades come from one channel.
	if got := r.Frames()["aggTrade"]; got.Published != 0 || got.Ignored[reasonSecondTrade] != 1 {
		t.Errorf("aggTrade frames: %+v", got)
	}
	inst, _ := logged(t, client, event.TopicInstruments)
	if len(inst["binance|BTCUSDT"]) != 1 || !strings.Contains(inst["binance|BTCUSDT"][0], "inferred") {
		t.Errorf("instruments: %q", inst)
	}
}

func TestReplayThatBreaksOffFails(t *testing.T) {
	client := broker(t)
	s := serveVenue(t, func(_ int, ws *websocket.Conn) {
		_ = ws.WriteMessage(websocket.BinaryMessage, stamped(1600000000_000000000, bnTrade(1)))
	})
	feed := binanceFeed(s)
	feed.Replay = true
	cfg := DefaultConfig()
	cfg.Feeds = []FeedConfig{feed}
	env, _ := replayEnv()
	r, err := New(cfg, client, env)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "ended early") {
		t.Errorf("Run returned %v", err)
	}
}

// recording reads a file of ../shared/recordings.
func recording(t *testing.T, path string) (times []int64, frames []string) {
	t.Helper()
	file, err := os.Open("../../shared/recordings/" + path)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the recordings are missing: %v", err)
		}
		t.Skipf("the recordings are missing: %v", err)
	}
	defer func() { _ = file.Close() }()
	sc := bufio.NewScanner(file)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		at, text, ok := strings.Cut(sc.Text(), ": ")
		sec, isTime := new(big.Rat).SetString(at)
		if !ok || !isTime {
			continue
		}
		ns := sec.Mul(sec, big.NewRat(1e9, 1))
		times, frames = append(times, new(big.Int).Quo(ns.Num(), ns.Denom()).Int64()), append(frames, text)
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	return times, frames
}

func TestRecordingsThroughTheRole(t *testing.T) {
	bt, bf := recording(t, "binance-spot/BINANCE.ws.1.0")
	ct, cf := recording(t, "coinbase-exchange/COINBASE.ws.28.0.part")
	client := broker(t)
	b, c := binanceFeed(player(t, bt, bf)), binanceFeed(player(t, ct, cf))
	b.Replay, b.Symbols = true, nil
	c.Replay, c.Symbols, c.Name, c.Venue = true, nil, "coinbase", "coinbase"
	env, _ := replayEnv()
	r := start(t, client, env, b, c)
	waitDone(t, r)
	drainRole(t, r)
	want := map[string]FrameCount{
		"aggTrade":      {Read: 2, Published: 2, Ignored: map[string]uint64{}},
		"bookTicker":    {Read: 84, Published: 84, Ignored: map[string]uint64{}},
		"depthUpdate":   {Read: 177, Ignored: map[string]uint64{"not_used": 177}},
		"kline":         {Read: 2, Ignored: map[string]uint64{"not_used": 2}},
		"match":         {Read: 36, Published: 36, Ignored: map[string]uint64{}},
		"ticker":        {Read: 46, Published: 46, Ignored: map[string]uint64{}},
		"last_match":    {Read: 10, Ignored: map[string]uint64{"before_subscription": 10}},
		"snapshot":      {Read: 10, Ignored: map[string]uint64{"not_used": 10}},
		"l2update":      {Read: 5891, Ignored: map[string]uint64{"not_used": 5891}},
		"subscriptions": {Read: 3, Ignored: map[string]uint64{"control": 3}},
	}
	if diff := cmp.Diff(want, r.Frames()); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
	counts := map[string]int{}
	for p := range client.Partitions(event.TopicMarket) {
		if _, err := client.ReadAll(t.Context(), event.TopicMarket, p, bus.FromStart, func(rec bus.Record) error {
			v, _ := event.SplitKey(rec.Key)
			counts[fmt.Sprintf("%s %d", v, event.TypeOf(rec.Value))]++
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for kind, n := range map[string]int{"binance 1": 2, "binance 2": 84, "coinbase 1": 36, "coinbase 2": 46} {
		if counts[kind] != n {
			t.Errorf("%s: %d records, want %d", kind, counts[kind], n)
		}
	}
	if got := r.Feeds(); got[0].Gaps != 0 || got[1].Gaps != 0 {
		t.Errorf("gaps stated in recordings that have none: %+v", got)
	}
}

func TestJSONFeedOfTheGuide(t *testing.T) {
	client := broker(t)
	var s *server
	s = serveVenue(t, func(n int, ws *websocket.Conn) {
		send(ws, `{"hello":1}`, `{"symbol":"AAPL","price":189.30}`, `{"symbol":"BTC-USD","price":"64000.5"}`, `{"symbol":"AAPL","price":189.35}`)
		if n > 1 {
			s.drain(ws)
		}
	})
	feed := DefaultFeed()
	feed.Name, feed.Venue, feed.URL, feed.BackoffMin = "guide", "json", s.url(), 20*time.Millisecond
	feed.JSON = &venue.JSON{Symbol: "symbol", Price: "price", Subscribe: []string{`{"op":"subscribe"}`}}
	r := start(t, client, component.Discard(), feed)
	status(t, r, func(f FeedStatus) bool { return f.Trades == 6 })
	eventually(t, func() (bool, string) { return strings.Contains(s.messages(), `{"op":"subscribe"}`), "subscribing" })
	drainRole(t, r)
	ids := trades(t, client)
	want := map[string]string{}
	for _, id := range []string{"1.1", "1.2", "2.1", "2.2"} {
		want["guide|json|AAPL|#"+id] = "189.30"
		if strings.HasSuffix(id, ".2") {
			want["guide|json|AAPL|#"+id] = "189.35"
		}
	}
	want["guide|json|BTC-USD|#1.1"], want["guide|json|BTC-USD|#2.1"] = "64000.5", "64000.5"
	if diff := cmp.Diff(want, ids); diff != "" {
		t.Errorf("identities and prices (-want +got):\n%s", diff)
	}
	// Connection numbers are kept for ever: another run repeats no identity.
	r = start(t, client, component.Discard(), feed)
	status(t, r, func(f FeedStatus) bool { return f.Trades >= 3 })
	drainRole(t, r)
	if got := trades(t, client)["guide|json|AAPL|#3.1"]; got != "189.30" {
		t.Errorf("the second run's first trade is %q", got)
	}
	lines, _ := logged(t, client, event.TopicMarket)
	if got := only(lines["guide|AAPL"], "not running"); len(got) != 1 {
		t.Errorf("the pause between the runs is stated %d times", len(got))
	}
}

// trades returns the prices of all trades by identity.
func trades(t *testing.T, client *bus.Client) map[string]string {
	t.Helper()
	out := map[string]string{}
	for p := range client.Partitions(event.TopicMarket) {
		if _, err := client.ReadAll(t.Context(), event.TopicMarket, p, bus.FromStart, func(rec bus.Record) error {
			if event.TypeOf(rec.Value) != event.TypeTrade {
				return nil
			}
			var tr event.Trade
			if err := event.DecodeTrade(rec.Value, &tr); err != nil {
				return err
			}
			id := string(tr.AppendID(nil, rec.Key))
			if _, dup := out[id]; dup {
				t.Errorf("identity %s occurs twice", id)
			}
			text, err := json.Marshal(tr.Price)
			out[id] = strings.Trim(string(text), `"`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

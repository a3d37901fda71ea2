package stream

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/venue"
)

// lockedBuffer is a log that a test reads while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestNoFrameBreaksMetrics: names of kinds are a venue's, whatever it sends; they stay
// labels that Prometheus takes, and few over any number of connections.
func TestNoFrameBreaksMetrics(t *testing.T) {
	client := broker(t)
	kind := 0
	s := serveVenue(t, func(n int, ws *websocket.Conn) {
		if n > 3 {
			send(ws, bnTrade(n))
			(&server{}).drain(ws)
			return
		}
		for range 40 {
			kind++
			send(ws, fmt.Sprintf(`{"e":"kind%d","s":"BTCUSDT"}`, kind))
		}
		send(ws, `{"e":"`+strings.Repeat("a", 39)+`€x","s":"BTCUSDT"}`, "{\"e\":\"\xff\xfe\",\"s\":\"BTCUSDT\"}", `{"e":"\u0007\u001b[31m","s":"BTCUSDT"}`)
		time.Sleep(50 * time.Millisecond)
	})
	env := component.Discard()
	registry := prometheus.NewRegistry()
	env.Metrics = registry
	r := start(t, client, env, binanceFeed(s))
	status(t, r, func(f FeedStatus) bool { return f.Trades > 0 })
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for _, f := range families {
		if f.GetName() != "autohedge_stream_frames_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "kind" {
					kinds[l.GetValue()] = true
				}
			}
		}
	}
	if len(kinds) < 40 || len(kinds) > venue.MaxKinds+1 {
		t.Errorf("%d kinds have labels", len(kinds))
	}
	drainRole(t, r)
}

// TestBadFramesAreSaid: what a venue sends in vain is logged once, with the frame, and a
// venue that refuses us is in /health until it does not.
func TestBadFramesAreSaid(t *testing.T) {
	client := broker(t)
	go2 := make(chan struct{})
	s := serveVenue(t, func(n int, ws *websocket.Conn) {
		if n == 1 {
			send(ws, `{"error":{"code":2,"msg":"Invalid request: no such stream"}}`)
			(&server{}).drain(ws)
			return
		}
		<-go2
		for i := range 20 {
			send(ws, `{"e":"trade","E":1700000000000,"s":"BTCUSDT","t":7,"p":"nonsense","q":"0.5","T":1,"m":true}`, strings.ReplaceAll(bnTrade(i), "BTCUSDT", "DOGEUSDT"))
		}
		send(ws, bnTrade(1))
		(&server{}).drain(ws)
	})
	env := component.Discard()
	var log lockedBuffer
	env.Log = slog.New(slog.NewTextHandler(&log, nil))
	f := binanceFeed(s)
	f.Symbols = []string{"BTCUSDT", "ETHUSDT"}
	r := start(t, client, env, f)
	wrong := r.Conditions()["feeds"]
	eventually(t, func() (bool, string) { w := wrong(); return strings.Contains(w, "no such stream"), w })
	close(go2)
	status(t, r, func(f FeedStatus) bool { return f.Trades > 0 })
	eventually(t, func() (bool, string) { w := wrong(); return w == "", w })
	for _, want := range []string{"why=other_symbol", "not a decimal number", "DOGEUSDT"} {
		if n := strings.Count(log.String(), want); n != 1 {
			t.Errorf("the log has %q %d times, want once:\n%s", want, n, log.String())
		}
	}
	// Later the second symbol is still silent.
	r.feeds[0].lookForSilent(time.Now().Add(2 * silentAfter))
	r.feeds[0].lookForSilent(time.Now().Add(4 * silentAfter))
	if w := wrong(); w != "feed binance: nothing has come of ETHUSDT" {
		t.Errorf("/health says %q", w)
	}
	if n := strings.Count(log.String(), "nothing has come of symbols"); n != 1 {
		t.Errorf("the silent symbol is logged %d times", n)
	}
	drainRole(t, r)
}

// TestSymbolsAreCanonical: a symbol in another case than the venue's is refused with the
// right one.
func TestSymbolsAreCanonical(t *testing.T) {
	for name, symbol := range map[string]string{"binance": "btcusdt", "coinbase": "btc-usd"} {
		c := DefaultConfig()
		f := DefaultFeed()
		f.Name, f.Venue, f.Symbols = name, name, []string{symbol}
		c.Feeds = []FeedConfig{f}
		err := c.Validate().Err()
		if want := fmt.Sprintf("%q", strings.ToUpper(symbol)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s of %s: %v, want %s in it", symbol, name, err, want)
		}
	}
}

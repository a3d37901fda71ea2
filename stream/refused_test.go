package stream

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/venue"
)

// binanceThatRefuses answers a SUBSCRIBE that names a bad stream with an error for the
// whole of it, as Binance does, and trades in every symbol that it accepted.
func binanceThatRefuses(s **server, bad func(stream string) bool) func(int, *websocket.Conn) {
	return func(_ int, ws *websocket.Conn) {
		id := 1
		for {
			var ask struct {
				Params []string
				ID     int
			}
			_, msg, err := ws.ReadMessage()
			if err != nil || json.Unmarshal(msg, &ask) != nil {
				return
			}
			(*s).note(string(msg))
			if slices.ContainsFunc(ask.Params, bad) {
				send(ws, fmt.Sprintf(`{"error":{"code":2,"msg":"Invalid request: invalid stream"},"id":%d}`, ask.ID))
				continue
			}
			send(ws, fmt.Sprintf(`{"result":null,"id":%d}`, ask.ID))
			for _, p := range ask.Params {
				if symbol, ok := strings.CutSuffix(p, "@trade"); ok {
					send(ws, strings.ReplaceAll(bnTrade(id), "BTCUSDT", strings.ToUpper(symbol)))
					id++
				}
			}
		}
	}
}

// coinbaseThatRefuses refuses a whole subscribe by naming one product of it.
func coinbaseThatRefuses(s **server, bad ...string) func(int, *websocket.Conn) {
	return func(_ int, ws *websocket.Conn) {
		for {
			var ask struct {
				Products []string `json:"product_ids"`
			}
			_, msg, err := ws.ReadMessage()
			if err != nil || json.Unmarshal(msg, &ask) != nil {
				return
			}
			(*s).note(string(msg))
			if i := slices.IndexFunc(ask.Products, func(p string) bool { return slices.Contains(bad, p) }); i >= 0 {
				send(ws, `{"type":"error","message":"Failed to subscribe","reason":"`+ask.Products[i]+` is not a valid product"}`)
				continue
			}
			send(ws, `{"type":"subscriptions","channels":[]}`)
			for _, p := range ask.Products {
				send(ws, `{"type":"match","trade_id":7,"side":"sell","size":"1","price":"2.50","product_id":"`+p+`","sequence":70,"time":"2026-01-01T00:00:00.000000Z"}`)
			}
		}
	}
}

// jsonThatRefuses is a described venue that refuses a whole request by naming a symbol.
func jsonThatRefuses(s **server, bad string) func(int, *websocket.Conn) {
	return func(_ int, ws *websocket.Conn) {
		for {
			var ask struct{ Symbols []string }
			_, msg, err := ws.ReadMessage()
			if err != nil || json.Unmarshal(msg, &ask) != nil {
				return
			}
			(*s).note(string(msg))
			if slices.Contains(ask.Symbols, bad) {
				send(ws, `{"error":"unknown symbol '`+bad+`'"}`)
				continue
			}
			for _, name := range ask.Symbols {
				send(ws, `{"error":null,"symbol":"`+name+`","price":2.5}`)
			}
		}
	}
}

// TestRefusedSymbolsAreAskedForAgain: each by itself, once it is due, on whichever
// connection lacks it; until then /health and metrics name it, and a line whose symbols
// are all refused does not connect.
func TestRefusedSymbolsAreAskedForAgain(t *testing.T) {
	client := broker(t)
	var bad atomic.Bool
	bad.Store(true)
	var s *server
	script := binanceThatRefuses(&s, func(stream string) bool { return bad.Load() && strings.HasPrefix(stream, "new") })
	s = serveVenue(t, func(n int, ws *websocket.Conn) { script(n, ws) })
	env := component.Discard()
	registry := prometheus.NewRegistry()
	env.Metrics = registry
	feed := binanceFeed(s)
	feed.Symbols = []string{"BTCUSDT", "NEWUSDT"}
	r := start(t, client, env, feed)
	status(t, r, func(f FeedStatus) bool { return f.Trades == 1 && slices.Equal(f.RefusedSymbols, []string{"NEWUSDT"}) })
	if got := symbolMetrics(t, registry); !slices.Equal(got, []string{"symbol_wrong refused NEWUSDT 1", "symbols refused 1", "symbols silent 0", "symbols unlisted 0"}) {
		t.Errorf("metrics: %q", got)
	}
	f := r.feeds[0]
	asked := len(strings.Split(s.messages(), "\n"))
	bad.Store(false)
	f.mu.Lock()
	l := &line{feed: f, plan: venue.Plan{Symbols: [][]string{{"NEWUSDT"}}}}
	f.symbols["NEWUSDT"].refusal.again = time.Now().Add(time.Hour)
	f.mu.Unlock()
	if !l.nothingToAsk(time.Now()) || l.nothingToAsk(time.Now().Add(2*time.Hour)) {
		t.Error("a line whose only symbol is refused connects before it is due, or not after that")
	}
	f.mu.Lock()
	f.symbols["NEWUSDT"].refusal.again = time.Now()
	f.mu.Unlock()
	status(t, r, func(f FeedStatus) bool { return f.Trades == 2 && len(f.RefusedSymbols) == 0 && f.Reconnects == 0 })
	if got := strings.Split(s.messages(), "\n")[asked:]; len(got) != 1 || strings.Contains(got[0], "btcusdt") {
		t.Errorf("asked again: %q", got)
	}
	drainRole(t, r)
}

// symbolMetrics are the metrics of symbols that something is wrong with.
func symbolMetrics(t *testing.T, registry *prometheus.Registry) (out []string) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, mf := range families {
		name := strings.TrimPrefix(mf.GetName(), "autohedge_stream_")
		if !strings.HasPrefix(name, "symbol") {
			continue
		}
		for _, m := range mf.GetMetric() {
			line := name
			for _, l := range m.GetLabel() {
				if l.GetName() != "feed" {
					line += " " + l.GetValue()
				}
			}
			out = append(out, fmt.Sprintf("%s %v", line, m.GetGauge().GetValue()))
		}
	}
	slices.Sort(out)
	return out
}

// TestSymbolLabelsAreBounded: any number of silent symbols makes few labels.
func TestSymbolLabelsAreBounded(t *testing.T) {
	registry := prometheus.NewRegistry()
	env := component.Discard()
	env.Metrics = registry
	cfg := DefaultConfig()
	cfg.Feeds = []FeedConfig{DefaultFeed()}
	cfg.Feeds[0].Venue = "binance"
	for i := range 1000 {
		cfg.Feeds[0].Symbols = append(cfg.Feeds[0].Symbols, fmt.Sprintf("S%dUSDT", i))
	}
	r, err := New(cfg, nil, env)
	if err != nil {
		t.Fatal(err)
	}
	r.host.partition = func([]byte) int32 { return 0 }
	f := r.feeds[0]
	f.restore(newRecovered())
	f.lookForSilent(time.Now())
	f.lookForSilent(time.Now().Add(2 * silentAfter))
	got := symbolMetrics(t, registry)
	if len(got) != maxNamed+3 || !slices.Contains(got, fmt.Sprintf("symbols silent %v", float64(len(f.symbols)))) {
		t.Errorf("%d lines, the last of them %q", len(got), got[len(got)-3:])
	}
}

// TestAWrongPathIsInHealth: frames that give no record, for a path that leads nowhere or
// a value that is none, are in /health while nothing else comes, and counted there.
func TestAWrongPathIsInHealth(t *testing.T) {
	described := venue.DefaultJSON()
	described.Price = "data.prise"
	cfg := DefaultFeed()
	cfg.Name, cfg.Venue, cfg.Channels, cfg.Symbols, cfg.JSON = "guide", "json", nil, []string{"A-USD"}, &described
	f := bare(t, &queue{room: 100}, cfg)
	c := f.bareConn()
	for _, frame := range []string{`{"symbol":"A-USD","data":{"price":1}}`, `{"symbol":"A-USD","data":{"price":2}}`, `{"symbol":"A-USD","data":{"prise":"x"}}`} {
		if err := c.feedFrame(1, frame); err != nil {
			t.Fatal(err)
		}
	}
	want := `feed guide: no frame has given a record: 1 frame bad_value (bad_value "price" at byte 34: "x" not a decimal number); 2 frames no_match (no price in them, as the paths say)`
	if w := f.wrong(); w != want {
		t.Errorf("/health says\n%s\nwant\n%s", w, want)
	}
	if got := f.status().BadFrames; got["no_match"] != 2 || got["bad_value"] != 1 || len(got) != 2 {
		t.Errorf("counted %v", got)
	}
	if err := c.feedFrame(2, `{"symbol":"A-USD","data":{"prise":3}}`); err != nil {
		t.Fatal(err)
	}
	if w := f.wrong(); w != "" {
		t.Errorf("/health says %q after a record", w)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "x": 0, "7": 7 * time.Second, "99999": time.Hour, "Fri, 02 Jan 2026 03:05:05 GMT": time.Minute,
		"Fri, 02 Jan 2026 03:00:00 GMT": 0, "Sat, 03 Jan 2026 03:00:00 GMT": time.Hour,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// TestAFrameThatIsTooLong: the connection was ended by us, and says so.
func TestAFrameThatIsTooLong(t *testing.T) {
	client := broker(t)
	s := serveVenue(t, func(n int, ws *websocket.Conn) {
		if n == 1 {
			send(ws, bnTrade(1), strings.Repeat("x", maxFrame+1))
		} else {
			send(ws, bnTrade(2))
		}
		(&server{}).drain(ws)
	})
	r := start(t, client, component.Discard(), binanceFeed(s))
	status(t, r, func(f FeedStatus) bool { return f.Trades == 2 })
	drainRole(t, r)
	lines, _ := logged(t, client, event.TopicMarket)
	if got := only(lines["binance|BTCUSDT"], "unknown"); len(got) != 1 || !strings.HasSuffix(got[0], whyTooLong) {
		t.Errorf("stated %q", got)
	}
}

func TestNamesSymbol(t *testing.T) {
	for _, c := range []struct {
		text, symbol string
		want         bool
	}{
		{"NO-SUCH is not a valid product", "NO-SUCH", true}, {"BTC-USDT is not a valid product", "BTC-USD", false},
		{"not valid: XBTC-USD, BTC-USD", "BTC-USD", true}, {"unknown 'A/B'", "A/B", true}, {"unknown A/B/C", "A/B", false},
		{"authentication failure", "BTC-USD", false}, {"bad: BTC-USD...", "BTC-USD", false},
	} {
		if got := namesSymbol(c.text, c.symbol); got != c.want {
			t.Errorf("%q names %s: %v", c.text, c.symbol, got)
		}
	}
}

// TestABadSymbolTakesNoOtherDown: the venue refuses one symbol of many, and all others
// trade on the same connection.
func TestABadSymbolTakesNoOtherDown(t *testing.T) {
	for name, c := range map[string]struct {
		venue   string
		symbols []string
		bad     []string
		script  func(**server) func(int, *websocket.Conn)
	}{
		"binance": {"binance", []string{"BTCUSDT", "ETHUSDT", "NOSUCH", "SOLUSDT", "NOTHERE", "XRPUSDT"}, []string{"NOSUCH", "NOTHERE"},
			func(s **server) func(int, *websocket.Conn) {
				return binanceThatRefuses(s, func(stream string) bool { return strings.HasPrefix(stream, "no") })
			}},
		"coinbase": {"coinbase", []string{"BTC-USD", "NO-SUCH", "BTC-USDT", "NOT-HERE"}, []string{"NO-SUCH", "NOT-HERE"},
			func(s **server) func(int, *websocket.Conn) { return coinbaseThatRefuses(s, "NO-SUCH", "NOT-HERE") }},
		"guide": {"json", []string{"A-USD", "NO-SUCH", "B-USD"}, []string{"NO-SUCH"},
			func(s **server) func(int, *websocket.Conn) { return jsonThatRefuses(s, "NO-SUCH") }},
	} {
		t.Run(name, func(t *testing.T) {
			client := broker(t)
			var s *server
			script := c.script(&s)
			s = serveVenue(t, func(n int, ws *websocket.Conn) { script(n, ws) })
			env := component.Discard()
			var log lockedBuffer
			env.Log = slog.New(slog.NewTextHandler(&log, nil))
			feed := binanceFeed(s)
			feed.Name, feed.Venue, feed.Symbols = name, c.venue, c.symbols
			if c.venue == "json" {
				feed.Channels = nil
				described := venue.DefaultJSON()
				described.Subscribe, described.Error = []string{`{"op":"hello"}`, `{"op":"subscribe","symbols":[{symbols}]}`}, "error"
				feed.JSON = &described
			}
			r := start(t, client, env, feed)
			want := uint64(len(c.symbols) - len(c.bad))
			status(t, r, func(f FeedStatus) bool { return f.Trades == want })
			wrong := r.Conditions()["feeds"]
			eventually(t, func() (bool, string) {
				w := wrong()
				return !slices.ContainsFunc(c.bad, func(b string) bool { return !strings.Contains(w, b) }), w
			})
			if f := r.Feeds()[0]; f.Reconnects != 0 || f.Connections != 1 {
				t.Errorf("the connection did not hold: %+v", f)
			}
			drainRole(t, r)
			lines, _ := logged(t, client, event.TopicMarket)
			for _, symbol := range c.symbols {
				if got := len(lines[name+"|"+symbol]) > 0; got == slices.Contains(c.bad, symbol) {
					t.Errorf("%s has records: %v", symbol, got)
				}
			}
			for _, b := range c.bad {
				if n := len(only(only(strings.Split(log.String(), "\n"), "refuses a symbol"), "symbol="+b)); n != 1 {
					t.Errorf("the log names %s %d times, want once:\n%s", b, n, log.String())
				}
			}
		})
	}
}

// TestABadSymbolKeepsInstruments: Binance answers a question about one unknown symbol
// with 400 for all; the others keep the venue's steps.
func TestABadSymbolKeepsInstruments(t *testing.T) {
	client := broker(t)
	s := serveVenue(t, func(_ int, ws *websocket.Conn) { (&server{}).drain(ws) })
	rest := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.RawQuery, "NOSUCH") {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"code":-1121,"msg":"Invalid symbol."}`))
			return
		}
		_, _ = w.Write([]byte(`{"symbols":[{"symbol":"BTCUSDT","baseAsset":"BTC","quoteAsset":"USDT","filters":[{"filterType":"PRICE_FILTER","tickSize":"0.01"},{"filterType":"LOT_SIZE","stepSize":"0.001"}]}]}`))
	}))
	t.Cleanup(rest.Close)
	feed := binanceFeed(s)
	feed.REST, feed.Symbols = rest.URL, []string{"BTCUSDT", "NOSUCHUSDT"}
	r := start(t, client, component.Discard(), feed)
	eventually(t, func() (bool, string) {
		lines, _ := logged(t, client, event.TopicInstruments)
		return len(lines) == 2, fmt.Sprint(lines)
	})
	wrong := r.Conditions()["feeds"]
	eventually(t, func() (bool, string) {
		w := wrong()
		return strings.Contains(w, "NOSUCHUSDT") && !strings.Contains(w, "BTCUSDT"), w
	})
	drainRole(t, r)
	lines, _ := logged(t, client, event.TopicInstruments)
	if got := lines["binance|BTCUSDT"]; len(got) != 1 || !strings.Contains(got[0], "tick 0.01 step 0.001") {
		t.Errorf("the good symbol's instrument: %q", got)
	}
}

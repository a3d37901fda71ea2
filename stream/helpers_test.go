package stream

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// server is a venue whose connections a test drives: script is called for each
// with its number, from 1, and the connection is closed when it returns.
type server struct {
	*httptest.Server
	mu  sync.Mutex
	n   int
	got []string // messages of the clients
}

func serveVenue(t testing.TB, script func(n int, ws *websocket.Conn)) *server {
	t.Helper()
	s := &server{}
	up := websocket.Upgrader{Subprotocols: []string{replayProtocol}}
	mux := http.NewServeMux()
	mux.HandleFunc("/api/v3/exchangeInfo", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"symbols":[{"symbol":"BTCUSDT","baseAsset":"BTC","quoteAsset":"USDT","filters":[{"filterType":"PRICE_FILTER","tickSize":"0.01000000"},{"filterType":"LOT_SIZE","stepSize":"0.00001000","minQty":"0.00001000"},{"filterType":"NOTIONAL","minNotional":"5.00000000"}]},{"symbol":"XRPUSDT"}]}`))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.n++
		n := s.n
		s.mu.Unlock()
		defer func() { _ = ws.Close() }()
		script(n, ws)
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.CloseClientConnections)
	t.Cleanup(s.Close)
	return s
}

func (s *server) url() string { return "ws" + strings.TrimPrefix(s.URL, "http") }

// drain reads what the client sends, pings included, until the connection ends.
func (s *server) drain(ws *websocket.Conn) {
	for {
		_, msg, err := ws.ReadMessage()
		if err != nil {
			return
		}
		s.note(string(msg))
	}
}

// note keeps what a client sent.
func (s *server) note(msg string) {
	s.mu.Lock()
	s.got = append(s.got, msg)
	s.mu.Unlock()
}

func (s *server) messages() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.got, "\n")
}

func send(ws *websocket.Conn, frames ...string) {
	for _, f := range frames {
		if ws.WriteMessage(websocket.TextMessage, []byte(f)) != nil {
			return
		}
	}
}

// stamped is a message of the player.
func stamped(recv int64, frame string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(recv)), frame...)
}

func bnTrade(id int) string {
	return fmt.Sprintf(`{"e":"trade","E":%d,"s":"BTCUSDT","t":%d,"p":"100.10","q":"0.5","T":%[1]d,"m":true}`, 1700000000000+id, id)
}

func bnQuote(u int) string {
	return fmt.Sprintf(`{"u":%d,"s":"BTCUSDT","b":"100.00","B":"1","a":"100.20","A":"2"}`, u)
}

// broker starts an embedded broker in memory and connects to it.
func broker(t *testing.T) *bus.Client {
	t.Helper()
	b, err := bus.StartEmbedded(t.Context(), bus.EmbeddedConfig{Addr: "127.0.0.1:0", Partitions: 4}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	cfg := bus.DefaultConfig()
	cfg.Partitions = 4
	cfg.Brokers = []string{b.Addr()}
	c, err := bus.Connect(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// start runs a role until the test drains it.
func start(t *testing.T, client *bus.Client, env component.Env, feeds ...FeedConfig) *Role {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Feeds = feeds
	r, err := New(cfg, client, env)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error, 1)
	go func() { failed <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-failed; err != nil {
			t.Errorf("running the role: %v", err)
		}
	})
	return r
}

func drainRole(t *testing.T, r *Role) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

// eventually polls until ok, or fails after a while with what it last said.
func eventually(t *testing.T, ok func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		done, what := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it did not happen: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// binanceFeed is a feed of one symbol at a test's server, quick to reconnect.
func binanceFeed(s *server) FeedConfig {
	f := DefaultFeed()
	f.Name, f.Venue, f.URL, f.Symbols = "binance", "binance", s.url(), []string{"BTCUSDT"}
	f.BackoffMin = 20 * time.Millisecond
	return f
}

// logged reads a topic and describes its records, by key; clocks are apart.
func logged(t *testing.T, client *bus.Client, topic string) (lines map[string][]string, clocks []event.Clock) {
	t.Helper()
	lines = map[string][]string{}
	for p := range client.Partitions(topic) {
		_, err := client.ReadAll(t.Context(), topic, p, bus.FromStart, func(rec bus.Record) error {
			m, err := event.Decode(rec.Value)
			if err != nil {
				return err
			}
			key := string(rec.Key)
			switch m := m.(type) {
			case *event.Trade:
				lines[key] = append(lines[key], fmt.Sprintf("trade %d%s@%s", m.TradeID, m.TradeIDText, m.Price))
			case *event.Quote:
				lines[key] = append(lines[key], fmt.Sprintf("quote %d", m.Sequence))
			case *event.Coverage:
				lines[key] = append(lines[key], describeCoverage(m))
			case *event.Clock:
				clocks = append(clocks, *m)
			case *event.Dead:
				lines[key] = append(lines[key], fmt.Sprintf("dead %s: %s", m.Value, m.Reason))
			case *event.Instrument:
				lines[key] = append(lines[key], fmt.Sprintf("instrument %s tick %s step %s min %s notional %s (%s)", m.Name, m.PriceTick, m.QtyStep, m.MinQty, m.MinNotional, m.Source))
			default:
				return fmt.Errorf("a %T", m)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return lines, clocks
}

func describeCoverage(m *event.Coverage) string {
	s := fmt.Sprintf("%s %s", m.Kind, m.Channel)
	if m.FromID != 0 || m.ToID != 0 {
		s += fmt.Sprintf(" %d-%d", m.FromID, m.ToID)
	}
	if m.ToTime != 0 {
		s += " bounded"
		if m.ToTime < m.FromTime {
			s += " backwards"
		}
	}
	if m.Reason != "" {
		s += ": " + m.Reason
	}
	return s
}

// status waits until the feed's figures satisfy ok.
func status(t *testing.T, r *Role, ok func(FeedStatus) bool) {
	t.Helper()
	eventually(t, func() (bool, string) {
		s := r.Feeds()[0]
		return ok(s), fmt.Sprintf("%+v", s)
	})
}

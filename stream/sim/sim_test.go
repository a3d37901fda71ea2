package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"github.com/autohedge/autohedge/stream/component"
)

const childVar = "AUTOHEDGE_TEST_SIM_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVar); dir != "" {
		child(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// child runs a simulator until the process is killed.
func child(dir string) {
	cfg := DefaultConfig()
	cfg.Dir = dir
	cfg.Rate = 20000
	s, err := Start(context.Background(), cfg, component.Discard())
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println(s.BinanceURL())
	<-s.Done()
}

func start(t testing.TB, change func(*Config)) *Sim {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Dir = t.TempDir()
	if change != nil {
		change(&cfg)
	}
	s, err := Start(context.Background(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// conn is a test client.
type conn struct {
	t testing.TB
	*websocket.Conn
}

func dial(t testing.TB, url string) *conn {
	t.Helper()
	ws, resp, err := websocket.DefaultDialer.Dial(url, nil)
	if err != nil {
		t.Fatalf("dialing %s: %v", url, err)
	}
	_ = resp.Body.Close()
	c := &conn{t, ws}
	t.Cleanup(func() { _ = ws.Close() })
	return c
}

func (c *conn) say(msg string) {
	c.t.Helper()
	if err := c.WriteMessage(websocket.TextMessage, []byte(msg)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *conn) next() string {
	c.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
	_, b, err := c.ReadMessage()
	if err != nil {
		c.t.Fatalf("reading: %v", err)
	}
	return string(b)
}

// until reads to the first frame that contains all parts.
func (c *conn) until(parts ...string) string {
	c.t.Helper()
frames:
	for {
		f := c.next()
		for _, p := range parts {
			if !strings.Contains(f, p) {
				continue frames
			}
		}
		return f
	}
}

type binanceTradeMsg struct {
	Kind  string `json:"e"`
	Time  int64  `json:"E"`
	Sym   string `json:"s"`
	ID    uint64 `json:"t"`
	Price string `json:"p"`
	Qty   string `json:"q"`
	Maker bool   `json:"m"`
	T     int64  `json:"T"` // encoding/json would take it for t
	M     bool   `json:"M"`
}

func decode[T any](t testing.TB, frame string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(frame), &v); err != nil {
		t.Fatalf("decoding %s: %v", frame, err)
	}
	return v
}

func BenchmarkSocket(b *testing.B) {
	for _, rate := range []float64{300_000, 600_000, 2_000_000} {
		b.Run(fmt.Sprintf("rate=%.0f", rate), func(b *testing.B) {
			var names, streams []string
			for i := range 100 {
				names = append(names, fmt.Sprintf("S%03dUSDT", i))
				streams = append(streams, fmt.Sprintf("s%03dusdt@trade", i))
			}
			s := start(b, func(c *Config) {
				c.Binance, c.Coinbase, c.Ledger, c.Rate, c.QuotesPerTrade, c.SlowClients = names, nil, false, rate, 0, SlowWait
			})
			c := dial(b, s.BinanceURL()+"/stream?streams="+strings.Join(streams, "/"))
			buf := make([]byte, 1<<20)
			nc := c.NetConn()
			bytes := 0
			b.ResetTimer()
			begin := s.Stats().Frames
			for s.Stats().Frames-begin < int64(b.N) {
				n, err := nc.Read(buf) // raw bytes: the sender's rate, not a reader's
				if err != nil {
					b.Fatal(err)
				}
				bytes += n
			}
			b.ReportMetric(float64(s.Stats().Frames-begin)/b.Elapsed().Seconds(), "frames/s")
			b.ReportMetric(float64(bytes)/float64(s.Stats().Frames-begin), "B/frame")
		})
	}
}

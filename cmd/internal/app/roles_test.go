package app_test

import (
	"bufio"
	"context"
	"crypto/sha1" //nolint:gosec // RFC 6455 section 4.2.2 prescribes it
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/autohedge/autohedge/cmd/internal/config"
	"github.com/autohedge/autohedge/stream"
	"github.com/autohedge/autohedge/stream/venue"
)

// addresses waits for what a server command prints with --output json.
func (p *process) addresses() map[string]string {
	p.t.Helper()
	p.says(`(?s)\{.*\}`)
	return decode[map[string]string](p.t, p.out.String())
}

// Roles in several processes against servers in others: one half finds them
// through the data folder, the other is told their addresses. One of the feeds
// is known only by its description.
func TestRolesInProcesses(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	kafka := start(t, "kafka", "--data", data, "--output", "json")
	clickhouse := start(t, "clickhouse", "--data", data, "--output", "json")
	simulator := start(t, "simulate", "--dir", t.TempDir(), "--output", "json", "--rate", "600")
	sim := simulator.addresses()
	kafka.addresses()
	store := clickhouse.addresses()["address"]
	guide, feed := serveGuide(t)

	feeds := []stream.FeedConfig{
		{Name: "binance", Venue: "binance", URL: sim["binance_ws"] + "/stream", REST: sim["binance_rest"], Symbols: []string{"BTCUSDT", "ETHUSDT"}},
		{Name: "coinbase", Venue: "coinbase", URL: sim["coinbase_ws"], REST: sim["coinbase_rest"], Symbols: []string{"BTC-USD"}},
		{Name: "mine", Venue: "json", URL: guide, JSON: &venue.JSON{Symbol: "symbol", Price: "price"}},
	}
	market := write(t, data, "market.yaml", unhurried(func(c *config.Config) { c.Stream.Feeds = feeds }))
	// Who is told an address only is told the credential of the start, too.
	user, password := credential(t, data, "clickhouse")
	trading := write(t, data, "trading.yaml", strings.Replace(loggedIn(announced(t, data, "kafka"), func(c *config.Config) {
		c.ClickHouse.URL, c.ClickHouse.User, c.Stream.Feeds = store, user, feeds // both halves trade one market
	}), "  # the user's password, e.g. ${CLICKHOUSE_PASSWORD}\n  password: \"\"", "  password: \""+password+"\"", 1))

	left := start(t, "run", "--config", market, "--data", data, "--roles", "stream,signals")
	right := start(t, "run", "--config", trading, "--data", data, "--roles", "agents,execution,sinks")
	left.ready()
	right.ready()
	for _, sql := range []string{
		"SELECT count() FROM ticks WHERE venue = 'binance'", "SELECT count() FROM ticks WHERE venue = 'coinbase'",
		"SELECT count() FROM signals", "SELECT count() FROM decisions",
		"SELECT uniqExact(client_order_id) FROM order_events", "SELECT count() FROM ticks WHERE venue = 'mine'",
	} {
		atLeast(t, data, 3, sql)
	}

	left.signal(syscall.SIGTERM) // upstream first
	left.ended()
	sent := feed()
	// What the left half wrote, the right one has still to work off.
	right.signal(syscall.SIGTERM)
	right.ended()

	one := func(sql string) map[string]string {
		t.Helper()
		// By the address in the configuration, not through the folder.
		rows := queried(t, succeed(t, "query", "--config", trading, "--data", t.TempDir(), "-o", "json", sql))
		if len(rows) != 1 {
			t.Fatalf("%s: %v", sql, rows)
		}
		return rows[0]
	}
	if got := one("SELECT count() AS n, countIf(qty IS NULL) AS nulls, uniqExact(event_id) AS ids, countIf(price_exact = toDecimal128('64000.25', 18)) AS prices, any(symbol) AS symbol FROM ticks WHERE venue = 'mine'"); got["n"] == "0" ||
		got["nulls"] != got["n"] || got["ids"] != got["n"] || got["prices"] != got["n"] || got["symbol"] != "BTCUSD" {
		t.Errorf("the described feed landed as %v", got)
	} else if n, err := strconv.ParseInt(got["n"], 10, 64); err != nil || n > sent {
		t.Errorf("%s ticks landed of %d frames", got["n"], sent)
	}
	proof := one("SELECT sum(abs(missing)) AS missing, count() AS partitions FROM v_landed_proof")
	if proof["missing"] != "0" {
		t.Errorf("proof: %v", proof)
	}
	for _, table := range []string{"ticks", "quotes", "signals", "decisions", "order_events", "fills", "positions", "journal", "coverage"} {
		if got := one("SELECT count() - uniqExact(event_id) AS twice FROM " + table); got["twice"] != "0" {
			t.Errorf("%s: %v", table, got)
		}
	}
	// Every signal was judged once, every order came from a decision.
	if got := one("SELECT (SELECT count() FROM signals) AS signals, (SELECT uniqExact(signal_id) FROM decisions) AS judged"); got["signals"] != got["judged"] {
		t.Errorf("signals and verdicts: %v", got)
	}
	if got := one("SELECT count() AS n FROM order_events WHERE decision_id NOT IN (SELECT event_id FROM decisions)"); got["n"] != "0" {
		t.Errorf("%s order events without a decision", got["n"])
	}

	// The roles start again, all in one process, and end again.
	all := start(t, "run", "--config", market, "--data", data)
	all.ready()
	before := number(t, data, "SELECT count() FROM ticks")
	atLeast(t, data, before+1, "SELECT count() FROM ticks")
	all.signal(syscall.SIGINT)
	all.ended()
	for _, p := range []*process{simulator, clickhouse, kafka} {
		p.signal(syscall.SIGTERM)
		p.ended()
	}
}

// serveGuide is a WebSocket server that sends the guide's frames, as little as
// RFC 6455 asks of one: the venue code brings the real client. It returns its
// URL, and a function that tells how many frames it has sent.
func serveGuide(t *testing.T) (url string, count func() int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var sent atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // as above
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("taking the connection over: %v", err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
		for {
			sent.Add(1)
			if writeText(conn, rw.Writer, `{"symbol":"BTCUSD","price":64000.25}`) != nil {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}))
	t.Cleanup(func() { cancel(); s.Close() })
	return "ws" + strings.TrimPrefix(s.URL, "http"), sent.Load
}

// writeText writes one unmasked text frame of less than 126 bytes.
func writeText(conn net.Conn, w *bufio.Writer, text string) error {
	if err := conn.SetWriteDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := w.Write(append([]byte{0x81, byte(len(text))}, text...)); err != nil {
		return err
	}
	return w.Flush()
}

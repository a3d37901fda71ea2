package app_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// TestIDsBeginAgain: a venue that is reset sends the same ids again, with later times.
// They are stored and landed beside the former ones, fire rules and trade.
func TestIDsBeginAgain(t *testing.T) {
	t.Parallel()
	up := websocket.Upgrader{}
	var resets atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = ws.Close() }()
		again := resets.Load()
		for n := 0; again == resets.Load(); n++ { // one after another, each from id 1 on
			price := 100 + 0.01*float64(n%5)
			if n%70 == 69 {
				price = 99.8
			}
			for i := range 10 {
				frame := fmt.Sprintf(`{"symbol":"C%d-USD","id":%d,"at":%d,"price":%.2f,"bid":%.2f,"ask":%.2f}`, i, n+1, time.Now().UnixMilli(), price, price-0.01, price+0.01)
				if ws.WriteMessage(websocket.TextMessage, []byte(frame)) != nil {
					return
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
	}))
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	file := write(t, t.TempDir(), "mine.yaml", `
http: {listen: "off"}
stream:
  feeds:
    - name: mine
      venue: json
      url: ws`+strings.TrimPrefix(s.URL, "http")+`
      json: {symbol: symbol, price: price, id: id, ids: contiguous, time: at, quote: {bid: bid, ask: ask}}
signals:
  strategies: [{name: mine, account: paper}]
  rules:
    - {name: dip, strategy: mine, venues: [mine], indicator: zscore, threshold: -3, direction: cross_down, side: buy, cooldown: 3s}
`)
	data := t.TempDir()
	p := start(t, "demo", "--feed", "config", "--config", file, "--data", data, "--for", "10m", "--output", "json")
	p.ready()
	const fired = "SELECT event_id FROM signals WHERE startsWith(triggers[1], 'mine|json#1|')"
	atLeast(t, data, 1, "SELECT count() FROM signals WHERE startsWith(triggers[1], 'mine|json|')")
	resets.Store(true)
	atLeast(t, data, 100, "SELECT count() FROM (SELECT 1 FROM ticks GROUP BY symbol, trade_id HAVING uniqExact(epoch) = 2 AND count() = 2)")
	atLeast(t, data, 10, "SELECT count() FROM coverage WHERE epoch = 1 AND kind = 'unknown' AND startsWith(reason, 'the venue')")
	atLeast(t, data, 1, "SELECT count() FROM ("+fired+")")
	atLeast(t, data, 1, "SELECT count() FROM fills WHERE decision_id IN (SELECT event_id FROM decisions WHERE signal_id IN ("+fired+"))")
	p.signal(syscall.SIGTERM)
	p.clean() // nothing is missing, nothing there twice
}

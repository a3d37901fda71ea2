package app_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"
)

// recordings writes two recorded sessions: a sawtooth market on both wire
// formats, long enough for the default rules to fire.
func recordings(t *testing.T, dir string, trades int) (binance, coinbase string) {
	t.Helper()
	var b, c strings.Builder
	base := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(i, us int) (string, time.Time) {
		w := base.Add(time.Duration(i)*20*time.Millisecond + time.Duration(us)*time.Microsecond)
		return fmt.Sprintf("%d.%06d", w.Unix(), w.Nanosecond()/1000), w
	}
	t0, _ := at(0, 0)
	fmt.Fprintf(&b, "wss://stream.binance.com:9443/stream?streams=btcusdt@aggTrade/btcusdt@bookTicker <-> %s\n", t0)
	fmt.Fprintf(&c, "wss://ws-feed.exchange.coinbase.com <-> %s\n", t0)
	fmt.Fprintf(&c, "wss://ws-feed.exchange.coinbase.com <- %s: {\"type\":\"subscribe\",\"product_ids\":[\"ETH-USD\"],\"channels\":[\"matches\",\"ticker\"]}\n", t0)
	for i := 1; i <= trades; i++ {
		cents := i % 80 // up slowly, then a fall that no band expects
		if i%80 < 4 {
			cents = -400
		}
		price := fmt.Sprintf("%d.%02d", 64000+(cents+1000)/100, (cents+1000)%100)
		when, w := at(i, 0)
		fmt.Fprintf(&b, `%s: {"stream":"btcusdt@bookTicker","data":{"u":%d,"s":"BTCUSDT","b":"%s0000","B":"1.50000000","a":"%s1000","A":"2.00000000"}}`+"\n", when, 7000+i, price, price)
		when, _ = at(i, 200)
		fmt.Fprintf(&b, `%s: {"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":%d,"s":"BTCUSDT","a":%d,"p":"%s0000","q":"0.01500000","f":%d,"l":%d,"T":%d,"m":%v,"M":true}}`+"\n",
			when, w.UnixMilli(), 100+i, price, 200+i, 200+i, w.UnixMilli(), i%2 == 0)
		if i%4 != 0 {
			continue
		}
		when, w = at(i, 500)
		stamp := w.Format("2006-01-02T15:04:05.000000Z")
		fmt.Fprintf(&c, `%s: {"type":"match","trade_id":%d,"maker_order_id":"a","taker_order_id":"b","side":"sell","size":"0.25","price":"31%02d.5","product_id":"ETH-USD","sequence":%d,"time":"%s"}`+"\n", when, i/4, i%90, 2*i, stamp)
		when, _ = at(i, 600)
		fmt.Fprintf(&c, `%s: {"type":"ticker","sequence":%d,"product_id":"ETH-USD","price":"31%02d.5","open_24h":"3100","volume_24h":"1","low_24h":"1","high_24h":"9","volume_30d":"1","best_bid":"31%02d.4","best_ask":"31%02d.6","side":"buy","time":"%s","trade_id":%d,"last_size":"0.25"}`+"\n",
			when, 2*i+1, i%90, i%90, i%90, stamp, i/4)
	}
	return write(t, dir, "binance.ws", b.String()), write(t, dir, "coinbase.ws", c.String())
}

// The same recording twice: two sessions with the same counts and hashes, apart
// from the live data, until they are dropped.
func TestReplay(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	const trades = 600
	binance, coinbase := recordings(t, t.TempDir(), trades)
	var all []closing
	for n := range 2 {
		p := start(t, "demo", "--data", data, "--feed", "recording:"+binance+","+coinbase, "--speed", "max", "--output", "json")
		c := p.clean()
		if want := fmt.Sprintf("r%d", n+1); c.Session != want {
			t.Errorf("session %q, want %s", c.Session, want)
		}
		if c.Ticks != trades+trades/4 || c.Quotes != trades+trades/4 || c.Signals == 0 || c.SimCheck != nil || len(c.Frames) < 4 {
			t.Errorf("replay %d: %s", n+1, p.out.String())
		}
		for kind, f := range c.Frames {
			if f.Refused != 0 {
				t.Errorf("replay %d refused %d frames of %s", n+1, f.Refused, kind)
			}
		}
		all = append(all, c)
	}
	for _, k := range []string{"ticks", "quotes", "signals"} {
		if all[0].Hashes[k] == "" {
			t.Errorf("no hash of %s", k)
		}
	}
	if !maps.Equal(all[0].Hashes, all[1].Hashes) || all[0].Signals != all[1].Signals {
		t.Errorf("the same recording twice: %v and %v", all[0], all[1])
	}

	kafka := start(t, "kafka", "--data", data, "--output", "json")
	kafka.addresses()
	store := start(t, "clickhouse", "--data", data, "--output", "json")
	store.addresses()
	if got := decode[[]string](t, succeed(t, "session", "list", "--data", data, "-o", "json")); strings.Join(got, " ") != "r1 r2" {
		t.Errorf("sessions %v", got)
	}
	if out := succeed(t, "session", "list", "--data", data); !strings.Contains(out, "r2") || !strings.Contains(out, "autohedge_r2") {
		t.Errorf("session list prints\n%s", out)
	}
	count := func(session string) string {
		t.Helper()
		rows := queried(t, succeed(t, "query", "--data", data, "--session", session, "-o", "json", "SELECT count() AS n FROM ticks"))
		return rows[0]["n"]
	}
	if n := count("r2"); n != fmt.Sprint(trades+trades/4) {
		t.Errorf("session r2 holds %s ticks", n)
	}
	if out := succeed(t, "tail", "md", "--session", "r2", "--data", data, "--from", "start", "--key", "coinbase|ETH-USD", "--follow=false"); !strings.Contains(out, `"31`) || strings.Contains(out, "BTCUSDT") {
		t.Errorf("tail of a key of a session prints %.2000s", out)
	}
	succeed(t, "session", "drop", "r1", "--data", data)
	if got := decode[[]string](t, succeed(t, "session", "list", "--data", data, "-o", "json")); strings.Join(got, " ") != "r2" {
		t.Errorf("sessions after the drop: %v", got)
	}
	if got := ask(t, data, "SELECT groupArray(name) FROM (SELECT name FROM system.databases WHERE name LIKE 'autohedge_r%' ORDER BY name)"); got != "['autohedge_r2']" {
		t.Errorf("databases after the drop: %s", got)
	}
	if n := count("r2"); n != fmt.Sprint(trades+trades/4) {
		t.Errorf("session r2 holds %s ticks after the drop of r1", n)
	}
}

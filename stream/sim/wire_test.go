package sim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
)

// keys returns the top-level keys of a JSON object in their order; of a
// combined frame, those of its data.
func keys(t testing.TB, frame []byte) []string {
	t.Helper()
	var env struct{ Data json.RawMessage }
	if bytes.HasPrefix(frame, []byte(`{"stream"`)) {
		if err := json.Unmarshal(frame, &env); err != nil {
			t.Fatal(err)
		}
		frame = env.Data
	}
	d := json.NewDecoder(bytes.NewReader(frame))
	var list []string
	depth := 0
	for expectKey := false; ; {
		tok, err := d.Token()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatalf("reading %s: %v", frame, err)
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			depth++
			expectKey = depth == 1
			continue
		case json.Delim('}'), json.Delim(']'):
			depth--
			expectKey = depth == 1
			continue
		}
		if depth == 1 && expectKey {
			list = append(list, tok.(string))
			expectKey = false
		} else if depth == 1 {
			expectKey = true
		}
	}
}

// recorded returns the first received frame of the recordings that contains all parts.
func recorded(t testing.TB, file string, parts ...string) []byte {
	t.Helper()
	path := filepath.Join("..", "..", "..", "shared", "recordings", file)
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no recordings: %v", err)
		}
		t.Skipf("no recordings: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 16<<20)
lines:
	for sc.Scan() {
		line := sc.Bytes()
		for _, p := range parts {
			if !bytes.Contains(line, []byte(p)) {
				continue lines
			}
		}
		if line[0] != '{' {
			_, after, ok := bytes.Cut(line, []byte(": "))
			if !ok || bytes.Contains(line[:60], []byte(" <- ")) {
				continue
			}
			line = after
		}
		return bytes.Clone(line)
	}
	t.Fatalf("%s holds no frame with %q", file, parts)
	return nil
}

func TestBinanceFrames(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s.BinanceURL()+"/stream?streams=btcusdt@trade/btcusdt@aggTrade/btcusdt@bookTicker")
	tests := []struct {
		stream string
		want   []string
		record []string // file, parts
	}{
		{"btcusdt@trade", []string{"e", "E", "s", "t", "p", "q", "T", "m", "M"}, nil},
		{"btcusdt@aggTrade", []string{"e", "E", "s", "a", "p", "q", "f", "l", "T", "m", "M"}, []string{"binance-spot/BINANCE.ws.1.0", `"e":"aggTrade"`}},
		{"btcusdt@bookTicker", []string{"u", "s", "b", "B", "a", "A"}, []string{"binance-spot/captured-2026-08.jsonl", `"u":`}},
	}
	for _, tt := range tests {
		f := c.until(`{"stream":"` + tt.stream + `","data":{`)
		if diff := cmp.Diff(tt.want, keys(t, []byte(f))); diff != "" {
			t.Errorf("%s: keys of %s:\n%s", tt.stream, f, diff)
		}
		if tt.record != nil {
			rec := recorded(t, tt.record[0], tt.record[1:]...)
			if diff := cmp.Diff(keys(t, rec), keys(t, []byte(f))); diff != "" {
				t.Errorf("%s: keys differ from the recorded frame %s:\n%s", tt.stream, rec, diff)
			}
		}
		for _, part := range strings.Split(f, `"`) {
			if strings.Contains(part, ".") && len(part)-strings.Index(part, ".")-1 != 8 {
				t.Errorf("%s: %q has not eight decimals in %s", tt.stream, part, f)
			}
		}
	}
	// The raw form is the bare payload.
	raw := dial(t, s.BinanceURL()+"/ws/ethusdt@trade")
	if f := raw.next(); !strings.HasPrefix(f, `{"e":"trade","E":`) {
		t.Errorf("raw stream sent %s", f)
	}
}

// Trades, their aggregates and the book of one symbol agree with each other.
func TestBinanceStreamsAgree(t *testing.T) {
	s := start(t, func(c *Config) { c.Rate = 40000 })
	c := dial(t, s.BinanceURL()+"/ws/solusdt@trade/solusdt@aggTrade/solusdt@bookTicker")
	var bid, ask, last string
	var id, agg, upd, sum uint64
	steps := func(text string) uint64 {
		n, err := parseSteps(text, 8)
		if err != nil {
			t.Fatal(err)
		}
		return uint64(n)
	}
	inGroup := uint64(0)
	for range 6000 {
		f := c.next()
		switch {
		case strings.HasPrefix(f, `{"u"`):
			q := decode[struct {
				U    uint64 `json:"u"`
				B, A string
				Bid  string `json:"b"`
				Ask  string `json:"a"`
			}](t, f)
			if q.U <= upd || steps(q.Bid) >= steps(q.Ask) {
				t.Fatalf("quote %s after update %d", f, upd)
			}
			upd, bid, ask = q.U, q.Bid, q.Ask
		case strings.HasPrefix(f, `{"e":"trade"`):
			m := decode[binanceTradeMsg](t, f)
			if id != 0 && m.ID != id+1 {
				t.Fatalf("trade %d after %d", m.ID, id)
			}
			if steps(m.Price) < steps(bid) || steps(m.Price) > steps(ask) {
				t.Fatalf("trade at %s outside %s..%s", m.Price, bid, ask)
			}
			if low := 2*steps(m.Price) < steps(bid)+steps(ask); low != m.Maker {
				t.Fatalf("trade %s: buyer is maker %v, book %s..%s", f, m.Maker, bid, ask)
			}
			id, last = m.ID, m.Price
			inGroup++
			sum += steps(m.Qty)
		default:
			a := decode[struct {
				A    uint64 `json:"a"`
				P, Q string
				F    uint64 `json:"f"`
				L    uint64 `json:"l"`
			}](t, f)
			if agg != 0 && a.A != agg+1 || a.L != id || a.L-a.F+1 != inGroup || a.P != last || steps(a.Q) != sum {
				t.Fatalf("aggregate %s after %d, trade %d at %s, %d fills of %d", f, agg, id, last, inGroup, sum)
			}
			agg, inGroup, sum = a.A, 0, 0
		}
	}
	if id == 0 || agg == 0 || upd == 0 {
		t.Fatal("a stream was silent")
	}
}

func TestBinanceCommands(t *testing.T) {
	s := start(t, func(c *Config) { c.Rate = 0.001 })
	c := dial(t, s.BinanceURL()+"/ws")
	tests := []struct{ send, want string }{
		{`{"method":"SUBSCRIBE","params":["btcusdt@trade","ethusdt@depth@100ms","nosuchcoin@trade"],"id":1}`, `{"result":null,"id":1}`},
		{`{"method":"LIST_SUBSCRIPTIONS","id":3}`, `{"result":["btcusdt@trade","ethusdt@depth@100ms","nosuchcoin@trade"],"id":3}`},
		{`{"method":"UNSUBSCRIBE","params":["ethusdt@depth@100ms"],"id":"x-1"}`, `{"result":null,"id":"x-1"}`},
		{`{"method":"LIST_SUBSCRIPTIONS","id":null}`, `{"result":["btcusdt@trade","nosuchcoin@trade"],"id":null}`},
		{`{"method":"SET_PROPERTY","params":["combined",true],"id":5}`, `{"result":null,"id":5}`},
		{`{"method":"GET_PROPERTY","params":["combined"],"id":2}`, `{"result":true,"id":2}`},
		{`{"method":"SET_PROPERTY","params":["colour",true],"id":5}`, `{"code":0,"msg":"Unknown property","id":5}`},
		{`{"method":"SET_PROPERTY","params":["combined","yes"],"id":5}`, `{"code":1,"msg":"Invalid value type: expected Boolean","id":5}`},
		{`{"method":"SUBSCRIBE","params":"btcusdt@trade","id":1}`, `{"code":2,"msg":"Invalid request: params must be a list of stream names","id":1}`},
		{`{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1.5}`, `{"code":2,"msg":"Invalid request: id must be an integer, a string of up to 36 characters or null"}`},
		{`{"method":`, `{"code":3,"msg":"Invalid JSON: expected value at line 1 column 1"}`},
	}
	for i, tt := range tests {
		if i%4 == 3 { // five messages a second are allowed
			_ = c.Close()
			c = dial(t, s.BinanceURL()+"/ws")
			if i == 3 || i == 7 {
				c.say(`{"method":"SUBSCRIBE","params":["btcusdt@trade","nosuchcoin@trade"],"id":9}`)
				c.until(`"id":9`)
			}
		}
		c.say(tt.send)
		if got := c.next(); got != tt.want {
			t.Errorf("%s\nanswered %s\nwant     %s", tt.send, got, tt.want)
		}
	}
}

func TestBinanceMessageRate(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s.BinanceURL()+"/ws")
	for range 12 { // more than five, even when a second ends in between
		c.say(`{"method":"LIST_SUBSCRIPTIONS","id":3}`)
	}
	c.wantClose(closePolicy)
}

// wantClose reads until the connection ends and checks the close code; 0 wants
// an end without a close frame.
func (c *conn) wantClose(code int) {
	c.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
	for {
		_, _, err := c.ReadMessage()
		if err == nil {
			continue
		}
		if code == 0 && (websocket.IsUnexpectedCloseError(err) && !websocket.IsCloseError(err, websocket.CloseAbnormalClosure)) ||
			code != 0 && !websocket.IsCloseError(err, code) {
			c.t.Fatalf("connection ended with %v, want code %d", err, code)
		}
		return
	}
}

func TestCoinbaseFrames(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s.CoinbaseURL())
	c.say(`{"type":"subscribe","product_ids":["BTC-USD","ETH-USD"],"channels":["matches","heartbeat",{"name":"ticker","product_ids":["BTC-USD"]}]}`)
	want := `{"type":"subscriptions","channels":[{"name":"ticker","product_ids":["BTC-USD"]},{"name":"matches","product_ids":["BTC-USD","ETH-USD"]},{"name":"heartbeat","product_ids":["BTC-USD","ETH-USD"]}]}`
	if got := c.next(); got != want {
		t.Errorf("acknowledged %s\nwant %s", got, want)
	}
	match := c.until(`"type":"match"`)
	if diff := cmp.Diff(keys(t, recorded(t, "coinbase-exchange/COINBASE.ws.28.0.part", `"type":"match"`)), keys(t, []byte(match))); diff != "" {
		t.Errorf("match %s:\n%s", match, diff)
	}
	// Since 2022 the venue adds the two sizes; the recording is older.
	var wantTicker []string
	for _, k := range keys(t, recorded(t, "coinbase-exchange/COINBASE.ws.28.0.part", `"type":"ticker"`)) {
		wantTicker = append(wantTicker, k)
		if k == "best_bid" || k == "best_ask" {
			wantTicker = append(wantTicker, k+"_size")
		}
	}
	ticker := c.until(`"type":"ticker"`)
	if diff := cmp.Diff(wantTicker, keys(t, []byte(ticker))); diff != "" {
		t.Errorf("ticker %s:\n%s", ticker, diff)
	}
	beat := c.until(`"type":"heartbeat"`)
	if diff := cmp.Diff([]string{"type", "sequence", "last_trade_id", "product_id", "time"}, keys(t, []byte(beat))); diff != "" {
		t.Errorf("heartbeat %s:\n%s", beat, diff)
	}

	// Who comes later gets the last match before the acknowledgement and a
	// ticker after it.
	late := dial(t, s.CoinbaseURL())
	late.say(`{"type":"subscribe","product_ids":["BTC-USD"],"channels":["matches","ticker"]}`)
	first, ack, tick := late.next(), late.next(), late.next()
	if !strings.HasPrefix(first, `{"type":"last_match",`) || !strings.HasPrefix(ack, `{"type":"subscriptions"`) || !strings.HasPrefix(tick, `{"type":"ticker"`) {
		t.Errorf("a late client got\n%s\n%s\n%s", first, ack, tick)
	}
	if diff := cmp.Diff(keys(t, []byte(match)), keys(t, []byte(first))); diff != "" {
		t.Errorf("last_match:\n%s", diff)
	}
	late.say(`{"type":"unsubscribe","product_ids":["BTC-USD"],"channels":["matches","ticker"]}`)
	if got := late.until(`"subscriptions"`); got != `{"type":"subscriptions","channels":[]}` {
		t.Errorf("after unsubscribing: %s", got)
	}
}

// A match names the maker's side, its ticker the taker's; both name the same
// trade, sequence and time, and ids have no holes.
func TestCoinbaseChannelsAgree(t *testing.T) {
	s := start(t, func(c *Config) { c.Rate = 40000 })
	c := dial(t, s.CoinbaseURL())
	c.say(`{"type":"subscribe","product_ids":["SOL-USD"],"channels":["matches","ticker"]}`)
	c.next()
	type msg struct {
		Type                                        string
		ID                                          uint64 `json:"trade_id"`
		Seq                                         uint64 `json:"sequence"`
		Side, Price, Time                           string
		Size                                        string
		LastSize                                    string `json:"last_size"`
		Taker                                       string `json:"taker_order_id"`
		Bid                                         string `json:"best_bid"`
		Ask                                         string `json:"best_ask"`
		BidSize                                     string `json:"best_bid_size"`
		AskSize                                     string `json:"best_ask_size"`
		OpenDay                                     string `json:"open_24h"`
		LowDay, HighDay, VolumeDay, VolumeThirtyDay string
	}
	var last msg
	shared := 0
	for range 3000 {
		m := decode[msg](t, c.until(`"type":"match"`))
		tk := decode[msg](t, c.next())
		if tk.Type != "ticker" || tk.ID != m.ID || tk.Seq != m.Seq || tk.Price != m.Price || tk.Time != m.Time || tk.LastSize != m.Size || tk.Side == m.Side {
			t.Fatalf("match %+v\nticker %+v", m, tk)
		}
		if last.ID != 0 && (m.ID != last.ID+1 || m.Seq <= last.Seq || m.Time < last.Time) {
			t.Fatalf("match %+v\nafter %+v", m, last)
		}
		if m.Taker == last.Taker {
			shared++
		}
		at := func(text string) int64 {
			n, err := parseSteps(text, 8)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if p := at(m.Price); p < at(tk.Bid) || p > at(tk.Ask) || (2*p < at(tk.Bid)+at(tk.Ask)) != (m.Side == "buy") {
			t.Fatalf("match %+v\nin book %+v", m, tk)
		}
		if _, err := time.Parse("2006-01-02T15:04:05.000000Z", m.Time); err != nil {
			t.Fatal(err)
		}
		last = m
	}
	if shared == 0 {
		t.Error("no taker order had two fills")
	}
}

func TestCoinbaseErrors(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s.CoinbaseURL())
	tests := []struct{ send, want string }{
		{`{"type":"subscribe","product_ids":["NO-USD"],"channels":["matches"]}`, `{"type":"error","message":"Failed to subscribe","reason":"NO-USD is not a valid product"}`},
		{`{"type":"subscribe","product_ids":["BTC-USD"],"channels":["candles"]}`, `{"type":"error","message":"Failed to subscribe","reason":"candles is not a valid channel"}`},
		{`{"type":"subscribe","product_ids":["BTC-USD"],"channels":["level2"]}`, `{"type":"error","message":"Failed to subscribe","reason":"level2 channel requires authentication"}`},
		{`{"type":"subscribe","channels":["matches"]}`, `{"type":"error","message":"Failed to subscribe","reason":"no product_ids given"}`},
		{`{"type":"hello"}`, `{"type":"error","message":"Type has to be either subscribe or unsubscribe"}`},
		{`{`, `{"type":"error","message":"Malformed JSON"}`},
	}
	for _, tt := range tests {
		c.say(tt.send)
		if got := c.next(); got != tt.want {
			t.Errorf("%s\nanswered %s\nwant     %s", tt.send, got, tt.want)
		}
	}
}

func TestCoinbaseSubscribeGrace(t *testing.T) {
	s := start(t, func(c *Config) { c.SubscribeGrace = 100 * time.Millisecond })
	silent := dial(t, s.CoinbaseURL())
	good := dial(t, s.CoinbaseURL())
	good.say(`{"type":"subscribe","product_ids":["BTC-USD"],"channels":["matches"]}`)
	silent.wantClose(closePolicy)
	good.until(`"type":"match"`)
	if n := s.Stats().Clients; n > 2 {
		t.Errorf("%d clients", n)
	}
}

// The server pings; who does not answer is dropped.
func TestPing(t *testing.T) {
	s := start(t, func(c *Config) {
		c.PingInterval, c.PongTimeout = 50*time.Millisecond, 300*time.Millisecond
	})
	good := dial(t, s.BinanceURL()+"/ws")
	pings := 0
	good.SetPingHandler(func(data string) error {
		pings++
		return good.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(time.Second))
	})
	deaf := dial(t, s.BinanceURL()+"/ws")
	deaf.SetPingHandler(func(string) error { return nil })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, _, err := good.ReadMessage(); err != nil {
				return
			}
		}
	}()
	deaf.wantClose(closePolicy)
	select {
	case <-ended:
		t.Error("the client that answers was dropped")
	default:
	}
	_ = good.Close()
	<-ended
	if pings < 4 {
		t.Errorf("%d pings", pings)
	}
}

func TestREST(t *testing.T) {
	s := start(t, func(c *Config) { c.Rate = 3000 })
	get := func(url string, want int) string {
		t.Helper()
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d: %s", url, resp.StatusCode, want, b)
		}
		return string(b)
	}
	info := get(s.BinanceREST()+`/api/v3/exchangeInfo?symbols=["BTCUSDT","SOLUSDT"]`, 200)
	for _, part := range []string{`"symbol":"BTCUSDT","status":"TRADING","baseAsset":"BTC"`, `"quoteAsset":"USDT"`, `"tickSize":"0.01000000"`, `"stepSize":"0.00001000"`, `"symbol":"SOLUSDT"`} {
		if !strings.Contains(info, part) {
			t.Errorf("exchangeInfo lacks %s: %s", part, info)
		}
	}
	if got := get(s.BinanceREST()+`/api/v3/exchangeInfo?symbols=["NOUSDT"]`, 400); got != `{"code":-1121,"msg":"Invalid symbol."}` {
		t.Errorf("unknown symbol: %s", got)
	}
	if got := get(s.BinanceREST()+"/api/v3/ping", 200); got != "{}" {
		t.Errorf("ping: %s", got)
	}
	if got := get(s.BinanceREST()+"/api/v3/trades?symbol=BTCUSDT", 200); got != "[]" {
		t.Errorf("trades of a market that is not open: %s", got)
	}
	c := dial(t, s.BinanceURL()+"/ws/btcusdt@trade")
	m := decode[binanceTradeMsg](t, c.next())
	for range 20 {
		c.next()
	}
	rows := decode[[]struct {
		ID         uint64 `json:"id"`
		Price, Qty string
		QuoteQty   string `json:"quoteQty"`
		Maker      bool   `json:"isBuyerMaker"`
	}](t, get(fmt.Sprintf("%s/api/v3/historicalTrades?symbol=BTCUSDT&fromId=%d&limit=10", s.BinanceREST(), m.ID), 200))
	if len(rows) != 10 || rows[0].ID != m.ID || rows[0].Price != m.Price || rows[0].Qty != m.Qty || rows[0].Maker != m.Maker || rows[9].ID != m.ID+9 {
		t.Errorf("back-filled %+v, want from %+v", rows, m)
	}
	y := s.binance.symbols["BTCUSDT"] // 64000.12 x 0.01234 = 789.7614808
	if got := y.notional(trade{price: 6400012, qty: 1234}); got != "789.76148080" {
		t.Errorf("quoteQty %s", got)
	}
	if got := y.notional(trade{price: 1, qty: 1}); got != "0.00000010" {
		t.Errorf("quoteQty %s", got)
	}
	products := get(s.CoinbaseREST()+"/products", 200)
	if !strings.Contains(products, `"id":"BTC-USD","base_currency":"BTC","quote_currency":"USD","quote_increment":"0.01","base_increment":"0.00000001"`) {
		t.Errorf("products: %s", products)
	}
	get(s.CoinbaseREST()+"/products/NO-USD/ticker", 404)
	cb := dial(t, s.CoinbaseURL())
	cb.say(`{"type":"subscribe","product_ids":["BTC-USD"],"channels":["matches"]}`)
	cb.until(`"type":"match"`)
	if got := get(s.CoinbaseREST()+"/products/BTC-USD/ticker", 200); !strings.Contains(got, `"bid":"`) {
		t.Errorf("ticker: %s", got)
	}
	if got := get(s.CoinbaseREST()+"/products/BTC-USD/trades?limit=1", 200); !strings.Contains(got, `"side":"`) {
		t.Errorf("trades: %s", got)
	}
}

func TestFormat(t *testing.T) {
	for _, tt := range []struct {
		m            int64
		scale, width uint8
		fixed, short string
	}{
		{0, 2, 8, "0.00000000", "0"}, {5, 2, 8, "0.05000000", "0.05"}, {6459175, 2, 8, "64591.75000000", "64591.75"},
		{6459170, 2, 2, "64591.70", "64591.7"}, {100, 2, 2, "1.00", "1"}, {123, 0, 0, "123", "123"}, {123, 0, 8, "123.00000000", "123"},
		{1, 8, 8, "0.00000001", "0.00000001"},
	} {
		if got := string(appendFixed(nil, tt.m, tt.scale, tt.width)); got != tt.fixed {
			t.Errorf("appendFixed(%d, %d, %d) = %s, want %s", tt.m, tt.scale, tt.width, got, tt.fixed)
		}
		if got := string(appendShort(nil, tt.m, tt.scale)); got != tt.short {
			t.Errorf("appendShort(%d, %d) = %s, want %s", tt.m, tt.scale, got, tt.short)
		}
	}
	id := string(appendUUID(nil, 42))
	if len(id) != 36 || id[14] != '4' || !strings.ContainsRune("89ab", rune(id[19])) || id == string(appendUUID(nil, 43)) {
		t.Errorf("uuid %s", id)
	}
	// Aggregates and their groups follow from trade ids without holes.
	var aggs []uint64
	for id := uint64(64); id < 80; id += uint64(groupLeft(id)) {
		aggs = append(aggs, aggID(id))
	}
	if !slices.Equal(aggs, []uint64{40, 41, 42, 43, 44, 45, 46, 47, 48, 49}) {
		t.Errorf("aggregate ids %v", aggs)
	}
}

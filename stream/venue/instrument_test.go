package venue

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/event"
)

func TestInstruments(t *testing.T) {
	asked := ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path + "?" + r.URL.RawQuery
		switch {
		case strings.Contains(asked, "BAD"): // one refuses the whole question
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"code":-1121,"msg":"Invalid symbol."}`))
		case strings.HasPrefix(asked, "/api/v3/exchangeInfo"):
			_, _ = w.Write([]byte(`{"symbols":[{"symbol":"BNBBTC","status":"TRADING","baseAsset":"BNB","quoteAsset":"BTC","filters":[{"filterType":"PRICE_FILTER","minPrice":"0.1","maxPrice":"9","tickSize":"0.00000100"},{"filterType":"LOT_SIZE","minQty":"0.00100000","stepSize":"0.00100000"},{"filterType":"MARKET_LOT_SIZE","minQty":"7","stepSize":"7"},{"filterType":"NOTIONAL","minNotional":"0.00010000"}]},{"symbol":"OTHER"}]}`))
		case r.URL.Path == "/products":
			if r.Header.Get("User-Agent") == "" {
				w.WriteHeader(http.StatusBadRequest)
			}
			_, _ = w.Write([]byte(`[{"id":"BTC-USD","base_currency":"BTC","quote_currency":"USD","quote_increment":"0.01","base_increment":"0.00000001","min_market_funds":"1"},{"id":"X-Y"}]`))
		}
	}))
	defer srv.Close()
	show := func(list []event.Instrument) (out []string) {
		for _, i := range list {
			out = append(out, fmt.Sprintf("%s %s %s %s/%s %s %s %s %s %s", i.Venue, i.Symbol, i.Name, i.Base, i.Quote, i.PriceTick, i.QtyStep, i.MinQty, i.MinNotional, i.Source))
		}
		return out
	}
	got, err := binance{}.Instruments(t.Context(), srv.Client(), srv.URL, []string{"BNBBTC"})
	if diff := cmp.Diff([]string{"binance BNBBTC BNB-BTC BNB/BTC 0.00000100 0.00100000 0.00100000 0.00010000 venue"}, show(got)); diff != "" || err != nil {
		t.Errorf("binance: %v %s", err, diff)
	}
	if want := "/api/v3/exchangeInfo?symbols=%5B%22BNBBTC%22%5D"; asked != want {
		t.Errorf("asked %s, want %s", asked, want)
	}
	got, err = coinbase{}.Instruments(t.Context(), srv.Client(), srv.URL+"/", []string{"BTC-USD"})
	if diff := cmp.Diff([]string{"coinbase BTC-USD BTC-USD BTC/USD 0.01 0.00000001  1 venue"}, show(got)); diff != "" || err != nil {
		t.Errorf("coinbase: %v %s", err, diff)
	}
	got, err = (binance{}).Instruments(t.Context(), srv.Client(), srv.URL, []string{"BAD", "BNBBTC"})
	if diff := cmp.Diff([]string{"binance BNBBTC BNB-BTC BNB/BTC 0.00000100 0.00100000 0.00100000 0.00010000 venue"}, show(got)); diff != "" || err != nil {
		t.Errorf("beside a bad symbol: %v %s", err, diff)
	}
}

func TestInfer(t *testing.T) {
	guide := newJSONVenue(DefaultJSON())
	for _, c := range []struct {
		v            Venue
		symbol, want string
	}{
		{binance{}, "BTCUSDT", "BTC-USDT"}, {binance{}, "BLZETH", "BLZ-ETH"}, {binance{}, "RUNEEUR", "RUNE-EUR"}, {binance{}, "BTCFDUSD", "BTC-FDUSD"},
		{binance{}, "币安USDT", "币安-USDT"}, {binance{}, "USDT", ""}, {binance{}, "ABC", ""},
		{coinbase{}, "BAND-GBP", "BAND-GBP"}, {coinbase{}, "BTC", ""}, {coinbase{}, "-USD", ""},
		{guide, "btc/usd", "BTC-USD"}, {guide, "ETH_EUR", "ETH-EUR"}, {guide, "SOLUSDT", "SOL-USDT"}, {guide, "AAPL", ""},
	} {
		got, ok := c.v.Infer(c.symbol)
		if got.Name != c.want || ok != (c.want != "") || (ok && (got.Source != "inferred" || got.PriceTick != InferredStep)) {
			t.Errorf("%T: Infer(%q) = %+v, %v", c.v, c.symbol, got, ok)
		}
	}
}

// TestJSONMappings shows descriptions of feeds of several shapes.
func TestJSONMappings(t *testing.T) {
	for _, c := range []struct {
		name, frame string
		cfg         JSON
		want        string
	}{
		{"the guide's", `{"symbol":"BTC-USD","price":64000.10}`, JSON{Symbol: "symbol", Price: "price"}, "BTC-USD 64000.10 qty  unknown recv"},
		{"positions in an array", `["trade",["XBT/USD","1.5","2","1618678142.557535","s"]]`, JSON{Symbol: "1.0", Price: "1.1", Quantity: "1.2", Time: "1.3", Side: "1.4", TimeUnit: "s"}, "XBT/USD 1.5 qty 2 sell 1618678142557535000"},
		{"an array of trades", `[{"s":"A","p":1},{"s":"B","p":2}]`, JSON{Symbol: "s", Price: "p"}, "A 1 qty  unknown recv; B 2 qty  unknown recv"},
		{"a fixed symbol, the maker's side", `{"p":"0.5","side":"SELL"}`, JSON{Fixed: "EUR-USD", Price: "p", Side: "side", SideOf: "maker"}, "EUR-USD 0.5 qty  buy recv"},
		{"the symbol outside of the list", `{"list":{"trades":[{"p":1},{"p":2}]},"symbol":"X"}`, JSON{Symbol: "$.symbol", List: "list.trades", Price: "p"}, "X 1 qty  unknown recv; X 2 qty  unknown recv"},
		{"another kind of message", `{"type":"quote","s":"A","p":1}`, JSON{Symbol: "s", Price: "p", Filter: map[string]string{"type": "trade"}}, ""},
		{"rfc3339", `{"s":"A","p":1,"t":"2021-04-17T16:43:37.089723Z"}`, JSON{Symbol: "s", Price: "p", Time: "t", TimeUnit: "rfc3339"}, "A 1 qty  unknown 1618677817089723000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.cfg.Validate().Err(); err != nil {
				t.Fatal(err)
			}
			var f Frame
			if err := newJSONVenue(c.cfg).NewDecoder().Decode([]byte(c.frame), recvTime, &f); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, it := range f.Items {
				at := fmt.Sprint(it.Trade.EventTime)
				if it.Trade.TimeSource == event.TimeReceive {
					at = "recv"
				}
				got = append(got, fmt.Sprintf("%s %s qty %s %s %s", it.Symbol, it.Trade.Price, it.Trade.Qty, it.Trade.Aggressor, at))
			}
			if strings.Join(got, "; ") != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestSubscriptions(t *testing.T) {
	show := func(plans []Plan, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, p := range plans {
			out = append(out, p.URL)
			for _, m := range p.Messages {
				out = append(out, string(m))
			}
		}
		return strings.Join(out, "\n")
	}
	bn, cb := binance{}, coinbase{}
	guide := newJSONVenue(JSON{Symbol: "s", Price: "p", Subscribe: []string{`{"all":[{symbols}]}`, `{"one":"{symbol}"}`, `{}`}})
	for _, c := range []struct{ got, want string }{
		{show(bn.Plans("wss://h:9443", []string{"BTCUSDT", "币安USDT"}, bn.Info().Channels[:1])), "wss://h:9443/ws\n" + `{"method":"SUBSCRIBE","params":["btcusdt@trade","币安usdt@trade"],"id":1}`},
		{show(bn.Plans("ws://h/binance/stream", []string{"A"}, bn.Info().Channels[1:])), "ws://h/binance/stream\n" + `{"method":"SUBSCRIBE","params":["a@aggTrade","a@bookTicker"],"id":1}`},
		{show(bn.Plans("ws://h/binance", nil, nil)), "ws://h/binance/ws"},
		{show(cb.Plans("ws://h/x", []string{"A-B", "C-D"}, cb.Info().Channels)), "ws://h/x\n" + `{"type":"subscribe","product_ids":["A-B","C-D"],"channels":["matches","ticker"]}`},
		{show(guide.Plans("ws://h", []string{"A", "B"}, nil)), "ws://h\n" + `{"all":["A","B"]}` + "\n" + `{"one":"A"}` + "\n" + `{"one":"B"}` + "\n{}"},
	} {
		if c.got != c.want {
			t.Errorf("got\n%s\nwant\n%s", c.got, c.want)
		}
	}
	odd := newJSONVenue(JSON{Symbol: "s", Price: "p", Subscribe: []string{`{"one":"{symbol}"}`}})
	if got, want := show(odd.Plans("ws://h", []string{`E"TH-USD`}, nil)), "ws://h\n"+`{"one":"E\"TH-USD"}`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	many := make([]string, 1200)
	for i := range many {
		many[i] = fmt.Sprintf("S%d", i)
	}
	plans, err := bn.Plans("ws://h", many, bn.Info().Channels[:1])
	if err != nil || len(plans) != 2 || len(plans[0].Messages) != 5 || len(plans[1].Messages) != 1 {
		t.Errorf("1,200 streams take %d connections: %v", len(plans), err)
	}
}

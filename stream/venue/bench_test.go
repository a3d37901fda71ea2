package venue

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

const (
	benchTrade    = `{"stream":"btcusdt@trade","data":{"e":"trade","E":1787086910902,"s":"BTCUSDT","t":4034876058,"p":"64591.75000000","q":"0.00024000","T":1787086910901,"m":true,"M":true}}`
	benchTradeRaw = `{"e":"trade","E":1787086910902,"s":"BTCUSDT","t":4034876058,"p":"64591.75000000","q":"0.00024000","T":1787086910901,"m":true,"M":true}`
	benchQuote    = `{"stream":"btcusdt@bookTicker","data":{"u":98645697497,"s":"BTCUSDT","b":"64603.99000000","B":"4.91483000","a":"64604.00000000","A":"2.16980000"}}`
	benchMatch    = `{"type":"match","trade_id":1568284,"maker_order_id":"2a0da34e-61f7-4c36-88e5-c9dd15927b16","taker_order_id":"3c82abaa-c01e-4608-be59-6a1e69742891","side":"sell","size":"98.5","price":"0.6512","product_id":"SKL-USD","sequence":201392111,"time":"2021-04-17T16:43:55.608488Z"}`
	benchTicker   = `{"type":"ticker","sequence":333938798,"product_id":"BAND-GBP","price":"14.7775","open_24h":"14.6647","volume_24h":"94381.28000000","low_24h":"14.3691","high_24h":"16.55","volume_30d":"2295579.57000000","best_bid":"14.7550","best_bid_size":"12.5","best_ask":"14.8060","best_ask_size":"3.25","side":"buy","time":"2021-04-17T16:43:30.244075Z","trade_id":881613,"last_size":"0.04"}`
)

func benchDecode(b *testing.B, v Venue, frame string) {
	d := v.NewDecoder()
	text := []byte(frame)
	var f Frame
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if err := d.Decode(text, recvTime, &f); err != nil || len(f.Items) != 1 {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeBinanceTrade(b *testing.B)    { benchDecode(b, binance{}, benchTrade) }
func BenchmarkDecodeBinanceTradeRaw(b *testing.B) { benchDecode(b, binance{}, benchTradeRaw) }
func BenchmarkDecodeBinanceQuote(b *testing.B)    { benchDecode(b, binance{}, benchQuote) }
func BenchmarkDecodeCoinbaseMatch(b *testing.B)   { benchDecode(b, coinbase{}, benchMatch) }
func BenchmarkDecodeCoinbaseTicker(b *testing.B)  { benchDecode(b, coinbase{}, benchTicker) }

func BenchmarkDecodeJSONFeed(b *testing.B) {
	c := DefaultJSON()
	benchDecode(b, newJSONVenue(c), `{"symbol":"BTC-USD","price":64591.75}`)
}

// The same work with encoding/json, as its user would write it.

func BenchmarkEncodingJSONBinanceTrade(b *testing.B) {
	text := []byte(benchTrade)
	var tr event.Trade
	b.ReportAllocs()
	for b.Loop() {
		var env struct {
			Stream string    `json:"stream"`
			Data   reference `json:"data"`
		}
		if err := json.Unmarshal(text, &env); err != nil {
			b.Fatal(err)
		}
		price, err := event.ParseDecimal([]byte(env.Data.Price))
		if err != nil {
			b.Fatal(err)
		}
		qty, err := event.ParseDecimal([]byte(env.Data.Qty))
		if err != nil {
			b.Fatal(err)
		}
		tr = event.Trade{TradeID: env.Data.ID, Price: price, Qty: event.Some(qty), EventTime: env.Data.Time * 1e6}
	}
	_ = tr
}

func BenchmarkEncodingJSONCoinbaseMatch(b *testing.B) {
	text := []byte(benchMatch)
	var tr event.Trade
	b.ReportAllocs()
	for b.Loop() {
		var m reference
		if err := json.Unmarshal(text, &m); err != nil {
			b.Fatal(err)
		}
		price, err := event.ParseDecimal([]byte(m.CPrice))
		if err != nil {
			b.Fatal(err)
		}
		qty, err := event.ParseDecimal([]byte(m.Size))
		if err != nil {
			b.Fatal(err)
		}
		at, err := time.Parse(time.RFC3339Nano, m.CTime)
		if err != nil {
			b.Fatal(err)
		}
		tr = event.Trade{TradeID: m.TradeID, Price: price, Qty: event.Some(qty), EventTime: at.UnixNano()}
	}
	_ = tr
}

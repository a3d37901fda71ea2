package venue

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/autohedge/autohedge/stream/event"
)

// FuzzDecode holds every decoder to encoding/json: a frame is malformed for one
// exactly when it is for the other, and what is not refused has the values that
// encoding/json reads.
func FuzzDecode(f *testing.F) {
	for _, spec := range Registry.All() {
		for _, frame := range fixtures(f, spec.Name) {
			f.Add(frame)
		}
	}
	for _, s := range []string{`"\ud83d\ude00"`, `"\ud83dx"`, `"\u00e"`, "\"\x01\"", "\"\xff\"", `[1,]`, `{"a":1,}`, `{,}`, `-`, `-0.0e+1`, `1.`, `01`, `nul`, `[[[]]]`, ` {} `, `{"e" : "trade"}x`, `{"\u0065":"trade"}`,
		`{"e":"trade","s":"\ud800","t":1,"p":"\u0031","q":"1"}`} {
		f.Add([]byte(s))
	}
	venues := map[string]Venue{}
	for _, spec := range Registry.All() {
		venues[spec.Name] = open(f, spec)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		for name, v := range venues {
			d := v.NewDecoder()
			var got Frame
			err := d.Decode(frame, recvTime, &got)
			var fe *FrameError
			if errors.As(err, &fe) && fe.Code == CodeMalformed {
				if json.Valid(frame) && !strings.Contains(fe.Detail, "too deep") {
					t.Fatalf("%s refuses valid JSON %q: %v", name, frame, err)
				}
				continue
			}
			if !json.Valid(frame) && (fe == nil || fe.Code != CodeDuplicate) { // a double key is told at once
				t.Fatalf("%s accepts %q: %v", name, frame, err)
			}
			if err != nil {
				continue
			}
			for _, it := range got.Items {
				if !utf8.Valid(it.Symbol) || len(it.Symbol) == 0 {
					t.Fatalf("%s: %q has symbol %q", name, frame, it.Symbol)
				}
			}
			if name != "json" {
				checkReference(t, name, frame, &got)
			}
		}
	})
}

// exact reads an object with exact keys, the last of a double one.
func exact(text []byte) map[string]any {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var m map[string]any
	if dec.Decode(&m) != nil {
		return nil
	}
	return m
}

func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return "\x00not a text"
}

func checkReference(t *testing.T, name string, frame []byte, got *Frame) {
	t.Helper()
	m := exact(frame)
	if data, ok := m["data"].(map[string]any); ok && name == "binance" {
		for k, v := range data {
			m[k] = v
		}
	}
	decimal := func(what string, d event.Decimal, key string) {
		t.Helper()
		want, err := event.ParseDecimal([]byte(text(m[key])))
		if err != nil || want != d {
			t.Errorf("%s: %q: %s is %s, encoding/json reads %v", name, frame, what, d, m[key])
		}
	}
	number := func(what string, n uint64, key string) {
		t.Helper()
		if want, ok := parseUint([]byte(text(m[key]))); !ok || want != n {
			t.Errorf("%s: %q: %s is %d, encoding/json reads %v", name, frame, what, n, m[key])
		}
	}
	for _, it := range got.Items {
		keys := map[string]string{"symbol": "s", "id": "t", "price": "p", "qty": "q"}
		if name == "coinbase" {
			keys = map[string]string{"symbol": "product_id", "id": "trade_id", "price": "price", "qty": "size"}
		} else if it.Trade.Channel == event.ChannelAggTrade {
			keys["id"] = "a"
		}
		if string(it.Symbol) != text(m[keys["symbol"]]) {
			t.Errorf("%s: %q: symbol is %q", name, frame, it.Symbol)
		}
		if it.Type == event.TypeTrade {
			decimal("price", it.Trade.Price, keys["price"])
			decimal("quantity", it.Trade.Qty.Decimal, keys["qty"])
			number("id", it.Trade.TradeID, keys["id"])
			continue
		}
		if name == "binance" {
			decimal("bid", it.Quote.Bid, "b")
			decimal("ask", it.Quote.Ask, "a")
			decimal("bid quantity", it.Quote.BidQty.Decimal, "B")
			decimal("ask quantity", it.Quote.AskQty.Decimal, "A")
			number("sequence", it.Quote.Sequence, "u")
		} else if s, ok := m["best_bid"].(string); ok && s != "" {
			decimal("bid", it.Quote.Bid, "best_bid")
		}
	}
}

package record

import (
	"bytes"
	"strings"
)

// Description is what a frame is, as far as its outside tells.
type Description struct {
	// Kind is the venue's own name of the message: trade, match, ack, ....
	Kind string
	// Symbol is as the venue writes it, Channel what one subscribes to in order
	// to get such frames; empty for acknowledgements and the like.
	Symbol  string
	Channel string
}

const (
	kindAck     = "ack"
	kindError   = "error"
	kindUnknown = "unknown"
)

// Describe tells kind, symbol and channel of one received frame. It looks at
// the few keys that say so and checks nothing else.
func Describe(venue string, frame []byte) Description {
	o := fieldsOf(frame)
	switch venue {
	case "binance", "binance-usdm", "binance-coinm":
		return describeBinance(o)
	case "coinbase":
		d := Description{Kind: o["type"], Symbol: o["product_id"]}
		switch d.Kind {
		case "match", "last_match":
			d.Channel = "matches"
		case "snapshot", "l2update":
			d.Channel = "level2"
		case "subscriptions":
			return Description{Kind: kindAck}
		case "":
			d.Kind = kindUnknown
		case kindError:
		default:
			d.Channel = d.Kind
		}
		return d
	case "coinbase-advanced", "kraken":
		switch {
		case o["channel"] == "subscriptions" || o["method"] == "subscribe":
			return Description{Kind: kindAck}
		case o["channel"] != "":
			sym := o["product_id"]
			for _, inner := range []string{"events", "data"} {
				if e := fieldsOf([]byte(o[inner])); sym == "" {
					sym = e["product_id"] + e["symbol"]
				}
			}
			return Description{Kind: o["channel"], Symbol: sym, Channel: o["channel"]}
		}
	case "kraken-v1":
		if len(frame) > 0 && frame[0] == '[' {
			if e := elements(frame); len(e) >= 4 {
				name := text(e[len(e)-2])
				return Description{Kind: name, Symbol: text(e[len(e)-1]), Channel: name}
			}
		}
		if o["event"] == "subscriptionStatus" {
			return Description{Kind: kindAck, Symbol: o["pair"]}
		}
		if o["event"] != "" {
			return Description{Kind: o["event"]}
		}
	case "okx":
		if o["event"] == "subscribe" {
			return Description{Kind: kindAck}
		}
		if arg := fieldsOf([]byte(o["arg"])); arg["channel"] != "" {
			return Description{Kind: arg["channel"], Symbol: arg["instId"], Channel: arg["channel"]}
		}
		if o["event"] != "" {
			return Description{Kind: o["event"]}
		}
	case "bybit-spot", "bybit-linear":
		if topic := o["topic"]; topic != "" {
			i := strings.LastIndexByte(topic, '.')
			kind, _, _ := strings.Cut(topic, ".")
			return Description{Kind: kind, Symbol: topic[i+1:], Channel: topic[:max(i, 0)]}
		}
		if o["op"] == "subscribe" {
			return Description{Kind: kindAck}
		}
	case "alpaca", "alpaca-crypto", "polygon": // messages come in arrays
		if t := o["T"]; t == "subscription" {
			return Description{Kind: kindAck}
		}
		if kind := o["T"] + o["ev"]; kind != "" {
			sym := o["S"] + o["sym"]
			d := Description{Kind: kind, Symbol: sym}
			if sym != "" {
				d.Channel = kind
			}
			return d
		}
	}
	if o["type"] == kindError || o["error"] != "" || o["event"] == kindError {
		return Description{Kind: kindError}
	}
	return Description{Kind: kindUnknown}
}

func describeBinance(o map[string]string) Description {
	d := Description{}
	if name := o["stream"]; name != "" {
		var sym string
		sym, d.Channel, _ = strings.Cut(name, "@")
		o = fieldsOf([]byte(o["data"]))
		if o["s"] == "" {
			d.Symbol = strings.ToUpper(sym) // partial books name no symbol
		}
	}
	if o["s"] != "" {
		d.Symbol = o["s"]
	}
	_, result := o["result"]
	switch {
	case o["e"] != "":
		d.Kind = o["e"]
	case o["u"] != "" && o["B"] != "" && o["A"] != "":
		d.Kind = "bookTicker"
	case o["lastUpdateId"] != "":
		d.Kind = "depthSnapshot"
	case result:
		return Description{Kind: kindAck}
	case o["code"] != "" || o["error"] != "":
		return Description{Kind: kindError}
	default:
		d.Kind = kindUnknown
	}
	if d.Channel == "" {
		switch d.Kind {
		case "depthUpdate":
			d.Channel = "depth"
		case "trade", "aggTrade", "bookTicker":
			d.Channel = d.Kind
		}
	}
	return d
}

// venueOfFrame recognises venues by the shape of a frame. Binance's futures and
// Bybit's categories cannot be told apart this way; spot is taken for Binance,
// Bybit stays open.
func venueOfFrame(frame []byte) string {
	o := fieldsOf(frame)
	has := func(keys ...string) bool {
		for _, k := range keys {
			if _, ok := o[k]; !ok {
				return false
			}
		}
		return true
	}
	array := len(frame) > 0 && frame[0] == '['
	switch {
	case array && has("ev"):
		return "polygon"
	case array && has("T"):
		return "alpaca"
	case array:
		if e := elements(frame); len(e) >= 4 && len(e[len(e)-1]) > 0 && e[len(e)-1][0] == '"' {
			return "kraken-v1"
		}
	case has("stream", "data") || has("e", "E", "s") || has("u", "s", "b", "B", "a", "A"):
		return "binance"
	case has("type", "product_id"), o["type"] == "subscriptions":
		return "coinbase"
	case has("channel", "sequence_num"):
		return "coinbase-advanced"
	case has("channel", "type", "data"), has("method", "success"):
		return "kraken"
	case has("arg"):
		return "okx"
	}
	return ""
}

// fieldsOf returns the top-level keys of an object, or of the first object in an
// array, with their values: strings without quotes, other values as they are.
func fieldsOf(b []byte) map[string]string {
	b = bytes.TrimSpace(b)
	if len(b) > 0 && b[0] == '[' {
		b = bytes.TrimLeft(b[1:], " \t\r\n")
	}
	if len(b) == 0 || b[0] != '{' {
		return nil
	}
	o := make(map[string]string, 8)
	for i := 1; i < len(b); {
		i = skipSpace(b, i)
		if i >= len(b) || b[i] != '"' {
			break
		}
		end := skipValue(b, i)
		key := text(b[i:end])
		i = skipSpace(b, end)
		if i >= len(b) || b[i] != ':' {
			break
		}
		i = skipSpace(b, i+1)
		end = skipValue(b, i)
		o[key] = text(b[i:end])
		i = skipSpace(b, end)
		if i >= len(b) || b[i] != ',' {
			break
		}
		i++
	}
	return o
}

// elements returns the top-level values of an array.
func elements(b []byte) [][]byte {
	var list [][]byte
	for i := 1; i < len(b); {
		i = skipSpace(b, i)
		end := skipValue(b, i)
		if end == i {
			break
		}
		list = append(list, b[i:end])
		i = skipSpace(b, end)
		if i >= len(b) || b[i] != ',' {
			break
		}
		i++
	}
	return list
}

func text(v []byte) string {
	if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
		v = v[1 : len(v)-1]
	}
	return string(v)
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// skipValue returns the end of the JSON value that begins at i.
func skipValue(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if i >= len(b) {
				return len(b)
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ':', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return len(b)
}

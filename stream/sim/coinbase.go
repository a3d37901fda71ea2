package sim

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
)

// Coinbase Exchange, as protocols.md A3 tells it.

// coinbaseChannels in the order in which acknowledgements list them.
var coinbaseChannels = []struct {
	name string
	ch   channel
}{{"ticker", chTicker}, {"matches", chMatches}, {"heartbeat", chHeartbeat}}

// sequence of a trade: it counts all events of the full channel, so here it
// grows with holes. That it follows from the trade id keeps it growing over any
// restart.
func (y *symbol) sequence(id uint64) uint64 { return id*6 + mix(id^y.hash)%5 }

// appendMatch writes a match, or with kind last_match the one before the
// subscription. side is the maker's, the opposite of the aggressor's.
func appendMatch(dst []byte, y *symbol, kind string, t trade, micros []byte) []byte {
	dst = append(dst, `{"type":"`...)
	dst = append(dst, kind...)
	dst = append(dst, `","trade_id":`...)
	dst = strconv.AppendUint(dst, t.id, 10)
	dst = append(dst, `,"maker_order_id":"`...)
	dst = appendUUID(dst, t.id^y.hash)
	dst = append(dst, `","taker_order_id":"`...)
	dst = appendUUID(dst, mix(aggID(t.id))^y.hash)
	dst = append(dst, `","side":"`...)
	dst = append(dst, sideName(!t.sell)...)
	dst = append(dst, `","size":"`...)
	dst = appendShort(dst, t.qty, y.qtyScale)
	dst = append(dst, `","price":"`...)
	dst = appendShort(dst, t.price, y.priceScale)
	dst = append(dst, `","product_id":"`...)
	dst = append(dst, y.name...)
	dst = append(dst, `","sequence":`...)
	dst = strconv.AppendUint(dst, y.sequence(t.id), 10)
	dst = append(dst, `,"time":"`...)
	dst = append(dst, micros...)
	return append(dst, `"}`...)
}

// appendTicker writes what the venue sends with each match: the trade, the top
// of the book and the day. side is the aggressor's. The 24 h and 30 d fields
// count from the symbol's opening.
func appendTicker(dst []byte, y *symbol, t trade, micros []byte) []byte {
	h := &y.shape
	dst = append(dst, `{"type":"ticker","sequence":`...)
	dst = strconv.AppendUint(dst, y.sequence(t.id), 10)
	dst = append(dst, `,"product_id":"`...)
	dst = append(dst, y.name...)
	dst = append(dst, `","price":"`...)
	dst = appendShort(dst, t.price, y.priceScale)
	dst = append(dst, `","open_24h":"`...)
	dst = appendShort(dst, y.openPrice, y.priceScale)
	dst = append(dst, `","volume_24h":"`...)
	dst = appendFixed(dst, y.volume, y.qtyScale, 8)
	dst = append(dst, `","low_24h":"`...)
	dst = appendShort(dst, y.low, y.priceScale)
	dst = append(dst, `","high_24h":"`...)
	dst = appendShort(dst, y.high, y.priceScale)
	dst = append(dst, `","volume_30d":"`...)
	dst = appendFixed(dst, y.volume, y.qtyScale, 8)
	dst = append(dst, `","best_bid":"`...)
	dst = appendFixed(dst, h.bid, y.priceScale, y.priceScale)
	dst = append(dst, `","best_bid_size":"`...)
	dst = appendFixed(dst, h.bidQty, y.qtyScale, 8)
	dst = append(dst, `","best_ask":"`...)
	dst = appendFixed(dst, h.ask, y.priceScale, y.priceScale)
	dst = append(dst, `","best_ask_size":"`...)
	dst = appendFixed(dst, h.askQty, y.qtyScale, 8)
	dst = append(dst, `","side":"`...)
	dst = append(dst, sideName(t.sell)...)
	dst = append(dst, `","time":"`...)
	dst = append(dst, micros...)
	dst = append(dst, `","trade_id":`...)
	dst = strconv.AppendUint(dst, t.id, 10)
	dst = append(dst, `,"last_size":"`...)
	dst = appendShort(dst, t.qty, y.qtyScale)
	return append(dst, `"}`...)
}

func (y *symbol) appendHeartbeat(dst []byte, micros []byte) []byte {
	var seq, id uint64
	if y.last.ns != 0 {
		seq, id = y.sequence(y.last.id), y.last.id
	}
	dst = append(dst, `{"type":"heartbeat","sequence":`...)
	dst = strconv.AppendUint(dst, seq, 10)
	dst = append(dst, `,"last_trade_id":`...)
	dst = strconv.AppendUint(dst, id, 10)
	dst = append(dst, `,"product_id":"`...)
	dst = append(dst, y.name...)
	dst = append(dst, '"')
	dst = append(dst, `,"time":"`...)
	dst = append(dst, micros...)
	return append(dst, `"}`...)
}

// coinbaseTrade sends one fill to matches, then to ticker, as recorded.
func coinbaseTrade(s *Sim, y *symbol, t trade, _ uint64) {
	if len(y.subs[chMatches]) > 0 {
		s.publish(y, chMatches, appendMatch(s.scratch[:0], y, "match", t, s.nowMicros))
	}
	if len(y.subs[chTicker]) > 0 {
		s.publish(y, chTicker, appendTicker(s.scratch[:0], y, t, s.nowMicros))
	}
}

// coinbaseNotice: the venue documents none, the connection just closes.
func coinbaseNotice(*client) {}

func (s *Sim) serveCoinbase(w http.ResponseWriter, r *http.Request) {
	s.serve(s.coinbase, w, r, nil)
}

func coinbaseError(c *client, message, reason string) {
	b, err := json.Marshal(struct {
		Type    string `json:"type"`
		Message string `json:"message"`
		Reason  string `json:"reason,omitempty"`
	}{"error", message, reason})
	if err == nil {
		c.stage("", b)
	}
}

// coinbaseCommand answers subscribe and unsubscribe (protocols.md A3.2). Sim.mu
// is held.
func coinbaseCommand(c *client, msg []byte) {
	s := c.sim
	var cmd struct {
		Type     string            `json:"type"`
		Products []string          `json:"product_ids"`
		Channels []json.RawMessage `json:"channels"`
	}
	if err := json.Unmarshal(msg, &cmd); err != nil {
		coinbaseError(c, "Malformed JSON", "")
		return
	}
	failed := "Failed to " + cmd.Type
	if cmd.Type != "subscribe" && cmd.Type != "unsubscribe" {
		coinbaseError(c, "Type has to be either subscribe or unsubscribe", "")
		return
	}
	type want struct {
		y  *symbol
		ch channel
	}
	var wants []want
	for _, raw := range cmd.Channels {
		var name string
		products := cmd.Products
		if json.Unmarshal(raw, &name) != nil {
			var obj struct {
				Name     string   `json:"name"`
				Products []string `json:"product_ids"`
			}
			if err := json.Unmarshal(raw, &obj); err != nil {
				coinbaseError(c, failed, "channels must be names or objects")
				return
			}
			name = obj.Name
			if len(obj.Products) > 0 {
				products = obj.Products
			}
		}
		i := slices.IndexFunc(coinbaseChannels, func(x struct {
			name string
			ch   channel
		}) bool {
			return x.name == name
		})
		switch {
		case name == "level2" || name == "level3" || name == "full" || name == "user":
			coinbaseError(c, failed, name+" channel requires authentication")
			return
		case i < 0:
			coinbaseError(c, failed, name+" is not a valid channel")
			return
		case len(products) == 0:
			coinbaseError(c, failed, "no product_ids given")
			return
		}
		for _, p := range products {
			y := s.coinbase.symbols[p]
			if y == nil {
				coinbaseError(c, failed, p+" is not a valid product")
				return
			}
			wants = append(wants, want{y, coinbaseChannels[i].ch})
		}
	}
	if len(wants) == 0 {
		coinbaseError(c, failed, "no channels given")
		return
	}
	c.subscribed = true
	if cmd.Type == "unsubscribe" {
		for _, w := range wants {
			w.y.unsubscribe(c, w.ch)
		}
		s.coinbaseAck(c)
		return
	}
	// As recorded: the last matches come before the acknowledgement, the
	// tickers after it.
	var tickers []*symbol
	for _, w := range wants {
		if !s.subscribe(c, w.y, w.ch) || w.y.last.ns == 0 {
			continue
		}
		switch w.ch {
		case chMatches:
			c.stage("", appendMatch(nil, w.y, "last_match", w.y.last, micros(w.y.last.ns)))
		case chTicker:
			tickers = append(tickers, w.y)
		}
	}
	s.coinbaseAck(c)
	for _, y := range tickers {
		c.stage("", appendTicker(nil, y, y.last, micros(y.last.ns)))
	}
}

// coinbaseAck lists all subscriptions of the connection.
func (s *Sim) coinbaseAck(c *client) {
	b := []byte(`{"type":"subscriptions","channels":[`)
	for _, x := range coinbaseChannels {
		n := 0
		for _, y := range s.coinbase.order {
			if !slices.Contains(y.subs[x.ch], c) {
				continue
			}
			if n == 0 {
				if b[len(b)-1] == '}' {
					b = append(b, ',')
				}
				b = append(b, `{"name":"`+x.name+`","product_ids":[`...)
			} else {
				b = append(b, ',')
			}
			b = append(b, `"`+y.name+`"`...)
			n++
		}
		if n > 0 {
			b = append(b, `]}`...)
		}
	}
	c.stage("", append(b, `]}`...))
}

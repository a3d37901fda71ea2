package sim

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Binance spot, as protocols.md A1 tells it.

// maxStreams is what the venue allows on one connection.
const maxStreams = 1024

// binanceChannels maps stream kinds to channels; other kinds are acknowledged,
// as the venue acknowledges anything, and stay silent.
var binanceChannels = map[string]channel{"trade": chTrade, "aggTrade": chAgg, "bookTicker": chBook}

func appendTrade(dst []byte, y *symbol, t trade, millis []byte) []byte {
	dst = append(dst, `{"e":"trade","E":`...)
	dst = append(dst, millis...)
	dst = append(dst, `,"s":"`...)
	dst = append(dst, y.name...)
	dst = append(dst, `","t":`...)
	dst = strconv.AppendUint(dst, t.id, 10)
	dst = append(dst, `,"p":"`...)
	dst = appendFixed(dst, t.price, y.priceScale, 8)
	dst = append(dst, `","q":"`...)
	dst = appendFixed(dst, t.qty, y.qtyScale, 8)
	return appendMaker(append(dst, '"'), t, millis)
}

// appendMaker ends a trade: m says that the buyer was the maker, so the
// aggressor sold (protocols.md 0.9).
func appendMaker(dst []byte, t trade, millis []byte) []byte {
	dst = append(dst, `,"T":`...)
	dst = append(dst, millis...)
	if t.sell {
		return append(dst, `,"m":true,"M":true}`...)
	}
	return append(dst, `,"m":false,"M":true}`...)
}

// appendAggTrade sums up the fills from trade id from to t.id; t.qty is their sum.
func appendAggTrade(dst []byte, y *symbol, t trade, from uint64, millis []byte) []byte {
	dst = append(dst, `{"e":"aggTrade","E":`...)
	dst = append(dst, millis...)
	dst = append(dst, `,"s":"`...)
	dst = append(dst, y.name...)
	dst = append(dst, `","a":`...)
	dst = strconv.AppendUint(dst, aggID(t.id), 10)
	dst = append(dst, `,"p":"`...)
	dst = appendFixed(dst, t.price, y.priceScale, 8)
	dst = append(dst, `","q":"`...)
	dst = appendFixed(dst, t.qty, y.qtyScale, 8)
	dst = append(dst, `","f":`...)
	dst = strconv.AppendUint(dst, from, 10)
	dst = append(dst, `,"l":`...)
	dst = strconv.AppendUint(dst, t.id, 10)
	return appendMaker(dst, t, millis)
}

func appendBookTicker(dst []byte, y *symbol) []byte {
	h := &y.shape
	dst = append(dst, `{"u":`...)
	dst = strconv.AppendUint(dst, y.updates, 10)
	dst = append(dst, `,"s":"`...)
	dst = append(dst, y.name...)
	dst = append(dst, `","b":"`...)
	dst = appendFixed(dst, h.bid, y.priceScale, 8)
	dst = append(dst, `","B":"`...)
	dst = appendFixed(dst, h.bidQty, y.qtyScale, 8)
	dst = append(dst, `","a":"`...)
	dst = appendFixed(dst, h.ask, y.priceScale, 8)
	dst = append(dst, `","A":"`...)
	dst = appendFixed(dst, h.askQty, y.qtyScale, 8)
	return append(dst, `"}`...)
}

// binanceTrade sends one fill to the trade streams.
func binanceTrade(s *Sim, y *symbol, t trade, _ uint64) {
	if len(y.subs[chTrade]) > 0 {
		s.publish(y, chTrade, appendTrade(s.scratch[:0], y, t, s.nowMillis))
	}
}

// binanceNotice tells a client that the server will close the connection.
func binanceNotice(c *client) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stamp()
	b := append([]byte(`{"e":"serverShutdown","E":`), s.nowMillis...)
	c.stage(`{"stream":"!serverShutdown","data":`, append(b, '}'))
	s.handOver(c)
}

// serveBinance answers /ws, /ws/<stream>[/<stream>...] and /stream?streams=.
func (s *Sim) serveBinance(w http.ResponseWriter, r *http.Request) {
	v := s.binance
	rest := strings.TrimPrefix(r.URL.Path, "/binance")
	var names []string
	combined := false
	switch {
	case rest == "/ws" || rest == "/ws/":
	case strings.HasPrefix(rest, "/ws/"):
		names = strings.Split(strings.Trim(rest[len("/ws/"):], "/"), "/")
	case rest == "/stream" || rest == "/stream/":
		combined = true
		if q := r.URL.Query().Get("streams"); q != "" {
			names = strings.Split(strings.Trim(q, "/"), "/")
		}
	default:
		http.NotFound(w, r)
		return
	}
	if len(names) > maxStreams {
		http.Error(w, "too many streams", http.StatusBadRequest)
		return
	}
	s.serve(v, w, r, func(c *client) {
		c.combined = combined
		for _, n := range names {
			s.binanceSubscribe(c, n)
		}
	})
}

// binanceStream finds what a stream name means; y is nil for what the simulator
// does not serve.
func (s *Sim) binanceStream(name string) (y *symbol, ch channel) {
	sym, kind, _ := strings.Cut(name, "@")
	ch, ok := binanceChannels[kind]
	if !ok || sym != strings.ToLower(sym) {
		return nil, 0 // stream names are lower case
	}
	return s.binance.symbols[strings.ToUpper(sym)], ch
}

func (s *Sim) binanceSubscribe(c *client, name string) {
	if name == "" || c.have[name] {
		return
	}
	c.have[name] = true
	c.streams = append(c.streams, name)
	if y, ch := s.binanceStream(name); y != nil {
		s.subscribe(c, y, ch)
	}
}

func (s *Sim) binanceUnsubscribe(c *client, name string) {
	if !c.have[name] {
		return
	}
	delete(c.have, name)
	c.streams = slices.DeleteFunc(c.streams, func(n string) bool { return n == name })
	if y, ch := s.binanceStream(name); y != nil {
		y.unsubscribe(c, ch)
	}
}

// binanceCommand answers one command (protocols.md A1.3). Sim.mu is held.
func binanceCommand(c *client, msg []byte) {
	s := c.sim
	var cmd struct {
		Method string          `json:"method"`
		Params json.RawMessage `json:"params"`
		ID     json.RawMessage `json:"id"`
	}
	if !json.Valid(msg) {
		c.stage("", []byte(`{"code":3,"msg":"Invalid JSON: expected value at line 1 column 1"}`))
		return
	}
	refuse := func(code int, text string) {
		b := append([]byte(`{"code":`), itoa(code)...)
		b = append(b, `,"msg":`...)
		b = strconv.AppendQuote(b, text)
		if len(cmd.ID) > 0 {
			b = append(append(b, `,"id":`...), cmd.ID...)
		}
		c.stage("", append(b, '}'))
	}
	if err := json.Unmarshal(msg, &cmd); err != nil {
		refuse(2, "Invalid request: request must be an object")
		return
	}
	if !validID(cmd.ID) {
		cmd.ID = nil
		refuse(2, "Invalid request: id must be an integer, a string of up to 36 characters or null")
		return
	}
	if len(cmd.ID) == 0 {
		cmd.ID = json.RawMessage("null")
	}
	answer := func(result string) {
		b := append([]byte(`{"result":`), result...)
		b = append(append(b, `,"id":`...), cmd.ID...)
		c.stage("", append(b, '}'))
	}
	switch cmd.Method {
	case "SUBSCRIBE", "UNSUBSCRIBE":
		var names []string
		if err := json.Unmarshal(cmd.Params, &names); err != nil || len(names) == 0 {
			refuse(2, "Invalid request: params must be a list of stream names")
			return
		}
		if cmd.Method == "UNSUBSCRIBE" {
			for _, n := range names {
				s.binanceUnsubscribe(c, n)
			}
			answer("null")
			return
		}
		if len(c.streams)+len(names) > maxStreams {
			refuse(2, "Invalid request: too many streams")
			return
		}
		// The acknowledgement goes first, then the data.
		answer("null")
		for _, n := range names {
			s.binanceSubscribe(c, n)
		}
	case "LIST_SUBSCRIPTIONS":
		list, err := json.Marshal(append([]string{}, c.streams...))
		if err != nil {
			refuse(2, "Invalid request: "+err.Error())
			return
		}
		answer(string(list))
	case "SET_PROPERTY":
		var params []any
		if err := json.Unmarshal(cmd.Params, &params); err != nil || len(params) != 2 {
			refuse(2, "Invalid request: params must be a property and its value")
			return
		}
		if params[0] != "combined" {
			refuse(0, "Unknown property")
			return
		}
		on, ok := params[1].(bool)
		if !ok {
			refuse(1, "Invalid value type: expected Boolean")
			return
		}
		c.combined = on
		answer("null")
	case "GET_PROPERTY":
		var params []string
		if err := json.Unmarshal(cmd.Params, &params); err != nil || len(params) != 1 || params[0] != "combined" {
			refuse(0, "Unknown property")
			return
		}
		answer(strconv.FormatBool(c.combined))
	default:
		refuse(2, "Invalid request: unknown variant `"+cmd.Method+"`, expected one of `SUBSCRIBE`, `UNSUBSCRIBE`, `LIST_SUBSCRIPTIONS`, `SET_PROPERTY`, `GET_PROPERTY`")
	}
}

func validID(id json.RawMessage) bool {
	if len(id) == 0 || bytes.Equal(id, []byte("null")) {
		return true
	}
	if id[0] == '"' {
		var text string
		return json.Unmarshal(id, &text) == nil && len(text) <= 36
	}
	_, err := strconv.ParseInt(string(id), 10, 64)
	return err == nil
}

package venue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Binance spot, as protocols.md A1 describes it.

func init() {
	Registry.Register(component.Spec[New]{
		Name:    "binance",
		Summary: "Binance spot: trade, aggTrade, bookTicker",
		New:     func(any) (Venue, error) { return binance{}, nil },
	})
}

type binance struct{}

var _ Venue = binance{}

// Limits of A1.2: 1,024 streams a connection, 5 messages a second, 300
// connection attempts in 5 minutes, 24 h of life. We stay a little inside.
const (
	binanceStreams   = 1000
	binancePerBatch  = 200
	binanceSendEvery = 250 * time.Millisecond
)

func (binance) Info() Info {
	return Info{
		URL:        "wss://stream.binance.com:9443",
		REST:       "https://api.binance.com",
		Canonical:  strings.ToUpper,
		Idle:       60 * time.Second, // three of the server's pings
		Ping:       15 * time.Second,
		Life:       23*time.Hour + 30*time.Minute,
		SendEvery:  binanceSendEvery,
		Dials:      300,
		DialWindow: 5 * time.Minute,
		Channels: []ChannelSpec{
			{Name: "trade", Channel: event.ChannelTrade, IDs: IDsContiguous, Trades: true, Default: true},
			{Name: "aggTrade", Channel: event.ChannelAggTrade, IDs: IDsContiguous, Trades: true},
			{Name: "bookTicker", Channel: event.ChannelBookTicker, IDs: IDsOrdered, Default: true},
		},
	}
}

// Plans subscribes by commands, so that the venue answers. It takes the raw
// stream, whose frames are shorter, unless the base URL ends in /stream, the
// combined one.
func (binance) Plans(base string, symbols []string, channels []ChannelSpec) ([]Plan, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("reading the url: %w", err)
	}
	if !strings.HasSuffix(u.Path, "/ws") && !strings.HasSuffix(u.Path, "/stream") {
		u.Path = strings.TrimSuffix(u.Path, "/") + "/ws"
	}
	plans := []Plan{{URL: u.String()}}
	perBatch := binancePerBatch / max(len(channels), 1)
	for id := uint64(1); len(symbols) > 0; id++ {
		batch := symbols[:min(perBatch, len(symbols))]
		symbols = symbols[len(batch):]
		if len(plans[len(plans)-1].Messages) == binanceStreams/binancePerBatch {
			plans = append(plans, Plan{URL: u.String()})
		}
		msg, err := binance{}.Subscribe(id, batch, channels)
		if err != nil {
			return nil, err
		}
		last := &plans[len(plans)-1]
		last.Messages, last.Symbols = append(last.Messages, msg...), append(last.Symbols, batch)
	}
	return plans, nil
}

var _ Subscriber = binance{}

// Subscribe implements Subscriber. Binance refuses a request as a whole.
func (binance) Subscribe(id uint64, symbols []string, channels []ChannelSpec) ([][]byte, error) {
	streams := make([]string, 0, len(symbols)*len(channels))
	for _, s := range symbols {
		for _, c := range channels {
			streams = append(streams, strings.ToLower(s)+"@"+c.Name)
		}
	}
	msg, err := json.Marshal(struct {
		Method string   `json:"method"`
		Params []string `json:"params"`
		ID     uint64   `json:"id"`
	}{"SUBSCRIBE", streams, id})
	if err != nil {
		return nil, fmt.Errorf("writing the subscription: %w", err)
	}
	return [][]byte{msg}, nil
}

// The fields of all payloads that are read; most names are one letter.
const (
	bnEvent = iota
	bnEventTime
	bnSymbol
	bnTradeID
	bnAggID // or, in a bookTicker, the best ask's price
	bnPrice
	bnQty
	bnTime
	bnMaker
	bnFirst
	bnLast
	bnUpdateID
	bnBid
	bnBidQty
	bnAskQty
	bnStream
	bnData
	bnResult
	bnCode
	bnMsg
	bnError
	bnID
	bnFields
)

// bnLetters maps a one-letter key to its field plus one.
var bnLetters = [256]uint8{
	'e': bnEvent + 1, 'E': bnEventTime + 1, 's': bnSymbol + 1, 't': bnTradeID + 1, 'a': bnAggID + 1, 'p': bnPrice + 1,
	'q': bnQty + 1, 'T': bnTime + 1, 'm': bnMaker + 1, 'f': bnFirst + 1, 'l': bnLast + 1, 'u': bnUpdateID + 1,
	'b': bnBid + 1, 'B': bnBidQty + 1, 'A': bnAskQty + 1,
}

// bnNames are the field's names in messages.
var bnNames = [bnFields]string{"e", "E", "s", "t", "a", "p", "q", "T", "m", "f", "l", "u", "b", "B", "A", "stream", "data", "result", "code", "msg", "error", "id"}

// The kinds that are told apart from the start, in the order given to
// newKindTable.
const (
	bnKindTrade Kind = iota + 1
	bnKindAggTrade
	bnKindBookTicker
	bnKindShutdown
	bnKindAck
	bnKindError
	bnKindPartial
	bnKindArray
)

type binanceDecoder struct {
	s     scanner
	f     [bnFields]token
	seen  uint32 // bit n: field n was read; f[n] is stale otherwise
	kinds kindTable
}

func (binance) NewDecoder() Decoder {
	return &binanceDecoder{kinds: newKindTable("trade", "aggTrade", "bookTicker", "serverShutdown", "ack", "error", "depthPartial", "array",
		"depthUpdate", "kline", "blockTrade", "24hrMiniTicker", "24hrTicker", "avgPrice", "referencePrice")}
}

func (d *binanceDecoder) Kinds() []string { return d.kinds.names }

func (d *binanceDecoder) Decode(frame []byte, recv int64, into *Frame) error {
	into.reset()
	d.s.reset(frame)
	d.seen = 0
	if d.s.peek() != '{' {
		var v token
		if !d.s.value(&v) || !d.s.end() {
			return d.s.err()
		}
		into.Kind, into.Ignored = bnKindArray, ReasonNotUsed
		return nil
	}
	if err := d.object(); err != nil {
		return err
	}
	if !d.s.end() {
		return d.s.err()
	}
	if err := d.emit(recv, into); err != nil {
		into.Items = into.Items[:0]
		return err
	}
	return nil
}

// object reads the object at hand: a payload, or the envelope of a combined
// stream around one. A field of the payload that stands in both is refused like
// any key that occurs twice.
func (d *binanceDecoder) object() *FrameError {
	s := &d.s
	if !s.enter() {
		return s.err()
	}
	var key, skipped token
	for first := true; s.key(first, &key); first = false {
		name := s.string(&key)
		var f uint
		if len(name) == 1 {
			f = uint(bnLetters[name[0]])
		} else {
			f = bnLongName(name)
		}
		if f == 0 { // unknown: tolerated
			if !s.value(&skipped) {
				return s.err()
			}
			continue
		}
		f--
		if d.seen&(1<<f) != 0 {
			return &FrameError{Code: CodeDuplicate, Field: bnNames[f], Offset: key.at()}
		}
		d.seen |= 1 << f
		if f == bnData && s.peek() == '{' {
			if s.depth > 1 {
				return &FrameError{Code: CodeBadValue, Field: "data", Offset: key.at(), Detail: "envelope in an envelope"}
			}
			d.f[f].kind = tokenObject
			if err := d.object(); err != nil {
				return err
			}
			continue
		}
		if !s.value(&d.f[f]) {
			return s.err()
		}
	}
	s.depth--
	if s.msg != "" {
		return s.err()
	}
	return nil
}

func bnLongName(name []byte) uint {
	switch string(name) {
	case "stream":
		return bnStream + 1
	case "data":
		return bnData + 1
	case "result":
		return bnResult + 1
	case "code":
		return bnCode + 1
	case "msg":
		return bnMsg + 1
	case "error":
		return bnError + 1
	case "id":
		return bnID + 1
	}
	return 0
}

func (d *binanceDecoder) has(field int) bool { return d.seen&(1<<field) != 0 }

const bnBookTickerFields = 1<<bnUpdateID | 1<<bnSymbol | 1<<bnBid | 1<<bnBidQty | 1<<bnAggID | 1<<bnAskQty

// emit tells the kind and makes the event.
func (d *binanceDecoder) emit(recv int64, into *Frame) error {
	if !d.has(bnEvent) {
		switch {
		case d.seen&bnBookTickerFields == bnBookTickerFields:
			into.Kind = bnKindBookTicker
			return asError(d.bookTicker(recv, into))
		case d.has(bnError) || (d.has(bnCode) && d.has(bnMsg)):
			into.Kind, into.Ignored, into.Control = bnKindError, ReasonError, ControlError
			for _, f := range []int{bnMsg, bnError} {
				if d.has(f) {
					into.Message = clip(d.s.string(&d.f[f]), 300)
				}
			}
			into.Answer = d.answer()
		case d.has(bnResult):
			into.Kind, into.Ignored = bnKindAck, ReasonControl
			into.Answer = d.answer()
		case d.has(bnStream):
			into.Kind, into.Ignored = bnKindPartial, ReasonNotUsed
			if d.has(bnData) && d.f[bnData].kind != tokenObject {
				into.Kind = bnKindArray
			}
		default:
			into.Ignored = ReasonUnknown
		}
		return nil
	}
	e := &d.f[bnEvent]
	if e.kind != tokenString {
		return badValue("e", e, "want a text")
	}
	known := true
	switch text := d.s.string(e); string(text) {
	case "trade":
		into.Kind = bnKindTrade
	case "aggTrade":
		into.Kind = bnKindAggTrade
	default:
		into.Kind, known = d.kinds.of(text)
	}
	switch into.Kind {
	case bnKindTrade:
		return asError(d.trade(recv, into, event.ChannelTrade, bnTradeID))
	case bnKindAggTrade:
		return asError(d.trade(recv, into, event.ChannelAggTrade, bnAggID))
	case bnKindBookTicker:
		return asError(d.bookTicker(recv, into))
	case bnKindShutdown:
		into.Ignored, into.Control = ReasonControl, ControlRotate
	default:
		if into.Ignored = ReasonNotUsed; !known {
			into.Ignored = ReasonUnknown
		}
	}
	return nil
}

// answer is the id of the request that the frame answers, 0 where it tells none.
func (d *binanceDecoder) answer() uint64 {
	if !d.has(bnID) || d.f[bnID].kind != tokenNumber {
		return 0
	}
	id, _ := parseUint(d.s.raw(&d.f[bnID]))
	return id
}

// asError keeps a nil *FrameError from becoming an error that is not nil.
func asError(e *FrameError) error {
	if e == nil {
		return nil
	}
	return e
}

// required returns the first of the fields that is not there.
func (d *binanceDecoder) required(fields ...int) *FrameError {
	for _, f := range fields {
		if !d.has(f) {
			return missing(bnNames[f])
		}
	}
	return nil
}

func (d *binanceDecoder) trade(recv int64, into *Frame, ch event.Channel, idField int) (err *FrameError) {
	if err := d.required(bnSymbol, idField, bnPrice, bnQty); err != nil {
		return err
	}
	it := into.add()
	it.Type = event.TypeTrade
	t := &it.Trade
	*t = event.Trade{Channel: ch, RecvTime: recv}
	t.Qty.Valid = true
	if it.Symbol, err = d.s.symbol(&d.f[bnSymbol], "s"); err != nil {
		return err
	}
	if t.TradeID, err = d.s.uint(&d.f[idField], bnNames[idField]); err != nil {
		return err
	}
	if t.Price, err = d.s.decimal(&d.f[bnPrice], "p"); err != nil {
		return err
	}
	if t.Qty.Decimal, err = d.s.decimal(&d.f[bnQty], "q"); err != nil {
		return err
	}
	var traded, published int64
	if traded, err = d.time(bnTime); err != nil {
		return err
	}
	if published, err = d.time(bnEventTime); err != nil {
		return err
	}
	t.EventTime, t.TimeSource = eventTime(traded, published, recv)
	t.PublishTime = orZero(published)
	if d.has(bnMaker) { // true: the buyer was the maker, so the seller came to him
		switch d.f[bnMaker].kind {
		case tokenTrue:
			t.Aggressor = event.Sell
		case tokenFalse:
			t.Aggressor = event.Buy
		default:
			return badValue("m", &d.f[bnMaker], "want true or false")
		}
	}
	if ch == event.ChannelAggTrade {
		if d.has(bnFirst) {
			if t.FirstTradeID, err = d.s.uint(&d.f[bnFirst], "f"); err != nil {
				return err
			}
		}
		if d.has(bnLast) {
			if t.LastTradeID, err = d.s.uint(&d.f[bnLast], "l"); err != nil {
				return err
			}
		}
	}
	return nil
}

// bookTicker carries no time: the receive time stands in.
func (d *binanceDecoder) bookTicker(recv int64, into *Frame) (err *FrameError) {
	if err := d.required(bnSymbol, bnUpdateID, bnBid, bnBidQty, bnAggID, bnAskQty); err != nil {
		return err
	}
	it := into.add()
	it.Type = event.TypeQuote
	q := &it.Quote
	*q = event.Quote{Channel: event.ChannelBookTicker, RecvTime: recv}
	q.BidQty.Valid, q.AskQty.Valid = true, true
	if it.Symbol, err = d.s.symbol(&d.f[bnSymbol], "s"); err != nil {
		return err
	}
	if q.Sequence, err = d.s.uint(&d.f[bnUpdateID], "u"); err != nil {
		return err
	}
	if q.Bid, err = d.s.decimal(&d.f[bnBid], "b"); err != nil {
		return err
	}
	if q.BidQty.Decimal, err = d.s.decimal(&d.f[bnBidQty], "B"); err != nil {
		return err
	}
	if q.Ask, err = d.s.decimal(&d.f[bnAggID], "a"); err != nil {
		return err
	}
	if q.AskQty.Decimal, err = d.s.decimal(&d.f[bnAskQty], "A"); err != nil {
		return err
	}
	var at, published int64
	if at, err = d.time(bnTime); err != nil {
		return err
	}
	if published, err = d.time(bnEventTime); err != nil {
		return err
	}
	q.EventTime, q.TimeSource = eventTime(at, published, recv)
	q.PublishTime = orZero(published)
	return nil
}

// time reads milliseconds, or microseconds where the URL asked for them; 0 when
// the field is not there.
func (d *binanceDecoder) time(field int) (int64, *FrameError) {
	if !d.has(field) {
		return 0, nil
	}
	t := &d.f[field]
	if t.kind == tokenNumber {
		if n, ok := parseUint(d.s.raw(t)); ok {
			switch {
			case n < 1e14:
				return int64(n) * 1e6, nil
			case n < 1e17:
				return int64(n) * 1e3, nil
			}
		}
	}
	return 0, badValue(bnNames[field], t, "want a Unix time in milliseconds or microseconds")
}

// binanceSymbolsAsked bounds a request that names its symbols; more take the
// whole list.
const binanceSymbolsAsked = 100

func (binance) Instruments(ctx context.Context, client *http.Client, base string, symbols []string) ([]event.Instrument, error) {
	target := strings.TrimSuffix(base, "/") + "/api/v3/exchangeInfo"
	if len(symbols) <= binanceSymbolsAsked {
		list, err := json.Marshal(symbols)
		if err != nil {
			return nil, fmt.Errorf("writing the list of symbols: %w", err)
		}
		target += "?symbols=" + url.QueryEscape(string(list))
	}
	var info struct {
		Symbols []struct {
			Symbol     string `json:"symbol"`
			BaseAsset  string `json:"baseAsset"`
			QuoteAsset string `json:"quoteAsset"`
			Filters    []struct {
				FilterType  string            `json:"filterType"`
				TickSize    event.Decimal     `json:"tickSize"`
				StepSize    event.Decimal     `json:"stepSize"`
				MinQty      event.NullDecimal `json:"minQty"`
				MinNotional event.NullDecimal `json:"minNotional"`
			} `json:"filters"`
		} `json:"symbols"`
	}
	err := getJSON(ctx, client, target, &info)
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusBadRequest {
		// One unknown symbol refuses the whole question: the whole list has the others.
		whole, _, _ := strings.Cut(target, "?")
		err = getJSON(ctx, client, whole, &info)
	}
	if err != nil {
		return nil, err
	}
	wanted := set(symbols)
	var out []event.Instrument
	for _, s := range info.Symbols {
		if !wanted[s.Symbol] {
			continue
		}
		in := event.Instrument{Venue: "binance", Symbol: s.Symbol, Base: s.BaseAsset, Quote: s.QuoteAsset, Source: "venue"}
		in.Name = normalName(in.Base, in.Quote)
		for _, f := range s.Filters {
			switch f.FilterType {
			case "PRICE_FILTER":
				in.PriceTick = f.TickSize
			case "LOT_SIZE":
				in.QtyStep, in.MinQty = f.StepSize, f.MinQty
			case "NOTIONAL", "MIN_NOTIONAL":
				in.MinNotional = f.MinNotional
			}
		}
		out = append(out, in)
	}
	return out, nil
}

func (binance) Infer(symbol string) (event.Instrument, bool) {
	base, quote := splitByQuote(symbol)
	if quote == "" {
		return event.Instrument{}, false
	}
	return inferred("binance", symbol, base, quote), true
}

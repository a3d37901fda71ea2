package venue

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Coinbase Exchange, as protocols.md A3 describes it.

func init() {
	Registry.Register(component.Spec[New]{
		Name:    "coinbase",
		Summary: "Coinbase Exchange: matches, ticker",
		New:     func(any) (Venue, error) { return coinbase{}, nil },
	})
}

type coinbase struct{}

var _ Venue = coinbase{}

func (coinbase) Info() Info {
	return Info{
		URL:        "wss://ws-feed.exchange.coinbase.com",
		REST:       "https://api.exchange.coinbase.com",
		Canonical:  strings.ToUpper,
		Idle:       30 * time.Second, // our pings make two answers in that time
		Ping:       10 * time.Second,
		SendEvery:  20 * time.Millisecond, // 100 messages a second (A3.3)
		Dials:      8,
		DialWindow: time.Second,
		Channels: []ChannelSpec{
			{Name: "matches", Channel: event.ChannelMatches, IDs: IDsContiguous, Trades: true, Default: true},
			{Name: "ticker", Channel: event.ChannelTicker, IDs: IDsOrdered, Default: true},
		},
	}
}

// Plans subscribes in one message, within the 5 s that the venue gives.
func (coinbase) Plans(base string, symbols []string, channels []ChannelSpec) ([]Plan, error) {
	if len(symbols) == 0 {
		return []Plan{{URL: base}}, nil
	}
	msg, err := coinbase{}.Subscribe(1, symbols, channels)
	if err != nil {
		return nil, err
	}
	return []Plan{{URL: base, Messages: msg, Symbols: [][]string{symbols}}}, nil
}

var _ Subscriber = coinbase{}

// Subscribe implements Subscriber. Coinbase refuses a request as a whole and names a bad
// product in its error; requests have no ids.
func (coinbase) Subscribe(_ uint64, symbols []string, channels []ChannelSpec) ([][]byte, error) {
	names := make([]string, len(channels))
	for i, c := range channels {
		names[i] = c.Name
	}
	msg, err := json.Marshal(struct {
		Type     string   `json:"type"`
		Products []string `json:"product_ids"`
		Channels []string `json:"channels"`
	}{"subscribe", symbols, names})
	if err != nil {
		return nil, fmt.Errorf("writing the subscription: %w", err)
	}
	return [][]byte{msg}, nil
}

// The fields that are read.
const (
	cbType = iota
	cbTradeID
	cbSide
	cbSize
	cbPrice
	cbProduct
	cbSequence
	cbTime
	cbBid
	cbBidSize
	cbAsk
	cbAskSize
	cbMessage
	cbReason
	cbFields
)

var cbNames = [cbFields]string{"type", "trade_id", "side", "size", "price", "product_id", "sequence", "time",
	"best_bid", "best_bid_size", "best_ask", "best_ask_size", "message", "reason"}

func cbField(name []byte) int {
	switch string(name) {
	case "type":
		return cbType
	case "trade_id":
		return cbTradeID
	case "side":
		return cbSide
	case "size":
		return cbSize
	case "price":
		return cbPrice
	case "product_id":
		return cbProduct
	case "sequence":
		return cbSequence
	case "time":
		return cbTime
	case "best_bid":
		return cbBid
	case "best_bid_size":
		return cbBidSize
	case "best_ask":
		return cbAsk
	case "best_ask_size":
		return cbAskSize
	case "message":
		return cbMessage
	case "reason":
		return cbReason
	}
	return -1
}

const (
	cbKindMatch Kind = iota + 1
	cbKindTicker
	cbKindLastMatch
	cbKindError
	cbKindSubscriptions
	cbKindHeartbeat
)

type coinbaseDecoder struct {
	s     scanner
	date  dateCache
	f     [cbFields]token
	seen  uint32 // bit n: field n was read; f[n] is stale otherwise
	kinds kindTable
}

func (coinbase) NewDecoder() Decoder {
	return &coinbaseDecoder{kinds: newKindTable("match", "ticker", "last_match", "error", "subscriptions", "heartbeat",
		"snapshot", "l2update", "status", "received", "open", "done", "change", "activate", "auction")}
}

func (d *coinbaseDecoder) Kinds() []string { return d.kinds.names }

func (d *coinbaseDecoder) has(field int) bool { return d.seen&(1<<field) != 0 }

func (d *coinbaseDecoder) Decode(frame []byte, recv int64, into *Frame) error {
	into.reset()
	s := &d.s
	s.reset(frame)
	d.seen = 0
	if s.peek() != '{' {
		var v token
		if !s.value(&v) || !s.end() {
			return s.err()
		}
		into.Ignored = ReasonUnknown
		return nil
	}
	s.enter()
	var key, skipped token
	for first := true; s.key(first, &key); first = false {
		f := cbField(s.string(&key))
		if f < 0 {
			if !s.value(&skipped) {
				return s.err()
			}
			continue
		}
		if d.seen&(1<<f) != 0 {
			return &FrameError{Code: CodeDuplicate, Field: cbNames[f], Offset: key.at()}
		}
		d.seen |= 1 << f
		if !s.value(&d.f[f]) {
			return s.err()
		}
	}
	if s.msg != "" || !s.end() {
		return s.err()
	}
	if err := d.emit(recv, into); err != nil {
		into.Items = into.Items[:0]
		return err
	}
	return nil
}

func (d *coinbaseDecoder) emit(recv int64, into *Frame) error {
	if !d.has(cbType) {
		into.Ignored = ReasonUnknown
		return nil
	}
	typ := &d.f[cbType]
	if typ.kind != tokenString {
		return badValue("type", typ, "want a text")
	}
	known := true
	switch text := d.s.string(typ); string(text) {
	case "match":
		into.Kind = cbKindMatch
	case "ticker":
		into.Kind = cbKindTicker
	default:
		into.Kind, known = d.kinds.of(text)
	}
	switch into.Kind {
	case cbKindMatch:
		return asError(d.match(recv, into))
	case cbKindTicker:
		return asError(d.ticker(recv, into))
	case cbKindLastMatch:
		into.Ignored = ReasonHistory
		d.mark(into)
	case cbKindSubscriptions, cbKindHeartbeat:
		into.Ignored = ReasonControl
	case cbKindError:
		into.Ignored, into.Control = ReasonError, ControlError
		for _, f := range []int{cbMessage, cbReason} {
			if d.has(f) {
				into.Message = strings.TrimPrefix(into.Message+": "+clip(d.s.string(&d.f[f]), 300), ": ")
			}
		}
	default:
		if into.Ignored = ReasonNotUsed; !known {
			into.Ignored = ReasonUnknown
		}
	}
	return nil
}

func (d *coinbaseDecoder) required(fields ...int) *FrameError {
	for _, f := range fields {
		if !d.has(f) {
			return missing(cbNames[f])
		}
	}
	return nil
}

// match is a trade; its side is the maker's, so the aggressor is the opposite
// (protocols.md 0.9).
func (d *coinbaseDecoder) match(recv int64, into *Frame) (err *FrameError) {
	if err := d.required(cbProduct, cbTradeID, cbPrice, cbSize); err != nil {
		return err
	}
	it := into.add()
	it.Type = event.TypeTrade
	t := &it.Trade
	*t = event.Trade{Channel: event.ChannelMatches, RecvTime: recv}
	t.Qty.Valid = true
	if it.Symbol, err = d.s.symbol(&d.f[cbProduct], "product_id"); err != nil {
		return err
	}
	if t.TradeID, err = d.s.uint(&d.f[cbTradeID], "trade_id"); err != nil {
		return err
	}
	if t.Price, err = d.s.decimal(&d.f[cbPrice], "price"); err != nil {
		return err
	}
	if t.Qty.Decimal, err = d.s.decimal(&d.f[cbSize], "size"); err != nil {
		return err
	}
	if d.has(cbSequence) {
		if t.Sequence, err = d.s.uint(&d.f[cbSequence], "sequence"); err != nil {
			return err
		}
	}
	if d.has(cbSide) {
		switch string(d.s.string(&d.f[cbSide])) {
		case "sell":
			t.Aggressor = event.Buy
		case "buy":
			t.Aggressor = event.Sell
		default:
			return badValue("side", &d.f[cbSide], "want buy or sell")
		}
	}
	at, err := d.time()
	if err != nil {
		return err
	}
	t.EventTime, t.TimeSource = eventTime(at, 0, recv)
	return nil
}

// mark notes the id of the last trade before the subscription: the trade itself
// is history, but whoever knows an older one sees what he missed.
func (d *coinbaseDecoder) mark(into *Frame) {
	if !d.has(cbProduct) || !d.has(cbTradeID) {
		return
	}
	symbol, err := d.s.symbol(&d.f[cbProduct], "product_id")
	if err != nil {
		return
	}
	id, err := d.s.uint(&d.f[cbTradeID], "trade_id")
	if err != nil {
		return
	}
	into.Mark = Mark{Symbol: symbol, Channel: event.ChannelMatches, ID: id}
}

// ticker is a quote: best bid and ask after a match. Sizes are absent in
// messages before 2025; a side without a price is empty.
func (d *coinbaseDecoder) ticker(recv int64, into *Frame) (err *FrameError) {
	if err := d.required(cbProduct); err != nil {
		return err
	}
	if !d.has(cbBid) && !d.has(cbAsk) {
		into.Ignored = ReasonNoMatch
		return nil
	}
	it := into.add()
	it.Type = event.TypeQuote
	q := &it.Quote
	*q = event.Quote{Channel: event.ChannelTicker, RecvTime: recv}
	if it.Symbol, err = d.s.symbol(&d.f[cbProduct], "product_id"); err != nil {
		return err
	}
	if d.has(cbSequence) {
		if q.Sequence, err = d.s.uint(&d.f[cbSequence], "sequence"); err != nil {
			return err
		}
	}
	if q.Bid, err = d.side(cbBid); err != nil {
		return err
	}
	if q.Ask, err = d.side(cbAsk); err != nil {
		return err
	}
	if q.BidQty, err = d.size(cbBidSize); err != nil {
		return err
	}
	if q.AskQty, err = d.size(cbAskSize); err != nil {
		return err
	}
	at, err := d.time()
	if err != nil {
		return err
	}
	q.EventTime, q.TimeSource = eventTime(at, 0, recv)
	return nil
}

// side reads a best price; null, an empty text and no field are an empty side.
func (d *coinbaseDecoder) side(field int) (event.Decimal, *FrameError) {
	t := &d.f[field]
	if !d.has(field) || t.kind == tokenNull || (t.kind == tokenString && t.from == t.to) {
		return event.Decimal{}, nil
	}
	return d.s.decimal(t, cbNames[field])
}

// size reads a size that may be absent.
func (d *coinbaseDecoder) size(field int) (n event.NullDecimal, err *FrameError) {
	t := &d.f[field]
	if !d.has(field) || t.kind == tokenNull || (t.kind == tokenString && t.from == t.to) {
		return n, nil
	}
	n.Valid = true
	n.Decimal, err = d.s.decimal(t, cbNames[field])
	return n, err
}

func (d *coinbaseDecoder) time() (int64, *FrameError) {
	if !d.has(cbTime) {
		return 0, nil
	}
	t := &d.f[cbTime]
	if t.kind == tokenString {
		if ns, ok := d.date.parseRFC3339(d.s.string(t)); ok {
			return ns, nil
		}
	}
	return 0, badValue("time", t, "want an RFC 3339 time")
}

func (coinbase) Instruments(ctx context.Context, client *http.Client, base string, symbols []string) ([]event.Instrument, error) {
	var products []struct {
		ID             string            `json:"id"`
		Base           string            `json:"base_currency"`
		Quote          string            `json:"quote_currency"`
		QuoteIncrement event.Decimal     `json:"quote_increment"`
		BaseIncrement  event.Decimal     `json:"base_increment"`
		BaseMinSize    event.NullDecimal `json:"base_min_size"`
		MinMarketFunds event.NullDecimal `json:"min_market_funds"`
	}
	if err := getJSON(ctx, client, strings.TrimSuffix(base, "/")+"/products", &products); err != nil {
		return nil, err
	}
	wanted := set(symbols)
	var out []event.Instrument
	for _, p := range products {
		if !wanted[p.ID] {
			continue
		}
		out = append(out, event.Instrument{Venue: "coinbase", Symbol: p.ID, Name: normalName(p.Base, p.Quote), Base: p.Base, Quote: p.Quote,
			PriceTick: p.QuoteIncrement, QtyStep: p.BaseIncrement, MinQty: p.BaseMinSize, MinNotional: p.MinMarketFunds, Source: "venue"})
	}
	return out, nil
}

func (coinbase) Infer(symbol string) (event.Instrument, bool) {
	base, quote, ok := strings.Cut(symbol, "-")
	if !ok || base == "" || quote == "" {
		return event.Instrument{}, false
	}
	return inferred("coinbase", symbol, base, quote), true
}

package event

import "strconv"

// All times below are Unix nanoseconds, UTC; 0 is absent.

// Trade is one execution at a venue, or one aggregated trade. Venue and symbol
// are the record's key. Its identity is (venue, channel, symbol, id): TradeIDText
// where the venue's ids are text, else TradeID, else (Connection, Ordinal).
type Trade struct {
	Channel   Channel `json:"channel"`
	Aggressor Side    `json:"aggressor"`
	// TradeID is the venue's numeric id; 0 with an empty TradeIDText means the
	// channel has none.
	TradeID     uint64 `json:"trade_id,omitempty"`
	TradeIDText string `json:"trade_id_text,omitempty"`
	// Sequence is the venue's sequence number where it sends one.
	Sequence    uint64      `json:"sequence,omitempty"`
	Price       Decimal     `json:"price"`
	Qty         NullDecimal `json:"qty"`
	EventTime   int64       `json:"event_time"`
	PublishTime int64       `json:"publish_time,omitempty"`
	RecvTime    int64       `json:"recv_time"`
	TimeSource  TimeSource  `json:"time_source"`
	// Connection counts the feed's connections for ever; Ordinal counts the
	// channel's records on that connection where the venue sends no id.
	Connection uint32 `json:"connection,omitempty"`
	Ordinal    uint64 `json:"ordinal,omitempty"`
	// FirstTradeID and LastTradeID bound what an aggregated trade sums up.
	FirstTradeID uint64 `json:"first_trade_id,omitempty"`
	LastTradeID  uint64 `json:"last_trade_id,omitempty"`
	// Epoch counts how often the venue began its ids again; Late marks a trade that came
	// after newer ones: it is recorded, and nothing acts on it.
	Epoch uint32 `json:"epoch,omitempty"`
	Late  bool   `json:"late,omitempty"`
}

// Quote is the top of a book: best bid and ask. A side that is empty at the
// venue has price 0. Its identity is (venue, channel, symbol, Sequence), or
// (Connection, Ordinal) where the venue sends no sequence.
type Quote struct {
	Channel     Channel     `json:"channel"`
	TimeSource  TimeSource  `json:"time_source"`
	Sequence    uint64      `json:"sequence,omitempty"`
	Bid         Decimal     `json:"bid"`
	BidQty      NullDecimal `json:"bid_qty"`
	Ask         Decimal     `json:"ask"`
	AskQty      NullDecimal `json:"ask_qty"`
	EventTime   int64       `json:"event_time"`
	PublishTime int64       `json:"publish_time,omitempty"`
	RecvTime    int64       `json:"recv_time"`
	Connection  uint32      `json:"connection,omitempty"`
	Ordinal     uint64      `json:"ordinal,omitempty"`
	Epoch       uint32      `json:"epoch,omitempty"` // as in Trade
}

// Coverage states what is known of an interval of one channel of one symbol. It
// is written only when something changes.
type Coverage struct {
	Kind    CoverageKind `json:"kind"`
	Channel Channel      `json:"channel"`
	// Contiguous says that the channel's ids leave no holes, so that the
	// interval may be called complete.
	Contiguous bool `json:"contiguous,omitempty"`
	// FromID and ToID bound the interval, inclusive; 0 where ids say nothing.
	FromID uint64 `json:"from_id,omitempty"`
	ToID   uint64 `json:"to_id,omitempty"`
	// FromTime and ToTime bound the interval in receive time; ToTime 0 is open.
	FromTime int64 `json:"from_time,omitempty"`
	ToTime   int64 `json:"to_time,omitempty"`
	// RecvTime is when the statement was made.
	RecvTime   int64  `json:"recv_time"`
	Connection uint32 `json:"connection,omitempty"`
	Ordinal    uint64 `json:"ordinal,omitempty"` // of the statement, within the connection
	Reason     string `json:"reason,omitempty"`
	Epoch      uint32 `json:"epoch,omitempty"` // of the ids, as in Trade
}

// Clock moves time in one partition and is the feed's lease: receive time after
// the last one is unknown. Each feed writes one a second to every partition
// that holds a key of its.
type Clock struct {
	Feed        string `json:"feed"`
	Connections uint32 `json:"connections"`
	Time        int64  `json:"time"`
	// Closing marks the feed's last one of an orderly stop.
	Closing bool `json:"closing,omitempty"`
}

// AppendMarketID appends the text form of a market data record's identity,
// venue|channel|symbol|id, the same that ClickHouse computes as event_id. The id
// is text where it is not empty, else number where it is not 0, else
// #connection.ordinal. An epoch that is not 0 follows the channel: venue|channel#1|...
func AppendMarketID(dst []byte, key []byte, channel Channel, epoch uint32, text string, number uint64, connection uint32, ordinal uint64) []byte {
	venue, symbol := SplitKey(key)
	dst = append(dst, venue...)
	dst = append(dst, '|')
	dst = append(dst, channel.String()...)
	if epoch != 0 {
		dst = append(dst, '#')
		dst = strconv.AppendUint(dst, uint64(epoch), 10)
	}
	dst = append(dst, '|')
	dst = append(dst, symbol...)
	dst = append(dst, '|')
	switch {
	case text != "":
		return append(dst, text...)
	case number != 0:
		return strconv.AppendUint(dst, number, 10)
	}
	dst = append(dst, '#')
	dst = strconv.AppendUint(dst, uint64(connection), 10)
	dst = append(dst, '.')
	return strconv.AppendUint(dst, ordinal, 10)
}

// AppendID appends the trade's identity; key is its record's key.
func (t *Trade) AppendID(dst, key []byte) []byte {
	return AppendMarketID(dst, key, t.Channel, t.Epoch, t.TradeIDText, t.TradeID, t.Connection, t.Ordinal)
}

// AppendID appends the quote's identity; key is its record's key.
func (q *Quote) AppendID(dst, key []byte) []byte {
	return AppendMarketID(dst, key, q.Channel, q.Epoch, "", q.Sequence, q.Connection, q.Ordinal)
}

// AppendID appends the statement's identity; key is its record's key.
func (c *Coverage) AppendID(dst, key []byte) []byte {
	dst = append(dst, "coverage|"...)
	dst = append(dst, c.Kind.String()...)
	dst = append(dst, '|')
	return AppendMarketID(dst, key, c.Channel, 0, "", 0, c.Connection, c.Ordinal)
}

// Instrument is what a venue says of one symbol: how its name splits and in
// which steps it trades.
type Instrument struct {
	Venue  string `json:"venue"`
	Symbol string `json:"symbol"` // as the venue writes it
	Name   string `json:"name"`   // normal form, BTC-USDT
	Base   string `json:"base"`
	Quote  string `json:"quote"`
	// PriceTick and QtyStep are the smallest steps; MinQty and MinNotional the
	// smallest order.
	PriceTick   Decimal     `json:"price_tick"`
	QtyStep     Decimal     `json:"qty_step"`
	MinQty      NullDecimal `json:"min_qty"`
	MinNotional NullDecimal `json:"min_notional"`
	// Source says where this comes from: "venue", "config" or "inferred".
	Source string `json:"source"`
	Time   int64  `json:"time"`
}

package event

import (
	"encoding/binary"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// Trades and quotes are encoded and decoded by hand: they are nearly all of the
// traffic. A test holds these equal to the general coder, field by field.

func appendUint(b []byte, tag byte, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(append(b, tag<<3), v)
}

func appendTime(b []byte, tag byte, v int64) []byte {
	if v == 0 {
		return b
	}
	return binary.LittleEndian.AppendUint64(append(b, tag<<3|1), uint64(v))
}

// begin writes the event's tag and leaves two bytes for its length, which is
// always written as two: legal Protobuf, and nothing has to move.
func begin(dst []byte, t Type) ([]byte, int) {
	dst = append(dst, byte(t)<<3|2, 0, 0)
	return dst, len(dst)
}

func finish(dst []byte, start int) []byte {
	n := len(dst) - start // below 1<<14: the callers bound the only text
	dst[start-2] = byte(n)&0x7f | 0x80
	dst[start-1] = byte(n >> 7)
	return dst
}

// maxFastText bounds the texts that fit the two-byte length of begin.
const maxFastText = 8 << 10

// AppendWire appends the trade's wire form. It does not allocate when dst has
// room.
func (t *Trade) AppendWire(dst []byte) []byte {
	if len(t.TradeIDText) > maxFastText {
		return Append(dst, t)
	}
	b, start := begin(dst, TypeTrade)
	b = appendUint(b, 1, uint64(t.Channel))
	b = appendUint(b, 2, t.TradeID)
	if t.TradeIDText != "" {
		b = protowire.AppendString(append(b, 3<<3|2), t.TradeIDText)
	}
	b = appendDecimal(b, 4, t.Price)
	if t.Qty.Valid {
		b = appendDecimal(b, 5, t.Qty.Decimal)
	}
	b = appendUint(b, 6, uint64(t.Aggressor))
	b = appendTime(b, 7, t.EventTime)
	b = appendUint(b, 8, uint64(t.TimeSource))
	b = appendTime(b, 9, t.RecvTime)
	b = appendUint(b, 10, t.Sequence)
	b = appendUint(b, 11, uint64(t.Connection))
	b = appendUint(b, 12, t.Ordinal)
	b = appendTime(b, 13, t.PublishTime)
	b = appendUint(b, 14, t.FirstTradeID)
	b = appendUint(b, 15, t.LastTradeID)
	if t.Epoch != 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, 16, v64), uint64(t.Epoch))
	}
	if t.Late {
		b = protowire.AppendVarint(protowire.AppendTag(b, 17, v64), 1)
	}
	return finish(b, start)
}

// AppendWire appends the quote's wire form. It does not allocate when dst has
// room.
func (q *Quote) AppendWire(dst []byte) []byte {
	b, start := begin(dst, TypeQuote)
	b = appendUint(b, 1, uint64(q.Channel))
	b = appendUint(b, 2, q.Sequence)
	b = appendDecimal(b, 3, q.Bid)
	if q.BidQty.Valid {
		b = appendDecimal(b, 4, q.BidQty.Decimal)
	}
	b = appendDecimal(b, 5, q.Ask)
	if q.AskQty.Valid {
		b = appendDecimal(b, 6, q.AskQty.Decimal)
	}
	b = appendTime(b, 7, q.EventTime)
	b = appendUint(b, 8, uint64(q.TimeSource))
	b = appendTime(b, 9, q.RecvTime)
	b = appendTime(b, 10, q.PublishTime)
	b = appendUint(b, 11, uint64(q.Connection))
	b = appendUint(b, 12, q.Ordinal)
	b = appendUint(b, 13, uint64(q.Epoch))
	return finish(b, start)
}

// field is one field as the fast decoders read it.
type field struct {
	num   protowire.Number
	typ   protowire.Type
	n     uint64
	bytes []byte
}

// next reads one field; n is the bytes it took, negative on a malformed one.
func (f *field) next(b []byte) (n int) {
	f.num, f.typ, n = protowire.Number(b[0]>>3), protowire.Type(b[0]&7), 1
	if b[0] >= 0x80 || f.num == 0 { // longer, or no field's number
		if f.num, f.typ, n = protowire.ConsumeTag(b); n < 0 {
			return n
		}
	}
	b = b[n:]
	var m int
	switch f.typ {
	case protowire.VarintType:
		f.n, m = protowire.ConsumeVarint(b)
	case protowire.Fixed64Type:
		f.n, m = protowire.ConsumeFixed64(b)
	case protowire.BytesType:
		f.bytes, m = protowire.ConsumeBytes(b)
	default:
		m = protowire.ConsumeFieldValue(f.num, f.typ, b)
	}
	if m < 0 {
		return m
	}
	return n + m
}

func (f *field) uint32() (uint32, error) {
	if f.n > math.MaxUint32 {
		return 0, fmt.Errorf("%d is beyond 32 bits", f.n)
	}
	return uint32(f.n), nil
}

// DecodeTrade reads a record's value into t, which it resets. It allocates only
// for a text id.
func DecodeTrade(value []byte, t *Trade) error {
	*t = Trade{}
	typ, b, err := body(value)
	if err != nil {
		return err
	}
	if typ != TypeTrade {
		return fmt.Errorf("decoding trade: it is of type %d", typ)
	}
	var f field
	for len(b) > 0 {
		n := f.next(b)
		if n < 0 {
			return fmt.Errorf("decoding trade: %w", protowire.ParseError(n))
		}
		b = b[n:]
		if f.num <= 17 && f.num > 0 && f.typ != tradeTypes[f.num] {
			return fmt.Errorf("decoding trade: field %d has wire type %d", f.num, f.typ)
		}
		switch f.num {
		case 1:
			t.Channel = Channel(known(f.n, channelNames))
		case 2:
			t.TradeID = f.n
		case 3:
			t.TradeIDText, err = string(f.bytes), checkText(f.bytes)
		case 4:
			t.Price, err = decodeDecimal(f.bytes)
		case 5:
			t.Qty.Valid = true
			t.Qty.Decimal, err = decodeDecimal(f.bytes)
		case 6:
			t.Aggressor = Side(known(f.n, sideNames))
		case 7:
			t.EventTime = int64(f.n)
		case 8:
			t.TimeSource = TimeSource(known(f.n, timeSourceNames))
		case 9:
			t.RecvTime = int64(f.n)
		case 10:
			t.Sequence = f.n
		case 11:
			t.Connection, err = f.uint32()
		case 12:
			t.Ordinal = f.n
		case 13:
			t.PublishTime = int64(f.n)
		case 14:
			t.FirstTradeID = f.n
		case 15:
			t.LastTradeID = f.n
		case 16:
			t.Epoch, err = f.uint32()
		case 17:
			t.Late = f.n != 0
		}
		if err != nil {
			return fmt.Errorf("decoding trade: field %d: %w", f.num, err)
		}
	}
	return nil
}

// DecodeQuote reads a record's value into q, which it resets. It does not
// allocate.
func DecodeQuote(value []byte, q *Quote) error {
	*q = Quote{}
	typ, b, err := body(value)
	if err != nil {
		return err
	}
	if typ != TypeQuote {
		return fmt.Errorf("decoding quote: it is of type %d", typ)
	}
	var f field
	for len(b) > 0 {
		n := f.next(b)
		if n < 0 {
			return fmt.Errorf("decoding quote: %w", protowire.ParseError(n))
		}
		b = b[n:]
		if f.num <= 13 && f.num > 0 && f.typ != quoteTypes[f.num] {
			return fmt.Errorf("decoding quote: field %d has wire type %d", f.num, f.typ)
		}
		switch f.num {
		case 1:
			q.Channel = Channel(known(f.n, channelNames))
		case 2:
			q.Sequence = f.n
		case 3:
			q.Bid, err = decodeDecimal(f.bytes)
		case 4:
			q.BidQty.Valid = true
			q.BidQty.Decimal, err = decodeDecimal(f.bytes)
		case 5:
			q.Ask, err = decodeDecimal(f.bytes)
		case 6:
			q.AskQty.Valid = true
			q.AskQty.Decimal, err = decodeDecimal(f.bytes)
		case 7:
			q.EventTime = int64(f.n)
		case 8:
			q.TimeSource = TimeSource(known(f.n, timeSourceNames))
		case 9:
			q.RecvTime = int64(f.n)
		case 10:
			q.PublishTime = int64(f.n)
		case 11:
			q.Connection, err = f.uint32()
		case 12:
			q.Ordinal = f.n
		case 13:
			q.Epoch, err = f.uint32()
		}
		if err != nil {
			return fmt.Errorf("decoding quote: field %d: %w", f.num, err)
		}
	}
	return nil
}

func known(n uint64, names []string) uint8 {
	if n >= uint64(len(names)) {
		return 0
	}
	return uint8(n)
}

const (
	v64  = protowire.VarintType
	f64  = protowire.Fixed64Type
	lenD = protowire.BytesType
)

// The wire types of the fields of Trade and Quote, by number.
var (
	tradeTypes = [...]protowire.Type{0, v64, v64, lenD, lenD, lenD, v64, f64, v64, f64, v64, v64, v64, f64, v64, v64, v64, v64}
	quoteTypes = [...]protowire.Type{0, v64, v64, lenD, lenD, lenD, lenD, f64, v64, f64, f64, v64, v64, v64}
)

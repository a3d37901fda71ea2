package clickhouse

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/autohedge/autohedge/stream/event"
)

// The column types of the schema, resettable and without allocations for each
// row once they have grown. Their Type is what the DDL says, so that the server
// converts nothing.

// column is one column of a block.
type column interface {
	proto.ColInput
	Reset()
}

// Bits of a LowCardinality column's header in the Native format: the dictionary
// comes with the block, and replaces the one before.
const lowCardinalityFlags = 1<<9 | 1<<10

// lowCard is LowCardinality(String). The values of one block repeat, mostly the
// one before, so that appending is a comparison.
type lowCard struct {
	dict  proto.ColStr
	index map[string]uint32
	keys  []uint32
	last  uint32
}

// add appends a value.
func (c *lowCard) add(s string) {
	if n := len(c.keys); n > 0 && c.dict.Row(int(c.last)) == s {
		c.keys = append(c.keys, c.last)
		return
	}
	i, ok := c.index[s]
	if !ok {
		i = c.learn(s)
	}
	c.last = i
	c.keys = append(c.keys, i)
}

// repeat appends the newest value again.
func (c *lowCard) repeat() { c.keys = append(c.keys, c.last) }

func (c *lowCard) learn(s string) uint32 {
	if c.index == nil {
		c.index = make(map[string]uint32)
	}
	i := uint32(len(c.index))
	c.index[strings.Clone(s)] = i
	c.dict.Append(s)
	return i
}

func (c *lowCard) Type() proto.ColumnType { return "LowCardinality(String)" }
func (c *lowCard) Rows() int              { return len(c.keys) }

func (c *lowCard) Reset() {
	c.dict.Reset()
	clear(c.index)
	c.keys = c.keys[:0]
	c.last = 0
}

// EncodeState writes the version of the keys' form.
func (c *lowCard) EncodeState(b *proto.Buffer) { b.PutInt64(1) }

func (c *lowCard) EncodeColumn(b *proto.Buffer) {
	if len(c.keys) == 0 {
		return
	}
	key := proto.KeyUInt32
	switch n := c.dict.Rows(); {
	case n <= 1<<8:
		key = proto.KeyUInt8
	case n <= 1<<16:
		key = proto.KeyUInt16
	}
	b.PutInt64(lowCardinalityFlags | int64(key))
	b.PutInt64(int64(c.dict.Rows()))
	c.dict.EncodeColumn(b)
	b.PutInt64(int64(len(c.keys)))
	for _, k := range c.keys {
		switch key {
		case proto.KeyUInt8:
			b.Buf = append(b.Buf, byte(k))
		case proto.KeyUInt16:
			b.Buf = binary.LittleEndian.AppendUint16(b.Buf, uint16(k))
		default:
			b.Buf = binary.LittleEndian.AppendUint32(b.Buf, k)
		}
	}
}

func (c *lowCard) WriteColumn(w *proto.Writer) { w.ChainBuffer(c.EncodeColumn) }

// decimals is Decimal(38, 18).
type decimals struct{ proto.ColDecimal128 }

func (decimals) Type() proto.ColumnType { return "Decimal(38, 18)" }

func (c *decimals) add(d event.Decimal) {
	hi, lo := d.Int128()
	c.ColDecimal128 = append(c.ColDecimal128, proto.Decimal128{Low: lo, High: uint64(hi)})
}

// money is Decimal(76, 18): the product of two is exact.
type money struct{ proto.ColDecimal256 }

func (money) Type() proto.ColumnType { return "Decimal(76, 18)" }

func (c *money) add(d event.Decimal) {
	hi, lo := d.Int128()
	sign := uint64(hi >> 63) // of two's complement
	c.ColDecimal256 = append(c.ColDecimal256, proto.Decimal256{Low: proto.UInt128{Low: lo, High: uint64(hi)}, High: proto.UInt128{Low: sign, High: sign}})
}

// nullMoney is Nullable(Decimal(76, 18)).
type nullMoney struct{ nullable[money, *money] }

func (c *nullMoney) add(d event.NullDecimal) {
	if !d.Valid {
		c.nulls = append(c.nulls, 1)
		c.values.ColDecimal256 = append(c.values.ColDecimal256, proto.Decimal256{})
		return
	}
	c.nulls = append(c.nulls, 0)
	c.values.add(d.Decimal)
}

// times is DateTime64(9, 'UTC'), in Unix nanoseconds.
type times struct{ proto.ColInt64 }

func (times) Type() proto.ColumnType { return "DateTime64(9, 'UTC')" }

// nullable is Nullable(C).
type nullable[C interface {
	proto.ColInput
}, P interface {
	*C
	Reset()
}] struct {
	nulls  proto.ColUInt8
	values C
}

func (c *nullable[C, P]) Type() proto.ColumnType {
	return "Nullable(" + c.values.Type() + ")"
}
func (c *nullable[C, P]) Rows() int { return len(c.nulls) }

func (c *nullable[C, P]) Reset() {
	c.nulls.Reset()
	P(&c.values).Reset()
}

func (c *nullable[C, P]) EncodeColumn(b *proto.Buffer) {
	c.nulls.EncodeColumn(b)
	c.values.EncodeColumn(b)
}

func (c *nullable[C, P]) WriteColumn(w *proto.Writer) { w.ChainBuffer(c.EncodeColumn) }

// nullDecimals is Nullable(Decimal(38, 18)).
type nullDecimals struct{ nullable[decimals, *decimals] }

func (c *nullDecimals) add(d event.NullDecimal) {
	if !d.Valid {
		c.nulls = append(c.nulls, 1)
		c.values.ColDecimal128 = append(c.values.ColDecimal128, proto.Decimal128{})
		return
	}
	c.nulls = append(c.nulls, 0)
	c.values.add(d.Decimal)
}

// nullTimes is Nullable(DateTime64(9, 'UTC')); 0 is absent.
type nullTimes struct{ nullable[times, *times] }

func (c *nullTimes) add(ns int64) {
	null := uint8(0)
	if ns == 0 {
		null = 1
	}
	c.nulls = append(c.nulls, null)
	c.values.ColInt64 = append(c.values.ColInt64, ns)
}

// enums is Enum8 over one of the events' enums.
type enums[E enum] struct {
	proto.ColInt8
	typ proto.ColumnType
}

type enum interface {
	~uint8
	fmt.Stringer
}

func (c *enums[E]) Type() proto.ColumnType {
	if c.typ == "" {
		c.typ = enumType[E]()
	}
	return c.typ
}

// add appends a value; one that this build has no name for lands as 0, as the
// wire form's decoder has it.
func (c *enums[E]) add(v E) {
	c.ColInt8 = append(c.ColInt8, int8(v))
}

// enumType writes the Enum8 with every name that E has.
func enumType[E enum]() proto.ColumnType {
	var parts []string
	for i := range 128 {
		name := E(i).String()
		if i > 0 && strings.HasPrefix(name, "unknown(") {
			break
		}
		parts = append(parts, fmt.Sprintf("'%s' = %d", name, i))
	}
	return proto.ColumnType("Enum8(" + strings.Join(parts, ", ") + ")")
}

// ids is UUID.
type ids struct{ proto.ColUUID }

func (c *ids) add(id event.ID) { c.ColUUID = append(c.ColUUID, [16]byte(id)) }

// strs is String.
type strs struct{ proto.ColStr }

func (c *strs) add(s string) { c.Append(s) }

// arrays is Array(String).
type arrays struct {
	values  proto.ColStr
	offsets proto.ColUInt64
}

func (c *arrays) Type() proto.ColumnType { return "Array(String)" }
func (c *arrays) Rows() int              { return len(c.offsets) }

func (c *arrays) Reset() {
	c.values.Reset()
	c.offsets.Reset()
}

func (c *arrays) EncodeColumn(b *proto.Buffer) {
	c.offsets.EncodeColumn(b)
	c.values.EncodeColumn(b)
}

func (c *arrays) WriteColumn(w *proto.Writer) { w.ChainBuffer(c.EncodeColumn) }

// end closes one row's array after its values were appended.
func (c *arrays) end() {
	c.offsets = append(c.offsets, uint64(c.values.Rows()))
}

// maps is Map(LowCardinality(String), V).
type maps[V column] struct {
	keys    lowCard
	values  V
	offsets proto.ColUInt64
}

func (c *maps[V]) Type() proto.ColumnType {
	return "Map(LowCardinality(String), " + c.values.Type() + ")"
}
func (c *maps[V]) Rows() int { return len(c.offsets) }

func (c *maps[V]) Reset() {
	c.keys.Reset()
	c.values.Reset()
	c.offsets.Reset()
}

func (c *maps[V]) EncodeState(b *proto.Buffer) { c.keys.EncodeState(b) }

func (c *maps[V]) EncodeColumn(b *proto.Buffer) {
	c.offsets.EncodeColumn(b)
	c.keys.EncodeColumn(b)
	c.values.EncodeColumn(b)
}

func (c *maps[V]) WriteColumn(w *proto.Writer) { w.ChainBuffer(c.EncodeColumn) }

func (c *maps[V]) end() {
	c.offsets = append(c.offsets, uint64(c.keys.Rows()))
}

package event

import (
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// Schema is event.proto, the published schema of every record's value.
//
//go:embed event.proto
var Schema string

// Type is the field number of a body in message Event.
type Type uint8

// Types of events.
const (
	TypeTrade       Type = 1
	TypeQuote       Type = 2
	TypeCoverage    Type = 3
	TypeClock       Type = 4
	TypeSignal      Type = 16
	TypeModelCall   Type = 17
	TypeVerdict     Type = 18
	TypeDecision    Type = 19
	TypeOrder       Type = 20
	TypeFill        Type = 21
	TypePosition    Type = 22
	TypeControl     Type = 23
	TypeDead        Type = 24
	TypeInstrument  Type = 25
	TypeIncarnation Type = 26
	TypeSinkPlan    Type = 27
	TypeRuleStart   Type = 28
	TypeEpoch       Type = 31
	TypeChunk       Type = 32
	TypeManifest    Type = 33
	TypeSkip        Type = 34
)

// ErrUnknownType is returned for a value whose type this build does not know,
// for example one that a newer version wrote.
var ErrUnknownType = errors.New("unknown event type")

// Message is any event. Only this package implements it.
type Message interface {
	// EventType is the event's field number in message Event.
	EventType() Type
	// fields visits every field once, in the order of their numbers; the coder
	// either writes the field or sets it.
	fields(c *coder)
}

// newMessage returns an empty event of the type.
func newMessage(t Type) Message {
	switch t {
	case TypeTrade:
		return new(Trade)
	case TypeQuote:
		return new(Quote)
	case TypeCoverage:
		return new(Coverage)
	case TypeClock:
		return new(Clock)
	case TypeSignal:
		return new(Signal)
	case TypeModelCall:
		return new(ModelCall)
	case TypeVerdict:
		return new(Verdict)
	case TypeDecision:
		return new(Decision)
	case TypeOrder:
		return new(OrderEvent)
	case TypeFill:
		return new(Fill)
	case TypePosition:
		return new(Position)
	case TypeControl:
		return new(Control)
	case TypeDead:
		return new(Dead)
	case TypeInstrument:
		return new(Instrument)
	case TypeIncarnation:
		return new(Incarnation)
	case TypeSinkPlan:
		return new(SinkPlan)
	case TypeRuleStart:
		return new(RuleStart)
	case TypeEpoch:
		return new(Epoch)
	case TypeChunk:
		return new(SnapshotChunk)
	case TypeManifest:
		return new(SnapshotManifest)
	case TypeSkip:
		return new(Skip)
	}
	return nil
}

// TypeOf returns the type of a record's value without decoding it; 0 when it is
// no event.
func TypeOf(value []byte) Type {
	if len(value) > 0 && value[0] < 0x80 {
		if value[0]&7 != byte(protowire.BytesType) {
			return 0
		}
		return Type(value[0] >> 3)
	}
	num, typ, n := protowire.ConsumeTag(value)
	if n < 0 || typ != protowire.BytesType || num > math.MaxUint8 {
		return 0
	}
	return Type(num)
}

// body returns the type and the bytes of the event's body.
func body(value []byte) (Type, []byte, error) {
	num, typ, n := protowire.ConsumeTag(value)
	if n < 0 {
		return 0, nil, fmt.Errorf("reading event: %w", protowire.ParseError(n))
	}
	if typ != protowire.BytesType || num > math.MaxUint8 {
		return 0, nil, ErrUnknownType
	}
	b, m := protowire.ConsumeBytes(value[n:])
	if m < 0 {
		return 0, nil, fmt.Errorf("reading event: %w", protowire.ParseError(m))
	}
	if n+m != len(value) {
		return 0, nil, fmt.Errorf("reading event: %d bytes after its end", len(value)-n-m)
	}
	return Type(num), b, nil
}

// Append appends the wire form of m to dst. Trade and Quote have faster forms
// of their own, AppendWire.
func Append(dst []byte, m Message) []byte {
	c := coder{buf: protowire.AppendTag(dst, protowire.Number(m.EventType()), protowire.BytesType)}
	c.nested(m.fields)
	return c.buf
}

// Marshal returns the wire form of m.
func Marshal(m Message) []byte { return Append(nil, m) }

// Decode reads a record's value. The event shares no memory with value. Fields
// it does not know are skipped; an unknown type is ErrUnknownType.
func Decode(value []byte) (Message, error) {
	t, b, err := body(value)
	if err != nil {
		return nil, err
	}
	m := newMessage(t)
	if m == nil {
		return nil, fmt.Errorf("%w %d", ErrUnknownType, t)
	}
	if err := decodeInto(b, m.fields); err != nil {
		return nil, fmt.Errorf("decoding event of type %d: %w", t, err)
	}
	return m, nil
}

// DecodeAs reads a record's value that must be of type M.
func DecodeAs[M Message](value []byte) (M, error) {
	m, err := Decode(value)
	if err != nil {
		var none M
		return none, err
	}
	typed, ok := m.(M)
	if !ok {
		return typed, fmt.Errorf("decoding event: it is a %T, want a %T", m, typed)
	}
	return typed, nil
}

// coder visits a message's fields, either appending them to buf or setting them
// from what was read.
type coder struct {
	buf     []byte
	reading bool
	read    []rawField
	err     error
}

type rawField struct {
	num   protowire.Number
	typ   protowire.Type
	n     uint64 // varint or fixed64
	bytes []byte
}

// decodeInto splits b into fields and lets visit pick them.
func decodeInto(b []byte, visit func(*coder)) error {
	var room [40]rawField
	c := coder{reading: true, read: room[:0]}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		f := rawField{num: num, typ: typ}
		switch typ {
		case protowire.VarintType:
			f.n, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			f.n, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		c.read = append(c.read, f)
	}
	visit(&c)
	return c.err
}

// each calls f with the fields of that number, all of which must be of the type.
func (c *coder) each(num protowire.Number, typ protowire.Type, visit func(rawField)) {
	for _, f := range c.read {
		if f.num != num {
			continue
		}
		if f.typ != typ {
			c.fail(fmt.Errorf("field %d has wire type %d, want %d", num, f.typ, typ))
			return
		}
		visit(f)
	}
}

// find returns the last field of that number, as Protobuf demands.
func (c *coder) find(num protowire.Number, typ protowire.Type) (last rawField, ok bool) {
	c.each(num, typ, func(f rawField) { last, ok = f, true })
	return last, ok
}

func (c *coder) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// nested writes a length-delimited message at the end of buf.
func (c *coder) nested(visit func(*coder)) {
	start := len(c.buf)
	c.buf = append(c.buf, 0) // most are shorter than 128 bytes
	visit(c)
	n := len(c.buf) - start - 1
	if n < 0x80 {
		c.buf[start] = byte(n)
		return
	}
	var size [binary.MaxVarintLen64]byte
	w := binary.PutUvarint(size[:], uint64(n))
	c.buf = append(c.buf, size[:w-1]...)
	copy(c.buf[start+w:], c.buf[start+1:start+1+n])
	copy(c.buf[start:], size[:w])
}

func (c *coder) uint(num protowire.Number, v *uint64) {
	if c.reading {
		if f, ok := c.find(num, protowire.VarintType); ok {
			*v = f.n
		}
		return
	}
	if *v != 0 {
		c.buf = protowire.AppendVarint(protowire.AppendTag(c.buf, num, protowire.VarintType), *v)
	}
}

func (c *coder) uint32(num protowire.Number, v *uint32) {
	if c.reading {
		c.each(num, protowire.VarintType, func(f rawField) {
			if f.n > math.MaxUint32 {
				c.fail(fmt.Errorf("field %d is %d, beyond 32 bits", num, f.n))
			}
			*v = uint32(f.n)
		})
		return
	}
	n := uint64(*v)
	c.uint(num, &n)
}

func (c *coder) int(num protowire.Number, v *int64) {
	n := uint64(*v)
	c.uint(num, &n)
	if c.reading {
		*v = int64(n)
	}
}

func (c *coder) int32(num protowire.Number, v *int32) {
	n := int64(*v)
	if c.int(num, &n); n > math.MaxInt32 || n < math.MinInt32 {
		c.fail(fmt.Errorf("field %d is %d, beyond 32 bits", num, n))
		return
	}
	if c.reading {
		*v = int32(n)
	}
}

func (c *coder) bool(num protowire.Number, v *bool) {
	var n uint64
	if *v {
		n = 1
	}
	c.uint(num, &n)
	if c.reading {
		*v = n != 0
	}
}

// enum reads and writes an enum; a number that this build does not know becomes
// 0, unknown.
func enum[E ~uint8](c *coder, num protowire.Number, v *E, names []string) {
	n := uint64(*v)
	if c.uint(num, &n); n >= uint64(len(names)) {
		n = 0
	}
	if c.reading {
		*v = E(n)
	}
}

func (c *coder) time(num protowire.Number, v *int64) {
	if c.reading {
		if f, ok := c.find(num, protowire.Fixed64Type); ok {
			*v = int64(f.n)
		}
		return
	}
	if *v != 0 {
		c.buf = protowire.AppendFixed64(protowire.AppendTag(c.buf, num, protowire.Fixed64Type), uint64(*v))
	}
}

func (c *coder) float(num protowire.Number, v *float64) {
	n := int64(math.Float64bits(*v))
	c.time(num, &n)
	if c.reading {
		*v = math.Float64frombits(uint64(n))
	}
}

// string reads and writes free text: valid UTF-8 of at most maxText bytes.
func (c *coder) string(num protowire.Number, v *string) {
	if c.reading {
		if f, ok := c.find(num, protowire.BytesType); ok {
			if err := checkText(f.bytes); err != nil {
				c.fail(fmt.Errorf("field %d: %w", num, err))
				return
			}
			*v = string(f.bytes)
		}
		return
	}
	if *v != "" {
		c.buf = protowire.AppendString(protowire.AppendTag(c.buf, num, protowire.BytesType), validText(*v))
	}
}

// name reads and writes what things are called: accounts, strategies, rules, venues,
// symbols. It becomes keys, labels of metrics and parts of commands, and so is
// printable UTF-8 in one line, of at most maxName bytes.
func (c *coder) name(num protowire.Number, v *string) {
	if c.reading {
		if f, ok := c.find(num, protowire.BytesType); ok {
			if err := CheckName(f.bytes); err != nil {
				c.fail(fmt.Errorf("field %d: %w", num, err))
				return
			}
			*v = string(f.bytes)
		}
		return
	}
	if *v != "" {
		c.buf = protowire.AppendString(protowire.AppendTag(c.buf, num, protowire.BytesType), validName(*v))
	}
}

func (c *coder) bytes(num protowire.Number, v *[]byte) {
	if c.reading {
		if f, ok := c.find(num, protowire.BytesType); ok {
			*v = append([]byte(nil), f.bytes...)
		}
		return
	}
	if len(*v) > 0 {
		c.buf = protowire.AppendBytes(protowire.AppendTag(c.buf, num, protowire.BytesType), *v)
	}
}

func (c *coder) id(num protowire.Number, v *ID) {
	if c.reading {
		f, ok := c.find(num, protowire.BytesType)
		if !ok {
			return
		}
		if len(f.bytes) != len(v) {
			c.fail(fmt.Errorf("field %d is an id of %d bytes, want 16", num, len(f.bytes)))
			return
		}
		copy(v[:], f.bytes)
		return
	}
	if !v.IsZero() {
		c.buf = protowire.AppendBytes(protowire.AppendTag(c.buf, num, protowire.BytesType), v[:])
	}
}

func (c *coder) strings(num protowire.Number, v *[]string) {
	if c.reading {
		c.each(num, protowire.BytesType, func(f rawField) {
			if err := checkText(f.bytes); err != nil {
				c.fail(fmt.Errorf("field %d: %w", num, err))
				return
			}
			*v = append(*v, string(f.bytes))
		})
		return
	}
	for _, s := range *v {
		c.buf = protowire.AppendString(protowire.AppendTag(c.buf, num, protowire.BytesType), validText(s))
	}
}

// message reads and writes one nested message, always present when writing.
func (c *coder) message(num protowire.Number, visit func(*coder)) {
	if c.reading {
		if f, ok := c.find(num, protowire.BytesType); ok {
			if err := decodeInto(f.bytes, visit); err != nil {
				c.fail(fmt.Errorf("field %d: %w", num, err))
			}
		}
		return
	}
	c.buf = protowire.AppendTag(c.buf, num, protowire.BytesType)
	c.nested(visit)
}

// repeated reads and writes a list of nested messages.
func repeated[T any](c *coder, num protowire.Number, v *[]T, visit func(*T, *coder)) {
	if !c.reading {
		for i := range *v {
			c.message(num, func(c *coder) { visit(&(*v)[i], c) })
		}
		return
	}
	c.each(num, protowire.BytesType, func(f rawField) {
		var t T
		if err := decodeInto(f.bytes, func(c *coder) { visit(&t, c) }); err != nil {
			c.fail(fmt.Errorf("field %d: %w", num, err))
			return
		}
		*v = append(*v, t)
	})
}

func (c *coder) decimal(num protowire.Number, v *Decimal) {
	n := NullDecimal{Decimal: *v, Valid: true}
	c.nullDecimal(num, &n)
	if c.reading {
		*v = n.Decimal
	}
}

func (c *coder) nullDecimal(num protowire.Number, v *NullDecimal) {
	if c.reading {
		*v = NullDecimal{}
		c.each(num, protowire.BytesType, func(f rawField) {
			d, err := decodeDecimal(f.bytes)
			if err != nil {
				c.fail(fmt.Errorf("field %d: %w", num, err))
			}
			*v = Some(d)
		})
		return
	}
	if v.Valid {
		c.buf = appendDecimal(c.buf, num, v.Decimal)
	}
}

// appendDecimal writes a Decimal field; its message is always shorter than 128
// bytes, so its length takes one byte.
func appendDecimal(b []byte, num protowire.Number, d Decimal) []byte {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	start := len(b)
	b = append(b, 0)
	if d.narrow() {
		if d.lo != 0 {
			b = append(b, 1<<3)
			b = protowire.AppendVarint(b, protowire.EncodeZigZag(int64(d.lo)))
		}
	}
	if d.scale != 0 {
		b = append(b, 2<<3, d.scale)
	}
	if !d.narrow() {
		m := d.mantissaBytes()
		b = append(b, 3<<3|2, 16)
		b = append(b, m[:]...)
	}
	b[start] = byte(len(b) - start - 1)
	return b
}

var errBadDecimal = errors.New("malformed decimal")

func decodeDecimal(b []byte) (Decimal, error) {
	var d Decimal
	for len(b) > 0 {
		tag := b[0]
		b = b[1:]
		switch tag {
		case 1 << 3, 2 << 3:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return Decimal{}, errBadDecimal
			}
			b = b[n:]
			if tag == 1<<3 {
				m := protowire.DecodeZigZag(v)
				d.hi, d.lo = m>>63, uint64(m)
			} else if v > MaxScale {
				return Decimal{}, errBadDecimal
			} else {
				d.scale = uint8(v)
			}
		case 3<<3 | 2:
			if len(b) < 17 || b[0] != 16 {
				return Decimal{}, errBadDecimal
			}
			d.hi, d.lo = int64(binary.BigEndian.Uint64(b[1:9])), binary.BigEndian.Uint64(b[9:17])
			b = b[17:]
		default:
			return Decimal{}, errBadDecimal
		}
	}
	if !d.narrow() && !d.fits() {
		return Decimal{}, errBadDecimal
	}
	return d, nil
}

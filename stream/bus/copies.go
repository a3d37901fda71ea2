package bus

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/autohedge/autohedge/stream/event"
)

// copyWindow is how many records back a second copy is recognised.
const copyWindow = 65_536

// copies tells second copies of one partition (design.md section 3, Copies). A
// record at offset o is one when, among the records at o-65,536 to o-1,
//
//   - for a quote with a sequence: one of the same key, channel and epoch has a
//     sequence as high or higher;
//   - for any other record with an identity: one has the same identity.
//
// Both look at the records in the log, copies or not, so that the answer depends
// on the log alone and not on where a reader began: it is enough to read back
// that many records first. Clock, state, meta and instrument records have no
// identity, nor has what does not decode; they are never copies.
type copies struct {
	window  int64
	series  seriesTable
	tails   map[uint32][]quoteStep // by series, see quote
	scratch []byte

	// numbered holds the trades with a number, others all other identities. What
	// is above every number of its series cannot be a copy; it is only noted in
	// pending and gets into numbered when a number comes that is not above.
	numbered idWindow
	others   idWindow
	pending  []idEntry // a ring once it holds window+1
	oldest   int       // where the ring begins
	base     int64     // offset that the entries of pending count from
	seed1    maphash.Seed
	seed2    maphash.Seed
}

// newCopies returns an empty memory; window is copyWindow but in tests.
func newCopies(window int64) *copies {
	return &copies{
		window: window, tails: make(map[uint32][]quoteStep), numbered: idWindow{window: window}, others: idWindow{window: window},
		seed1: maphash.MakeSeed(), seed2: maphash.MakeSeed(),
	}
}

// second reports whether the record is a second copy, and remembers it.
func (c *copies) second(offset int64, key, value []byte) bool {
	var m marketID
	t := event.TypeOf(value)
	switch t {
	case event.TypeQuote:
		if !m.scan(value, &quoteFields) {
			return false
		}
		if m.number != 0 {
			return c.quote(c.seriesOf(key, t, &m), offset, m.number)
		}
		c.scratch = append(c.scratch[:0], byte(t))
	case event.TypeTrade:
		if !m.scan(value, &tradeFields) {
			return false
		}
		if m.numeric() {
			return c.trade(offset, c.seriesOf(key, t, &m), m.number)
		}
		c.scratch = append(c.scratch[:0], byte(t))
	case event.TypeCoverage:
		// Its kind is field 1 and its channel field 2: scan takes field 1 for the
		// channel and field 2 for the number.
		if !m.scan(value, &coverageFields) {
			return false
		}
		c.scratch = append(c.scratch[:0], byte(t), byte(m.channel))
		m.channel, m.number = m.number, 0
	case event.TypeSignal, event.TypeModelCall, event.TypeVerdict, event.TypeDecision, event.TypeOrder, event.TypeFill,
		event.TypePosition, event.TypeControl, event.TypeDead:
		id, ok := derivedID(value)
		if !ok {
			return false
		}
		c.scratch = append(append(c.scratch[:0], byte(t)), id...)
		return c.other(offset)
	default:
		return false
	}
	c.scratch = m.append(c.scratch, key)
	return c.other(offset)
}

// other judges the identity in scratch by its hash.
func (c *copies) other(offset int64) bool {
	h1, h2 := c.hash()
	return c.others.second(offset, h1, h2)
}

func (c *copies) trade(offset int64, s *series, number uint64) bool {
	if number > s.number {
		s.number = number
		c.note(idEntry{h1: number, h2: s.id, at: uint32(offset)}, offset)
		return false
	}
	for range len(c.pending) {
		e := c.pending[c.oldest]
		if c.oldest++; c.oldest == len(c.pending) {
			c.oldest = 0
		}
		// The offset, from its low bits and the newest one's.
		c.numbered.second(c.base-int64(uint32(c.base)-e.at), e.h1, e.h2)
	}
	c.pending, c.oldest = c.pending[:0], 0
	return c.numbered.second(offset, number, s.id)
}

// note keeps an identity for later; what has window others after it is out of
// the window of everything that may come.
func (c *copies) note(e idEntry, offset int64) {
	c.base = offset
	if int64(len(c.pending)) <= c.window {
		c.pending = append(c.pending, e)
		return
	}
	c.pending[c.oldest] = e
	if c.oldest++; c.oldest == len(c.pending) {
		c.oldest = 0
	}
}

// marketID is what identifies a market data record within its key, the same as
// event's AppendID says it in text (a test holds them equal).
type marketID struct {
	channel    uint64
	epoch      uint32
	text       []byte
	number     uint64
	connection uint64
	ordinal    uint64
}

// numeric reports whether the id is a number, also one that is written as text.
func (m *marketID) numeric() bool {
	if len(m.text) == 0 {
		return m.number != 0
	}
	if m.text[0] == '0' || len(m.text) > 20 {
		return false
	}
	var n uint64
	for _, d := range m.text {
		hi, lo := bits.Mul64(n, 10)
		if n = lo + uint64(d-'0'); d < '0' || d > '9' || hi != 0 || n < lo {
			return false
		}
	}
	m.number = n
	return true
}

// marketFields are the numbers of the fields of an identity; 0: the record has none.
type marketFields struct{ number, text, connection, ordinal, epoch protowire.Number }

var (
	quoteFields    = marketFields{number: 2, connection: 11, ordinal: 12, epoch: 13}
	tradeFields    = marketFields{number: 2, text: 3, connection: 11, ordinal: 12, epoch: 16}
	coverageFields = marketFields{number: 2, connection: 9, ordinal: 10}
)

// scan reads the identity's fields and walks over the rest without decoding it; ok is
// false for a malformed record.
func (m *marketID) scan(value []byte, f *marketFields) (ok bool) {
	_, _, n := protowire.ConsumeTag(value)
	if n < 0 {
		return false
	}
	b, size := protowire.ConsumeBytes(value[n:])
	if size < 0 || n+size != len(value) {
		return false
	}
	for len(b) > 0 {
		num, typ, n := protowire.Number(b[0]>>3), protowire.Type(b[0]&7), 1
		if b[0] >= 0x80 {
			if num, typ, n = protowire.ConsumeTag(b); n < 0 {
				return false
			}
		}
		if num == 0 {
			return false
		}
		b = b[n:]
		switch typ {
		case protowire.Fixed64Type:
			if len(b) < 8 {
				return false
			}
			b = b[8:]
		case protowire.VarintType:
			v, n := varint(b)
			if n <= 0 {
				return false
			}
			b = b[n:]
			switch num {
			case 1:
				m.channel = v
			case f.number:
				m.number = v
			case f.connection:
				m.connection = uint64(uint32(v))
			case f.ordinal:
				m.ordinal = v
			case f.epoch:
				m.epoch = uint32(v)
			case f.text:
				return false
			}
		case protowire.BytesType:
			v, n := varint(b)
			if n <= 0 || v > uint64(len(b)-n) {
				return false
			}
			switch num {
			case f.text:
				m.text = b[n : n+int(v)]
			case 1, f.number, f.connection, f.ordinal, f.epoch:
				return false
			}
			b = b[n+int(v):]
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return false
			}
			b = b[n:]
		}
	}
	return true
}

// varint reads a number; n <= 0 is a malformed one.
func varint(b []byte) (v uint64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	return binary.Uvarint(b)
}

// append appends the identity: key and channel, then the id as event's
// AppendMarketID writes it.
func (m *marketID) append(dst, key []byte) []byte {
	dst = append(dst, key...)
	dst = append(dst, 0)
	dst = binary.AppendUvarint(dst, m.channel)
	dst = binary.AppendUvarint(dst, uint64(m.epoch))
	switch {
	case len(m.text) > 0:
		return append(dst, m.text...)
	case m.number != 0:
		return strconv.AppendUint(dst, m.number, 10)
	}
	dst = append(dst, '#')
	dst = strconv.AppendUint(dst, m.connection, 10)
	dst = append(dst, '.')
	return strconv.AppendUint(dst, m.ordinal, 10)
}

// derivedID returns field 1 of a derived event: its id of 16 bytes, which is
// written first.
func derivedID(value []byte) (id []byte, ok bool) {
	_, _, n := protowire.ConsumeTag(value)
	if n < 0 {
		return nil, false
	}
	b, size := protowire.ConsumeBytes(value[n:])
	if size < 0 || n+size != len(value) {
		return nil, false
	}
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 || num != 1 || typ != protowire.BytesType {
		return nil, false
	}
	id, n = protowire.ConsumeBytes(b[n:])
	return id, n >= 0 && len(id) == len(event.ID{})
}

// idWindow remembers the identities of the last records: two tables that cover
// a window of offsets each, the older of which is cleared as a whole when the
// newer is full.
type idWindow struct {
	window      int64
	now, before idTable
	since       int64 // offset at which now began
	started     bool
}

// second reports whether the identity occurred within the window and notes it.
// Offsets only rise.
func (w *idWindow) second(offset int64, h1 uint64, h2 uint32) bool {
	if !w.started {
		w.since, w.started = offset, true
	}
	if offset-w.since >= w.window {
		w.before, w.now = w.now, w.before
		w.now.clear()
		if offset-w.since >= 2*w.window {
			w.before.clear()
		}
		w.since = offset
	}
	low := uint32(offset)
	old := w.before.find(h1, h2)
	seen := old != nil && int64(low-old.at) <= w.window
	e, fresh := w.now.insert(h1, h2)
	e.at = low
	return seen || !fresh // everything in now is within the window
}

// idEntry is one identity, a trade's number and series or two hashes, and the
// low bits of its newest offset; h1 0 is an empty entry.
type idEntry struct {
	h1 uint64
	h2 uint32
	at uint32
}

// idTable is an open hash table with linear probing that only grows and is
// cleared as a whole.
type idTable struct {
	entries []idEntry
	count   int
}

func (t *idTable) clear() {
	clear(t.entries)
	t.count = 0
}

// slot returns where the identity is, or the empty entry where it belongs.
func (t *idTable) slot(h1 uint64, h2 uint32) *idEntry {
	mask := uint64(len(t.entries) - 1)
	// Numbers follow one another: the multiplication spreads them (2^64 by the
	// golden ratio), and its high bits choose the place.
	for i := (h1 ^ uint64(h2)<<40) * 0x9e3779b97f4a7c15 >> 32 & mask; ; i = (i + 1) & mask {
		if e := &t.entries[i]; e.h1 == 0 || (e.h1 == h1 && e.h2 == h2) {
			return e
		}
	}
}

func (t *idTable) find(h1 uint64, h2 uint32) *idEntry {
	if t.count == 0 {
		return nil
	}
	if e := t.slot(h1, h2); e.h1 != 0 {
		return e
	}
	return nil
}

func (t *idTable) insert(h1 uint64, h2 uint32) (e *idEntry, fresh bool) {
	if 2*t.count >= len(t.entries) {
		old := t.entries
		t.entries = make([]idEntry, max(256, 2*len(old)))
		for _, e := range old {
			if e.h1 != 0 {
				*t.slot(e.h1, e.h2) = e
			}
		}
	}
	if e = t.slot(h1, h2); e.h1 == 0 {
		t.count++
		e.h1, e.h2 = h1, h2
		return e, true
	}
	return e, false
}

package bus

import (
	"encoding/binary"
	"hash/maphash"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/autohedge/autohedge/stream/event"
)

// copyWindow is how many records back a second copy is recognised.
const copyWindow = 65_536

// copies tells second copies of one partition (design.md section 3, Copies). A
// record at offset o is one when, among the records at o-65,536 to o-1,
//
//   - for a quote with a sequence: one of the same key and channel has a sequence
//     as high or higher;
//   - for any other record with an identity: one has the same identity.
//
// Both look at the records in the log, copies or not, so that the answer depends
// on the log alone and not on where a reader began: it is enough to read back
// that many records first. Clock, state, meta and instrument records have no
// identity, nor has what does not decode; they are never copies.
type copies struct {
	window  int64
	ids     idWindow
	quotes  map[string]*quoteWindow
	scratch []byte
}

// newCopies returns an empty memory; window is copyWindow but in tests.
func newCopies(window int64) *copies {
	return &copies{
		window: window, quotes: make(map[string]*quoteWindow),
		ids: idWindow{window: window, seed1: maphash.MakeSeed(), seed2: maphash.MakeSeed()},
	}
}

// second reports whether the record is a second copy, and remembers it.
func (c *copies) second(offset int64, key, value []byte) bool {
	var m marketID
	switch t := event.TypeOf(value); t {
	case event.TypeQuote:
		if !m.scan(value, 2, 0, 11, 12) {
			return false
		}
		if m.number != 0 {
			return c.quote(key, m.channel).second(c.window, offset, m.number)
		}
		c.scratch = append(c.scratch[:0], byte(t))
	case event.TypeTrade:
		if !m.scan(value, 2, 3, 11, 12) {
			return false
		}
		c.scratch = append(c.scratch[:0], byte(t))
	case event.TypeCoverage:
		// Its kind is field 1 and its channel field 2: scan takes field 1 for the
		// channel and field 2 for the number.
		if !m.scan(value, 2, 0, 9, 10) {
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
		return c.ids.second(offset, c.scratch)
	default:
		return false
	}
	c.scratch = m.append(c.scratch, key)
	return c.ids.second(offset, c.scratch)
}

func (c *copies) quote(key []byte, channel uint64) *quoteWindow {
	// The channel goes behind the key, which makes one map look-up of it.
	c.scratch = append(binary.AppendUvarint(append(c.scratch[:0], key...), channel), 0)
	w := c.quotes[string(c.scratch)]
	if w == nil {
		w = &quoteWindow{at: -c.window - 1}
		c.quotes[string(c.scratch)] = w
	}
	return w
}

// marketID is what identifies a market data record within its key, the same as
// event's AppendID says it in text (a test holds them equal).
type marketID struct {
	channel    uint64
	text       []byte
	number     uint64
	connection uint64
	ordinal    uint64
}

// scan reads the identity's fields, by their numbers (0: has none), and walks
// over the rest without decoding it; ok is false for a malformed record.
func (m *marketID) scan(value []byte, number, text, connection, ordinal protowire.Number) (ok bool) {
	_, _, n := protowire.ConsumeTag(value)
	if n < 0 {
		return false
	}
	b, size := protowire.ConsumeBytes(value[n:])
	if size < 0 || n+size != len(value) {
		return false
	}
	for len(b) > 0 {
		num, typ := protowire.Number(b[0]>>3), protowire.Type(b[0]&7)
		n := 1
		if b[0] >= 0x80 {
			if num, typ, n = protowire.ConsumeTag(b); n < 0 {
				return false
			}
		}
		b = b[n:]
		switch typ {
		case protowire.Fixed64Type:
			if len(b) < 8 {
				return false
			}
			b = b[8:]
		case protowire.VarintType:
			var v uint64
			if len(b) > 0 && b[0] < 0x80 {
				v, n = uint64(b[0]), 1
			} else if v, n = protowire.ConsumeVarint(b); n < 0 {
				return false
			}
			b = b[n:]
			if num == text && text != 0 {
				return false
			}
			switch num {
			case 1:
				m.channel = v
			case number:
				m.number = v
			case connection:
				m.connection = uint64(uint32(v)) //nolint:gosec // as the decoder reads it
			case ordinal:
				m.ordinal = v
			}
		case protowire.BytesType:
			field, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return false
			}
			b = b[n:]
			switch num {
			case text:
				m.text = field
			case 1, number, connection, ordinal:
				return false
			}
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

// append appends the identity: key and channel, then the id as event's
// AppendMarketID writes it.
func (m *marketID) append(dst, key []byte) []byte {
	dst = append(dst, key...)
	dst = append(dst, 0)
	dst = binary.AppendUvarint(dst, m.channel)
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

// quoteWindow holds what it takes to know the highest sequence of one key and
// channel within the window: the highest, and, where copies came after it, the
// falling steps behind it.
type quoteWindow struct {
	seq  uint64
	at   int64
	tail []quoteStep // falling sequences at rising offsets
}

type quoteStep struct {
	seq uint64
	at  int64
}

func (w *quoteWindow) second(window, offset int64, seq uint64) bool {
	for w.at < offset-window && len(w.tail) > 0 {
		w.seq, w.at = w.tail[0].seq, w.tail[0].at
		w.tail = w.tail[:copy(w.tail, w.tail[1:])]
	}
	if w.at < offset-window || seq > w.seq {
		w.seq, w.at, w.tail = seq, offset, w.tail[:0]
		return false
	}
	if seq == w.seq {
		w.at, w.tail = offset, w.tail[:0]
		return true
	}
	n := len(w.tail)
	for n > 0 && w.tail[n-1].seq <= seq {
		n--
	}
	w.tail = append(w.tail[:n], quoteStep{seq, offset})
	return true
}

// idWindow remembers the identities of the last records: two tables that cover
// a window of offsets each, the older of which is cleared as a whole when the
// newer is full. An identity is kept as 95 bits of two hashes with random seeds:
// a false match has a chance of 2^-79 a record.
type idWindow struct {
	window       int64
	seed1, seed2 maphash.Seed
	now, before  idTable
	since        int64 // offset at which now began
	started      bool
}

// second reports whether the identity occurred within the window and notes it.
func (w *idWindow) second(offset int64, id []byte) bool {
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
	h1, h2 := maphash.Bytes(w.seed1, id)|1, uint32(maphash.Bytes(w.seed2, id)) //nolint:gosec // a part of the hash
	low := uint32(offset)                                                      //nolint:gosec // the low bits tell offsets of a window apart
	old := w.before.find(h1, h2)
	seen := old != nil && int64(low-old.at) <= w.window
	e, fresh := w.now.insert(h1, h2)
	e.at = low
	return seen || !fresh // everything in now is within the window
}

// idEntry is one identity and the low bits of its newest offset; h1 0 is an
// empty entry.
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
	mask := uint64(len(t.entries) - 1) //nolint:gosec // a length
	// The low bit of h1 is always set: the bits above choose the place.
	for i := h1 >> 1 & mask; ; i = (i + 1) & mask {
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

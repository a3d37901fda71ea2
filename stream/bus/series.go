package bus

import (
	"encoding/binary"
	"hash/maphash"

	"github.com/autohedge/autohedge/stream/event"
)

// series is one channel of one key in one epoch, as copies remembers it. It is small and lies
// in its table itself, so that finding one among 100,000 costs one cache line.
type series struct {
	h1     uint64 // with h2 its identity; 0 is an empty entry
	h2     uint32
	id     uint32
	number uint64 // the highest trade's, or the highest quote's sequence
	at     int64  // offset of that quote
}

// seriesTable is an open hash table with linear probing that only grows. What
// tells its entries apart are 95 bits with random seeds, as for other identities.
type seriesTable struct {
	entries []series
	count   int
}

// find returns the entry of the identity, a new one where there is none. It is
// valid until the next call.
func (t *seriesTable) find(h1 uint64, h2 uint32) *series {
	if 2*t.count >= len(t.entries) {
		old := t.entries
		t.entries = make([]series, max(64, 2*len(old)))
		for i := range old {
			if old[i].h1 != 0 {
				*t.slot(old[i].h1, old[i].h2) = old[i]
			}
		}
	}
	s := t.slot(h1, h2)
	if s.h1 == 0 {
		s.h1, s.h2, s.id = h1, h2, uint32(t.count)
		t.count++
	}
	return s
}

func (t *seriesTable) slot(h1 uint64, h2 uint32) *series {
	mask := uint64(len(t.entries) - 1)
	for i := h1 >> 1 & mask; ; i = (i + 1) & mask { // the lowest bit is always set
		if s := &t.entries[i]; s.h1 == 0 || (s.h1 == h1 && s.h2 == h2) {
			return s
		}
	}
}

func (c *copies) seriesOf(key []byte, t event.Type, m *marketID) *series {
	c.scratch = binary.AppendUvarint(append(append(c.scratch[:0], byte(t)), key...), m.channel)
	if m.epoch != 0 {
		c.scratch = binary.BigEndian.AppendUint32(c.scratch, m.epoch)
	}
	return c.series.find(c.hash())
}

// hash is 95 bits of what is in scratch: a false match among a window's records
// has a chance of 2^-79.
func (c *copies) hash() (h1 uint64, h2 uint32) {
	return maphash.Bytes(c.seed1, c.scratch) | 1, uint32(maphash.Bytes(c.seed2, c.scratch))
}

// quoteStep is a quote that came after a higher one.
type quoteStep struct {
	seq uint64
	at  int64
}

// quote tells whether a sequence as high or higher of the series lies within the
// window. What that takes is the highest, and, where copies came after it, the
// falling steps behind it, at rising offsets: few series ever have any.
func (c *copies) quote(s *series, offset int64, seq uint64) bool {
	tail := c.tails[s.id]
	if tail != nil {
		for s.at < offset-c.window && len(tail) > 0 {
			s.number, s.at = tail[0].seq, tail[0].at
			tail = tail[:copy(tail, tail[1:])]
		}
	}
	switch {
	case s.at < offset-c.window || seq > s.number:
		s.number, s.at, tail = seq, offset, tail[:0]
		c.keepTail(s.id, tail)
		return false
	case seq == s.number:
		s.at, tail = offset, tail[:0]
		c.keepTail(s.id, tail)
		return true
	}
	n := len(tail)
	for n > 0 && tail[n-1].seq <= seq {
		n--
	}
	c.keepTail(s.id, append(tail[:n], quoteStep{seq, offset}))
	return true
}

// keepTail stores the steps; a series without any takes no memory for them.
func (c *copies) keepTail(id uint32, tail []quoteStep) {
	switch {
	case len(tail) > 0:
		c.tails[id] = tail
	case tail != nil:
		delete(c.tails, id)
	}
}

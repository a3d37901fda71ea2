package bus

import (
	"encoding/binary"

	"github.com/autohedge/autohedge/stream/event"
)

// maxConflated bounds the keys and channels that one partition conflates at a
// time, and the keys that it counts by name: the memory of conflation. What goes
// beyond is queued as it comes, or counted under the empty key.
const maxConflated = 1 << 15

// conflation knows the newest record of each key and channel among those that
// wait in a lane. It is only kept while the queue is under pressure.
type conflation struct {
	on       bool
	newest   map[string]*place
	id       []byte // scratch
	counts   map[string]*uint64
	replaced []func(int64, error) // what replaced records are to be told through
}

// place is a record of a batch that waits.
type place struct {
	b    *batch
	life uint32 // of b, which is used again and again
	i    int32
	size int32 // what it counts for in the queue
}

// waits reports whether the record can still be taken out.
func (at place) waits() bool { return at.b != nil && at.b.life == at.life && at.b.waiting }

// hasChannel reports whether records of the type can be conflated.
func hasChannel(t event.Type) bool { return t == event.TypeQuote }

// identify puts the key and channel of a record into id.
func (c *conflation) identify(key, value []byte) bool {
	if !hasChannel(event.TypeOf(value)) {
		return false
	}
	var m marketID
	if !m.scan(value, &quoteFields) {
		return false
	}
	c.id = binary.AppendUvarint(append(c.id[:0], key...), m.channel)
	return true
}

// press begins to conflate: it looks through what waits. l.mu is held.
func (l *lane) press() {
	c := &l.conflation
	if c.on || !l.conflates {
		return
	}
	c.on = true
	if c.newest == nil {
		c.newest, c.counts = make(map[string]*place), make(map[string]*uint64)
	}
	for _, b := range l.sealed {
		l.conflateAll(b)
	}
	l.conflateAll(l.open)
	for _, b := range l.sealed {
		l.compact(b)
	}
	if l.open != nil {
		l.compact(l.open)
	}
}

// relax ends it.
func (c *conflation) relax() {
	c.on = false
	clear(c.newest)
}

// conflateAll notes the records of a batch that was filled before.
func (l *lane) conflateAll(b *batch) {
	if b == nil || b.stored {
		return
	}
	rest := b.buf[sizePrefix+batchHeadSize:]
	var r rawRecord
	for i := range b.count {
		next, err := parseRecord(rest, &r)
		if err != nil {
			return // not reachable: add wrote it
		}
		if !b.isDead(i) && l.policyOf(r.value) == Conflate {
			l.replace(r.key, r.value, place{b: b, life: b.life, i: i, size: int32(recordSize(r.key, r.value))}, false)
		}
		rest = next
	}
}

// replace notes the newest record of a key and channel and takes the one before
// out of the queue. l.mu is held.
func (l *lane) replace(key, value []byte, at place, compact bool) {
	c := &l.conflation
	if !c.identify(key, value) {
		return
	}
	known := c.newest[string(c.id)]
	if known == nil {
		if len(c.newest) < maxConflated {
			fresh := at
			c.newest[string(c.id)] = &fresh
		}
		return
	}
	before := *known
	*known = at
	if !before.waits() {
		return
	}
	b := before.b
	if done := b.kill(before.i, int(before.size)); done != nil {
		c.replaced = append(c.replaced, done)
	}
	l.p.dead.Add(int64(before.size))
	l.conflated.Inc()
	c.count(key)
	if compact && 2*b.deadBytes >= b.queued {
		l.compact(b)
	}
}

// takeReplaced returns what was taken out since, to be told without l.mu held.
func (l *lane) takeReplaced() []func(int64, error) {
	replaced := l.conflation.replaced
	l.conflation.replaced = nil
	return replaced
}

func tellReplaced(replaced []func(int64, error)) {
	for _, done := range replaced {
		done(-1, ErrConflated)
	}
}

func (c *conflation) count(key []byte) {
	n := c.counts[string(key)]
	if n == nil {
		if len(c.counts) >= maxConflated {
			key = nil
		}
		if n = c.counts[string(key)]; n == nil {
			n = new(uint64)
			c.counts[string(key)] = n
		}
	}
	*n++
}

// compact takes the replaced records out of a batch that waits. l.mu is held.
func (l *lane) compact(b *batch) {
	if b.deadCount == 0 {
		return
	}
	c := &l.conflation
	freed := b.compact(func(r *rawRecord, from, to int32) {
		if !c.on || !c.identify(r.key, r.value) {
			return
		}
		if at := c.newest[string(c.id)]; at != nil && at.b == b && at.life == b.life && at.i == from {
			at.i = to
		}
	})
	l.p.dead.Add(-int64(freed))
	l.p.release(int64(freed))
}

// squeeze takes replaced records out of all that waits, and reports whether that
// made room worth the while.
func (p *Producer) squeeze() bool {
	if p.dead.Load() == 0 || p.dead.Load() < p.limit/16 {
		return false
	}
	for _, l := range p.all {
		l.mu.Lock()
		for _, b := range l.sealed {
			l.compact(b)
		}
		if l.open != nil {
			l.compact(l.open)
		}
		l.mu.Unlock()
	}
	return true
}

// Conflated returns how many records were replaced by newer ones, by record key;
// the empty key stands for those beyond the first 32,768 of a partition.
func (p *Producer) Conflated() map[string]uint64 {
	all := make(map[string]uint64)
	for _, l := range p.all {
		l.mu.Lock()
		for key, n := range l.conflation.counts {
			all[key] += *n
		}
		l.mu.Unlock()
	}
	return all
}

// kill marks a record as replaced; its bytes stay until compact.
func (b *batch) kill(i int32, size int) (done func(int64, error)) {
	for len(b.dead) <= int(i>>6) {
		b.dead = append(b.dead, 0)
	}
	b.dead[i>>6] |= 1 << (i & 63)
	b.deadCount++
	b.deadBytes += size
	done, b.done[i] = b.done[i], nil
	return done
}

func (b *batch) isDead(i int32) bool {
	return int(i>>6) < len(b.dead) && b.dead[i>>6]&(1<<(i&63)) != 0
}

// compact removes the marked records in place, so that the others are numbered
// without holes, and returns the bytes that they counted for in the queue; moved
// is told where each that stays was and is.
func (b *batch) compact(moved func(r *rawRecord, from, to int32)) (freed int) {
	rest := b.buf[sizePrefix+batchHeadSize:]
	// A record is never longer at a lower number, so writing stays behind reading.
	out := b.buf[:sizePrefix+batchHeadSize]
	var r rawRecord
	to := int32(0)
	for from := range b.count {
		next, err := parseRecord(rest, &r)
		if err != nil {
			break // not reachable: add wrote it
		}
		rest = next
		if b.isDead(from) {
			continue
		}
		at := len(out)
		out = appendRecord(out, to, r.key, r.value)
		if _, err := parseRecord(out[at:], &r); err == nil {
			moved(&r, from, to)
		}
		b.done[to] = b.done[from]
		to++
	}
	freed = b.deadBytes
	b.buf = out
	clear(b.done[to:])
	b.done = b.done[:to]
	b.queued -= freed
	b.count, b.deadCount, b.deadBytes = to, 0, 0
	clear(b.dead)
	return freed
}

package bus

import (
	"errors"
	"fmt"
	"time"

	"github.com/autohedge/autohedge/stream/component"
)

// tailBytes is how much of what may be conflated gathers behind the spilled
// records of a lane before it is written too.
const tailBytes = 64 << 10

// A lane spills from the moment it is told to (toFiles) until the sender has read
// all of its files. The order is: what is being sent, the halves of a batch that
// was split, the files, the open batch. What is being sent, and the halves, may
// be in the files already (batch.stored): their acknowledgement moves the mark up
// to where they end there, and nothing of them is written a second time.

// spillOpen writes the open batch behind the spilled records. l.mu is held.
func (l *lane) spillOpen() error {
	b := l.open
	if b == nil || b.count == 0 {
		return nil
	}
	l.compact(b)
	if b.count > 0 {
		if err := l.spillBatch(b); err != nil {
			return err
		}
	}
	l.recycle(b)
	l.open = nil
	return nil
}

// spillBatch writes a batch that waits, and takes its memory out of the queue.
func (l *lane) spillBatch(b *batch) error {
	grown := l.spill.dones.growth(b.done)
	if !l.p.admitCallbacks(grown) {
		return l.p.fullCallbacks()
	}
	if err := l.spill.write(b); err != nil {
		l.p.callbacks.Add(-grown)
		return err
	}
	for _, done := range b.done {
		l.spill.dones.add(done, 1)
	}
	l.spill.unread += int64(b.count)
	l.spilledRecords.Add(float64(b.count))
	l.spilledBytes.Add(float64(len(b.buf) - sizePrefix - batchHeadSize))
	l.p.release(int64(b.queued))
	return nil
}

// toFiles moves everything of the lane that is not acknowledged to the files, all
// or nothing, and makes the records to come follow it there. l.mu is held.
func (l *lane) toFiles() error {
	g := l.spill
	if l.spilling {
		return l.spillOpen()
	}
	from, last := g.end(), g.last
	move := make([]*batch, 0, len(l.sealed)+1)
	for _, b := range append(l.sealed[:len(l.sealed):len(l.sealed)], l.open) {
		if b != nil && !b.stored && b.count > 0 {
			l.compact(b)
			if b.count > 0 {
				move = append(move, b)
			}
		}
	}
	b := l.flying
	write := b != nil && !b.stored
	if !write && len(move) == 0 {
		return nil
	}
	if write {
		if err := g.write(b); err != nil {
			g.cut(from, last)
			return err
		}
	}
	grown := int64(0)
	for _, b := range move {
		grown += g.dones.growth(b.done) // from above, for the batches follow each other
	}
	if !l.p.admitCallbacks(grown) {
		g.cut(from, last)
		return l.p.fullCallbacks()
	}
	g.read = g.end()
	sent := g.read
	for _, b := range move {
		if err := g.write(b); err != nil {
			l.p.callbacks.Add(-grown)
			g.cut(from, last)
			return err
		}
	}
	// Now nothing can fail.
	if write {
		b.stored, b.end = true, sent
	}
	freed := int64(0)
	for _, b := range move {
		for _, done := range b.done {
			grown -= g.dones.add(done, 1)
		}
		g.unread += int64(b.count)
		l.spilledRecords.Add(float64(b.count))
		l.spilledBytes.Add(float64(len(b.buf) - sizePrefix - batchHeadSize))
		freed += int64(b.queued)
	}
	kept := l.sealed[:0]
	for _, b := range l.sealed {
		if b.stored {
			kept = append(kept, b)
		} else {
			l.recycle(b)
		}
	}
	clear(l.sealed[len(kept):])
	l.sealed = kept
	if l.open != nil {
		l.recycle(l.open)
		l.open = nil
	}
	l.spilling = len(move) > 0
	l.p.callbacks.Add(-grown)
	l.p.release(freed)
	l.cond.Broadcast()
	return nil
}

// recycle keeps a batch that nobody uses any more for the next take.
func (l *lane) recycle(b *batch) {
	b.reset()
	if len(l.free) < 2 {
		l.free = append(l.free, b)
	}
}

// spillAll moves what waits in memory to the files.
func (p *Producer) spillAll() error {
	var first error
	for _, l := range p.all {
		l.mu.Lock()
		var err error
		if l.started && !l.stopped {
			err = l.toFiles()
		}
		l.mu.Unlock()
		if err != nil && first == nil {
			first = err
		}
	}
	return first
}

// putSpilled takes one record behind the spilled ones; charged says that its size
// is in the queue. l.mu is held.
func (l *lane) putSpilled(key, value []byte, size int, charged bool, done func(int64, error)) error {
	if !l.spilling {
		if err := l.toFiles(); err != nil {
			return err
		}
		l.spilling = true
	}
	if l.open != nil && !l.open.fits(size, l.p.batchMax) {
		if err := l.spillOpen(); err != nil {
			return err
		}
	}
	if l.open == nil {
		l.open = l.take()
	}
	b := l.open
	if b.count == 0 {
		b.time = time.Now().UnixMilli()
	}
	if !charged {
		size = 0
	}
	l.compact(b)
	had, last := len(b.buf), b.last
	b.add(key, value, done)
	l.appended++
	b.last = l.appended
	b.queued += size
	if charged && l.conflates && l.policyOf(value) == Conflate {
		l.press()
		l.replace(key, value, place{b: b, life: b.life, i: b.count - 1, size: int32(size)}, true)
		if len(b.buf) >= tailBytes {
			_ = l.spillOpen() // what cannot be written stays in memory, within the bound
		}
		l.cond.Broadcast() // the sender may have read all there is
		return nil
	}
	// A record that may not be dropped is in the file when Append returns.
	if err := l.spillOpen(); err != nil {
		b.undo(had)
		b.last = last
		b.queued -= size
		l.appended--
		return err
	}
	l.cond.Broadcast()
	return nil
}

// undo takes the last record off again; had is the length before it.
func (b *batch) undo(had int) {
	b.buf = b.buf[:had]
	b.count--
	b.done[b.count] = nil
	b.done = b.done[:b.count]
}

// errSpillRead stops a producer whose spilled records cannot be read any more.
var errSpillRead = errors.New("spilled records cannot be read back")

// unspill takes the next of the spilled records into memory; nil when there are
// none or the producer has stopped. l.mu is held but while it reads.
func (l *lane) unspill() *batch {
	g := l.spill
	if g.unread == 0 {
		l.spilling = false
		return nil
	}
	seg, from, to := g.reading()
	if seg == nil || from >= to {
		l.mu.Unlock()
		l.p.fail(component.Fatal(fmt.Errorf("%w: %d of %s/%d are not where they were written", errSpillRead, g.unread, l.topic, l.partition)))
		l.mu.Lock()
		return nil
	}
	b := l.take()
	b.waiting = false
	l.mu.Unlock()
	r, err := l.readBack(b, seg, from, to)
	if err != nil {
		l.p.fail(component.Fatal(fmt.Errorf("%w: %s at offset %d, of %s/%d: %w; start again: what is whole is appended, the rest is reported",
			errSpillRead, seg.path, r.at, l.topic, l.partition, err)))
	}
	l.mu.Lock()
	if err != nil || !r.room {
		return nil
	}
	shrunk := int64(0)
	for i := range b.done {
		var n int64
		b.done[i], n = g.dones.take()
		shrunk += n
	}
	g.read = spillPos{file: seg.n, off: r.at, number: r.number}
	g.unread -= int64(b.count)
	b.stored, b.end, b.last = true, g.read, r.last
	b.queued = r.queued
	l.p.callbacks.Add(-shrunk)
	l.unspilled.Add(float64(b.count))
	return b
}

// backRead is what readBack did.
type backRead struct {
	at     int64 // where it ended
	number uint64
	last   uint64
	queued int
	room   bool
}

// readBack reads blocks into an empty batch: as many as a batch takes and memory
// has room for. Of the sending goroutine, without l.mu.
func (l *lane) readBack(b *batch, seg *segment, from, to int64) (r backRead, err error) {
	r.at = from
	chunk := min(to-from, int64(blockHeadSize+l.p.batchMax))
	for {
		if int64(cap(l.back)) < chunk {
			l.back = make([]byte, chunk)
		}
		l.back = l.back[:chunk]
		if _, err := seg.file.ReadAt(l.back, from); err != nil {
			return r, err
		}
		var h block
		if parseBlockHead(l.back, &h) && int64(blockHeadSize+h.length) > chunk && int64(blockHeadSize+h.length) <= to-from {
			chunk = int64(blockHeadSize + h.length) // larger than batches are now
			continue
		}
		break
	}
	data := l.back
	for len(data) > 0 {
		var h block
		if whole := parseBlockHead(data, &h) && len(data) >= blockHeadSize+h.length; !whole && b.count > 0 {
			break // the rest of it was not read
		}
		records, ok := parseBlock(data, l.spill.seed, &h)
		if !ok {
			if b.count > 0 {
				break // what is whole goes first
			}
			return r, errors.New("a block's checksum or form is wrong")
		}
		if b.count > 0 && (len(b.buf)+len(records) > l.p.batchMax || r.queued+len(records) > l.p.batchMax || h.time-b.time > 1000) {
			break
		}
		var rec rawRecord
		if b.count == 0 {
			b.time = h.time
		}
		for rest := records; len(rest) > 0; {
			if rest, err = parseRecord(rest, &rec); err != nil {
				return r, err
			}
			b.add(rec.key, rec.value, nil)
			r.queued += recordSize(rec.key, rec.value)
		}
		data = data[blockHeadSize+len(records):]
		r.at += int64(blockHeadSize + len(records))
		r.number, r.last = h.end(), h.last
	}
	r.room = l.p.reserve(int64(r.queued))
	return r, nil
}

// reserve waits for room for records that come back from the files; false when
// the producer has stopped.
func (p *Producer) reserve(size int64) bool {
	for !p.admit(size, p.limit) {
		// Lanes that cannot send keep what they can in the files.
		if err := p.spillAll(); err == nil && p.admit(size, p.limit) {
			return true
		}
		p.mu.Lock()
		p.waiting++
		if p.queued.Load() > 0 && p.queued.Load()+size > p.limit && p.ctx.Err() == nil {
			p.room.Wait()
		}
		p.waiting--
		p.mu.Unlock()
		if p.ctx.Err() != nil {
			return false
		}
	}
	return true
}

// keepSpilled tells the spilled records that the next start appends them, after
// the sender has ended. l.mu is held on entry and not on return.
func (l *lane) keepSpilled(cause error) {
	g := l.spill
	n := int64(0)
	if g != nil {
		n, g.unread = g.unread, 0
	}
	l.settled = max(l.settled, l.appended)
	l.cond.Broadcast()
	l.mu.Unlock()
	err := fmt.Errorf("%w: %w", ErrKept, cause)
	shrunk := int64(0)
	for range n {
		done, m := g.dones.take()
		shrunk += m
		if done != nil {
			done(-1, err)
		}
	}
	l.p.callbacks.Add(-shrunk)
}

// admitCallbacks counts what the callbacks of spilled records take in memory.
func (p *Producer) admitCallbacks(size int64) bool {
	if size == 0 || p.callbacks.Add(size) <= max(callbackBytes, p.limit/4) {
		return true
	}
	p.callbacks.Add(-size)
	return false
}

func (p *Producer) fullCallbacks() error {
	return &FullError{What: "callbacks", Bytes: p.callbacks.Load(), Limit: max(callbackBytes, p.limit/4)}
}

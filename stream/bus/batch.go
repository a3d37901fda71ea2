package bus

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"github.com/segmentio/kafka-go/compress"
)

const (
	// sizePrefix is the size in front of a batch, which kafka-go's RawRecordSet
	// expects of its user.
	sizePrefix = 4
	// maxBatch bounds a batch, its head included: below the 1,048,588 bytes that
	// a broker takes by default.
	maxBatch = 1_000_000
	// recordOverhead is the most that a record takes beyond key and value.
	recordOverhead = 26
)

// batch is one record batch being filled or sent. Its memory is reused.
type batch struct {
	// buf is the size prefix, the head (filled in by seal) and the records.
	buf []byte
	// packed is buf's compressed twin, where compression is on.
	packed bytes.Buffer
	count  int32
	time   int64 // Unix milliseconds, of all its records
	queued int   // bytes it counts for in the queue
	done   []func(int64, error)
	sent   bool // at least one attempt was made

	life    uint32 // how often it was reset
	waiting bool   // in the lane's queue: records may be taken out
	last    uint64 // position in the lane of its last record; 0 where a batch was split
	// Replaced records (conflate.go).
	dead      []uint64 // bits by number
	deadCount int32
	deadBytes int
	// stored says that the records are in the spill; end is where they end there,
	// zero where a batch was split.
	stored bool
	end    spillPos
}

func (b *batch) reset() {
	if cap(b.buf) < sizePrefix+batchHeadSize {
		b.buf = make([]byte, sizePrefix+batchHeadSize, 16<<10)
	}
	b.buf = b.buf[:sizePrefix+batchHeadSize]
	b.count, b.queued, b.sent = 0, 0, false
	b.life++
	b.waiting, b.last, b.stored, b.end = false, 0, false, spillPos{}
	b.dead, b.deadCount, b.deadBytes = b.dead[:0], 0, 0
	clear(b.done)
	b.done = b.done[:0]
}

// recordSize is how much a record adds to a batch at most.
func recordSize(key, value []byte) int { return len(key) + len(value) + recordOverhead }

// fits reports whether a record of that size has room within so many bytes.
func (b *batch) fits(size, most int) bool { return b.count == 0 || len(b.buf)-sizePrefix+size <= most }

// add appends one record. A nil key or value stays nil (a nil value is a
// tombstone in a compacted topic).
func (b *batch) add(key, value []byte, done func(int64, error)) {
	b.buf = appendRecord(b.buf, b.count, key, value)
	b.done = append(b.done, done)
	b.count++
}

// appendRecord appends the i-th record of a batch.
func appendRecord(buf []byte, i int32, key, value []byte) []byte {
	n := 1 + 1 + zigzagLen(int64(i)) + sizedLen(key) + sizedLen(value) + 1
	buf = appendZigzag(buf, int64(n))
	buf = append(buf, 0, 0) // attributes; time delta: all records have the batch's
	buf = appendZigzag(buf, int64(i))
	buf = appendSized(buf, key)
	buf = appendSized(buf, value)
	return append(buf, 0) // no headers
}

// seal fills in the head and returns the bytes to send, size prefix included.
// They stay the same for every attempt.
func (b *batch) seal(codec compress.Codec, producerID int64, epoch int16, sequence int32) ([]byte, error) {
	out := b.buf
	var attrs uint16
	if codec != nil {
		b.packed.Reset()
		b.packed.Write(b.buf[:sizePrefix+batchHeadSize])
		w := codec.NewWriter(&b.packed)
		_, err := w.Write(b.buf[sizePrefix+batchHeadSize:])
		if cerr := w.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return nil, err
		}
		if b.packed.Len() < len(b.buf) {
			out = b.packed.Bytes()
			attrs = uint16(codec.Code())
		}
	}
	be := binary.BigEndian
	be.PutUint32(out, uint32(len(out)-sizePrefix))
	h := out[sizePrefix:]
	be.PutUint64(h[baseOffsetAt:], 0)
	be.PutUint32(h[lengthAt:], uint32(len(h)-lengthAt-4))
	be.PutUint32(h[lengthAt+4:], 0xffffffff) // leader epoch: unknown
	h[magicAt] = 2
	be.PutUint16(h[attrsAt:], attrs)
	be.PutUint32(h[lastDeltaAt:], uint32(b.count-1))
	be.PutUint64(h[firstTimeAt:], uint64(b.time))
	be.PutUint64(h[maxTimeAt:], uint64(b.time))
	be.PutUint64(h[producerIDAt:], uint64(producerID))
	be.PutUint16(h[epochAt:], uint16(epoch))
	be.PutUint32(h[sequenceAt:], uint32(sequence))
	be.PutUint32(h[countAt:], uint32(b.count))
	be.PutUint32(h[crcAt:], crc32.Checksum(h[attrsAt:], castagnoli))
	return out, nil
}

// split moves the second half of the records into a batch of its own, for a
// broker whose limit is below ours. It is only called before a sequence number
// was used up: a refused batch consumes none.
func (b *batch) split(into *batch) {
	into.reset()
	into.time = b.time
	half := b.count / 2
	rest := b.buf[sizePrefix+batchHeadSize:]
	at := len(b.buf)
	var r rawRecord
	for i := range b.count {
		if i == half {
			at = len(b.buf) - len(rest)
		}
		next, err := parseRecord(rest, &r)
		if err != nil {
			break // not reachable: add wrote it
		}
		if i >= half {
			into.add(r.key, r.value, b.done[i])
		}
		rest = next
	}
	moved := int64(b.queued) * int64(len(b.buf)-at) / int64(len(b.buf)-sizePrefix-batchHeadSize)
	into.queued = int(moved)
	b.queued -= into.queued
	// Only the second half tells how far the lane and the spill have come.
	into.last, into.stored, into.end = b.last, b.stored, b.end
	b.last, b.end = 0, spillPos{}
	b.buf = b.buf[:at]
	b.count = half
	clear(b.done[half:])
	b.done = b.done[:half]
}

func zigzagLen(v int64) int {
	u := uint64(v)<<1 ^ uint64(v>>63)
	n := 1
	for u >= 0x80 {
		u >>= 7
		n++
	}
	return n
}

func sizedLen(field []byte) int {
	if field == nil {
		return 1
	}
	return zigzagLen(int64(len(field))) + len(field)
}

func appendZigzag(b []byte, v int64) []byte {
	u := uint64(v)<<1 ^ uint64(v>>63)
	for u >= 0x80 {
		b = append(b, byte(u)|0x80)
		u >>= 7
	}
	return append(b, byte(u))
}

func appendSized(b, field []byte) []byte {
	if field == nil {
		return append(b, 1) // -1
	}
	return append(appendZigzag(b, int64(len(field))), field...)
}

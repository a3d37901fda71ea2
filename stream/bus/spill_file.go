package bus

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/autohedge/autohedge/stream/event"
)

// A spill file is a head and blocks, all numbers big-endian:
//
//	head   "AHSPILL1", incarnation of the topic (16), partition u32, topic's
//	       length u16, topic, CRC32C u32 of all this
//	mark   up to where the blocks are acknowledged u64, number of the first
//	       record after it u64, CRC32C u32: it alone is written again and again
//	block  "AHSB", length u32 and number of the records, number u64 and count
//	       u32, position u64, time i64 in Unix ms, CRC32C u32, the records as in
//	       a record batch
//
// The CRC of a block is over the head's CRC, the fields and the records, so that
// no block passes for one of another partition or incarnation. Numbers go on from
// file to file; a hole in them is a block that is gone.
const (
	spillMagic    = "AHSPILL1"
	spillMarkSize = 20
	blockMagic    = 0x41485342 // "AHSB"
	blockHeadSize = 40
	blockCRCAt    = 36
)

// spillFile is what a file must be able to do; tests break it.
type spillFile interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Sync() error
}

var _ spillFile = (*os.File)(nil)

// spillHead returns the head of a lane's files and the CRC that its blocks begin
// with.
func spillHead(topic string, partition int32, incarnation event.ID) (head []byte, seed uint32) {
	be := binary.BigEndian
	head = append(head, spillMagic...)
	head = append(head, incarnation[:]...)
	head = be.AppendUint32(head, uint32(partition))
	head = be.AppendUint16(head, uint16(len(topic)))
	head = append(head, topic...)
	seed = crc32.Checksum(head, castagnoli)
	return be.AppendUint32(head, seed), seed
}

func appendMark(dst []byte, acked int64, number uint64) []byte {
	be := binary.BigEndian
	dst = be.AppendUint64(be.AppendUint64(dst, uint64(acked)), number)
	return be.AppendUint32(dst, crc32.Checksum(dst[len(dst)-16:], castagnoli))
}

func parseMark(mark []byte) (acked int64, number uint64, ok bool) {
	be := binary.BigEndian
	acked, number = int64(be.Uint64(mark)), be.Uint64(mark[8:])
	return acked, number, crc32.Checksum(mark[:16], castagnoli) == be.Uint32(mark[16:])
}

// block is the head of a block.
type block struct {
	length int    // of the records
	number uint64 // of the first record in the lane's files
	count  int32
	last   uint64 // position in the lane of the last record
	time   int64
}

func (b *block) end() uint64 { return b.number + uint64(b.count) }

func appendBlock(dst []byte, seed uint32, b *block, records []byte) []byte {
	be, at := binary.BigEndian, len(dst)
	dst = be.AppendUint32(dst, blockMagic)
	dst = be.AppendUint32(dst, uint32(len(records)))
	dst = be.AppendUint64(dst, b.number)
	dst = be.AppendUint32(dst, uint32(b.count))
	dst = be.AppendUint64(dst, b.last)
	dst = be.AppendUint64(dst, uint64(b.time))
	crc := crc32.Update(crc32.Update(seed, castagnoli, dst[at:]), castagnoli, records)
	return append(be.AppendUint32(dst, crc), records...)
}

// parseBlockHead reads a block's head, unchecked but for what must hold for the
// rest to be read.
func parseBlockHead(data []byte, h *block) bool {
	be := binary.BigEndian
	if len(data) < blockHeadSize || be.Uint32(data) != blockMagic {
		return false
	}
	*h = block{
		length: int(be.Uint32(data[4:])), number: be.Uint64(data[8:]), count: int32(be.Uint32(data[16:])),
		last: be.Uint64(data[20:]), time: int64(be.Uint64(data[28:])),
	}
	return h.length <= maxBatch && h.count > 0
}

// parseBlock reads and checks the block that data begins with.
func parseBlock(data []byte, seed uint32, h *block) (records []byte, ok bool) {
	if !parseBlockHead(data, h) || len(data) < blockHeadSize+h.length {
		return nil, false
	}
	records = data[blockHeadSize : blockHeadSize+h.length]
	crc := crc32.Update(crc32.Update(seed, castagnoli, data[:blockCRCAt]), castagnoli, records)
	return records, crc == binary.BigEndian.Uint32(data[blockCRCAt:])
}

// SpillDamage is a place in the spill that could not be read when a producer was
// made. What is whole after it is appended all the same.
type SpillDamage struct {
	File      string
	Topic     string
	Partition int32
	Offset    int64 // in the file
	Bytes     int64 // that were passed over; 0 where a whole file is missing
	// Records is how many are lost for certain: -1 when the end of the last file
	// is cut off or damaged, where nothing tells. They are lost after Since and,
	// when it is not 0, before Until: Unix milliseconds of the blocks around.
	Records      int64
	Since, Until int64
}

func (d *SpillDamage) String() string {
	n := "an unknown number of"
	if d.Records >= 0 {
		n = fmt.Sprint(d.Records)
	}
	return fmt.Sprintf("%s at offset %d: %d bytes are damaged, %s records of %s/%d are lost", d.File, d.Offset, d.Bytes, n, d.Topic, d.Partition)
}

// span is a part of a file.
type span struct{ from, to int64 }

// scanned is what a look through one file found.
type scanned struct {
	acked   int64 // where the blocks that are not acknowledged begin
	size    int64 // where the last whole block ends
	skip    []span
	records int64
	bad     []SpillDamage // File, Topic and Partition are the caller's to fill in
}

// foreignError is a whole head that is another's.
type foreignError struct {
	topic       string
	partition   uint32
	incarnation event.ID
}

func (e *foreignError) Error() string {
	return fmt.Sprintf("it is of %s/%d, incarnation %s", e.topic, e.partition, e.incarnation)
}

// scanner looks through a lane's files in their order.
type scanner struct {
	head []byte
	seed uint32
	next uint64 // number that the next block should have; 0 while unknown
	last block
}

// scan looks through the bytes of one file. final says that no file comes after
// it, so that what is not whole at its end is a torn tail.
func (s *scanner) scan(data []byte, final bool) (*scanned, error) {
	first := int64(len(s.head) + spillMarkSize)
	f := &scanned{acked: first, size: first}
	if len(data) < len(s.head) || !bytes.Equal(data[:len(s.head)], s.head) {
		if err := foreign(data); err != nil {
			return nil, err
		}
		// The head is damaged; the blocks say themselves whose they are.
		if len(data) >= len(s.head) || !final {
			f.bad = append(f.bad, SpillDamage{Bytes: min(first, int64(len(data)))})
		}
	}
	if int64(len(data)) <= first {
		if final && len(data) > 0 && int64(len(data)) < first && len(f.bad) == 0 {
			f.bad = append(f.bad, SpillDamage{Bytes: int64(len(data)), Records: -1, Since: s.last.time})
		}
		return f, nil
	}
	// A damaged mark has all blocks of the file appended again: second copies.
	var h block
	if at, number, ok := parseMark(data[len(s.head):first]); ok && at >= first && at <= int64(len(data)) {
		f.acked, f.size = at, at
		if s.next != 0 {
			s.gap(f, 0, 0, &block{number: number})
		}
		s.next = max(s.next, number)
	}
	for at := f.acked; at < int64(len(data)); {
		records, ok := parseBlock(data[at:], s.seed, &h)
		if ok && (s.next == 0 || h.number >= s.next) {
			s.gap(f, at, 0, &h)
			s.next, s.last = h.end(), h
			f.records += int64(h.count)
			at += int64(blockHeadSize + len(records))
			f.size = at
			continue
		}
		from := at
		if ok { // a block that was there before
			at += int64(blockHeadSize + len(records))
		} else {
			at = s.resync(data, at+1)
		}
		f.skip = append(f.skip, span{from, at})
		if at >= int64(len(data)) {
			d := SpillDamage{Offset: from, Bytes: at - from, Records: -1, Since: s.last.time}
			if final {
				f.size = from
				f.skip = f.skip[:len(f.skip)-1]
			} else {
				f.size = at
				d.Records = 0 // counted where the next file goes on
			}
			f.bad = append(f.bad, d)
			break
		}
		parseBlockHead(data[at:], &h)
		if !ok {
			s.gap(f, from, at-from, &h)
		}
	}
	return f, nil
}

// gap reports what is missing before a block.
func (s *scanner) gap(f *scanned, at, bytes int64, h *block) {
	missing := int64(0)
	if s.next != 0 && h.number > s.next {
		missing = int64(h.number - s.next)
	}
	if missing == 0 && bytes == 0 {
		return
	}
	f.bad = append(f.bad, SpillDamage{Offset: at, Bytes: bytes, Records: missing, Since: s.last.time, Until: h.time})
	if missing > 0 {
		s.next = h.number
	}
}

// resync finds the next whole block.
func (s *scanner) resync(data []byte, at int64) int64 {
	magic := binary.BigEndian.AppendUint32(nil, blockMagic)
	var h block
	for at < int64(len(data)) {
		i := bytes.Index(data[at:], magic)
		if i < 0 {
			break
		}
		at += int64(i)
		if _, ok := parseBlock(data[at:], s.seed, &h); ok {
			return at
		}
		at++
	}
	return int64(len(data))
}

// foreign reads a whole head that is not ours; nil when it is damaged.
func foreign(data []byte) error {
	be := binary.BigEndian
	if len(data) < 30 || string(data[:8]) != spillMagic {
		return nil
	}
	n := 30 + int(be.Uint16(data[28:]))
	if len(data) < n+4 || crc32.Checksum(data[:n], castagnoli) != be.Uint32(data[n:]) {
		return nil
	}
	return &foreignError{topic: string(data[30:n]), partition: be.Uint32(data[24:]), incarnation: event.ID(data[8:24])}
}

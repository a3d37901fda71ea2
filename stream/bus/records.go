package bus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/segmentio/kafka-go/compress"
)

// The layout of a record batch, version 2 (Kafka's documentation, "Record
// Batch"). Everything from attrsAt on is under the CRC.
const (
	baseOffsetAt  = 0
	lengthAt      = 8
	magicAt       = 16
	crcAt         = 17
	attrsAt       = 21
	lastDeltaAt   = 23
	firstTimeAt   = 27
	maxTimeAt     = 35
	producerIDAt  = 43
	epochAt       = 51
	sequenceAt    = 53
	countAt       = 57
	batchHeadSize = 61

	attrCompression   = 0x07
	attrLogAppend     = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	// errPartial is a batch cut off by the fetch's size limit.
	errPartial = errors.New("record batch is cut off")
	errRecord  = errors.New("malformed record")
)

// batchHead is what is read of a batch before its records.
type batchHead struct {
	base      int64
	last      int64 // offset of the last record, also when compaction removed it
	firstTime int64 // Unix milliseconds
	maxTime   int64
	producer  int64
	count     int32
	attrs     uint16
	size      int // of the whole batch
}

// parseBatch reads and checks the head and the CRC of the batch that b begins
// with; records are its records as they stand there, compressed or not.
func parseBatch(b []byte) (h batchHead, records []byte, err error) {
	if h, records, err = parseHead(b); err != nil {
		return h, nil, err
	}
	if want, got := binary.BigEndian.Uint32(b[crcAt:]), crc32.Checksum(b[attrsAt:h.size], castagnoli); want != got {
		return h, nil, fmt.Errorf("record batch at offset %d: checksum is %08x, its bytes give %08x", h.base, want, got)
	}
	return h, records, nil
}

// parseHead is parseBatch without the CRC, for bytes whose CRC was checked.
func parseHead(b []byte) (h batchHead, records []byte, err error) {
	if len(b) < lengthAt+4 {
		return h, nil, errPartial
	}
	h.base = int64(binary.BigEndian.Uint64(b[baseOffsetAt:]))
	length := int32(binary.BigEndian.Uint32(b[lengthAt:]))
	if length < batchHeadSize-lengthAt-4 || length > maxFetched {
		return h, nil, fmt.Errorf("record batch of %d bytes", length)
	}
	h.size = int(length) + lengthAt + 4
	if len(b) < h.size {
		return h, nil, errPartial
	}
	if b[magicAt] != 2 {
		return h, nil, fmt.Errorf("record batch of format %d: only 2 is read", b[magicAt])
	}
	h.attrs = binary.BigEndian.Uint16(b[attrsAt:])
	delta := int32(binary.BigEndian.Uint32(b[lastDeltaAt:]))
	h.firstTime = int64(binary.BigEndian.Uint64(b[firstTimeAt:]))
	h.maxTime = int64(binary.BigEndian.Uint64(b[maxTimeAt:]))
	h.producer = int64(binary.BigEndian.Uint64(b[producerIDAt:]))
	h.count = int32(binary.BigEndian.Uint32(b[countAt:]))
	if h.base < 0 || delta < 0 || h.count < 0 || int64(h.count) > int64(delta)+1 {
		return h, nil, fmt.Errorf("record batch at offset %d with %d records up to +%d", h.base, h.count, delta)
	}
	h.last = h.base + int64(delta)
	return h, b[batchHeadSize:h.size], nil
}

const (
	// maxUnpacked bounds what a compressed batch may unpack to. Our own are at most
	// maxBatch before they are compressed; a reader holds one unpacked at a time.
	maxUnpacked = 16 << 20
	// keepUnpacked is how much memory a reader keeps from one batch to the next.
	keepUnpacked = 4 << 20
)

// unpack decompresses records into dst, which is reused.
func unpack(dst *bytes.Buffer, attrs uint16, records []byte) ([]byte, error) {
	code := compress.Compression(attrs & attrCompression)
	if code == compress.None {
		return records, nil
	}
	codec := code.Codec()
	if codec == nil {
		return nil, fmt.Errorf("unpacking records: unknown compression %d", code)
	}
	r := codec.NewReader(bytes.NewReader(records))
	if dst.Cap() > keepUnpacked {
		*dst = bytes.Buffer{}
	}
	dst.Reset()
	n, err := dst.ReadFrom(io.LimitReader(r, maxUnpacked+1))
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("unpacking records (%s): %w", codec.Name(), err)
	}
	if n > maxUnpacked {
		return nil, fmt.Errorf("unpacking records (%s): more than %d bytes: no batch of this program is so large; whoever writes to this topic must send smaller ones", codec.Name(), maxUnpacked)
	}
	return dst.Bytes(), nil
}

// rawRecord is one record of a batch; key and value are parts of the batch.
type rawRecord struct {
	timeDelta   int64
	offsetDelta int64
	key, value  []byte
}

// parseRecord reads the record that b begins with and returns the rest of b.
func parseRecord(b []byte, r *rawRecord) (rest []byte, err error) {
	length, b, ok := zigzag(b)
	if !ok || length < 0 || length > int64(len(b)) {
		return nil, errRecord
	}
	b, rest = b[:length], b[length:]
	if len(b) < 1 {
		return nil, errRecord
	}
	b = b[1:] // attributes, unused in this version
	if r.timeDelta, b, ok = zigzag(b); !ok {
		return nil, errRecord
	}
	if r.offsetDelta, b, ok = zigzag(b); !ok || r.offsetDelta < 0 {
		return nil, errRecord
	}
	if r.key, b, ok = sized(b); !ok {
		return nil, errRecord
	}
	if r.value, b, ok = sized(b); !ok {
		return nil, errRecord
	}
	headers, _, ok := zigzag(b)
	if !ok || headers < 0 {
		return nil, errRecord
	}
	return rest, nil // headers are not used in our topics; length skips them
}

// zigzag reads a signed variable-length number.
func zigzag(b []byte) (int64, []byte, bool) {
	if len(b) > 0 && b[0] < 0x80 {
		return int64(b[0]>>1) ^ -int64(b[0]&1), b[1:], true
	}
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, false
	}
	return int64(v>>1) ^ -int64(v&1), b[n:], true
}

// sized reads a length and as many bytes; length -1 is nil.
func sized(b []byte) (field, rest []byte, ok bool) {
	n, b, ok := zigzag(b)
	if !ok || n < -1 || n > int64(len(b)) {
		return nil, nil, false
	}
	if n < 0 {
		return nil, b, true
	}
	return b[:n:n], b[n:], true
}

package bus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"
)

// kafka-go decodes a fetch response into record objects, several allocations a
// record. The types below take its place in the protocol table: the same
// request, and a response that leaves the record batches as they came, which
// records.go checks and reads. The consequence is that nothing in this process
// may call kafka.Client.Fetch; kafka-go lives in this package alone.
func init() {
	protocol.Register(&fetch.Request{}, &fetchResponse{})
}

type fetchResponse struct {
	ThrottleTimeMs int32 `kafka:"min=v1,max=v11"`
	ErrorCode      int16 `kafka:"min=v7,max=v11"`
	SessionID      int32 `kafka:"min=v7,max=v11"`

	V0  fetchTopicsV0  `kafka:"min=v0,max=v3"`
	V4  fetchTopicsV4  `kafka:"min=v4,max=v4"`
	V5  fetchTopicsV5  `kafka:"min=v5,max=v10"`
	V11 fetchTopicsV11 `kafka:"min=v11,max=v11"`
}

// ApiKey tells the protocol table which response this is.
//
//nolint:revive // kafka-go names it
func (r *fetchResponse) ApiKey() protocol.ApiKey { return protocol.Fetch }

// of returns the answer for the partition, the only one that was asked for.
func (r *fetchResponse) of(topic string, partition int32) (*fetchPartition, error) {
	for _, t := range []*fetchTopics{&r.V0.fetchTopics, &r.V4.fetchTopics, &r.V5.fetchTopics, &r.V11.fetchTopics} {
		if t.found && t.topic == topic && t.part.Partition == partition {
			return &t.part, nil
		}
	}
	return nil, errors.New("fetch answer is for another partition")
}

// fetchPartition is what is answered for one partition.
type fetchPartition struct {
	Partition     int32
	ErrorCode     int16
	HighWatermark int64
	Records       rawRecords
}

// fetchTopics is the topics of a fetch response: none, or the one partition that
// was asked for. kafka-go would make room for as many as the response claims, so
// that one flipped bit in a count could take all memory.
type fetchTopics struct {
	topic string
	found bool
	part  fetchPartition
}

// The same by version, which a field's type has to know.
type (
	fetchTopicsV0  struct{ fetchTopics }
	fetchTopicsV4  struct{ fetchTopics }
	fetchTopicsV5  struct{ fetchTopics }
	fetchTopicsV11 struct{ fetchTopics }
)

// ReadFrom implements io.ReaderFrom.
func (t *fetchTopicsV0) ReadFrom(src io.Reader) (int64, error) { return t.read(src, 0) }

// ReadFrom implements io.ReaderFrom.
func (t *fetchTopicsV4) ReadFrom(src io.Reader) (int64, error) { return t.read(src, 4) }

// ReadFrom implements io.ReaderFrom.
func (t *fetchTopicsV5) ReadFrom(src io.Reader) (int64, error) { return t.read(src, 5) }

// ReadFrom implements io.ReaderFrom.
func (t *fetchTopicsV11) ReadFrom(src io.Reader) (int64, error) { return t.read(src, 11) }

// WriteTo satisfies the protocol table, which wants every type to be writable.
func (t *fetchTopics) WriteTo(io.Writer) (int64, error) {
	return 0, errors.New("fetch responses are only read")
}

// wireReader reads numbers, and remembers the first error.
type wireReader struct {
	src io.Reader
	n   int64
	err error
	buf [8]byte
}

func (r *wireReader) read(b []byte) []byte {
	if r.err == nil {
		var n int
		n, r.err = io.ReadFull(r.src, b)
		r.n += int64(n)
	}
	if r.err != nil {
		clear(b)
	}
	return b
}

func (r *wireReader) int16() int16 { return int16(binary.BigEndian.Uint16(r.read(r.buf[:2]))) }
func (r *wireReader) int32() int32 { return int32(binary.BigEndian.Uint32(r.read(r.buf[:4]))) }
func (r *wireReader) int64() int64 { return int64(binary.BigEndian.Uint64(r.read(r.buf[:8]))) }

// count reads how many elements an array has, at most the most.
func (r *wireReader) count(what string, most int32) int32 {
	n := r.int32()
	if r.err == nil && n > most {
		r.err = fmt.Errorf("fetch response with %d %s where at most %d was asked for", n, what, most)
	}
	if r.err != nil {
		return 0
	}
	return max(n, 0)
}

func (t *fetchTopics) read(src io.Reader, version int) (int64, error) {
	r := &wireReader{src: src}
	if r.count("topics", 1) == 0 {
		return r.n, r.err
	}
	name := r.int16()
	if r.err == nil && name < 0 {
		r.err = errors.New("fetch response with a topic without a name")
	}
	if r.err == nil {
		t.topic = string(r.read(make([]byte, name)))
	}
	if r.count("partitions", 1) == 0 {
		return r.n, r.err
	}
	t.part.Partition, t.part.ErrorCode, t.part.HighWatermark = r.int32(), r.int16(), r.int64()
	if version >= 4 {
		r.int64() // last stable offset
	}
	if version >= 5 {
		r.int64() // log start offset
	}
	if version >= 4 { // aborted transactions, of two numbers each; not used
		for range max(r.int32(), 0) {
			if r.int64(); r.err != nil {
				break
			}
			r.int64()
		}
	}
	if version >= 11 {
		r.int32() // preferred read replica
	}
	if r.err == nil {
		var n int64
		n, r.err = t.part.Records.ReadFrom(src)
		r.n += n
	}
	t.found = r.err == nil
	return r.n, r.err
}

// maxFetched bounds what one partition of a fetch response may hold: the largest
// batch of another program that is read. What is asked for is far below, and our
// own batches are at most maxBatch.
const maxFetched = 64 << 20

// rawRecords is the records field of a fetch response, undecoded. Its buffer
// comes from fetchBuffers.
type rawRecords struct{ buf *[]byte }

// fetchBuffers recycles the buffers of fetch responses among the readers.
var fetchBuffers = sync.Pool{New: func() any { return new([]byte) }}

// ReadFrom reads a size and that many bytes.
func (r *rawRecords) ReadFrom(src io.Reader) (int64, error) {
	var head [4]byte
	if _, err := io.ReadFull(src, head[:]); err != nil {
		return 0, err
	}
	size := int32(binary.BigEndian.Uint32(head[:]))
	if size <= 0 {
		return 4, nil
	}
	if size > maxFetched {
		return 4, fmt.Errorf("fetch response with %d bytes of records", size)
	}
	buf, _ := fetchBuffers.Get().(*[]byte)
	data := (*buf)[:0]
	for len(data) < int(size) {
		// Memory is taken as the bytes come, not as the size says.
		data = slices.Grow(data, min(int(size)-len(data), max(fetchBytes, cap(data)-len(data))))
		rest := data[len(data):min(int(size), cap(data))]
		n, err := io.ReadFull(src, rest)
		data = data[:len(data)+n]
		if err != nil {
			*buf = data
			fetchBuffers.Put(buf)
			return int64(4 + len(data)), err
		}
	}
	*buf = data
	r.buf = buf
	return int64(4 + len(data)), nil
}

var (
	_ protocol.Message = (*fetchResponse)(nil)
	_ io.ReaderFrom    = (*fetchTopicsV11)(nil)
	_ io.WriterTo      = (*fetchTopicsV11)(nil)
)

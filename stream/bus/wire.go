package bus

import (
	"encoding/binary"
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
	ThrottleTimeMs int32                `kafka:"min=v1,max=v11"`
	ErrorCode      int16                `kafka:"min=v7,max=v11"`
	SessionID      int32                `kafka:"min=v7,max=v11"`
	Topics         []fetchResponseTopic `kafka:"min=v0,max=v11"`
}

// ApiKey tells the protocol table which response this is.
//
//nolint:revive // kafka-go names it
func (r *fetchResponse) ApiKey() protocol.ApiKey { return protocol.Fetch }

type fetchResponseTopic struct {
	Topic      string                   `kafka:"min=v0,max=v11"`
	Partitions []fetchResponsePartition `kafka:"min=v0,max=v11"`
}

type fetchResponsePartition struct {
	Partition            int32                      `kafka:"min=v0,max=v11"`
	ErrorCode            int16                      `kafka:"min=v0,max=v11"`
	HighWatermark        int64                      `kafka:"min=v0,max=v11"`
	LastStableOffset     int64                      `kafka:"min=v4,max=v11"`
	LogStartOffset       int64                      `kafka:"min=v5,max=v11"`
	AbortedTransactions  []fetchResponseTransaction `kafka:"min=v4,max=v11"`
	PreferredReadReplica int32                      `kafka:"min=v11,max=v11"`
	Records              rawRecords                 `kafka:"min=v0,max=v11"`
}

type fetchResponseTransaction struct {
	ProducerID  int64 `kafka:"min=v4,max=v11"`
	FirstOffset int64 `kafka:"min=v4,max=v11"`
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

// WriteTo satisfies the protocol table, which wants every type to be writable.
func (r *rawRecords) WriteTo(dst io.Writer) (int64, error) {
	var data []byte
	if r.buf != nil {
		data = *r.buf
	}
	n, err := dst.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...))
	return int64(n), err
}

var (
	_ protocol.Message = (*fetchResponse)(nil)
	_ io.ReaderFrom    = (*rawRecords)(nil)
	_ io.WriterTo      = (*rawRecords)(nil)
)

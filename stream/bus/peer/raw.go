package peer

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Raw produces one event at a time over one connection from the goroutine of its
// caller: nothing but a write and a read lie between them and the broker. It is
// the floor of what an acknowledgement can take, and no client: it is not
// idempotent, looks for no leader and retries nothing.
type Raw struct {
	conn net.Conn
	req  *kmsg.ProduceRequest
	ids  int32
	out  []byte
	in   []byte
}

// RawOptions says what NewRaw does.
const RawOptions = "a produce request written and its answer read by the caller's own goroutine, acks all, no producer id"

// NewRaw connects to the broker, which must lead the topic's partitions; Close
// ends it.
func NewRaw(broker, topic string) (*Raw, error) {
	conn, err := net.DialTimeout("tcp", broker, 5*time.Second)
	if err != nil {
		return nil, fmt.Errorf("connecting for raw requests: %w", err)
	}
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(8)
	req.Acks, req.TimeoutMillis = -1, 10_000
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: topic, Partitions: make([]kmsg.ProduceRequestTopicPartition, 1)}}
	return &Raw{conn: conn, req: req}, nil
}

// One produces one event and waits until it is acknowledged.
func (r *Raw) One(_ context.Context, e Event) error {
	part := &r.req.Topics[0].Partitions[0]
	part.Partition, part.Records = e.Partition, rawBatch(part.Records[:0], e)
	r.ids++
	be := binary.BigEndian
	r.out = append(r.out[:0], 0, 0, 0, 0)
	r.out = be.AppendUint16(r.out, uint16(r.req.Key()))
	r.out = be.AppendUint16(r.out, uint16(r.req.Version))
	r.out = be.AppendUint32(r.out, uint32(r.ids))
	r.out = be.AppendUint16(r.out, 0) // client id
	r.out = r.req.AppendTo(r.out)
	be.PutUint32(r.out, uint32(len(r.out)-4))
	if _, err := r.conn.Write(r.out); err != nil {
		return fmt.Errorf("producing raw: %w", err)
	}
	var head [8]byte
	if _, err := io.ReadFull(r.conn, head[:]); err != nil {
		return fmt.Errorf("reading a raw answer: %w", err)
	}
	if got := int32(be.Uint32(head[4:])); got != r.ids {
		return fmt.Errorf("raw answer to request %d, not %d", got, r.ids)
	}
	n := int(be.Uint32(head[:])) - 4
	if n < 0 || n > 1<<20 {
		return fmt.Errorf("raw answer of %d bytes", n)
	}
	r.in = append(r.in[:0], make([]byte, n)...)
	if _, err := io.ReadFull(r.conn, r.in); err != nil {
		return fmt.Errorf("reading a raw answer: %w", err)
	}
	res := kmsg.NewPtrProduceResponse()
	res.SetVersion(r.req.Version)
	if err := res.ReadFrom(r.in); err != nil {
		return fmt.Errorf("reading a raw answer: %w", err)
	}
	for _, t := range res.Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return fmt.Errorf("producing raw to %s/%d: code %d", t.Topic, p.Partition, p.ErrorCode)
			}
		}
	}
	return nil
}

// Close ends the connection.
func (r *Raw) Close() error { return r.conn.Close() }

// rawBatch appends a record batch of one record.
func rawBatch(b []byte, e Event) []byte {
	rec := kmsg.Record{Key: e.Key, Value: e.Value}
	body := rec.AppendTo(nil)
	rec.Length = int32(len(body) - 1) // without the length itself, 0 in one byte
	now := time.Now().UnixMilli()
	batch := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, FirstTimestamp: now, MaxTimestamp: now,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: 1, Records: rec.AppendTo(nil),
	}
	from := len(b)
	b = batch.AppendTo(b)
	head := b[from:]
	binary.BigEndian.PutUint32(head[8:], uint32(len(head)-12))
	binary.BigEndian.PutUint32(head[17:], crc32.Checksum(head[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

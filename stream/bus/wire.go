package bus

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"
)

// kafka-go decodes a fetch response into record objects, several allocations a
// record, and takes the memory for it before anybody can say whether there is
// room. A fetchCall is a fetch of one partition that kafka-go's transport sends
// to the partition's leader, on a connection and in a version of its choice, but
// that writes itself and reads its own answer: the record batches stay as they
// came, which records.go checks and reads, and they are read from the connection
// only once the reader's prefetch has room for them.
type fetchCall struct {
	fetch.Request
	room *prefetch       // nil: taken without asking
	wait context.Context //nolint:containedctx // ends the wait for room; the exchange is not given one
	// held is what the caller has taken for the answer already.
	held    int64
	version int16

	mu        sync.Mutex
	abandoned bool // nobody waits for it
	answer    *fetchAnswer
}

// fetchAnswer is the answer to a fetchCall.
type fetchAnswer struct {
	code          kafka.Error // of the request
	partitionCode kafka.Error
	topic         string
	partition     int32
	found         bool  // the partition is in it
	highWatermark int64 // the log's end
	// stable is up to where no transaction is open, -1 where the broker does not
	// say; aborted are the transactions that count for nothing, by first offset.
	stable  int64
	aborted []abortedTxn
	buf     *[]byte // the records, from fetchBuffers; nil without any
	room    *prefetch
	held    int64 // taken of the room for buf
}

// abortedTxn is a transaction that its producer aborted.
type abortedTxn struct{ producer, first int64 }

var (
	_ protocol.RawExchanger  = (*fetchCall)(nil)
	_ protocol.BrokerMessage = (*fetchCall)(nil)
	_ protocol.Message       = (*fetchAnswer)(nil)
)

// ApiKey tells the protocol table which answer this is.
//
//nolint:revive // kafka-go names it
func (*fetchAnswer) ApiKey() protocol.ApiKey { return protocol.Fetch }

// release gives the records' memory back.
func (a *fetchAnswer) release() {
	if a.buf != nil {
		putBuffer(a.buf)
		a.buf = nil
	}
	a.room.give(a.held)
	a.held = 0
}

// fetch does the call. What it took of the room is the answer's, which is to be
// released; after an error nothing is held.
func (c *Client) fetch(ctx context.Context, call *fetchCall) (*fetchAnswer, error) {
	call.wait = ctx
	if call.room == nil {
		call.room = new(prefetch)
	}
	transport := c.transport
	if call.MaxWaitTime == 0 {
		transport = c.bulk
	}
	res, err := transport.RoundTrip(ctx, c.kafka.Addr, call)
	if err != nil {
		call.abandon()
		return nil, err
	}
	answer, ok := res.(*fetchAnswer)
	if !ok {
		call.abandon()
		return nil, fmt.Errorf("fetch answer is a %T", res)
	}
	return answer, nil
}

// abandon releases what the call holds or will have held when it ends.
func (f *fetchCall) abandon() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.abandoned = true
	if f.answer != nil {
		f.answer.release()
	}
	f.room.give(f.held)
	f.held = 0
}

// Required implements protocol.RawExchanger.
func (f *fetchCall) Required(versions map[protocol.ApiKey]int16) bool {
	f.version = versions[protocol.Fetch]
	return true
}

// RawExchange implements protocol.RawExchanger. It runs in the connection's
// goroutine, also on when the caller has given up.
func (f *fetchCall) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	answer, err := f.exchange(rw)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if f.abandoned {
		answer.release()
	}
	f.answer = answer
	return answer, nil
}

func (f *fetchCall) exchange(rw io.ReadWriter) (*fetchAnswer, error) {
	conn, timed := rw.(net.Conn)
	limit := func(t time.Time) error {
		if !timed {
			return nil
		}
		return conn.SetDeadline(t)
	}
	if err := limit(time.Now().Add(requestTimeout)); err != nil {
		return nil, err
	}
	id := int32(f.Topics[0].Partitions[0].FetchOffset) // tells the answer of another request
	if err := protocol.WriteRequest(rw, f.version, id, clientID, &f.Request); err != nil {
		return nil, err
	}
	r := &wireReader{src: rw}
	size := int64(r.int32())
	if r.err == nil && (size < 4 || size > maxFetched+maxAnswerHead) {
		r.err = fmt.Errorf("fetch response of %d bytes", size)
	}
	if r.err != nil {
		return nil, noEOF(r.err)
	}
	held, err := f.admit(bufferSize(size))
	if err != nil {
		return nil, err
	}
	answer := &fetchAnswer{room: f.room, held: held}
	if err := limit(time.Now().Add(requestTimeout)); err != nil {
		answer.release()
		return nil, err
	}
	if err := answer.read(io.LimitReader(rw, size), size, f.version, id); err != nil {
		answer.release()
		return nil, noEOF(err)
	}
	// What a small answer did not need.
	if answer.buf == nil {
		f.room.give(answer.held)
		answer.held = 0
	}
	return answer, limit(time.Time{})
}

// admit takes room for an answer of that many bytes, of which a part may be taken
// already: never one part while it waits for another, or two could wait for each
// other.
func (f *fetchCall) admit(size int64) (held int64, err error) {
	f.mu.Lock()
	held, f.held = f.held, 0
	f.mu.Unlock()
	if size <= held {
		f.room.give(held - size)
		return size, nil
	}
	f.room.give(held)
	if err := f.room.take(f.wait, size); err != nil {
		return 0, err
	}
	return size, nil
}

// of returns an error when the answer is not about the partition, the only one
// that was asked for.
func (a *fetchAnswer) of(topic string, partition int32) error {
	if !a.found || a.topic != topic || a.partition != partition {
		return errors.New("fetch answer is for another partition")
	}
	return nil
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

// string reads a string, "" where there is none.
func (r *wireReader) string() string {
	n := r.int16()
	if r.err != nil || n <= 0 {
		return ""
	}
	return string(r.read(make([]byte, n)))
}

// count reads how many elements an array has, at most the most.
func (r *wireReader) count(what string, most int64) int32 {
	n := r.int32()
	if r.err == nil && int64(n) > most {
		r.err = fmt.Errorf("fetch response with %d %s where there are at most %d", n, what, most)
	}
	if r.err != nil {
		return 0
	}
	return max(n, 0)
}

const (
	// maxFetched bounds what one partition of a fetch response may hold: the largest
	// batch of another program that is read. What is asked for is far below, and our
	// own batches are at most maxBatch.
	maxFetched = 64 << 20
	// maxAnswerHead bounds the rest of the response: 100 bytes, the topic's name and
	// 16 bytes for each aborted transaction.
	maxAnswerHead = 1 << 20
)

// read decodes the answer: none, or the one partition that was asked for, so that
// one flipped bit in a count does not take all memory.
func (a *fetchAnswer) read(src io.Reader, size int64, version int16, id int32) error {
	r := &wireReader{src: src}
	if got := r.int32(); r.err == nil && got != id {
		return fmt.Errorf("fetch response to request %d where %d is next", got, id)
	}
	if version >= 1 {
		r.int32() // throttle time: the broker holds back the next answer by itself
	}
	if version >= 7 {
		a.code = kafka.Error(r.int16())
		r.int32() // session
	}
	a.stable = -1
	if r.count("topics", 1) == 0 {
		return a.rest(r)
	}
	name := r.int16()
	if r.err == nil && name < 0 {
		r.err = errors.New("fetch response with a topic without a name")
	}
	if r.err == nil {
		a.topic = string(r.read(make([]byte, name)))
	}
	if r.count("partitions", 1) == 0 {
		return a.rest(r)
	}
	a.partition, a.partitionCode, a.highWatermark = r.int32(), kafka.Error(r.int16()), r.int64()
	if version >= 4 {
		a.stable = r.int64()
	}
	if version >= 5 {
		r.int64() // log start offset
	}
	if version >= 4 {
		for range r.count("aborted transactions", (size-r.n)/16) {
			a.aborted = append(a.aborted, abortedTxn{producer: r.int64(), first: r.int64()})
		}
		slices.SortFunc(a.aborted, func(x, y abortedTxn) int { return cmp.Compare(x.first, y.first) })
	}
	if version >= 11 {
		r.int32() // preferred read replica
	}
	a.records(r)
	a.found = r.err == nil
	return a.rest(r)
}

// rest passes over what follows, so that the connection can be used again.
func (a *fetchAnswer) rest(r *wireReader) error {
	if r.err != nil {
		return r.err
	}
	_, err := io.Copy(io.Discard, r.src)
	return err
}

// records reads a size and that many bytes.
func (a *fetchAnswer) records(r *wireReader) {
	size := int(r.int32())
	if r.err == nil && size > maxFetched {
		r.err = fmt.Errorf("fetch response with %d bytes of records", size)
	}
	if r.err != nil || size <= 0 {
		return
	}
	a.buf = takeBuffer(min(size, fetchBytes))
	data := (*a.buf)[:0]
	for {
		n := len(data)
		data = data[:min(size, cap(data))]
		r.read(data[n:])
		*a.buf = data
		if r.err != nil || len(data) == size {
			return
		}
		// Memory is taken as the bytes come, not as the size says.
		data = append(make([]byte, 0, min(size, 2*cap(data))), data...)
	}
}

// noEOF is the error of a connection that ended where an answer should come.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// The buffers that records are fetched into are of these sizes, each twice the one
// before, so that a reader which waits at the log's end does not hold a megabyte for
// a few bytes; larger ones are made as large as need be and not used again.
const (
	smallBuffer = 12 // bits: 4 KiB
	largeBuffer = 20 // bits: 1 MiB
)

// fetchBuffers recycles the buffers of fetch responses among the readers.
var fetchBuffers [largeBuffer - smallBuffer + 1]sync.Pool

// sizeClass is which of fetchBuffers holds that many bytes.
func sizeClass(size int) int { return max(bits.Len(uint(max(size, 1)-1))-smallBuffer, 0) }

// bufferSize is how much memory an answer of that size takes at most.
func bufferSize(size int64) int64 {
	if size > 1<<largeBuffer {
		return size
	}
	return 1 << (sizeClass(int(size)) + smallBuffer)
}

func takeBuffer(size int) *[]byte {
	class := sizeClass(size)
	if b, ok := fetchBuffers[class].Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, 1<<(class+smallBuffer))
	return &b
}

func putBuffer(b *[]byte) {
	if class := sizeClass(cap(*b)); class < len(fetchBuffers) {
		fetchBuffers[class].Put(b)
	}
}

package bus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// Produce requests do not go through kafka-go's transport. It hands each to the
// goroutine of a connection and the answer back, and copies the batch on its way:
// that is the larger part of what a single event waits for on this side. Here the
// goroutine that has the batch writes it and reads the answer.

const (
	// The versions of produce that are spoken: 3 is the first to take the batches
	// that are written here, from 9 on the form is another.
	minProduceVersion = 3
	maxProduceVersion = 8
	// replicaWait is how long a leader waits for its followers before it answers
	// that they did not come in time; the batch is asked for again then.
	replicaWait = 500 * time.Millisecond
	// oneWrite is how large a batch may be that is copied behind the request's head.
	oneWrite = 16 << 10
	// maxProduceAnswer bounds an answer, which may say something of every record.
	maxProduceAnswer = 16 << 20
)

// produceConn is a connection for produce requests, of one goroutine at a time.
type produceConn struct {
	net.Conn
	version int16
	id      int32     // of the last request
	used    bool      // a request was answered on it
	idle    time.Time // since when, while it is

	out  []byte // head of the request, and the batch where it is small
	in   []byte
	body bytes.Reader // of in
	two  [2][]byte    // head and batch, where they are not copied together
	bufs net.Buffers  // of two
}

// produceAnswer is what a broker answered for the one partition of a request.
type produceAnswer struct {
	code     int16
	message  string // the broker's own words, mostly none
	offset   int64  // of the batch's first record
	throttle time.Duration
}

// err is nil where the batch is in the log.
func (a *produceAnswer) err() error {
	switch {
	case a.code == 0:
		return nil
	case a.message == "":
		return kafka.Error(a.code)
	}
	return fmt.Errorf("%w: %s", kafka.Error(a.code), a.message)
}

// newProduceConn asks the broker what it speaks.
func newProduceConn(conn net.Conn) (*produceConn, error) {
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, err
	}
	versions, err := askVersions(conn)
	if err == nil && versions.ErrorCode != 0 {
		err = kafka.Error(versions.ErrorCode)
	}
	if err != nil {
		return nil, fmt.Errorf("asking for the broker's versions: %w", err)
	}
	for _, k := range versions.ApiKeys {
		if protocol.ApiKey(k.ApiKey) == protocol.Produce && k.MinVersion <= maxProduceVersion && k.MaxVersion >= minProduceVersion {
			return &produceConn{Conn: conn, version: min(k.MaxVersion, maxProduceVersion)}, nil
		}
	}
	return nil, fmt.Errorf("the broker takes no produce request of versions %d to %d: want Apache Kafka 2.1 or later", minProduceVersion, maxProduceVersion)
}

// produce sends a batch, size prefix included, and waits for the answer until
// requestTimeout is over or ctx ends. After an error the connection is of no use
// any more, and the batch may be in the log.
func (pc *produceConn) produce(ctx context.Context, topic string, partition int32, data []byte) (a produceAnswer, err error) {
	if err := pc.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return a, err
	}
	stop := context.AfterFunc(ctx, func() { _ = pc.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
	}()
	pc.id++
	pc.out = appendProduceHead(pc.out[:0], pc.version, pc.id, topic, partition, len(data))
	if err := pc.send(data); err != nil {
		return a, fmt.Errorf("sending a batch to %s: %w", pc.RemoteAddr(), err)
	}
	if err := pc.receive(); err != nil {
		return a, fmt.Errorf("reading the answer of %s to a batch: %w", pc.RemoteAddr(), err)
	}
	pc.body.Reset(pc.in)
	if a, err = readProduceAnswer(&pc.body, pc.version, pc.id, topic, partition); err != nil {
		return a, fmt.Errorf("reading the answer of %s to a batch: %w", pc.RemoteAddr(), err)
	}
	pc.used = true
	return a, nil
}

func (pc *produceConn) send(data []byte) (err error) {
	if len(data) <= oneWrite {
		pc.out = append(pc.out, data...)
		_, err = pc.Write(pc.out)
		return err
	}
	pc.two = [2][]byte{pc.out, data}
	pc.bufs = pc.two[:]
	_, err = pc.bufs.WriteTo(pc.Conn) // at once where it is plain TCP
	pc.two = [2][]byte{}              // the batch is its lane's
	return err
}

// receive reads a message into in, without its size.
func (pc *produceConn) receive() error {
	pc.in = slices.Grow(pc.in[:0], 512)
	have, want := 0, sizePrefix
	for sized := false; have < want; {
		n, err := io.ReadAtLeast(pc.Conn, pc.in[have:cap(pc.in)], min(want, cap(pc.in))-have)
		have += n
		if err != nil {
			if have > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if !sized {
			size := int32(binary.BigEndian.Uint32(pc.in[:have]))
			if size < 0 || size > maxProduceAnswer {
				return fmt.Errorf("answer of %d bytes", size)
			}
			sized, want = true, sizePrefix+int(size)
		}
		if have == cap(pc.in) && have < want { // room is made as the bytes come, not as the size says
			pc.in = slices.Grow(pc.in[:have], min(want-have, have))
		}
	}
	if have > want {
		return fmt.Errorf("%d bytes after the answer", have-want)
	}
	pc.in = pc.in[sizePrefix:have]
	return nil
}

// appendProduceHead appends a request up to its batch, which is size bytes with
// its prefix.
func appendProduceHead(b []byte, version int16, id int32, topic string, partition int32, size int) []byte {
	be := binary.BigEndian
	start := len(b)
	b = append(b, 0, 0, 0, 0) // size
	b = be.AppendUint16(b, uint16(protocol.Produce))
	b = be.AppendUint16(b, uint16(version))
	b = be.AppendUint32(b, uint32(id))
	b = appendWireString(b, clientID)
	b = be.AppendUint16(b, 0xffff) // no transaction
	b = be.AppendUint16(b, 0xffff) // acks from all replicas in sync
	b = be.AppendUint32(b, uint32(replicaWait.Milliseconds()))
	b = be.AppendUint32(b, 1) // topics
	b = appendWireString(b, topic)
	b = be.AppendUint32(b, 1) // partitions
	b = be.AppendUint32(b, uint32(partition))
	be.PutUint32(b[start:], uint32(len(b)-start-4+size))
	return b
}

func appendWireString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// readProduceAnswer reads the answer to request id for that partition.
func readProduceAnswer(src io.Reader, version int16, id int32, topic string, partition int32) (a produceAnswer, err error) {
	r := &wireReader{src: src}
	if got := r.int32(); r.err == nil && got != id {
		return a, fmt.Errorf("it is to request %d, not %d", got, id)
	}
	if n := r.int32(); r.err == nil && n != 1 {
		return a, fmt.Errorf("it has %d topics", n)
	}
	name := r.string()
	if n := r.int32(); r.err == nil && n != 1 {
		return a, fmt.Errorf("it has %d partitions", n)
	}
	of := r.int32()
	a.code, a.offset = r.int16(), r.int64()
	r.int64() // time of the append
	if version >= 5 {
		r.int64() // log start offset
	}
	if version >= 8 {
		for range max(r.int32(), 0) { // what is wrong with which record
			r.int32()
			if r.string(); r.err != nil {
				break
			}
		}
		a.message = r.string()
	}
	a.throttle = time.Duration(max(r.int32(), 0)) * time.Millisecond
	switch {
	case r.err != nil:
		return a, r.err
	case name != topic || of != partition:
		return a, fmt.Errorf("it is for %s/%d, not %s/%d", name, of, topic, partition)
	case a.code == 0 && a.offset < 0:
		return a, fmt.Errorf("it gives offset %d", a.offset)
	}
	return a, nil
}

package bus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The requests are what another library reads.
func TestProduceRequest(t *testing.T) {
	b := new(batch)
	b.reset()
	b.add([]byte("k"), []byte("value"), nil)
	data, err := b.seal(nil, 7, 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	for version := int16(minProduceVersion); version <= maxProduceVersion; version++ {
		msg := append(appendProduceHead(nil, version, 77, "s1.md", 3, len(data)), data...)
		r := kbin.Reader{Src: msg}
		if size := r.Int32(); int(size) != len(msg)-4 {
			t.Errorf("v%d: size %d of %d bytes", version, size, len(msg))
		}
		if key, v, id, client := r.Int16(), r.Int16(), r.Int32(), r.String(); key != 0 || v != version || id != 77 || client != clientID {
			t.Errorf("v%d: head is key %d, version %d, id %d, client %q", version, key, v, id, client)
		}
		got, want := kmsg.NewPtrProduceRequest(), kmsg.NewPtrProduceRequest()
		for _, req := range []*kmsg.ProduceRequest{got, want} {
			req.SetVersion(version)
		}
		if err := got.ReadFrom(r.Src); err != nil {
			t.Fatalf("v%d: %v", version, err)
		}
		want.Acks, want.TimeoutMillis = -1, int32(replicaWait.Milliseconds())
		topic, part := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
		part.Partition, part.Records = 3, data[sizePrefix:]
		topic.Topic, topic.Partitions = "s1.md", append(topic.Partitions, part)
		want.Topics = append(want.Topics, topic)
		if !bytes.Equal(got.AppendTo(nil), want.AppendTo(nil)) {
			t.Errorf("v%d: %s", version, cmp.Diff(want, got))
		}
	}
}

// produceAnswerOf is an answer as another library writes it, without its size.
func produceAnswerOf(version int16, id int32, change func(*kmsg.ProduceResponse)) []byte {
	res := kmsg.NewPtrProduceResponse()
	res.SetVersion(version)
	topic, part := kmsg.NewProduceResponseTopic(), kmsg.NewProduceResponseTopicPartition()
	part.Partition, part.BaseOffset, part.LogAppendTime, part.LogStartOffset = 3, 1<<40, -1, 5
	topic.Topic, topic.Partitions = "md", append(topic.Partitions, part)
	res.Topics = append(res.Topics, topic)
	if change != nil {
		change(res)
	}
	return res.AppendTo(binary.BigEndian.AppendUint32(nil, uint32(id)))
}

func TestProduceAnswer(t *testing.T) {
	of := func(res *kmsg.ProduceResponse) *kmsg.ProduceResponseTopicPartition {
		return &res.Topics[0].Partitions[0]
	}
	for version := int16(minProduceVersion); version <= maxProduceVersion; version++ {
		for name, tt := range map[string]struct {
			change func(*kmsg.ProduceResponse)
			want   produceAnswer
			err    string
		}{
			"appended":  {want: produceAnswer{offset: 1 << 40}},
			"throttled": {func(r *kmsg.ProduceResponse) { r.ThrottleMillis = 1500 }, produceAnswer{offset: 1 << 40, throttle: 1500 * time.Millisecond}, ""},
			"refused": {func(r *kmsg.ProduceResponse) {
				words, wrong := "no room", kmsg.NewProduceResponseTopicPartitionErrorRecord()
				wrong.RelativeOffset, wrong.ErrorMessage = 4, &words
				p := of(r)
				p.ErrorCode, p.BaseOffset = 56, -1
				p.ErrorRecords, p.ErrorMessage = append(p.ErrorRecords, wrong, wrong), &words
			}, produceAnswer{code: 56, offset: -1, message: map[bool]string{true: "no room"}[version >= 8]}, ""},
			"another partition": {change: func(r *kmsg.ProduceResponse) { of(r).Partition = 2 }, err: "it is for md/2, not md/3"},
			"another topic":     {change: func(r *kmsg.ProduceResponse) { r.Topics[0].Topic = "orders" }, err: "it is for orders/3, not md/3"},
			"no topic":          {change: func(r *kmsg.ProduceResponse) { r.Topics = nil }, err: "it has 0 topics"},
			"no partition":      {change: func(r *kmsg.ProduceResponse) { r.Topics[0].Partitions = nil }, err: "it has 0 partitions"},
			"no offset":         {change: func(r *kmsg.ProduceResponse) { of(r).BaseOffset = -1 }, err: "it gives offset -1"},
		} {
			got, err := readProduceAnswer(bytes.NewReader(produceAnswerOf(version, 9, tt.change)), version, 9, "md", 3)
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Errorf("v%d, %s: %+v, %v, want %q", version, name, got, err, tt.err)
				}
				continue
			}
			if err != nil || got != tt.want {
				t.Errorf("v%d, %s: %+v, %v, want %+v", version, name, got, err, tt.want)
			}
			if code, answered := errorCode(got.err()); answered != (tt.want.code != 0) || code != kafka.Error(tt.want.code) {
				t.Errorf("v%d, %s: its error is %v", version, name, got.err())
			}
		}
		if _, err := readProduceAnswer(bytes.NewReader(produceAnswerOf(version, 9, nil)), version, 10, "md", 3); err == nil {
			t.Errorf("v%d: the answer to another request is taken", version)
		}
	}
}

// saying is a connection that gives what the reader has.
type saying struct {
	net.Conn
	r io.Reader
}

// Read implements io.Reader.
func (s saying) Read(b []byte) (int, error) { return s.r.Read(b) }

func TestProduceAnswersComeInPieces(t *testing.T) {
	for _, size := range []int{0, 1, 56, 511, 512, 513, 100_000} {
		body := bytes.Repeat([]byte{7}, size)
		msg := append(binary.BigEndian.AppendUint32(nil, uint32(size)), body...)
		for name, r := range map[string]io.Reader{
			"whole": bytes.NewReader(msg), "halves": iotest.HalfReader(bytes.NewReader(msg)), "bytes": iotest.OneByteReader(bytes.NewReader(msg)),
		} {
			pc := &produceConn{Conn: saying{r: r}}
			if err := pc.receive(); err != nil || !bytes.Equal(pc.in, body) {
				t.Errorf("%d bytes, %s: %d came, %v", size, name, len(pc.in), err)
			}
		}
		pc := &produceConn{Conn: saying{r: bytes.NewReader(msg[:len(msg)-1])}}
		if err := pc.receive(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes, cut: %v", size, err)
		}
		pc = &produceConn{Conn: saying{r: bytes.NewReader(append(msg, 1))}}
		if err := pc.receive(); size < 400 && err == nil {
			t.Errorf("%d bytes, and one more: no error", size)
		}
	}
	pc := &produceConn{Conn: saying{r: strings.NewReader("")}}
	if err := pc.receive(); !errors.Is(err, io.EOF) {
		t.Errorf("hung up: %v", err)
	}
	for _, size := range []uint32{maxProduceAnswer + 1, 1 << 31, 0xffffffff} {
		pc := &produceConn{Conn: saying{r: bytes.NewReader(append(binary.BigEndian.AppendUint32(nil, size), make([]byte, 100)...))}}
		if err := pc.receive(); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("an answer of %d bytes: %v", size, err)
		}
	}
}

// A size that is a lie costs no more memory than the bytes that come.
func TestHostileProduceAnswersAllocateLittle(t *testing.T) {
	msg := append(binary.BigEndian.AppendUint32(nil, maxProduceAnswer), make([]byte, 1000)...)
	lie := produceAnswerOf(8, 9, nil)
	binary.BigEndian.PutUint32(lie[len(lie)-10:], 1<<31-1) // records with errors
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 20 {
		pc := &produceConn{Conn: saying{r: bytes.NewReader(msg)}}
		if err := pc.receive(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		if _, err := readProduceAnswer(bytes.NewReader(lie), 8, 9, "md", 3); err == nil {
			t.Fatal("no error")
		}
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 20*16<<10 {
		t.Errorf("%d bytes were taken for 20 answers of 1,000 bytes", got)
	}
}

func FuzzProduceAnswer(f *testing.F) {
	for version := int16(minProduceVersion); version <= maxProduceVersion; version++ {
		f.Add(version, produceAnswerOf(version, 9, nil))
	}
	f.Fuzz(func(t *testing.T, version int16, data []byte) {
		if version < minProduceVersion || version > maxProduceVersion {
			return
		}
		a, err := readProduceAnswer(bytes.NewReader(data), version, 9, "md", 3)
		if err != nil {
			return
		}
		// What is taken, another library takes too, and as the same.
		res := kmsg.NewPtrProduceResponse()
		res.SetVersion(version)
		if err := res.ReadFrom(data[4:]); err != nil {
			t.Fatalf("%x is taken: %v", data, err)
		}
		p := res.Topics[0].Partitions[0]
		if got, want := fmt.Sprint(a.code, a.offset), fmt.Sprint(p.ErrorCode, p.BaseOffset); got != want {
			t.Fatalf("%s, not %s", got, want)
		}
	})
}

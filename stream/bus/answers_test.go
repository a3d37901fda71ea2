package bus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go/compress"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/event"
)

// What a record is told depends on whether an attempt before may have appended it.
func TestAnswerAfterAnAmbiguousOneOnKfake(t *testing.T) {
	for _, tt := range []struct {
		name    string
		cut     bool // the first attempt's connection is cut before the answer
		answers []*kerr.Error
		acked   bool
		unknown bool
		stored  int // how often the record is in the log
	}{
		{"timed out, then a duplicate", false, []*kerr.Error{kerr.RequestTimedOut, kerr.DuplicateSequenceNumber}, true, false, 1},
		{"a duplicate at once", false, []*kerr.Error{kerr.DuplicateSequenceNumber}, false, false, 0},
		{"timed out, then not allowed", false, []*kerr.Error{kerr.RequestTimedOut, kerr.TopicAuthorizationFailed}, false, true, 1},
		{"not allowed at once", false, []*kerr.Error{kerr.TopicAuthorizationFailed}, false, false, 0},
		{"cut, then not allowed", true, []*kerr.Error{kerr.TopicAuthorizationFailed}, false, true, 0},
		{"cut, then appended", true, nil, true, false, 1},
		{"moved, then not allowed", false, []*kerr.Error{kerr.NotLeaderForPartition, kerr.TopicAuthorizationFailed}, false, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, v *virtual) {
				c := v.connect(t)
				p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
				var last *kfake.FaultHandle
				for i, answer := range tt.answers {
					f := kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: answer}
					if i == len(tt.answers)-1 {
						f.Count = -1 // whatever else is tried
					}
					last = v.cluster.Fault(f)
				}
				if tt.cut {
					v.cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) { return nil, errors.New("cut"), true })
				}
				told := make(chan error, 1)
				if err := p.Append(event.TopicMarket, 0, []byte("k"), []byte("v"), func(_ int64, err error) { told <- err }); err != nil {
					t.Fatal(err)
				}
				var err error
				select {
				case err = <-told:
				case <-time.After(time.Minute):
					t.Fatal("the record is told nothing")
				}
				if last != nil {
					last.Remove()
				}
				if (err == nil) != tt.acked || errors.Is(err, ErrUnknownOutcome) != tt.unknown || (p.Err() == nil) != tt.acked {
					t.Errorf("the record was told %v, and the producer %v", err, p.Err())
				}
				stored := 0
				if err := everyRecord(t, c, event.TopicMarket, 0, func(Record) error { stored++; return nil }); err != nil || stored != tt.stored {
					t.Errorf("the record is in the log %d times, want %d: %v", stored, tt.stored, err)
				}
				if err := p.Append(event.TopicMarket, 0, []byte("k"), []byte("w"), nil); (err == nil) != tt.acked {
					t.Errorf("the next append gave %v", err)
				}
				if err := p.Flush(t.Context()); (err == nil) != tt.acked || p.Queued() != 0 {
					t.Errorf("flushing gave %v, %d bytes are queued", err, p.Queued())
				}
			})
		})
	}
}

// countOf is the number of records that a produce request carries.
func countOf(r kmsg.Request) int {
	p, ok := r.(*kmsg.ProduceRequest)
	if !ok {
		return 0
	}
	return int(binary.BigEndian.Uint32(p.Topics[0].Partitions[0].Records[countAt:]))
}

// Two records are split too, and each keeps its offset; what is refused for itself
// is told by one Flush.
func TestTwoRecordsAreSplitOnKfake(t *testing.T) {
	inBubble(t, func(t *testing.T, v *virtual) {
		c := v.connect(t)
		p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
		v.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotLeaderForPartition})
		var offsets [3]int64
		put := func(i int) {
			if err := p.Append(event.TopicMarket, 0, []byte("k"), []byte(strconv.Itoa(i)), func(o int64, err error) { offsets[i] = o }); err != nil {
				t.Fatal(err)
			}
		}
		put(0)
		synctest.Wait() // it is to be sent again in a moment, alone
		put(1)
		put(2)
		h := v.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.MessageTooLarge, Count: -1, When: func(r kmsg.Request) bool { return countOf(r) > 1 }})
		if err := p.Flush(t.Context()); err != nil || offsets != [3]int64{0, 1, 2} || h.Hits() != 1 {
			t.Errorf("acknowledged at %v after %d refusals: %v", offsets, h.Hits(), err)
		}
		h.Remove()
		v.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.MessageTooLarge})
		put(0)
		if err := p.Flush(t.Context()); err == nil {
			t.Error("a refused record was not told by Flush")
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Errorf("it was told twice: %v", err)
		}
	})
}

func TestSequenceWraps(t *testing.T) {
	for _, tt := range []struct{ from, count, want int32 }{{0, 1, 1}, {math.MaxInt32 - 1, 1, math.MaxInt32}, {math.MaxInt32, 1, 0}, {math.MaxInt32 - 1, 4, 2}} {
		if got := nextSequence(tt.from, tt.count); got != tt.want {
			t.Errorf("after %d records from %d on: %d, want %d", tt.count, tt.from, got, tt.want)
		}
	}
}

// A broker that gives no producer id is asked again.
func TestNoProducerIDIsAskedForAgainOnKfake(t *testing.T) {
	inBubble(t, func(t *testing.T, v *virtual) {
		c := v.connect(t)
		asked := 0
		defer v.answers.set(func(res kmsg.Response) bool {
			i, ok := res.(*kmsg.InitProducerIDResponse)
			if !ok {
				return false
			}
			if asked++; asked > 2 {
				return false
			}
			i.ProducerID = -1
			return true
		})()
		p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
		if p.id < 0 || asked != 3 {
			t.Errorf("producer id %d after asking %d times", p.id, asked)
		}
	})
}

// brokenCodec fails when its writer is closed.
type brokenCodec struct{ compress.Codec }

type brokenWriter struct{ io.WriteCloser }

func (brokenWriter) Close() error { return errors.New("no room") }

func (c brokenCodec) NewWriter(w io.Writer) io.WriteCloser { return brokenWriter{c.Codec.NewWriter(w)} }

// What a codec does not shrink is sent as it is, and its error is one.
func TestSealWithACodec(t *testing.T) {
	noise := make([]byte, 1000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for _, tt := range []struct {
		value  []byte
		packed bool
	}{{noise, false}, {bytes.Repeat([]byte("a"), 1000), true}} {
		b := new(batch)
		b.reset()
		b.add(nil, tt.value, nil)
		data, err := b.seal(compress.Zstd.Codec(), 1, 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		if attrs := binary.BigEndian.Uint16(data[sizePrefix+attrsAt:]); (attrs&attrCompression != 0) != tt.packed {
			t.Errorf("%d bytes were sent as %d with attributes %x", len(tt.value), len(data), attrs)
		}
		if _, err := b.seal(brokenCodec{compress.Zstd.Codec()}, 1, 1, 1); err == nil {
			t.Error("a codec's error was passed over")
		}
	}
}

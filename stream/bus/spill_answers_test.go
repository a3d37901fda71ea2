package bus

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/event"
)

// TestThrottledLaneWaitsOnKfake: an answer with a throttle time is settled at
// once, and the next request of the partition comes no earlier than asked.
func TestThrottledLaneWaitsOnKfake(t *testing.T) {
	b := startKfake(t, "")
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test"})
	const throttle = 400 * time.Millisecond
	var answered, next atomic.Int64 // Unix nanoseconds
	requests := 0
	b.cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		requests++
		if requests > 1 {
			next.CompareAndSwap(0, time.Now().UnixNano())
			return nil, nil, false
		}
		in := req.(*kmsg.ProduceRequest)
		res := in.ResponseKind().(*kmsg.ProduceResponse)
		res.ThrottleMillis = int32(throttle.Milliseconds())
		for _, topic := range in.Topics {
			out := kmsg.NewProduceResponseTopic()
			out.Topic, out.TopicID = topic.Topic, topic.TopicID
			for _, part := range topic.Partitions {
				x := kmsg.NewProduceResponseTopicPartition()
				x.Partition, x.ErrorCode = part.Partition, kerr.ThrottlingQuotaExceeded.Code
				out.Partitions = append(out.Partitions, x)
			}
			res.Topics = append(res.Topics, out)
		}
		answered.Store(time.Now().UnixNano())
		return res, nil, true
	})
	if err := p.Append(event.TopicMarket, 0, []byte("k"), trade(1), nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the broker asks to be left alone", 10*time.Second, func() bool { return answered.Load() > 0 })
	// What concerns the lane goes on meanwhile.
	for i := range uint64(100) {
		if err := p.Append(event.TopicMarket, 0, []byte("k"), trade(i+2), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if waited := time.Duration(next.Load() - answered.Load()); waited < throttle {
		t.Errorf("the next request came after %s, the broker asked for %s", waited, throttle)
	}
	if got := total(t, c.metrics.throttleSeconds); got <= 0 || got > throttle.Seconds() {
		t.Errorf("%v seconds are counted", got)
	}
	if ids, _ := tradeIDs(t, c, 0); len(ids) != 101 {
		t.Errorf("%d records in the log, want 101", len(ids))
	}
}

// TestSpillThroughEveryAnswerOnKfake has a broker answer each temporary error for
// a while, before and after it has appended, while the queue overflows: every
// record is there once and in order, and the memory bound holds.
func TestSpillThroughEveryAnswerOnKfake(t *testing.T) {
	for _, kind := range []*kerr.Error{
		kerr.KafkaStorageError, kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.CoordinatorLoadInProgress, kerr.NotEnoughReplicas,
		kerr.NotEnoughReplicasAfterAppend, kerr.RequestTimedOut, kerr.UnknownServerError, kerr.ThrottlingQuotaExceeded,
	} {
		t.Run(kind.Message, func(t *testing.T) {
			t.Parallel()
			b := startKfake(t, "")
			c := connect(t, testConfig(b.Addr()))
			const bound = 16 << 10
			p := newProducer(t, c, ProducerConfig{Name: "test", QueueBytes: bound, Spill: SpillConfig{Dir: t.TempDir(), MaxBytes: 4 << 20, After: 1}})
			watchQueue(t, p, bound, 4<<20)
			var n [4]uint64
			var told atomic.Int64
			load := func(count int) {
				for i := range count {
					part := int32(i % 4)
					n[part]++
					if err := p.Append(event.TopicMarket, part, []byte("binance|BTCUSDT"), trade(n[part]), func(_ int64, err error) {
						if err == nil {
							told.Add(1)
						}
					}); err != nil {
						t.Fatal(err)
					}
				}
			}
			h := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kind, Count: -1})
			load(4000)
			if p.Spilled() == 0 {
				t.Error("nothing is spilled")
			}
			h.Remove()
			// And now and then while it drains.
			seen := 0
			b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kind, Count: -1, When: func(kmsg.Request) bool {
				seen++
				return seen%3 == 0
			}})
			load(4000)
			if err := p.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if copies := checkTrades(t, c, n); copies != 0 || told.Load() != 8000 {
				t.Errorf("%d second copies, %d of 8000 acknowledged", copies, told.Load())
			}
			if p.Queued() != 0 || p.Spilled() != 0 {
				t.Errorf("%d bytes are queued and %d spilled", p.Queued(), p.Spilled())
			}
		})
	}
}

// TestOneDeadPartitionHoldsUpNoOtherOnKfake: while one partition's leader takes
// nothing, its records leave the memory that the others need.
func TestOneDeadPartitionHoldsUpNoOtherOnKfake(t *testing.T) {
	b := startKfake(t, "")
	c := connect(t, testConfig(b.Addr()))
	const bound, each = 8 << 10, 3000
	p := newProducer(t, c, ProducerConfig{Name: "test", QueueBytes: bound, Spill: SpillConfig{Dir: t.TempDir(), After: 1}})
	watchQueue(t, p, bound, defaultSpillBytes)
	h := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: event.TopicMarket, Partitions: []int32{2}, Err: kerr.NotLeaderForPartition, Count: -1})
	var acked [4]atomic.Int64
	var all sync.WaitGroup
	for part := range int32(4) {
		all.Go(func() {
			for i := range uint64(each) {
				if err := p.Append(event.TopicMarket, part, []byte("binance|BTCUSDT"), trade(i+1), func(_ int64, err error) {
					if err == nil {
						acked[part].Add(1)
					}
				}); err != nil {
					t.Errorf("partition %d: %v", part, err)
					return
				}
			}
		})
	}
	all.Wait()
	eventually(t, "the other partitions are done", 60*time.Second, func() bool {
		return acked[0].Load() == each && acked[1].Load() == each && acked[3].Load() == each
	})
	if acked[2].Load() != 0 {
		t.Errorf("%d records of the dead partition are acknowledged", acked[2].Load())
	}
	h.Remove()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if copies := checkTrades(t, c, [4]uint64{each, each, each, each}); copies != 0 {
		t.Errorf("%d second copies", copies)
	}
}

// TestSpilledBatchIsSplitWhereTheBrokerTakesLess: what comes from the files is
// split as what comes from memory, and a record that is too large for itself is
// refused alone.
func TestSpilledBatchIsSplitWhereTheBrokerTakesLess(t *testing.T) {
	b, l := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	b.admin.SetConfig(t, event.TopicMarket, map[string]string{"max.message.bytes": "20000"})
	p := newProducer(t, c, ProducerConfig{Name: "test", QueueBytes: 2 << 20, Spill: SpillConfig{Dir: t.TempDir(), After: 1}})
	release := l.hold(t)
	const n = 30_000
	var acked, refused atomic.Int64
	large := rand.IntN(n)
	for i := range n {
		value := fmt.Appendf(nil, "%-60d", i)
		if i == large {
			value = make([]byte, 30_000)
		}
		at := int64(i)
		if i > large {
			at--
		}
		if err := p.Append(event.TopicMarket, 0, []byte("k"), value, func(o int64, err error) {
			switch {
			case err == nil && o == at:
				acked.Add(1)
			case err != nil && i == large:
				refused.Add(1)
			default:
				t.Errorf("record %d was told %d, %v", i, o, err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			inFlight(t, p)
		}
	}
	if p.Spilled() == 0 {
		t.Fatal("nothing is spilled")
	}
	release()
	if err := p.Flush(t.Context()); err == nil {
		t.Error("the record that was refused is not an error")
	}
	if acked.Load() != n-1 || refused.Load() != 1 || p.Queued() != 0 || p.Spilled() != 0 {
		t.Errorf("%d acknowledged at their offset, %d refused, %d bytes queued, %d spilled", acked.Load(), refused.Load(), p.Queued(), p.Spilled())
	}
}

// TestStalledTellsHowLong: and why.
func TestStalledTellsHowLong(t *testing.T) {
	b, _ := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	p := newProducer(t, c, ProducerConfig{Name: "test"})
	release := b.stuck()
	if d, err := p.Stalled(); d != 0 || err != nil {
		t.Errorf("idle: %s, %v", d, err)
	}
	if err := p.Append(event.TopicMarket, 0, nil, trade(1), nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is stalled, and why", 10*time.Second, func() bool {
		d, err := p.Stalled()
		return d > 20*time.Millisecond && err != nil
	})
	release()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d, err := p.Stalled(); d != 0 || err != nil {
		t.Errorf("after all is acknowledged: %s, %v", d, err)
	}
}

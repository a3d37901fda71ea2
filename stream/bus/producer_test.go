package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// total sums a counter over its labels.
func total(t testing.TB, v prometheus.Collector) (sum float64) {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(v)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue()
		}
	}
	return sum
}

// checkOnce fails unless the partitions of the topic hold the n numbers that
// produce wrote, each once and in order.
func checkOnce(t testing.TB, c *Client, topic string, n int) {
	t.Helper()
	for part := range int32(4) {
		got := readAll(t, c, topic, part)
		var want []string
		for i := int(part); i < n; i += 4 {
			want = append(want, fmt.Sprint(i))
		}
		if strings.Join(got, ",") != strings.Join(want, ",") {
			t.Fatalf("partition %d holds %d records, want the %d numbers in order (first differing near %v)", part, len(got), len(want), bustest.FirstDifference(got, want))
		}
	}
}

func TestProduceAnswersOnKfake(t *testing.T) {
	// What each error code of a produce answer does; the table covers the codes
	// that a broker can give. Those of two outcomes say what the record is told.
	const (
		retried = "retried"
		stopped = "stops the producer"
		refused = "refuses the record"
	)
	for _, tt := range []struct {
		err  *kerr.Error
		want string
	}{
		{kerr.CorruptMessage, retried},
		{kerr.UnknownTopicOrPartition, retried},
		{kerr.LeaderNotAvailable, retried},
		{kerr.NotLeaderForPartition, retried},
		{kerr.RequestTimedOut, retried},
		{kerr.ReplicaNotAvailable, retried},
		{kerr.NetworkException, retried},
		{kerr.CoordinatorLoadInProgress, retried},
		{kerr.CoordinatorNotAvailable, retried},
		{kerr.NotCoordinator, retried},
		{kerr.NotEnoughReplicas, retried},
		{kerr.NotEnoughReplicasAfterAppend, retried},
		{kerr.KafkaStorageError, retried},
		{kerr.FencedLeaderEpoch, retried},
		{kerr.UnknownLeaderEpoch, retried},
		{kerr.ThrottlingQuotaExceeded, retried},
		{kerr.UnknownServerError, retried},
		{kerr.MessageTooLarge, refused},
		{kerr.RecordListTooLarge, refused},
		{kerr.InvalidTopicException, stopped},
		{kerr.InvalidRequiredAcks, stopped},
		{kerr.TopicAuthorizationFailed, stopped},
		{kerr.ClusterAuthorizationFailed, stopped},
		{kerr.InvalidTimestamp, stopped},
		{kerr.UnsupportedForMessageFormat, stopped},
		{kerr.UnsupportedCompressionType, stopped},
		{kerr.PolicyViolation, stopped},
		{kerr.OutOfOrderSequenceNumber, stopped},
		{kerr.InvalidProducerEpoch, stopped},
		{kerr.UnknownProducerID, stopped},
		{kerr.ProducerFenced, stopped},
		{kerr.InvalidRecord, stopped},
	} {
		t.Run(tt.err.Message, func(t *testing.T) {
			b := startKfake(t, "")
			c := connect(t, testConfig(b.Addr()))
			p := newProducer(t, c, ProducerConfig{Name: "test"})
			b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: tt.err})
			_, offset, err := p.Publish(t.Context(), event.TopicControl, []byte("all"), &event.Control{ID: event.HashStrings("a")})
			switch tt.want {
			case retried:
				if err != nil || offset != 0 || p.Err() != nil {
					t.Fatalf("published at %d, %v; producer: %v", offset, err, p.Err())
				}
			case refused:
				if err == nil || p.Err() != nil {
					t.Fatalf("publishing gave %v; producer: %v; want only the record refused", err, p.Err())
				}
				if _, _, err := p.Publish(t.Context(), event.TopicControl, []byte("all"), &event.Control{}); err != nil {
					t.Fatalf("the record after the refused one: %v", err)
				}
			case stopped:
				if err == nil || !component.IsFatal(err) || !component.IsFatal(p.Err()) {
					t.Fatalf("publishing gave %v; producer: %v; want a fatal error", err, p.Err())
				}
				if err := p.Append(event.TopicControl, 0, nil, nil, nil); err == nil {
					t.Error("a stopped producer took a record")
				}
			}
			want := 1
			if tt.want == stopped {
				want = 0
			}
			if got := readAll(t, c, event.TopicControl, 0); len(got) != want {
				t.Errorf("the log holds %d records, want %d", len(got), want)
			}
		})
	}
}

func TestLargeBatchIsSplitWhereTheBrokerTakesLess(t *testing.T) {
	b, l := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	b.admin.SetConfig(t, event.TopicMarket, map[string]string{"max.message.bytes": "20000"})
	// Apache Kafka answers before a setting is in force. Settings come into force in
	// their order: one that was made later tells of the earlier.
	b.admin.SetConfig(t, event.TopicSignals, map[string]string{"max.message.bytes": "20000"})
	probe := newProducer(t, c, ProducerConfig{Name: "probe", Blocking: true})
	eventually(t, "the limit is in force", 20*time.Second, func() bool {
		if err := probe.Append(event.TopicSignals, 0, nil, make([]byte, 30_000), nil); err != nil {
			t.Fatal(err)
		}
		return probe.Flush(t.Context()) != nil
	})
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	// Hold the first request back so that a large batch gathers behind it.
	release := l.hold(t)
	const n = 4000
	var acked atomic.Int64
	for i := range n {
		err := p.Append(event.TopicMarket, int32(i%4), []byte("k"), fmt.Appendf(nil, "%d", i), func(o int64, err error) {
			if err == nil && o == int64(i/4) {
				acked.Add(1)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if i == 3 {
			inFlight(t, p) // alone: the rest is one batch a partition
		}
	}
	release()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkOnce(t, c, event.TopicMarket, n)
	if acked.Load() != n || p.Queued() != 0 {
		t.Errorf("%d of %d acknowledged at their offset, %d bytes still queued", acked.Load(), n, p.Queued())
	}
	var refused error
	if err := p.Append(event.TopicMarket, 0, nil, make([]byte, 30_000), func(_ int64, err error) { refused = err }); err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); err == nil || refused == nil || !strings.Contains(refused.Error(), "appending a record of") {
		t.Errorf("a record above the broker's limit gave %v", refused)
	}
	if err := p.Append(event.TopicMarket, 0, nil, make([]byte, maxBatch), nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a record that no batch holds gave %v", err)
	}
}

func TestCompressionRoundTrip(t *testing.T) {
	for _, name := range compressions {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(startBroker(t).Addr())
			cfg.Compression = name
			c := connect(t, cfg)
			p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
			produce(t, p, event.TopicMarket, 0, 5000)
			produce(t, p, event.TopicMarket, 5000, 5)
			checkOnce(t, c, event.TopicMarket, 5005)
		})
	}
}

func TestFullQueueRefusesOrBlocksOnKfake(t *testing.T) {
	b := startKfake(t, "")
	c := connect(t, testConfig(b.Addr()))
	h := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
	refusing := newProducer(t, c, ProducerConfig{Name: "refusing", QueueBytes: 1000})
	value := make([]byte, 300)
	var err error
	var accepted int
	for ; err == nil && accepted < 100; accepted++ {
		err = refusing.Append(event.TopicMarket, 0, nil, value, nil)
	}
	if !errors.Is(err, ErrQueueFull) || accepted > 5 {
		t.Fatalf("after %d records: %v, want a full queue after 3", accepted, err)
	}
	blocking := newProducer(t, c, ProducerConfig{Name: "blocking", QueueBytes: 1000, Blocking: true})
	done := make(chan error, 1)
	var appended atomic.Int64
	go func() {
		for range 50 {
			if err := blocking.Append(event.TopicMarket, 1, nil, value, nil); err != nil {
				done <- err
				return
			}
			appended.Add(1)
		}
		done <- blocking.Flush(context.Background())
	}()
	eventually(t, "three records queued", 2*time.Second, func() bool { return appended.Load() == 3 })
	if q := blocking.Queued(); q > 1000 {
		t.Errorf("%d bytes queued, the bound is 1000", q)
	}
	h.Remove()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := len(readAll(t, c, event.TopicMarket, 1)); got != 50 {
		t.Errorf("%d records in the log, want 50", got)
	}
}

func TestBlockedAppendEndsWithTheProducerOnKfake(t *testing.T) {
	b := startKfake(t, "")
	c := connect(t, testConfig(b.Addr()))
	b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: -1})
	p := newProducer(t, c, ProducerConfig{Name: "test", QueueBytes: 500, Blocking: true})
	var told atomic.Pointer[error]
	if err := p.Append(event.TopicMarket, 0, nil, make([]byte, 400), func(_ int64, err error) { told.Store(&err) }); err != nil {
		t.Fatal(err)
	}
	blocked := make(chan error, 1)
	go func() { blocked <- p.Append(event.TopicMarket, 0, nil, make([]byte, 400), nil) }()
	eventually(t, "append blocks", 2*time.Second, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.waiting == 1
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("closing gave %v, want the deadline", err)
	}
	if err := <-blocked; !errors.Is(err, ErrClosed) {
		t.Errorf("the blocked append gave %v", err)
	}
	if err := *told.Load(); !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("a record that was sent and not answered was told %v", err)
	}
}

func TestSingleRecordIsSentAtOnce(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test"})
	best := time.Hour
	for i := range 50 {
		began := time.Now()
		if _, o, err := p.Publish(t.Context(), event.TopicControl, []byte("all"), &event.Control{}); err != nil || o != int64(i) {
			t.Fatal(o, err)
		}
		best = min(best, time.Since(began))
	}
	if best > 5*time.Millisecond {
		t.Errorf("the fastest acknowledgement took %s: something lingers", best)
	}
}

package clustertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// load is a producer and a group's member at work on topic md, and what was
// acknowledged and handled.
type load struct {
	t       testing.TB
	cluster *cluster
	client  *bus.Client
	p       *bus.Producer
	log     *bustest.Log
	metrics *prometheus.Registry
	loadOptions

	stop    chan struct{}
	stopped chan int // records appended
	leave   func()

	mu      sync.Mutex
	acked   map[int32][]ack // in the order of the acknowledgements
	lastAck map[int32]time.Time
	gap     map[int32]time.Duration // the longest time without one since calm
	handled map[int32][]string
	again   int // records handled a second time, after a handover
}

type ack struct {
	offset int64
	value  string
}

// loadQueue bounds what waits, so that Append blocks while nothing is
// acknowledged for a second or two.
const loadQueue = 256 << 10

// loadOptions are what a load is like.
type loadOptions struct {
	only []int32 // partitions that are written; nil is all
	size int     // of a value, in bytes; 0 is 80
	seed string  // the only broker that is configured; "" is all
	// spills gives the producer files instead of blocking its load, and a queue of
	// so many bytes.
	spills int
}

func startLoad(t testing.TB, c *cluster, o loadOptions) *load {
	t.Helper()
	if o.only == nil {
		o.only = []int32{0, 1, 2, 3}
	}
	if o.size == 0 {
		o.size = 80
	}
	l := &load{
		t: t, cluster: c, loadOptions: o, log: &bustest.Log{}, metrics: prometheus.NewRegistry(), stop: make(chan struct{}), stopped: make(chan int, 1),
		acked: make(map[int32][]ack), lastAck: make(map[int32]time.Time), gap: make(map[int32]time.Duration), handled: make(map[int32][]string),
	}
	cfg := c.config()
	if o.seed != "" {
		cfg.Brokers, cfg.Replication = []string{o.seed}, 3
	}
	env := component.Discard()
	env.Log, env.Metrics = slog.New(slog.NewTextHandler(l.log, nil)), l.metrics
	l.client = connect(t, cfg, env)
	var err error
	producer := bus.ProducerConfig{Name: "test", Blocking: true, QueueBytes: loadQueue}
	if o.spills > 0 {
		producer.Blocking, producer.QueueBytes = false, o.spills
		producer.Spill = bus.SpillConfig{Dir: t.TempDir(), MaxBytes: 64 << 20, After: time.Millisecond}
	}
	if l.p, err = l.client.NewProducer(t.Context(), producer, env); err != nil {
		t.Fatal(err)
	}
	k := l.client.NewConsumer(bus.ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}, KeepCopies: true}, env)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx, l.handle) }()
	l.leave = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the group's member: %v", err)
		}
	})
	t.Cleanup(l.leave)
	select {
	case <-k.Ready():
	case <-time.After(90 * time.Second):
		t.Fatal("the group's member is not ready after 90 s")
	}
	go l.append()
	t.Cleanup(func() { l.end() })
	t.Cleanup(func() { // first, or an Append that waits for room would not end
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = l.p.Close(ctx)
	})
	l.flows()
	return l
}

// append writes numbered records, two thousand a second, until it is stopped.
func (l *load) append() {
	n := 0
	defer func() { l.stopped <- n }()
	tick := time.NewTicker(10 * time.Millisecond) // a rate that a loaded machine can follow
	defer tick.Stop()
	for ; ; n++ {
		if n%20 == 0 {
			select {
			case <-l.stop:
				return
			case <-tick.C:
			}
		}
		part, value := l.only[n%len(l.only)], l.value(n)
		err := l.p.Append(event.TopicMarket, part, fmt.Appendf(nil, "k%d", n%13), []byte(value), func(offset int64, err error) {
			if err != nil {
				l.t.Errorf("record %d: %v", n, err)
				return
			}
			l.note(part, offset, value)
		})
		if err != nil {
			l.t.Errorf("appending record %d: %v", n, err)
			return
		}
	}
}

// value is the value of the nth record.
func (l *load) value(n int) string { return fmt.Sprintf("%d %0*d", n, l.size, 0) }

func (l *load) note(part int32, offset int64, value string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if last := l.lastAck[part]; !last.IsZero() {
		l.gap[part] = max(l.gap[part], now.Sub(last))
	}
	l.lastAck[part] = now
	l.acked[part] = append(l.acked[part], ack{offset, value})
}

// handle notes every record once and refuses a gap.
func (l *load) handle(ctx context.Context, a *bus.Assignment) error {
	a.Ready()
	for {
		records, err := a.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		l.mu.Lock()
		for _, r := range records {
			switch next := int64(len(l.handled[a.Partition])); {
			case r.Offset > next:
				l.t.Errorf("partition %d: offset %d is handled where %d is next", a.Partition, r.Offset, next)
			case r.Offset < next:
				l.again++
				continue
			}
			l.handled[a.Partition] = append(l.handled[a.Partition], string(r.Value))
		}
		l.mu.Unlock()
		a.Commit(a.Position())
	}
}

// total sums one of the bus's counters.
func (l *load) total(name string) float64 {
	return bustest.Counter(l.t, l.metrics, "autohedge_bus_"+name+"_total")
}

// count returns how many records of a partition were acknowledged.
func (l *load) count(part int32) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked[part])
}

func (l *load) handledCount() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range l.handled {
		n += len(v)
	}
	return n
}

// flows waits until further records of every partition are acknowledged and
// handled.
func (l *load) flows() {
	l.t.Helper()
	handled := l.handledCount()
	for _, part := range l.only {
		before := l.count(part)
		bustest.Eventually(l.t, fmt.Sprintf("records of partition %d are acknowledged", part), 90*time.Second, func() bool { return l.count(part) > before+100 })
	}
	bustest.Eventually(l.t, "records are handled", 90*time.Second, func() bool { return l.handledCount() > handled+100*len(l.only) })
}

// calm forgets the gaps; outage returns the longest since then, over all
// partitions.
func (l *load) calm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.gap)
}

func (l *load) outage() (longest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.gap {
		longest = max(longest, d)
	}
	return longest.Round(time.Millisecond)
}

// end stops appending and returns how many records were appended.
func (l *load) end() int {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	n := <-l.stopped
	l.stopped <- n
	return n
}

// committed waits until the group's commits have gone beyond what is handled now.
func (l *load) committed() {
	l.t.Helper()
	l.mu.Lock()
	want := make(map[int32]int64)
	for part, v := range l.handled {
		want[part] = int64(len(v))
	}
	l.mu.Unlock()
	bustest.Settles(l.t, "commits arrive", 60*time.Second, func() bool {
		lags, err := l.client.Lag(l.t.Context(), "test")
		if err != nil {
			return false
		}
		for _, lag := range lags {
			if lag.Committed < want[lag.Partition] {
				return false
			}
		}
		return len(lags) > 0
	})
}

// verify ends the load and holds the log against what was acknowledged: every
// record once, at the offset that was told, in the order of the Append calls,
// and handled without a gap.
func (l *load) verify() {
	t := l.t
	t.Helper()
	n := l.end()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	if err := l.p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	bustest.Eventually(t, "everything is handled", 90*time.Second, func() bool { return l.handledCount() >= n })
	l.leave()
	l.mu.Lock()
	defer l.mu.Unlock()
	found, copies := 0, 0
	for i, part := range l.only {
		log := l.cluster.read(t, event.TopicMarket, part)
		found += len(log)
		seen := make(map[string]bool, len(log))
		for _, v := range log {
			if seen[v] {
				copies++
			}
			seen[v] = true
		}
		var want []string
		for k := i; k < n; k += len(l.only) {
			want = append(want, l.value(k))
		}
		if !slices.Equal(log, want) {
			t.Errorf("partition %d holds %d records, want the %d that were appended, in order (%s)", part, len(log), len(want), bustest.FirstDifference(log, want))
		}
		if !slices.Equal(l.handled[part], want) {
			t.Errorf("partition %d: %d records handled, want %d in order (%s)", part, len(l.handled[part]), len(want), bustest.FirstDifference(l.handled[part], want))
		}
		if len(l.acked[part]) != len(want) {
			t.Errorf("partition %d: %d records acknowledged, %d appended", part, len(l.acked[part]), len(want))
		}
		for _, a := range l.acked[part] {
			if a.offset >= 0 && (a.offset >= int64(len(log)) || log[a.offset] != a.value) {
				t.Fatalf("partition %d: record %.8q was acknowledged at offset %d, which holds another", part, a.value, a.offset)
			}
		}
	}
	t.Logf("%d records appended, acknowledged, in the log (%d) and handled (%d of them again after a handover), %d second copies in the log, %v batches, %v retries, %v fetches retried",
		n, found, l.again, copies, l.total("produced_batches"), l.total("produce_retries"), l.total("fetch_retries"))
}

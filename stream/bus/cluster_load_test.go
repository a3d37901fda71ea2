package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/bus/kafkatest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// threeBrokers is the cluster that the tests share. It is started by the first
// that asks for it, and every test finds it whole and without topics and groups.
var threeBrokers struct {
	sync.Mutex
	cluster *kafkatest.Cluster
	gone    error // why there is none
}

// clusterProperties let the controller pass over a broker that was killed or
// stopped after 4 s instead of 9 s, and a leader over a follower that copies
// nothing after 8 s instead of 30 s.
var clusterProperties = map[string]string{
	"broker.session.timeout.ms": "4000", "broker.heartbeat.interval.ms": "500", "replica.lag.time.max.ms": "8000",
}

// cluster is three brokers and a client of another make, to inspect them with.
type cluster struct {
	*kafkatest.Cluster
	*broker
}

// needCluster skips where the tests do not run on Apache Kafka.
func needCluster(t testing.TB) {
	t.Helper()
	apacheOnly(t, "three brokers are Apache Kafka's")
}

// startCluster returns the shared cluster.
func startCluster(t testing.TB) *cluster {
	t.Helper()
	needCluster(t)
	threeBrokers.Lock()
	defer threeBrokers.Unlock()
	if threeBrokers.cluster == nil && threeBrokers.gone == nil {
		began := time.Now()
		threeBrokers.cluster, threeBrokers.gone = kafkatest.StartCluster(context.Background(), kafkatest.ClusterConfig{Properties: clusterProperties})
		t.Logf("three brokers listen after %s", time.Since(began).Round(time.Millisecond))
	}
	needApache(t, threeBrokers.gone)
	c := asCluster(t, threeBrokers.cluster)
	c.mend(t)
	c.wipe(t)
	return c
}

// startOwnCluster starts a cluster for one test.
func startOwnCluster(t testing.TB, cfg kafkatest.ClusterConfig) *cluster {
	t.Helper()
	needCluster(t)
	cfg.Properties = clusterProperties
	k, err := kafkatest.StartCluster(t.Context(), cfg)
	needApache(t, err)
	t.Cleanup(func() {
		kept, err := k.Stop(t.Failed())
		if err != nil {
			t.Error(err)
		}
		if kept != "" {
			t.Logf("the logs of the brokers are in %s", kept)
		}
	})
	c := asCluster(t, k)
	c.whole(t)
	return c
}

func asCluster(t testing.TB, k *kafkatest.Cluster) *cluster {
	t.Helper()
	admin, err := kgo.NewClient(kgo.SeedBrokers(k.Addrs()...), kgo.DialTimeout(2*time.Second), kgo.RequestTimeoutOverhead(2*time.Second), kgo.RetryTimeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	return &cluster{k, &broker{addr: k.Addrs()[0], admin: admin}}
}

// clientConfig reaches all brokers.
func (c *cluster) clientConfig() Config {
	cfg := testConfig("")
	cfg.Brokers = c.Addrs()
	return cfg
}

// partitions returns the partitions of a topic in their order, as a broker that
// answers knows them.
func (c *cluster) partitions(t testing.TB, topic string) []kmsg.MetadataResponseTopicPartition {
	t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = kmsg.StringPtr(topic)
	req.Topics = append(req.Topics, rt)
	res, err := req.RequestWith(t.Context(), c.admin)
	parts := ask(t, res, err).Topics[0].Partitions
	slices.SortFunc(parts, func(a, b kmsg.MetadataResponseTopicPartition) int { return int(a.Partition - b.Partition) })
	return parts
}

// leader returns the node id of a partition's leader, 0 while it has none.
func (c *cluster) leader(t testing.TB, topic string, partition int32) int {
	t.Helper()
	for _, p := range c.partitions(t, topic) {
		if p.Partition == partition {
			return max(int(p.Leader), 0)
		}
	}
	return 0
}

// coordinator returns the node id of a group's coordinator.
func (c *cluster) coordinator(t testing.TB, group string) (id int) {
	t.Helper()
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKey, find.CoordinatorKeys = group, []string{group}
	settles(t, "the group has a coordinator", 30*time.Second, func() bool {
		res, err := find.RequestWith(t.Context(), c.admin)
		if err != nil {
			return false
		}
		if id = int(res.NodeID); len(res.Coordinators) > 0 {
			id = int(res.Coordinators[0].NodeID)
		}
		return id > 0
	})
	return id
}

// mend starts every broker that does not run and waits until every partition has
// all its replicas.
func (c *cluster) mend(t testing.TB) {
	t.Helper()
	if err := c.Restart(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	for _, b := range c.Brokers() {
		if err := b.Resume(); err != nil { // a test may have left it stopped
			t.Fatal(err)
		}
	}
	c.whole(t)
}

func (c *cluster) restart(t testing.TB, id int) {
	t.Helper()
	if err := c.Broker(id).Restart(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// settles is eventually for what brokers are asked for that have other work to do.
func settles(t testing.TB, what string, within time.Duration, ok func() bool) {
	t.Helper()
	poll(t, what, within, 50*time.Millisecond, ok)
}

// up is how many brokers the controller counts on.
func (c *cluster) up(t testing.TB) int {
	t.Helper()
	res, err := kmsg.NewPtrMetadataRequest().RequestWith(t.Context(), c.admin)
	return len(ask(t, res, err).Brokers)
}

// whole waits until every partition has all its replicas.
func (c *cluster) whole(t testing.TB) {
	t.Helper()
	settles(t, "every replica is in sync", 60*time.Second, func() bool {
		req := kmsg.NewPtrMetadataRequest()
		req.Topics = nil // all
		res, err := req.RequestWith(t.Context(), c.admin)
		if err != nil || len(res.Brokers) < kafkatest.Nodes {
			return false
		}
		for _, topic := range res.Topics {
			for _, p := range topic.Partitions {
				if p.Leader < 0 || len(p.ISR) < len(p.Replicas) {
					return false
				}
			}
		}
		return true
	})
}

// clusterLoad is a producer and a group's member at work on topic md, and what was
// acknowledged and handled.
type clusterLoad struct {
	t       testing.TB
	cluster *cluster
	client  *Client
	p       *Producer
	notes   *notes
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
}

func startLoad(t testing.TB, c *cluster, o loadOptions) *clusterLoad {
	t.Helper()
	if o.only == nil {
		o.only = []int32{0, 1, 2, 3}
	}
	if o.size == 0 {
		o.size = 80
	}
	l := &clusterLoad{
		t: t, cluster: c, loadOptions: o, notes: &notes{}, stop: make(chan struct{}), stopped: make(chan int, 1),
		acked: make(map[int32][]ack), lastAck: make(map[int32]time.Time), gap: make(map[int32]time.Duration), handled: make(map[int32][]string),
	}
	cfg := c.clientConfig()
	if o.seed != "" {
		cfg.Brokers, cfg.Replication = []string{o.seed}, 3
	}
	l.client = connect(t, cfg)
	env := component.Discard()
	env.Log = slog.New(slog.NewTextHandler(l.notes, nil))
	var err error
	if l.p, err = l.client.NewProducer(t.Context(), ProducerConfig{Name: "test", Blocking: true, QueueBytes: loadQueue}, env); err != nil {
		t.Fatal(err)
	}
	k := l.client.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}, KeepCopies: true}, env)
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
func (l *clusterLoad) append() {
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
func (l *clusterLoad) value(n int) string { return fmt.Sprintf("%d %0*d", n, l.size, 0) }

func (l *clusterLoad) note(part int32, offset int64, value string) {
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
func (l *clusterLoad) handle(ctx context.Context, a *Assignment) error {
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

// count returns how many records of a partition were acknowledged.
func (l *clusterLoad) count(part int32) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked[part])
}

func (l *clusterLoad) handledCount() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range l.handled {
		n += len(v)
	}
	return n
}

// flows waits until further records of every partition are acknowledged and
// handled.
func (l *clusterLoad) flows() {
	l.t.Helper()
	handled := l.handledCount()
	for _, part := range l.only {
		before := l.count(part)
		eventually(l.t, fmt.Sprintf("records of partition %d are acknowledged", part), 90*time.Second, func() bool { return l.count(part) > before+100 })
	}
	eventually(l.t, "records are handled", 90*time.Second, func() bool { return l.handledCount() > handled+100*len(l.only) })
}

// calm forgets the gaps; outage returns the longest since then, over all
// partitions.
func (l *clusterLoad) calm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.gap)
}

func (l *clusterLoad) outage() (longest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.gap {
		longest = max(longest, d)
	}
	return longest.Round(time.Millisecond)
}

// end stops appending and returns how many records were appended.
func (l *clusterLoad) end() int {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	n := <-l.stopped
	l.stopped <- n
	return n
}

// verify ends the load and holds the log against what was acknowledged: every
// record once, at the offset that was told, in the order of the Append calls,
// and handled without a gap.
func (l *clusterLoad) verify() {
	t := l.t
	t.Helper()
	n := l.end()
	ctx, cancel := contextWithTimeout(t, 90*time.Second)
	defer cancel()
	if err := l.p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "everything is handled", 90*time.Second, func() bool { return l.handledCount() >= n })
	l.leave()
	l.mu.Lock()
	defer l.mu.Unlock()
	found, copies := 0, 0
	for i, part := range l.only {
		log := l.cluster.readRaw(t, event.TopicMarket, part)
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
			t.Errorf("partition %d holds %d records, want the %d that were appended, in order (%s)", part, len(log), len(want), firstDifference(log, want))
		}
		if !slices.Equal(l.handled[part], want) {
			t.Errorf("partition %d: %d records handled, want %d in order (%s)", part, len(l.handled[part]), len(want), firstDifference(l.handled[part], want))
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
		n, found, l.again, copies, total(t, l.client.metrics.producedBatches), total(t, l.client.metrics.produceRetries), total(t, l.client.metrics.fetchRetries))
}

// readRaw reads a partition from start to end with another client than ours.
func (c *cluster) readRaw(t testing.TB, topic string, partition int32) (values []string) {
	t.Helper()
	end := int64(-1)
	settles(t, "the partition's end is known", 30*time.Second, func() bool {
		req := kmsg.NewPtrListOffsetsRequest()
		req.ReplicaID = -1
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = topic
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp = partition, -1
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		res, err := req.RequestWith(t.Context(), c.admin)
		if err != nil || res.Topics[0].Partitions[0].ErrorCode != 0 {
			return false
		}
		end = res.Topics[0].Partitions[0].Offset
		return true
	})
	r, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs()...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().AtStart()}}))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := contextWithTimeout(t, 60*time.Second)
	defer cancel()
	for int64(len(values)) < end {
		fetches := r.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatalf("reading %s/%d with franz-go: %v", topic, partition, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset != int64(len(values)) {
				t.Fatalf("%s/%d: offset %s follows %d records", topic, partition, strconv.FormatInt(r.Offset, 10), len(values))
			}
			values = append(values, string(r.Value))
		})
	}
	return values
}

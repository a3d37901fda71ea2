package clustertest

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/bus/kafkatest"
	"github.com/autohedge/autohedge/stream/component"
)

// shared is the cluster that the tests share. It is started by the first that asks
// for it, and every test finds it whole and without topics and groups.
var shared struct {
	sync.Mutex
	cluster *kafkatest.Cluster
	disks   smallDisks
	gone    error // why there is none
}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(bustest.Run{M: m, Brokers: func() (stop []func(bool) (string, error)) {
		if shared.cluster != nil {
			stop = append(stop, shared.cluster.Stop, shared.disks.remove)
		}
		return stop
	}})
}

// properties let the controller pass over a broker that was killed or
// stopped after 4 s instead of 9 s, and a leader over a follower that copies
// nothing after 8 s instead of 30 s.
var properties = map[string]string{
	"broker.session.timeout.ms": "4000", "broker.heartbeat.interval.ms": "500", "replica.lag.time.max.ms": "8000",
}

// cluster is three brokers and a client of another make, to inspect them with.
type cluster struct {
	*kafkatest.Cluster
	admin *bustest.Admin
}

// needCluster skips where the tests do not run on Apache Kafka.
func needCluster(t testing.TB) {
	t.Helper()
	bustest.ApacheOnly(t, "three brokers are Apache Kafka's")
}

// startCluster returns the shared cluster.
func startCluster(t testing.TB) *cluster {
	t.Helper()
	needCluster(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.cluster == nil && shared.gone == nil {
		began := time.Now()
		dirs, err := shared.disks.make()
		if err != nil {
			t.Fatal(err)
		}
		shared.cluster, shared.gone = kafkatest.StartCluster(context.Background(), kafkatest.ClusterConfig{Properties: properties, LogDirs: dirs})
		t.Logf("three brokers listen after %s", time.Since(began).Round(time.Millisecond))
	}
	bustest.NeedApache(t, shared.gone)
	c := asCluster(t, shared.cluster)
	c.mend(t)
	c.admin.Wipe(t)
	return c
}

// startOwnCluster starts a cluster for one test.
func startOwnCluster(t testing.TB, cfg kafkatest.ClusterConfig) *cluster {
	t.Helper()
	needCluster(t)
	cfg.Properties = properties
	k, err := kafkatest.StartCluster(t.Context(), cfg)
	bustest.NeedApache(t, err)
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
	return &cluster{k, bustest.NewAdmin(t, kgo.SeedBrokers(k.Addrs()...), kgo.DialTimeout(2*time.Second), kgo.RequestTimeoutOverhead(2*time.Second), kgo.RetryTimeout(30*time.Second))}
}

// config is that of a client that knows all brokers.
func (c *cluster) config() bus.Config {
	cfg := bus.DefaultConfig()
	cfg.Partitions = 4
	cfg.Brokers = c.Addrs()
	return cfg
}

// connect returns a client whose topics exist.
func connect(t testing.TB, cfg bus.Config, env component.Env) *bus.Client {
	t.Helper()
	c, err := bus.Connect(t.Context(), cfg, env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
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
	parts := bustest.Ask(t, res, err).Topics[0].Partitions
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
	bustest.Settles(t, "the group has a coordinator", 30*time.Second, func() bool {
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

// up is how many brokers the controller counts on.
func (c *cluster) up(t testing.TB) int {
	t.Helper()
	res, err := kmsg.NewPtrMetadataRequest().RequestWith(t.Context(), c.admin)
	return len(bustest.Ask(t, res, err).Brokers)
}

// whole waits until every partition has all its replicas.
func (c *cluster) whole(t testing.TB) {
	t.Helper()
	bustest.Settles(t, "every replica is in sync", 60*time.Second, func() bool {
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

// read returns a partition from start to end with another client than ours.
func (c *cluster) read(t testing.TB, topic string, partition int32) (values []string) {
	t.Helper()
	end := int64(-1)
	bustest.Settles(t, "the partition's end is known", 30*time.Second, func() bool {
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
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
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

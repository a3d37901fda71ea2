package clustertest

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/event"
)

// lead makes a broker the leader of a partition, as who balances a cluster does: the
// first of its replicas, then the one that is elected.
func (c *cluster) lead(t testing.TB, topic string, partition int32, broker int) {
	t.Helper()
	alter := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	alter.TimeoutMillis = 10_000
	at := kmsg.NewAlterPartitionAssignmentsRequestTopic()
	at.Topic = topic
	ap := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
	ap.Partition = partition
	for i := range len(c.Brokers()) {
		ap.Replicas = append(ap.Replicas, int32((broker-1+i)%len(c.Brokers())+1))
	}
	at.Partitions = append(at.Partitions, ap)
	alter.Topics = append(alter.Topics, at)
	res, err := alter.RequestWith(t.Context(), c.admin)
	bustest.Check(t, "putting a replica first", bustest.Ask(t, res, err).Topics[0].Partitions[0].ErrorCode)
	elect := kmsg.NewPtrElectLeadersRequest()
	elect.TimeoutMillis = 10_000
	et := kmsg.NewElectLeadersRequestTopic()
	et.Topic, et.Partitions = topic, []int32{partition}
	elect.Topics = append(elect.Topics, et)
	bustest.Settles(t, "the leader has moved", 60*time.Second, func() bool {
		if _, err := elect.RequestWith(t.Context(), c.admin); err != nil {
			t.Fatal(err)
		}
		return c.leader(t, topic, partition) == broker
	})
}

// Leadership moves from broker to broker while the queue spills: it spills because a
// broker that leads some partitions stands still.
func TestLeadersMovedWhileTheQueueSpills(t *testing.T) {
	c := startCluster(t)
	l := startLoad(t, c, loadOptions{spills: 8 << 10})
	moves := 0
	for round := range 2 {
		l.calm()
		victim := c.leader(t, event.TopicMarket, 0)
		if err := c.Broker(victim).Pause(); err != nil {
			t.Fatal(err)
		}
		bustest.Eventually(t, "records are spilled", 60*time.Second, func() bool { return l.p.Spilled() > 64<<10 })
		if err := c.Broker(victim).Resume(); err != nil {
			t.Fatal(err)
		}
		c.whole(t)
		// While the files are read back and further records go behind them.
		for part := range int32(4) {
			to := (c.leader(t, event.TopicMarket, part)+round%2)%3 + 1
			c.lead(t, event.TopicMarket, part, to)
			moves++
		}
		l.flows()
		t.Logf("leader %d stopped and woken, then the leader of every partition moved; none acknowledged for %s", victim, l.outage())
	}
	if l.total("spilled_records") == 0 || l.total("produce_retries") == 0 {
		t.Errorf("%v records went through the files, %v requests were sent again", l.total("spilled_records"), l.total("produce_retries"))
	}
	t.Logf("%d moves, %v records through the files", moves, l.total("spilled_records"))
	l.verify()
}

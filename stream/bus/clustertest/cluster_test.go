package clustertest

import (
	"context"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/bus/kafkatest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

func TestTopicsAreReplicated(t *testing.T) {
	c := startCluster(t)
	connect(t, c.config(), component.Discard())
	for _, spec := range event.Topics {
		for _, p := range c.partitions(t, spec.Name) {
			if len(p.Replicas) != 3 {
				t.Errorf("%s/%d has %d replicas, want 3", spec.Name, p.Partition, len(p.Replicas))
			}
		}
		if got := c.admin.Config(t, spec.Name, "min.insync.replicas"); got != "2" {
			t.Errorf("%s: min.insync.replicas is %q, want 2", spec.Name, got)
		}
	}
}

// A broker that is down when the topics are made gets its replicas all the same:
// without it they would have two for good.
func TestTopicsAreReplicatedWhileABrokerIsDown(t *testing.T) {
	c := startCluster(t)
	c.Broker(2).Kill()
	bustest.Settles(t, "two brokers are up", 60*time.Second, func() bool { return c.up(t) == 2 })
	connect(t, c.config(), component.Discard())
	c.restart(t, 2)
	c.whole(t)
	for _, spec := range event.Topics {
		for _, p := range c.partitions(t, spec.Name) {
			if len(p.Replicas) != 3 {
				t.Errorf("%s/%d has %d replicas, want 3", spec.Name, p.Partition, len(p.Replicas))
			}
		}
	}
}

func TestFollowerKilledUnderLoad(t *testing.T) {
	c := startCluster(t)
	connect(t, c.config(), component.Discard())
	// Only partitions that the victim does not lead.
	victim := c.leader(t, event.TopicMarket, 0)
	var followed []int32
	for _, p := range c.partitions(t, event.TopicMarket) {
		if int(p.Leader) != victim {
			followed = append(followed, p.Partition)
		}
	}
	l := startLoad(t, c, loadOptions{only: followed})
	l.calm()
	c.Broker(victim).Kill()
	l.flows()
	t.Logf("follower %d killed, %d partitions written, none acknowledged for %s", victim, len(followed), l.outage())
	c.restart(t, victim)
	c.whole(t)
	l.verify()
}

func TestLeadersKilledUnderLoad(t *testing.T) {
	c := startCluster(t)
	// The first to be killed is also the only one that was configured.
	connect(t, c.config(), component.Discard())
	l := startLoad(t, c, loadOptions{seed: c.Broker(c.leader(t, event.TopicMarket, 0)).Addr()})
	// Until every partition has lost a leader, and three times at least.
	lost := make(map[int32]bool)
	for round := 0; round < 3 || len(lost) < 4; round++ {
		victim := c.leader(t, event.TopicMarket, int32(round%4))
		var led []int32
		for _, p := range c.partitions(t, event.TopicMarket) {
			if int(p.Leader) == victim {
				led = append(led, p.Partition)
				lost[p.Partition] = true
			}
		}
		l.calm()
		c.Broker(victim).Kill()
		l.flows()
		for _, part := range led {
			if now := c.leader(t, event.TopicMarket, part); now == victim || now == 0 {
				t.Errorf("md/%d: the leader is %d after %d was killed", part, now, victim)
			}
		}
		t.Logf("leader %d of partitions %v killed, none acknowledged for %s", victim, led, l.outage())
		c.restart(t, victim)
		c.whole(t)
	}
	l.verify()
}

// The brokers are restarted one after the other, in good order, as for an update.
func TestRolledUnderLoad(t *testing.T) {
	c := startCluster(t)
	l := startLoad(t, c, loadOptions{})
	for _, b := range c.Brokers() {
		l.calm()
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		err := b.Shutdown(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		l.flows()
		t.Logf("broker %d shut down, none acknowledged for %s", b.ID(), l.outage())
		c.restart(t, b.ID())
		c.whole(t)
	}
	l.verify()
}

// A leader that stands still answers nothing and keeps its connections; when it
// wakes it is no leader any more.
func TestLeaderPausedUnderLoad(t *testing.T) {
	c := startCluster(t)
	l := startLoad(t, c, loadOptions{})
	for part := range int32(2) {
		l.calm()
		victim := c.leader(t, event.TopicMarket, part)
		if err := c.Broker(victim).Pause(); err != nil {
			t.Fatal(err)
		}
		l.flows()
		outage := l.outage()
		if err := c.Broker(victim).Resume(); err != nil {
			t.Fatal(err)
		}
		c.whole(t)
		l.flows()
		t.Logf("leader %d of md/%d stopped and woken, none acknowledged for %s", victim, part, outage)
	}
	l.verify()
}

func TestGroupCoordinatorKilled(t *testing.T) {
	c := startCluster(t)
	l := startLoad(t, c, loadOptions{})
	victim := c.coordinator(t, l.client.Group("test"))
	c.Broker(victim).Kill()
	l.flows()
	bustest.Settles(t, "the group has moved", 60*time.Second, func() bool { return c.coordinator(t, l.client.Group("test")) != victim })
	l.committed()
	c.restart(t, victim)
	c.whole(t)
	l.verify()
}

// With one replica of three, nothing is acknowledged; what waits is acknowledged
// once when another replica is back.
func TestTwoBrokersDown(t *testing.T) {
	for _, tt := range []struct {
		name          string
		oneController bool
		answer        string
	}{
		// The controller goes on and takes the dead out of the replicas in sync.
		{"with a controller", true, "Not Enough Replicas"},
		// Nobody may: the leader appends and waits in vain for the others.
		{"without a controller", false, "Request Timed Out"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			needCluster(t)
			var c *cluster
			if tt.oneController {
				c = startOwnCluster(t, kafkatest.ClusterConfig{OneController: true})
			} else {
				c = startCluster(t)
			}
			l := startLoad(t, c, loadOptions{})
			c.Broker(2).Kill()
			l.flows()
			c.Broker(3).Kill()
			began := time.Now()
			bustest.Eventually(t, "the producer is told "+tt.answer, 90*time.Second, func() bool { return l.log.Contains(tt.answer) })
			bustest.Eventually(t, "Append blocks", 30*time.Second, func() bool { return l.p.Queued() > loadQueue-2000 })
			before := l.count(0) + l.count(1) + l.count(2) + l.count(3)
			// Not acknowledged for as long as two are down: the queue stays full.
			retries := l.total("produce_retries")
			bustest.Eventually(t, "further tries are refused", 90*time.Second, func() bool { return l.total("produce_retries") >= retries+4 })
			if now := l.count(0) + l.count(1) + l.count(2) + l.count(3); now != before {
				t.Errorf("%d records were acknowledged with one broker of three", now-before)
			}
			down := time.Since(began)
			c.restart(t, 3)
			l.flows()
			t.Logf("two of three down for %s: %q, nothing acknowledged, %d records waited; back %s after one returned", down.Round(time.Millisecond), tt.answer, loadQueue/100, (time.Since(began) - down).Round(time.Millisecond))
			c.restart(t, 2)
			c.whole(t)
			l.verify()
		})
	}
}

// All three are killed at once, as when the power of a rack fails (what the
// kernel holds survives here, so it is the protocol that is tried).
func TestAllBrokersKilled(t *testing.T) {
	c := startCluster(t)
	l := startLoad(t, c, loadOptions{})
	l.calm()
	for _, b := range c.Brokers() {
		b.Kill()
	}
	c.mend(t)
	l.flows()
	t.Logf("all killed and started again, none acknowledged for %s", l.outage())
	l.verify()
}

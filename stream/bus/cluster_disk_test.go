package bus

import (
	"slices"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/bus/kafkatest"
	"github.com/autohedge/autohedge/stream/event"
)

// diskVictim is the broker whose disk becomes full: never the only controller.
const diskVictim = 3

// smallDisk is what the disk of the test is given, in MiB.
const smallDisk = 48

// One broker's disk is full: it, or what of it lies there, is given up by the
// cluster, and the others go on.
func TestClusterDiskFull(t *testing.T) {
	t.Run("the broker's only one", func(t *testing.T) {
		needCluster(t)
		disk := mountSmallDisk(t, smallDisk)
		c := startOwnCluster(t, kafkatest.ClusterConfig{LogDirs: map[int][]string{diskVictim: {disk.dir}}})
		testDiskFull(t, c, func() {}, disk.enlarge)
	})
	t.Run("one of the broker's two", func(t *testing.T) {
		needCluster(t)
		disk := mountSmallDisk(t, smallDisk)
		c := startOwnCluster(t, kafkatest.ClusterConfig{LogDirs: map[int][]string{diskVictim: {t.TempDir(), disk.dir}}})
		testDiskFull(t, c, func() {}, disk.enlarge)
	})
	// Those who may not mount a disk limit the size of the broker's files instead.
	t.Run("by a limit of its files", func(t *testing.T) {
		c := startCluster(t)
		testDiskFull(t, c, func() {
			if err := c.Broker(diskVictim).LimitFiles(6 << 20); err != nil {
				t.Fatal(err)
			}
		}, func() {})
	})
}

// testDiskFull writes until the victim's disk is full and on, then makes room
// and brings the victim back.
func testDiskFull(t *testing.T, c *cluster, limit, makeRoom func()) {
	l := startLoad(t, c, loadOptions{size: 4000})
	led := func() (n int) {
		for _, p := range c.partitions(t, event.TopicMarket) {
			if p.Leader == diskVictim {
				n++
			}
		}
		return n
	}
	inSync := func() (n int) {
		for _, p := range c.partitions(t, event.TopicMarket) {
			if slices.Contains(p.ISR, diskVictim) {
				n++
			}
		}
		return n
	}
	leads, replicas := led(), inSync()
	if leads == 0 {
		t.Fatal("the victim leads no partition")
	}
	l.calm()
	limit()
	began := time.Now()
	settles(t, "the disk is full", 120*time.Second, func() bool { return inSync() < replicas })
	full := time.Since(began)
	l.flows()
	if !c.Broker(diskVictim).Running() && led() > 0 {
		t.Error("the victim ended and still leads")
	}
	t.Logf("full after %s; the victim led %d partitions and leads %d, had %d replicas in sync and has %d, its process runs: %v; none acknowledged for %s",
		full.Round(time.Millisecond), leads, led(), replicas, inSync(), c.Broker(diskVictim).Running(), l.outage())
	makeRoom()
	c.Broker(diskVictim).Kill()
	c.restart(t, diskVictim)
	c.whole(t)
	l.flows()
	l.verify()
}

package clustertest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/event"
)

const (
	// oneDisk is the broker whose only disk is a small one, twoDisks the one that has
	// a small one beside another.
	oneDisk, twoDisks = 3, 2
	// smallDisk is the size of a small disk, in MiB.
	smallDisk = 256
)

// disk is a small file system in memory.
type disk struct{ dir string }

func (d disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// makeRoom undoes fill.
func (d disk) makeRoom() error { return os.Remove(d.ballast()) }

// smallDisks are those of the shared cluster.
type smallDisks struct {
	dirs  []string // to be removed
	disks map[int]disk
	gone  error // why there are none
}

// make mounts the disks and returns the log folders of the brokers that have one.
// Those who may not mount a disk get a cluster without.
func (s *smallDisks) make() (logDirs map[int][]string, err error) {
	logDirs, s.disks = make(map[int][]string), make(map[int]disk)
	for _, id := range []int{oneDisk, twoDisks} {
		dir, err := os.MkdirTemp("", "autohedge-disk-")
		if err != nil {
			return nil, err
		}
		s.dirs = append(s.dirs, dir)
		d := disk{filepath.Join(dir, "small")}
		if err := os.Mkdir(d.dir, 0o750); err != nil {
			return nil, err
		}
		if s.gone = d.mount(smallDisk); s.gone != nil {
			return nil, nil //nolint:nilerr // who needs a disk is told, see of
		}
		s.disks[id], logDirs[id] = d, []string{d.dir}
		if id == twoDisks {
			logDirs[id] = []string{filepath.Join(dir, "large"), d.dir}
		}
	}
	return logDirs, nil
}

// remove ends them; the brokers must have ended.
func (s *smallDisks) remove(bool) (string, error) {
	var all []error
	for _, d := range s.disks {
		all = append(all, d.unmount())
	}
	for _, dir := range s.dirs {
		all = append(all, os.RemoveAll(dir))
	}
	return "", errors.Join(all...)
}

// of returns the small disk of a broker of the shared cluster. Only root may mount
// one: outside CI the test is skipped for others.
func (s *smallDisks) of(t *testing.T, id int) disk {
	t.Helper()
	if s.gone != nil && os.Getenv("CI") == "true" {
		t.Fatal(s.gone)
	}
	if s.gone != nil {
		t.Skip(s.gone)
	}
	return s.disks[id]
}

// One broker's disk is full: it, or what of it lies there, is given up by the
// cluster, and the others go on.
func TestDiskFull(t *testing.T) {
	for name, victim := range map[string]int{"the broker's only one": oneDisk, "one of the broker's two": twoDisks} {
		t.Run(name, func(t *testing.T) {
			c := startCluster(t)
			d := shared.disks.of(t, victim)
			testDiskFull(t, c, victim, loadOptions{}, d.fill, d.makeRoom)
		})
	}
	// Those who may not mount a disk limit the size of the broker's files instead.
	t.Run("by a limit of its files", func(t *testing.T) {
		c := startCluster(t)
		testDiskFull(t, c, oneDisk, loadOptions{size: 4000}, func() error { return c.Broker(oneDisk).LimitFiles(3 << 20) }, func() error { return nil })
	})
}

// testDiskFull fills the victim's disk under load, then makes room and brings the
// victim back.
func testDiskFull(t *testing.T, c *cluster, victim int, o loadOptions, fill, makeRoom func() error) {
	l := startLoad(t, c, o)
	led := func() (n int) {
		for _, p := range c.partitions(t, event.TopicMarket) {
			if int(p.Leader) == victim {
				n++
			}
		}
		return n
	}
	inSync := func() (n int) {
		for _, p := range c.partitions(t, event.TopicMarket) {
			if slices.Contains(p.ISR, int32(victim)) {
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
	if err := fill(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	bustest.Settles(t, "the disk is full", 120*time.Second, func() bool { return inSync() < replicas })
	full := time.Since(began)
	l.flows()
	if !c.Broker(victim).Running() && led() > 0 {
		t.Error("the victim ended and still leads")
	}
	t.Logf("out after %s; the victim led %d partitions and leads %d, had %d replicas in sync and has %d, its process runs: %v; none acknowledged for %s",
		full.Round(time.Millisecond), leads, led(), replicas, inSync(), c.Broker(victim).Running(), l.outage())
	if err := makeRoom(); err != nil {
		t.Fatal(err)
	}
	c.Broker(victim).Kill()
	c.restart(t, victim)
	c.whole(t)
	l.flows()
	l.verify()
}

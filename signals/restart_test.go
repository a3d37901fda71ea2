package signals

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// often saves whenever it can, so that a life that ends anywhere most often ends
// while a snapshot is being taken, waits for acknowledgements or is written.
func often(cfg Config) Config {
	cfg.Snapshots = SnapshotConfig{Every: time.Millisecond, Records: 1}
	return cfg
}

// restored counts what the partitions of a role began with.
func (r *running) restored(from string) int {
	return int(testutil.ToFloat64(r.role.metrics.restores.WithLabelValues(from)))
}

// TestHundredRestarts kills the role a hundred times at random moments, with
// snapshots as often as can be, in groups that know their offsets and in new ones:
// the signals in the log are those of one engine that read the log once.
func TestHundredRestarts(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	c := startCluster(t)
	m := newMarket(seed, true, demoKeys...)
	cfg := often(anywhere(""))
	fed := 0
	feed := func(n int) {
		c.market(m, n)
		fed += n
	}
	feed(500)
	var snapshots, starts, saved, replayed, unready int
	for life := range 100 {
		group := "" // the offsets of the group are there
		if r.IntN(2) == 0 {
			group = fmt.Sprintf("signals-%d", life)
		}
		role := c.start(cfg, group)
		if r.IntN(4) > 0 {
			role.ready()
		} else {
			unready++
		}
		for range r.IntN(4) {
			feed(1 + r.IntN(60))
			time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond) // where it is cut is up to chance
		}
		if r.IntN(10) == 0 {
			role.ready()
			role.drain()
		} else {
			role.kill()
		}
		snapshots, starts = snapshots+role.restored(fromSnapshot), starts+role.restored(fromStart)
		saved += int(testutil.ToFloat64(role.role.metrics.snapshots))
		replayed += int(testutil.ToFloat64(role.role.metrics.replayed))
	}
	last := c.start(cfg, "")
	last.ready()
	feed(500)
	c.caughtUp()
	last.drain()
	c.compare(cfg)
	t.Logf("seed %d: %d records, 100 lives, %d cut while they were restoring; %d partitions restored from a snapshot, %d from the start; %d snapshots saved, %d records replayed; %d signals",
		seed, fed, unready, snapshots, starts, saved, replayed, len(c.published()))
	if snapshots < 100 || saved < 30 || starts > snapshots/2 {
		t.Errorf("seed %d: too few snapshots: the test shows little", seed)
	}
}

// childVar makes the test binary a role that runs until it is killed: what it
// holds is broker, session and group.
const childVar = "AUTOHEDGE_TEST_SIGNALS"

func child() int {
	fields := strings.Split(os.Getenv(childVar), " ")
	cfg := bus.DefaultConfig()
	cfg.Partitions = 4
	cfg.Brokers, cfg.Partitions, cfg.Session = fields[:1], testPartitions, fields[1]
	env := component.Discard()
	env.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	err := func() error {
		client, err := bus.Connect(context.Background(), cfg, env)
		if err != nil {
			return err
		}
		if err := client.EnsureTopics(context.Background()); err != nil {
			return err
		}
		role, err := New(often(anywhere("")), client, env)
		if err != nil {
			return err
		}
		role.consumer = client.NewConsumer(bus.ConsumerConfig{Role: fields[2], Topics: []string{event.TopicMarket}}, role.env)
		return role.Run(context.Background())
	}()
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// TestKilledProcess is the same with a process of its own and SIGKILL.
func TestKilledProcess(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	c := startCluster(t)
	m := newMarket(seed, true, demoKeys...)
	c.market(m, 500)
	for life := range 5 {
		cmd := exec.Command(os.Args[0])
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s killed-%d", childVar, c.cfg.Brokers[0], c.cfg.Session, life))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if t.Failed() {
				_ = cmd.Process.Kill() // it may run still
				t.Logf("process of life %d: %s", life, stderr.String())
			}
		})
		before := c.newest(0)
		c.market(m, 300)
		eventually(t, "the process saves a snapshot", func() bool {
			s := c.newest(0)
			return s != nil && (before == nil || s.Epoch > before.Epoch)
		})
		c.market(m, 1+r.IntN(300))
		time.Sleep(time.Duration(r.IntN(5000)) * time.Microsecond) // where it is cut is up to chance
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("the process ended with %v: %s", err, stderr.String())
		}
	}
	last := c.start(often(anywhere("")), "")
	last.ready()
	if n := last.restored(fromSnapshot); n != testPartitions {
		t.Errorf("%d partitions were restored from a snapshot, want %d", n, testPartitions)
	}
	c.market(m, 500)
	c.caughtUp()
	last.drain()
	c.compare(anywhere(""))
}

// newest is the newest whole snapshot of a partition.
func (c *cluster) newest(partition int32) *bus.Snapshot {
	c.t.Helper()
	s, err := c.client.LoadSnapshot(context.Background(), SnapshotKey(partition))
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// own takes the partition over from whoever has it.
func (c *cluster) own(partition int32) *bus.Owner {
	c.t.Helper()
	o, err := c.client.Own(context.Background(), bus.OwnConfig{Name: "test", Key: ownerKey(partition), Blocking: true, Partitions: []bus.TopicPartition{
		{Topic: event.TopicSignals, Partition: partition}, {Topic: event.TopicSignalState, Partition: partition}}}, component.Discard())
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = o.Close(context.Background()) })
	return o
}

// forge writes a snapshot by hand: its manifest names sum, whatever its chunk has.
func (c *cluster) forge(p *bus.Producer, partition int32, s *bus.Snapshot, chunks [][]byte, claimed int, sum uint32) {
	c.t.Helper()
	ctx := context.Background()
	key := func(suffix string) []byte { return fmt.Appendf(nil, "snapshot|engine|%d|0|%s", s.Epoch, suffix) }
	id := event.HashStrings("forged", fmt.Sprint(s.Epoch))
	m := event.SnapshotManifest{Name: "engine", Epoch: s.Epoch, Save: id, InputTopic: event.TopicMarket, Incarnation: s.Incarnation, Input: s.Input,
		Form: s.Form, Chunks: uint32(claimed), Size: uint64(len(s.State)), First: -1, StateChecksum: sum}
	for _, o := range s.Outputs {
		m.Outputs = append(m.Outputs, event.SnapshotOutput(o))
	}
	for i, data := range chunks {
		value := event.Marshal(&event.SnapshotChunk{Name: "engine", Save: id, Index: uint32(i), Data: data})
		if err := p.Append(event.TopicSignalState, partition, key(fmt.Sprint(i)), value, nil); err != nil {
			c.t.Fatal(err)
		}
	}
	m.Checksum = crc32.Checksum(event.Marshal(&m), castagnoli)
	if err := p.Append(event.TopicSignalState, partition, key("manifest"), event.Marshal(&m), nil); err != nil {
		c.t.Fatal(err)
	}
	if err := p.Flush(ctx); err != nil {
		c.t.Fatal(err)
	}
}

// TestDamagedSnapshots puts damaged snapshots behind the good ones, in every way
// that one can be damaged: the role starts from the one before, or replays the
// log, and the signals are the same.
func TestDamagedSnapshots(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		// harm writes a snapshot that is newer than the good one.
		harm func(c *cluster, o *bus.Owner, good *bus.Snapshot)
		from string
	}{
		{"a flipped bit in a chunk", func(c *cluster, o *bus.Owner, good *bus.Snapshot) {
			bad := bytes.Clone(good.State)
			bad[len(bad)/2] ^= 4
			c.forge(o.Producer, 1, good, [][]byte{bad}, 1, crc32.Checksum(good.State, castagnoli))
		}, fromSnapshot},
		{"a chunk cut short", func(c *cluster, o *bus.Owner, good *bus.Snapshot) {
			c.forge(o.Producer, 1, good, [][]byte{good.State[:len(good.State)/2]}, 1, crc32.Checksum(good.State, castagnoli))
		}, fromSnapshot},
		{"no chunk", func(c *cluster, o *bus.Owner, good *bus.Snapshot) {
			c.forge(o.Producer, 1, good, nil, 1, crc32.Checksum(good.State, castagnoli))
		}, fromSnapshot},
		{"an altered state", func(c *cluster, o *bus.Owner, good *bus.Snapshot) {
			bad := bytes.Clone(good.State)
			bad[len(bad)-100] ^= 4
			c.forge(o.Producer, 1, good, [][]byte{bad}, 1, crc32.Checksum(bad, castagnoli))
		}, fromStart},
		{"an older form", func(c *cluster, o *bus.Owner, good *bus.Snapshot) {
			good.Form--
			c.forge(o.Producer, 1, good, [][]byte{good.State}, 1, crc32.Checksum(good.State, castagnoli))
		}, fromStart},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t)
			m := newMarket(12, true, demoKeys...)
			c.market(m, 2000)
			first := c.start(anywhere(""), "")
			first.ready()
			first.drain()
			c.market(m, 2000)
			o := c.own(1)
			good := c.newest(1)
			input := good.Input
			good.Epoch, good.Input = o.Number(), good.Input+50
			tc.harm(c, o, good)
			again := c.start(anywhere(""), "")
			again.ready()
			want := map[string]int{fromSnapshot: testPartitions - 1}
			want[tc.from]++
			for _, from := range []string{fromSnapshot, fromStart} {
				if got := again.restored(from); got != want[from] {
					t.Errorf("%d partitions were restored from %s, want %d", got, from, want[from])
				}
			}
			again.drain()
			c.compare(anywhere(""))
			if s := c.newest(1); s == nil || s.Input <= input+50 || s.Epoch <= o.Number() {
				t.Errorf("the newest snapshot is %+v after a stop in order", s)
			}
		})
	}
}

// A former owner that wakes up after its successor has begun cannot save, and what
// it wrote just before loses against the successor's.
func TestZombieSnapshotLoses(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	m := newMarket(13, true, demoKeys...)
	c.market(m, 2000)
	first := c.start(anywhere(""), "")
	first.ready()
	first.drain()
	zombie := c.own(1)
	old := c.newest(1)
	old.Epoch = 0
	c.market(m, 2000)
	role := c.start(anywhere(""), "")
	role.ready()
	err := c.client.SaveSnapshot(context.Background(), zombie.Producer, SnapshotKey(1), old)
	if !errors.Is(err, bus.ErrFenced) {
		t.Errorf("a zombie's snapshot gave %v, want %v", err, bus.ErrFenced)
	}
	role.drain()
	// As if it had arrived behind the successor's, from further on in the log.
	newest := c.newest(1)
	late := *newest
	late.Epoch, late.Input = zombie.Number(), newest.Input+1000
	c.forge(c.producer, 1, &late, [][]byte{late.State}, 1, crc32.Checksum(late.State, castagnoli))
	if s := c.newest(1); s.Epoch != newest.Epoch || s.Input != newest.Input {
		t.Errorf("the newest snapshot is of epoch %d at %d, want %d at %d", s.Epoch, s.Input, newest.Epoch, newest.Input)
	}
	c.market(m, 1000)
	again := c.start(anywhere(""), "")
	again.ready()
	if n := again.restored(fromSnapshot); n != testPartitions {
		t.Errorf("%d partitions were restored from a snapshot", n)
	}
	again.drain()
	c.compare(anywhere(""))
}

// A snapshot whose offset retention overtook, and one of another incarnation, stop
// the role with both numbers.
func TestSnapshotOfAnotherLog(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	m := newMarket(14, true, demoKeys...)
	c.market(m, 2000)
	first := c.start(anywhere(""), "")
	first.ready()
	first.drain()
	o := c.own(1)
	other := c.newest(1)
	other.Epoch, other.Incarnation = o.Number(), event.HashStrings("former")
	c.forge(o.Producer, 1, other, [][]byte{other.State}, 1, crc32.Checksum(other.State, castagnoli))
	err := c.stopped()
	for _, want := range []string{event.HashStrings("former").String(), c.client.Incarnation(event.TopicMarket).String(), fmt.Sprint(other.Input),
		"topics adopt md", "topics discard md"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want it to name %s", err, want)
		}
	}
}

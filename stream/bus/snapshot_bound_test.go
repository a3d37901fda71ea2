package bus

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

// snapshotsVar is how many snapshots the tests of bounds save; 300 when it is not set.
const snapshotsVar = "AUTOHEDGE_TEST_SNAPSHOTS"

func manySnapshots(t testing.TB) int {
	t.Helper()
	text := os.Getenv(snapshotsVar)
	if text == "" {
		return 300
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 10 {
		t.Fatalf("%s is %q: want a number from 10", snapshotsVar, text)
	}
	return n
}

var ownedKey = func() SnapshotKey { k := snapKey; k.Owner = "signals.1"; return k }()

// A start reads a few snapshots' bytes, however many lie in the log: after one
// owner's long reign, after owners that saved once, twice or not at all, and for
// those who only look.
func TestSnapshotReadsLittleOfALongLog(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	const size = 200 << 10
	var newest *Snapshot
	input := int64(0)
	saves := func(n int) {
		o := own(t, c, "signals.1", snapKey.partitions()...)
		for range n {
			input++
			newest = save(t, c, o, input, randomState(uint64(input), size))
		}
	}
	saves(manySnapshots(t))
	for _, then := range []int{-1, 0, 1, 2} {
		if then >= 0 {
			saves(then)
		}
		bounds, err := c.Offsets(t.Context(), snapKey.Topic)
		if err != nil {
			t.Fatal(err)
		}
		late := connect(t, testConfig(b.Addr()))
		read := late.metrics.fetchedBytes.WithLabelValues(snapKey.Topic)
		floor, ok, err := late.SnapshotFloor(t.Context(), ownedKey)
		if err != nil || !ok || then < 0 && floor != input-1 {
			t.Fatalf("floor %d, %t, %v after input %d", floor, ok, err, input)
		}
		looked := total(t, read)
		own(t, late, "signals.1", snapKey.partitions()...)
		began := total(t, read)
		if _, ok := is(load(t, late), newest); !ok {
			t.Fatal("another snapshot than the newest was loaded")
		}
		loaded := total(t, read) - began
		t.Logf("%d snapshots of %d bytes, %d records, the last owner saved %d: %.0f bytes read to load, %.0f to look for the floor",
			input, size, bounds[snapKey.Partition].End, then, loaded, looked)
		// The steps back, 4 MiB read ahead in each, and the state. Where the last
		// owners saved nothing, their predecessors' slots are looked for.
		if most := float64(40*size + 5*4*fetchBytes); loaded > most || looked > most {
			t.Errorf("read %.0f and %.0f bytes, want at most %.0f", loaded, looked, most)
		}
	}
}

// randomLog is what owners, their crashes and others' late records may leave in a
// partition of state: half-written saves, removed slots, compaction, damage. Late
// saves of former owners come only up to the last owner's first record of its own.
func randomLog(r *rand.Rand, incarnation event.ID) (l *stateLog, last uint64) {
	l = &stateLog{}
	add := func(key string, value []byte) {
		gap := int64(1 + r.IntN(40)/39*r.IntN(50))
		offset := gap
		if n := len(l.records); n > 0 {
			offset += l.records[n-1].Offset
		}
		l.records = append(l.records, Record{Topic: snapKey.Topic, Partition: snapKey.Partition, Offset: offset, Key: []byte(key), Value: value})
	}
	input := int64(1)
	saveAs := func(epoch uint64, slot uint32, whole bool) {
		m := &event.SnapshotManifest{Name: snapKey.Name, Epoch: epoch, Save: newID(), Slot: slot, InputTopic: snapKey.Input, Incarnation: incarnation, Input: input}
		input++
		state := randomState(r.Uint64(), 1+r.IntN(40))
		size := 1 + r.IntN(10)
		m.Chunks, m.Size, m.StateChecksum = uint32((len(state)+size-1)/size), uint64(len(state)), crc32.Checksum(state, castagnoli)
		for i := range m.Chunks {
			if !whole && r.IntN(4) == 0 {
				return
			}
			data := state[int(i)*size : min(len(state), int(i+1)*size)]
			add(chunkKey(snapKey.slot(epoch, slot), i), event.Marshal(&event.SnapshotChunk{Name: m.Name, Save: m.Save, Index: i, Data: data}))
			if i == 0 {
				m.First = l.records[len(l.records)-1].Offset
			}
		}
		m.Checksum = manifestChecksum(m)
		add(manifestKey(snapKey.slot(epoch, slot)), event.Marshal(m))
	}
	owners := 1 + r.IntN(4)
	for e := uint64(1); e <= uint64(owners); e++ {
		add("signals.1", event.Marshal(&event.Epoch{Key: "signals.1", Number: e}))
		last = e
		slot := uint32(0)
		for range r.IntN(12) {
			switch r.IntN(12) {
			case 0:
				saveAs(e, slot, false)
			case 1:
				add(fmt.Sprintf("rules/1/%d", r.IntN(100)), []byte("x"))
			case 2:
				if e > 1 { // what former owners left is removed
					for s := range uint32(2) {
						add(manifestKey(snapKey.slot(e-1, s)), nil)
					}
				}
			default:
				saveAs(e, slot, true)
				slot = 1 - slot
			}
		}
	}
	for range r.IntN(3) { // past the fence, of whoever is not the last
		if last > 1 {
			saveAs(1+r.Uint64N(last-1), uint32(r.IntN(2)), true)
		}
	}
	if r.IntN(2) == 0 {
		l = l.compacted()
	}
	for range r.IntN(3) {
		if n := len(l.records); n > 0 {
			if x := &l.records[r.IntN(n)]; len(x.Value) > 0 {
				hurtRecord(r, x)
			}
		}
	}
	return l, last
}

// What is loaded backwards is what is loaded by who reads the whole log, of any log,
// and it takes fewer records.
func TestSnapshotIsTheSameReadBackwards(t *testing.T) {
	c := &Client{}
	r := rand.New(rand.NewPCG(20261125, 11))
	const logs = 6_000
	var some, fewer, backwards, whole int
	for i := range logs {
		l, last := randomLog(r, c.Incarnation(snapKey.Input))
		count := func(known bool) (s *Snapshot, records int) {
			c.reigns = map[TopicPartition]reign{snapKey.at(): {"signals.1", last}}
			if !known {
				delete(c.reigns, snapKey.at())
			}
			x := l.loader(c)
			scan := x.scan
			x.scan = func(from, end int64, each func(Record) error) error {
				return scan(from, end, func(r Record) error { records++; return each(r) })
			}
			s, err := x.load()
			if err != nil {
				t.Fatal(err)
			}
			return s, records
		}
		want, all := count(false)
		got, some1 := count(true)
		if _, ok := is(got, want); !ok {
			t.Fatalf("log %d (last owner %d): backwards %+v, whole %+v", i, last, brief(got), brief(want))
		}
		if want != nil {
			some++
		}
		if some1 < all {
			fewer++
		}
		backwards, whole = backwards+some1, whole+all
	}
	t.Logf("%d logs, %d with a whole snapshot: the same each time; %d took fewer records, %d instead of %d in all", logs, some, fewer, backwards, whole)
	if some < logs/2 || fewer < logs/10 {
		t.Error("the logs are not what they should be")
	}
}

// The settings of a state topic bound what lies on the disk: a hundred times the
// bytes of two slots are saved, and what is left is a few segments.
func TestStateTopicIsBounded(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	if b.cluster == nil {
		// As the topic is made, but with the least segment that Kafka allows and
		// nothing that waits a minute.
		b.admin.SetConfig(t, snapKey.Topic, map[string]string{"segment.bytes": "1048576", "min.compaction.lag.ms": "0"})
	}
	o := own(t, c, "signals.1", snapKey.partitions()...)
	const size = 200 << 10
	var newest *Snapshot
	n := manySnapshots(t) / 3
	for i := range n {
		newest = save(t, c, o, int64(i), randomState(uint64(i), size))
	}
	var left int64
	eventually(t, "what was replaced is gone from the disk", time.Minute, func() bool {
		if b.cluster != nil {
			b.cluster.Compact()
		}
		use, err := c.DiskUse(t.Context())
		if err != nil {
			return false
		}
		left, _ = use.Bytes(snapKey.Topic, snapKey.Partition)
		return left > 0 && left < 4<<20
	})
	if _, ok := is(load(t, c), newest); !ok {
		t.Fatal("another snapshot than the newest was loaded")
	}
	t.Logf("%d snapshots, %d bytes in all, %d bytes are left", n, n*size, left)
}

// Every setting that bounds a state topic, on the broker that runs.
func TestStateTopicsAreMadeBounded(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	want := map[string]string{"cleanup.policy": "compact", "segment.bytes": "67108864", "segment.ms": "600000"}
	if onApache() {
		want["min.compaction.lag.ms"], want["max.compaction.lag.ms"], want["min.cleanable.dirty.ratio"] = "60000", "3600000", "0.1"
	}
	for _, topic := range []string{event.TopicSignalState, event.TopicSinkState} {
		for name, value := range want {
			if got := b.admin.Config(t, topic, name); got != value {
				t.Errorf("%s of %s is %q, want %s", name, topic, got, value)
			}
		}
	}
	states, err := c.DescribeTopics(t.Context())
	if err != nil || slices.ContainsFunc(states, func(s TopicState) bool { return len(s.Wrong) > 0 }) {
		t.Errorf("states %+v, %v", states, err)
	}
}

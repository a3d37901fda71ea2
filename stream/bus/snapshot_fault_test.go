package bus

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// A former owner's snapshot that comes late loses, though it is the last written
// and its input offset is higher: the owner's is refused, and one that gets past
// the fence all the same neither counts nor replaces what the owner saved, also
// not in the slot that held the newest.
func TestSnapshotOfAFormerOwnerLoses(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	former := own(t, c, "signals.1", snapKey.partitions()...)
	save(t, c, former, 100, randomState(1, 3000))
	next := own(t, c, "signals.1", snapKey.partitions()...)
	late := &Snapshot{Incarnation: c.Incarnation(event.TopicMarket), Input: 900, State: randomState(2, 3000)}
	if err := c.SaveSnapshot(t.Context(), former.Producer, snapKey, late); !errors.Is(err, ErrFenced) {
		t.Fatalf("the former owner's save gave %v, want ErrFenced", err)
	}
	if got := load(t, c); got == nil || got.Input != 100 {
		t.Fatalf("before the successor saved, %+v was loaded, want the former owner's of 100", brief(got))
	}
	for i := range 3 { // from here on each of its slots held the newest once
		want := save(t, c, next, int64(200+i), randomState(uint64(10+i), 3000))
		for slot := range uint32(2) {
			unfenced := newProducer(t, c, ProducerConfig{Name: "zombie"})
			zombie := &Owner{Producer: unfenced, key: former.key, number: former.number, partitions: snapKey.partitions(), lapse: ownerLapse, chunk: 1000}
			unfenced.owner = zombie
			zombie.savesOf(snapKey).last = slot
			if err := c.SaveSnapshot(t.Context(), unfenced, snapKey, &Snapshot{Incarnation: late.Incarnation, Input: 900, State: late.State}); err != nil {
				t.Fatal(err)
			}
			for what, l := range map[string]*stateLog{"as it is": captured(t, c), "compacted": captured(t, c).compacted()} {
				if got, _ := l.load(t, c); got == nil || got.Epoch != next.number || got.Input != want.Input || !bytes.Equal(got.State, want.State) {
					t.Fatalf("after a late save to slot %d, the log %s gives %+v, want input %d of owner %d", 1-slot, what, brief(got), want.Input, next.number)
				}
			}
		}
	}
}

// Savers of one owner go one after another; a takeover among them leaves the last
// owner's last snapshot.
func TestSnapshotSaversRace(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	var refused, saved int
	for round := range 4 {
		o := own(t, c, "signals.1", snapKey.partitions()...)
		o.chunk = 1000
		var wg sync.WaitGroup
		var mu sync.Mutex
		highest := int64(-1)
		for i := range 8 {
			wg.Go(func() {
				s := &Snapshot{Incarnation: c.Incarnation(event.TopicMarket), Input: int64(i), State: bytes.Repeat([]byte{byte(round), byte(i)}, 900+i*100)}
				err := c.SaveSnapshot(t.Context(), o.Producer, snapKey, s)
				mu.Lock()
				defer mu.Unlock()
				if err != nil { // another with a higher input offset came before
					refused++
					return
				}
				saved++
				highest = max(highest, s.Input)
			})
		}
		wg.Wait()
		got := load(t, c)
		if got == nil || got.Epoch != o.Number() || got.Input != highest || !bytes.Equal(got.State, bytes.Repeat([]byte{byte(round), byte(highest)}, 900+int(highest)*100)) {
			t.Fatalf("round %d: loaded %+v, want input %d of owner %d, unmixed", round, brief(got), highest, o.Number())
		}
		if highest != 7 {
			t.Errorf("round %d: the highest input offset saved is %d, want 7", round, highest)
		}
	}
	t.Logf("%d saved, %d refused because a newer one was saved before", saved, refused)
}

// compactState compacts the partition of the snapshots; add appends a record to it.
func (b *broker) compactState(t *testing.T, c *Client, add func()) {
	t.Helper()
	if b.cluster != nil {
		b.cluster.Compact()
		return
	}
	add()
	time.Sleep(250 * time.Millisecond) // segment.ms
	add()
	eventually(t, "the state is compacted", 30*time.Second, func() bool {
		n := 0
		for _, r := range captured(t, c).records {
			if string(r.Key) == "probe" {
				n++
			}
		}
		return n <= 2
	})
}

// Compaction removes what was overwritten: of a slot that a newer save overwrote
// half-way nothing whole is left, and the other slot counts.
func TestSnapshotSurvivesCompaction(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	b.admin.SetConfig(t, snapKey.Topic, compactible)
	former := own(t, c, "signals.1", snapKey.partitions()...)
	save(t, c, former, 50, randomState(50, 2500))
	o := own(t, c, "signals.1", snapKey.partitions()...)
	o.chunk = 1000
	probe := func() {
		if err := o.add(t, snapKey.at(), "probe"); err != nil {
			t.Fatal(err)
		}
		if _, err := o.publish(t.Context(), snapKey.at(), []byte("probe"), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	var newest *Snapshot
	for i := range 6 {
		newest = save(t, c, o, int64(100+i), randomState(uint64(i), 3500))
		probe()
		time.Sleep(250 * time.Millisecond) // segment.ms: its records go to a segment of their own
	}
	before := len(captured(t, c).records)
	b.compactState(t, c, probe)
	after := captured(t, c)
	if got, ok := is(load(t, c), newest); !ok {
		t.Fatalf("after compaction another snapshot was loaded: %d", got)
	}
	if len(after.records) >= before {
		t.Fatalf("%d records before compaction, %d after: nothing was compacted", before, len(after.records))
	}
	// The next save overwrites the older slot and dies half-way.
	slot := snapKey.slot(o.number, 1-o.savesOf(snapKey).last)
	for i := range uint32(2) {
		chunk := event.Marshal(&event.SnapshotChunk{Name: snapKey.Name, Save: newID(), Index: i, Data: []byte("half")})
		if _, err := o.publish(t.Context(), snapKey.at(), []byte(chunkKey(slot, i)), chunk); err != nil {
			t.Fatal(err)
		}
	}
	probe()
	b.compactState(t, c, probe)
	if _, ok := is(load(t, c), newest); !ok {
		t.Fatal("after a save that died half-way, another snapshot than the newest was loaded")
	}
	// Now the newest is damaged too: the other slot is not whole any more.
	if _, err := o.publish(t.Context(), snapKey.at(), []byte(manifestKey(snapKey.slot(o.number, o.savesOf(snapKey).last))), nil); err != nil {
		t.Fatal(err)
	}
	got := load(t, c)
	mixed, _ := captured(t, c).compacted().load(t, c)
	if mixed != nil || got != nil && got.Input != 104 {
		t.Fatalf("with the newest gone and the other half overwritten: %+v as it is, %+v compacted; want input 104 or none, and none", brief(got), brief(mixed))
	}
	t.Logf("%d records, %d once compacted; the newest was loaded each time, and none when no slot was whole", before, len(after.records))
}

func TestSnapshotIsRefused(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	o := own(t, c, "signals.1", snapKey.partitions()...)
	incarnation := c.Incarnation(event.TopicMarket)
	s := func() *Snapshot { return &Snapshot{Incarnation: incarnation, Input: 10, State: []byte("x")} }

	plain := newProducer(t, c, ProducerConfig{Name: "plain"})
	if err := c.SaveSnapshot(t.Context(), plain, snapKey, s()); err == nil || !strings.Contains(err.Error(), "does not own the partition") {
		t.Errorf("a producer that owns nothing: %v", err)
	}
	other := snapKey
	other.Partition = 0
	if err := c.SaveSnapshot(t.Context(), o.Producer, other, s()); err == nil {
		t.Error("a partition that the owner does not own was taken")
	}
	wrong := s()
	wrong.Epoch = o.number + 1
	if err := c.SaveSnapshot(t.Context(), o.Producer, snapKey, wrong); err == nil {
		t.Error("an epoch that is not the owner's was taken")
	}
	foreign := s()
	foreign.Incarnation = newID()
	if err := c.SaveSnapshot(t.Context(), o.Producer, snapKey, foreign); err != nil {
		t.Fatal(err)
	}
	_, err := c.LoadSnapshot(t.Context(), snapKey)
	if !component.IsFatal(err) || !strings.Contains(err.Error(), foreign.Incarnation.String()) || !strings.Contains(err.Error(), incarnation.String()) {
		t.Errorf("a snapshot of another incarnation gave %v, want both ids", err)
	}

	// A manifest, checksum and all, that claims ten gigabytes.
	huge := snapKey
	huge.Name = "huge"
	m := &event.SnapshotManifest{Name: huge.Name, Epoch: o.number, Save: newID(), InputTopic: huge.Input, Incarnation: incarnation, Chunks: 30_000, Size: 10 << 30}
	m.Checksum = manifestChecksum(m)
	chunk := event.Marshal(&event.SnapshotChunk{Name: huge.Name, Save: m.Save, Data: []byte("x")})
	if _, err := o.publish(t.Context(), huge.at(), []byte(chunkKey(huge.slot(o.number, 0), 0)), chunk); err != nil {
		t.Fatal(err)
	}
	if _, err := o.publish(t.Context(), huge.at(), []byte(manifestKey(huge.slot(o.number, 0))), event.Marshal(m)); err != nil {
		t.Fatal(err)
	}
	var stats [2]runtime.MemStats
	runtime.ReadMemStats(&stats[0])
	got, err := c.LoadSnapshot(t.Context(), huge)
	runtime.ReadMemStats(&stats[1])
	if got != nil || err != nil {
		t.Errorf("a manifest of 10 GiB gave %+v, %v", brief(got), err)
	}
	if grown := stats[1].TotalAlloc - stats[0].TotalAlloc; grown > 64<<20 {
		t.Errorf("a manifest of 10 GiB made the loader take %d bytes", grown)
	}
}

// A batch of the state that is damaged in the log, so that its checksum is wrong
// whenever it is read, costs its snapshot and no more.
func TestSnapshotSurvivesADamagedBatch(t *testing.T) {
	b, proxy := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	o := own(t, c, "signals.1", snapKey.partitions()...)
	older := save(t, c, o, 100, randomState(1, 3000))
	state := randomState(2, 3000)
	mark := []byte("this part of the log is damaged on the disk")
	copy(state[1500:], mark)
	newer := save(t, c, o, 200, state)
	if _, ok := is(load(t, c), newer); !ok {
		t.Fatal("the newer snapshot is not loaded")
	}
	damage := func(p []byte) ([]byte, bool) {
		if at := bytes.Index(p, mark); at >= 0 {
			p = bytes.Clone(p)
			p[at] ^= 4
		}
		return p, true
	}
	proxy.damage.Store(&damage)
	ctx, cancel := contextWithTimeout(t, 30*time.Second)
	defer cancel()
	got, err := c.LoadSnapshot(ctx, snapKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := is(got, older); !ok {
		t.Fatalf("loaded %+v, want the older snapshot", brief(got))
	}
}

// The state of 10,000 symbols with 10 rules each.
func TestSnapshotOfTenThousandSymbols(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	o := own(t, c, "signals.1", snapKey.partitions()...)
	state := make([]byte, 0, 40<<20)
	for i := 0; len(state) < 40<<20; i++ {
		state = fmt.Appendf(state, "venue|SYMBOL%05d rule %d %x;", i/10, i%10, uint64(i)*0x9e3779b97f4a7c15)
	}
	began := time.Now()
	want := save(t, c, o, 1, state)
	saved := time.Now()
	got := load(t, c)
	loaded := time.Now()
	if _, ok := is(got, want); !ok {
		t.Fatal("the state changed")
	}
	t.Logf("%d bytes in %d records: saved in %s, loaded in %s", len(state), len(captured(t, c).records), saved.Sub(began).Round(time.Millisecond), loaded.Sub(saved).Round(time.Millisecond))
}

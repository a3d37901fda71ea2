package bus

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/event"
)

var snapKey = SnapshotKey{Topic: event.TopicSignalState, Partition: 1, Name: "engine", Input: event.TopicMarket}

func (k SnapshotKey) partitions() []TopicPartition { return []TopicPartition{k.at()} }

// randomState returns n bytes that tell their place.
func randomState(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func save(t testing.TB, c *Client, o *Owner, input int64, state []byte) *Snapshot {
	t.Helper()
	s := &Snapshot{Incarnation: c.Incarnation(event.TopicMarket), Input: input, Form: 3, State: state,
		Outputs: []OutputEnd{{event.TopicSignals, 1, input / 2}}}
	if err := c.SaveSnapshot(t.Context(), o.Producer, snapKey, s); err != nil {
		t.Fatal(err)
	}
	return s
}

func load(t testing.TB, c *Client) *Snapshot {
	t.Helper()
	s, err := c.LoadSnapshot(t.Context(), snapKey)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSnapshotRoundTrip(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	if s := load(t, c); s != nil {
		t.Fatalf("an empty topic gave %v", s)
	}
	o := own(t, c, "signals.1", snapKey.partitions()...)
	for i, size := range []int{0, 1, snapshotChunk, snapshotChunk + 1, 5*snapshotChunk - 1, 7} {
		want := save(t, c, o, int64(i*100), randomState(uint64(i), size))
		got := load(t, c)
		if got == nil || !bytes.Equal(got.State, want.State) {
			t.Fatalf("size %d: the state changed", size)
		}
		got.State, want.State = nil, nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("size %d (-saved +loaded):\n%s", size, diff)
		}
	}
}

// stateLog is what a partition of state holds, as the loader reads it.
type stateLog struct {
	records []Record
}

// captured reads the records of the snapshots' partition from the broker.
func captured(t testing.TB, c *Client) *stateLog {
	t.Helper()
	l := &stateLog{}
	if _, err := c.ReadAll(t.Context(), snapKey.Topic, snapKey.Partition, FromStart, func(r Record) error {
		r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
		l.records = append(l.records, r)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return l
}

// loader is that of LoadSnapshot, reading the records.
func (l *stateLog) loader(c *Client) *loader {
	x := &loader{key: snapKey, incarnation: c.Incarnation(snapKey.Input), damaged: func(found) {}}
	x.last, x.known = c.reigns[snapKey.at()]
	x.bounds = func() (b Bounds, _ error) {
		if n := len(l.records); n > 0 {
			b = Bounds{l.records[0].Offset, l.records[n-1].Offset + 1}
		}
		return b, nil
	}
	x.scan = func(from, end int64, each func(Record) error) error {
		for _, r := range l.records {
			if r.Offset < from || end != logEnd && r.Offset >= end {
				continue
			}
			if err := each(r); err != nil {
				return err
			}
		}
		return nil
	}
	return x
}

// load is LoadSnapshot of the records.
func (l *stateLog) load(t testing.TB, c *Client) (s *Snapshot, damaged int) {
	t.Helper()
	x := l.loader(c)
	x.damaged = func(found) { damaged++ }
	s, err := x.load()
	if err != nil {
		t.Fatal(err)
	}
	return s, damaged
}

// compacted is the log as compaction may leave it: the last record of each key.
func (l *stateLog) compacted() *stateLog {
	last := make(map[string]int)
	for i, r := range l.records {
		last[string(r.Key)] = i
	}
	out := &stateLog{}
	for i, r := range l.records {
		if last[string(r.Key)] == i {
			out.records = append(out.records, r)
		}
	}
	return out
}

// is reports whether s is one of the snapshots, bit for bit, nil included where it
// is listed, and which.
func is(s *Snapshot, saved ...*Snapshot) (which int, ok bool) {
	for i, want := range saved {
		if s == nil || want == nil {
			if s == want {
				return i, true
			}
			continue
		}
		if bytes.Equal(s.State, want.State) && s.Epoch == want.Epoch && s.Input == want.Input && s.Form == want.Form &&
			s.Incarnation == want.Incarnation && slices.Equal(s.Outputs, want.Outputs) {
			return i, true
		}
	}
	return -1, false
}

// Ten thousand times one stored record of two snapshots is damaged in a random
// place, or cut, or lost: what is loaded is one of the two as it was saved, and the
// older only where the newer is the one that was damaged.
func TestSnapshotSurvivesDamage(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	o := own(t, c, "signals.1", snapKey.partitions()...)
	o.chunk = 1000
	older := save(t, c, o, 100, randomState(1, 3700))
	newer := save(t, c, o, 200, randomState(2, 3900))
	log := captured(t, c)
	r := rand.New(rand.NewPCG(20261125, 7))
	var kept, fellBack, none int
	const times = 10_000
	for i := range times {
		hurt := &stateLog{records: slices.Clone(log.records)}
		// Most of the time one place; at times one of each snapshot, and then there
		// may be none left.
		wounds := 1 + r.IntN(10)/9
		for range wounds {
			x := &hurt.records[r.IntN(len(hurt.records))]
			hurtRecord(r, x)
		}
		got, _ := hurt.load(t, c)
		which, ok := is(got, newer, older, nil)
		if !ok || which == 2 && wounds == 1 {
			t.Fatalf("time %d: a state that nobody saved, or none, was loaded from %s", i, describeLog(hurt, log))
		}
		switch which {
		case 0:
			kept++
		case 1:
			fellBack++
		case 2:
			none++
		}
	}
	t.Logf("%d times damaged: the newer snapshot %d times, the one before %d times, explicitly none %d times, wrong states 0", times, kept, fellBack, none)
	if kept == 0 || fellBack == 0 || none == 0 {
		t.Error("not every outcome was seen: the damage does not reach what it should")
	}
}

// hurtRecord damages a stored record.
func hurtRecord(r *rand.Rand, x *Record) {
	switch part := &x.Value; r.IntN(8) {
	case 0: // cut
		*part = (*part)[:r.IntN(len(*part)+1)]
	case 1: // lost
		x.Key, *part = []byte("lost"), nil
	case 2: // the key
		x.Key = flip(r, x.Key)
	case 3, 4: // near the front, where the fields are
		head := min(len(*part), 120)
		*part = append(flip(r, (*part)[:head]), (*part)[head:]...)
	default:
		*part = flip(r, *part)
	}
}

func flip(r *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) > 0 {
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
	}
	return b
}

func describeLog(hurt, whole *stateLog) string {
	var out []string
	for i, r := range hurt.records {
		if !bytes.Equal(r.Value, whole.records[i].Value) || !bytes.Equal(r.Key, whole.records[i].Key) {
			out = append(out, fmt.Sprintf("%q (%d of %d bytes) at %d", r.Key, len(r.Value), len(whole.records[i].Value), r.Offset))
		}
	}
	return strings.Join(out, ", ")
}

// A process may die after every record of a save: the log then holds the snapshot
// before, and the new one once its manifest is there. Compaction in between
// changes nothing.
func TestSnapshotSurvivesACrashAtEveryRecord(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	var saved []*Snapshot
	var ends []int
	for owner := range 3 {
		o := own(t, c, "signals.1", snapKey.partitions()...)
		o.chunk = 1000
		for i := range 4 {
			n := owner*4 + i
			// Longer and shorter ones, so that chunks of a longer one stay in a slot.
			saved = append(saved, save(t, c, o, int64(100+n), randomState(uint64(n), (1+n*3%4)*o.chunk-n)))
			ends = append(ends, len(captured(t, c).records))
		}
	}
	log := captured(t, c)
	var prefixes int
	for n := range len(log.records) + 1 {
		prefix := &stateLog{records: log.records[:n]}
		whole := -1
		for i := range ends {
			// The manifest is not the last record of a save that also removed
			// something: it lies where the snapshot becomes loadable.
			if n >= manifestAt(log, saved[i])+1 {
				whole = i
			}
		}
		for _, l := range []*stateLog{prefix, prefix.compacted()} {
			prefixes++
			got, _ := l.load(t, c)
			if whole < 0 {
				if got != nil {
					t.Fatalf("after %d records: a snapshot although none is whole", n)
				}
				continue
			}
			if _, ok := is(got, saved[whole]); !ok {
				t.Fatalf("after %d of %d records: want snapshot %d (input %d), got %+v", n, len(log.records), whole, saved[whole].Input, brief(got))
			}
		}
	}
	keys := make(map[string]bool)
	for _, r := range log.records {
		if keys[string(r.Key)] = r.Value != nil; r.Value == nil {
			delete(keys, string(r.Key))
		}
	}
	t.Logf("%d saves by 3 owners, a crash after each of %d records, as it is and compacted: %d loads, all of the last whole one; %d keys are left", len(saved), len(log.records), prefixes, len(keys))
	// Two slots of at most 4 chunks and a manifest, and the owner's Epoch record.
	if len(keys) > 2*5+1 {
		t.Errorf("%d keys are left, want at most 11", len(keys))
	}
}

func manifestAt(l *stateLog, s *Snapshot) int {
	for i, r := range l.records {
		if m, err := event.DecodeAs[*event.SnapshotManifest](r.Value); err == nil && m.Epoch == s.Epoch && m.Input == s.Input {
			return i
		}
	}
	return len(l.records)
}

func brief(s *Snapshot) any {
	if s == nil {
		return nil
	}
	return struct {
		Epoch uint64
		Input int64
		Bytes int
	}{s.Epoch, s.Input, len(s.State)}
}

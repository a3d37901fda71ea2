package bus

import (
	"bytes"
	"math/rand/v2"
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

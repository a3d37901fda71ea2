package bus

import (
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

func TestTrimFloors(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	at := func(when time.Time) int64 {
		t.Helper()
		offset, err := c.OffsetAt(t.Context(), event.TopicMarket, 1, when)
		if err != nil {
			t.Fatal(err)
		}
		return offset
	}
	if got := at(time.Now()); got != 0 {
		t.Errorf("an empty partition: offset %d", got)
	}
	before := time.Now().Add(-time.Minute)
	produce(t, newProducer(t, c, ProducerConfig{Name: "test", Blocking: true}), event.TopicMarket, 0, 40)
	if got := at(before); got != 0 {
		t.Errorf("before every record: offset %d, want 0", got)
	}
	if got := at(time.Now().Add(time.Minute)); got != 10 {
		t.Errorf("after every record: offset %d, want the end 10", got)
	}

	floor := func(want int64, ok bool) {
		t.Helper()
		if got, has, err := c.TrimFloor(t.Context(), event.TopicMarket, 1); err != nil || got != want || has != ok {
			t.Errorf("floor %d, %t, %v; want %d, %t", got, has, err, want, ok)
		}
	}
	floor(0, false)
	for role, offset := range map[string]int64{"a": copyWindow + 7, "b": copyWindow + 5} {
		if err := c.commitFor(t.Context(), c.Group(role), event.TopicMarket, map[int32]int64{1: offset, 2: 1}); err != nil {
			t.Fatal(err)
		}
	}
	floor(5, true)

	saved := func(want int64, ok bool) {
		t.Helper()
		if got, has, err := c.SnapshotFloor(t.Context(), snapKey); err != nil || has != ok || (ok && got != want) {
			t.Errorf("snapshots' floor %d, %t, %v; want %d, %t", got, has, err, want, ok)
		}
	}
	saved(0, false)
	o := own(t, c, "signals.1", snapKey.partitions()...)
	save(t, c, o, 100, randomState(1, 7))
	saved(0, false) // one alone may be damaged
	save(t, c, o, 200, randomState(2, snapshotChunk+1))
	saved(100, true)
	save(t, c, o, 300, randomState(3, 7))
	saved(200, true)
}

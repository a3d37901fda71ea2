package sinks

import (
	"context"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// What is trimmed has landed, was read by every group, lies before the snapshots
// and leaves the copy window; the proof and a second start do not notice.
func TestTrims(t *testing.T) {
	w := newWorld(t)
	store := newFakeStore()
	cfg := testConfig()
	cfg.FlushRows, cfg.TrimInterval, cfg.TrimAfter = 20_000, 0, 0 // trimmed by hand below
	const n = 80_000
	for range n {
		w.append(event.TopicMarket, "binance|ONE", event.Marshal(w.trade()))
	}
	w.flush()
	part := w.client.Partition(event.TopicMarket, []byte("binance|ONE"))

	saved, known, excess := int64(0), false, 0.0
	r := w.start(cfg, store, nil)
	r.TrimBehind(func(context.Context, int32) (int64, bool, error) { return saved, known, nil })
	waitFor(t, "everything to land", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		p := r.owned[place{event.TopicMarket, part}]
		return p != nil && p.landed.Load() == n
	})
	waitFor(t, "the group to commit", func() bool {
		floor, ok, err := w.client.TrimFloor(t.Context(), event.TopicMarket, part)
		if err != nil {
			t.Fatal(err)
		}
		return ok && floor == n-copyWindow
	})
	begins := func() int64 { return must(w.client.Offsets(t.Context(), event.TopicMarket))[part].Start }
	trim := func(want int64, why string) {
		t.Helper()
		for p := range w.client.Partitions(event.TopicMarket) {
			if err := r.trimOne(t.Context(), p, 100, excess); err != nil {
				t.Fatal(err)
			}
		}
		if got := begins(); got != want {
			t.Errorf("%s: the log begins at %d, want %d", why, got, want)
		}
	}
	trim(0, "without a snapshot")
	known, saved = true, copyWindow+90
	trim(0, "fewer than a step before the snapshot")
	saved = copyWindow + 1000
	trim(1000, "up to the snapshot less the window")
	r.cfg.TrimAfter, saved = time.Hour, n
	trim(1000, "all is too young")
	excess = 0.02
	trim(1000+(n-1000)/50, "too young, but beyond the bytes")
	trim(1000+(n-1000)/50+(n-1000-(n-1000)/50)/50, "and again")
	excess = 0.9
	saved = copyWindow + 4500
	trim(4500, "beyond the bytes, but not behind the snapshot")
	excess, saved = 0, n
	r.cfg.TrimAfter = 0
	// Another group lags.
	lag := w.client.NewConsumer(bus.ConsumerConfig{Role: "signals", Topics: []string{event.TopicMarket}}, component.Discard())
	if err := lag.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := lag.Run(t.Context(), func(_ context.Context, a *bus.Assignment) error {
		a.Ready()
		a.Commit(copyWindow + 6000)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	trim(6000, "up to what the slowest group has read")
	trim(6000, "again")
	r.drain(t)

	for range 50 {
		w.append(event.TopicMarket, "binance|ONE", event.Marshal(w.trade()))
	}
	w.flush()
	w.start(cfg, store, nil).drain(t)
	if expired := store.balance(t, w); expired != 0 || len(store.rows["ticks"]) != n+50 {
		t.Errorf("%d expired, %d rows landed, want %d", expired, len(store.rows["ticks"]), n+50)
	}
}

package sinks

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// restart connects the world's client anew, as a process that starts.
func (w *world) restart() {
	w.t.Helper()
	if err := w.client.EnsureTopics(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// refused runs a role that must not start, and returns why.
func (w *world) refused(store Store) error {
	w.t.Helper()
	err := w.start(testConfig(), store, nil).ended(w.t)
	if !component.IsFatal(err) {
		w.t.Fatalf("Run returned %v, want a fatal error", err)
	}
	return err
}

// LandedProof makes the fake store a database for Prove.
func (s *fakeStore) prove(t *testing.T, w *world) []Proof {
	t.Helper()
	type key struct {
		topic       string
		incarnation event.ID
		partition   int32
	}
	all := make(map[key]*clickhouse.Proof)
	for _, l := range s.landed {
		k := key{l.Topic, l.Incarnation, l.Partition}
		if all[k] == nil {
			all[k] = &clickhouse.Proof{Topic: l.Topic, Incarnation: l.Incarnation, Partition: l.Partition, Start: l.First}
		}
		p := all[k]
		p.Start, p.End = min(p.Start, l.First), max(p.End, l.Last+1)
		p.Control, p.Refused, p.SecondCopies, p.Expired = p.Control+l.Control, p.Refused+l.Refused, p.SecondCopies+l.SecondCopies, p.Expired+l.Expired
	}
	for _, rows := range s.rows {
		for _, r := range rows {
			if p := all[key{r.Topic, r.Incarnation, r.Partition}]; p != nil {
				p.Rows++
			}
		}
	}
	var list fixedProof
	for _, p := range all {
		list = append(list, *p)
	}
	proofs, err := Prove(t.Context(), w.client, list)
	if err != nil {
		t.Fatal(err)
	}
	return proofs
}

// balance fails unless every proof does, and returns what they count as expired.
func (s *fakeStore) balance(t *testing.T, w *world) (expired uint64) {
	t.Helper()
	for _, p := range s.prove(t, w) {
		if p.Missing != 0 || p.Landed != p.End {
			t.Errorf("the proof does not hold: %+v", p)
		}
		expired += p.Expired
	}
	return expired
}

// Retention overtakes the role while it stands still, once between two plans and
// once in the middle of a plan that it had carried out in part.
func TestSkipsWhatRetentionTook(t *testing.T) {
	for _, crashed := range []bool{false, true} {
		t.Run(map[bool]string{false: "stopped", true: "crashed"}[crashed], func(t *testing.T) {
			w := newWorld(t)
			store := newFakeStore()
			rng := rand.New(rand.NewPCG(12, 12))
			if crashed {
				for i := range 1200 { // of md alone, so that the plan that is left open is one of md
					w.append(event.TopicMarket, fmt.Sprintf("binance|S%dUSDT", i%12), event.Marshal(w.trade()))
				}
				w.flush()
				cfg := testConfig()
				cfg.FlushRows = 200
				r := w.start(cfg, store, func(step string) error {
					if step == "before landed" {
						return errCrash
					}
					return nil
				})
				if err := r.ended(t); !errors.Is(err, errCrash) {
					t.Fatal(err)
				}
				if len(store.rows["ticks"]) == 0 || len(store.landed) > 0 {
					t.Fatalf("the crash left %d rows and %d rows of landed", len(store.rows["ticks"]), len(store.landed))
				}
			} else {
				w.publish(rng, 1200)
				w.start(testConfig(), store, nil).drain(t)
			}
			w.publish(rng, 1200)
			landed := make(map[int32]int64)
			for _, l := range store.landed {
				if l.Topic == event.TopicMarket {
					landed[l.Partition] = max(landed[l.Partition], l.Last+1)
				}
			}
			before := make(map[int32]int64)
			for p := range w.client.Partitions(event.TopicMarket) {
				before[p] = landed[p] + 40 + int64(p)
			}
			if _, err := w.client.DeleteRecords(t.Context(), event.TopicMarket, before); err != nil {
				t.Fatal(err)
			}
			// Which ones have to be skipped is asked before any role runs again: it lands
			// what it may of the others.
			maps.DeleteFunc(before, func(p int32, _ int64) bool {
				return must(Stands(t.Context(), w.client, event.TopicMarket, p)) < 0 // the crash came before its first plan: it begins at the log's start
			})
			if len(before) == 0 {
				t.Fatal("no partition of md has a plan")
			}
			want := uint64(0)
			for p, start := range before {
				err := w.refused(store)
				var f *bus.LogError
				if !errors.As(err, &f) || f.Fault != bus.Overtaken || f.Group != "sinks" || !strings.Contains(err.Error(), "autohedge topics skip md/") {
					t.Fatalf("start returned %v", err)
				}
				s, err := w.client.Skip(t.Context(), bus.SkipRequest{
					Role: "sinks", Topic: event.TopicMarket, Partition: p, To: start, Stands: landed[p], Who: "me", Why: "the disk was full",
				})
				if err != nil {
					t.Fatal(err)
				}
				if s.From > landed[p] {
					t.Errorf("md/%d skipped from %d, landed was %d", p, s.From, landed[p])
				}
				want += uint64(start - landed[p])
				w.restart()
			}
			// Twice, since a crash may come while the skip is being carried out.
			r := w.start(testConfig(), store, func(step string) error {
				if step == "before landed" {
					return errCrash
				}
				return nil
			})
			if err := r.ended(t); !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
			w.start(testConfig(), store, nil).drain(t)
			if got := store.balance(t, w); got != want {
				t.Errorf("expired %d, want %d", got, want)
			}
			for _, breach := range store.wrong {
				t.Error(breach)
			}
			seen := make(map[string]bool)
			for table, rows := range store.rows {
				for _, row := range rows {
					if k := fmt.Sprint(table, row); seen[k] {
						t.Errorf("%s landed twice", k)
					} else {
						seen[k] = true
					}
				}
			}
		})
	}
}

// A topic whose life was begun anew lands from where the former one ended, or all
// of it again, and the rows of the former life stay.
func TestLandsANewLife(t *testing.T) {
	for _, discard := range []bool{false, true} {
		t.Run(map[bool]string{false: "adopt", true: "discard"}[discard], func(t *testing.T) {
			w := newWorld(t)
			store := newFakeStore()
			rng := rand.New(rand.NewPCG(13, 13))
			w.publish(rng, 600)
			w.start(testConfig(), store, nil).drain(t)
			former := w.client.Incarnation(event.TopicMarket)
			before := len(store.rows["ticks"])

			begin := w.client.AdoptTopics
			if discard {
				begin = w.client.DiscardTopics
			}
			if _, err := begin(t.Context(), []string{event.TopicMarket}, "me", "another disk"); err != nil {
				t.Fatal(err)
			}
			w.restart()
			// It stops before anything of the new life has landed, and goes on.
			w.start(testConfig(), store, nil).drain(t)
			w.start(testConfig(), store, nil).drain(t)
			w.publish(rng, 600)
			w.start(testConfig(), store, nil).drain(t)
			if n := store.balance(t, w); n != 0 {
				t.Errorf("%d expired", n)
			}
			lives := make(map[event.ID]int)
			for _, r := range store.rows["ticks"] {
				lives[r.Incarnation]++
			}
			all := 0
			for p, b := range must(w.client.Offsets(t.Context(), event.TopicMarket)) {
				for _, rec := range w.read(event.TopicMarket, int32(p), b.End) {
					if event.TypeOf(rec.Value) == event.TypeTrade && !rec.SecondCopy {
						all++
					}
				}
			}
			want := map[event.ID]int{former: before, w.client.Incarnation(event.TopicMarket): all - before}
			if discard {
				want[w.client.Incarnation(event.TopicMarket)] = all
			}
			if fmt.Sprint(lives) != fmt.Sprint(want) {
				t.Errorf("rows by life %v, want %v", lives, want)
			}
		})
	}
}

// Rows under a life that nobody ended are another log's.
func TestRefusesAnotherLife(t *testing.T) {
	w := newWorld(t)
	store := newFakeStore()
	w.publish(rand.New(rand.NewPCG(14, 14)), 200)
	w.start(testConfig(), store, nil).drain(t)
	foreign := event.SinkPlan{Topic: "md", Partition: 2, Incarnation: event.HashStrings("another log"), First: 7, Last: 900, Token: "t"}
	if err := w.producer.Append(event.TopicSinkState, 2, []byte("md/2"), event.Marshal(&foreign), nil); err != nil {
		t.Fatal(err)
	}
	w.flush()
	err := w.refused(store)
	var f *bus.LogError
	if !errors.As(err, &f) || f.Fault != bus.Recreated || f.Stored != 901 || f.StoredIncarnation != foreign.Incarnation || f.Incarnation != w.client.Incarnation("md") {
		t.Errorf("Run returned %v", err)
	}
	if !strings.Contains(err.Error(), "`autohedge topics adopt md") || !strings.Contains(err.Error(), "`autohedge topics discard md") {
		t.Errorf("the error names no way out: %v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

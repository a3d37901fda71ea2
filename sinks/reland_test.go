package sinks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// order orders every topic to land again and returns what was said of it.
func (w *world) order() (lands, expired int64) {
	w.t.Helper()
	all := must(PlanReland(w.t.Context(), w.client, Topics()))
	if err := OrderReland(w.t.Context(), w.client, component.Discard(), all, "me", "the disk of the database is gone"); err != nil {
		w.t.Fatal(err)
	}
	for _, r := range all {
		lands, expired = lands+r.End-r.Start, expired+r.Expired
	}
	return lands, expired
}

// loseDatabase takes everything out of the store, its tokens too.
func (s *fakeStore) loseDatabase() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens, s.rows, s.landed = make(map[string]string), make(map[string][]fakeRow), make(map[string]clickhouse.Landed)
}

// A lost database is refused at the start, and the error names the command; after that
// command everything that the log holds lands once.
func TestRelandsLostDatabase(t *testing.T) {
	w := newWorld(t)
	rng := rand.New(rand.NewPCG(31, 31))
	store := newFakeStore()
	for range 2 { // the last plan must not be the only one
		w.publish(rng, 900)
		w.start(testConfig(), store, nil).drain(t)
	}
	store.loseDatabase()
	if err := w.refused(store); !strings.Contains(err.Error(), "`autohedge sinks reland`") {
		t.Errorf("the error does not name the command: %v", err)
	}
	if lands, expired := w.order(); lands < 1800 || expired != 0 {
		t.Errorf("%d records are said to land again, %d to be gone", lands, expired)
	}
	w.start(testConfig(), store, nil).drain(t)
	w.verify(store)
	store.balance(t, w)

	// Nothing is landed again a second time.
	calls := store.calls
	w.start(testConfig(), store, nil).drain(t)
	w.verify(store)
	if store.calls != calls {
		t.Errorf("a start after it made %d calls", store.calls-calls)
	}
}

// A role that runs follows the order while it lands, whether its tables are gone, with an
// insert that waits for them, or all the rows are still there; twice in a row too.
func TestRelandsWhileRunning(t *testing.T) {
	for _, lost := range []bool{true, false} {
		t.Run(fmt.Sprintf("lost %t", lost), func(t *testing.T) {
			w := newWorld(t)
			rng := rand.New(rand.NewPCG(32, 32))
			store := newFakeStore()
			var gone atomic.Bool
			store.before = func(int, string) error {
				if gone.Load() {
					return fmt.Errorf("inserting: %w", clickhouse.ErrLost)
				}
				return nil
			}
			r := w.start(testConfig(), &restoring{store, &gone}, nil)
			w.publish(rng, 900)
			r.ownsAll(t)
			for round := range uint64(2) {
				if lost {
					gone.Store(true)
					store.loseDatabase()
					w.publish(rng, 300)
					waitFor(t, "an insert that waits and names the command", func() bool {
						err := r.Stalled()
						return err != nil && strings.Contains(err.Error(), "`autohedge sinks reland`")
					})
				}
				w.order()
				w.publish(rng, 300)
				waitFor(t, "every partition to follow the order", func() bool {
					for _, topic := range Topics() {
						for n := range w.client.Partitions(topic) {
							if known, _, err := r.plans.read(t.Context(), place{topic, n}); err != nil || known == nil || known.last.Reland != round+1 || known.last.Opens {
								return false
							}
						}
					}
					return true
				})
			}
			w.publish(rng, 300)
			r.drain(t)
			w.verify(store)
			store.balance(t, w)
		})
	}
}

// restoring has its tables back once it is prepared again.
type restoring struct {
	*fakeStore
	gone *atomic.Bool
}

func (s *restoring) Prepare(ctx context.Context) error {
	s.gone.Store(false)
	return s.fakeStore.Prepare(ctx)
}

// Killed at any step of landing again, the next start goes on: nothing is lost or doubled.
func TestRelandResumesWhereItWasKilled(t *testing.T) {
	for _, kept := range []bool{false, true} {
		for _, at := range []string{"before plan", "after plan", "between tables", "before landed", "after landed"} {
			for _, nth := range []int64{1, 3, 12} {
				t.Run(fmt.Sprintf("%s %d, rows kept %t", at, nth, kept), func(t *testing.T) {
					w := newWorld(t)
					rng := rand.New(rand.NewPCG(33, uint64(nth)))
					store := newFakeStore()
					w.publish(rng, 700)
					w.start(testConfig(), store, nil).drain(t)
					w.trimMarket(30)
					if !kept {
						store.loseDatabase()
					}
					w.order()
					var steps atomic.Int64
					var killed sync.Once
					crashed := false
					r := w.start(testConfig(), store, func(step string) error {
						if step == at && steps.Add(1) >= nth {
							killed.Do(func() { crashed = true })
							return errCrash
						}
						return nil
					})
					if err := r.ended(t); !errors.Is(err, errCrash) || !crashed {
						t.Fatalf("Run returned %v", err)
					}
					w.publish(rng, 100)
					w.start(testConfig(), store, nil).drain(t)
					for _, breach := range store.wrong {
						t.Error(breach)
					}
					store.balance(t, w)
					store.once(t)
				})
			}
		}
	}
}

// trimMarket lets retention take records of every partition of md.
func (w *world) trimMarket(n int64) {
	w.t.Helper()
	before := make(map[int32]int64)
	for p := range w.client.Partitions(event.TopicMarket) {
		before[p] = n + int64(p)
	}
	if _, err := w.client.DeleteRecords(w.t.Context(), event.TopicMarket, before); err != nil {
		w.t.Fatal(err)
	}
}

// once fails where a record has two rows.
func (s *fakeStore) once(t *testing.T) {
	t.Helper()
	seen := make(map[string]bool)
	for _, rows := range s.rows {
		for _, r := range rows {
			at := fmt.Sprintf("%s/%d %d", r.Topic, r.Partition, r.Offset)
			if seen[at] {
				t.Errorf("%s landed twice", at)
			}
			seen[at] = true
		}
	}
}

// What retention took meanwhile is counted as expired; rows of it that the database
// still has are kept and counted as rows.
func TestRelandCountsWhatRetentionTook(t *testing.T) {
	for _, kept := range []bool{false, true} {
		t.Run(fmt.Sprintf("rows kept %t", kept), func(t *testing.T) {
			w := newWorld(t)
			rng := rand.New(rand.NewPCG(34, 34))
			store := newFakeStore()
			w.publish(rng, 900)
			w.start(testConfig(), store, nil).drain(t)
			before := len(store.rows["ticks"])
			w.trimMarket(50)
			if !kept {
				store.loseDatabase()
			}
			_, said := w.order()
			if said != 50+51+52+53 {
				t.Errorf("%d records are said to be gone", said)
			}
			w.start(testConfig(), store, nil).drain(t)
			expired := store.balance(t, w)
			store.once(t)
			if kept && (len(store.rows["ticks"]) != before || expired >= uint64(said)) {
				t.Errorf("%d of %d ticks are there, %d of %d records expired", len(store.rows["ticks"]), before, expired, said)
			}
			if !kept && expired != uint64(said) {
				t.Errorf("%d records expired, %d were said to be gone", expired, said)
			}
		})
	}
}

// An order changes nothing but the sinks' own state.
func TestRelandOrderTouchesNothingElse(t *testing.T) {
	w := newWorld(t)
	w.publish(rand.New(rand.NewPCG(35, 35)), 300)
	ends := func() string {
		var all []string
		for _, spec := range event.Topics {
			if spec.Name == event.TopicSinkState {
				continue
			}
			bounds := must(w.client.Offsets(t.Context(), spec.Name))
			all = append(all, fmt.Sprint(spec.Name, bounds))
		}
		return strings.Join(all, "\n")
	}
	was := ends()
	w.order()
	if is := ends(); is != was {
		t.Errorf("the topics' bounds changed from\n%s\nto\n%s", was, is)
	}
}

// A database restored from an old backup is refused, and lands again from the log's start.
func TestRelandsOverAnOldBackup(t *testing.T) {
	w := newWorld(t)
	rng := rand.New(rand.NewPCG(36, 36))
	store := newFakeStore()
	w.publish(rng, 900)
	w.start(testConfig(), store, nil).drain(t)
	backup := newFakeStore()
	backup.tokens, backup.landed = maps.Clone(store.tokens), maps.Clone(store.landed)
	for table, rows := range store.rows {
		backup.rows[table] = slices.Clone(rows)
	}
	for range 2 {
		w.publish(rng, 900)
		w.start(testConfig(), store, nil).drain(t)
	}
	if err := w.refused(backup); !strings.Contains(err.Error(), "`autohedge sinks reland`") {
		t.Errorf("the error does not name the command: %v", err)
	}
	w.order()
	w.start(testConfig(), backup, nil).drain(t)
	w.verify(backup)
	backup.balance(t, w)
}

// After a topic has begun a new life, an order for the former one is void; one for the new
// life lands what Kafka holds of both where the database is lost, and leaves the former
// life's rows where it is not.
func TestRelandAfterAdopt(t *testing.T) {
	for _, lost := range []bool{true, false} {
		t.Run(fmt.Sprintf("lost %t", lost), func(t *testing.T) {
			w := newWorld(t)
			rng := rand.New(rand.NewPCG(37, 37))
			store := newFakeStore()
			w.publish(rng, 900)
			w.start(testConfig(), store, nil).drain(t)
			w.order()
			if _, err := w.client.AdoptTopics(t.Context(), []string{event.TopicMarket}, "me", "test"); err != nil {
				t.Fatal(err)
			}
			w.restart()
			former := len(store.rows["ticks"])
			w.start(testConfig(), store, nil).drain(t)
			if len(store.rows["ticks"]) != former {
				t.Errorf("the void order changed %d ticks to %d", former, len(store.rows["ticks"]))
			}
			for n := range w.client.Partitions(event.TopicMarket) {
				known, _, err := newPlans(w.client).read(t.Context(), place{event.TopicMarket, n})
				if err != nil || known == nil || known.last.Reland != 0 {
					t.Errorf("md/%d follows an order for its former life: %+v, %v", n, known, err)
				}
			}
			w.publish(rng, 600)
			w.start(testConfig(), store, nil).drain(t)
			all := len(store.rows["ticks"])
			if lost {
				store.loseDatabase()
			}
			w.order()
			w.start(testConfig(), store, nil).drain(t)
			store.balance(t, w)
			store.once(t)
			if len(store.rows["ticks"]) != all {
				t.Errorf("%d ticks are there, were %d", len(store.rows["ticks"]), all)
			}
		})
	}
}

package sinks

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// TestMembersComeAndGo lands while members join and leave the group.
func TestMembersComeAndGo(t *testing.T) {
	w := newWorld(t)
	store := newFakeStore()
	store.flaky(rand.New(rand.NewPCG(8, 8)), 20)
	rng := rand.New(rand.NewPCG(9, 9))
	w.publish(rng, 200)
	members := []*run{w.start(testConfig(), store, nil)}
	for range 4 {
		members = append(members, w.start(testConfig(), store, nil))
		w.publish(rng, 400)
		waitFor(t, "the new member to own something", func() bool {
			select {
			case <-members[len(members)-1].Ready():
				return true
			default:
				return false
			}
		})
		w.publish(rng, 200)
		gone := members[0]
		gone.cancel()
		if err := <-gone.err; err != nil {
			t.Fatal(err)
		}
		members = members[1:]
		w.publish(rng, 100)
	}
	members[0].ownsAll(t)
	members[0].drain(t)
	w.verify(store)
}

// ownsAll waits until the role owns every partition of every topic.
func (r *run) ownsAll(t *testing.T) {
	t.Helper()
	all := 0
	for _, topic := range Topics() {
		all += int(r.client.Partitions(topic))
	}
	waitFor(t, "the role to own everything", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.owned) == all
	})
}

// TestZombie lets a member sleep between filling a batch and announcing it until
// the group has given its partitions to another one: its plan must not get into
// state.sinks any more, and nothing may land twice.
func TestZombie(t *testing.T) {
	w := newWorld(t)
	store := newFakeStore()
	rng := rand.New(rand.NewPCG(10, 10))
	w.start(testConfig(), store, nil).drain(t)

	asleep, wake := make(chan struct{}), make(chan struct{})
	var once sync.Once
	zombie := w.start(testConfig(), store, func(step string) error {
		if step == "before plan" {
			once.Do(func() { close(asleep) })
			<-wake
		}
		return nil
	})
	<-zombie.Ready()
	w.publish(rng, 300)
	<-asleep
	heir := w.start(testConfig(), store, nil)
	heir.ownsAll(t)
	select {
	case <-heir.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("the heir is not ready")
	}
	w.publish(rng, 300)
	close(wake)
	zombie.cancel()
	if err := <-zombie.err; err != nil && !errors.Is(err, context.Canceled) {
		t.Logf("the zombie ended with: %v", err)
	}
	heir.drain(t)
	w.verify(store)
	// In the order of the log, no plan is of an older generation than one before.
	newest := make(map[place]uint32)
	for n := range w.client.Partitions(event.TopicSinkState) {
		if _, err := w.client.ReadAll(t.Context(), event.TopicSinkState, n, bus.FromStart, func(rec bus.Record) error {
			if event.TypeOf(rec.Value) == event.TypeEpoch {
				return nil
			}
			plan, err := event.DecodeAs[*event.SinkPlan](rec.Value)
			if err != nil {
				return err
			}
			at := place{plan.Topic, plan.Partition}
			if plan.Epoch < newest[at] {
				t.Errorf("%s: generation %d announced %d-%d after generation %d had taken over", at, plan.Epoch, plan.First, plan.Last, newest[at])
			}
			newest[at] = max(newest[at], plan.Epoch)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestClaimFindsALatePlan has a predecessor announce between the successor's
// reading and its claim.
func TestClaimFindsALatePlan(t *testing.T) {
	w := newWorld(t)
	r, err := New(testConfig(), w.client, newFakeStore(), component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	at := place{event.TopicMarket, 2}
	p := &partition{role: r, place: at, log: r.env.Log, assignment: &bus.Assignment{
		Topic: at.topic, Partition: at.partition, Incarnation: w.client.Incarnation(at.topic), Generation: 7,
	}}
	if err := p.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer p.close(t.Context())
	plan := func(first, last int64) *event.SinkPlan {
		return &event.SinkPlan{Topic: at.topic, Partition: at.partition, Incarnation: p.assignment.Incarnation, First: first, Last: last,
			Token: planToken(&event.SinkPlan{Topic: at.topic, Incarnation: p.assignment.Incarnation, Partition: at.partition, First: first, Last: last}), Epoch: 6}
	}
	appendPlan := func(x *event.SinkPlan) {
		t.Helper()
		if _, err := appendWait(t.Context(), w.producer, event.TopicSinkState, at.partition, []byte(at.String()), event.Marshal(x)); err != nil {
			t.Fatal(err)
		}
	}
	appendPlan(plan(0, 9))
	known, end, err := p.known(t.Context())
	if err != nil || known.last.Last != 9 {
		t.Fatalf("known is %+v, %v", known, err)
	}
	appendPlan(plan(10, 19)) // what the predecessor did meanwhile
	claim := known.last
	claim.Epoch = 7
	if err := p.announce(t.Context(), &claim); err != nil {
		t.Fatal(err)
	}
	known, _, err = p.known(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if known.last.Last != 9 || known.before.Last != 19 || known.beforeAt < end {
		t.Errorf("known is %+v, want the claim of 0-9 after 10-19 at %d or later", known, end)
	}
	appendPlan(plan(10, 19))
	got, err := p.claim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.First != 10 || got.Last != 19 || got.Epoch != 7 {
		t.Errorf("claimed %+v, want 10-19 by generation 7", got)
	}
}

package signals

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// stopped runs a role that must not start, and returns why.
func (c *cluster) stopped() error {
	c.t.Helper()
	r := c.start(anywhere(""), "")
	err := <-r.err
	r.stop()
	if !component.IsFatal(err) {
		c.t.Fatalf("the role returned %v, want a fatal error", err)
	}
	return err
}

// stand commits an offset for the role's group.
func (c *cluster) stand(topic string, partition int32, offset int64) {
	c.t.Helper()
	k := c.client.NewConsumer(bus.ConsumerConfig{Role: Name, Topics: []string{topic}}, component.Discard())
	err := k.Drain(context.Background())
	if err == nil {
		err = k.Run(context.Background(), func(_ context.Context, a *bus.Assignment) error {
			a.Ready()
			if a.Partition == partition {
				a.Commit(offset)
			}
			return nil
		})
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// stands returns the offset that the role's group has committed.
func (c *cluster) stands(topic string, partition int32) int64 {
	c.t.Helper()
	all, err := c.client.Lag(context.Background(), Name, topic)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, l := range all {
		if l.Partition == partition {
			return l.Committed
		}
	}
	return -1
}

func (c *cluster) market(m *market, n int) {
	c.t.Helper()
	records := make([]record, n)
	for i := range records {
		records[i] = m.next()
	}
	c.feed(records)
}

// drained is a cluster where the role has worked off some of a market and stopped.
func drained(t *testing.T) (*cluster, *market) {
	t.Helper()
	c := startCluster(t)
	m := newMarket(5, false, demoKeys...)
	c.market(m, 3000)
	r := c.start(anywhere(""), "")
	r.ready()
	r.drain()
	return c, m
}

// Retention overtakes the role while it stands still: it refuses to start until
// somebody says that it may skip what is gone, then it goes on from what is left.
func TestSkipsWhatRetentionTook(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	c, m := drained(t)
	bounds, err := c.client.Offsets(ctx, event.TopicMarket)
	if err != nil {
		t.Fatal(err)
	}
	c.market(m, 3000)
	stood, begins := bounds[1].End, bounds[1].End+100
	if _, err := c.client.DeleteRecords(ctx, event.TopicMarket, map[int32]int64{1: begins}); err != nil {
		t.Fatal(err)
	}
	err = c.stopped()
	var f *bus.LogError
	if !errors.As(err, &f) || f.Fault != bus.Overtaken || f.Stored != stood || f.Start != begins || f.Group != Name ||
		!strings.Contains(err.Error(), "autohedge topics skip md/1 --group signals --to ") {
		t.Fatalf("start returned %v", err)
	}
	s, err := c.client.Skip(ctx, bus.SkipRequest{Role: Name, Topic: event.TopicMarket, Partition: 1, To: bus.FromStart, Stands: -1, Who: "me", Why: "it was off"})
	if err != nil || s.From != stood || s.To != begins {
		t.Fatalf("skipped %+v, %v", s, err)
	}
	if err := c.client.EnsureTopics(ctx); err != nil { // as the next process does
		t.Fatal(err)
	}
	before := len(c.published())
	r := c.start(anywhere(""), "")
	r.ready()
	r.drain()
	if after := len(c.published()); after <= before {
		t.Errorf("%d signals before the skip, %d after", before, after)
	}
	for _, s := range c.published() {
		if s.Lineage.Partition == 1 && s.Lineage.Offset >= stood && s.Lineage.Offset < begins {
			t.Errorf("a signal was made from offset %d, which is gone", s.Lineage.Offset)
		}
	}
}

// A killed role's group may stand beyond the log's start although its newest snapshot
// lies before: what is gone is needed all the same, the skip that the error names says
// so of the snapshot's offset, and does not set the group back.
func TestSkipsWhatASnapshotNeeds(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	c, m := drained(t)
	saved, err := Stands(ctx, c.client, 1)
	if err != nil || saved < 1 {
		t.Fatalf("the snapshot stands at %d, %v", saved, err)
	}
	c.market(m, 3000)
	bounds, err := c.client.Offsets(ctx, event.TopicMarket)
	if err != nil {
		t.Fatal(err)
	}
	// As if the role had read on and been killed before its next snapshot.
	begins, stood := saved+100, bounds[1].End
	c.stand(event.TopicMarket, 1, stood)
	if _, err := c.client.DeleteRecords(ctx, event.TopicMarket, map[int32]int64{1: begins}); err != nil {
		t.Fatal(err)
	}
	var f *bus.LogError
	if err := c.stopped(); !errors.As(err, &f) || f.Fault != bus.Overtaken || f.Stored != saved || f.Start != begins {
		t.Fatalf("start returned %v", err)
	}
	ask := bus.SkipRequest{Role: Name, Topic: event.TopicMarket, Partition: 1, To: bus.FromStart, Stands: -1, Who: "me", Why: "killed"}
	if _, err := c.client.Skip(ctx, ask); err == nil || !strings.Contains(err.Error(), "nothing is gone") {
		t.Fatalf("a skip that knows of no snapshot gave %v", err)
	}
	if ask.Stands, err = Stands(ctx, c.client, 1); err != nil {
		t.Fatal(err)
	}
	ask.Rebuilds = true
	s, err := c.client.Skip(ctx, ask)
	if err != nil || s.From != saved || s.To != begins {
		t.Fatalf("skipped %+v, %v; want from %d to %d", s, err, saved, begins)
	}
	if got := c.stands(event.TopicMarket, 1); got != stood {
		t.Errorf("the skip set the group from %d to %d", stood, got)
	}
	if err := c.client.EnsureTopics(ctx); err != nil {
		t.Fatal(err)
	}
	r := c.start(anywhere(""), "")
	r.ready()
	r.drain()
	for _, s := range c.published() {
		if s.Lineage.Partition == 1 && s.Lineage.Offset >= saved && s.Lineage.Offset < begins {
			t.Errorf("a signal was made from offset %d, which is gone", s.Lineage.Offset)
		}
	}
}

// A topic whose life was begun anew is read on, or again from its start; the
// signals of its former life do not keep those of the new one back.
func TestReadsANewLife(t *testing.T) {
	t.Parallel()
	for _, discard := range []bool{false, true} {
		t.Run(map[bool]string{false: "adopt", true: "discard"}[discard], func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			c := startCluster(t)
			m := newMarket(6, false, demoKeys...)
			c.market(m, 3000)
			r := c.start(anywhere(""), "")
			r.ready()
			r.drain()
			before := len(c.published())
			begin := c.client.AdoptTopics
			if discard {
				begin = c.client.DiscardTopics
			}
			lives, err := begin(ctx, []string{event.TopicMarket}, "me", "another disk")
			if err != nil {
				t.Fatal(err)
			}
			if err := c.client.EnsureTopics(ctx); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time with the rules of the new life
				live := c.start(anywhere(""), "")
				live.ready()
				live.drain()
			}
			again := len(c.signalRecords()) - before
			if want := map[bool]int{false: 0, true: before}[discard]; again != want {
				t.Errorf("%d signals were published again, want %d", again, want)
			}
			c.market(m, 3000)
			r = c.start(anywhere(""), "")
			r.ready()
			r.drain()
			fresh := 0
			for _, rec := range c.signalRecords() {
				s, err := event.DecodeAs[*event.Signal](rec.Value)
				if err != nil {
					t.Fatal(err)
				}
				if s.Lineage.Offset >= lives[0].Ends[s.Lineage.Partition] {
					fresh++
				}
			}
			if before == 0 || fresh == 0 {
				t.Errorf("%d signals before, %d of what came after", before, fresh)
			}
		})
	}
}

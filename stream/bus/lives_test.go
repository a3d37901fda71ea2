package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// drained lets a member of the group read to the ends.
func drained(t *testing.T, c *Client, role, topic string) (*handledLog, error) {
	t.Helper()
	seen := newHandledLog()
	k := c.NewConsumer(ConsumerConfig{Role: role, Topics: []string{topic}}, component.Discard())
	if err := k.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	return seen, k.Run(t.Context(), seen.handle)
}

// reopen connects anew, as a process that starts.
func reopen(t *testing.T, addr string) (*Client, error) {
	t.Helper()
	c, err := Connect(t.Context(), testConfig(addr), component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, c.EnsureTopics(t.Context())
}

// fault is the LogError in err; want is how it must read in part.
func fault(t *testing.T, err error, kind LogFault, want ...string) *LogError {
	t.Helper()
	var f *LogError
	if !errors.As(err, &f) || f.Fault != kind || !component.IsFatal(err) {
		t.Fatalf("have %v, want a fatal LogError: %s", err, kind)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
	return f
}

func TestDeletedTopicIsRefusedUntilAdoptedOrDiscarded(t *testing.T) {
	for _, discard := range []bool{false, true} {
		t.Run(map[bool]string{false: "adopt", true: "discard"}[discard], func(t *testing.T) {
			b := startBroker(t)
			c := connect(t, testConfig(b.Addr()))
			former := c.ids()
			produce(t, newProducer(t, c, ProducerConfig{Name: "test", Blocking: true}), event.TopicMarket, 0, 40)
			if seen, err := drained(t, c, "test", event.TopicMarket); err != nil || seen.count() != 40 {
				t.Fatalf("handled %d, %v", seen.count(), err)
			}
			b.admin.DeleteTopics(t, event.TopicMarket)
			late, err := reopen(t, b.Addr())
			fault(t, err, Missing, former["md"].String(), "`autohedge topics adopt md --why \"...\"`", "`autohedge topics discard md --why \"...\"`")
			if slices.Contains(b.admin.Topics(t), event.TopicMarket) {
				t.Error("the refused topic was created")
			}
			begin := late.AdoptTopics
			if discard {
				begin = late.DiscardTopics
			}
			lives, err := begin(t.Context(), []string{event.TopicMarket}, "me", "it was deleted")
			if err != nil {
				t.Fatal(err)
			}
			want := []NewLife{{Topic: "md", Former: former["md"], Created: true, Begins: []int64{0, 0, 0, 0}, Ends: []int64{0, 0, 0, 0}}}
			want[0].Incarnation, want[0].Groups = lives[0].Incarnation, lives[0].Groups // brokers differ in what a deleted topic leaves of a group
			if diff := cmp.Diff(want, lives); diff != "" {
				t.Error(diff)
			}
			again := connect(t, testConfig(b.Addr()))
			if got := again.Incarnation("md"); got != lives[0].Incarnation || !again.Ended(former["md"]) || again.Ended(got) {
				t.Errorf("incarnation %s, want %s; ended %t", got, lives[0].Incarnation, again.Ended(former["md"]))
			}
			if again.Incarnation("orders") != former["orders"] {
				t.Error("another topic has another life")
			}
			produce(t, newProducer(t, again, ProducerConfig{Name: "test", Blocking: true}), event.TopicMarket, 100, 8)
			if seen, err := drained(t, again, "test", event.TopicMarket); err != nil || seen.count() != 8 {
				t.Errorf("the group handled %d records of the new life, want 8; %v", seen.count(), err)
			}
		})
	}
}

// A group that stands beyond the log's end is refused; adopted, it goes on at the
// end, discarded, at the start.
func TestTruncatedLogIsRefusedUntilAdoptedOrDiscarded(t *testing.T) {
	for _, discard := range []bool{false, true} {
		t.Run(map[bool]string{false: "adopt", true: "discard"}[discard], func(t *testing.T) {
			b := startBroker(t)
			c := connect(t, testConfig(b.Addr()))
			id := c.Incarnation("md")
			p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
			produce(t, p, event.TopicMarket, 0, 40)
			if _, err := drained(t, c, "test", event.TopicMarket); err != nil {
				t.Fatal(err)
			}
			// What a log that was cut looks like to the group: it stands beyond the end.
			if err := c.commitFor(t.Context(), c.Group("test"), event.TopicMarket, map[int32]int64{2: 25}); err != nil {
				t.Fatal(err)
			}
			_, err := drained(t, c, "test", event.TopicMarket)
			f := fault(t, err, Truncated, "reading md/2: offset 25 is wanted, but the log (incarnation "+id.String()+") begins at 0 and ends at 10, 15 records before",
				"topics adopt md", "topics discard md")
			if f.Group != "test" {
				t.Errorf("the error names group %q", f.Group)
			}
			begin, to := c.AdoptTopics, int64(10)
			if discard {
				begin, to = c.DiscardTopics, 0
			}
			lives, err := begin(t.Context(), []string{event.TopicMarket}, "me", "the disk lost it")
			if err != nil {
				t.Fatal(err)
			}
			moved := slices.ContainsFunc(lives[0].Groups, func(g GroupOffset) bool { return g == GroupOffset{"autohedge.test", 2, 25, to} })
			if !moved || len(lives[0].Groups) != map[bool]int{false: 1, true: 4}[discard] {
				t.Errorf("moved %+v", lives[0].Groups)
			}
			again := connect(t, testConfig(b.Addr()))
			for part := range int32(4) {
				if at, known := again.Begins("md", part); !known || at != to {
					t.Errorf("md/%d begins at %d, %t, want %d", part, at, known, to)
				}
			}
			produce(t, p, event.TopicMarket, 100, 4)
			if seen, err := drained(t, again, "test", event.TopicMarket); err != nil || seen.count() != map[bool]int{false: 4, true: 44}[discard] {
				t.Errorf("the group handled %d records, %v", seen.count(), err)
			}
		})
	}
}

func TestAdoptIsRefusedWhileAGroupRuns(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx, newHandledLog().handle) }()
	<-k.Ready()
	_, err := c.AdoptTopics(t.Context(), []string{event.TopicMarket}, "me", "why not")
	if !errors.Is(err, ErrGroupRunning) || !strings.Contains(err.Error(), "group autohedge.test has 1 members (autohedge") {
		t.Errorf("adopting under a running group gave %v", err)
	}
	_, err = c.Skip(t.Context(), SkipRequest{Role: "test", Topic: event.TopicMarket, To: FromStart, Stands: -1, Who: "me", Why: "why not"})
	if !errors.Is(err, ErrGroupRunning) {
		t.Errorf("skipping under a running group gave %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := c.AdoptTopics(t.Context(), []string{"nothing"}, "me", "why not"); err == nil {
		t.Error("adopted a topic that is none")
	}
}

func TestTrimAndSkip(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	produce(t, newProducer(t, c, ProducerConfig{Name: "test", Blocking: true}), event.TopicMarket, 0, 400)
	k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
	if err := k.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := k.Run(t.Context(), func(_ context.Context, a *Assignment) error {
		a.Ready()
		a.Commit(20) // and stops there
		return nil
	}); err != nil {
		t.Fatal(err)
	}

	starts, err := c.DeleteRecords(t.Context(), event.TopicMarket, map[int32]int64{0: 20, 1: 60, 3: 0})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[int32]int64{0: 20, 1: 60, 3: 0}, starts); diff != "" {
		t.Error(diff)
	}
	bounds, err := c.Offsets(t.Context(), event.TopicMarket)
	if diff := cmp.Diff([]Bounds{{20, 100}, {60, 100}, {0, 100}, {0, 100}}, bounds); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if starts, err = c.DeleteRecords(t.Context(), event.TopicMarket, map[int32]int64{1: 30}); err != nil || starts[1] != 60 {
		t.Errorf("trimming what is gone gave %v, %v", starts, err)
	}
	if _, err = c.DeleteRecords(t.Context(), event.TopicMarket, map[int32]int64{2: 101}); err == nil {
		t.Error("trimmed beyond the end")
	}
	if _, err = c.DeleteRecords(t.Context(), event.TopicOrders, map[int32]int64{0: 0}); err == nil || !strings.Contains(err.Error(), "never trimmed") {
		t.Errorf("trimming orders gave %v", err)
	}

	_, err = drained(t, c, "test", event.TopicMarket)
	f := fault(t, err, Overtaken, "reading md/1: offset 20 is wanted, but the log begins at 60 and ends at 100: retention took 40 records first",
		"`autohedge topics skip md/1 --group test --to 60 --why \"...\"`")
	if f.Stored != 20 || f.Start != 60 {
		t.Errorf("numbers %+v", f)
	}

	ask := SkipRequest{Role: "test", Topic: event.TopicMarket, Partition: 1, To: 60, Stands: -1, Who: "me", Why: "the sinks were down"}
	for _, tt := range []struct {
		change func(*SkipRequest)
		want   string
	}{
		{func(r *SkipRequest) { r.To = 61 }, "records 60 to 60 are still there (the log begins at 60 and ends at 100)"},
		{func(r *SkipRequest) { r.To = 19 }, "group autohedge.test stands at offset 20, and offset 19 would go back"},
		{func(r *SkipRequest) { r.To = 40 }, "the log begins at 60 by now, so offset 40 is gone too: skip to 60"},
		{func(r *SkipRequest) { r.Partition, r.To = 0, FromStart }, "and the log begins at 20: nothing is gone"},
		{func(r *SkipRequest) { r.Role = "other" }, "group autohedge.other has no offset there"},
		{func(r *SkipRequest) { r.Partition = 4 }, "the topic has 4 partitions"},
		{func(r *SkipRequest) { r.Topic = "orders" }, "never trimmed"},
		{func(r *SkipRequest) { r.Topic = "orderz" }, "no such topic"},
		{func(r *SkipRequest) { r.Why = " " }, "a name and a reason"},
	} {
		r := ask
		tt.change(&r)
		if _, err := c.Skip(t.Context(), r); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v gave %v, want %s", r, err, tt.want)
		}
	}
	s, err := c.Skip(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	if s.From != 20 || s.To != 60 || s.Incarnation != c.Incarnation("md") {
		t.Errorf("skipped %+v", s)
	}
	again := connect(t, testConfig(b.Addr()))
	if to, ok := again.Skipped("test", "md", 1, 20); !ok || to != 60 {
		t.Errorf("skipped to %d, %t", to, ok)
	}
	for _, other := range []struct {
		role string
		part int32
		from int64
	}{{"test", 1, 60}, {"test", 0, 20}, {"sinks", 1, 20}} {
		if to, ok := again.Skipped(other.role, "md", other.part, other.from); ok {
			t.Errorf("%+v may skip to %d", other, to)
		}
	}
	letters := 0
	if _, err := again.ReadAll(t.Context(), event.TopicDead, 0, FromStart, func(r Record) error {
		d, err := event.DecodeAs[*event.Dead](r.Value)
		if err == nil && d.Role == "test" && d.Reason == "records 20 to 59 were taken by retention before test read them, skipped by me: the sinks were down" {
			letters++
		}
		return err
	}); err != nil || letters != 1 {
		t.Errorf("%d dead letters state the skip, %v", letters, err)
	}
	seen, err := drained(t, again, "test", event.TopicMarket)
	if err != nil || len(seen.got[1]) != 40 {
		t.Errorf("after the skip the group handled %d records of the partition, %v", len(seen.got[1]), err)
	}
}

// A log whose last records are second copies has an end too.
func TestReadAllEndsAtSecondCopies(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	for range 2 {
		if err := p.Append(event.TopicMarket, 0, []byte("binance|X"), trade(1), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextWithTimeout(t, 10*time.Second)
	defer cancel()
	n := 0
	end, err := c.ReadAll(ctx, event.TopicMarket, 0, 1, func(Record) error { n++; return nil })
	if err != nil || end != 2 || n != 0 {
		t.Errorf("from the second copy on: %d records, end %d, %v", n, end, err)
	}
}

// Readers that begin in a trimmed log find their window of copies as far as it
// goes, and say the same as those that read all of it when it is whole.
func TestTrimLeavesTheCopyWindow(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	const n = copyWindow + 5000
	for i := range uint64(n) {
		if err := p.Append(event.TopicMarket, 0, []byte("binance|X"), trade(i+1), nil); err != nil {
			t.Fatal(err)
		}
	}
	// A second copy whose first one is just inside the window that trimming leaves.
	const at = n - copyWindow + 10
	if err := p.Append(event.TopicMarket, 0, []byte("binance|X"), trade(at+1), nil); err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.DeleteRecords(t.Context(), event.TopicMarket, map[int32]int64{0: n - CopyWindow}); err != nil {
		t.Fatal(err)
	}
	r := newReader(t, c, ReaderConfig{Topic: event.TopicMarket, Offset: n, KeepCopies: true})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	records, err := r.Next(ctx)
	if err != nil || len(records) != 1 || !records[0].SecondCopy {
		t.Errorf("the reader at %d has %s", n, fmt.Sprint(len(records), err))
	}
}

// A topic that was deleted and created anew by others is refused at the next start,
// also when it holds more by now than what is stored of it, and whatever starts the
// broker anew in between is no recreation.
func TestRecreatedTopicIsRefusedUntilAdoptedOrDiscarded(t *testing.T) {
	for _, discard := range []bool{false, true} {
		t.Run(map[bool]string{false: "adopt", true: "discard"}[discard], func(t *testing.T) {
			b := startBroker(t)
			c := connect(t, testConfig(b.Addr()))
			former := c.ids()
			produce(t, newProducer(t, c, ProducerConfig{Name: "test", Blocking: true}), event.TopicMarket, 0, 40)
			if seen, err := drained(t, c, "test", event.TopicMarket); err != nil || seen.count() != 40 {
				t.Fatalf("handled %d, %v", seen.count(), err)
			}
			stored := c.view().lives[event.TopicMarket].TopicID
			if stored.IsZero() {
				t.Fatal("the life does not know the brokers' id of its topic")
			}
			settings := make(map[string]string)
			for _, s := range c.settings(event.Topics[0], 1) {
				if s.given {
					settings[s.name] = s.value
				}
			}
			b.admin.DeleteTopics(t, event.TopicMarket)
			b.admin.CreateTopic(t, event.TopicMarket, 4, settings)
			foreign := newProducer(t, c, ProducerConfig{Name: "foreign", Blocking: true})
			produce(t, foreign, event.TopicMarket, 1000, 400) // a hundred a partition, where ten were read
			late, err := reopen(t, b.Addr())
			f := fault(t, err, Recreated, "reading md: incarnation "+former["md"].String()+" is that of the brokers' topic "+stored.String(),
				"0: 0 to 100, 1: 0 to 100, 2: 0 to 100, 3: 0 to 100", "`autohedge topics adopt md --why \"...\"`", "`autohedge topics discard md --why \"...\"`")
			if f.TopicID.IsZero() || f.TopicID == stored || !strings.Contains(err.Error(), f.TopicID.String()) {
				t.Errorf("the error names topic %s: %v", f.TopicID, err)
			}
			t.Logf("%v", err)
			begin, want := late.AdoptTopics, 8
			if discard {
				begin, want = late.DiscardTopics, 408
			}
			if _, err := begin(t.Context(), []string{event.TopicMarket}, "me", "it was made anew"); err != nil {
				t.Fatal(err)
			}
			again := connect(t, testConfig(b.Addr()))
			if got := again.view().lives["md"]; got.TopicID != f.TopicID || got.ID == former["md"] {
				t.Errorf("the new life is %+v", got)
			}
			produce(t, foreign, event.TopicMarket, 2000, 8)
			seen, err := drained(t, again, "test", event.TopicMarket)
			if !discard && seen.count() > 8 {
				want = 408 - 40 // a broker that kept where the group stood: it goes on there
			}
			if err != nil || seen.count() != want {
				t.Errorf("the group handled %d records, want %d; %v", seen.count(), want, err)
			}
		})
	}
}

// A broker that is started anew, in good order or after a kill, has the same
// topics.
func TestRestartedBrokerHasTheSameTopics(t *testing.T) {
	b := startBrokerProcess(t)
	c := connect(t, testConfig(b.addr))
	before := *c.view()
	for range 2 {
		b.kill()
		b.start()
		again := connect(t, testConfig(b.addr))
		if diff := cmp.Diff(before.lives, again.view().lives); diff != "" {
			t.Fatalf("(-before +after a kill):\n%s", diff)
		}
	}
	if onApache() {
		return
	}
	dir := t.TempDir()
	var last map[string]*event.Incarnation
	for i := range 3 { // closed in good order
		k, err := startEmbedded(t.Context(), EmbeddedConfig{Dir: dir}, component.Discard())
		if err != nil {
			t.Fatal(err)
		}
		c := connect(t, testConfig(k.Addr()))
		if diff := cmp.Diff(last, c.view().lives); i > 0 && diff != "" {
			t.Fatalf("(-before +after a restart):\n%s", diff)
		}
		last = c.view().lives
		if err := errors.Join(c.Close(), k.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// A life that an earlier version wrote has no id of the brokers: it gets one beside
// it, and stays the topic's life though a later one was written first.
func TestLifeOfAnEarlierVersionGetsItsTopicsID(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	b.admin.DeleteTopics(t, event.TopicMeta)
	b.admin.CreateTopic(t, event.TopicMeta, 1, compactible)
	old := make([]*event.Incarnation, 0, 2*len(event.Topics))
	for range 2 { // two looked at once: the first counts
		for _, spec := range event.Topics {
			old = append(old, &event.Incarnation{Topic: spec.Name, ID: newID(), Partitions: uint32(c.Partitions(spec.Name))})
		}
	}
	if err := c.writeIncarnations(t.Context(), "", old); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(b.Addr())
	for range 2 {
		again := connect(t, cfg)
		l, err := again.layout(t.Context(), again.named())
		if err != nil {
			t.Fatal(err)
		}
		for i, spec := range event.Topics {
			life := again.view().lives[spec.Name]
			if life.ID != old[i].ID || life.TopicID.IsZero() || life.TopicID != l.topic(spec.Name).id {
				t.Errorf("%s: life %+v, want %s with the id of topic %s", spec.Name, life, old[i].ID, l.topic(spec.Name).id)
			}
		}
	}
}

// A reader whose topic is deleted and created anew while it reads does not go on in
// the new one.
func TestReaderStopsAtARecreatedTopic(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicDecisions, 0, 40)
	r, err := c.NewReader(t.Context(), ReaderConfig{Topic: event.TopicDecisions, Partition: 0, Offset: FromStart}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for r.Position() < 10 {
		if _, err := r.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	before := r.fetch.retries
	b.admin.DeleteTopics(t, event.TopicDecisions)
	eventually(t, "the reader meets the deleted topic", 20*time.Second, func() bool { return total(t, before) > 0 })
	b.admin.CreateTopic(t, event.TopicDecisions, 4, nil)
	produce(t, newProducer(t, c, ProducerConfig{Name: "foreign", Blocking: true}), event.TopicDecisions, 1000, 400)
	ctx, cancel := contextWithTimeout(t, 30*time.Second)
	defer cancel()
	records, err := r.Next(ctx)
	if len(records) > 0 {
		t.Fatalf("the reader went on with record %q at offset %d of another topic", records[0].Value, records[0].Offset)
	}
	fault(t, err, Recreated, "reading decisions: incarnation ", "topics adopt decisions")
}

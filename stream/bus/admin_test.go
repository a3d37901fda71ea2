package bus

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

func TestEnsureTopicsCreatesAndRefuses(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	for _, spec := range event.Topics {
		want := int32(4)
		if spec.Single {
			want = 1
		}
		if got := c.Partitions(spec.Name); got != want {
			t.Errorf("%s has %d partitions, want %d", spec.Name, got, want)
		}
		if c.Incarnation(spec.Name).IsZero() {
			t.Errorf("%s has no incarnation", spec.Name)
		}
		policy := "delete"
		if spec.Compacted {
			policy = "compact"
		}
		if got := b.admin.Config(t, spec.Name, "cleanup.policy"); got != policy {
			t.Errorf("%s: cleanup.policy %s, want %s", spec.Name, got, policy)
		}
	}
	cfg := testConfig(b.Addr())
	cfg.Partitions = 6
	other, err := Connect(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	err = other.EnsureTopics(t.Context())
	want := "md: partitions is 4; want 6 (kafka.partitions): keys would move to other partitions\n    set kafka.partitions to 4, or to 0: their number cannot be changed\n"
	if !component.IsFatal(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("another number of partitions gave %v", err)
	}
}

func TestIncarnationsAreTheSameForEverybody(t *testing.T) {
	b := startBroker(t)
	ids := make([]map[string]event.ID, 6)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			c, err := Connect(t.Context(), testConfig(b.Addr()), component.Discard())
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			if err := c.EnsureTopics(t.Context()); err != nil {
				t.Error(err)
				return
			}
			ids[i] = c.ids()
		})
	}
	wg.Wait()
	for _, other := range ids[1:] {
		if diff := cmp.Diff(ids[0], other); diff != "" {
			t.Error(diff)
		}
	}
	// Compaction keeps the last record of a key, and not of the newest segment:
	// one who looked before the first wrote must not win by it.
	late := connect(t, testConfig(b.Addr()))
	for _, topic := range []string{event.TopicOrders, event.TopicMeta} {
		if err := late.writeIncarnations(t.Context(), "", []*event.Incarnation{{Topic: topic, ID: newID(), Partitions: 1}}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(ids[0], connect(t, testConfig(b.Addr())).ids()); diff != "" {
			t.Errorf("after a late writer: %s", diff)
		}
	}
	b.compactMeta(t)
	c := connect(t, testConfig(b.Addr()))
	if diff := cmp.Diff(ids[0], c.ids()); diff != "" {
		t.Errorf("after compaction: %s", diff)
	}
}

func TestSessionsAreApartAndDropped(t *testing.T) {
	b := startBroker(t)
	live := connect(t, testConfig(b.Addr()))
	produce(t, newProducer(t, live, ProducerConfig{Name: "live", Blocking: true}), event.TopicMarket, 0, 4)
	for _, name := range []string{"r1", "r2"} {
		cfg := testConfig(b.Addr())
		cfg.Session = name
		c := connect(t, cfg)
		produce(t, newProducer(t, c, ProducerConfig{Name: name, Blocking: true}), event.TopicMarket, 100, 40)
		if got := readAll(t, c, event.TopicMarket, 0); len(got) != 10 || got[0] != "100" {
			t.Errorf("session %s holds %v", name, got)
		}
		seen := newHandledLog()
		k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
		if err := k.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := k.Run(t.Context(), seen.handle); err != nil {
			t.Fatal(err)
		}
		if seen.count() != 40 {
			t.Errorf("session %s: the group handled %d records", name, seen.count())
		}
		lags, err := c.Lag(t.Context(), "test", event.TopicMarket)
		if err != nil || len(lags) != 4 || lags[0].Group != name+".autohedge.test" || lags[0].Committed != 10 {
			t.Errorf("lag %+v, %v", lags, err)
		}
	}
	sessions, err := live.Sessions(t.Context())
	if err != nil || !slices.Equal(sessions, []string{"r1", "r2"}) {
		t.Fatalf("sessions %v, %v", sessions, err)
	}
	if err := live.DropSession(t.Context(), "r1"); err != nil {
		t.Fatal(err)
	}
	if sessions, err = live.Sessions(t.Context()); err != nil || !slices.Equal(sessions, []string{"r2"}) {
		t.Errorf("sessions after the drop %v, %v", sessions, err)
	}
	if groups := b.admin.Groups(t); !slices.Equal(groups, []string{"r2.autohedge.test"}) {
		t.Errorf("groups after the drop %v", groups)
	}
	if got := readAll(t, live, event.TopicMarket, 0); len(got) != 1 {
		t.Errorf("the live topic holds %v after the drop", got)
	}
	for _, bad := range []string{"", "state", "r1.md", "R1", "../x"} {
		if err := live.DropSession(t.Context(), bad); err == nil {
			t.Errorf("dropped session %q", bad)
		}
	}
}

func TestLagOfAGroupThatNeverCommitted(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	produce(t, newProducer(t, c, ProducerConfig{Name: "test", Blocking: true}), event.TopicMarket, 0, 8)
	lags, err := c.Lag(context.Background(), "sinks", event.TopicMarket)
	if err != nil || len(lags) != 4 {
		t.Fatal(lags, err)
	}
	if want := (Lag{Group: "autohedge.sinks", Topic: "md", Partition: 2, Committed: -1, End: 2, Records: 2, Seconds: -1}); lags[2] != want {
		t.Errorf("lag %+v, want %+v", lags[2], want)
	}
	if lags, err = c.Lag(context.Background(), "sinks"); err != nil || len(lags) != 0 {
		t.Errorf("topics with committed offsets: %+v, %v", lags, err)
	}
}

// compactMeta compacts the topic of the incarnations: on Apache Kafka by records
// of a topic that nobody knows, of which the second one begins a new segment and
// the last one stays.
func (b *broker) compactMeta(t *testing.T) {
	t.Helper()
	if b.cluster != nil {
		b.cluster.Compact()
		return
	}
	b.admin.SetConfig(t, event.TopicMeta, compactible)
	c := connect(t, testConfig(b.Addr()))
	other := newID()
	add := func() {
		record := &event.Incarnation{Topic: "other", ID: other}
		if err := c.writeIncarnations(t.Context(), "", []*event.Incarnation{record}); err != nil {
			t.Fatal(err)
		}
	}
	others := func() (n int) {
		_, err := c.ReadAll(t.Context(), event.TopicMeta, 0, FromStart, func(r Record) error {
			if string(r.Key) == "other|"+other.String() {
				n++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	add()
	add()
	time.Sleep(250 * time.Millisecond) // segment.ms
	add()
	eventually(t, "meta is compacted", 15*time.Second, func() bool { return others() == 2 })
}

// As many brokers as are configured are waited for: a topic that is made while one
// is down would keep too few replicas.
func TestEnsureTopicsAsksForTheBrokersThatAreConfigured(t *testing.T) {
	b := startBroker(t)
	cfg := testConfig(b.Addr())
	cfg.Brokers = append(cfg.Brokers, b.Addr(), b.Addr())
	log := &bustest.Log{}
	env := component.Discard()
	env.Log = slog.New(slog.NewTextHandler(log, nil))
	c, err := Connect(t.Context(), cfg, env)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.EnsureTopics(ctx) }()
	eventually(t, "what is missing is told", 20*time.Second, func() bool {
		return log.Contains("to have 3 replicas and fewer brokers are up: start the others, or set kafka.replication")
	})
	cancel()
	if err := <-done; err == nil {
		t.Error("topics were made without two of three brokers")
	}
}

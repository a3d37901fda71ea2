package signals

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

const testPartitions = 3

// cluster is a broker with the test's topics.
type cluster struct {
	t        *testing.T
	cfg      bus.Config
	client   *bus.Client
	producer *bus.Producer
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	ctx := context.Background()
	cfg := startBroker(t)
	client, err := bus.Connect(ctx, cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	if err := client.EnsureTopics(ctx); err != nil {
		t.Fatal(err)
	}
	producer, err := client.NewProducer(ctx, bus.ProducerConfig{Name: "test", Blocking: true}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := producer.Close(ctx); err != nil {
			t.Error(err)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return &cluster{t, cfg, client, producer}
}

// feed appends records to md.
func (c *cluster) feed(records []record) {
	c.t.Helper()
	for _, r := range records {
		if err := c.producer.Append(event.TopicMarket, c.client.Partition(event.TopicMarket, r.key), r.key, r.value, nil); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := c.producer.Flush(context.Background()); err != nil {
		c.t.Fatal(err)
	}
}

// running is a role that runs.
type running struct {
	t    *testing.T
	role *Role
	stop context.CancelFunc
	err  chan error
}

// start runs a role; a group of its own makes it forget every committed offset.
func (c *cluster) start(cfg Config, group string) *running {
	c.t.Helper()
	role, err := New(cfg, c.client, component.Discard())
	if err != nil {
		c.t.Fatal(err)
	}
	if group != "" {
		role.consumer = c.client.NewConsumer(bus.ConsumerConfig{Role: group, Topics: []string{event.TopicMarket}}, role.env)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{c.t, role, cancel, make(chan error, 1)}
	go func() { r.err <- role.Run(ctx) }()
	return r
}

func (r *running) ready() {
	r.t.Helper()
	select {
	case <-r.role.Ready():
	case err := <-r.err:
		r.t.Fatalf("the role ended before it was ready: %v", err)
	case <-time.After(30 * time.Second):
		r.t.Fatal("the role is not ready after 30 s")
	}
}

// kill ends the role as it stands.
func (r *running) kill() {
	r.t.Helper()
	r.stop()
	r.ended()
}

func (r *running) ended() {
	r.t.Helper()
	select {
	case err := <-r.err:
		if err != nil {
			r.t.Fatalf("the role ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		r.t.Fatal("the role does not end")
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after 30 s still not: %s", what)
		}
	}
}

// caughtUp waits until the group has committed everything. A drain ends what a
// member owns then: partitions that a member just left are nobody's for a moment.
func (c *cluster) caughtUp() {
	c.t.Helper()
	eventually(c.t, "the group has read everything", func() bool {
		lag, err := c.client.Lag(context.Background(), c.client.Group(Name), event.TopicMarket)
		if err != nil {
			c.t.Fatal(err)
		}
		behind := int64(0)
		for _, l := range lag {
			behind += l.Records
		}
		return len(lag) == testPartitions && behind == 0
	})
}

// drain ends the role in order.
func (r *running) drain() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.role.Drain(ctx); err != nil {
		r.t.Fatal(err)
	}
	r.ended()
	r.stop()
}

// all reads every record of a topic, second copies too.
func (c *cluster) all(topic string) []bus.Record {
	c.t.Helper()
	var out []bus.Record
	bounds, err := c.client.Offsets(context.Background(), topic)
	if err != nil {
		c.t.Fatal(err)
	}
	for p, b := range bounds {
		r, err := c.client.NewReader(context.Background(), bus.ReaderConfig{Topic: topic, Partition: int32(p), Offset: bus.FromStart, KeepCopies: true}, component.Discard())
		if err != nil {
			c.t.Fatal(err)
		}
		r.EndAt(b.End)
		for {
			records, err := r.Next(context.Background())
			if err != nil {
				break // io.EOF
			}
			for _, rec := range records {
				rec.Key, rec.Value = bytes.Clone(rec.Key), bytes.Clone(rec.Value)
				out = append(out, rec)
			}
		}
		r.Close()
	}
	return out
}

// signalRecords returns what the log of signals has beside the first records of
// its owners.
func (c *cluster) signalRecords() []bus.Record {
	c.t.Helper()
	return slices.DeleteFunc(c.all(event.TopicSignals), func(rec bus.Record) bool { return event.TypeOf(rec.Value) == event.TypeEpoch })
}

// published returns the signals in the log.
func (c *cluster) published() []event.Signal {
	c.t.Helper()
	var out []event.Signal
	for _, rec := range c.signalRecords() {
		s, err := event.DecodeAs[*event.Signal](rec.Value)
		if err != nil {
			c.t.Fatal(err)
		}
		if rec.SecondCopy || rec.Partition != s.Lineage.Partition || string(rec.Key) != s.Venue+"|"+s.Symbol {
			c.t.Errorf("signal at %d/%d: second copy %v, key %s, lineage %+v", rec.Partition, rec.Offset, rec.SecondCopy, rec.Key, s.Lineage)
		}
		out = append(out, *s)
	}
	return out
}

// ruleStarts returns the rule starts in state.signals.
func (c *cluster) ruleStarts() (out []event.RuleStart) {
	c.t.Helper()
	for _, rec := range c.all(event.TopicSignalState) {
		if event.TypeOf(rec.Value) != event.TypeRuleStart {
			continue
		}
		s, err := event.DecodeAs[*event.RuleStart](rec.Value)
		if err != nil {
			c.t.Fatal(err)
		}
		out = append(out, *s)
	}
	return out
}

// replay computes from md and state.signals, with fresh engines, which signals
// there must be, and how many dead letters.
func (c *cluster) replay(sets map[event.ID]*RuleSet) (signals []event.Signal, dead int) {
	c.t.Helper()
	starts := make(map[int32][]event.RuleStart)
	for _, s := range c.ruleStarts() {
		starts[s.Partition] = append(starts[s.Partition], s)
	}
	engines := make(map[int32]*Engine)
	for _, rec := range c.all(event.TopicMarket) {
		if rec.SecondCopy {
			continue
		}
		e := engines[rec.Partition]
		if e == nil {
			e = NewEngine(rec.Partition)
			engines[rec.Partition] = e
		}
		for s := starts[rec.Partition]; len(s) > 0 && s[0].First <= rec.Offset; s = s[1:] {
			if err := e.Apply(sets[s[0].RuleSet]); err != nil {
				c.t.Fatal(err)
			}
			starts[rec.Partition] = s[1:]
		}
		out, err := e.Step(rec.Offset, rec.Key, rec.Value)
		if err != nil {
			dead++
		}
		signals = append(signals, out...)
	}
	return signals, dead
}

func (c *cluster) compare(sets ...Config) {
	c.t.Helper()
	byHash := make(map[event.ID]*RuleSet)
	for _, cfg := range sets {
		set, err := CompileRules(cfg)
		if err != nil {
			c.t.Fatal(err)
		}
		byHash[set.Hash] = set
	}
	want, dead := c.replay(byHash)
	got := c.published()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(event.Decimal{})); diff != "" {
		c.t.Errorf("signals differ from a replay of the log (-want +got, %d and %d):\n%.4000s", len(want), len(got), diff)
	}
	if len(want) < 20 {
		c.t.Errorf("only %d signals: the test shows nothing", len(want))
	}
	letters := c.all(event.TopicDead)
	ids := make(map[event.ID]bool)
	for _, rec := range letters {
		d, err := event.DecodeAs[*event.Dead](rec.Value)
		if err != nil {
			c.t.Fatal(err)
		}
		ids[d.ID] = true
		if d.Role != Name || d.Reason == "" || d.Lineage.Topic != event.TopicMarket || len(d.Value) == 0 {
			c.t.Errorf("dead letter %+v", d)
		}
	}
	if len(ids) != dead {
		c.t.Errorf("%d dead letters, want %d", len(ids), dead)
	}
}

// anywhere returns the default rules, quicker and on every symbol, so that few
// records give many signals; name makes sets differ.
func anywhere(name string) Config {
	cfg := DefaultConfig()
	for i := range cfg.Rules {
		r := &cfg.Rules[i]
		r.Name += name
		r.Cooldown = 20 * time.Millisecond
		r.Threshold /= 2
		r.Hysteresis /= 2
		if r.Indicator == "rsi" {
			r.Threshold = map[event.Side]float64{event.Buy: 42, event.Sell: 58}[r.Side]
		}
	}
	return cfg
}

// TestEachSignalOnce runs the role over a market with random batches, kills and
// drains it at random points, at times two at once, with and without the
// offsets of the group, and compares with one engine that reads the log once.
func TestEachSignalOnce(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	c := startCluster(t)
	m := newMarket(seed, true, demoKeys...)
	cfg := anywhere("")
	var wg sync.WaitGroup
	batch := func(n int) {
		records := make([]record, n)
		for i := range records {
			records[i] = m.next()
		}
		c.feed(records)
	}
	batch(r.IntN(3000)) // some of the log is older than the role
	for life := range 6 {
		group := ""
		if r.IntN(2) == 0 {
			group = fmt.Sprintf("signals-%d", life)
		}
		role := c.start(cfg, group)
		if r.IntN(3) > 0 {
			role.ready()
		}
		for range r.IntN(6) {
			batch(1 + r.IntN(1500))
		}
		if r.IntN(3) == 0 {
			role.ready()
			role.drain()
		} else {
			role.kill()
		}
	}
	last := c.start(cfg, "")
	last.ready()
	wg.Add(1)
	go func() {
		defer wg.Done()
		second := c.start(cfg, "") // takes partitions over
		second.ready()
		second.kill()
	}()
	for range 5 {
		batch(1 + r.IntN(1500))
	}
	wg.Wait()
	c.caughtUp()
	last.drain()
	c.compare(cfg)
	if starts := c.ruleStarts(); len(starts) != testPartitions {
		t.Errorf("%d rule starts, want one a partition", len(starts))
	}
	if rules := c.all(event.TopicControl); len(rules) != 1 {
		t.Errorf("%d records in control, want one rule set", len(rules))
	}
	lag, err := c.client.Lag(context.Background(), c.client.Group(Name), event.TopicMarket)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lag {
		if l.Records != 0 {
			t.Errorf("after the drain the group is behind: %+v", l)
		}
	}
}

// TestRuleSetChange changes the rules between and within lives of the log: a
// fresh engine that reads the stored starts makes the same signals, and a later
// life with other rules replays the earlier ones as they were.
func TestRuleSetChange(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	m := newMarket(11, true, demoKeys...)
	one, two := anywhere("-one"), anywhere("-two")
	two.Rules = append(two.Rules[:4], one.Rules[5:]...) // some stay, some change, some go
	batch := func() {
		records := make([]record, 3000)
		for i := range records {
			records[i] = m.next()
		}
		c.feed(records)
	}
	var after []int
	for i, cfg := range []Config{one, two, two, one} {
		role := c.start(cfg, fmt.Sprintf("signals-%d", i))
		role.ready()
		batch()
		role.drain()
		after = append(after, len(c.published()))
		batch() // nobody is there: the rules of before apply to it
	}
	role := c.start(two, "")
	role.ready()
	role.drain()
	c.compare(one, two)
	if starts := len(c.ruleStarts()); starts != 4*testPartitions {
		t.Errorf("%d rule starts, want %d", starts, 4*testPartitions)
	}
	for i := range len(after) - 1 {
		if after[i+1] <= after[i] {
			t.Errorf("signals after each life: %v", after)
		}
	}
	rules := map[string]bool{}
	for _, s := range c.published() {
		rules[s.Rule] = true
	}
	if !rules["ema-dip-one"] || !rules["ema-dip-two"] {
		t.Errorf("both sets should have fired: %v", rules)
	}
}

// TestWrongLog: offsets that do not fit the log stop the role with the numbers.
func TestWrongLog(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	ctx := context.Background()
	m := newMarket(1, false, demoKeys...)
	records := make([]record, 300)
	for i := range records {
		records[i] = m.next()
	}
	c.feed(records)
	set, err := CompileRules(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	bounds, err := c.client.Offsets(ctx, event.TopicMarket)
	if err != nil {
		t.Fatal(err)
	}
	end := bounds[1].End
	for i, tc := range []struct {
		start event.RuleStart
		want  []string
	}{
		{event.RuleStart{RuleSet: set.Hash, Incarnation: c.client.Incarnation(event.TopicMarket), First: end + 1000},
			[]string{fmt.Sprint(end + 1000), fmt.Sprintf("ends at %d", end), "topics adopt md", "topics discard md"}},
		{event.RuleStart{RuleSet: set.Hash, Incarnation: event.HashStrings("former")},
			[]string{event.HashStrings("former").String(), c.client.Incarnation(event.TopicMarket).String(), fmt.Sprintf("ends at %d", end)}},
	} {
		tc.start.Partition = 1
		key := fmt.Appendf(nil, "test/%d", i)
		if err := c.producer.Append(event.TopicSignalState, 1, key, event.Marshal(&tc.start), nil); err != nil {
			t.Fatal(err)
		}
		if err := c.producer.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		role := c.start(DefaultConfig(), fmt.Sprintf("wrong-%d", i))
		select {
		case err := <-role.err:
			if !component.IsFatal(err) {
				t.Errorf("case %d: %v, want a fatal error", i, err)
			}
			for _, w := range tc.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("case %d: %v, want it to name %s", i, err, w)
				}
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("case %d: the role goes on", i)
		}
		role.stop()
	}
}

// TestRuleSetsOfOtherBuilds: a log whose rule starts name a set that control does
// not have, one with a rule that this build cannot run, and one whose body is not
// what it is named after, is replayed, and the configured rules follow.
func TestRuleSetsOfOtherBuilds(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	ctx := context.Background()
	m := newMarket(5, false, demoKeys...)
	records := make([]record, 6000)
	for i := range records {
		records[i] = m.next()
	}
	c.feed(records[:2000])
	known := compiled(t, anywhere(""))
	other, err := ParseRuleSet(bytes.Replace(known.Body, []byte(`"indicator":"rsi"`), []byte(`"indicator":"kama"`), 1))
	if err != nil || len(other.Inert()) != 1 {
		t.Fatalf("%v, %v", other.Inert(), err)
	}
	forged, missing := event.HashStrings("forged"), event.HashStrings("missing")
	for _, set := range []*RuleSet{other, {Hash: forged, Body: known.Body}, {Hash: event.HashStrings("junk"), Body: []byte("{")}} {
		r := &event.Control{ID: event.Hash(set.Hash[:]), Kind: event.ControlRules, Scope: "all", Hash: set.Hash, Body: set.Body}
		if _, _, err := c.producer.Publish(ctx, event.TopicControl, []byte("all"), r); err != nil {
			t.Fatal(err)
		}
	}
	bounds, err := c.client.Offsets(ctx, event.TopicMarket)
	if err != nil {
		t.Fatal(err)
	}
	for p := range int32(testPartitions) {
		for i, hash := range []event.ID{other.Hash, forged, missing} {
			start := &event.RuleStart{RuleSet: hash, Partition: p, Incarnation: c.client.Incarnation(event.TopicMarket), First: bounds[p].End * int64(i) / 3}
			if err := c.producer.Append(event.TopicSignalState, p, fmt.Appendf(nil, "test/%d/%d", p, i), event.Marshal(start), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.producer.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	role := c.start(anywhere(""), "")
	role.ready()
	inert := other.rules[slices.IndexFunc(other.rules, func(r *rule) bool { return r.inert != nil })].Name
	before := c.published()
	if len(before) == 0 {
		t.Error("the rules that this build knows of the first set fired nothing")
	}
	c.feed(records[2000:])
	eventually(t, "the configured rules fire, the one that was inert too", func() bool {
		return slices.ContainsFunc(c.published()[len(before):], func(s event.Signal) bool { return s.Rule == inert })
	})
	role.drain()
	for _, s := range before {
		if s.RuleSet != other.Hash || s.Rule == inert {
			t.Fatalf("a signal of rule %s of set %s: only the first set has rules, and %s cannot run", s.Rule, s.RuleSet, inert)
		}
	}
}

// TestEditKeepsCooldown: a rule whose horizon is edited, one that is removed and put
// back, and a restart in between fire nothing again.
func TestEditKeepsCooldown(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	cfg := oneRule()
	r := &cfg.Rules[0]
	r.Indicator, r.Params, r.Source, r.Threshold, r.Direction, r.Venues, r.Symbols = "spread", nil, SourceQuote, 1, Above, nil, nil
	r.Hysteresis, r.Debounce, r.DebounceTicks, r.Cooldown = 0, 0, 0, time.Hour
	edited, none := cfg, cfg
	edited.Rules = slices.Clone(cfg.Rules)
	edited.Rules[0].Horizon *= 2
	none.Rules = nil
	sequence := uint64(0)
	quotes := func(n int) {
		records := make([]record, n)
		for i := range records {
			sequence++
			q := event.Quote{Channel: event.ChannelBookTicker, Sequence: sequence, RecvTime: int64(sequence) * 1e9, TimeSource: event.TimeReceive,
				Bid: event.NewDecimal(99, 0), Ask: event.NewDecimal(101, 0)}
			records[i] = record{[]byte("binance|BTCUSDT"), q.AppendWire(nil)}
		}
		c.feed(records)
	}
	for _, cfg := range []Config{cfg, edited, none, cfg, edited} {
		role := c.start(cfg, "")
		role.ready()
		quotes(50)
		c.caughtUp()
		role.drain()
	}
	if got := c.published(); len(got) != 1 {
		t.Errorf("%d signals in 250 s of one excursion with a cooldown of an hour, want 1: %v", len(got), got)
	}
}

// A rebalance hands a partition back with its state: nothing is replayed.
func TestRebalanceKeepsState(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	m := newMarket(2, false, demoKeys...)
	records := make([]record, 5000)
	for i := range records {
		records[i] = m.next()
	}
	c.feed(records)
	cfg := anywhere("")
	role := c.start(cfg, "")
	role.ready()
	replayed := func() float64 { return testutil.ToFloat64(role.role.metrics.replayed) }
	if n := replayed(); n != 5000 {
		t.Fatalf("replayed %v records, want 5000", n)
	}
	other := c.start(cfg, "")
	other.ready()
	other.kill()
	eventually(t, "the role owns every partition again", func() bool { return testutil.ToFloat64(role.role.metrics.partitions) == testPartitions })
	for i := range records {
		records[i] = m.next()
	}
	c.feed(records)
	c.caughtUp()
	// The new records may be read by a restore, the first ones not again.
	if n := replayed(); n > 10_000 {
		t.Errorf("replayed %v records after the rebalances, want at most 10,000", n)
	}
	role.drain()
	c.compare(cfg)
}

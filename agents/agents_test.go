package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/autohedge/autohedge/agents/desk"
	"github.com/autohedge/autohedge/agents/llm/llmtest"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is an embedded broker with a client and a producer on it.
type bench struct {
	t      *testing.T
	client *bus.Client
	in     *bus.Producer
	n      int
}

func newBench(t *testing.T) *bench {
	t.Helper()
	ctx := t.Context()
	env := component.Discard()
	k, err := bus.StartEmbedded(ctx, bus.EmbeddedConfig{Addr: "127.0.0.1:0", Partitions: 4}, env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	cfg := bus.DefaultConfig()
	cfg.Partitions = 4
	cfg.Brokers = []string{k.Addr()}
	c, err := bus.Connect(ctx, cfg, env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.EnsureTopics(ctx); err != nil {
		t.Fatal(err)
	}
	p, err := c.NewProducer(ctx, bus.ProducerConfig{Name: "test", Blocking: true}, env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.Close(ctx)
	})
	return &bench{t: t, client: c, in: p}
}

// signal is a fresh buy of the symbol, made now, to be decided within a minute.
func (b *bench) signal(symbol string) *event.Signal {
	b.n++
	now := time.Now().UnixNano()
	return &event.Signal{
		ID: event.HashStrings("signal", symbol, fmt.Sprint(b.n)), Rule: "rsi-low", Kind: "threshold", Strategy: "mean", Account: "paper",
		Venue: "binance", Symbol: symbol, Side: event.Buy, Time: now, EventTime: now,
		Indicator: "rsi", Value: 28, Threshold: 30,
		RefPrice: event.MustDecimal("100"), Bid: event.Some(event.MustDecimal("99.99")), Ask: event.Some(event.MustDecimal("100.01")),
		Horizon: int64(time.Minute), Deadline: now + int64(time.Minute), MaxDriftBps: event.MustDecimal("20"),
	}
}

// send publishes an event and returns where it lies.
func (b *bench) send(topic string, key []byte, m event.Message) event.Lineage {
	b.t.Helper()
	p, o, err := b.in.Publish(b.t.Context(), topic, key, m)
	if err != nil {
		b.t.Fatal(err)
	}
	return event.Lineage{Topic: topic, Partition: p, Offset: o}
}

func (b *bench) sendSignal(s *event.Signal) event.Lineage {
	return b.send(event.TopicSignals, event.Key(s.Venue, s.Symbol), s)
}

// running is a role under way.
type running struct {
	b      *bench
	role   *Role
	reg    *prometheus.Registry
	cancel context.CancelFunc
	ended  chan error
}

func (b *bench) start(cfg Config, clock component.Clock) *running {
	b.t.Helper()
	if err := cfg.Validate().Err(); err != nil {
		b.t.Fatal(err)
	}
	env := component.Discard()
	reg := prometheus.NewRegistry()
	env.Clock, env.Metrics = clock, reg
	r, err := New(cfg, b.client, env)
	if err != nil {
		b.t.Fatal(err)
	}
	r.saveEvery, r.saveLeast = 5*time.Millisecond, 1
	ctx, cancel := context.WithCancel(b.t.Context())
	x := &running{b: b, role: r, reg: reg, cancel: cancel, ended: make(chan error, 1)}
	go func() { x.ended <- r.Run(ctx) }()
	b.t.Cleanup(func() { cancel(); <-r.done })
	select {
	case <-r.Ready():
	case err := <-x.ended:
		b.t.Fatalf("role ended: %v", err)
	case <-time.After(20 * time.Second):
		b.t.Fatal("role is not ready within 20s")
	}
	return x
}

// drain works the inputs off and stops.
func (x *running) drain() {
	x.b.t.Helper()
	ctx, cancel := context.WithTimeout(x.b.t.Context(), 20*time.Second)
	defer cancel()
	if err := x.role.Drain(ctx); err != nil {
		x.b.t.Fatal(err)
	}
	if err := <-x.ended; err != nil {
		x.b.t.Fatal(err)
	}
	for _, l := range x.b.lag() {
		if l.Records != 0 {
			x.b.t.Errorf("lag after the drain: %+v", l)
		}
	}
}

func (b *bench) lag() []bus.Lag {
	b.t.Helper()
	l, err := b.client.Lag(b.t.Context(), b.client.Group(Name), event.TopicSignals)
	if err != nil {
		b.t.Fatal(err)
	}
	return l
}

// read returns what a topic holds, second copies dropped, by partition.
func read[M event.Message](b *bench, topic string) (all []M) {
	b.t.Helper()
	for p := range b.client.Partitions(topic) {
		_, err := b.client.ReadAll(b.t.Context(), topic, p, bus.FromStart, func(r bus.Record) error {
			m, err := event.Decode(r.Value)
			if x, ok := m.(M); ok {
				all = append(all, x)
			}
			return err
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
	return all
}

// count returns how many records a topic holds, second copies included, those of
// owners not.
func (b *bench) count(topic string) (n int64) {
	b.t.Helper()
	bounds, err := b.client.Offsets(b.t.Context(), topic)
	if err != nil {
		b.t.Fatal(err)
	}
	for p, x := range bounds {
		r, err := b.client.NewReader(b.t.Context(), bus.ReaderConfig{Topic: topic, Partition: int32(p), Offset: x.Start, KeepCopies: true}, component.Discard())
		if err != nil {
			b.t.Fatal(err)
		}
		r.EndAt(x.End)
		for {
			records, err := r.Next(b.t.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				b.t.Fatal(err)
			}
			for i := range records {
				if event.TypeOf(records[i].Value) != event.TypeEpoch {
					n++
				}
			}
		}
		r.Close()
	}
	return n
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20s", what)
		}
	}
}

// deterministic is a desk whose edge has been measured: it trades every good signal.
func deterministic() Config {
	c := DefaultConfig()
	c.Policy.EdgeBps = 60
	return c
}

func withModel(url string) Config {
	c := DefaultConfig()
	c.LLM.BaseURL, c.LLM.Model = url, "test-model"
	return c
}

func TestDecidesEverySignalOnceInOrder(t *testing.T) {
	b := newBench(t)
	var want []event.ID
	byKey := map[string][]event.ID{}
	send := func(n int) {
		for i := range n {
			s := b.signal(fmt.Sprintf("SYM%d", i%7))
			b.sendSignal(s)
			want = append(want, s.ID)
			byKey[s.Symbol] = append(byKey[s.Symbol], s.ID)
		}
	}
	send(100)
	x := b.start(deterministic(), component.SystemClock{})
	send(100)
	x.drain()

	decisions := read[*event.Decision](b, event.TopicDecisions)
	got := map[string][]event.ID{}
	for _, d := range decisions {
		got[d.Symbol] = append(got[d.Symbol], d.SignalID)
		if d.Action != event.ActionLong || d.Desk != desk.Deterministic || d.Lineage.Topic != event.TopicSignals || d.SignalTime == 0 || d.Deadline == 0 || !d.Ask.Valid {
			t.Errorf("decision %+v", d)
		}
	}
	if diff := cmp.Diff(byKey, got); diff != "" {
		t.Errorf("decisions by symbol, in order (-want +got):\n%s", diff)
	}
	if n := b.count(event.TopicDecisions); int(n) != len(want) {
		t.Errorf("%d records for %d signals", n, len(want))
	}
	verdicts := read[*event.Verdict](b, event.TopicJournal)
	if len(verdicts) != len(want) {
		t.Errorf("%d verdicts for %d signals", len(verdicts), len(want))
	}
	judged := map[string][]event.ID{}
	for _, v := range verdicts {
		judged[v.Decision.Symbol] = append(judged[v.Decision.Symbol], v.Decision.SignalID)
	}
	if diff := cmp.Diff(byKey, judged); diff != "" {
		t.Errorf("verdicts by symbol, in order (-want +got):\n%s", diff)
	}
	if n := testutil.ToFloat64(x.role.metrics.decisions.WithLabelValues("long", "agreed")); int(n) != len(want) {
		t.Errorf("metric counts %v decisions, want %d", n, len(want))
	}
	if n := testutil.ToFloat64(x.role.metrics.inFlight); n != 0 {
		t.Errorf("%v signals in flight after the drain", n)
	}
	// A restart has nothing to do.
	b.start(deterministic(), component.SystemClock{}).drain()
	if n := b.count(event.TopicDecisions); int(n) != len(want) {
		t.Errorf("%d decisions after a restart, want %d", n, len(want))
	}
}

func TestModelDesk(t *testing.T) {
	b := newBench(t)
	s := llmtest.Start(t, llmtest.Desk(nil))
	sig := b.signal("BTCUSDT")
	l := b.sendSignal(sig)
	b.start(withModel(s.URL), component.SystemClock{}).drain()

	d := read[*event.Decision](b, event.TopicDecisions)
	if len(d) != 1 || d[0].Action != event.ActionLong || d[0].Model != "test-model" || d[0].Lineage != l || d[0].SignalID != sig.ID {
		t.Fatalf("decisions: %+v", d)
	}
	calls := read[*event.ModelCall](b, event.TopicJournal)
	if len(calls) != 5 || len(s.Calls()) != 5 {
		t.Fatalf("%d calls journalled, %d made, want 5", len(calls), len(s.Calls()))
	}
	for i, c := range calls {
		if string(c.Request) != string(s.Calls()[i].Body) || len(c.Response) == 0 || c.Lineage != l {
			t.Errorf("journalled call %d: %+v", i, c)
		}
	}
	if v := read[*event.Verdict](b, event.TopicJournal); len(v) != 1 || v[0].Decision.ID != d[0].ID || len(v[0].Roles) != 5 {
		t.Errorf("verdicts: %+v", v)
	}
}

// The process died after the verdict was journalled: the decision is published
// from the journal, and the model is not asked.
func TestCrashBetweenJournalAndDecision(t *testing.T) {
	b := newBench(t)
	s := llmtest.Start(t, llmtest.Desk(nil))
	sig := b.signal("BTCUSDT")
	l := b.sendSignal(sig)
	v := &event.Verdict{ID: event.DecisionID(sig.ID, sig.Account, desk.Arm), Desk: "before", Lineage: l,
		Decision: event.Decision{ID: event.DecisionID(sig.ID, sig.Account, desk.Arm), SignalID: sig.ID, Account: sig.Account, Symbol: sig.Symbol,
			Action: event.ActionNone, Reason: "quant_challenge", Rationale: "what was said before the crash", Lineage: l}}
	b.send(event.TopicJournal, event.Key(sig.Venue, sig.Symbol), v)

	x := b.start(withModel(s.URL), component.SystemClock{})
	x.drain()
	d := read[*event.Decision](b, event.TopicDecisions)
	if len(d) != 1 || d[0].Rationale != v.Decision.Rationale {
		t.Fatalf("decisions: %+v", d)
	}
	if n := len(s.Calls()); n != 0 {
		t.Errorf("the model was asked %d times", n)
	}
	if n := len(read[*event.Verdict](b, event.TopicJournal)); n != 1 {
		t.Errorf("%d verdicts, want the one from before", n)
	}
	if n := testutil.ToFloat64(x.role.metrics.republished); n != 1 {
		t.Errorf("%v republished, want 1", n)
	}
}

// The process died after the decision was published and before the offset was
// committed: a second copy goes out, and consumers drop it.
func TestCrashBetweenDecisionAndCommit(t *testing.T) {
	b := newBench(t)
	s := llmtest.Start(t, llmtest.Desk(nil))
	sig := b.signal("BTCUSDT")
	l := b.sendSignal(sig)
	id := event.DecisionID(sig.ID, sig.Account, desk.Arm)
	dec := event.Decision{ID: id, SignalID: sig.ID, Account: sig.Account, Action: event.ActionNone, Lineage: l}
	b.send(event.TopicJournal, event.Key(sig.Venue, sig.Symbol), &event.Verdict{ID: id, Lineage: l, Decision: dec})
	b.send(event.TopicDecisions, []byte(sig.Account), &dec)

	b.start(withModel(s.URL), component.SystemClock{}).drain()
	if n := b.count(event.TopicDecisions); n != 2 {
		t.Errorf("%d records, want the decision and its copy", n)
	}
	if n := len(read[*event.Decision](b, event.TopicDecisions)); n != 1 {
		t.Errorf("%d decisions, want 1", n)
	}
	if n := len(s.Calls()); n != 0 {
		t.Errorf("the model was asked %d times", n)
	}
}

// The process died in the middle of the desk's cycle: the calls that were
// journalled are answered from there, only the rest are made.
func TestCrashInTheCycle(t *testing.T) {
	b := newBench(t)
	hang := make(chan struct{})
	var once sync.Once
	var mu sync.Mutex
	dead := true
	s := llmtest.Start(t, func(c llmtest.Call) llmtest.Reply {
		mu.Lock()
		defer mu.Unlock()
		if c.Name == "sizing" && dead {
			once.Do(func() { close(hang) })
			return llmtest.Reply{Delay: time.Minute}
		}
		return llmtest.Desk(nil)(c)
	})
	b.sendSignal(b.signal("BTCUSDT"))
	first := b.start(withModel(s.URL), component.SystemClock{})
	<-hang
	first.cancel()
	if err := <-first.ended; err != nil {
		t.Fatal(err)
	}
	if n := b.count(event.TopicDecisions); n != 0 {
		t.Fatalf("%d decisions after the crash, want none: a shutdown is no abstention", n)
	}
	mu.Lock()
	dead = false
	mu.Unlock()
	b.start(withModel(s.URL), component.SystemClock{}).drain()

	names := map[string]int{}
	for _, c := range s.Calls() {
		names[c.Name]++
	}
	want := map[string]int{"thesis": 1, "review": 1, "sizing": 2, "order": 1, "ruling": 1}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if d := read[*event.Decision](b, event.TopicDecisions); len(d) != 1 || d[0].Action != event.ActionLong || d[0].InputTokens != 600 {
		t.Errorf("decisions: %+v", d)
	}
}

func TestBadAnswerAbstains(t *testing.T) {
	b := newBench(t)
	s := llmtest.Start(t, llmtest.Desk(map[string]llmtest.Reply{"order": llmtest.Refusal("no")}))
	b.sendSignal(b.signal("BTCUSDT"))
	x := b.start(withModel(s.URL), component.SystemClock{})
	x.drain()
	d := read[*event.Decision](b, event.TopicDecisions)
	if len(d) != 1 || d[0].Action != event.ActionAbstain || d[0].Reason != "refusal" || d[0].Qty.Valid {
		t.Fatalf("decisions: %+v", d)
	}
	if c := read[*event.ModelCall](b, event.TopicJournal); len(c) != 4 || c[3].Outcome != event.OutcomeRefusal || !strings.Contains(string(c[3].Response), "refusal") {
		t.Errorf("journal: %d calls", len(c))
	}
	if n := testutil.ToFloat64(x.role.metrics.modelCalls.WithLabelValues("execution", "refusal")); n != 1 {
		t.Errorf("metric counts %v refusals", n)
	}
}

func TestLateSignalAbstainsWithoutACall(t *testing.T) {
	b := newBench(t)
	s := llmtest.Start(t, llmtest.Desk(nil))
	sig := b.signal("BTCUSDT")
	sig.Time -= int64(time.Hour)
	sig.Deadline = sig.Time + int64(time.Second)
	b.sendSignal(sig)
	b.start(withModel(s.URL), component.SystemClock{}).drain()
	d := read[*event.Decision](b, event.TopicDecisions)
	if len(d) != 1 || d[0].Action != event.ActionAbstain || d[0].Reason != "deadline" || len(s.Calls()) != 0 {
		t.Fatalf("%d calls, decisions: %+v", len(s.Calls()), d)
	}
	if v := read[*event.Verdict](b, event.TopicJournal); len(v) != 1 {
		t.Errorf("%d verdicts: an abstention is journalled too", len(v))
	}
}

// In a replay recorded signals are not late, however old, and the same replay
// gives the same decisions.
func TestReplay(t *testing.T) {
	var runs [2][]*event.Decision
	for i := range runs {
		b := newBench(t)
		sig := b.signal("BTCUSDT")
		sig.Time, sig.EventTime = 1_700_000_000_000_000_000, 1_700_000_000_000_000_000
		sig.Deadline = sig.Time + int64(2*time.Second)
		b.sendSignal(sig)
		clock := new(component.SessionClock)
		clock.Advance(sig.Time + int64(time.Hour))
		b.start(deterministic(), clock).drain()
		runs[i] = read[*event.Decision](b, event.TopicDecisions)
		if d := runs[i]; len(d) != 1 || d[0].Action != event.ActionLong || d[0].Time != sig.Time {
			t.Fatalf("decisions: %+v", d)
		}
	}
	if diff := cmp.Diff(runs[0], runs[1], cmp.Comparer(func(a, b event.Decimal) bool { return a == b })); diff != "" {
		t.Errorf("second replay (-first +second):\n%s", diff)
	}
}

// A slow model holds up its own symbol and no other.
func TestSlowCallHoldsUpOneSymbol(t *testing.T) {
	b := newBench(t)
	release := make(chan struct{})
	defer func() {
		select {
		case <-release:
		default:
			close(release)
		}
	}()
	s := llmtest.Start(t, func(c llmtest.Call) llmtest.Reply {
		if strings.Contains(c.User, `"reference_price":"200"`) {
			<-release
		}
		return llmtest.Desk(nil)(c)
	})
	slow := b.signal("SLOW")
	slow.RefPrice, slow.Bid, slow.Ask = event.MustDecimal("200"), event.Some(event.MustDecimal("199.99")), event.Some(event.MustDecimal("200.01"))
	// Another symbol in the same partition, and a second signal of the slow one.
	fast := "FAST0"
	for i := 0; b.client.Partition(event.TopicSignals, event.Key("binance", fast)) != b.client.Partition(event.TopicSignals, event.Key("binance", "SLOW")); i++ {
		fast = fmt.Sprintf("FAST%d", i)
	}
	b.sendSignal(slow)
	behind := b.signal("SLOW")
	b.sendSignal(behind)
	b.sendSignal(b.signal(fast))
	cfg := withModel(s.URL)
	cfg.LLM.Timeout = 30 * time.Second
	x := b.start(cfg, component.SystemClock{})
	eventually(t, "the other symbol's decision", func() bool { return b.count(event.TopicDecisions) == 1 })
	if d := read[*event.Decision](b, event.TopicDecisions); d[0].Symbol != fast {
		t.Errorf("first decision is of %s", d[0].Symbol)
	}
	for _, l := range b.lag() {
		if l.Committed > 0 && l.Partition == b.client.Partition(event.TopicSignals, event.Key("binance", "SLOW")) {
			t.Errorf("committed %d past a signal that is not decided", l.Committed)
		}
	}
	close(release)
	x.drain()
	d := read[*event.Decision](b, event.TopicDecisions)
	if len(d) != 3 || d[1].SignalID != slow.ID || d[2].SignalID != behind.ID {
		t.Errorf("decisions out of order: %+v", d)
	}
}

// The desk knows the strategy's newest position and the venue's steps.
func TestPositionAndSteps(t *testing.T) {
	b := newBench(t)
	at := func(strategy, qty string, version uint64) *event.Position {
		return &event.Position{ID: event.PositionID("paper", strategy, "binance", "BTCUSDT", version), Account: "paper", Strategy: strategy,
			Venue: "binance", Symbol: "BTCUSDT", Qty: event.MustDecimal(qty), Version: version}
	}
	b.send(event.TopicPositions, []byte("paper"), at("mean", "9", 1))
	b.send(event.TopicPositions, []byte("paper"), at("mean", "1.75", 2))
	b.send(event.TopicPositions, []byte("paper"), at("other", "-3", 7))
	b.send(event.TopicInstruments, event.Key("binance", "ETHUSDT"), &event.Instrument{Venue: "binance", Symbol: "ETHUSDT",
		PriceTick: event.MustDecimal("0.05"), QtyStep: event.MustDecimal("0.5")})
	sell := b.signal("BTCUSDT")
	sell.Side, sell.Value, sell.Threshold = event.Sell, 75, 70
	b.sendSignal(sell)
	b.sendSignal(b.signal("ETHUSDT"))
	x := b.start(deterministic(), component.SystemClock{})
	eventually(t, "two decisions", func() bool { return b.count(event.TopicDecisions) == 2 })
	// What changes while the role runs counts too.
	b.send(event.TopicPositions, []byte("paper"), at("mean", "2.5", 3))
	eventually(t, "the new position", func() bool {
		return x.role.holdings.quantity("paper", "mean", "binance", "BTCUSDT").Cmp(event.MustDecimal("2.5")) == 0
	})
	x.drain()
	for _, d := range read[*event.Decision](b, event.TopicDecisions) {
		want := map[string]string{"BTCUSDT": "flat sell 1.75", "ETHUSDT": "long buy 9.5"}[d.Symbol]
		if got := fmt.Sprintf("%s %s %s", d.Action, d.Side, d.Qty); got != want {
			t.Errorf("%s: got %s, want %s", d.Symbol, got, want)
		}
		if d.Symbol == "ETHUSDT" && d.LimitPrice.String() != "100.05" {
			t.Errorf("limit price %s is not on the tick", d.LimitPrice)
		}
	}
}

func TestPoisonIsBuried(t *testing.T) {
	b := newBench(t)
	key := event.Key("binance", "BTCUSDT")
	done := make(chan error, 1)
	p := b.client.Partition(event.TopicSignals, key)
	if err := b.in.Append(event.TopicSignals, p, key, []byte("no event"), func(_ int64, err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	b.send(event.TopicSignals, key, &event.Decision{ID: event.HashStrings("not a signal")})
	b.sendSignal(b.signal("BTCUSDT"))
	b.start(deterministic(), component.SystemClock{}).drain()
	if d := read[*event.Dead](b, event.TopicDead); len(d) != 2 || string(d[0].Value) != "no event" || d[0].Role != Name || d[0].Lineage.Partition != p {
		t.Errorf("dead: %+v", d)
	}
	if d := read[*event.Decision](b, event.TopicDecisions); len(d) != 1 {
		t.Errorf("%d decisions, want 1", len(d))
	}
}

// Two members share the partitions; when one dies the other goes on, and every
// signal is decided once.
func TestTakeover(t *testing.T) {
	b := newBench(t)
	first := b.start(deterministic(), component.SystemClock{})
	second := b.start(deterministic(), component.SystemClock{})
	want := map[event.ID]bool{}
	send := func(n int) {
		for i := range n {
			s := b.signal(fmt.Sprintf("SYM%d", i%11))
			b.sendSignal(s)
			want[s.ID] = true
		}
	}
	send(60)
	first.cancel()
	send(60)
	if err := <-first.ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	send(60)
	// A drain covers what a member owns: wait until it owns everything.
	eventually(t, "all decisions", func() bool { return b.count(event.TopicDecisions) >= int64(len(want)) })
	second.drain()
	got := map[event.ID]int{}
	for _, d := range read[*event.Decision](b, event.TopicDecisions) {
		got[d.SignalID]++
	}
	for id := range want {
		if got[id] != 1 {
			t.Errorf("signal %s has %d decisions", id, got[id])
		}
	}
	verdicts := map[event.ID]int{}
	for _, v := range read[*event.Verdict](b, event.TopicJournal) {
		verdicts[v.Decision.SignalID]++
	}
	if len(verdicts) != len(want) {
		t.Errorf("%d verdicts for %d signals", len(verdicts), len(want))
	}
}

func TestConfigValidate(t *testing.T) {
	good := DefaultConfig()
	if p := good.Validate(); len(p) != 0 {
		t.Errorf("defaults: %v", p)
	}
	if good.UsesLLM() {
		t.Errorf("defaults ask a model")
	}
	for name, tt := range map[string]struct {
		change func(*Config)
		path   string
	}{
		"desk":          {func(c *Config) { c.Desk = "oracle" }, "desk"},
		"llm of nobody": {func(c *Config) { c.Desk = DeskLLM }, "llm.base_url"},
		"unused":        {func(c *Config) { c.Desk, c.LLM.BaseURL = DeskDeterministic, "http://127.0.0.1:1/v1" }, "desk"},
		"on failure":    {func(c *Config) { c.OnFailure = "rules" }, "on_failure"},
		"concurrency":   {func(c *Config) { c.Concurrency = 0 }, "concurrency"},
		"nested":        {func(c *Config) { c.Budget.QuantityDecimals = -1 }, "budget.quantity_decimals"},
		"nested llm":    {func(c *Config) { c.LLM.MaxTokens = 0 }, "llm.max_tokens"},
	} {
		c := DefaultConfig()
		tt.change(&c)
		if p := c.Validate(); len(p) != 1 || p[0].Path != tt.path {
			t.Errorf("%s: got %v, want one problem at %s", name, p, tt.path)
		}
	}
	for desk, want := range map[string]bool{DeskAuto: true, DeskLLM: true, DeskDeterministic: false} {
		c := DefaultConfig()
		c.Desk, c.LLM.APIKey = desk, component.NewSecret("k")
		if c.UsesLLM() != want {
			t.Errorf("desk %s with a key: uses a model %v, want %v", desk, c.UsesLLM(), want)
		}
	}
}

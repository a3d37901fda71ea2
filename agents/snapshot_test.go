package agents

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/autohedge/autohedge/agents/llm/llmtest"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// A start reads the journal and positions from where the snapshots say, and knows
// what it would know from their starts.
func TestStartFromSnapshot(t *testing.T) {
	b := newBench(t)
	position := func(symbol string, version uint64, qty string) {
		b.send(event.TopicPositions, []byte("paper"), &event.Position{
			ID: event.PositionID("paper", "mean", "binance", symbol, version), Account: "paper", Strategy: "mean", Venue: "binance", Symbol: symbol, Version: version, Qty: event.MustDecimal(qty),
		})
	}
	for v := range uint64(50) {
		position("BTCUSDT", v, fmt.Sprint(v, ".50"))
		position("ETHUSDT", v, fmt.Sprint(-int(v), ".25"))
		b.sendSignal(b.signal(fmt.Sprint("S", v, "USDT")))
	}
	x := b.start(deterministic(), component.SystemClock{})
	x.drain()
	if n := testutil.ToFloat64(x.role.metrics.snapshots); n < 4 {
		t.Fatalf("%v snapshots of 4 partitions were saved", n)
	}
	position("BTCUSDT", 50, "7")

	x = b.start(deterministic(), component.SystemClock{})
	// A record for each takeover, which is no verdict, and the last position.
	if n := testutil.ToFloat64(x.role.metrics.replayed); n > 9 {
		t.Errorf("%v records were read, of %d of the journal and 101 positions", n, b.count(event.TopicJournal))
	}
	for symbol, want := range map[string]string{"BTCUSDT": "7", "ETHUSDT": "-49.25", "XRPUSDT": "0"} {
		if got := x.role.holdings.quantity("paper", "mean", "binance", symbol); got.String() != want {
			t.Errorf("%s of %s are held, want %s", got, symbol, want)
		}
	}
	b.sendSignal(b.signal("BTCUSDT"))
	x.drain()
	if d := read[*event.Decision](b, event.TopicDecisions); len(d) != 51 {
		t.Errorf("%d decisions for 51 signals", len(d))
	}
}

// A process that dies again and again in the middle of a cycle, with snapshots
// saved in between, pays for no call twice.
func TestCrashesInTheCycleBesideSnapshots(t *testing.T) {
	b := newBench(t)
	var mu sync.Mutex
	dead, asked := false, make(chan struct{}, 10)
	s := llmtest.Start(t, func(c llmtest.Call) llmtest.Reply {
		mu.Lock()
		defer mu.Unlock()
		if c.Name == "sizing" && dead {
			asked <- struct{}{}
			return llmtest.Reply{Delay: time.Minute}
		}
		return llmtest.Desk(nil)(c)
	})
	b.sendSignal(b.signal("BTCUSDT"))
	b.start(withModel(s.URL), component.SystemClock{}).drain()
	dead = true
	b.sendSignal(b.signal("BTCUSDT"))
	for range 4 {
		x := b.start(withModel(s.URL), component.SystemClock{})
		<-asked
		time.Sleep(30 * time.Millisecond) // a few snapshots are due
		x.cancel()
		if err := <-x.ended; err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	dead = false
	mu.Unlock()
	b.start(withModel(s.URL), component.SystemClock{}).drain()
	names := map[string]int{}
	for _, c := range s.Calls() {
		names[c.Name]++
	}
	want := map[string]int{"thesis": 2, "review": 2, "sizing": 6, "order": 2, "ruling": 2}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if d := read[*event.Decision](b, event.TopicDecisions); len(d) != 2 {
		t.Errorf("%d decisions", len(d))
	}
}

// saveAs saves a snapshot as a worker would.
func (b *bench) saveAs(partition int32, snap *bus.Snapshot, s *saved) {
	b.t.Helper()
	if s != nil {
		s.Lives = map[string]event.ID{event.TopicJournal: b.client.Incarnation(event.TopicJournal), event.TopicPositions: b.client.Incarnation(event.TopicPositions)}
		state, err := json.Marshal(s)
		if err != nil {
			b.t.Fatal(err)
		}
		snap.State = state
	}
	snap.Incarnation = b.client.Incarnation(event.TopicSignals)
	o, err := b.client.Own(b.t.Context(), bus.OwnConfig{Name: "test", Key: ownerKey(partition), Blocking: true,
		Partitions: []bus.TopicPartition{{Topic: event.TopicAgentState, Partition: partition}}}, component.Discard())
	if err != nil {
		b.t.Fatal(err)
	}
	if err := errors.Join(b.client.SaveSnapshot(b.t.Context(), o.Producer, SnapshotKey(partition), snap), o.Close(b.t.Context())); err != nil {
		b.t.Fatal(err)
	}
}

// What a snapshot says is decided is not judged again, although the group has not
// heard of it: its verdicts are not looked for.
func TestSnapshotAheadOfTheGroup(t *testing.T) {
	b := newBench(t)
	first := b.sendSignal(b.signal("BTCUSDT"))
	second := b.signal("BTCUSDT")
	b.sendSignal(second)
	b.saveAs(first.Partition, &bus.Snapshot{Input: first.Offset + 1, Form: savedForm}, &saved{})
	b.start(deterministic(), component.SystemClock{}).drain()
	if d := read[*event.Decision](b, event.TopicDecisions); len(d) != 1 || d[0].SignalID != second.ID {
		t.Errorf("decisions: %+v", d)
	}
}

// A snapshot that cannot be used costs time; one that knows more of a log than there
// is is refused.
func TestSnapshotUnusable(t *testing.T) {
	b := newBench(t)
	at := b.sendSignal(b.signal("BTCUSDT"))
	b.start(deterministic(), component.SystemClock{}).drain()
	for _, bad := range []struct {
		snap bus.Snapshot
		s    *saved
	}{
		{bus.Snapshot{Input: 1 << 30, Form: savedForm + 1}, &saved{}},
		{bus.Snapshot{Input: 1 << 30, Form: savedForm, State: []byte(`{"journal":`)}, nil},
		{bus.Snapshot{Input: 1 << 30, Form: savedForm, State: []byte(`{}`)}, nil},
		{bus.Snapshot{Input: 1 << 30, Form: savedForm}, &saved{Journal: -1}},
		{bus.Snapshot{Input: 1 << 30, Form: savedForm}, &saved{Holdings: [][]byte{{1, 2}}}},
	} {
		b.saveAs(at.Partition, &bad.snap, bad.s)
		b.sendSignal(b.signal("BTCUSDT"))
		x := b.start(deterministic(), component.SystemClock{})
		x.drain()
		if n := testutil.ToFloat64(x.role.metrics.snapshotFailures); n < 1 {
			t.Errorf("snapshot %+v was used", bad.snap)
		}
	}
	if d := read[*event.Decision](b, event.TopicDecisions); len(d) != 6 {
		t.Errorf("%d decisions for 6 signals", len(d))
	}

	for _, cut := range []*saved{{Journal: 1000}, {Positions: 1000}} {
		b.saveAs(at.Partition, &bus.Snapshot{Input: 1 << 40, Form: savedForm}, cut)
		r, err := New(deterministic(), b.client, component.Discard())
		if err != nil {
			t.Fatal(err)
		}
		err = r.Run(t.Context())
		var e *bus.LogError
		if !errors.As(err, &e) || e.Fault != bus.Truncated || e.Stored != 1000 || !component.IsFatal(err) || !strings.Contains(err.Error(), "autohedge topics adopt") {
			t.Errorf("with %+v it ended with %v", cut, err)
		}
	}
}

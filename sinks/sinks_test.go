package sinks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// world is a broker with topics and a producer that fills them.
type world struct {
	t        *testing.T
	addr     string
	client   *bus.Client
	producer *bus.Producer
	trades   uint64
}

// midnight lies in the middle of what the tests publish.
var midnight = time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC).UnixNano()

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx := t.Context()
	env := component.Discard()
	embedded, err := bus.StartEmbedded(ctx, bus.EmbeddedConfig{Addr: "127.0.0.1:0", Partitions: 4}, env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := embedded.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, addr: embedded.Addr()}
	cfg := bus.DefaultConfig()
	cfg.Partitions = 4
	cfg.Brokers = []string{embedded.Addr()}
	if w.client, err = bus.Connect(ctx, cfg, env); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.client.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := w.client.EnsureTopics(ctx); err != nil {
		t.Fatal(err)
	}
	if w.producer, err = w.client.NewProducer(ctx, bus.ProducerConfig{Name: "test", Blocking: true}, env); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := w.producer.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return w
}

// append appends a value under a key's own partition.
func (w *world) append(topic, key string, value []byte) {
	w.t.Helper()
	if err := w.producer.Append(topic, w.client.Partition(topic, []byte(key)), []byte(key), value, nil); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) flush() {
	w.t.Helper()
	if err := w.producer.Flush(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// trade returns a fresh trade; they pass midnight after the 500th.
func (w *world) trade() *event.Trade {
	w.trades++
	at := midnight + (int64(w.trades)-500)*int64(time.Millisecond)
	return &event.Trade{
		Channel: event.ChannelTrade, TradeID: w.trades, Price: event.MustDecimal("100.25"), Qty: event.Some(event.MustDecimal("0.5")),
		Aggressor: event.Buy, EventTime: at, RecvTime: at, TimeSource: event.TimeEvent,
	}
}

// publish appends n records of all sorts, with second copies and poison.
func (w *world) publish(rng *rand.Rand, n int) {
	w.t.Helper()
	for range n {
		key := fmt.Sprintf("binance|S%dUSDT", rng.IntN(12))
		switch rng.IntN(20) {
		case 0:
			w.append(event.TopicMarket, key, event.Marshal(&event.Clock{Feed: "binance", Connections: 1, Time: midnight + int64(w.trades)}))
		case 1:
			w.append(event.TopicMarket, key, []byte("poison "+fmt.Sprint(w.trades)))
		case 2:
			value := event.Marshal(w.trade())
			w.append(event.TopicMarket, key, value)
			w.append(event.TopicMarket, key, value)
		case 3:
			s := &event.Signal{ID: event.HashStrings(fmt.Sprint(w.trades), key), Rule: "r", Kind: "threshold", Time: midnight, Symbol: key}
			w.append(event.TopicSignals, key, event.Marshal(s))
		case 4:
			w.append(event.TopicControl, "all", event.Marshal(&event.Control{ID: event.HashStrings(fmt.Sprint(w.trades)), Kind: event.ControlHalt, Scope: "all", Time: midnight}))
		default:
			w.append(event.TopicMarket, key, event.Marshal(w.trade()))
		}
	}
	w.flush()
}

// run starts a role in the background.
type run struct {
	*Role
	err    chan error
	cancel context.CancelFunc
}

func (w *world) start(cfg Config, store Store, crash func(string) error) *run {
	w.t.Helper()
	role, err := New(cfg, w.client, store, component.Discard())
	if err != nil {
		w.t.Fatal(err)
	}
	role.crash = crash
	ctx, cancel := context.WithCancel(w.t.Context())
	r := &run{Role: role, err: make(chan error, 1), cancel: cancel}
	go func() { r.err <- role.Run(ctx) }()
	return r
}

// patience bounds every wait for the end of a role.
const patience = 60 * time.Second

// ended waits for the end of the role and returns what Run returned.
func (r *run) ended(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.err:
		return err
	case <-time.After(patience):
		t.Fatalf("the role still runs after %s", patience)
		return nil
	}
}

// drain drains the role and waits for its end.
func (r *run) drain(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	select {
	case <-r.Ready():
	case err := <-r.err:
		t.Fatalf("Run ended before it was ready: %v", err)
	case <-ctx.Done():
		t.Fatalf("not ready within %s", patience)
	}
	if err := r.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.ended(t); err != nil {
		t.Fatal(err)
	}
}

func testConfig() Config {
	cfg := DefaultConfig()
	cfg.FlushRows = 60
	cfg.FlushInterval, cfg.QuietInterval = 20*time.Millisecond, 20*time.Millisecond
	return cfg
}

// verify compares the fake store with the log, record by record.
func (w *world) verify(store *fakeStore) {
	w.t.Helper()
	store.mu.Lock()
	defer store.mu.Unlock()
	for _, breach := range store.wrong {
		w.t.Error(breach)
	}
	want, got := make(map[string][]string), make(map[string][]string)
	for table, rows := range store.rows {
		for _, r := range rows {
			got[table] = append(got[table], fmt.Sprint(r))
		}
	}
	for _, topic := range Topics() {
		bounds, err := w.client.Offsets(w.t.Context(), topic)
		if err != nil {
			w.t.Fatal(err)
		}
		for n, b := range bounds {
			var control, refused, copies uint64
			for _, rec := range w.read(topic, int32(n), b.End) {
				switch {
				case rec.SecondCopy:
					copies++
					continue
				case rec.Void:
					control++
					continue
				}
				batch := store.NewBatch(topic, w.client.Incarnation(topic), int32(n))
				block, err := batch.Add(rec.Offset, rec.Key, rec.Value)
				switch {
				case err != nil:
					refused++
				case block == clickhouse.NoRow:
					control++
				default:
					b, _ := batch.Blocks()[0].(*fakeBlock)
					if store.refuses != nil && store.refuses(b.rows[0]) {
						refused++
					} else {
						want[b.table] = append(want[b.table], fmt.Sprint(b.rows[0]))
					}
				}
			}
			w.verifyLanded(store, topic, int32(n), b, control, refused, copies)
		}
	}
	for _, m := range []map[string][]string{want, got} {
		for table := range m {
			slices.Sort(m[table])
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("rows differ (-log +database):\n%s", diff)
	}
}

func (w *world) verifyLanded(store *fakeStore, topic string, partition int32, b bus.Bounds, control, refused, copies uint64) {
	w.t.Helper()
	var all []clickhouse.Landed
	for _, l := range store.landed {
		if l.Topic == topic && l.Partition == partition {
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(x, y clickhouse.Landed) int { return int(x.First - y.First) })
	next := b.Start
	for _, l := range all {
		if l.First != next {
			w.t.Errorf("%s/%d: landed goes on at %d, want %d", topic, partition, l.First, next)
		}
		if got, want := records(&l), l.Last-l.First+1; got != want {
			w.t.Errorf("%s/%d: %d-%d accounts for %d of %d records", topic, partition, l.First, l.Last, got, want)
		}
		next = l.Last + 1
		control, refused, copies = control-l.Control, refused-l.Refused, copies-l.SecondCopies
	}
	if next != b.End {
		w.t.Errorf("%s/%d: landed ends at %d, the log at %d", topic, partition, next, b.End)
	}
	if control != 0 || refused != 0 || copies != 0 {
		w.t.Errorf("%s/%d: landed differs by %d control, %d refused, %d second copies", topic, partition, int64(control), int64(refused), int64(copies))
	}
}

// read returns a partition's records, copied.
func (w *world) read(topic string, partition int32, end int64) []bus.Record {
	w.t.Helper()
	reader, err := w.client.NewReader(w.t.Context(), bus.ReaderConfig{Topic: topic, Partition: partition, Offset: bus.FromStart, KeepCopies: true}, component.Discard())
	if err != nil {
		w.t.Fatal(err)
	}
	defer reader.Close()
	reader.EndAt(end)
	var all []bus.Record
	for {
		records, err := reader.Next(w.t.Context())
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			w.t.Fatal(err)
		}
		for _, r := range records {
			r.Key, r.Value = slices.Clone(r.Key), slices.Clone(r.Value)
			all = append(all, r)
		}
	}
}

func TestLandsEverythingOnce(t *testing.T) {
	w := newWorld(t)
	store := newFakeStore()
	rng := rand.New(rand.NewPCG(1, 1))
	w.publish(rng, 700)
	r := w.start(testConfig(), store, nil)
	w.publish(rng, 700)
	r.drain(t)
	w.verify(store)
	if len(store.rows["dead"]) == 0 || len(store.rows["signals"]) == 0 {
		t.Errorf("landed %d dead letters and %d signals, want some of each", len(store.rows["dead"]), len(store.rows["signals"]))
	}
	var copies uint64
	days := make(map[string]bool)
	for _, l := range store.landed {
		copies += l.SecondCopies
	}
	for token := range store.tokens {
		if strings.HasPrefix(token, event.TopicMarket+"/") {
			days[token[strings.LastIndexByte(token, '/')+1:]] = true
		}
	}
	if copies == 0 {
		t.Error("no second copy was counted")
	}
	if want := map[string]bool{"20261123": true, "20261124": true}; !cmp.Equal(days, want) {
		t.Errorf("inserts went to the days %v, want %v", days, want)
	}
	// A second start changes nothing.
	calls := len(store.tokens)
	w.start(testConfig(), store, nil).drain(t)
	w.verify(store)
	if len(store.tokens) != calls {
		t.Errorf("a start without new records made %d inserts", len(store.tokens)-calls)
	}
}

var errCrash = errors.New("crashed")

// TestCrashes ends the role at random steps while the database answers wrongly
// now and then, and starts it again, until everything has landed.
func TestCrashes(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	w := newWorld(t)
	store := newFakeStore()
	store.flaky(rand.New(rand.NewPCG(seed, 3)), 10)
	steps := []string{"before plan", "after plan", "between tables", "before landed", "after landed"}
	seen := make(map[string]int)
	for range 25 {
		w.publish(rng, 150)
		at, left := steps[rng.IntN(len(steps))], new(atomic.Int64)
		left.Store(1 + rng.Int64N(6))
		r := w.start(testConfig(), store, func(step string) error {
			if step == at && left.Add(-1) < 0 {
				return errCrash
			}
			return nil
		})
		select {
		case err := <-r.err:
			if !errors.Is(err, errCrash) {
				t.Fatalf("Run returned %v", err)
			}
			seen[at]++
		case <-time.After(2 * time.Second): // too little to land before the step
			r.cancel()
			<-r.err
		}
	}
	t.Logf("crashes: %v, wrong answers survived, %d inserts", seen, store.calls)
	if len(seen) < len(steps)-1 {
		t.Errorf("crashed at %v only", seen)
	}
	store.mu.Lock()
	store.before, store.after = nil, nil
	store.mu.Unlock()
	w.start(testConfig(), store, nil).drain(t)
	w.verify(store)
}

// TestRefusedRows isolates rows that the database refuses, also through crashes
// between the refusals.
func TestRefusedRows(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprintf("crash=%t", crash), func(t *testing.T) {
			w := newWorld(t)
			store := newFakeStore()
			store.refuses = func(r fakeRow) bool { return strings.HasSuffix(r.ID, "7") && strings.Contains(r.ID, "|trade|S3USDT|") }
			rng := rand.New(rand.NewPCG(4, 4))
			w.publish(rng, 800)
			if crash {
				for n := range int64(12) {
					left := new(atomic.Int64)
					left.Store(n)
					r := w.start(testConfig(), store, func(step string) error {
						if step == "after refusal" && left.Add(-1) < 0 {
							return errCrash
						}
						return nil
					})
					select {
					case err := <-r.err:
						if !errors.Is(err, errCrash) {
							t.Fatalf("Run returned %v", err)
						}
					case <-time.After(2 * time.Second):
						r.cancel()
						<-r.err
					}
				}
			}
			w.start(testConfig(), store, nil).drain(t)
			w.verify(store)
			var refused uint64
			for _, l := range store.landed {
				if l.Topic == event.TopicMarket {
					refused += l.Refused
				}
			}
			// One letter each; second copies of a letter are dropped.
			if got := len(store.rows["dead"]); got == 0 || uint64(got) != refused {
				t.Errorf("%d records of md were refused, %d dead letters landed", refused, got)
			}
		})
	}
}

// TestDatabaseChangesItsMind refuses rows, and takes them after a crash between
// the refusals: what was declared refused is not sent whole again, so nothing
// lands twice.
func TestDatabaseChangesItsMind(t *testing.T) {
	for n := range int64(6) {
		w := newWorld(t)
		store := newFakeStore()
		store.refuses = func(r fakeRow) bool { return strings.HasSuffix(r.ID, "|trade|S3USDT|17") }
		for range 40 {
			w.append(event.TopicMarket, "binance|S3USDT", event.Marshal(w.trade()))
		}
		w.flush()
		left := new(atomic.Int64)
		left.Store(n)
		r := w.start(testConfig(), store, func(step string) error {
			if step == "after refusal" && left.Add(-1) < 0 {
				return errCrash
			}
			return nil
		})
		if err := r.ended(t); !errors.Is(err, errCrash) {
			t.Fatalf("Run returned %v", err)
		}
		store.refuses = nil
		w.start(testConfig(), store, nil).drain(t)
		seen := make(map[fakeRow]int)
		for _, row := range store.rows["ticks"] {
			if seen[row]++; seen[row] > 1 {
				t.Errorf("crash after refusal %d: %v landed %d times", n, row, seen[row])
			}
		}
		var refused, rows uint64
		for _, l := range store.landed {
			if l.Topic == event.TopicMarket {
				refused += l.Refused
				rows += l.Rows["ticks"]
			}
		}
		if int(rows) != len(store.rows["ticks"]) || rows+refused != 40 {
			t.Errorf("crash after refusal %d: landed says %d rows and %d refused of 40, the table has %d rows", n, rows, refused, len(store.rows["ticks"]))
		}
	}
}

// TestRefusalOfEverything stops when the database refuses a table, not rows.
func TestRefusalOfEverything(t *testing.T) {
	w := newWorld(t)
	store := newFakeStore()
	store.refuses = func(r fakeRow) bool { return r.Topic == event.TopicMarket }
	w.publish(rand.New(rand.NewPCG(5, 5)), 400)
	cfg := testConfig()
	cfg.MaxRefused = 5
	err := <-w.start(cfg, store, nil).err
	if !component.IsFatal(err) || !strings.Contains(err.Error(), "max_refused") {
		t.Errorf("Run returned %v, want a fatal error that names max_refused", err)
	}
	if n := len(store.rows["ticks"]); n != 0 {
		t.Errorf("%d rows landed", n)
	}
}

// TestDatabaseDown starts without a database, loses it again and gets it back.
func TestDatabaseDown(t *testing.T) {
	w := newWorld(t)
	store := newFakeStore()
	var down atomic.Bool
	store.down = down.Load
	down.Store(true)
	rng := rand.New(rand.NewPCG(6, 6))
	w.publish(rng, 300)
	r := w.start(testConfig(), store, nil)
	waitFor(t, "the role to say that it waits", func() bool { return r.Stalled() != nil })
	select {
	case <-r.Ready():
		t.Error("ready without a database")
	default:
	}
	down.Store(false)
	waitFor(t, "ready", func() bool {
		select {
		case <-r.Ready():
			return true
		default:
			return false
		}
	})
	down.Store(true)
	w.publish(rng, 300)
	waitFor(t, "the role to say that it waits again", func() bool { return r.Stalled() != nil })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := r.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Drain without a database returned %v", err)
	}
	down.Store(false)
	if err := r.ended(t); err != nil {
		t.Fatal(err)
	}
	if err := r.Stalled(); err != nil {
		t.Errorf("after the end it still waits: %v", err)
	}
	w.start(testConfig(), store, nil).drain(t)
	w.verify(store)
}

// TestBackpressure holds no more in memory than it may.
func TestBackpressure(t *testing.T) {
	w := newWorld(t)
	store := newFakeStore()
	store.slow = 5 * time.Millisecond
	cfg := testConfig()
	cfg.FlushBytes, cfg.MaxBytes = 1<<20, 2<<20
	cfg.FlushRows = 5000
	pad := strings.Repeat("x", 2000)
	for i := range 5000 {
		s := &event.Signal{ID: event.HashStrings(fmt.Sprint(i)), Rule: pad, Time: midnight}
		w.append(event.TopicSignals, fmt.Sprintf("binance|S%d", i%12), event.Marshal(s))
	}
	w.flush()
	r := w.start(cfg, store, nil)
	var most int64
	stop := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				r.budget.mu.Lock()
				most = max(most, r.budget.used)
				r.budget.mu.Unlock()
			}
		}
	}()
	r.drain(t)
	close(stop)
	<-watched
	w.verify(store)
	if most == 0 || most > int64(cfg.MaxBytes) {
		t.Errorf("held up to %d bytes, want up to %d", most, cfg.MaxBytes)
	}
	if r.budget.used != 0 {
		t.Errorf("%d bytes are still taken after the end", r.budget.used)
	}
}

// TestForeignTransactions lands what another program committed in a transaction, and
// accounts for what it aborted and for the marks that end transactions as control.
func TestForeignTransactions(t *testing.T) {
	w := newWorld(t)
	store := newFakeStore()
	const key = "binance|S1USDT"
	partition := w.client.Partition(event.TopicMarket, []byte(key))
	foreign := bustest.NewForeigner(t, w.addr, "foreign", event.TopicMarket, partition)
	trades := func(n int) (values [][]byte) {
		for range n {
			values = append(values, event.Marshal(w.trade()))
		}
		return values
	}
	ours := func() {
		for _, v := range trades(70) { // more than a plan
			w.append(event.TopicMarket, key, v)
		}
		w.flush()
	}
	ours()
	for range 3 {
		foreign.Begin()
		foreign.Add(key, trades(5)...)
		foreign.Abort()
		foreign.Begin()
		foreign.Add(key, trades(4)...)
		foreign.Commit()
		ours()
	}
	foreign.Begin()
	foreign.Add(key, trades(2)...)
	foreign.Abort() // the log ends with its mark
	r := w.start(testConfig(), store, nil)
	r.drain(t)
	w.verify(store)
	if rows := len(store.rows["ticks"]); rows != 4*70+3*4 {
		t.Errorf("%d trades landed, want %d", rows, 4*70+3*4)
	}
	var control uint64
	for _, l := range store.landed {
		if l.Topic == event.TopicMarket {
			control += l.Control
		}
	}
	if want := uint64(3*(5+1+1) + 2 + 1); control != want {
		t.Errorf("%d offsets of md were counted as control, want %d: 17 aborted records and 7 marks", control, want)
	}
}

// TestForeignData refuses a log or a database that is not the one it landed.
func TestForeignData(t *testing.T) {
	w := newWorld(t)
	store := newFakeStore()
	w.publish(rand.New(rand.NewPCG(7, 7)), 400)
	w.start(testConfig(), store, nil).drain(t)
	r := w.start(testConfig(), newFakeStore(), nil)
	if err := r.ended(t); !component.IsFatal(err) || !strings.Contains(err.Error(), "another database") {
		t.Errorf("an empty database: Run returned %v", err)
	}
}

func TestCheck(t *testing.T) {
	inc, other := event.HashStrings("a"), event.HashStrings("b")
	plan := event.SinkPlan{Incarnation: inc, First: 100, Last: 199}
	empty := event.SinkPlan{Incarnation: inc, First: 100, Last: 99}
	for _, c := range []struct {
		name       string
		plan       event.SinkPlan
		start, end int64
		landed     int64
		want       []string
	}{
		{"nothing yet", empty, 100, 100, 0, nil},
		{"whole plan landed", plan, 0, 500, 200, nil},
		{"plan open", plan, 0, 500, 100, nil},
		{"first plan open", plan, 100, 500, 0, nil},
		{"retention took what has landed", plan, 200, 500, 200, nil},
		{"log cut short", plan, 0, 150, 200, []string{"ends at 150, 50 records before", "100-199", "topics adopt md", "topics discard md"}},
		{"empty database", plan, 0, 500, 0, []string{"100-199", "another database", "`autohedge sinks reland`"}},
		{"other database", plan, 0, 500, 150, []string{"100-199", "150"}},
		{"state lost", empty, 0, 500, 400, []string{"400"}},
		{"other incarnation", event.SinkPlan{Incarnation: other, First: 1, Last: 2}, 0, 500, 3, []string{inc.String(), other.String(), "topics adopt md", "topics discard md"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &partition{place: place{"md", 1}, assignment: &bus.Assignment{Topic: "md", Partition: 1, Incarnation: inc, Start: c.start, End: c.end}}
			err := p.checkLog(c.plan)
			if err == nil {
				err = p.checkDatabase(c.plan, c.landed)
			}
			if (err != nil) != (c.want != nil) {
				t.Fatalf("check returned %v", err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
		})
	}
}

func TestValidate(t *testing.T) {
	cfg := DefaultConfig()
	if p := cfg.Validate(); len(p) != 0 {
		t.Errorf("the defaults have problems: %v", p)
	}
	cfg = Config{}
	if p := cfg.Validate(); len(p) != 6 {
		t.Errorf("an empty configuration has %d problems, want 6: %v", len(p), p)
	}
}

// waitFor polls a condition for up to 30 s.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

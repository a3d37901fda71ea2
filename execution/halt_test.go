package execution

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// trades decides one small order and tells whether it was placed.
func (w *world) trades(want bool) {
	w.t.Helper()
	d := w.decide(w.decision(event.Buy, "0.001", "50000.5"))
	if want {
		w.wantStates(d, "submitting accepted filled")
		return
	}
	w.wantStates(d, "risk_rejected:kill_switch")
}

func (w *world) startWithQuote() *running {
	w.t.Helper()
	r := w.start(nil)
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(r)
	return r
}

func TestHaltAndResume(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	r := w.startWithQuote()
	w.trades(true)
	resting := w.decision(event.Buy, "0.02", "50000.5")
	resting.Type, resting.TIF, resting.LimitPrice = event.Limit, event.GTC, event.Some(dec("49990"))
	w.decide(resting)
	w.wantStates(resting, "submitting accepted")
	if info, err := os.Stat(w.paths.Socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", info, err)
	}

	// Nothing without a name and a reason, nor in an unknown scope.
	for _, bad := range [][3]string{{ScopeAll, "ann", ""}, {ScopeAll, "", "drill"}, {"everything", "ann", "drill"}, {"account:", "ann", "drill"}} {
		if _, err := RequestHalt(ctx, w.paths, w.connect, bad[0], bad[1], bad[2], event.HaltStop); err == nil {
			t.Errorf("halted with %q", bad)
		}
	}
	w.trades(true)

	report, err := RequestHalt(ctx, w.paths, w.connect, ScopeAll, "ann", "drill", event.HaltStop)
	if err != nil || !report.Engine || !report.File || !report.Control || len(report.Warnings) != 0 {
		t.Fatalf("halting: %+v, %v", report, err)
	}
	w.trades(false)
	w.wantStates(resting, "submitting accepted canceled:requested")

	// A restart never resumes, whichever source is left.
	r.drain()
	if s, err := HaltStatus(ctx, w.paths, w.connect); err != nil || len(s.Halts) != 2 || s.Engine {
		t.Errorf("status without an engine: %+v, %v", s, err)
	}
	if err := os.Remove(w.paths.HaltFile); err != nil {
		t.Fatal(err)
	}
	r = w.startWithQuote()
	w.trades(false) // control says so

	report, err = RequestResume(ctx, w.paths, w.connect, ScopeAll, "bob", "drill is over")
	if err != nil || len(report.Halts) != 0 {
		t.Fatalf("resuming: %+v, %v", report, err)
	}
	w.trades(true)

	// A part: another account, another symbol, then this symbol.
	for _, scope := range []string{"symbol:BTCUSDT", "symbol:btcusdt", "symbol:btc-usdt", "symbol:Binance|BTCUSDT", "symbol:binance|BTC-USDT", "account:paper", "account:PAPER"} {
		if _, err := RequestHalt(ctx, w.paths, w.connect, scope, "ann", "drill", event.HaltStop); err != nil {
			t.Fatal(err)
		}
		w.trades(false)
		if _, err := RequestResume(ctx, w.paths, w.connect, scope, "ann", "drill"); err != nil {
			t.Fatal(err)
		}
	}
	// What matches nothing is refused, and the answer says what there is.
	for scope, there := range map[string]string{"account:other": "there is paper", "symbol:BTCUSD": "BTCUSDT", "symbol:kraken|BTCUSDT": "binance|BTCUSDT"} {
		if _, err := RequestHalt(ctx, w.paths, w.connect, scope, "ann", "drill", event.HaltStop); err == nil || !strings.Contains(err.Error(), there) {
			t.Errorf("halting %s: %v", scope, err)
		}
	}
	w.trades(true)
	if _, err := RequestResume(ctx, w.paths, w.connect, ScopeAll, "ann", "again"); err != nil { // nothing to lift is no error
		t.Fatal(err)
	}
	r.drain()
	w.audit()
	if _, err := os.Stat(w.paths.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket was left behind: %v", err)
	}
	kinds := ""
	for _, c := range all[*event.Control](w, event.TopicControl)[:2] {
		kinds += c.Kind.String() + " by " + c.Who + ": " + c.Why + "; "
	}
	if kinds != "halt by ann: drill; resume by bob: drill is over; " {
		t.Errorf("control says %q", kinds)
	}
}

// TestHaltWithoutEngine halts and resumes through the file and control.
func TestHaltWithoutEngine(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	// Kafka is down: the file alone.
	report, err := RequestHalt(ctx, w.paths, nil, ScopeAll, "ann", "storm", event.HaltStop)
	if err != nil || report.Engine || !report.File || report.Control || len(report.Warnings) != 1 {
		t.Fatalf("halting: %+v, %v", report, err)
	}
	if _, err := RequestResume(ctx, w.paths, nil, ScopeAll, "ann", "calm"); err == nil {
		t.Error("resumed with neither engine nor control")
	}
	r := w.startWithQuote()
	w.trades(false)
	r.drain()
	report, err = RequestResume(ctx, w.paths, w.connect, ScopeAll, "ann", "calm")
	if err != nil || !report.Control || len(report.Halts) != 0 {
		t.Fatalf("resuming: %+v, %v", report, err)
	}
	r = w.startWithQuote()
	w.trades(true)

	// An engine elsewhere writes control: this one follows, and a resume there
	// lifts its own halt as well.
	elsewhere := w.paths
	elsewhere.HaltFile, elsewhere.Socket = filepath.Join(t.TempDir(), "halt"), filepath.Join(t.TempDir(), "none")
	if _, err := RequestHalt(ctx, elsewhere, w.connect, "account:paper", "eve", "far away", event.HaltStop); err != nil {
		t.Fatal(err)
	}
	w.until("control is followed", func() bool { return r.role.board.blocked("paper", venue, symbol, true) != "" })
	w.trades(false)
	if _, err := RequestHalt(ctx, w.paths, w.connect, "symbol:BTCUSDT", "ann", "here too", event.HaltStop); err != nil {
		t.Fatal(err)
	}
	if _, err := RequestResume(ctx, elsewhere, w.connect, ScopeAll, "eve", "all clear"); err != nil {
		t.Fatal(err)
	}
	w.until("control is followed", func() bool { return r.role.board.blocked("paper", venue, symbol, true) == "" })
	if _, err := os.Stat(w.paths.HaltFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the halt file is still there: %v", err)
	}
	w.trades(true)

	// The file written behind the engine's back counts as well, and so does one
	// that makes no sense.
	for _, text := range []string{`{"halts":[{"scope":"all","who":"x","why":"y"}]}`, "garbage", "", `{"halts":[]}`} {
		if err := os.WriteFile(w.paths.HaltFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		w.trades(false)
		if _, err := RequestResume(ctx, w.paths, w.connect, ScopeAll, "ann", "mended"); err != nil {
			t.Fatal(err)
		}
		w.trades(true)
	}
	r.drain()

	// Unreadable at start: a folder cannot be read as a file.
	if err := os.Mkdir(w.paths.HaltFile, 0o750); err != nil {
		t.Fatal(err)
	}
	r = w.startWithQuote()
	w.trades(false)
	r.drain()
	w.audit()
}

// TestUnreadableControl: a record that this build cannot read halts.
func TestUnreadableControl(t *testing.T) {
	w := newWorld(t)
	if err := w.feed.Append(event.TopicControl, 0, []byte("all"), []byte{0xff}, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.feed.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := w.startWithQuote()
	w.trades(false)
	if _, err := RequestResume(t.Context(), w.paths, w.connect, ScopeAll, "ann", "looked at it"); err != nil {
		t.Fatal(err)
	}
	w.trades(true)
	r.drain()
	r = w.startWithQuote() // the resume stands after the bad record
	w.trades(true)
	r.drain()
}

// testBoard is a board whose control comes back at once.
func testBoard(t *testing.T) *board {
	b := newBoard(filepath.Join(t.TempDir(), "halt"), component.Discard(), prometheus.NewGauge(prometheus.GaugeOpts{Name: "x"}))
	log := make(chan *event.Control, 16)
	t.Cleanup(func() { close(log) })
	go func() {
		for c := range log {
			b.apply(bus.Record{Value: event.Marshal(c)}, true)
		}
	}()
	b.publish = func(_ context.Context, c *event.Control) error {
		log <- c
		return nil
	}
	return b
}

func (b *board) testHalt(level event.HaltLevel) (HaltReport, error) {
	return b.halt(context.Background(), haltRequest{scope: ScopeAll, who: "ann", why: "drill", level: level, whence: "engine"})
}

// TestHaltDoesNotWaitForSends: a halt returns while a broker hangs, says that an order
// is on its way, and lets no other begin.
func TestHaltDoesNotWaitForSends(t *testing.T) {
	b := testBoard(t)
	b.publish = func(context.Context, *event.Control) error { return errors.New("no Kafka") }
	sending, release, sent := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		b.send("a", "v", "s", false, func() { close(sending); <-release })
		close(sent)
	}()
	<-sending
	r, err := b.testHalt(event.HaltStop) // the send hangs until after it
	if err != nil || r.InFlight != 1 || r.Control || !r.File || len(r.Warnings) != 1 {
		t.Errorf("halt without Kafka: %+v, %v", r, err)
	}
	for _, reduces := range []bool{false, true} {
		if why := b.send("a", "v", "s", reduces, func() { t.Error("sent after the halt") }); !strings.Contains(why, "drill") {
			t.Errorf("not sent because of %q", why)
		}
	}
	close(release)
	<-sent
	// Without control there is no resume.
	if _, err := b.resume(context.Background(), ScopeAll, "ann", "over", "engine"); err == nil || b.blocked("a", "v", "s", true) == "" {
		t.Errorf("resumed without control: %v", err)
	}
	// A resume that is older than the halt does not lift it.
	late := controlRecord(event.ControlResume, Halt{Scope: ScopeAll, Who: "bob", Why: "yesterday", Time: 1})
	b.apply(bus.Record{Value: event.Marshal(late)}, true)
	if b.blocked("a", "v", "s", true) == "" {
		t.Error("an old resume lifted a newer halt")
	}
}

// TestHaltAgainstSends: of many sends and a halt at the same time, only those that the
// halt counts may end after it has returned, and none begins.
func TestHaltAgainstSends(t *testing.T) {
	for range 200 {
		b := testBoard(t)
		var halted atomic.Bool
		var sent, late atomic.Int64
		var sends sync.WaitGroup
		for range 4 {
			sends.Go(func() {
				for b.send("a", "v", "s", false, func() {
					sent.Add(1)
					runtime.Gosched()
					if halted.Load() {
						late.Add(1)
					}
				}) == "" {
				}
			})
		}
		for sent.Load() == 0 {
			runtime.Gosched()
		}
		r, err := b.testHalt(event.HaltReduce)
		halted.Store(true)
		if err != nil {
			t.Fatal(err)
		}
		sends.Wait() // each ends at the first send that is refused
		if n := late.Load(); n > int64(r.InFlight) {
			t.Fatalf("%d orders were being sent after the halt had returned, which counted %d", n, r.InFlight)
		}
	}
}

// TestHaltLevels: reduce lets reducing orders pass and does not weaken a stop.
func TestHaltLevels(t *testing.T) {
	b := testBoard(t)
	want := func(entry, reducing bool) {
		t.Helper()
		if got := b.blocked("a", "v", "s", false) == ""; got != entry {
			t.Errorf("an entry passes: %v, want %v", got, entry)
		}
		if got := b.blocked("a", "v", "s", true) == ""; got != reducing {
			t.Errorf("what reduces passes: %v, want %v", got, reducing)
		}
	}
	want(true, true)
	for _, step := range []struct {
		level    event.HaltLevel
		reducing bool
	}{{event.HaltReduce, true}, {event.HaltStop, false}, {event.HaltReduce, false}} {
		if _, err := b.testHalt(step.level); err != nil {
			t.Fatal(err)
		}
		want(false, step.reducing)
	}
	if r, err := b.resume(context.Background(), ScopeAll, "ann", "over", "engine"); err != nil || len(r.Halts) != 0 {
		t.Errorf("resuming: %+v, %v", r, err)
	}
	want(true, true)
	if _, err := b.testHalt(event.HaltUnset); err != nil { // of a former build
		t.Fatal(err)
	}
	want(false, false)
}

// TestResumeKeepsALaterHalt: halts and resumes that overlap end as the log has them, in
// the latch and the file as well.
func TestResumeKeepsALaterHalt(t *testing.T) {
	b := testBoard(t)
	var log []*event.Control // the order that control has
	b.publish = func(_ context.Context, c *event.Control) error {
		log = append(log, c)
		if c.Kind == event.ControlResume { // somebody halts after the resume was written
			later := controlRecord(event.ControlHalt, Halt{Scope: ScopeAll, Who: "eve", Why: "again", Time: c.Time + 1, Level: event.HaltStop})
			b.setLatch(Halt{Scope: ScopeAll, Who: "eve", Why: "again", Time: c.Time + 1, Level: event.HaltStop})
			if err := b.file.add(Halt{Scope: ScopeAll, Who: "eve", Why: "again", Time: c.Time + 1}); err != nil {
				return err
			}
			log = append(log, later)
		}
		records := log
		log = nil
		go func() {
			for _, c := range records {
				b.apply(bus.Record{Value: event.Marshal(c)}, true)
			}
		}()
		return nil
	}
	if _, err := b.testHalt(event.HaltStop); err != nil {
		t.Fatal(err)
	}
	r, err := b.resume(context.Background(), ScopeAll, "bob", "over", "engine")
	if err != nil {
		t.Fatal(err)
	}
	if why := b.blocked("a", "v", "s", true); !strings.Contains(why, "again") {
		t.Errorf("the later halt was wiped: %q, %+v", why, r)
	}
	if halts, err := b.file.read(); err != nil || len(halts) != 1 || halts[ScopeAll].Who != "eve" {
		t.Errorf("the file: %+v, %v", halts, err)
	}
}

// TestLongSocketPath: without a socket the file and control do.
func TestLongSocketPath(t *testing.T) {
	w := newWorld(t)
	w.paths.Socket = filepath.Join(filepath.Dir(w.paths.Socket), strings.Repeat("x", 100), "execution.sock")
	r := w.startWithQuote()
	if s, err := RequestHalt(t.Context(), w.paths, w.connect, ScopeAll, "ann", "drill", event.HaltStop); err != nil || s.Engine || !s.Control {
		t.Fatalf("halting: %+v, %v", s, err)
	}
	w.trades(false)
	if s, err := RequestResume(t.Context(), w.paths, w.connect, ScopeAll, "ann", "drill"); err != nil || s.Engine {
		t.Fatalf("resuming: %+v, %v", s, err)
	}
	w.until("control is followed", func() bool { return r.role.board.blocked("paper", venue, symbol, true) == "" })
	w.trades(true)
	r.drain()
}

func TestSocketIsExclusive(t *testing.T) {
	w := newWorld(t)
	r := w.start(nil)
	if _, err := listenSocket(w.paths.Socket, r.role.board); !errors.Is(err, errSocketTaken) {
		t.Errorf("a second engine on the same socket: %v", err)
	}
	r.drain()
	// What a killed engine left behind is taken over.
	if err := os.WriteFile(w.paths.Socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r = w.start(nil)
	r.drain()
}

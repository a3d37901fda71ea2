package execution

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
		if _, err := RequestHalt(ctx, w.paths, w.connect, bad[0], bad[1], bad[2]); err == nil {
			t.Errorf("halted with %q", bad)
		}
	}
	w.trades(true)

	report, err := RequestHalt(ctx, w.paths, w.connect, ScopeAll, "ann", "drill")
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
	for scope, trades := range map[string]bool{"account:other": true, "symbol:ETHUSDT": true, "symbol:BTCUSDT": false, "symbol:binance|BTCUSDT": false, "account:paper": false} {
		if _, err := RequestHalt(ctx, w.paths, w.connect, scope, "ann", "drill"); err != nil {
			t.Fatal(err)
		}
		w.trades(trades)
		if _, err := RequestResume(ctx, w.paths, w.connect, scope, "ann", "drill"); err != nil {
			t.Fatal(err)
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
	report, err := RequestHalt(ctx, w.paths, nil, ScopeAll, "ann", "storm")
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
	if _, err := RequestHalt(ctx, elsewhere, w.connect, "account:paper", "eve", "far away"); err != nil {
		t.Fatal(err)
	}
	w.until("control is followed", func() bool { return r.role.board.halted("paper", venue, symbol) != "" })
	w.trades(false)
	if _, err := RequestHalt(ctx, w.paths, w.connect, "symbol:BTCUSDT", "ann", "here too"); err != nil {
		t.Fatal(err)
	}
	if _, err := RequestResume(ctx, elsewhere, w.connect, ScopeAll, "eve", "all clear"); err != nil {
		t.Fatal(err)
	}
	w.until("control is followed", func() bool { return r.role.board.halted("paper", venue, symbol) == "" })
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

// TestHaltWaitsForSends: once a halt has returned nothing is sent any more, and
// what was being sent has been.
func TestHaltWaitsForSends(t *testing.T) {
	b := newBoard(filepath.Join(t.TempDir(), "halt"), component.Discard(), prometheus.NewGauge(prometheus.GaugeOpts{Name: "x"}))
	b.publish = func(context.Context, *event.Control) error { return errors.New("no Kafka") }
	sending, release, halted := make(chan struct{}), make(chan struct{}), make(chan HaltReport)
	go b.send("a", "v", "s", func() { close(sending); <-release })
	<-sending
	go func() {
		r, err := b.halt(context.Background(), ScopeAll, "ann", "drill")
		if err != nil {
			t.Error(err)
		}
		halted <- r
	}()
	select {
	case <-halted:
		t.Error("the halt returned while an order was being sent")
	case <-time.After(20 * time.Millisecond):
	}
	close(release)
	r := <-halted
	if r.Control || !r.File || len(r.Warnings) != 1 {
		t.Errorf("halt without Kafka: %+v", r)
	}
	if why := b.send("a", "v", "s", func() { t.Error("sent after the halt") }); !strings.Contains(why, "drill") {
		t.Errorf("not sent because of %q", why)
	}
	// Without control there is no resume.
	if _, err := b.resume(context.Background(), ScopeAll, "ann", "over"); err == nil || b.halted("a", "v", "s") == "" {
		t.Errorf("resumed without control: %v", err)
	}
	// A resume that is older than the halt does not lift it.
	late := controlRecord(event.ControlResume, Halt{Scope: ScopeAll, Who: "bob", Why: "yesterday", Time: 1})
	b.apply(bus.Record{Value: event.Marshal(late)}, true)
	if b.halted("a", "v", "s") == "" {
		t.Error("an old resume lifted a newer halt")
	}
}

// TestLongSocketPath: without a socket the file and control do.
func TestLongSocketPath(t *testing.T) {
	w := newWorld(t)
	w.paths.Socket = filepath.Join(filepath.Dir(w.paths.Socket), strings.Repeat("x", 100), "execution.sock")
	r := w.startWithQuote()
	if s, err := RequestHalt(t.Context(), w.paths, w.connect, ScopeAll, "ann", "drill"); err != nil || s.Engine || !s.Control {
		t.Fatalf("halting: %+v, %v", s, err)
	}
	w.trades(false)
	if s, err := RequestResume(t.Context(), w.paths, w.connect, ScopeAll, "ann", "drill"); err != nil || s.Engine {
		t.Fatalf("resuming: %+v, %v", s, err)
	}
	w.until("control is followed", func() bool { return r.role.board.halted("paper", venue, symbol) == "" })
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

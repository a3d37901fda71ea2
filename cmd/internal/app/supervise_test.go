package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/autohedge/autohedge/cmd/internal/config"
	"github.com/autohedge/autohedge/cmd/internal/folder"
	"github.com/autohedge/autohedge/execution"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/sim"
)

// scriptedRole is a role of one life: it is ready at once where ready says so, and ends
// with err after life. Without an end of its own it runs until it is drained.
type scriptedRole struct {
	ready, done chan struct{}
	drained     chan struct{}
	life        time.Duration
	err         error
	deaf        bool // it ignores drains
	immortal    bool // it ignores the end of its context too
}

func newScriptedRole(life time.Duration, err error) *scriptedRole {
	r := &scriptedRole{ready: make(chan struct{}), done: make(chan struct{}), drained: make(chan struct{}), life: life, err: err}
	close(r.ready)
	return r
}

func (r *scriptedRole) Ready() <-chan struct{} { return r.ready }

func (r *scriptedRole) Run(ctx context.Context) error {
	defer close(r.done)
	var end <-chan time.Time
	if r.err != nil {
		t := time.NewTimer(r.life)
		defer t.Stop()
		end = t.C
	}
	over := ctx.Done()
	if r.immortal {
		over = nil
	}
	select {
	case <-end:
		return r.err
	case <-r.drained:
		return nil
	case <-over:
		return nil
	}
}

func (r *scriptedRole) Drain(ctx context.Context) error {
	if !r.deaf {
		close(r.drained)
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// supervisedEngine is an engine without servers that notes the halts which it orders.
type supervisedEngine struct {
	*engine
	halts []string
}

func newSupervisedEngine(t *testing.T) *supervisedEngine {
	t.Helper()
	f, err := folder.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	e := &supervisedEngine{engine: newEngine(config.Default(), f, slog.New(slog.DiscardHandler), component.SystemClock{}, io.Discard)}
	e.requestHalt = func(_ context.Context, why string) error {
		e.halts = append(e.halts, why)
		return nil
	}
	return e
}

// lives builds the roles of a spec one after the other; the last one stays.
func lives(roles ...component.Role) (spec roleSpec, built *atomic.Int32) {
	built = new(atomic.Int32)
	return roleSpec{name: "test", build: func(context.Context, *engine, component.Env) (component.Role, error) {
		n := int(built.Add(1))
		return roles[min(n, len(roles))-1], nil
	}}, built
}

var errRetryable = errors.New("the broker hung up")

// A role that ends with a retryable error is built again; /readyz and /health say so in
// between, and the pauses grow.
func TestRoleStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSupervisedEngine(t)
		spec, built := lives(newScriptedRole(time.Second, errRetryable), newScriptedRole(time.Second, errRetryable), newScriptedRole(0, nil))
		if err := e.start(t.Context(), []roleSpec{spec}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second + restartWait/2)
		synctest.Wait()
		if ready, why := e.board.Ready(); ready || !strings.Contains(why, "test") {
			t.Errorf("between two lives the process is ready: %v, %q", ready, why)
		}
		if said := e.board.Report().Degraded["role test"]; !strings.Contains(said, errRetryable.Error()) {
			t.Errorf("health says %q of the role", said)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := built.Load(); n != 3 {
			t.Errorf("built %d times, want 3", n)
		}
		if ready, why := e.board.Ready(); !ready {
			t.Errorf("after the restarts the process is not ready: %s", why)
		}
		if r := e.board.Report(); r.Degraded["role test"] != "" {
			t.Errorf("health still says %q", r.Degraded["role test"])
		}
		if n := testutil.ToFloat64(e.restarts.WithLabelValues("test")); n != 2 {
			t.Errorf("%v restarts are counted, want 2", n)
		}
		e.drain(t.Context())
		if faults := e.faultList(); len(faults) > 0 || len(e.halts) > 0 {
			t.Errorf("faults %q, halts %q", faults, e.halts)
		}
	})
}

// A fatal error, and any error before the role is ready for the first time, is the end.
func TestRoleFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSupervisedEngine(t)
		spec, built := lives(newScriptedRole(time.Second, component.Fatal(errors.New("the log has a gap"))))
		if err := e.start(t.Context(), []roleSpec{spec}); err != nil {
			t.Fatal(err)
		}
		<-e.failed
		if faults := e.faultList(); built.Load() != 1 || len(faults) != 1 || !strings.Contains(faults[0], "the log has a gap") {
			t.Errorf("built %d times, faults %q", built.Load(), faults)
		}

		e = newSupervisedEngine(t)
		late := newScriptedRole(time.Second, errRetryable)
		late.ready = make(chan struct{})
		spec, built = lives(late)
		if err := e.start(t.Context(), []roleSpec{spec}); err == nil || !strings.Contains(err.Error(), errRetryable.Error()) || built.Load() != 1 {
			t.Errorf("built %d times, the start says %v", built.Load(), err)
		}
	})
}

// A role that ends again and again is given up: entries are halted, and the process ends
// with what happened. A role that ends now and then is not.
func TestCrashLoopHalts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newSupervisedEngine(t)
		var roles []component.Role
		for range crashLoopRestarts + 1 {
			roles = append(roles, newScriptedRole(time.Second, errRetryable))
		}
		spec, built := lives(append(roles, newScriptedRole(0, nil))...)
		if err := e.start(t.Context(), []roleSpec{spec}); err != nil {
			t.Fatal(err)
		}
		<-e.failed
		if n := built.Load(); n != crashLoopRestarts+1 {
			t.Errorf("built %d times, want %d", n, crashLoopRestarts+1)
		}
		if len(e.halts) != 1 || !strings.Contains(e.halts[0], "test ended 6 times") || !strings.Contains(e.halts[0], errRetryable.Error()) {
			t.Errorf("halts %q", e.halts)
		}
		if faults := e.faultList(); len(faults) != 1 || !strings.Contains(faults[0], "ended 6 times") {
			t.Errorf("faults %q", faults)
		}
		e.drain(t.Context()) // of a role that has ended

		e = newSupervisedEngine(t)
		roles = nil
		for range 3 * crashLoopRestarts {
			roles = append(roles, newScriptedRole(crashLoopWindow/(crashLoopRestarts-1), errRetryable))
		}
		spec, built = lives(append(roles, newScriptedRole(0, nil))...)
		if err := e.start(t.Context(), []roleSpec{spec}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := int(built.Load()); n != len(roles)+1 || len(e.halts) > 0 {
			t.Errorf("built %d times, want %d; halts %q", n, len(roles)+1, e.halts)
		}
		e.drain(t.Context())
	})
}

// Replays halt nothing: the folder's halt file is the live engine's.
func TestCrashLoopOfAReplayHaltsNothing(t *testing.T) {
	e := newSupervisedEngine(t)
	e.cfg.Kafka.Session = "r1"
	e.haltForCrashLoop(t.Context(), "test", errRetryable)
	if len(e.halts) > 0 {
		t.Errorf("halts %q", e.halts)
	}
}

// What a crash loop orders holds for an engine that starts later, also without Kafka.
func TestCrashLoopWritesTheHaltFile(t *testing.T) {
	e := newSupervisedEngine(t)
	e.cfg.Kafka.Brokers = []string{"127.0.0.1:1"}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := e.orderHalt(ctx, "test"); err != nil {
		t.Fatal(err)
	}
	report, err := execution.HaltStatus(t.Context(), e.executionPaths(), nil)
	if err != nil || len(report.Halts) != 1 || report.Halts[0].Level != event.HaltReduce || report.Halts[0].Who != crashLoopWho {
		t.Errorf("%v, %+v", err, report.Halts)
	}
}

// A drain ends a pause between two lives. A role that misses the deadline is cut, which
// is a fault only where it does not end then.
func TestDrainOfUnwillingRoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drain := func(role *scriptedRole, after time.Duration) []string {
			t.Helper()
			e := newSupervisedEngine(t)
			spec, _ := lives(role)
			if err := e.start(t.Context(), []roleSpec{spec}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(after)
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), drainBudget)
			defer cancel()
			e.drain(ctx)
			return e.faultList()
		}
		if faults := drain(newScriptedRole(time.Second, errRetryable), time.Second+restartWait/2); len(faults) > 0 {
			t.Errorf("draining between two lives: %q", faults)
		}
		deaf := newScriptedRole(0, nil)
		deaf.deaf = true
		if faults := drain(deaf, time.Second); len(faults) > 0 {
			t.Errorf("cutting a slow drain: %q", faults)
		}
		immortal := newScriptedRole(0, nil)
		immortal.deaf, immortal.immortal = true, true
		if faults := drain(immortal, time.Second); len(faults) != 1 || !strings.Contains(faults[0], "still running") {
			t.Errorf("a role that does not end: %q", faults)
		}
		close(immortal.drained)
	})
}

// breakable is a role that a test can end with an error: it takes the ground from under
// Run, as a lost connection does.
type breakable struct {
	component.Role
	broken chan error
}

func (b *breakable) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- b.Role.Run(ctx) }()
	select {
	case err := <-ended:
		return err
	case err := <-b.broken:
		cancel()
		return errors.Join(err, <-ended)
	}
}

// Every role of a trading engine ends once with a retryable error and starts again in the
// same process: nothing is lost or doubled, and trading goes on.
func TestEngineRestartsEveryRole(t *testing.T) {
	t.Parallel()
	f, err := folder.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.HTTP.Listen, cfg.Kafka.Partitions = "off", 2
	cfg.Embedded.Kafka, cfg.Embedded.ClickHouse = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Agents.Policy.EdgeBps = 60
	sc := sim.DefaultConfig()
	sc.Dir = f.Sim()
	market, err := sim.Start(t.Context(), sc, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = market.Close() }()
	cfg.Stream.Feeds = simFeeds(market, sc)
	e := newEngine(cfg, f, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})), component.SystemClock{}, io.Discard)
	if err := e.connect(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	since, err := e.mark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	broken := make(map[string]chan error)
	var specs []roleSpec
	for _, s := range roleTable() {
		build := s.build
		broken[s.name] = make(chan error)
		s.build = func(ctx context.Context, e *engine, env component.Env) (component.Role, error) {
			role, err := build(ctx, e, env)
			return &breakable{Role: role, broken: broken[s.name]}, err
		}
		specs = append(specs, s)
	}
	if err := e.start(t.Context(), specs); err != nil {
		t.Fatal(err)
	}
	wait := func(what string, holds func() bool) {
		t.Helper()
		for end := time.Now().Add(90 * time.Second); !holds(); {
			if time.Now().After(end) {
				t.Fatalf("waiting until %s: faults %q", what, e.faultList())
			}
			select {
			case <-e.failed:
				t.Fatalf("waiting until %s: faults %q", what, e.faultList())
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	count := func(table string) uint64 {
		return (&asker{ctx: t.Context(), e: e}).number("SELECT count() FROM " + table)
	}
	for _, s := range specs {
		fills := count("fills")
		broken[s.name] <- errRetryable
		wait(s.name+" is ready again", func() bool {
			ready, _ := e.board.Ready()
			return ready && testutil.ToFloat64(e.restarts.WithLabelValues(s.name)) == 1
		})
		wait("fills land after "+s.name+" has restarted", func() bool { return count("fills") > fills })
	}
	if err := market.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	draining, cancel := context.WithTimeout(t.Context(), drainBudget)
	defer cancel()
	e.drain(draining)
	s, err := e.summarize(t.Context(), since)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := e.simCheck(t.Context()); err != nil || n != 0 {
		t.Errorf("the simulator's ledger and ClickHouse differ in %d trades: %v", n, err)
	}
	if failures := s.failures(); len(failures) > 0 {
		t.Errorf("the closing summary says %q", failures)
	}
	closing, end := context.WithTimeout(t.Context(), drainBudget)
	defer end()
	e.close(closing)
	if faults := e.faultList(); len(faults) > 0 || s.Fills == 0 {
		t.Errorf("%d fills, faults %q", s.Fills, faults)
	}
}

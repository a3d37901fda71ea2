package app

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/execution"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

const (
	// restartWait is the pause before a role is started again. It doubles up to
	// restartMaxWait and varies by a fifth.
	restartWait    = time.Second
	restartMaxWait = 30 * time.Second
	// crashLoopRestarts is how many times a role is started again within crashLoopWindow.
	crashLoopRestarts = 5
	crashLoopWindow   = 10 * time.Minute
	// slowDrain is the time after which a drain is logged as slow.
	slowDrain = 5 * time.Second
	// cutPatience is how long a role may take to end after its drain was cut.
	cutPatience = 5 * time.Second
	// haltPatience bounds the halt that a crash loop orders.
	haltPatience = 10 * time.Second
	// crashLoopWho is the name under which that halt is recorded.
	crashLoopWho = "crash-loop guard"
)

// supervisedRole is a role that the engine runs until it is drained or fails. The engine
// builds and runs it again after an error that may be retried.
type supervisedRole struct {
	name     string
	build    func(context.Context) (component.Role, error)
	wait     *backoff.ExponentialBackOff
	ready    chan struct{}      // closed when it is ready for the first time
	done     chan struct{}      // closed when it has ended and is not started again
	draining chan struct{}      // closed by the first drain
	cancel   context.CancelFunc // ends its Run and its pauses

	mu       sync.Mutex
	role     component.Role // the present one; the ended one during a pause
	failures []time.Time    // ends with an error within crashLoopWindow, oldest first
	err      error          // why it is started again; nil while it is ready
}

func newSupervisedRole(ctx context.Context, name string, build func(context.Context) (component.Role, error)) (*supervisedRole, context.Context) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	return &supervisedRole{
		name: name, build: build, cancel: cancel,
		wait: &backoff.ExponentialBackOff{
			InitialInterval: restartWait, MaxInterval: restartMaxWait, Multiplier: 2, RandomizationFactor: 0.2,
		},
		ready: make(chan struct{}), done: make(chan struct{}), draining: make(chan struct{}),
	}, ctx
}

// current returns the role that runs now or ran last.
func (r *supervisedRole) current() component.Role {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.role
}

// replace makes role the present one, or reports that a drain has begun.
func (r *supervisedRole) replace(role component.Role) (running bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.draining:
		return false
	default:
	}
	r.role = role
	return true
}

func (r *supervisedRole) isDraining() bool {
	select {
	case <-r.draining:
		return true
	default:
		return false
	}
}

// restartError returns what /health says while the role is being started again.
func (r *supervisedRole) restartError() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		return ""
	}
	return "the role ended and is started again: " + r.err.Error()
}

// noteFailure records an end with an error and reports whether it is one too many.
func (r *supervisedRole) noteFailure(now time.Time, err error) (crashLoop bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	for len(r.failures) > 0 && now.Sub(r.failures[0]) > crashLoopWindow {
		r.failures = r.failures[1:]
	}
	if len(r.failures) == 0 {
		r.wait.Reset()
	}
	r.failures = append(r.failures, now)
	return len(r.failures) > crashLoopRestarts
}

// drain asks the role to finish its inputs. It returns when the role has ended or ctx
// ends.
func (r *supervisedRole) drain(ctx context.Context) error {
	r.mu.Lock()
	if !r.isDraining() {
		close(r.draining)
	}
	role := r.role
	r.mu.Unlock()
	err := role.Drain(ctx)
	select {
	case <-r.done:
	case <-ctx.Done():
	}
	return err
}

// startRole builds a role and runs it in a goroutine of its own.
func (e *engine) startRole(ctx context.Context, s roleSpec) (*supervisedRole, error) {
	metrics := &lifeMetrics{Registerer: e.env.Metrics}
	env := e.env
	env.Metrics = metrics
	r, ctx := newSupervisedRole(ctx, s.name, func(ctx context.Context) (component.Role, error) {
		metrics.unregisterAll()
		return s.build(ctx, e, env)
	})
	role, err := r.build(ctx)
	if err != nil {
		r.cancel()
		return nil, fmt.Errorf("building role %s: %w", s.name, err)
	}
	r.replace(role)
	e.mu.Lock()
	e.roles = append(e.roles, r)
	e.mu.Unlock()
	e.board.AddCondition("role "+s.name, r.restartError)
	go e.superviseRole(ctx, r)
	return r, nil
}

// superviseRole runs a role until it was drained, fails, or ends too often. An error is
// retried unless it is fatal: going on after a fatal one would lose, double or misjudge
// something. Before the role is ready for the first time every error ends the start.
func (e *engine) superviseRole(ctx context.Context, r *supervisedRole) {
	defer close(r.done)
	defer r.cancel()
	err := e.runRole(ctx, r, r.current())
	for err != nil {
		started := false
		select {
		case <-r.ready:
			started = true
		default:
		}
		if !started || r.isDraining() || component.IsFatal(err) {
			e.failRole(r, err)
			return
		}
		if r.noteFailure(e.env.Clock.Now(), err) {
			e.haltForCrashLoop(ctx, r.name, err)
			e.failRole(r, fmt.Errorf("ended %d times within %s, last with: %w", crashLoopRestarts+1, crashLoopWindow, err))
			return
		}
		wait := r.wait.NextBackOff()
		e.board.Wait(r.name)
		e.restarts.WithLabelValues(r.name).Inc()
		e.env.Log.Error("role ended and starts again", "role", r.name, "after", wait.Round(time.Millisecond), "err", err)
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-r.draining:
			pause.Stop()
			return
		case <-ctx.Done():
			pause.Stop()
			return
		}
		var role component.Role
		if role, err = r.build(ctx); err == nil {
			if !r.replace(role) {
				return
			}
			err = e.runRole(ctx, r, role)
		}
	}
}

// runRole runs one life of a role and shows when it is ready.
func (e *engine) runRole(ctx context.Context, r *supervisedRole, role component.Role) error {
	ended := make(chan struct{})
	var readiness sync.WaitGroup
	readiness.Go(func() {
		select {
		case <-role.Ready():
		case <-ended:
			return
		}
		r.mu.Lock()
		r.err = nil
		r.mu.Unlock()
		e.board.Done(r.name)
		e.addHealth(role)
		select {
		case <-r.ready:
		default:
			close(r.ready)
		}
	})
	err := role.Run(ctx)
	close(ended)
	readiness.Wait()
	return err
}

// failRole notes the end of a role that is not started again. The process ends with it.
func (e *engine) failRole(r *supervisedRole, err error) {
	e.env.Log.Error("role stopped", "role", r.name, "err", err)
	e.fault("role " + r.name + ": " + err.Error())
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.failed:
	default:
		close(e.failed)
	}
}

// haltForCrashLoop halts new entries, wherever execution runs. A replay, which trades
// nothing, halts nothing.
func (e *engine) haltForCrashLoop(ctx context.Context, role string, err error) {
	if e.cfg.Kafka.Session != "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), haltPatience)
	defer cancel()
	why := fmt.Sprintf("role %s ended %d times within %s: %v", role, crashLoopRestarts+1, crashLoopWindow, err)
	if err := e.requestHalt(ctx, why); err != nil {
		e.env.Log.Error("halting because a role ends again and again", "role", role, "err", err)
		return
	}
	e.env.Log.Error("entries are halted because a role ends again and again", "role", role, "hint", "repair what the error names, start again, then lift the halt with `autohedge resume --why ...`")
}

// orderHalt halts new entries everywhere, as `autohedge halt` does.
func (e *engine) orderHalt(ctx context.Context, why string) error {
	connect := func(ctx context.Context) (*bus.Client, error) {
		cfg := e.cfg.Kafka
		if len(cfg.Brokers) == 0 {
			cfg = kafkaOf(cfg, e.kafkaAnnouncement)
		}
		return bus.Connect(ctx, cfg, component.Discard())
	}
	_, err := execution.RequestHalt(ctx, e.executionPaths(), connect, execution.ScopeAll, crashLoopWho, why, event.HaltReduce)
	return err
}

// drain stops the roles, upstream first: each works to the end of its inputs, flushes and
// stops before the next one downstream is asked to. A slow drain is a warning, for Kafka
// holds what is left; a role that does not end is a fault.
func (e *engine) drain(ctx context.Context) {
	e.board.SetPhase("stopping")
	for i := len(e.roles) - 1; i >= 0; i-- {
		r := e.roles[i]
		begun := time.Now()
		err := r.drain(ctx)
		cut := false
		select {
		case <-r.done:
		default:
			cut = true
			r.cancel()
			select {
			case <-r.done:
			case <-time.After(cutPatience):
				e.fault("draining " + r.name + ": it is still running " + cutPatience.String() + " after it was cut")
			}
		}
		took := time.Since(begun)
		e.drainSeconds.WithLabelValues(r.name).Set(took.Seconds())
		switch {
		case cut:
			e.env.Log.Warn("drain was cut at its deadline: the rest is read from Kafka at the next start", "role", r.name, "took", took.Round(time.Millisecond), "err", err)
		case err != nil:
			e.fault(fmt.Sprintf("draining %s: %v", r.name, err))
		case took > slowDrain:
			e.env.Log.Warn("drain was slow", "role", r.name, "took", took.Round(time.Millisecond))
		default:
			e.env.Log.Info("role stopped", "role", r.name, "took", took.Round(time.Millisecond))
		}
	}
}

// lifeMetrics registers the metrics of one life of a role. The next life begins with
// counters at zero and without gauges of the one before, as a process that starts again
// does.
type lifeMetrics struct {
	prometheus.Registerer

	mu         sync.Mutex
	registered []prometheus.Collector
}

// Register implements prometheus.Registerer.
func (m *lifeMetrics) Register(c prometheus.Collector) error {
	if err := m.Registerer.Register(c); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.registered = append(m.registered, c)
	return nil
}

// MustRegister implements prometheus.Registerer.
func (m *lifeMetrics) MustRegister(list ...prometheus.Collector) {
	for _, c := range list {
		if err := m.Register(c); err != nil {
			panic(err)
		}
	}
}

// unregisterAll removes what was registered since it was called last.
func (m *lifeMetrics) unregisterAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.registered {
		m.Unregister(c)
	}
	m.registered = nil
}

// newSupervisionMetrics returns the metrics of the supervision.
func newSupervisionMetrics(reg prometheus.Registerer) (restarts *prometheus.CounterVec, drainSeconds *prometheus.GaugeVec) {
	restarts = component.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "autohedge_role_restarts_total", Help: "Times a role was started again after an error."}, []string{"role"}))
	drainSeconds = component.Register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "autohedge_role_drain_seconds", Help: "How long the role's last drain took."}, []string{"role"}))
	return restarts, drainSeconds
}

package component

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Env is what a component may use of the outside world beyond its own
// configuration. It is passed by value; the things it points to are shared and
// safe for concurrent use.
type Env struct {
	// Log already carries the component's name. Steady state logs nothing.
	Log *slog.Logger
	// Metrics is where the component registers its metrics, once.
	Metrics prometheus.Registerer
	// Clock is the time of the session: the machine's clock when live, the
	// recorded receive time in a replay. Never call time.Now for anything that
	// reaches a record, a decision or a limit.
	Clock Clock
}

// With returns a copy whose logger names the component.
func (e Env) With(component string) Env {
	e.Log = e.Log.With("component", component)
	return e
}

// Discard returns an Env for tests: no log, a private metrics registry, the
// machine's clock.
func Discard() Env {
	return Env{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Clock: SystemClock{}}
}

// Clock tells the time of the session. Timers, back-off and I/O deadlines use
// the time package directly: they concern the machine, not the market.
type Clock interface {
	Now() time.Time
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// Now returns the machine's time.
func (SystemClock) Now() time.Time { return time.Now() }

// SessionClock follows recorded time: it stands still until Advance moves it,
// and never goes back. Its zero value stands at the Unix epoch. It is safe for
// concurrent use.
type SessionClock struct{ ns atomic.Int64 }

// Now returns the latest time that Advance was given.
func (c *SessionClock) Now() time.Time { return time.Unix(0, c.ns.Load()) }

// Advance moves the clock to t (Unix nanoseconds) unless it is already there or
// later.
func (c *SessionClock) Advance(t int64) {
	for {
		old := c.ns.Load()
		if t <= old || c.ns.CompareAndSwap(old, t) {
			return
		}
	}
}

// Role is one of the engine's roles as the role table starts and stops it.
type Role interface {
	// Run serves until Drain has finished, ctx ends or the role fails. It is
	// called once. It returns nil after a drain or when ctx ends.
	Run(ctx context.Context) error
	// Ready is closed once the role has restored its state and owns its inputs.
	Ready() <-chan struct{}
	// Drain makes the role work up to the end of its inputs as they are now,
	// flush and stop; it returns when Run has finished or ctx ends. The roles
	// upstream have stopped before it is called.
	Drain(ctx context.Context) error
}

var (
	_ Clock = SystemClock{}
	_ Clock = (*SessionClock)(nil)
)

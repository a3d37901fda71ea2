package agents

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/autohedge/autohedge/agents/desk"
	"github.com/autohedge/autohedge/agents/llm"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Name is the role's: its group is autohedge.agents.
const Name = "agents"

// judge is what the role needs of a desk; *desk.Desk is one.
type judge interface {
	// Judge answers one signal; see desk.Desk.
	Judge(ctx context.Context, in desk.Input) (*event.Verdict, error)
}

var _ judge = (*desk.Desk)(nil)

// Role has the desk judge every signal.
type Role struct {
	cfg      Config
	client   *bus.Client
	env      component.Env
	desk     judge
	model    *llm.Client // nil without one
	metrics  *metrics
	health   *modelHealth
	consumer *bus.Consumer
	holdings *holdings
	steps    *steps
	// replay: the session follows recorded time, see watch.
	replay bool
	// saveEvery and saveLeast are the constants of those names; tests have less.
	saveEvery time.Duration
	saveLeast int64
	// pool bounds how many signals are judged at once.
	pool chan struct{}
	done chan struct{}
}

// New makes the role; it does no I/O. cfg must be valid, and client must have
// run EnsureTopics before Run.
func New(cfg Config, client *bus.Client, env component.Env) (*Role, error) {
	env = env.With(Name)
	r := &Role{
		cfg: cfg, client: client, env: env,
		metrics:  newMetrics(env.Metrics),
		health:   newModelHealth(env),
		holdings: newHoldings(), steps: newSteps(),
		saveEvery: saveEvery, saveLeast: saveLeast,
		pool: make(chan struct{}, cfg.Concurrency),
		done: make(chan struct{}),
	}
	_, r.replay = env.Clock.(*component.SessionClock)
	if cfg.UsesLLM() {
		r.model = llm.New(cfg.LLM)
		d := desk.NewModel(cfg.desk(), r.model)
		r.desk = d
		env.Log.Info("desk asks a model", "desk", d.Name(), "model", r.model.Model())
	} else {
		d := desk.NewDeterministic(cfg.desk())
		r.desk = d
		env.Log.Info("desk judges by rules in Go", "desk", d.Name())
		if cfg.Policy.EdgeBps == 0 {
			env.Log.Info("no edge has been measured: the desk opens positions for probes only, with the smallest size", "one_signal_in", cfg.Policy.ProbeEvery)
		}
	}
	r.consumer = client.NewConsumer(bus.ConsumerConfig{Role: Name, Topics: []string{event.TopicSignals}}, env)
	return r, nil
}

// Conditions are what can be wrong with the desk although it works, by name: each
// returns what is wrong now, or nothing.
func (r *Role) Conditions() map[string]func() string {
	if r.model == nil {
		return nil
	}
	return map[string]func() string{"model": r.health.wrong}
}

// Ready implements component.Role: positions are known, the journal is read.
func (r *Role) Ready() <-chan struct{} { return r.consumer.Ready() }

// Run implements component.Role.
func (r *Role) Run(ctx context.Context) error {
	defer close(r.done)
	if r.model != nil {
		defer r.model.Close()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop, err := r.follow(ctx, cancel)
	if err != nil {
		if errors.Is(context.Cause(ctx), context.Canceled) {
			return nil // stopped while restoring
		}
		return err
	}
	err = r.consumer.Run(ctx, r.handle)
	cause := context.Cause(ctx)
	cancel(nil)
	stop()
	if err == nil && cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		err = cause // a follower failed and took the role with it
	}
	return err
}

// Drain implements component.Role.
func (r *Role) Drain(ctx context.Context) error {
	if err := r.consumer.Drain(ctx); err != nil {
		return fmt.Errorf("draining agents: %w", err)
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("draining agents: %w", ctx.Err())
	}
}

var _ component.Role = (*Role)(nil)

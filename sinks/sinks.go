package sinks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// roleName names the group, the producers and the dead letters.
const roleName = "sinks"

// Topics are what the role lands.
var topics = [...]string{
	event.TopicMarket, event.TopicSignals, event.TopicJournal, event.TopicDecisions, event.TopicOrders,
	event.TopicFills, event.TopicPositions, event.TopicDead, event.TopicControl,
}

// Topics returns the topics that land, in the order in which they are reported.
func Topics() []string { return append([]string(nil), topics[:]...) }

// lagEvery is how often the end offsets are asked for the lag gauges.
const lagEvery = 5 * time.Second

// Role lands every record of every topic exactly once.
type Role struct {
	cfg      Config
	client   *bus.Client
	store    Store
	env      component.Env
	metrics  *metrics
	consumer *bus.Consumer
	budget   *budget
	inserts  chan struct{} // one token an insert in flight
	dead     *bus.Producer
	plans    *plans
	warn     limiter
	floor    SnapshotFloor // nil: md is not trimmed

	ready     chan struct{}
	readyOnce sync.Once
	done      chan struct{} // closed when Run has returned

	draining atomic.Bool
	tail     tail
	waiting  sync.Map // what waits for the database or the log -> its last error

	mu    sync.Mutex
	owned map[place]*partition

	// crash is set by tests only: an error it returns ends the role at that step,
	// as a kill would.
	crash func(step string) error
}

// place is one partition of a topic.
type place struct {
	topic     string
	partition int32
}

func (p place) String() string { return fmt.Sprintf("%s/%d", p.topic, p.partition) }

// New makes the role; Run starts it. The topics must exist.
func New(cfg Config, client *bus.Client, store Store, env component.Env) (*Role, error) {
	if err := cfg.Validate().Err(); err != nil {
		return nil, fmt.Errorf("validating sinks: %w", err)
	}
	env = env.With(roleName)
	r := &Role{
		cfg:     cfg,
		client:  client,
		store:   store,
		env:     env,
		metrics: newMetrics(env.Metrics),
		inserts: make(chan struct{}, cfg.MaxInserts),
		ready:   make(chan struct{}),
		done:    make(chan struct{}),
		plans:   newPlans(client),
		owned:   make(map[place]*partition),
		warn:    limiter{every: 10 * time.Second},
	}
	r.budget = newBudget(int64(cfg.MaxBytes), r.metrics.held)
	r.consumer = client.NewConsumer(bus.ConsumerConfig{Role: roleName, Topics: Topics(), KeepCopies: true}, env)
	return r, nil
}

var _ component.Role = (*Role)(nil)

// Ready is closed once the database answers and every owned partition knows
// where it goes on.
func (r *Role) Ready() <-chan struct{} { return r.ready }

// Stalled returns why landing waits at the moment, or nil: the database or the
// log does not take what it is given, and the same is tried again.
func (r *Role) Stalled() error {
	var first error
	r.waiting.Range(func(key, value any) bool {
		what, _ := key.(string)
		err, _ := value.(error)
		first = fmt.Errorf("%s: %w", what, err)
		return false
	})
	return first
}

// Run lands until Drain has finished, ctx ends or something happens that would
// lose or double a record.
func (r *Role) Run(ctx context.Context) (err error) {
	defer close(r.done)
	if err := r.retry(ctx, "preparing the database", r.store.Prepare); err != nil {
		return ended(ctx, err)
	}
	r.dead, err = r.client.NewProducer(ctx, bus.ProducerConfig{Name: roleName, Blocking: true}, r.env)
	if err != nil {
		return ended(ctx, fmt.Errorf("making the producer of dead letters: %w", err))
	}
	defer func() {
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if cerr := r.dead.Close(flush); cerr != nil && err == nil && ctx.Err() == nil {
			err = fmt.Errorf("closing the producer of dead letters: %w", cerr)
		}
	}()

	ctx, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	background.Go(func() { r.signalReady(ctx) })
	background.Go(func() { r.watchLag(ctx) })
	background.Go(func() { r.trim(ctx) })
	background.Go(func() { r.watchOrders(ctx) })
	if err := r.consumer.Run(ctx, r.handle); err != nil {
		return ended(ctx, fmt.Errorf("landing: %w", err))
	}
	return nil
}

// ended returns nil for the error of a context that was ended from outside.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

func (r *Role) signalReady(ctx context.Context) {
	select {
	case <-r.consumer.Ready():
		r.readyOnce.Do(func() { close(r.ready) })
	case <-ctx.Done():
	}
}

// Drain lands every topic up to its end as it is now, and the dead letters that
// this itself makes; it returns when Run has finished or ctx ends.
func (r *Role) Drain(ctx context.Context) error {
	r.draining.Store(true)
	if err := r.consumer.Drain(ctx); err != nil {
		return fmt.Errorf("draining sinks: %w", err)
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		if err := r.Stalled(); err != nil {
			return fmt.Errorf("draining sinks: %w while %w", ctx.Err(), err)
		}
		return fmt.Errorf("draining sinks: %w", ctx.Err())
	}
}

// handle owns one partition for one generation of the group.
func (r *Role) handle(ctx context.Context, a *bus.Assignment) error {
	p := &partition{
		role: r, place: place{a.Topic, a.Partition}, assignment: a,
		log:     r.env.Log.With("topic", a.Topic, "partition", a.Partition),
		ordered: make(chan struct{}, 1),
	}
	var drop func()
	p.lag, drop = r.metrics.partition(a.Topic, a.Partition)
	defer drop()
	r.own(p, true)
	defer r.own(p, false)
	if a.Topic != event.TopicDead {
		r.tail.enter()
		defer r.tail.leave()
	}
	return p.run(ctx)
}

func (r *Role) own(p *partition, yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if yes {
		r.owned[p.place] = p
	} else if r.owned[p.place] == p {
		delete(r.owned, p.place)
	}
}

// watchLag keeps the lag gauges of the owned partitions.
func (r *Role) watchLag(ctx context.Context) {
	tick := time.NewTicker(lagEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, topic := range topics {
			bounds, err := r.client.Offsets(ctx, topic)
			if err != nil {
				r.metrics.errors.Inc()
				break
			}
			for n, b := range bounds {
				r.mu.Lock()
				p := r.owned[place{topic, int32(n)}]
				r.mu.Unlock()
				if p != nil {
					p.lag.Set(float64(max(0, b.End-p.landed.Load())))
				}
			}
		}
	}
}

// step is where tests end the role.
func (r *Role) step(name string) error {
	if r.crash == nil {
		return nil
	}
	return r.crash(name)
}

// tail lets the handler of topic dead wait until no other partition of this
// process can add to it.
type tail struct {
	mu    sync.Mutex
	open  int
	empty chan struct{}
}

func (t *tail) enter() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open++; t.open == 1 {
		t.empty = make(chan struct{})
	}
}

func (t *tail) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open--; t.open == 0 {
		close(t.empty)
	}
}

func (t *tail) wait(ctx context.Context) error {
	t.mu.Lock()
	open, empty := t.open, t.empty
	t.mu.Unlock()
	if open == 0 {
		return nil
	}
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package signals

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Name is the role's name: of its group, its logger and its state topic.
const Name = "signals"

// closeTimeout bounds how long the end of a role waits for acknowledgements.
const closeTimeout = 5 * time.Second

// Role reads md as a member of group autohedge.signals and runs an Engine for
// every partition it owns.
type Role struct {
	client    *bus.Client
	env       component.Env
	set       *RuleSet
	snapshots SnapshotConfig
	store     *ruleStore
	metrics   *metrics
	consumer  *bus.Consumer
	producer  *bus.Producer // for control and dead, which nobody owns; set by Run before any partition is owned
	done      chan struct{}

	mu   sync.Mutex
	kept map[int32]*kept
}

var _ component.Role = (*Role)(nil)

// New makes the role from a valid configuration. EnsureTopics must have run
// before Run.
func New(cfg Config, client *bus.Client, env component.Env) (*Role, error) {
	set, err := CompileRules(cfg)
	if err != nil {
		return nil, err
	}
	return &Role{
		client: client, env: env, set: set, snapshots: cfg.Snapshots, store: newRuleStore(client, env.Log), metrics: newMetrics(env.Metrics),
		consumer: client.NewConsumer(bus.ConsumerConfig{Role: Name, Topics: []string{event.TopicMarket}}, env),
		done:     make(chan struct{}), kept: make(map[int32]*kept),
	}, nil
}

// RuleSet returns the hash of the configured rules.
func (r *Role) RuleSet() event.ID { return r.set.Hash }

// Run implements component.Role.
func (r *Role) Run(ctx context.Context) (err error) {
	defer close(r.done)
	in, out, state := r.client.Partitions(event.TopicMarket), r.client.Partitions(event.TopicSignals), r.client.Partitions(event.TopicSignalState)
	if in != out || in != state {
		return component.Fatal(fmt.Errorf("starting signals: md has %d partitions, signals %d, state.signals %d: they must be equal", in, out, state))
	}
	r.producer, err = r.client.NewProducer(ctx, bus.ProducerConfig{Name: Name, Blocking: true}, r.env)
	if err != nil {
		return ended(ctx, fmt.Errorf("starting signals: %w", err))
	}
	defer func() {
		// What is on its way shall arrive, also when ctx has ended.
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if cerr := r.producer.Close(flush); err == nil && ctx.Err() == nil {
			err = cerr
		}
	}()
	if err := r.store.offer(ctx, r.producer, r.set, r.env.Clock.Now().UnixNano()); err != nil {
		return ended(ctx, fmt.Errorf("starting signals: %w", err))
	}
	return r.consumer.Run(ctx, r.own)
}

// ended turns an error into nil where the end of ctx brought it about.
func ended(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return nil
	default:
		return err
	}
}

// Ready implements component.Role.
func (r *Role) Ready() <-chan struct{} { return r.consumer.Ready() }

// Drain implements component.Role.
func (r *Role) Drain(ctx context.Context) error {
	if err := r.consumer.Drain(ctx); err != nil {
		return fmt.Errorf("draining signals: %w", err)
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("draining signals: %w", ctx.Err())
	}
}

// kept is the state of a partition that was lost, for the case that it comes
// back, as it does in every rebalance: the state is a function of the log, so
// it still holds if the log of rule sets says the same.
type kept struct {
	incarnation event.ID
	base
}

func (r *Role) look(partition int32) *kept {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept[partition]
}

// keep replaces what is kept of the partition; nil when an owner took it over.
func (r *Role) keep(partition int32, k *kept) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k == nil {
		delete(r.kept, partition)
		return
	}
	r.kept[partition] = k
}

package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"

	"github.com/autohedge/autohedge/stream/component"
)

// How a member of a group behaves. Handlers stop within 250 ms and heartbeats
// tell of a rebalance within 300 ms, so a rebalance is over in well under a
// second; a member that died without a word is passed over after the rebalance
// timeout when another one joins, and noticed by itself after the session
// timeout.
const (
	heartbeatEvery   = 300 * time.Millisecond
	sessionTimeout   = 10 * time.Second
	rebalanceTimeout = 3 * time.Second
	joinBackoff      = 250 * time.Millisecond
	commitEvery      = time.Second
	// stopPatience is how long a handler may take to return after its partition
	// was lost before that is logged.
	stopPatience = 250 * time.Millisecond
)

// ConsumerConfig sets up a Consumer.
type ConsumerConfig struct {
	Role       string   // the group is autohedge.<role>, prefixed by the session
	Topics     []string // all are consumed
	KeepCopies bool
}

// Consumer is a member of a group. It hands each partition it owns to a handler
// of its own goroutine.
type Consumer struct {
	client *Client
	cfg    ConsumerConfig
	env    component.Env
	group  string

	commits, generations prometheus.Counter

	readyOnce sync.Once
	ready     chan struct{}

	mu       sync.Mutex
	draining bool
	drain    map[string][]Bounds // the ends that Drain took, by topic
	active   map[*Assignment]struct{}
	changed  chan struct{} // closed and replaced when draining begins
}

// NewConsumer makes a member; Run joins the group.
func (c *Client) NewConsumer(cfg ConsumerConfig, env component.Env) *Consumer {
	group := c.Group(cfg.Role)
	return &Consumer{
		client: c, cfg: cfg, env: env, group: group,
		commits: c.metrics.commits.WithLabelValues(group), generations: c.metrics.rebalances.WithLabelValues(group),
		ready: make(chan struct{}), active: make(map[*Assignment]struct{}), changed: make(chan struct{}),
	}
}

// Run joins the group and calls handle, in a goroutine, for every partition it
// is assigned, in every generation; its ctx ends when the partition is lost, and
// handle must return within 250 ms of that. Run returns nil when ctx ends or
// after a Drain has finished, and the error of a handler otherwise (a lost
// partition's context error is none).
func (k *Consumer) Run(ctx context.Context, handle func(ctx context.Context, a *Assignment) error) error {
	names := make([]string, len(k.cfg.Topics))
	for i, t := range k.cfg.Topics {
		if k.client.Partitions(t) == 0 {
			return fmt.Errorf("joining group %s: no topic %s", k.group, t)
		}
		names[i] = k.client.prefix() + t
	}
	brokers := k.client.cfg.Brokers
	group, err := k.join(names, brokers)
	if err != nil {
		return err
	}
	defer func() { _ = group.Close() }()
	for failures := 0; ; {
		gen, err := group.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			k.client.metrics.errors.WithLabelValues("group").Inc()
			if code, ok := errorCode(err); ok && !temporaryForGroup(code) {
				return component.Fatal(fmt.Errorf("joining group %s: %w", k.group, err))
			}
			if failures++; failures == 10 {
				k.env.Log.Warn("joining the group is being retried", "group", k.group, "error", err)
			}
			if _, answered := errorCode(err); !answered && len(brokers) > 1 {
				// kafka-go asks the first broker that takes its connection, over and over,
				// also one that stands still and answers nothing.
				_ = group.Close()
				brokers = append(slices.Clone(brokers[1:]), brokers[0])
				next, err := k.join(names, brokers)
				if err != nil {
					return err
				}
				group = next
			}
			continue
		}
		failures = 0
		k.generations.Inc()
		finished, err := k.generation(ctx, group, gen, handle)
		if err != nil || finished || ctx.Err() != nil {
			return err
		}
	}
}

// join makes a member; brokers are asked in their order for the coordinator.
func (k *Consumer) join(topics, brokers []string) (*kafka.ConsumerGroup, error) {
	group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: k.group, Brokers: brokers, Dialer: k.client.dialer(), Topics: topics,
		// By range, the same partition of every topic goes to the same member.
		GroupBalancers:    []kafka.GroupBalancer{kafka.RangeGroupBalancer{}},
		HeartbeatInterval: heartbeatEvery, SessionTimeout: sessionTimeout, RebalanceTimeout: rebalanceTimeout,
		JoinGroupBackoff: joinBackoff, Timeout: 5 * time.Second,
	})
	if err != nil {
		return nil, fmt.Errorf("joining group %s: %w", k.group, err)
	}
	return group, nil
}

// temporaryForGroup reports whether joining again may help.
func temporaryForGroup(code kafka.Error) bool {
	switch code {
	case kafka.IllegalGeneration, kafka.UnknownMemberId, kafka.RebalanceInProgress, kafka.BrokerNotAvailable, kafka.Unknown:
		return true
	}
	return code.Temporary()
}

// generation runs the handlers of one generation until it ends; finished says
// that a drain is complete.
func (k *Consumer) generation(ctx context.Context, group *kafka.ConsumerGroup, gen *kafka.Generation, handle func(context.Context, *Assignment) error) (finished bool, err error) {
	over := make(chan struct{})
	// The function given to Start is all that the generation waits for before it
	// lets the partitions go: handlers end in it, and the last offsets are
	// committed in it.
	gen.Start(func(genCtx context.Context) {
		defer close(over)
		run, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(genCtx, cancel)()
		finished, err = k.serve(run, gen, handle)
		if finished || err != nil || ctx.Err() != nil {
			// Leaving has to begin before this function returns, or the group
			// would take its return for a rebalance and join again first.
			go func() { _ = group.Close() }()
			<-genCtx.Done()
		}
	})
	<-over
	return finished, err
}

type handled struct {
	a   *Assignment
	err error
}

// serve hands out the assignments, commits once a second and returns when the
// generation is over, a handler failed or all have returned.
func (k *Consumer) serve(ctx context.Context, gen *kafka.Generation, handle func(context.Context, *Assignment) error) (finished bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	mine, err := k.assignments(ctx, gen)
	if err != nil {
		if ctx.Err() != nil {
			return false, nil
		}
		return false, err
	}
	changed, draining := k.begin(mine)
	defer k.finish(mine)

	returned := make(chan handled)
	for _, a := range mine {
		go func() { returned <- handled{a, handle(ctx, a)} }()
	}
	unready := len(mine)
	if unready == 0 {
		k.setReady()
	}
	readied := make(chan struct{}, len(mine))
	for _, a := range mine {
		go func() {
			select {
			case <-a.ready:
				readied <- struct{}{}
			case <-ctx.Done():
			}
		}()
	}

	ticker := time.NewTicker(commitEvery)
	defer ticker.Stop()
	lost := ctx.Done()
	var late <-chan time.Time
	for running := len(mine); running > 0 || !draining; {
		select {
		case h := <-returned:
			running--
			h.a.close()
			h.a.Ready()
			if h.err != nil && !errors.Is(h.err, io.EOF) && ctx.Err() == nil {
				err = fmt.Errorf("handling %s/%d: %w", h.a.Topic, h.a.Partition, h.err)
				cancel()
			}
			k.commit(gen, h.a)
			if running == 0 && (lost == nil || err != nil) {
				return false, err
			}
		case <-readied:
			if unready--; unready == 0 {
				k.setReady()
			}
		case <-ticker.C:
			k.commit(gen, mine...)
		case <-changed:
			changed, draining = k.state()
		case <-lost:
			if running == 0 {
				return false, err
			}
			lost = nil
			late = time.After(stopPatience)
		case <-late:
			k.env.Log.Warn("a handler is slow to give its partition up", "group", k.group, "running", running)
		}
	}
	return true, err
}

// assignments describes what this member owns in the generation.
func (k *Consumer) assignments(ctx context.Context, gen *kafka.Generation) ([]*Assignment, error) {
	var mine []*Assignment
	for _, topic := range k.cfg.Topics {
		owned := gen.Assignments[k.client.prefix()+topic]
		if len(owned) == 0 {
			continue
		}
		ids := make([]int32, len(owned))
		for i, p := range owned {
			ids[i] = int32(p.ID)
		}
		bounds, err := k.client.awaitBounds(ctx, topic, ids)
		if err != nil {
			return nil, err
		}
		for i, p := range owned {
			mine = append(mine, &Assignment{
				Topic: topic, Partition: ids[i], Incarnation: k.client.Incarnation(topic), Generation: gen.ID,
				Committed: max(p.Offset, -1), Start: bounds[i].Start, End: bounds[i].End,
				consumer: k, ready: make(chan struct{}), next: -1, sent: max(p.Offset, -1),
			})
		}
	}
	return mine, nil
}

// begin makes the assignments known to Drain.
func (k *Consumer) begin(mine []*Assignment) (changed chan struct{}, draining bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range mine {
		k.active[a] = struct{}{}
		if k.draining {
			a.endAt(k.drain[a.Topic][a.Partition].End)
		}
	}
	return k.changed, k.draining
}

func (k *Consumer) finish(mine []*Assignment) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range mine {
		delete(k.active, a)
	}
}

func (k *Consumer) state() (changed chan struct{}, draining bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changed, k.draining
}

func (k *Consumer) setReady() { k.readyOnce.Do(func() { close(k.ready) }) }

// Ready is closed once the first assignment has been handed out and every
// handler of it has called Assignment.Ready (at once for an empty assignment).
func (k *Consumer) Ready() <-chan struct{} { return k.ready }

// Drain makes every partition end (io.EOF from Next) at its end offset as it is
// now; Run returns when all handlers have returned. It does not wait.
func (k *Consumer) Drain(ctx context.Context) error {
	ends := make(map[string][]Bounds, len(k.cfg.Topics))
	for _, topic := range k.cfg.Topics {
		bounds, err := k.client.Offsets(ctx, topic)
		if err != nil {
			return fmt.Errorf("draining group %s: %w", k.group, err)
		}
		ends[topic] = bounds
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.draining {
		return nil
	}
	k.draining, k.drain = true, ends
	for a := range k.active {
		a.endAt(ends[a.Topic][a.Partition].End)
	}
	close(k.changed)
	k.changed = make(chan struct{})
	return nil
}

// commit sends the offsets that moved. It is called only while the generation's
// handle is good: the broker refuses what comes later, and then the offset stays
// where the next owner expects it.
func (k *Consumer) commit(gen *kafka.Generation, from ...*Assignment) {
	offsets := make(map[string]map[int]int64)
	sent := make(map[*Assignment]int64)
	for _, a := range from {
		next, moved := a.uncommitted()
		if !moved {
			continue
		}
		name := k.client.prefix() + a.Topic
		if offsets[name] == nil {
			offsets[name] = make(map[int]int64)
		}
		offsets[name][int(a.Partition)] = next
		sent[a] = next
	}
	if len(offsets) == 0 {
		return
	}
	if err := gen.CommitOffsets(offsets); err != nil {
		k.client.metrics.errors.WithLabelValues("commit").Inc()
		k.env.Log.Debug("commit was refused", "group", k.group, "error", err)
		return
	}
	k.commits.Inc()
	for a, next := range sent {
		a.committed(next)
	}
}

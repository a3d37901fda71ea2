package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
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
	// was lost; then it is cut off from the bus.
	stopPatience = 250 * time.Millisecond
	// abandonPatience is how long it may take in all. The others wait for this
	// member to join again for the rebalance timeout, counted from before it heard
	// of the rebalance, and then share out what it had.
	abandonPatience = rebalanceTimeout - heartbeatEvery - 700*time.Millisecond
	// commitWarnAfter is how many commits in a row may be refused before that is
	// logged.
	commitWarnAfter = 10
)

// ConsumerConfig sets up a Consumer.
type ConsumerConfig struct {
	Role       string   // the group is autohedge.<role>, prefixed by the session
	Topics     []string // all are consumed
	KeepCopies bool
	// Stall is how long a partition may make no progress although it has records
	// left, before that is fatal; 0 is a minute. See Assignment.Waiting.
	Stall time.Duration
	// PrefetchBytes is how much all partitions together may hold of what was read
	// ahead, whatever their number; 0 is 64 MiB. See prefetch for what is passed.
	PrefetchBytes int64
}

// Consumer is a member of a group. It hands each partition it owns to a handler
// of its own goroutine.
type Consumer struct {
	client *Client
	cfg    ConsumerConfig
	env    component.Env
	group  string

	room *prefetch // of all its partitions

	commits, generations prometheus.Counter

	committing sync.Mutex
	refused    int                      // commits in a row
	known      map[TopicPartition]int64 // what this process has committed

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
	if cfg.Stall <= 0 {
		cfg.Stall = defaultStall
	}
	if cfg.PrefetchBytes <= 0 {
		cfg.PrefetchBytes = defaultPrefetch
	}
	group := c.Group(cfg.Role)
	return &Consumer{
		client: c, cfg: cfg, env: env, group: group, room: newPrefetch(cfg.PrefetchBytes, c.metrics.prefetchBytes.WithLabelValues(group)),
		commits: c.metrics.commits.WithLabelValues(group), generations: c.metrics.rebalances.WithLabelValues(group),
		known: make(map[TopicPartition]int64),
		ready: make(chan struct{}), active: make(map[*Assignment]struct{}), changed: make(chan struct{}),
	}
}

// Run joins the group and calls handle, in a goroutine, for every partition it
// is assigned, in every generation; its ctx ends when the partition is lost, and
// handle must return within 250 ms of that: then its Assignment and the producers
// bound to it give ErrLost. One that has not returned after 2 s, when the partition
// may be another member's, ends Run with a fatal error, and so the process. Run
// returns nil when ctx ends or after a Drain has finished, and the error of a
// handler otherwise (a lost partition's context error is none). A partition that
// stalls, and an offset that may not be committed, are fatal too.
func (k *Consumer) Run(ctx context.Context, handle func(ctx context.Context, a *Assignment) error) error {
	names := make([]string, len(k.cfg.Topics))
	for i, t := range k.cfg.Topics {
		if k.client.Partitions(t) == 0 {
			return fmt.Errorf("joining group %s: no topic %s", k.group, t)
		}
		names[i] = k.client.prefix() + t
	}
	brokers := k.client.seeds
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
			if code, ok := errorCode(err); ok && permanent(code) {
				return component.Fatal(k.joinError(code))
			}
			if failures++; failures == 10 {
				k.env.Log.Warn("joining the group is being retried", "group", k.group, "error", err)
			}
			if errors.Is(err, kafka.RebalanceInProgress) && sleep(ctx, backoff(failures)) != nil {
				return nil // kafka-go asks again at once after this one, and a broker may answer it at once
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
		finished, err = k.serve(run, genCtx, gen, handle)
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
// generation is over, a handler failed or all have returned. Where a handler does
// not return although its partition is lost, serve returns without it.
func (k *Consumer) serve(ctx, genCtx context.Context, gen *kafka.Generation, handle func(context.Context, *Assignment) error) (finished bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pulse := k.pulse(ctx, gen)
	mine, err := k.assignments(ctx, gen, pulse)
	if err != nil {
		if ctx.Err() != nil {
			return false, nil
		}
		return false, err
	}
	k.room.among(len(mine))
	changed, draining := k.begin(mine)
	defer k.finish(mine)

	returned := make(chan handled, len(mine))
	for _, a := range mine {
		go func() {
			err := handle(ctx, a)
			a.close()
			returned <- handled{a, err}
		}()
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

	over := make(chan struct{})
	defer close(over)
	abandoned := make(chan struct{})
	go k.revoke(genCtx, over, mine, abandoned)
	failed := make(chan error, 2)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	background.Go(func() { k.commitWhile(ctx, gen, mine, failed) })
	background.Go(func() { k.watch(ctx, mine, failed) })
	background.Go(pulse.run)

	lost := ctx.Done()
	for running := len(mine); running > 0 || !draining; {
		select {
		case h := <-returned:
			running--
			if h.err == nil || errors.Is(h.err, io.EOF) {
				h.a.Ready()
			} else if ctx.Err() == nil { // one that failed is never ready
				err = fmt.Errorf("handling %s/%d: %w", h.a.Topic, h.a.Partition, h.err)
				cancel()
			}
			if cerr := k.commit(gen, h.a); cerr != nil && err == nil {
				err = cerr
				cancel()
			}
			if running == 0 && (lost == nil || err != nil) {
				return false, err
			}
		case <-readied:
			if unready--; unready == 0 {
				k.setReady()
			}
		case ferr := <-failed:
			if err == nil {
				err = ferr
			}
			cancel()
		case <-changed:
			changed, draining = k.state()
		case <-lost:
			if running == 0 {
				return false, err
			}
			lost = nil
		case <-abandoned:
			return false, k.abandonError(gen, mine)
		}
	}
	return true, err
}

// revoke cuts off the handlers that have not returned in time after the
// generation ended, and closes abandoned when one still runs after that. A
// consumer that only stops keeps its partitions until its handlers return.
func (k *Consumer) revoke(genCtx context.Context, over <-chan struct{}, mine []*Assignment, abandoned chan<- struct{}) {
	select {
	case <-genCtx.Done():
	case <-over:
		return
	}
	timer := time.NewTimer(stopPatience)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-over:
		return
	}
	for _, a := range mine {
		if a.cut() {
			k.client.metrics.cutOff.WithLabelValues(k.group).Inc()
			k.env.Log.Warn("a handler did not give its partition up in time and is cut off", "group", k.group,
				"topic", a.Topic, "partition", a.Partition, "generation", a.Generation, "after", stopPatience)
		}
	}
	timer.Reset(abandonPatience - stopPatience)
	select {
	case <-timer.C:
		close(abandoned)
	case <-over:
	}
}

// abandonError names the handlers that do not return.
func (k *Consumer) abandonError(gen *kafka.Generation, mine []*Assignment) error {
	var names []string
	for _, a := range mine {
		if a.running() {
			names = append(names, fmt.Sprintf("%s/%d", a.Topic, a.Partition))
		}
	}
	return component.Fatal(fmt.Errorf("handling %s: the handler has not returned %s after generation %d of group %s ended, and another member may own the partition now: "+
		"this process must stop; start it again, and report what it was doing (SIGQUIT makes it print all its goroutines)",
		strings.Join(names, ", "), abandonPatience, gen.ID, k.group))
}

// assignments describes what this member owns in the generation.
func (k *Consumer) assignments(ctx context.Context, gen *kafka.Generation, pulse *pulse) ([]*Assignment, error) {
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
		stands, err := k.stands(ctx, topic, owned, bounds)
		if err != nil {
			return nil, err
		}
		for i, at := range stands {
			mine = append(mine, &Assignment{
				Topic: topic, Partition: ids[i], Incarnation: k.client.Incarnation(topic), Generation: gen.ID,
				Committed: at, Start: bounds[i].Start, End: bounds[i].End,
				consumer: k, pulse: pulse, ready: make(chan struct{}), next: -1, sent: at, moved: time.Now(),
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

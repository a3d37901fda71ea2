package stream

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Role supervises the feeds.
type Role struct {
	cfg    Config
	client *bus.Client
	env    component.Env
	feeds  []*feed
	host   *host
	replay bool

	ready chan struct{}
	done  chan struct{} // all feeds have ended
	drain chan struct{}
	ended chan struct{} // Run has returned
	once  sync.Once

	mu      sync.Mutex
	out     *bus.Producer
	failure error
	stop    context.CancelFunc
}

var _ component.Role = (*Role)(nil)

// New makes the role; it does no I/O. The topics must exist before Run.
func New(cfg Config, client *bus.Client, env component.Env) (*Role, error) {
	if err := cfg.Validate().Err(); err != nil {
		return nil, fmt.Errorf("configuring the stream role: %w", err)
	}
	env = env.With("stream")
	r := &Role{cfg: cfg, client: client, env: env, replay: cfg.Feeds[0].Replay,
		ready: make(chan struct{}), done: make(chan struct{}), drain: make(chan struct{}), ended: make(chan struct{})}
	r.host = &host{env: env, queue: cfg.QueueBytes, spill: cfg.SpillBytes, failed: r.fail}
	r.host.partition = func(key []byte) int32 { return client.Partition(event.TopicMarket, key) }
	if clock, ok := env.Clock.(*component.SessionClock); ok && r.replay {
		r.host.session = clock
	}
	counters, dials := map[string]*numbers{}, map[string]*limiter{}
	for _, c := range cfg.Feeds {
		f, err := newFeed(r.host, c)
		if err != nil {
			return nil, fmt.Errorf("making feed %s: %w", c.name(), err)
		}
		if counters[f.id] == nil {
			counters[f.id] = new(numbers)
		}
		if dials[c.Venue] == nil {
			dials[c.Venue] = &limiter{n: f.info.Dials, window: f.info.DialWindow}
		}
		f.numbers, f.dials = counters[f.id], dials[c.Venue]
		r.feeds = append(r.feeds, f)
	}
	if _, err := newMetrics(r); err != nil {
		return nil, fmt.Errorf("registering metrics: %w", err)
	}
	return r, nil
}

// fail notes the error that stops the role; the first one counts.
func (r *Role) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure == nil {
		r.failure = err
		if r.stop != nil {
			r.stop()
		}
	}
}

func (r *Role) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failure
}

// output returns the producer, nil before Run has made it.
func (r *Role) output() *bus.Producer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out
}

// Ready implements component.Role: the log has been read and every feed has
// tried to connect.
func (r *Role) Ready() <-chan struct{} { return r.ready }

// Done is closed when all feeds have ended by themselves, as replays do, or have
// been stopped.
func (r *Role) Done() <-chan struct{} { return r.done }

// finishTimeout bounds the flush after the feeds have stopped.
const finishTimeout = 10 * time.Second

// Run implements component.Role.
func (r *Role) Run(ctx context.Context) (err error) {
	defer close(r.ended)
	defer r.once.Do(func() { close(r.done) })
	out, err := r.client.NewProducer(ctx, r.producerConfig(), r.env)
	if err != nil {
		return fmt.Errorf("making the producer: %w", err)
	}
	r.mu.Lock()
	r.out = out
	r.mu.Unlock()
	r.host.out = out
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
		defer cancel()
		if closeErr := out.Close(closing); err == nil && closeErr != nil {
			err = fmt.Errorf("closing the producer: %w", closeErr)
		}
	}()

	// What an earlier run spilled belongs to what recoverLog reads.
	if out.Spilled() > 0 {
		err = out.Flush(ctx)
	}
	var log *recovered
	if err == nil {
		log, err = recoverLog(ctx, r.client)
	}
	if err == nil {
		r.host.insts, err = readInstruments(ctx, r.client, r.host)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	feedCtx, stop := context.WithCancel(ctx)
	defer stop()
	r.mu.Lock()
	r.stop = stop
	r.mu.Unlock()
	if r.failed() != nil { // between making the producer and here
		stop()
	}
	r.serve(feedCtx, stop, log, out.SpillDamage())
	finishing, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	if err := r.failed(); err != nil {
		return err
	}
	if err := r.finish(finishing, out); err != nil {
		return err
	}
	return r.failed()
}

// producerConfig says what becomes of records while Kafka does not take them. A
// replay waits; live, quotes give way to newer ones, and everything else is
// spilled, but dead letters, which are counted.
func (r *Role) producerConfig() bus.ProducerConfig {
	cfg := bus.ProducerConfig{Name: "stream", QueueBytes: r.cfg.QueueBytes, Blocking: r.replay}
	if r.replay {
		return cfg
	}
	cfg.Policies = []bus.StreamPolicy{
		{Topic: event.TopicMarket, Type: event.TypeQuote, Policy: bus.Conflate},
		{Topic: event.TopicDead, Policy: bus.Refuse},
	}
	if r.cfg.SpillDir != "" && r.cfg.SpillBytes > 0 {
		cfg.Spill = bus.SpillConfig{Dir: r.cfg.SpillDir, MaxBytes: r.cfg.SpillBytes}
	}
	return cfg
}

// serve runs the feeds until all have ended or ctx does; once they have ended by
// themselves it waits for the drain.
func (r *Role) serve(ctx context.Context, stop context.CancelFunc, log *recovered, damage []bus.SpillDamage) {
	var feeds, helpers sync.WaitGroup
	for _, f := range r.feeds {
		f.numbers.atLeast(log.numbers[f.id])
	}
	for _, f := range r.feeds {
		f.restore(log)
		f.stateDamage(damage)
		feeds.Go(func() { f.run(ctx) })
		if !f.cfg.Replay {
			helpers.Go(func() { r.host.insts.fetch(ctx, f) })
			helpers.Go(func() { f.tickEvery(ctx) })
		}
	}
	helpers.Go(func() {
		for _, f := range r.feeds {
			select {
			case <-f.started:
			case <-ctx.Done():
				return
			}
		}
		close(r.ready)
	})
	go func() {
		feeds.Wait()
		r.once.Do(func() { close(r.done) })
	}()
	select {
	case <-r.drain:
		stop()
	case <-ctx.Done():
	}
	<-r.done
	stop()
	helpers.Wait()
}

// finish writes the closing clock records and waits for the acknowledgements.
func (r *Role) finish(ctx context.Context, out *bus.Producer) error {
	if err := out.Flush(ctx); err != nil { // makes room
		return fmt.Errorf("flushing: %w", err)
	}
	for _, f := range r.feeds {
		f.close()
	}
	if err := out.Flush(ctx); err != nil {
		return fmt.Errorf("flushing: %w", err)
	}
	return nil
}

// Drain implements component.Role: it stops reading, closes the sockets, writes
// the closing clock records and flushes.
func (r *Role) Drain(ctx context.Context) error {
	r.mu.Lock()
	select {
	case <-r.drain:
	default:
		close(r.drain)
	}
	r.mu.Unlock()
	select {
	case <-r.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("draining the stream role: %w", ctx.Err())
	}
}

// run keeps the feed's connections until ctx ends or its replay is over.
func (f *feed) run(ctx context.Context) {
	plans, err := f.venue.Plans(f.cfg.URL, f.cfg.Symbols, f.specs)
	if err != nil {
		f.once.Do(func() { close(f.started) })
		f.failed(fmt.Errorf("planning feed %s: %w", f.cfg.name(), err))
		return
	}
	var lines sync.WaitGroup
	for _, plan := range plans {
		if f.cfg.Replay {
			plan.URL = f.cfg.URL // the player's, whole
		}
		l := newLine(f, plan)
		lines.Go(func() { l.run(ctx) })
	}
	lines.Wait()
	if f.cfg.Replay && ctx.Err() == nil {
		f.close()
	}
}

// tickEvery writes a clock record a second until ctx ends.
func (f *feed) tickEvery(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	f.tick()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			f.tick()
		}
	}
}

// close writes the closing clock record, once.
func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return
	}
	f.over = true
	if f.cfg.Replay && f.lastFrame == 0 {
		return // nothing was received: there is no time to tell
	}
	f.settleHeld()
	f.clock(f.now(), true)
}

func (n *numbers) atLeast(last uint32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = max(n.last, last)
}

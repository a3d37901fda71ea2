package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"

	"github.com/autohedge/autohedge/stream/component"
)

var (
	// ErrQueueFull is returned by Append where there is no room and its policy is
	// not to wait; it is a *FullError, which says what is full.
	ErrQueueFull = errors.New("producer queue is full")
	// ErrClosed is returned by Append after Close, and handed to the records that
	// were never sent when a producer is closed or has failed.
	ErrClosed = errors.New("producer is closed")
	// ErrTooLarge is returned for a record that no broker would take.
	ErrTooLarge = fmt.Errorf("record is larger than %d bytes", maxBatch-batchHeadSize-recordOverhead)
	// ErrUnknownOutcome is handed to records that were sent and whose answer did
	// not come before the producer was closed or failed: they may be in the log.
	ErrUnknownOutcome = errors.New("record was sent, its outcome is unknown")
	// ErrFenced is what stopped the producer of an owner whose key another took
	// over.
	ErrFenced = errors.New("fenced")
)

// defaultQueueBytes is the queue's bound where the configuration names none.
const defaultQueueBytes = 64 << 20

// ProducerConfig sets up a Producer.
type ProducerConfig struct {
	Name string // metrics label, "stream"
	// QueueBytes bounds what waits to be acknowledged, over all partitions; 0 is
	// the default of 64 MiB.
	QueueBytes int
	// Blocking makes Append wait for room instead of returning ErrQueueFull, where
	// Policies do not say otherwise.
	Blocking bool
	// Policies say stream by stream what Append does with a full queue. The others
	// block where Blocking says so, else spill where there is a folder, else they
	// are refused.
	Policies []StreamPolicy
	// Spill names the files that take what memory does not hold.
	Spill SpillConfig
}

// Producer appends records: acks from all replicas, idempotent, one request in
// flight a partition, batches form by themselves and nothing waits when idle.
// Safe for concurrent use; records of one partition keep the order of their
// Append calls.
type Producer struct {
	client *Client
	cfg    ProducerConfig
	env    component.Env
	codec  compress.Codec
	id     int64
	epoch  int16
	owner  *Owner // nil: owns nothing

	topics map[string][]*lane // by topic, then partition; not changed after NewProducer
	all    []*lane

	queued    atomic.Int64 // never above limit, unless by a single record that is larger
	limit     int64
	pressure  int64        // above it Append looks closer: half of limit where something conflates
	batchMax  int          // bytes of a batch
	dead      atomic.Int64 // bytes in queued of replaced records
	callbacks atomic.Int64 // bytes that the callbacks of spilled records take
	overflow  Policy       // where nothing else is declared
	spill     *spill       // nil without a folder
	gauge     prometheus.Gauge
	fullSeen  prometheus.Counter

	// ctx ends when the producer is given up: after Close, or its deadline.
	ctx    context.Context
	cancel context.CancelFunc
	lanes  sync.WaitGroup

	mu       sync.Mutex
	room     sync.Cond // signalled when bytes leave the queue, and on failure
	waiting  int
	closed   bool
	err      error       // what stopped the producer for good
	failed   atomic.Bool // err is set: no lane takes another record, also before it is told to stop
	firstErr error       // since the last Flush
}

// NewProducer makes a producer that owns nothing, see Own; Close ends it.
// EnsureTopics must have run.
func (c *Client) NewProducer(ctx context.Context, cfg ProducerConfig, env component.Env) (*Producer, error) {
	id, epoch, err := c.initProducer(ctx, "", env)
	if err != nil {
		return nil, err
	}
	return c.newProducer(cfg, env, id, epoch)
}

// newProducer makes a producer whose batches carry that producer id and epoch.
func (c *Client) newProducer(cfg ProducerConfig, env component.Env, id int64, epoch int16) (*Producer, error) {
	if cfg.QueueBytes <= 0 {
		cfg.QueueBytes = defaultQueueBytes
	}
	topics := c.knownTopics()
	if len(topics) == 0 {
		return nil, errors.New("making a producer: EnsureTopics has not run")
	}
	p := &Producer{
		client: c, cfg: cfg, env: env, codec: c.cfg.codec(), id: id, epoch: epoch,
		topics: make(map[string][]*lane, len(topics)),
		limit:  int64(cfg.QueueBytes),
		gauge:  c.metrics.queueBytes.WithLabelValues(cfg.Name), fullSeen: c.metrics.queueFull.WithLabelValues(cfg.Name),
	}
	p.room.L = &p.mu
	p.pressure = p.limit
	// Small against the bound, so that what is in flight leaves room.
	p.batchMax = int(min(maxBatch, max(p.limit/16, 1)))
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for topic, n := range topics {
		lanes := make([]*lane, n)
		for i := range lanes {
			lanes[i] = newLane(p, topic, int32(i))
		}
		p.topics[topic] = lanes
		p.all = append(p.all, lanes...)
	}
	err := p.setPolicies()
	if err == nil && cfg.Spill.Dir != "" {
		err = p.openSpill(c.cfg.Session)
	}
	if err != nil {
		p.cancel()
		return nil, fmt.Errorf("making producer %s: %w", cfg.Name, err)
	}
	for _, l := range p.all { // what an earlier producer left goes first
		l.mu.Lock()
		if l.spilling {
			l.start()
		}
		l.mu.Unlock()
	}
	return p, nil
}

// initProducer asks for a producer id; with an owner it raises that id's epoch,
// which fences whoever had it. A broker that just started answers that it is
// loading for a second or two.
func (c *Client) initProducer(ctx context.Context, owner string, env component.Env) (id int64, epoch int16, err error) {
	if owner != "" {
		owner = c.prefix() + owner
	}
	for attempt := 0; ; attempt++ {
		call, cancel := context.WithTimeout(ctx, requestTimeout)
		res, err := c.kafka.InitProducerID(call, &kafka.InitProducerIDRequest{
			TransactionalID: owner, TransactionTimeoutMs: 60_000, ProducerID: -1, ProducerEpoch: -1,
		})
		cancel()
		if err == nil {
			err = res.Error
		}
		if err == nil && res.Producer.ProducerID >= 0 {
			return int64(res.Producer.ProducerID), int16(res.Producer.ProducerEpoch), nil
		}
		if err == nil {
			err = fmt.Errorf("broker gave producer id %d", res.Producer.ProducerID)
		}
		if code, ok := errorCode(err); ok && permanent(code) {
			if owner == "" { // or Write on any topic
				return 0, 0, component.Fatal(fmt.Errorf("asking for a producer id: %w%s", err, c.grantTo("IdempotentWrite", err)))
			}
			return 0, 0, component.Fatal(fmt.Errorf("asking for the producer id of owner %q: %w%s", owner, err, c.grant(err, owner)))
		}
		if attempt == 20 {
			env.Log.Warn("waiting for a producer id", "error", err)
		}
		if serr := sleep(ctx, backoff(attempt)); serr != nil {
			return 0, 0, fmt.Errorf("asking for a producer id: %w", err)
		}
	}
}

// Append queues one record; key and value are copied, nothing else is
// allocated. done, when not nil, is called once from the producer's goroutine
// with the offset, or the error after which the record is not, and will not be,
// in the log (ErrUnknownOutcome is the exception, after Close or a failure
// only); it must not block. A nil value is a tombstone.
func (p *Producer) Append(topic string, partition int32, key, value []byte, done func(offset int64, err error)) error {
	l, err := p.lane(topic, partition)
	if err != nil {
		return err
	}
	size := recordSize(key, value)
	if size > maxBatch-batchHeadSize {
		return ErrTooLarge
	}
	if !p.admit(int64(size), p.pressure) {
		return p.appendPressed(l, key, value, size, done)
	}
	if err := l.append(key, value, size, true, done); err != nil {
		p.release(int64(size))
		return err
	}
	return nil
}

// admit takes a record's bytes into the queue if that stays within the bound; a
// record that is larger than the bound is taken alone.
func (p *Producer) admit(size, bound int64) bool {
	for {
		queued := p.queued.Load()
		if queued+size > bound && queued > 0 {
			return false
		}
		if p.queued.CompareAndSwap(queued, queued+size) {
			return true
		}
	}
}

// appendPressed is Append where the queue is full or filling.
func (p *Producer) appendPressed(l *lane, key, value []byte, size int, done func(int64, error)) error {
	l.mu.Lock()
	l.press()
	spilling, replaced := l.spilling, l.takeReplaced()
	l.mu.Unlock()
	tellReplaced(replaced)
	policy := l.policyOf(value)
	if policy == Conflate {
		if policy = p.overflow; p.spill != nil {
			policy = Spill
		}
	}
	charged := p.admit(int64(size), p.limit) || p.squeeze() && p.admit(int64(size), p.limit)
	switch {
	case charged:
	case spilling:
	default:
		var err error
		if charged, err = p.makeRoom(policy, int64(size)); err != nil {
			return err
		}
	}
	err := l.append(key, value, size, charged, done)
	if err != nil && charged {
		p.release(int64(size))
	}
	return err
}

// makeRoom does what the policy says for a full queue. Without an error, charged
// says whether the record's bytes are in the queue; if not, it goes to the files.
func (p *Producer) makeRoom(policy Policy, size int64) (charged bool, err error) {
	switch policy {
	case Block:
		p.fullSeen.Inc()
		err := p.waitForRoom(context.Background(), size)
		return err == nil, err
	case Spill:
		p.fullSeen.Inc()
		ctx, cancel := context.WithTimeout(p.ctx, p.spill.cfg.After)
		defer cancel()
		if err := p.waitForRoom(ctx, size); !errors.Is(err, context.DeadlineExceeded) {
			return err == nil, err
		}
		// Where a lane could not, its own append says so.
		_ = p.spillAll()
		return p.admit(size, p.limit), nil
	}
	p.fullSeen.Inc()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.err != nil:
		return false, p.err
	case p.closed:
		return false, ErrClosed
	}
	return false, p.fullMemory()
}

func (p *Producer) fullMemory() error {
	return &FullError{What: "memory", Bytes: p.queued.Load(), Limit: p.limit}
}

func (p *Producer) lane(topic string, partition int32) (*lane, error) {
	lanes := p.topics[topic]
	if partition < 0 || int(partition) >= len(lanes) {
		return nil, fmt.Errorf("appending to %s/%d: it has %d partitions", topic, partition, len(lanes))
	}
	return lanes[partition], nil
}

// waitForRoom takes a record's bytes into the queue once there is room.
func (p *Producer) waitForRoom(ctx context.Context, size int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.room.Broadcast()
	})
	defer stop()
	p.waiting++
	defer func() { p.waiting-- }()
	for {
		switch {
		case p.err != nil:
			return p.err
		case p.closed:
			return ErrClosed
		case p.admit(size, p.limit):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		p.room.Wait()
	}
}

// release takes bytes out of the queue.
func (p *Producer) release(size int64) {
	left := p.queued.Add(-size)
	p.gauge.Set(float64(left))
	p.mu.Lock()
	if p.waiting > 0 {
		p.room.Broadcast()
	}
	p.mu.Unlock()
}

// Flush waits until everything appended before is acknowledged; it returns the
// first error since the last Flush.
func (p *Producer) Flush(ctx context.Context) error {
	for _, l := range p.all {
		if err := l.flush(ctx); err != nil {
			return fmt.Errorf("flushing %s/%d: %w", l.topic, l.partition, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.firstErr
	p.firstErr = nil
	if err == nil {
		err = p.err
	}
	return err
}

// Err is closed-over failure: it returns the error that stopped the producer
// for good (fenced, fatal), or nil.
func (p *Producer) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Queued returns the bytes of memory that wait to be acknowledged.
func (p *Producer) Queued() int64 { return p.queued.Load() }

// Stalled returns for how long the brokers have not taken what was sent to them
// first, over all partitions, and why not as far as that is known; 0 when nothing
// is being sent.
func (p *Producer) Stalled() (d time.Duration, why error) {
	for _, l := range p.all {
		l.mu.Lock()
		if l.flying != nil {
			if since := time.Since(l.since); since > d {
				d, why = since, l.trouble
			}
		}
		l.mu.Unlock()
	}
	return d, why
}

// fail stops the producer for good.
func (p *Producer) fail(err error) {
	p.mu.Lock()
	first := p.err == nil
	if first {
		p.err = err
		p.failed.Store(true)
	}
	if p.firstErr == nil {
		p.firstErr = err
	}
	p.room.Broadcast()
	p.mu.Unlock()
	if first {
		p.client.metrics.errors.WithLabelValues("producer").Inc()
		p.cancel()
		for _, l := range p.all {
			l.stop()
		}
	}
}

// noteError keeps the first error of a record for Flush.
func (p *Producer) noteError(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.firstErr == nil {
		p.firstErr = err
	}
}

// Close flushes within ctx and releases the producer. What could not be
// acknowledged in time gets ErrUnknownOutcome or ErrClosed; with a spill it is
// kept there for the next producer of the name, and gets ErrKept.
func (p *Producer) Close(ctx context.Context) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		p.lanes.Wait()
		return nil
	}
	p.closed = true
	p.room.Broadcast()
	p.mu.Unlock()
	err := p.Flush(ctx)
	if err != nil && p.spill != nil && p.Err() == nil {
		if serr := p.spillAll(); serr != nil {
			p.env.Log.Error("keeping for the next start what is not acknowledged", "err", serr)
		}
	}
	p.cancel()
	for _, l := range p.all {
		l.stop()
	}
	p.mu.Lock()
	p.room.Broadcast()
	p.mu.Unlock()
	p.lanes.Wait()
	p.closeSpill()
	return err
}

// abandon releases the producer without waiting for what it has not sent.
func (p *Producer) abandon() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = p.Close(ctx)
}

// owns is the key that the producer owns, for people.
func (p *Producer) owns() string {
	if p.owner != nil {
		return p.owner.key
	}
	return ""
}

// backoff is how long to wait before attempt+1.
func backoff(attempt int) time.Duration {
	return min(5*time.Millisecond<<min(attempt, 10), time.Second)
}

// sleep waits, unless ctx ends before.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

const (
	// requestTimeout bounds one request to a broker.
	requestTimeout = 10 * time.Second
	// topicGone is how long a topic may be unknown to the brokers before the
	// producer gives up on it: it was there when the producer was made.
	topicGone = 60 * time.Second
)

// lane is the producer's queue for one partition and the goroutine that sends
// it, one request at a time. While a request is in flight, appends gather in
// the next batch; when nothing is in flight, a record is sent at once.
type lane struct {
	p         *Producer
	topic     string // without the session's prefix
	name      string // as the broker knows it
	partition int32

	policy    Policy
	policies  map[event.Type]Policy // other than policy
	conflates bool                  // some records do

	records, bytes, batches, retries        prometheus.Counter
	throttled, conflated                    prometheus.Counter
	spilledRecords, spilledBytes, unspilled prometheus.Counter
	ack                                     prometheus.Observer

	mu         sync.Mutex
	cond       sync.Cond // work for the sender, and progress for flush
	started    bool
	stopped    bool
	open       *batch
	sealed     []*batch  // full ones, oldest first
	flying     *batch    // being sent,
	since      time.Time // since then,
	trouble    error     // and what went wrong with the last attempt
	free       []*batch
	appended   uint64 // position of the last record
	settled    uint64 // position up to which records are acknowledged, failed or replaced
	conflation conflation
	spill      *spillLog  // nil without a folder
	spilling   bool       // records are in the files that the sender has not read
	flushing   int        // callers that wait for settled
	idle       bool       // the sender waits for work
	lent       bool       // a publisher has the sender's place (publish.go)
	handed     *attempted // by that publisher to the sender

	// Of the goroutine that sends: the sender, or a publisher in its place.
	sequence  int32
	notBefore time.Time // the broker asks not to be sent anything before
	heard     time.Time // when the broker last acknowledged, or the lane was made
	back      []byte    // of readBack, the sender's alone
}

func newLane(p *Producer, topic string, partition int32) *lane {
	m, name := p.client.metrics, p.cfg.Name
	l := &lane{
		p: p, topic: topic, name: p.client.prefix() + topic, partition: partition,
		records: m.producedRecords.WithLabelValues(name, topic), bytes: m.producedBytes.WithLabelValues(name, topic),
		batches: m.producedBatches.WithLabelValues(name, topic), retries: m.produceRetries.WithLabelValues(name, topic),
		throttled: m.throttleSeconds.WithLabelValues(name, topic), conflated: m.conflated.WithLabelValues(name, topic),
		spilledRecords: m.spilledRecords.WithLabelValues(name, topic), spilledBytes: m.spilledBytes.WithLabelValues(name, topic),
		unspilled: m.unspilled.WithLabelValues(name, topic),
		ack:       m.ackSeconds.WithLabelValues(name, topic), heard: time.Now(),
	}
	l.cond.L = &l.mu
	return l
}

// append queues one record. charged says that its size is in the queue's count;
// one that is not goes to the files.
func (l *lane) append(key, value []byte, size int, charged bool, done func(int64, error)) error {
	l.mu.Lock()
	err := l.put(key, value, size, charged, done)
	replaced := l.takeReplaced()
	l.mu.Unlock()
	tellReplaced(replaced)
	return err
}

// put is append with l.mu held.
func (l *lane) put(key, value []byte, size int, charged bool, done func(int64, error)) error {
	if l.stopped || l.p.failed.Load() {
		if err := l.p.Err(); err != nil {
			return err
		}
		return ErrClosed
	}
	l.start()
	if l.spilling || !charged {
		return l.putSpilled(key, value, size, charged, done)
	}
	if l.open != nil && !l.open.fits(size, l.p.batchMax) {
		l.sealed = append(l.sealed, l.open)
		l.open = nil
	}
	if l.open == nil {
		l.open = l.take()
		l.open.time = time.Now().UnixMilli()
	}
	b := l.open
	b.add(key, value, done)
	b.queued += size
	l.appended++
	b.last = l.appended
	if b.count == 1 && !l.lent { // who has the sender's place looks when it is given back
		l.cond.Broadcast()
	}
	if l.conflation.on && l.policyOf(value) == Conflate {
		l.replace(key, value, place{b: b, life: b.life, i: b.count - 1, size: int32(size)}, true)
	}
	return nil
}

// start starts the sender once. l.mu is held.
func (l *lane) start() {
	if !l.started {
		l.started = true
		l.p.lanes.Add(1)
		go l.run()
	}
}

// take returns an empty batch, one that was used before where there is one.
func (l *lane) take() *batch {
	b := new(batch)
	if n := len(l.free); n > 0 {
		b, l.free = l.free[n-1], l.free[:n-1]
	}
	b.reset()
	b.waiting = true
	return b
}

// stop makes the sender end; what it has not sent fails.
func (l *lane) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	l.cond.Broadcast()
}

func (l *lane) flush(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.cond.Broadcast()
	})
	defer stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushing++
	defer func() { l.flushing-- }()
	for target := l.appended; l.settled < target; l.cond.Wait() {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%d records are not acknowledged: %w", target-l.settled, err)
		}
	}
	return nil
}

func (l *lane) run() {
	defer l.p.lanes.Done()
	for {
		b, first, stopped := l.next()
		offset, err := int64(-1), ErrClosed
		if perr := l.p.Err(); perr != nil {
			err = perr
		}
		if b == nil {
			l.mu.Lock()
			l.keepSpilled(err)
			return
		}
		if !stopped || first != nil {
			offset, err = l.send(b, first)
		}
		if errors.Is(err, errSplit) {
			continue // its halves are at the front of the queue
		}
		l.settle(b, offset, err)
	}
}

// next waits for a batch, with what a publisher tried of it already; nil ends the
// sender.
func (l *lane) next() (b *batch, first *attempted, stopped bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flying = nil
	for {
		switch {
		case l.lent:
			l.cond.Wait()
			continue
		case l.handed != nil:
			first, l.handed = l.handed, nil
			return first.batch, first, l.stopped // it is flying
		case len(l.sealed) > 0:
			b = l.sealed[0]
			copy(l.sealed, l.sealed[1:])
			l.sealed[len(l.sealed)-1] = nil
			l.sealed = l.sealed[:len(l.sealed)-1]
		case l.spilling && !l.stopped && l.p.ctx.Err() == nil:
			if b = l.unspill(); b == nil {
				continue
			}
		case l.open != nil && l.open.count > 0:
			b, l.open = l.open, nil
		case l.stopped:
			return nil, nil, true
		default:
			l.idle = true
			l.cond.Wait()
			l.idle = false
			continue
		}
		l.compact(b)
		if l.conflation.on && !l.spilling && l.p.queued.Load() < l.p.limit/4 {
			l.conflation.relax()
		}
		if b.count == 0 { // all replaced
			l.settled = max(l.settled, b.last)
			l.recycle(b)
			l.cond.Broadcast()
			continue
		}
		return l.launch(b), nil, l.stopped
	}
}

// work reports whether there is anything for the sender to do. l.mu is held.
func (l *lane) work() bool {
	return len(l.sealed) > 0 || l.open != nil && l.open.count > 0 || l.spilling || l.handed != nil || l.stopped
}

// launch notes that the batch is being sent. l.mu is held.
func (l *lane) launch(b *batch) *batch {
	b.waiting = false
	l.flying, l.since, l.trouble = b, time.Now(), nil
	return b
}

// settle tells the records of a batch what became of them.
func (l *lane) settle(b *batch, offset int64, err error) {
	l.mu.Lock()
	l.flying = nil
	stored := b.stored // by toFiles until now
	over := l.p.ctx.Err() != nil || l.p.Err() != nil
	if stored && (err == nil || !over) && b.end != (spillPos{}) {
		l.spill.acked(b.end)
	}
	l.mu.Unlock()
	if err == nil {
		l.records.Add(float64(b.count))
		l.batches.Inc()
	} else {
		if stored && over {
			err = fmt.Errorf("%w: %w", ErrKept, err)
		}
		l.p.noteError(err)
	}
	for i, done := range b.done {
		switch {
		case done == nil:
		case err != nil || offset < 0:
			done(-1, err)
		default:
			done(offset+int64(i), nil)
		}
	}
	l.p.release(int64(b.queued))
	l.mu.Lock()
	l.settled = max(l.settled, b.last)
	if err == nil && len(l.free) < 2 {
		b.reset()
		l.free = append(l.free, b)
	}
	if !l.lent || l.flushing > 0 || l.work() {
		l.cond.Broadcast()
	}
	l.lent = false
	l.mu.Unlock()
}

// errSplit says that a batch went back into the queue as two.
var errSplit = errors.New("batch was split")

// send appends one batch to the log. Whatever is temporary or ambiguous is tried
// again with the same bytes until it resolves: the broker knows a batch by
// producer id, epoch and sequence and appends it once. first is an attempt that was
// made already.
func (l *lane) send(b *batch, first *attempted) (offset int64, err error) {
	var data []byte
	if first != nil {
		data = first.data
	} else if data, err = l.seal(b); err != nil {
		return -1, err
	}
	began := time.Now()
	var unknownSince time.Time
	for attempt := 0; ; attempt++ {
		offset := int64(-1)
		var err error
		if first != nil {
			err, first = first.err, nil
		} else {
			if wait := time.Until(l.notBefore); wait > 0 {
				l.throttled.Add(wait.Seconds())
				_ = sleep(l.p.ctx, wait) // the attempt fails when it was cut short
			}
			if err = l.confirm(); errors.Is(err, ErrFenced) {
				return -1, l.giveUp(b, kafka.ProducerFenced, err)
			}
			if err == nil {
				offset, err = l.attempt(l.p.ctx, data)
			}
		}
		code, answered := errorCode(err)
		if !answered && err != nil && !errors.As(err, new(*routeError)) {
			b.sent = true
		}
		switch verdict := judge(code); {
		case answered && code == kafka.DuplicateSequenceNumber && !b.sent:
			// It was never sent, so what the broker has is another batch.
			return -1, l.giveUp(b, kafka.OutOfOrderSequenceNumber, err)
		case err == nil, answered && code == kafka.DuplicateSequenceNumber:
			// A duplicate is in the log since an earlier attempt; its offset is
			// not told.
			l.took(b, data, began)
			return offset, nil
		case answered && verdict == tooLarge && b.count > 1:
			l.requeueHalves(b)
			return -1, errSplit
		case answered && verdict == tooLarge:
			return -1, fmt.Errorf("appending a record of %d bytes to %s/%d: %w", len(data)-batchHeadSize, l.topic, l.partition, err)
		case answered && verdict == fatal:
			return -1, l.giveUp(b, code, err)
		case answered && ambiguous(code):
			b.sent = true
		}
		if topicUnknown(err) {
			if unknownSince.IsZero() {
				unknownSince = time.Now()
			} else if time.Since(unknownSince) > topicGone {
				return -1, l.giveUp(b, kafka.UnknownTopicOrPartition, err)
			}
		} else {
			unknownSince = time.Time{}
		}
		if l.retries.Inc(); attempt == 0 {
			l.p.client.retrying.Add(1)
			defer l.p.client.retrying.Add(-1)
		}
		l.mu.Lock()
		l.trouble = err
		l.mu.Unlock()
		if attempt == 10 {
			l.p.env.Log.Warn("produce is being retried", "topic", l.topic, "partition", l.partition, "error", err)
		}
		if sleep(l.p.ctx, backoff(attempt)) != nil {
			perr := l.p.Err() // why the producer stopped says more than that this request was given up
			switch {
			case b.sent && perr != nil:
				return -1, fmt.Errorf("%w: %w", ErrUnknownOutcome, perr)
			case b.sent:
				return -1, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
			case perr != nil:
				return -1, perr
			}
			return -1, fmt.Errorf("%w: %w", ErrClosed, err)
		}
	}
}

// seal returns the bytes of a batch, which its attempts have in common.
func (l *lane) seal(b *batch) ([]byte, error) {
	data, err := b.seal(l.p.codec, l.p.id, l.p.epoch, l.sequence)
	if err != nil {
		return nil, fmt.Errorf("compressing a batch: %w", err)
	}
	return data, nil
}

// took notes that the log has a batch.
func (l *lane) took(b *batch, data []byte, began time.Time) {
	l.sequence = nextSequence(l.sequence, b.count)
	l.bytes.Add(float64(len(data)))
	l.heard = time.Now()
	l.ack.Observe(l.heard.Sub(began).Seconds())
}

// lapsed reports whether an owner must look first whether it still owns its key.
func (l *lane) lapsed(now time.Time) bool {
	// By either clock: one of them stands still while the machine sleeps.
	return l.p.owner != nil && max(now.Sub(l.heard), now.Round(0).Sub(l.heard.Round(0))) >= l.p.owner.lapse
}

// confirm makes an owner that the partition has not heard for long look whether it
// still owns its key.
func (l *lane) confirm() error {
	o, now := l.p.owner, time.Now()
	if !l.lapsed(now) {
		return nil
	}
	err := o.confirm(l.p.ctx)
	switch {
	case err == nil:
		l.heard = now // before the look
	case !errors.Is(err, ErrFenced):
		err = &routeError{fmt.Errorf("looking whether %q is still owned: %w", o.key, err)}
	}
	return err
}

// routeError is a request that was not sent: no leader was known for it, or none
// could be connected to.
type routeError struct{ err error }

func (e *routeError) Error() string { return e.err.Error() }
func (e *routeError) Unwrap() error { return e.err }

func (l *lane) attempt(ctx context.Context, data []byte) (offset int64, err error) {
	c := l.p.client
	leader, err := c.leaderOf(ctx, l.name, l.partition)
	if err != nil {
		return -1, &routeError{err}
	}
	answer, err := c.leaders.produce(ctx, leader, l.name, l.partition, data)
	if err != nil {
		return -1, err
	}
	if answer.throttle > 0 {
		l.notBefore = time.Now().Add(answer.throttle)
	}
	if err := answer.err(); err != nil {
		return -1, err
	}
	return answer.offset, nil
}

// giveUp stops the producer and returns what the records are told.
func (l *lane) giveUp(b *batch, code kafka.Error, err error) error {
	where := fmt.Sprintf("appending to %s/%d", l.topic, l.partition)
	switch code {
	case kafka.InvalidProducerEpoch, kafka.ProducerFenced:
		if !errors.Is(err, ErrFenced) {
			err = l.p.fencedBy(err)
		}
		err = fmt.Errorf("%s: %w", where, err)
	case kafka.OutOfOrderSequenceNumber, kafka.UnknownProducerId:
		err = fmt.Errorf("%s: the broker lost track of sequence %d of producer %d epoch %d; start again, and read the log's end to see what landed: %w",
			where, l.sequence, l.p.id, l.p.epoch, err)
	case kafka.UnknownTopicOrPartition:
		err = fmt.Errorf("%s: %w", where, l.p.client.gone(l.p.ctx, l.topic, err))
	default:
		who := l.name
		if code == kafka.TransactionalIDAuthorizationFailed {
			who = l.p.client.prefix() + "autohedge." + l.p.owns()
		}
		err = fmt.Errorf("%s: %w%s", where, err, l.p.client.grant(code, who))
	}
	err = component.Fatal(err)
	l.p.fail(err)
	if b.sent {
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	return err
}

func (l *lane) requeueHalves(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flying = nil
	second := l.take()
	b.split(second)
	l.sealed = append(l.sealed, nil, nil)
	copy(l.sealed[2:], l.sealed)
	l.sealed[0], l.sealed[1] = b, second
}

// nextSequence wraps after 2^31-1, as the protocol says.
func nextSequence(sequence, count int32) int32 {
	return int32((int64(sequence) + int64(count)) & 0x7fffffff)
}

package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

// Publish appends one event under its key's partition and waits for the
// acknowledgement. It waits for room in the queue, whatever the policy.
func (p *Producer) Publish(ctx context.Context, topic string, key []byte, m event.Message) (partition int32, offset int64, err error) {
	partition = p.client.Partition(topic, key)
	offset, err = p.publish(ctx, TopicPartition{topic, partition}, key, event.Marshal(m))
	return partition, offset, err
}

// publish appends one record and waits for the acknowledgement.
func (p *Producer) publish(ctx context.Context, at TopicPartition, key, value []byte) (offset int64, err error) {
	acked := make(chan appended, 1)
	l, size, err := p.admitWaiting(ctx, at, key, value)
	if err == nil {
		err = l.publish(ctx, key, value, size, func(o int64, err error) { acked <- appended{o, err} })
	}
	if err != nil {
		return -1, err
	}
	return acknowledged(ctx, at, acked)
}

// appended is what became of a record.
type appended struct {
	offset int64
	err    error
}

// acknowledged waits for the outcome of one record.
func acknowledged(ctx context.Context, at TopicPartition, acked <-chan appended) (offset int64, err error) {
	select {
	case r := <-acked:
		if r.err != nil {
			return -1, fmt.Errorf("publishing to %s: %w", at, r.err)
		}
		return r.offset, nil
	case <-ctx.Done():
		return -1, fmt.Errorf("publishing to %s: %w: %w", at, ErrUnknownOutcome, ctx.Err())
	}
}

// appendWaiting is Append that waits for room in the queue, whatever the policy.
func (p *Producer) appendWaiting(ctx context.Context, at TopicPartition, key, value []byte, done func(int64, error)) error {
	l, size, err := p.admitWaiting(ctx, at, key, value)
	if err != nil {
		return err
	}
	if err := l.append(key, value, size, true, done); err != nil {
		p.release(int64(size))
		return err
	}
	return nil
}

// admitWaiting takes a record into the queue's count, and waits for room there.
func (p *Producer) admitWaiting(ctx context.Context, at TopicPartition, key, value []byte) (l *lane, size int, err error) {
	if l, err = p.lane(at.Topic, at.Partition); err != nil {
		return nil, 0, err
	}
	size = recordSize(key, value)
	if size > maxBatch-batchHeadSize {
		return nil, 0, ErrTooLarge
	}
	if !p.admit(int64(size), p.limit) {
		p.fullSeen.Inc()
		if err := p.waitForRoom(ctx, int64(size)); err != nil {
			return nil, 0, err
		}
	}
	return l, size, nil
}

// Who waits for the outcome of a record may as well send it: where a lane has
// nothing to do, its place at the connection is lent to the goroutine that
// publishes, which saves waking the sender and being woken by it. It makes one
// attempt. What that does not settle is handed to the sender, with its bytes and
// what came of it, as if the sender had made it.

// attempted is an attempt that did not settle its batch.
type attempted struct {
	batch *batch
	data  []byte
	err   error
}

// publish is append by a goroutine that then waits for done. The record's size is
// in the queue's count; it is not any more after an error.
func (l *lane) publish(ctx context.Context, key, value []byte, size int, done func(int64, error)) error {
	l.mu.Lock()
	lent := l.lendable(ctx)
	l.lent = l.lent || lent
	err := l.put(key, value, size, true, done)
	var b *batch
	switch {
	case lent && err != nil:
		l.lent = false
	case lent:
		b, l.open = l.launch(l.open), nil
	}
	replaced := l.takeReplaced()
	l.mu.Unlock()
	tellReplaced(replaced)
	if err != nil {
		l.p.release(int64(size))
		return err
	}
	if lent {
		l.sendLent(ctx, b)
	}
	return nil
}

// lendable reports whether a record that is appended now would be sent at once and
// alone. l.mu is held.
func (l *lane) lendable(ctx context.Context) bool {
	return l.idle && !l.lent && !l.work() && !l.conflation.on &&
		time.Until(l.notBefore) <= 0 && !l.lapsed(time.Now()) && ctx.Err() == nil && l.p.ctx.Err() == nil
}

// sendLent makes the first attempt for a batch in the sender's place.
func (l *lane) sendLent(ctx context.Context, b *batch) {
	began := time.Now()
	data, err := l.seal(b)
	if err != nil {
		l.settle(b, -1, err)
		return
	}
	call, cancel := context.WithCancel(l.p.ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	offset, err := l.attempt(call, data)
	if err == nil {
		l.took(b, data, began)
		l.settle(b, offset, nil)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lent, l.handed = false, &attempted{b, data, err}
	l.cond.Broadcast()
}

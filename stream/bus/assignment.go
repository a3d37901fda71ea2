package bus

import (
	"context"
	"errors"
	"sync"

	"github.com/autohedge/autohedge/stream/event"
)

// Assignment is one partition, owned for one generation. Seek, Next and Position
// are for the handler's goroutine; Ready and Commit may be called from others.
type Assignment struct {
	Topic       string
	Partition   int32
	Incarnation event.ID
	Generation  int32
	// Committed is the group's offset, -1 when there is none; Start and End are
	// the partition's bounds when it was assigned.
	Committed, Start, End int64

	consumer  *Consumer
	ready     chan struct{}
	readyOnce sync.Once

	mu     sync.Mutex
	reader *Reader
	end    int64 // of Drain; 0 while there is none
	drains bool
	next   int64 // of Commit
	sent   int64 // committed to the broker
}

// Seek sets where Next begins: an offset, FromStart or FromEnd. It must be
// called before Next. Without it, Next begins at the committed offset, or at the
// start where there is none.
func (a *Assignment) Seek(ctx context.Context, offset int64) error {
	a.mu.Lock()
	used := a.reader != nil
	a.mu.Unlock()
	if used {
		return errors.New("seeking in a partition that is being read")
	}
	k := a.consumer
	// A broker that is away is waited for as long as the partition is owned.
	cfg := ReaderConfig{Topic: a.Topic, Partition: a.Partition, Offset: offset, KeepCopies: k.cfg.KeepCopies}
	r, err := k.client.openReader(ctx, cfg, k.env, k.client.awaitBounds)
	if err != nil {
		return forGroup(err, k.cfg.Role)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reader = r
	if a.drains {
		r.EndAt(a.end)
	}
	return nil
}

// Next is Reader.Next.
func (a *Assignment) Next(ctx context.Context) ([]Record, error) {
	if a.reader == nil {
		from := a.Committed
		if from < 0 {
			from = FromStart
		}
		if err := a.Seek(ctx, from); err != nil {
			return nil, err
		}
	}
	records, err := a.reader.Next(ctx)
	if err != nil {
		err = forGroup(err, a.consumer.cfg.Role)
	}
	return records, err
}

// Position is Reader.Position.
func (a *Assignment) Position() int64 {
	if a.reader == nil {
		return max(a.Committed, a.Start)
	}
	return a.reader.Position()
}

// Ready tells the Consumer that the handler has restored its state.
func (a *Assignment) Ready() { a.readyOnce.Do(func() { close(a.ready) }) }

// Commit notes that everything before next is done. Offsets only go forward and
// are sent in the background and when the handler returns, only while the
// partition is owned.
func (a *Assignment) Commit(next int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next = max(a.next, next)
}

func (a *Assignment) uncommitted() (next int64, moved bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.next, a.next > a.sent
}

func (a *Assignment) committed(next int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent = max(a.sent, next)
}

// endAt makes Next end at the offset; it may come before the reader exists.
func (a *Assignment) endAt(offset int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.end, a.drains = offset, true
	if a.reader != nil {
		a.reader.EndAt(offset)
	}
}

// close releases the reader after the handler has returned.
func (a *Assignment) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.reader != nil {
		a.reader.Close()
	}
}

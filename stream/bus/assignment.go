package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

// ErrLost is what an Assignment gives, and a producer bound to it, 250 ms after
// the partition was lost: the handler should have returned by then.
var ErrLost = errors.New("partition is lost to another generation of the group")

// Assignment is one partition, owned for one generation. Seek, Next and Position
// are for the handler's goroutine; the others may be called from any.
type Assignment struct {
	Topic       string
	Partition   int32
	Incarnation event.ID
	Generation  int32
	// Committed is the group's offset, -1 when there is none; Start and End are
	// the partition's bounds when it was assigned.
	Committed, Start, End int64

	consumer  *Consumer
	pulse     *pulse
	ready     chan struct{}
	readyOnce sync.Once

	held   []Record // what the reader gave and Next has not
	heldAt int64    // position before them

	mu       sync.Mutex
	reader   *Reader
	end      int64 // of Drain; 0 while there is none
	drains   bool
	next     int64 // of Commit
	sent     int64 // committed to the broker
	lost     error // set when the handler is cut off
	returned bool  // the handler
	bound    []*Producer

	// For the watch.
	reading  bool // the handler is in Next
	from     int64
	position int64 // before and after the records that Next returned last
	moved    time.Time
	waits    int
}

// Seek sets where Next begins: an offset, FromStart or FromEnd. It must be
// called before Next. Without it, Next begins at the committed offset, or where
// there is none at the start: of the topic's life, where it was adopted.
func (a *Assignment) Seek(ctx context.Context, offset int64) error {
	a.mu.Lock()
	used, lost := a.reader != nil, a.lost
	a.mu.Unlock()
	if lost != nil {
		return lost
	}
	if used {
		return errors.New("seeking in a partition that is being read")
	}
	k := a.consumer
	// A broker that is away is waited for as long as the partition is owned.
	cfg := ReaderConfig{Topic: a.Topic, Partition: a.Partition, Offset: offset, KeepCopies: k.cfg.KeepCopies, room: k.room}
	r, err := k.client.openReader(ctx, cfg, k.env, k.client.awaitBounds)
	if err != nil {
		return forGroup(err, k.cfg.Role)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reader, a.from, a.position = r, r.Position(), r.Position()
	if a.drains {
		r.EndAt(a.end)
	}
	if a.lost != nil {
		r.revoke(a.lost)
	}
	return nil
}

// Next is Reader.Next; ErrLost where the handler outstayed its partition. Where the
// process stood still for so long that the partition may be another member's, it
// returns nothing before the group has said that it is not.
func (a *Assignment) Next(ctx context.Context) ([]Record, error) {
	if a.reader == nil {
		from := a.Committed
		if from < 0 {
			from = FromStart
			if begins, known := a.consumer.client.Begins(a.Topic, a.Partition); known && begins > a.Start {
				from = begins
			}
			if begin := max(from, a.Start); a.End > begin {
				a.consumer.env.Log.Warn("the group has no offset here, and its role names none: it begins at the log's start", "group", a.consumer.group,
					"topic", a.Topic, "partition", a.Partition, "start", begin, "end", a.End, "records", a.End-begin)
			}
		}
		if err := a.Seek(ctx, from); err != nil {
			return nil, err
		}
	}
	a.mu.Lock()
	a.reading, a.moved = true, time.Now()
	a.mu.Unlock()
	records, err := a.take(ctx)
	a.mu.Lock()
	a.reading, a.moved = false, time.Now()
	a.from, a.position = a.position, a.Position()
	a.mu.Unlock()
	if err != nil {
		err = forGroup(err, a.consumer.cfg.Role)
	}
	return records, err
}

// take gives what the reader has, once it is certain that the partition was still
// owned when it was there; until then it is kept for the next call.
func (a *Assignment) take(ctx context.Context) ([]Record, error) {
	if a.held == nil {
		a.heldAt = a.reader.Position()
		records, err := a.reader.Next(ctx)
		if err != nil {
			return nil, err
		}
		a.held = records
	}
	err := a.pulse.sure(ctx)
	if lost := a.reader.revoked.Load(); lost != nil {
		return nil, *lost
	}
	if err != nil {
		return nil, err
	}
	records := a.held
	a.held = nil
	return records, nil
}

// Position is Reader.Position.
func (a *Assignment) Position() int64 {
	switch {
	case a.reader == nil:
		return max(a.Committed, a.Start)
	case a.held != nil:
		return a.heldAt
	}
	return a.reader.Position()
}

// Ready tells the Consumer that the handler has restored its state.
func (a *Assignment) Ready() { a.readyOnce.Do(func() { close(a.ready) }) }

// Commit notes that everything before next is done. Offsets only go forward and
// are sent in the background and when the handler returns, only while the
// partition is owned: a later Commit does nothing.
func (a *Assignment) Commit(next int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if next > a.next {
		a.next, a.moved = next, time.Now()
	}
}

// Bind stops the producer for good when the handler is cut off, so that it can
// append nothing beside the partition's next owner. It is for producers of this
// handler alone.
func (a *Assignment) Bind(p *Producer) {
	a.mu.Lock()
	lost := a.lost
	a.bound = append(a.bound, p)
	a.mu.Unlock()
	if lost != nil {
		p.fail(lost)
	}
}

func (a *Assignment) uncommitted() (next int64, moved bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.next, a.next > a.sent && a.lost == nil
}

// cut takes the bus away from a handler that has not returned; it reports whether
// there was one.
func (a *Assignment) cut() bool {
	a.mu.Lock()
	if a.returned {
		a.mu.Unlock()
		return false
	}
	a.lost = fmt.Errorf("handling %s/%d in generation %d: %w", a.Topic, a.Partition, a.Generation, ErrLost)
	if a.reader != nil {
		a.reader.revoke(a.lost)
	}
	bound, lost := a.bound, a.lost
	a.mu.Unlock()
	for _, p := range bound {
		p.fail(lost)
	}
	return true
}

// running reports whether the handler has not returned.
func (a *Assignment) running() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.returned
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
	a.returned, a.bound = true, nil
	if a.reader != nil {
		a.reader.Close()
	}
}

package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/autohedge/autohedge/stream/component"
)

const (
	// defaultStall is how long a partition may stand still where ConsumerConfig
	// says nothing.
	defaultStall = time.Minute
	// watchEvery is how often progress is looked at.
	watchEvery = time.Second
)

// watch reports a partition that makes no progress although it has records left,
// until ctx ends. Progress is that Next returns, the position moves or Commit
// does. What has a known reason does not count: state that is being restored
// (before Ready), a declared wait, a producer of this process whose records the
// brokers do not take, and brokers that do not tell where the log ends.
func (k *Consumer) watch(ctx context.Context, mine []*Assignment, failed chan<- error) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, a := range mine {
			if k.client.retrying.Load() > 0 {
				a.progressed()
			}
			still := a.still(time.Now())
			if still < k.cfg.Stall {
				continue
			}
			bounds, err := k.client.bounds(ctx, a.Topic, []int32{a.Partition})
			if err != nil {
				if ctx.Err() == nil {
					k.env.Log.Warn("cannot tell whether a partition that stands still has records left", "topic", a.Topic, "partition", a.Partition, "error", err)
					a.progressed()
				}
				continue
			}
			if err := a.stalled(still, bounds[0].End); err != nil {
				k.client.metrics.errors.WithLabelValues("stall").Inc()
				failed <- component.Fatal(err)
				return
			}
		}
	}
}

// progressed starts the count anew.
func (a *Assignment) progressed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.moved = time.Now()
}

// still is how long there was no progress.
func (a *Assignment) still(now time.Time) time.Duration {
	select {
	case <-a.ready:
	default:
		a.progressed()
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waits > 0 || a.returned {
		a.moved = now
	}
	return now.Sub(a.moved)
}

// stalled says what is wrong with a partition that ends there; nil when all of it
// was read.
func (a *Assignment) stalled(still time.Duration, end int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.drains {
		end = min(end, a.end)
	}
	// What Next returned and is being worked on is not done; what a handler passed
	// on to others while it waits in Next is theirs to answer for.
	at, doing := a.position, "waits for records that do not come"
	if !a.reading {
		at, doing = max(a.from, a.next), "works on the records it has"
	}
	if at >= end {
		a.moved = time.Now()
		return nil
	}
	remedy := "start the process again, and report what it was doing (SIGQUIT makes it print all its goroutines)"
	if open, ok := a.reader.heldBackAt(); a.reading && ok {
		remedy = fmt.Sprintf("another program's transaction has been open since offset %d and holds back what is behind it: end that program, or its transaction: %s",
			open, endTransaction(a.consumer.client.prefix()+a.Topic, a.Partition, open))
	}
	return fmt.Errorf("handling %s/%d: no progress for %s: the handler %s; it is at offset %d, has committed up to %d and the log ends at %d: %d records behind; %s",
		a.Topic, a.Partition, still.Round(time.Second), doing, at, a.sent, end, end-at, remedy)
}

// Waiting declares that the handler waits for something outside the bus that has
// its own bounds and its own alarm, such as a model's answer or ClickHouse, so that
// the partition standing still is no failure; done ends that. Waits may overlap.
// A wait for a full producer need not be declared.
func (a *Assignment) Waiting() (done func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waits++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.waits--
		a.moved = time.Now()
	}
}

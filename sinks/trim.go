package sinks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// copyWindow is what readers read back.
const copyWindow = bus.CopyWindow

// trimStep is how many records at least are trimmed at a time.
const trimStep = 65_536

// SnapshotFloor tells from which offset of a partition of md on everything is
// needed to rebuild what is computed from it; ok is false while nothing can be
// rebuilt without the log's start. Package signals has it.
type SnapshotFloor func(ctx context.Context, partition int32) (offset int64, ok bool, err error)

// TrimBehind makes the role trim md (design.md 4.9): of each partition that it
// owns, what has landed, what every group has read, what lies before the snapshots
// that floor names, less the window that readers read back for second copies, and
// what is older than Config.TrimAfter or beyond Config.TrimBytes. It is called before
// Run.
func (r *Role) TrimBehind(floor SnapshotFloor) { r.floor = floor }

// trim trims until ctx ends.
func (r *Role) trim(ctx context.Context) {
	if r.cfg.TrimInterval == 0 || r.floor == nil || r.client.Session() != "" {
		return // a session is dropped whole
	}
	tick := time.NewTicker(r.cfg.TrimInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		share := r.excess(ctx)
		for n := range r.client.Partitions(event.TopicMarket) {
			if err := r.trimOne(ctx, n, trimStep, share); err != nil && ctx.Err() == nil {
				r.metrics.errors.Inc()
				if !errors.Is(err, context.DeadlineExceeded) {
					r.env.Log.Warn("trimming md, will be tried again", "partition", n, "err", err)
				}
			}
		}
	}
}

// excess is the share of md that is beyond Config.TrimBytes, and a quarter more, so that
// the next trim is some time away.
func (r *Role) excess(ctx context.Context) float64 {
	if r.cfg.TrimBytes <= 0 {
		return 0
	}
	use, err := r.client.DiskUse(ctx)
	if err != nil {
		if ctx.Err() == nil {
			r.metrics.errors.Inc()
			r.env.Log.Warn("asking how large md is, will be tried again", "err", err)
		}
		return 0
	}
	bytes, ok := use.Topic(event.TopicMarket)
	if !ok || bytes <= r.cfg.TrimBytes {
		return 0
	}
	return 1 - 0.75*float64(r.cfg.TrimBytes)/float64(bytes)
}

// trimOne trims one partition if it is owned and there are step records to trim. Of the
// share of its records that is excess also the young ones go.
func (r *Role) trimOne(ctx context.Context, partition int32, step int64, excess float64) error {
	r.mu.Lock()
	p := r.owned[place{event.TopicMarket, partition}]
	r.mu.Unlock()
	if p == nil {
		return nil
	}
	bounds, err := r.client.Offsets(ctx, event.TopicMarket)
	if err != nil {
		return err
	}
	start := bounds[partition].Start
	upTo := p.landed.Load() - copyWindow
	if upTo < start+step {
		return nil // the cheap question first
	}
	read, ok, err := r.client.TrimFloor(ctx, event.TopicMarket, partition)
	if err != nil || !ok {
		return err
	}
	saved, ok, err := r.floor(ctx, partition)
	if err != nil || !ok {
		return err
	}
	young, err := r.client.OffsetAt(ctx, event.TopicMarket, partition, r.env.Clock.Now().Add(-r.cfg.TrimAfter))
	if err != nil {
		return err
	}
	if excess > 0 {
		young = max(young, start+int64(excess*float64(bounds[partition].End-start)))
	}
	upTo = min(upTo, read, saved-copyWindow, young)
	if upTo < start+step {
		return nil
	}
	starts, err := r.client.DeleteRecords(ctx, event.TopicMarket, map[int32]int64{partition: upTo})
	if err != nil {
		return err
	}
	if got := starts[partition]; got > upTo {
		return fmt.Errorf("trimming md/%d before %d moved its start to %d", partition, upTo, got)
	}
	r.metrics.trimmed.Add(float64(upTo - start))
	r.env.Log.Debug("trimmed", "topic", event.TopicMarket, "partition", partition, "before", upTo, "records", upTo-start)
	return nil
}

package signals

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// owner is the handler of one partition in one generation of the group.
//
// What it may not do again is known from two places: the group's offset, which
// is committed only after the outputs of everything before it were acknowledged,
// and the end of the output partition, whose signals lie in the order of
// (source offset, k), so that the last one is a watermark.
type owner struct {
	role   *Role
	a      *bus.Assignment
	engine *Engine
	out    *outbox

	starts    []event.RuleStart // by offset
	former    int64             // rule sets of lives of the topic that somebody ended
	output    int64             // where the output of this life begins
	applied   int               // how many of starts the engine has
	mark      event.Lineage     // of the last signal published; Offset -1 is none
	committed int64             // the group's offset at the assignment, -1 is none
	position  int64             // of the next record
	live      bool

	key, value []byte // reused
	counted    Stats
}

// own is the handler that the consumer calls for a partition.
func (r *Role) own(ctx context.Context, a *bus.Assignment) error {
	r.metrics.partitions.Inc()
	defer r.metrics.partitions.Dec()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	o := &owner{role: r, a: a, committed: a.Committed, mark: event.Lineage{Offset: -1}}
	o.out = newOutbox(a.Commit, func(err error) { fail(fmt.Errorf("publishing: %w", err)) })
	err := o.run(ctx)
	if err != nil && errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = context.Cause(ctx) // an output's error ended it
	}
	// An engine is ahead of outputs that are not acknowledged and could not
	// make them again.
	if o.live && o.out.empty() {
		r.keep(a.Partition, &kept{incarnation: a.Incarnation, engine: o.engine, applied: o.starts[:o.applied], position: o.position})
	}
	return err
}

func (o *owner) run(ctx context.Context) error {
	if err := o.restore(ctx); err != nil {
		return err
	}
	o.a.Ready()
	for {
		records, err := o.a.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		for i := range records {
			if err := o.step(ctx, &records[i]); err != nil {
				return err
			}
		}
		o.out.processed(o.a.Position()) // second copies are passed
		o.count()
	}
	if err := o.out.wait(ctx); err != nil {
		return err
	}
	o.position = o.a.Position()
	o.out.processed(o.position)
	return nil
}

// restore brings the engine to the end of the partition as it is now, publishes
// what a predecessor did not, and applies the configured rules from there.
func (o *owner) restore(ctx context.Context) error {
	began := time.Now()
	if err := o.readStarts(ctx); err != nil {
		return err
	}
	if err := o.readMark(ctx); err != nil {
		return err
	}
	if err := o.checkLog(); err != nil {
		return err
	}
	from := o.resume()
	if len(o.starts) == 0 {
		// The first rules of this log apply to all of it, so that signals do
		// not depend on who was up first, the feed or this role.
		if err := o.declare(ctx, o.a.Start); err != nil {
			return err
		}
	}
	var replayed int
	end, err := o.role.client.ReadAll(ctx, o.a.Topic, o.a.Partition, from, func(rec bus.Record) error {
		if replayed++; replayed%4096 == 0 {
			o.count()
		}
		return o.step(ctx, &rec)
	})
	if err != nil {
		return fmt.Errorf("replaying from offset %d: %w", from, err)
	}
	o.position = end
	o.count()
	if err := o.apply(ctx, end); err != nil {
		return err
	}
	if o.starts[len(o.starts)-1].RuleSet != o.role.set.Hash {
		if err := o.declare(ctx, end); err != nil {
			return err
		}
		if err := o.apply(ctx, end); err != nil {
			return err
		}
	}
	if err := o.a.Seek(ctx, end); err != nil {
		return err
	}
	o.out.processed(end)
	o.live = true
	o.role.metrics.replayed.Add(float64(replayed))
	o.role.metrics.restore.Observe(time.Since(began).Seconds())
	o.role.env.Log.Info("restored a partition", "topic", o.a.Topic, "partition", o.a.Partition, "offset", end, "replayed", replayed,
		"rule_set", o.role.set.Hash.String())
	return nil
}

// readStarts reads from which offset on which rule set applies.
func (o *owner) readStarts(ctx context.Context) error {
	_, err := o.role.client.ReadAll(ctx, event.TopicSignalState, o.a.Partition, bus.FromStart, func(rec bus.Record) error {
		if event.TypeOf(rec.Value) != event.TypeRuleStart {
			return nil // a tombstone, or the snapshot of a newer version
		}
		s, err := event.DecodeAs[*event.RuleStart](rec.Value)
		if err != nil {
			return component.Fatal(fmt.Errorf("reading state.signals/%d at offset %d: %w", rec.Partition, rec.Offset, err))
		}
		if s.Incarnation != o.a.Incarnation {
			if o.role.client.Ended(s.Incarnation) {
				o.former++
				return nil
			}
			f := o.fault(bus.Recreated, s.First, fmt.Sprintf("rule set %s", s.RuleSet))
			f.StoredIncarnation = s.Incarnation
			return component.Fatal(fmt.Errorf("restoring signals: %w", f))
		}
		o.starts = append(o.starts, *s)
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the rule sets of %s/%d: %w", o.a.Topic, o.a.Partition, err)
	}
	// Of two that begin at the same offset the later record counts: the former
	// ruled over nothing.
	sort.SliceStable(o.starts, func(i, j int) bool { return o.starts[i].First < o.starts[j].First })
	return nil
}

// readMark finds the last signal that this partition made, from the end of the
// output partition backwards: timers and tasks may lie after it.
func (o *owner) readMark(ctx context.Context) error {
	all, err := o.role.client.Offsets(ctx, event.TopicSignals)
	if err != nil {
		return fmt.Errorf("reading the end of signals/%d: %w", o.a.Partition, err)
	}
	bounds := all[o.a.Partition]
	// What was made from a former life of the topic says nothing of this one.
	switch {
	case len(o.starts) > 0:
		o.output = min(o.starts[0].Output, bounds.End) // it may have begun anew itself
	case o.former > 0:
		o.output = bounds.End
	}
	bounds.Start = max(bounds.Start, o.output)
	for reach := int64(1024); ; reach *= 16 {
		from := max(bounds.Start, bounds.End-reach)
		if from == bounds.End {
			return nil
		}
		_, err := o.role.client.ReadAll(ctx, event.TopicSignals, o.a.Partition, from, func(rec bus.Record) error {
			if event.TypeOf(rec.Value) != event.TypeSignal {
				return nil
			}
			s, err := event.DecodeAs[*event.Signal](rec.Value)
			if err != nil {
				return component.Fatal(fmt.Errorf("reading signals/%d at offset %d: %w", rec.Partition, rec.Offset, err))
			}
			if s.Kind == KindThreshold && s.Lineage.Partition == o.a.Partition && o.mark.Less(s.Lineage) {
				o.mark = s.Lineage
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("reading the end of signals/%d: %w", o.a.Partition, err)
		}
		if o.mark.Offset >= 0 || from == bounds.Start {
			return nil
		}
	}
}

// checkLog refuses a log that is not the one the stored offsets belong to.
func (o *owner) checkLog() error {
	stored := max(o.committed, o.mark.Offset+1)
	if n := len(o.starts); n > 0 {
		stored = max(stored, o.starts[n-1].First)
	}
	a := o.a
	switch {
	case stored > a.End:
		return component.Fatal(fmt.Errorf("restoring signals: %w", o.fault(bus.Truncated, stored, "what was read")))
	case len(o.starts) > 0 && stored < a.Start:
		return component.Fatal(fmt.Errorf("restoring signals: %w", o.fault(bus.Overtaken, stored, "what was read")))
	case len(o.starts) > 0 && o.starts[0].First < a.Start:
		o.role.env.Log.Warn("state is rebuilt from a log whose beginning is gone", "topic", a.Topic, "partition", a.Partition,
			"first", o.starts[0].First, "start", a.Start)
	}
	return nil
}

// fault describes a log that is not the one that what is stored belongs to.
func (o *owner) fault(kind bus.LogFault, stored int64, what string) *bus.LogError {
	a := o.a
	return &bus.LogError{
		Fault: kind, Group: Name, What: what, Topic: a.Topic, Partition: a.Partition, Stored: stored, Start: a.Start, End: a.End,
		StoredIncarnation: a.Incarnation, Incarnation: a.Incarnation,
	}
}

// resume takes over the state that this process has kept, where it holds, and
// returns the offset to replay from.
func (o *owner) resume() int64 {
	k := o.role.take(o.a.Partition)
	if k != nil && k.incarnation == o.a.Incarnation && k.position >= o.a.Start && k.position <= o.a.End &&
		len(k.applied) <= len(o.starts) && slices.Equal(k.applied, o.starts[:len(k.applied)]) &&
		(len(k.applied) == len(o.starts) || o.starts[len(k.applied)].First >= k.position) {
		o.engine, o.applied, o.position = k.engine, len(k.applied), k.position
		o.counted = k.engine.Stats()
		return k.position
	}
	o.engine = NewEngine(o.a.Partition)
	o.position = o.a.Start
	return o.a.Start
}

// declare appends that the configured rules apply from the offset on, and waits
// until that is acknowledged.
func (o *owner) declare(ctx context.Context, first int64) error {
	s := event.RuleStart{RuleSet: o.role.set.Hash, Partition: o.a.Partition, Incarnation: o.a.Incarnation, First: first,
		Epoch: uint32(max(o.a.Generation, 0)),
		Time:  o.role.env.Clock.Now().UnixNano(), Output: o.output}
	acked := make(chan error, 1)
	// The topic is compacted: a key of its own for every offset keeps them all.
	key := fmt.Appendf(nil, "rules/%d/%d", o.a.Partition, first)
	err := o.role.producer.Append(event.TopicSignalState, o.a.Partition, key, event.Marshal(&s), func(_ int64, err error) { acked <- err })
	if err == nil {
		select {
		case err = <-acked:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err != nil {
		return fmt.Errorf("storing the start of rule set %s: %w", s.RuleSet, err)
	}
	o.starts = append(o.starts, s)
	return nil
}

// apply gives the engine the rule sets that begin at or before the offset.
func (o *owner) apply(ctx context.Context, offset int64) error {
	for o.applied < len(o.starts) && o.starts[o.applied].First <= offset {
		set, err := o.role.store.get(ctx, o.starts[o.applied].RuleSet)
		if err != nil {
			return err
		}
		if err := o.engine.Apply(set); err != nil {
			return err
		}
		o.applied++
	}
	return nil
}

// step takes one record of md through the engine and publishes what it fires,
// unless that is in the log already.
func (o *owner) step(ctx context.Context, rec *bus.Record) error {
	if o.applied < len(o.starts) {
		if err := o.apply(ctx, rec.Offset); err != nil {
			return err
		}
	}
	signals, err := o.engine.Step(rec.Offset, rec.Key, rec.Value)
	o.position = rec.Offset + 1
	if rec.Offset < o.committed {
		return nil // its outputs are acknowledged
	}
	if err != nil {
		return o.bury(rec, err)
	}
	for i := range signals {
		s := &signals[i]
		if !o.mark.Less(s.Lineage) {
			continue
		}
		if err := o.publish(s); err != nil {
			return err
		}
	}
	return nil
}

func (o *owner) publish(s *event.Signal) error {
	o.key = event.AppendKey(o.key[:0], s.Venue, s.Symbol)
	o.value = event.Append(o.value[:0], s)
	settled := o.out.add(s.Lineage.Offset)
	count, live, time, clock := o.role.metrics.published.WithLabelValues(s.Rule, s.Indicator, s.Side.String()), o.live, s.Time, o.role.env.Clock
	err := o.role.producer.Append(event.TopicSignals, o.a.Partition, o.key, o.value, func(offset int64, err error) {
		settled(offset, err)
		if err == nil {
			count.Inc()
			if live {
				o.role.metrics.publish.Observe(float64(clock.Now().UnixNano()-time) / 1e9)
			}
		}
	})
	if err != nil {
		return fmt.Errorf("publishing a signal: %w", err)
	}
	return nil
}

// bury sends a record that cannot be used to topic dead. Its time is that of
// the partition, so that a replay makes the same letter.
func (o *owner) bury(rec *bus.Record, reason error) error {
	l := event.Lineage{Topic: o.a.Topic, Partition: rec.Partition, Offset: rec.Offset}
	d := &event.Dead{ID: event.DeadID(Name, l, rec.Value), Role: Name, Reason: reason.Error(), Key: rec.Key, Value: rec.Value, Time: o.engine.Now(), Lineage: l}
	o.key = fmt.Appendf(o.key[:0], "%s/%d", l.Topic, l.Partition)
	o.value = event.Append(o.value[:0], d)
	if err := o.role.producer.Append(event.TopicDead, 0, o.key, o.value, o.out.add(rec.Offset)); err != nil {
		return fmt.Errorf("publishing a dead letter: %w", err)
	}
	o.role.metrics.dead.Inc()
	return nil
}

// count exports what the engine counted.
func (o *owner) count() {
	now := o.engine.Stats()
	o.role.metrics.add(now, o.counted)
	o.counted = now
}

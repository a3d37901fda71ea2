package signals

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// base is what a restore begins with: a state and where it belongs in the logs.
type base struct {
	engine *Engine
	starts []event.RuleStart // those that the engine has
	input  int64             // of the first record of md that it has not seen
	// signals and state are offsets in the partition of signals from which on every
	// output of the records not seen lies, and of state.signals from which on every
	// rule start that is not in starts does.
	signals, state int64
	saved          int64  // input of the newest snapshot, -1 where there is none
	from           string // where it was found
}

// Values of base.from.
const (
	fromStart    = "start"
	fromMemory   = "memory"
	fromSnapshot = "snapshot"
)

// restore brings the engine to the end of the partition as it is now, publishes
// what a predecessor did not, and applies the configured rules from there.
func (o *owner) restore(ctx context.Context) error {
	began := time.Now()
	b, err := o.begin(ctx)
	if err != nil {
		return err
	}
	if len(o.starts) == 0 {
		// The first rules of this log apply to all of it, so that signals do
		// not depend on who was up first, the feed or this role.
		if err := o.declare(ctx, o.log.Start); err != nil {
			return err
		}
	}
	var replayed int
	end, err := o.role.client.ReadAll(ctx, o.a.Topic, o.a.Partition, b.input, func(rec bus.Record) error {
		if replayed++; replayed%4096 == 0 {
			o.count()
		}
		return o.step(ctx, &rec)
	})
	if err != nil {
		return fmt.Errorf("replaying from offset %d: %w", b.input, err)
	}
	o.position = end
	o.count()
	if err := o.apply(ctx, end); err != nil {
		return err
	}
	if o.engine.set.Hash != o.role.set.Hash {
		o.role.store.logEdit(o.engine.set, o.role.set)
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
	o.role.metrics.restores.WithLabelValues(b.from).Inc()
	o.role.metrics.restore.Observe(time.Since(began).Seconds())
	o.role.env.Log.Info("restored a partition", "topic", o.a.Topic, "partition", o.a.Partition, "from", b.from, "offset", end, "replayed", replayed,
		"rule_set", o.role.set.Hash.String())
	return nil
}

// begin finds the state to replay from, what is in the logs behind it, and
// whether all of these belong together.
func (o *owner) begin(ctx context.Context) (*base, error) {
	// The assignment's bounds are older than what a former owner may have read
	// until this one shut it out.
	all, err := o.role.client.Offsets(ctx, o.a.Topic)
	if err != nil {
		return nil, fmt.Errorf("reading the bounds of %s/%d: %w", o.a.Topic, o.a.Partition, err)
	}
	o.log = all[o.a.Partition]
	b, err := o.find(ctx)
	if err != nil {
		return nil, err
	}
	o.saves.input = b.saved
	if b.from == fromStart {
		o.saves.last = time.Time{} // the replay shall not be done a second time
	} else {
		o.counted = b.engine.Stats()
		o.mark = event.Lineage{Offset: b.input - 1, K: math.MaxUint32}
	}
	if err := o.readMark(ctx, b); err != nil {
		return nil, err
	}
	if err := o.checkLog(b); err != nil {
		return nil, err
	}
	o.role.keep(o.a.Partition, nil)
	o.engine, o.applied, o.position = b.engine, len(b.starts), b.input
	o.found = b.signals
	return b, nil
}

// find returns the state that this process kept, or the newest snapshot, or that
// of a log of which nothing was read, and reads the rule starts.
func (o *owner) find(ctx context.Context) (*base, error) {
	for _, candidate := range [...]func(context.Context) (*base, error){o.kept, o.snapshot} {
		b, err := candidate(ctx)
		if err != nil {
			return nil, err
		}
		if b == nil {
			continue
		}
		if err := o.readStarts(ctx, b.state, b.starts); err != nil {
			return nil, err
		}
		n := len(b.starts)
		if slices.Equal(b.starts, o.starts[:n]) && (n == len(o.starts) || o.starts[n].First >= b.input) {
			return b, nil
		}
		o.role.metrics.snapshotFailures.Inc()
		o.role.env.Log.Warn("a state does not fit the rule starts in the log and is not used", "topic", o.a.Topic, "partition", o.a.Partition,
			"from", b.from, "input", b.input)
	}
	if err := o.readStarts(ctx, bus.FromStart, nil); err != nil {
		return nil, err
	}
	return &base{engine: NewEngine(o.a.Partition), input: o.log.Start, signals: bus.FromStart, saved: -1, from: fromStart}, nil
}

// maxBehind is how many records the state in memory may be behind the log: a
// snapshot that another owner saved meanwhile is the shorter way beyond that.
const maxBehind = 1 << 20

// kept returns the state that this process has in memory, if it has it.
func (o *owner) kept(context.Context) (*base, error) {
	k := o.role.look(o.a.Partition)
	if k == nil || k.incarnation != o.a.Incarnation || k.input < o.log.Start || k.input > o.log.End || o.log.End-k.input > maxBehind {
		return nil, nil
	}
	b := k.base
	b.from = fromMemory
	return &b, nil
}

// snapshot returns the newest snapshot that is whole and in a form this build
// reads.
func (o *owner) snapshot(ctx context.Context) (*base, error) {
	s, err := o.role.client.LoadSnapshot(ctx, SnapshotKey(o.a.Partition))
	if err != nil || s == nil {
		return nil, err
	}
	b, err := o.decode(ctx, s)
	if err == nil || component.IsFatal(err) || ctx.Err() != nil {
		return b, err
	}
	o.role.metrics.snapshotFailures.Inc()
	o.role.env.Log.Warn("a snapshot cannot be used: the log is replayed instead", "topic", o.a.Topic, "partition", o.a.Partition,
		"epoch", s.Epoch, "input", s.Input, "error", err)
	return nil, nil
}

// readStarts reads from which offset on which rule set applies: those known, and
// those from the offset of state.signals on.
func (o *owner) readStarts(ctx context.Context, from int64, known []event.RuleStart) error {
	o.starts, o.former = slices.Clone(known), 0
	end, err := o.role.client.ReadAll(ctx, event.TopicSignalState, o.a.Partition, from, func(rec bus.Record) error {
		if event.TypeOf(rec.Value) != event.TypeRuleStart {
			return nil // a tombstone, an owner's first record or part of a snapshot
		}
		s, err := event.DecodeAs[*event.RuleStart](rec.Value)
		if err != nil {
			o.notePassed(&rec, err) // no owner of the partition wrote it
			return nil
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
	o.saves.stateEnd = end
	// Of two that begin at the same offset the later record counts: the former
	// ruled over nothing.
	sort.SliceStable(o.starts, func(i, j int) bool { return o.starts[i].First < o.starts[j].First })
	return nil
}

// readMark finds the last signal that this partition made: behind a state it lies
// from the offset on that was saved with it, else it is looked for from the end of
// the output partition backwards: timers and tasks may lie after it.
func (o *owner) readMark(ctx context.Context, b *base) error {
	all, err := o.role.client.Offsets(ctx, event.TopicSignals)
	if err != nil {
		return fmt.Errorf("reading the end of signals/%d: %w", o.a.Partition, err)
	}
	bounds := all[o.a.Partition]
	o.out.begin(bounds.End)
	// What was made from a former life of the topic says nothing of this one.
	switch {
	case len(o.starts) > 0:
		o.output = min(o.starts[0].Output, bounds.End) // it may have begun anew itself
	case o.former > 0:
		o.output = bounds.End
	}
	bounds.Start = max(bounds.Start, o.output)
	if b.signals != bus.FromStart {
		if _, anew := o.role.client.Begins(event.TopicSignals, o.a.Partition); b.signals > bounds.End && anew {
			b.signals = bounds.Start // the state is older than the life of the output
		}
		if b.signals > bounds.End {
			return component.Fatal(fmt.Errorf("restoring signals: %w", &bus.LogError{
				Fault: bus.Truncated, Group: Name, What: fmt.Sprintf("the state saved at offset %d of %s", b.input, o.a.Topic),
				Topic: event.TopicSignals, Partition: o.a.Partition, Stored: b.signals, Start: bounds.Start, End: bounds.End,
				Incarnation: o.role.client.Incarnation(event.TopicSignals),
			}))
		}
		return o.readSignals(ctx, max(b.signals, bounds.Start), bounds)
	}
	for reach := int64(1024); ; reach *= 16 {
		from := max(bounds.Start, bounds.End-reach)
		if err := o.readSignals(ctx, from, bounds); err != nil {
			return err
		}
		if o.mark.Offset >= 0 || from == bounds.Start {
			return nil
		}
	}
}

// readSignals moves the mark to the last signal from the offset on.
func (o *owner) readSignals(ctx context.Context, from int64, bounds bus.Bounds) error {
	if from >= bounds.End {
		return nil
	}
	_, err := o.role.client.ReadAll(ctx, event.TopicSignals, o.a.Partition, from, func(rec bus.Record) error {
		if event.TypeOf(rec.Value) != event.TypeSignal {
			return nil
		}
		s, err := event.DecodeAs[*event.Signal](rec.Value)
		if err != nil {
			o.notePassed(&rec, err)
			return nil
		}
		if s.Kind == KindThreshold && s.Lineage.Partition == o.a.Partition && o.mark.Less(s.Lineage) {
			o.mark = s.Lineage
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the end of signals/%d: %w", o.a.Partition, err)
	}
	return nil
}

// notePassed logs a record of an own topic that is passed over: no owner wrote it.
func (o *owner) notePassed(rec *bus.Record, err error) {
	o.role.env.Log.Error("passing over a record that cannot be read", "topic", rec.Topic, "partition", rec.Partition, "offset", rec.Offset, "err", err)
}

// checkLog refuses a log that is not the one the stored offsets belong to. A state
// behind which retention took records goes on where somebody said that it may.
func (o *owner) checkLog(b *base) error {
	stored := max(o.committed, o.mark.Offset+1, b.input)
	if n := len(o.starts); n > 0 {
		stored = max(stored, o.starts[n-1].First)
	}
	saved := len(b.starts) > 0
	switch {
	case stored > o.log.End:
		return component.Fatal(fmt.Errorf("restoring signals: %w", o.fault(bus.Truncated, stored, "what was read")))
	case saved && b.input < o.log.Start:
		to, _ := o.role.client.Skipped(Name, o.a.Topic, o.a.Partition, b.input)
		if to < o.log.Start {
			return component.Fatal(fmt.Errorf("restoring signals: %w", o.fault(bus.Overtaken, max(b.input, to), "the state")))
		}
		o.role.env.Log.Warn("state goes on behind records that are gone: indicators warm up again", "topic", o.a.Topic, "partition", o.a.Partition,
			"from", b.input, "to", to)
		b.engine.lose()
		b.input = to
	case !saved && len(o.starts) > 0 && stored < o.log.Start:
		return component.Fatal(fmt.Errorf("restoring signals: %w", o.fault(bus.Overtaken, stored, "what was read")))
	case !saved && len(o.starts) > 0 && o.starts[0].First < o.log.Start:
		o.role.env.Log.Warn("state is rebuilt from a log whose beginning is gone", "topic", o.a.Topic, "partition", o.a.Partition,
			"first", o.starts[0].First, "start", o.log.Start)
	}
	return nil
}

// fault describes a log that is not the one that what is stored belongs to.
func (o *owner) fault(kind bus.LogFault, stored int64, what string) *bus.LogError {
	return &bus.LogError{
		Fault: kind, Group: Name, What: what, Topic: o.a.Topic, Partition: o.a.Partition, Stored: stored, Start: o.log.Start, End: o.log.End,
		StoredIncarnation: o.a.Incarnation, Incarnation: o.a.Incarnation,
	}
}

// declare appends that the configured rules apply from the offset on, and waits
// until that is acknowledged.
func (o *owner) declare(ctx context.Context, first int64) error {
	s := event.RuleStart{RuleSet: o.role.set.Hash, Partition: o.a.Partition, Incarnation: o.a.Incarnation, First: first,
		Epoch: uint32(o.producer.Number()),
		Time:  o.role.env.Clock.Now().UnixNano(), Output: o.output}
	type ack struct {
		offset int64
		err    error
	}
	acked := make(chan ack, 1)
	// The topic is compacted: a key of its own for every offset keeps them all.
	key := fmt.Appendf(nil, "rules/%d/%d", o.a.Partition, first)
	err := o.producer.Append(event.TopicSignalState, o.a.Partition, key, event.Marshal(&s), func(offset int64, err error) { acked <- ack{offset, err} })
	if err == nil {
		select {
		case got := <-acked:
			o.saves.stateEnd, err = max(o.saves.stateEnd, got.offset+1), got.err
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

package signals

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// owner is the handler of one partition in one generation of the group.
//
// What it may not do again is known from three places: the snapshot, before whose
// offset every output is acknowledged; the group's offset, of which the same
// holds; and the end of the output partition, whose signals lie in the order of
// (source offset, k), so that the last one is a watermark. No former owner can
// append to that partition, or to state.signals, any more.
type owner struct {
	role     *Role
	a        *bus.Assignment
	producer *bus.Owner
	engine   *Engine
	out      *outbox
	saves    saves
	log      bus.Bounds // of the partition, when it was taken over
	found    int64      // base.signals of what the restore began with

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

const (
	// fencedPatience is how long a handler that another has fenced waits to be told
	// that its partition was given to that other: three heartbeats and a little.
	fencedPatience = time.Second
	// maxFenced is how often a partition is taken over again after that.
	maxFenced = 5
	// lostPatience is how long a handler that lost its partition waits for its last
	// acknowledgements, with which this process can keep the state.
	lostPatience = 100 * time.Millisecond
)

// own is the handler that the consumer calls for a partition.
func (r *Role) own(ctx context.Context, a *bus.Assignment) error {
	r.metrics.partitions.Inc()
	defer r.metrics.partitions.Dec()
	for fenced := 1; ; fenced++ {
		live, err := r.ownOnce(ctx, a)
		if !errors.Is(err, bus.ErrFenced) {
			return err
		}
		// Either this process was slow to see that the partition is another's, or
		// the former owner was, and took it once more.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(fencedPatience):
		}
		if live || fenced == maxFenced {
			return component.Fatal(fmt.Errorf("owning %s/%d: it is assigned to this process, but another one that is no member of its group owns it: "+
				"stop the other one: %w", a.Topic, a.Partition, err))
		}
	}
}

// ownerKey is what the owner of a partition owns.
func ownerKey(partition int32) string { return fmt.Sprintf("%s.%d", Name, partition) }

// ownOnce owns the partition until it is lost, drained or fenced; live says that
// it got beyond its restore.
func (r *Role) ownOnce(ctx context.Context, a *bus.Assignment) (live bool, err error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	o := &owner{role: r, a: a, committed: a.Committed, mark: event.Lineage{Offset: -1}}
	o.saves.last = r.env.Clock.Now()
	o.producer, err = r.client.Own(ctx, bus.OwnConfig{Name: ownerKey(a.Partition), Key: ownerKey(a.Partition), Partitions: []bus.TopicPartition{
		{Topic: event.TopicSignals, Partition: a.Partition}, {Topic: event.TopicSignalState, Partition: a.Partition},
	}, Blocking: true}, r.env)
	if err != nil {
		return false, err
	}
	a.Bind(o.producer.Producer)
	o.out = newOutbox(a.Commit, func(err error) { fail(fmt.Errorf("publishing: %w", err)) })
	err = o.run(ctx)
	if err != nil && errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = context.Cause(ctx) // an output's error ended it
	}
	if o.engine != nil && ctx.Err() != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lostPatience)
		_ = o.out.wait(last) // or it is not kept
		cancel()
	}
	fail(nil)
	o.saves.wait()
	if cerr := o.producer.Close(ctx); cerr != nil && !errors.Is(cerr, context.Canceled) && err == nil {
		err = cerr
	}
	// An engine is ahead of outputs that are not acknowledged and could not
	// make them again.
	if o.engine != nil && o.out.empty() {
		o.engine.AbortSave()
		b := base{engine: o.engine, starts: o.starts[:o.applied], input: o.position, signals: o.found, state: o.saves.stateEnd, saved: o.saves.input}
		if o.live {
			b.signals = o.out.ended() // before, a former owner's outputs may lie before it
		}
		r.keep(a.Partition, &kept{incarnation: a.Incarnation, base: b})
	}
	return o.live, err
}

func (o *owner) run(ctx context.Context) error {
	if err := o.restore(ctx); err != nil {
		return err
	}
	o.a.Ready()
	for {
		if err := o.save(ctx); err != nil {
			return err
		}
		records, err := o.next(ctx)
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
		o.position = o.a.Position() // second copies are passed
		o.out.processed(o.position)
		o.count()
	}
	if err := o.out.wait(ctx); err != nil {
		return err
	}
	o.position = o.a.Position()
	o.out.processed(o.position)
	return o.saveLast(ctx)
}

// next waits for records, but not for long while a snapshot is being taken.
func (o *owner) next(ctx context.Context) ([]bus.Record, error) {
	if !o.engine.Saving() {
		return o.a.Next(ctx)
	}
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	records, err := o.a.Next(short)
	if err != nil && short.Err() != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return nil, nil
	}
	return records, err
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
	if len(o.engine.notices) > 0 {
		o.logNotices()
	}
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
	settled := o.out.addSignal(s.Lineage.Offset)
	count, live, time, clock := o.role.metrics.published.WithLabelValues(s.Rule, s.Indicator, s.Side.String()), o.live, s.Time, o.role.env.Clock
	err := o.producer.Append(event.TopicSignals, o.a.Partition, o.key, o.value, func(offset int64, err error) {
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

// logNotices logs what the engine noticed: at most two lines an instrument.
func (o *owner) logNotices() {
	for _, n := range o.engine.TakeNotices() {
		at := []any{"topic", o.a.Topic, "partition", o.a.Partition, "instrument", n.Instrument, "event_time", time.Unix(0, n.EventTime).UTC(),
			"recv_time", time.Unix(0, n.RecvTime).UTC()}
		if n.Unusable > 0 {
			o.role.env.Log.Warn("no rule can use the trades of an instrument: each is older than one before it, or has no price", append(at, "in_a_row", n.Unusable)...)
			continue
		}
		o.role.env.Log.Warn("a trade has an event time in the future: it makes no other trade late; the venue's clock or this machine's is wrong",
			append(at, "limit", time.Duration(MaxEventAhead).String())...)
	}
}

// count exports what the engine counted.
func (o *owner) count() {
	now := o.engine.Stats()
	o.role.metrics.add(now, o.counted)
	o.counted = now
}

package signals

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/autohedge/autohedge/signals/indicator"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// A snapshot is taken between two records and belongs to the offset between them.
// It costs the tick path one slice of the state at a time (Engine.Save); then, in
// a goroutine of its own, it waits until all outputs of the records before that
// offset are acknowledged, and only then it is written.

// saveSlice is about how many bytes of state are encoded between two batches of
// records: well below a millisecond's work.
const saveSlice = 128 << 10

// snapshotForm is StateForm together with the form of what precedes the engine's
// state in a snapshot.
const (
	snapshotForm  = StateForm<<8 | 1
	snapshotForm1 = form1<<8 | 1 // that of the builds before
)

// SnapshotKey names the snapshots of a partition of md, with bus.LoadSnapshot: what
// lies before the newest one's Input, less the window of second copies, is read
// again by no start.
func SnapshotKey(partition int32) bus.SnapshotKey {
	return bus.SnapshotKey{Topic: event.TopicSignalState, Partition: partition, Name: "engine", Input: event.TopicMarket, Owner: ownerKey(partition)}
}

// saves is what an owner knows of its snapshots. Its fields are those of the
// handler's goroutine, but for what the channels carry.
type saves struct {
	last  time.Time // when the last one was begun, or the partition taken over
	input int64     // of the newest snapshot in the log, -1 where there is none
	size  int       // of the last one
	// stateEnd is an offset of state.signals behind every rule start.
	stateEnd int64

	taking  *taking    // being taken or written; nil is none
	written chan error // of the one being written
	writers sync.WaitGroup
}

// taking is a snapshot on its way.
type taking struct {
	began time.Time
	input int64
	acked chan int64 // gets the end of signals once all outputs before input are acknowledged
}

// wait waits for what is being written; the caller has ended its context.
func (s *saves) wait() { s.writers.Wait() }

// save goes on with a snapshot or begins one when it is time.
func (o *owner) save(ctx context.Context) error {
	s := &o.saves
	switch {
	case s.written != nil:
		select {
		case err := <-s.written:
			return o.saved(ctx, err)
		default:
		}
	case s.taking != nil:
		if state, done := o.engine.Save(saveSlice); done {
			o.write(ctx, state)
		}
	case o.due():
		o.takeSnapshot()
	}
	return nil
}

func (o *owner) due() bool {
	cfg, s := &o.role.snapshots, &o.saves
	return cfg.Every > 0 && o.position > s.input && o.position-s.input >= int64(cfg.Records) && o.role.env.Clock.Now().Sub(s.last) >= cfg.Every
}

// takeSnapshot begins one of the state as it is.
func (o *owner) takeSnapshot() {
	s := &o.saves
	s.last = o.role.env.Clock.Now()
	t := &taking{began: time.Now(), input: o.position, acked: make(chan int64, 1)}
	o.out.mark(o.position, func(end int64) { t.acked <- end })
	s.taking = t
	o.engine.BeginSave(o.appendStarts(make([]byte, 0, s.size+s.size/8)))
}

// appendStarts writes what precedes the engine's state.
func (o *owner) appendStarts(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(o.applied))
	for i := range o.starts[:o.applied] {
		dst = appendBytes(dst, event.Marshal(&o.starts[i]))
	}
	return dst
}

// write saves the state that was taken, in a goroutine.
func (o *owner) write(ctx context.Context, state []byte) {
	s := &o.saves
	s.size = len(state)
	t, written := s.taking, make(chan error, 1)
	s.written = written
	s.writers.Add(1)
	go func() {
		defer s.writers.Done()
		written <- o.writeOut(ctx, t, state)
	}()
}

func (o *owner) writeOut(ctx context.Context, t *taking, state []byte) error {
	snap := &bus.Snapshot{Incarnation: o.a.Incarnation, Input: t.input, Form: snapshotForm, State: state}
	select {
	case end := <-t.acked:
		snap.Outputs = append(snap.Outputs, bus.OutputEnd{Topic: event.TopicSignals, Partition: o.a.Partition, End: end})
	case <-ctx.Done():
		return ctx.Err()
	}
	// Nobody but this owner appends rule starts, and it has not since it went live.
	all, err := o.role.client.Offsets(ctx, event.TopicSignalState)
	if err != nil {
		return err
	}
	snap.Outputs = append(snap.Outputs, bus.OutputEnd{Topic: event.TopicSignalState, Partition: o.a.Partition, End: all[o.a.Partition].End})
	return o.role.client.SaveSnapshot(ctx, o.producer.Producer, SnapshotKey(o.a.Partition), snap)
}

// saved notes what became of the snapshot that was written. One that failed is
// tried again when the next is due, for the log still has everything; only that
// another owner took over is an error.
func (o *owner) saved(ctx context.Context, err error) error {
	s := &o.saves
	t := s.taking
	s.taking, s.written = nil, nil
	m := o.role.metrics
	switch {
	case err == nil:
		s.input = t.input
		m.snapshots.Inc()
		m.snapshotBytes.WithLabelValues(fmt.Sprint(o.a.Partition)).Set(float64(s.size))
		m.snapshot.Observe(time.Since(t.began).Seconds())
	case ctx.Err() == nil && !errors.Is(err, bus.ErrFenced):
		m.snapshotFailures.Inc()
		o.role.env.Log.Warn("saving a snapshot failed; it is tried again", "topic", o.a.Topic, "partition", o.a.Partition, "input", t.input, "bytes", s.size, "error", err)
	}
	if errors.Is(err, bus.ErrFenced) {
		return err
	}
	return nil
}

// saveLast saves the state at the end of an orderly stop, unless a snapshot has it.
// It does not take the stop longer than closeTimeout, and a failure is no error:
// the next start replays a little more.
func (o *owner) saveLast(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	s := &o.saves
	if s.written != nil {
		select {
		case err := <-s.written:
			if err := o.saved(ctx, err); err != nil {
				return err
			}
		case <-short.Done():
			return nil
		}
	}
	if o.position <= s.input {
		return nil
	}
	o.takeSnapshot()
	state, _ := o.engine.Save(1 << 62)
	s.size = len(state)
	return o.saved(ctx, o.writeOut(short, s.taking, state))
}

// decode makes a base of a snapshot.
func (o *owner) decode(ctx context.Context, s *bus.Snapshot) (*base, error) {
	b := &base{input: s.Input, saved: s.Input, from: fromSnapshot, signals: -1, state: -1}
	if s.Form != snapshotForm && s.Form != snapshotForm1 {
		return nil, fmt.Errorf("it has form %d, this build reads %d and %d", s.Form, snapshotForm1, snapshotForm)
	}
	for _, out := range s.Outputs {
		switch (bus.TopicPartition{Topic: out.Topic, Partition: out.Partition}) {
		case bus.TopicPartition{Topic: event.TopicSignals, Partition: o.a.Partition}:
			b.signals = out.End
		case bus.TopicPartition{Topic: event.TopicSignalState, Partition: o.a.Partition}:
			b.state = out.End
		}
	}
	if b.signals < 0 || b.state < 0 {
		return nil, fmt.Errorf("it lacks the end of signals/%d or state.signals/%d", o.a.Partition, o.a.Partition)
	}
	r := indicator.NewStateReader(s.State)
	for range r.Count(len(s.State)) {
		start, err := event.DecodeAs[*event.RuleStart](r.Bytes())
		if r.Err() != nil || err != nil {
			return nil, fmt.Errorf("reading its rule starts: %w", errors.Join(r.Err(), err))
		}
		b.starts = append(b.starts, *start)
	}
	if r.Err() != nil || len(b.starts) == 0 {
		return nil, fmt.Errorf("reading its rule starts: there are %d: %w", len(b.starts), errors.Join(r.Err()))
	}
	engine, warmUp, err := RestoreEngine(o.a.Partition, uint64(s.Form>>8), s.State[len(s.State)-r.Len():],
		func(hash event.ID) (*RuleSet, error) { return o.role.store.get(ctx, hash) })
	if err != nil {
		return nil, err
	}
	b.engine = engine
	if len(warmUp) > 0 {
		o.role.env.Log.Warn("saved indicators are of another form than this build's and warm up again", "topic", o.a.Topic, "partition", o.a.Partition,
			"indicators", len(warmUp), "first", warmUp[0])
	}
	if last := b.starts[len(b.starts)-1].RuleSet; b.engine.set.Hash != last {
		return nil, fmt.Errorf("its state is of rule set %s, its last rule start names %s", b.engine.set.Hash, last)
	}
	return b, nil
}

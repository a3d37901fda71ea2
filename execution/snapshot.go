package execution

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// A snapshot is made of the logs, never of what the owner has in memory: the one
// before, and the records that came since. So what a restart begins with does not
// depend on what was on its way when it was taken, and its code is tried all the
// time.

const (
	// saveEvery is how often an owner looks whether a snapshot is due.
	saveEvery = 30 * time.Second
	// saveLeast is how many records a snapshot saves the next start at least; a
	// larger state waits for more, so that saving costs a record a constant part.
	saveLeast = 512
	// saveLastPatience is how long the snapshot of an orderly stop may take.
	saveLastPatience = time.Second
)

// SnapshotKey names the snapshots of a partition of accounts, with
// bus.LoadSnapshot.
func SnapshotKey(partition int32) bus.SnapshotKey {
	return bus.SnapshotKey{Topic: event.TopicExecutionState, Partition: partition, Name: "records", Input: event.TopicOrders, Owner: ownerKey(partition)}
}

// saved is the state that the next snapshot goes on from: the last one, or what the
// owner began with.
type saved struct {
	mu     sync.Mutex
	state  []byte
	next   map[string]int64 // up to where it is made of the logs, by topic
	orders int              // that it holds whole
}

// remember returns what the logs hold: from the newest snapshot that is whole and
// belongs to them, and what came after it, or from their starts.
func (o *owner) remember(ctx context.Context) (*records, error) {
	c, env, m := o.role.client, o.role.env, o.role.metrics
	began := time.Now()
	s, err := c.LoadSnapshot(ctx, SnapshotKey(o.partition))
	if err != nil {
		return nil, err
	}
	rec, from := newRecords(), "start"
	if s != nil {
		found, err := o.decode(s)
		switch {
		case err == nil:
			rec, from = found, "snapshot"
		case errors.Is(err, errOtherLife), errors.Is(err, errOlderForm):
			env.Log.Info("reading the logs from their start", "partition", o.partition, "err", err)
		default:
			m.snapshotFailures.Inc()
			env.Log.Warn("a snapshot cannot be used: the logs are read from their start", "partition", o.partition, "epoch", s.Epoch, "err", err)
		}
	}
	if err := rec.checkLogs(ctx, c, o.partition); err != nil {
		return nil, err
	}
	n, err := rec.read(ctx, c, o.partition, o.role.market.quoted)
	if err != nil {
		return nil, err
	}
	if err := o.keep(rec); err != nil {
		return nil, err
	}
	if from == "start" {
		o.saved.next = nil // what was read shall not have to be read again
	}
	m.restores.WithLabelValues(from).Inc()
	m.replayed.Add(float64(n))
	m.restore.Observe(time.Since(began).Seconds())
	env.Log.Info("restored a partition", "partition", o.partition, "from", from, "replayed", n, "orders", len(rec.orders.begun))
	return rec, nil
}

// errOlderForm says that an earlier build made a snapshot.
var errOlderForm = errors.New("an earlier build made it")

func (o *owner) decode(s *bus.Snapshot) (*records, error) {
	if s.Form < recordsForm {
		return nil, fmt.Errorf("decoding the snapshot: %w: it has form %d, this build reads %d", errOlderForm, s.Form, recordsForm)
	}
	if s.Form != recordsForm {
		return nil, fmt.Errorf("it has form %d, this build reads %d", s.Form, recordsForm)
	}
	return decodeRecords(s.State, o.role.client.Incarnation)
}

// keep notes what the next snapshot goes on from; o.saved.mu is held, or nobody
// else is there yet.
func (o *owner) keep(rec *records) error {
	state, err := rec.encode(o.role.client.Incarnation)
	if err != nil {
		return err
	}
	o.saved.state, o.saved.orders, o.saved.next = state, len(rec.orders.whole), rec.next
	return nil
}

// saves saves snapshots until ctx ends. One that fails is tried again when the next
// is due, for the logs have everything; only that another owner took over is an
// error.
func (o *owner) saves(ctx context.Context) error {
	t := time.NewTicker(o.role.saveEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if err := o.save(ctx, o.role.saveLeast); err != nil {
			return err
		}
	}
}

// save saves a snapshot if that many records came since the last one.
func (o *owner) save(ctx context.Context, least int64) error {
	began := time.Now()
	o.saved.mu.Lock()
	defer o.saved.mu.Unlock()
	done, err := o.trySave(ctx, max(least, int64(o.saved.orders/2)))
	m := o.role.metrics
	switch {
	case err == nil && done:
		m.snapshots.Inc()
		m.snapshotBytes.WithLabelValues(fmt.Sprint(o.partition)).Set(float64(len(o.saved.state)))
		m.snapshot.Observe(time.Since(began).Seconds())
	case errors.Is(err, bus.ErrFenced):
		return fmt.Errorf("saving a snapshot of partition %d: %w", o.partition, err)
	case err != nil && ctx.Err() == nil:
		m.snapshotFailures.Inc()
		o.role.env.Log.Warn("saving a snapshot failed; it is tried again", "partition", o.partition, "err", err)
	}
	return nil
}

func (o *owner) trySave(ctx context.Context, least int64) (done bool, err error) {
	c := o.role.client
	came := int64(0)
	for _, topic := range sources {
		all, err := c.Offsets(ctx, topic)
		if err != nil {
			return false, err
		}
		came += all[o.partition].End - max(o.saved.next[topic], all[o.partition].Start)
	}
	if came < least {
		return false, nil
	}
	rec, err := decodeRecords(o.saved.state, c.Incarnation)
	if err != nil {
		return false, err
	}
	if _, err := rec.read(ctx, c, o.partition, o.role.market.quoted); err != nil {
		return false, err
	}
	before := o.saved.next
	if err := o.keep(rec); err != nil {
		return false, err
	}
	snap := &bus.Snapshot{Incarnation: c.Incarnation(event.TopicOrders), Input: rec.next[event.TopicOrders], Form: recordsForm, State: o.saved.state}
	for _, topic := range sources[1:] {
		snap.Outputs = append(snap.Outputs, bus.OutputEnd{Topic: topic, Partition: o.partition, End: rec.next[topic]})
	}
	if err := c.SaveSnapshot(ctx, o.producer.Producer, SnapshotKey(o.partition), snap); err != nil {
		o.saved.next = before // it is still due
		return false, err
	}
	return true, nil
}

// saveLast saves a snapshot at the end of an orderly stop. That it fails is no
// error: the next start reads a little more.
func (o *owner) saveLast(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, saveLastPatience)
	defer cancel()
	return o.save(ctx, 1)
}

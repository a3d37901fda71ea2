package agents

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

const (
	// saveEvery is how often a worker looks whether a snapshot is due.
	saveEvery = 30 * time.Second
	// saveLeast is how many records of the journal and of positions a snapshot saves
	// the next start at least.
	saveLeast = 512
	// saveLastPatience is how long the snapshot of an orderly stop may take.
	saveLastPatience = time.Second
)

// SnapshotKey names the snapshots of a partition of signals, with
// bus.LoadSnapshot.
func SnapshotKey(partition int32) bus.SnapshotKey {
	return bus.SnapshotKey{Topic: event.TopicAgentState, Partition: partition, Name: "worker", Input: event.TopicSignals, Owner: ownerKey(partition)}
}

// ownerKey is what the owner of a partition of signals owns.
func ownerKey(partition int32) string { return fmt.Sprintf("%s.%d", Name, partition) }

// savedForm is the form of what a snapshot holds, saved; it counts up when that
// changes its meaning.
const savedForm = 1

// saved is where a worker goes on, in JSON. It has no verdicts: those that may be
// needed again lie in the journal, from an offset on.
type saved struct {
	// Lives are the incarnations of journal and positions.
	Lives map[string]event.ID `json:"lives"`
	// Journal is an offset: everything journalled of signals from the snapshot's
	// Input on lies at it or after it.
	Journal int64 `json:"journal"`
	// Positions is up to where Holdings were read: the newest record of each position
	// of the partition with the worker's number.
	Positions int64    `json:"positions"`
	Holdings  [][]byte `json:"holdings"`
}

// load returns the newest snapshot of a partition that can be used; nil is none.
func (r *Role) load(ctx context.Context, partition int32) (*bus.Snapshot, *saved, error) {
	snap, err := r.client.LoadSnapshot(ctx, SnapshotKey(partition))
	if err != nil || snap == nil {
		return nil, nil, err
	}
	s, err := r.decode(snap)
	if err != nil {
		r.metrics.snapshotFailures.Inc()
		r.env.Log.Warn("a snapshot cannot be used: journal and positions are read from their start", "partition", partition, "epoch", snap.Epoch, "error", err)
		return nil, nil, nil
	}
	for _, at := range []struct {
		topic string
		next  int64
	}{{event.TopicJournal, s.Journal}, {event.TopicPositions, s.Positions}} {
		all, err := r.client.Offsets(ctx, at.topic)
		if err != nil {
			return nil, nil, err
		}
		if bounds := all[partition]; at.next > bounds.End {
			life := r.client.Incarnation(at.topic)
			return nil, nil, component.Fatal(&bus.LogError{
				Fault: bus.Truncated, Group: Name, What: "the snapshot of what was judged", Topic: at.topic, Partition: partition,
				Stored: at.next, Start: bounds.Start, End: bounds.End, StoredIncarnation: life, Incarnation: life,
			})
		}
	}
	return snap, s, nil
}

func (r *Role) decode(snap *bus.Snapshot) (*saved, error) {
	if snap.Form != savedForm {
		return nil, fmt.Errorf("it has form %d, this build reads %d", snap.Form, savedForm)
	}
	var s saved
	if err := json.Unmarshal(snap.State, &s); err != nil {
		return nil, fmt.Errorf("decoding it: %w", err)
	}
	for _, topic := range []string{event.TopicJournal, event.TopicPositions} {
		if s.Lives[topic] != r.client.Incarnation(topic) {
			return nil, fmt.Errorf("it was made from another life of topic %s", topic)
		}
	}
	if s.Journal < 0 || s.Positions < 0 {
		return nil, fmt.Errorf("it goes on at offset %d of the journal and %d of positions", s.Journal, s.Positions)
	}
	for i, b := range s.Holdings {
		if _, err := event.DecodeAs[*event.Position](b); err != nil {
			return nil, fmt.Errorf("decoding position %d of it: %w", i, err)
		}
	}
	return &s, nil
}

// saves saves snapshots until ctx ends. One that fails is tried again when the next
// is due, for the logs have everything; only that another owner took over is an
// error.
func (w *worker) saves(ctx context.Context) error {
	t := time.NewTicker(w.role.saveEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if err := w.save(ctx, w.role.saveLeast); err != nil {
			return err
		}
	}
}

// save saves a snapshot if the next start would be spared that many records.
func (w *worker) save(ctx context.Context, least int64) error {
	w.saving.Lock()
	defer w.saving.Unlock()
	p, m := w.a.Partition, w.role.metrics
	input, journal := w.mark()
	holdings, positions := w.role.holdings.of(p)
	if input < 0 || max(journal-w.savedJournal, 0)+max(positions-w.savedPositions, 0) < least {
		return nil
	}
	state, err := json.Marshal(&saved{
		Lives: map[string]event.ID{
			event.TopicJournal:   w.role.client.Incarnation(event.TopicJournal),
			event.TopicPositions: w.role.client.Incarnation(event.TopicPositions),
		},
		Journal: journal, Positions: positions, Holdings: holdings,
	})
	if err == nil {
		err = w.role.client.SaveSnapshot(ctx, w.producer.Producer, SnapshotKey(p), &bus.Snapshot{
			Incarnation: w.a.Incarnation, Input: input, Form: savedForm, State: state,
			Outputs: []bus.OutputEnd{{Topic: event.TopicJournal, Partition: p, End: journal}},
		})
	}
	switch {
	case err == nil:
		w.savedJournal, w.savedPositions = journal, positions
		m.snapshots.Inc()
	case errors.Is(err, bus.ErrFenced):
		return fmt.Errorf("saving a snapshot of partition %d: %w", p, err)
	case ctx.Err() == nil:
		m.snapshotFailures.Inc()
		w.role.env.Log.Warn("saving a snapshot failed; it is tried again", "partition", p, "error", err)
	}
	return nil
}

// saveLast saves a snapshot at the end of an orderly stop. That it fails is no
// error: the next start reads a little more.
func (w *worker) saveLast(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, saveLastPatience)
	defer cancel()
	return w.save(ctx, 1)
}

// mark returns the offset up to which every signal is decided, -1 where none is
// known, and one of the journal from which on all lies that belongs to others.
func (w *worker) mark() (input, journal int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	input, journal = w.done, w.journalEnd.Load()
	if len(w.verdicts)+len(w.calls) > 0 { // of a life before, for signals that are not decided
		journal = w.restoredFrom
	}
	for _, j := range w.queue {
		journal = min(journal, j.journalFrom)
	}
	return input, journal
}

// of returns the newest record of each position of a partition, in order, and up to
// where they were read.
func (h *holdings) of(partition int32) (records [][]byte, next int64) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, p := range h.m {
		if p.partition == partition {
			records = append(records, event.Marshal(p.Position))
		}
	}
	slices.SortFunc(records, slices.Compare)
	return records, h.next[partition]
}

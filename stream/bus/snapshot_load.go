package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"strings"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// LoadSnapshot returns the newest whole snapshot, the one with the highest epoch
// and then the highest input offset; nil when there is none. One that is damaged,
// half-written or partly overwritten is passed over for the next, and so are
// batches whose checksum is wrong and the snapshots of a life of the input topic
// that somebody ended. One of another incarnation is a LogError that is
// component.Fatal. It reads the partition backwards from its end, in steps that
// double, until it knows both slots of the last owner that saved, and, from its
// first chunk on, once more for each snapshot that it tries: a few times the bytes
// of a snapshot, however many lie before. Its memory is one state of at most
// MaxSnapshot bytes. An owner calls it after Own.
func (c *Client) LoadSnapshot(ctx context.Context, k SnapshotKey) (*Snapshot, error) {
	err := k.check()
	if err == nil {
		var l *loader
		if l, err = c.loader(ctx, k); err != nil {
			return nil, fmt.Errorf("loading snapshot %s from %s: %w", k.Name, k.at(), err)
		}
		l.damaged = func(m found) {
			c.metrics.errors.WithLabelValues("snapshot").Inc()
			c.env.Log.Warn("passing over a snapshot that is not whole", "topic", k.Topic, "partition", k.Partition, "name", k.Name,
				"epoch", m.Epoch, "input", m.Input, "offset", m.offset)
		}
		var s *Snapshot
		if s, err = l.load(); err == nil {
			return s, nil
		}
		var e *LogError
		if errors.As(err, &e) && e.Fault == Recreated { // the log's bounds are for people
			if all, berr := c.Offsets(ctx, k.Input); berr == nil && int(k.Partition) < len(all) {
				e.Start, e.End = all[k.Partition].Start, all[k.Partition].End
			}
		}
	}
	return nil, fmt.Errorf("loading snapshot %s from %s: %w", k.Name, k.at(), err)
}

// reign is who owns a partition, and the number that its last snapshots have at
// least, if it or its predecessor saved any.
type reign struct {
	key    string
	number uint64
}

// noteReign notes the last owner that may have saved to a partition.
func (c *Client) noteReign(at TopicPartition, r reign) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reigns == nil {
		c.reigns = make(map[TopicPartition]reign)
	}
	if r.key != c.reigns[at].key || r.number > c.reigns[at].number {
		c.reigns[at] = r
	}
}

// lastReign returns the last owner that may have saved snapshots: what this client
// knows as an owner, else what meta says; ok is false where nobody knows.
func (c *Client) lastReign(ctx context.Context, k SnapshotKey) (r reign, ok bool, err error) {
	c.mu.RLock()
	r, ok = c.reigns[k.at()]
	c.mu.RUnlock()
	if ok || k.Owner == "" {
		return r, ok, nil
	}
	claims, _, err := c.readClaims(ctx, k.Owner, FromStart)
	if err != nil {
		return r, false, err
	}
	return reign{k.Owner, highest(claims)}, len(claims) > 0, nil
}

// logEnd stands for the end of the log as it is now.
const logEnd = int64(-1)

// scan reads a partition's state records, passing over damaged batches.
func (c *Client) scan(ctx context.Context, at TopicPartition, from, end int64, each func(Record) error) error {
	bounds, err := c.bounds(ctx, at.Topic, []int32{at.Partition})
	if err != nil {
		return err
	}
	if end == logEnd {
		end = bounds[0].End
	}
	if from == FromStart {
		from = bounds[0].Start
	}
	if from >= end {
		return nil
	}
	return c.readUntil(ctx, ReaderConfig{Topic: at.Topic, Partition: at.Partition, Offset: from, passDamaged: true}, end, each)
}

// loader finds the newest whole snapshot in a log.
type loader struct {
	key         SnapshotKey
	incarnation event.ID                        // of the input topic
	ended       func(incarnation event.ID) bool // whether somebody ended that life of it
	bounds      func() (Bounds, error)
	scan        func(from, end int64, each func(Record) error) error
	damaged     func(found) // told of a snapshot that is passed over
	// last is the last owner that may have saved; known is false where nobody knows,
	// and then the log is read whole.
	last  reign
	known bool
}

// found is a manifest as it lies in the log.
type found struct {
	*event.SnapshotManifest
	offset int64
}

func (c *Client) loader(ctx context.Context, k SnapshotKey) (*loader, error) {
	l := &loader{
		key: k, incarnation: c.Incarnation(k.Input), ended: c.Ended,
		bounds: func() (Bounds, error) {
			all, err := c.bounds(ctx, k.Topic, []int32{k.Partition})
			if err != nil {
				return Bounds{}, err
			}
			return all[0], nil
		},
		scan: func(from, end int64, each func(Record) error) error { return c.scan(ctx, k.at(), from, end, each) },
	}
	var err error
	l.last, l.known, err = c.lastReign(ctx, k)
	return l, err
}

func (l *loader) load() (s *Snapshot, err error) {
	err = l.newest(func(m found) (done bool, err error) {
		if m.InputTopic != l.key.Input {
			return false, component.Fatal(fmt.Errorf("it follows from topic %s, not from %s: give it a name of its own", m.InputTopic, l.key.Input))
		}
		if m.Incarnation != l.incarnation {
			if l.ended != nil && l.ended(m.Incarnation) {
				return false, nil // of a life that somebody ended: it does not count
			}
			return false, component.Fatal(&LogError{
				Fault: Recreated, What: "snapshot " + l.key.Name, Topic: m.InputTopic, Partition: l.key.Partition, Stored: m.Input,
				StoredIncarnation: m.Incarnation, Incarnation: l.incarnation,
			})
		}
		state, err := l.state(m)
		if err != nil {
			return false, err
		}
		if state == nil {
			l.damaged(m)
			return false, nil
		}
		s = &Snapshot{Epoch: m.Epoch, Incarnation: m.Incarnation, Input: m.Input, Form: m.Form, State: state}
		for _, out := range m.Outputs {
			s.Outputs = append(s.Outputs, OutputEnd(out))
		}
		return true, nil
	})
	return s, err
}

// backStep is how many offsets the first step backwards takes: four small
// snapshots; each step takes twice as many as the one before.
const backStep = 8

// newest hands out the manifests that can be believed, the newest first, until one
// is it. It reads the log from its end backwards, and no further than it must: of
// an owner both slots, and of each later one the Epoch record that it began with, or
// the word of the claims that there is none. Where these are not known, the log's
// start ends it.
func (l *loader) newest(try func(found) (done bool, err error)) error {
	bounds, err := l.bounds()
	if err != nil {
		return err
	}
	// The last manifest of each slot; one that was removed is there without one.
	slots := make(map[string]found)
	tried := make(map[string]bool)
	reached := uint64(math.MaxUint64) // all that owners from this number on wrote was read
	for end, step := bounds.End, int64(backStep); ; step *= 2 {
		from := max(bounds.Start, end-step)
		window := make(map[string]found)
		if err := l.scan(from, end, func(r Record) error {
			l.note(window, r)
			reached = min(reached, l.begins(r))
			return nil
		}); err != nil {
			return err
		}
		for key, m := range window {
			if _, known := slots[key]; !known {
				slots[key] = m
			}
		}
		first := from == bounds.Start
		var left []found
		of := make(map[uint64]int) // slots by epoch
		for key, m := range slots {
			if m.SnapshotManifest == nil {
				continue
			}
			of[m.Epoch]++
			if !tried[key] {
				left = append(left, m)
			}
		}
		slices.SortFunc(left, func(a, b found) int {
			return cmp.Or(cmp.Compare(b.Epoch, a.Epoch), cmp.Compare(b.Input, a.Input), cmp.Compare(b.offset, a.offset))
		})
		for len(left) > 0 && (first || l.certain(left[0].Epoch, of[left[0].Epoch], reached)) {
			if done, err := try(left[0]); done || err != nil {
				return err
			}
			tried[manifestKey(l.key.slot(left[0].Epoch, left[0].Slot))] = true
			left = left[1:]
		}
		if first {
			return nil
		}
		end = from
	}
}

// certain reports whether a manifest of that epoch, the highest that was read and is
// left, is the newest in the whole log: so many of its owner's slots are known, and
// all that owners from number reached on wrote was read.
func (l *loader) certain(epoch uint64, slots int, reached uint64) bool {
	switch {
	case !l.known:
		return false
	case slots == 2: // whatever else this owner saved is older
		return epoch >= l.last.number || reached <= epoch+1
	}
	return reached <= epoch
}

// begins returns the number of the owner whose first record it is.
func (l *loader) begins(r Record) uint64 {
	if event.TypeOf(r.Value) == event.TypeEpoch {
		if e, err := event.DecodeAs[*event.Epoch](r.Value); err == nil && e.Key == l.last.key {
			return e.Number
		}
	}
	return math.MaxUint64
}

// note keeps what a record says of a slot.
func (l *loader) note(slots map[string]found, r Record) {
	key := string(r.Key)
	if !strings.HasPrefix(key, l.key.prefix()) || !strings.HasSuffix(key, "|manifest") {
		return
	}
	m, err := event.DecodeAs[*event.SnapshotManifest](r.Value)
	switch {
	case err == nil && l.believable(m, key):
		slots[key] = found{m, r.Offset}
	case r.Value == nil:
		slots[key] = found{}
	}
}

// believable reports whether a manifest is what was written under the key. What it
// claims of the state is held against a bound here and against the chunks later.
func (l *loader) believable(m *event.SnapshotManifest, key string) bool {
	return m.Checksum == manifestChecksum(m) && m.Name == l.key.Name && key == manifestKey(l.key.slot(m.Epoch, m.Slot)) &&
		m.Size <= MaxSnapshot && uint64(m.Chunks)*snapshotChunk >= m.Size && uint64(m.Chunks) <= m.Size
}

// state reads the chunks of a manifest; nil says that they are not whole. Memory
// is taken once the first chunk is there.
func (l *loader) state(m found) ([]byte, error) {
	from := m.First
	if from < 0 {
		from = FromStart
	}
	slot := l.key.slot(m.Epoch, m.Slot)
	state, next := []byte{}, uint32(0)
	err := l.scan(from, m.offset, func(r Record) error {
		if next == m.Chunks || string(r.Key) != chunkKey(slot, next) {
			return nil
		}
		x, err := event.DecodeAs[*event.SnapshotChunk](r.Value)
		if err == nil && x.Save == m.Save && x.Index == next && x.Name == l.key.Name && len(x.Data) <= snapshotChunk {
			if next == 0 {
				state = make([]byte, 0, m.Size)
			}
			state = append(state, x.Data...)
			next++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if next != m.Chunks || uint64(len(state)) != m.Size || crc32.Checksum(state, castagnoli) != m.StateChecksum {
		return nil, nil
	}
	return state, nil
}

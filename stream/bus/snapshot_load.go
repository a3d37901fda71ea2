package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
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
// component.Fatal. It reads the partition whole, once
// for the manifests and, from its first chunk on, once for each snapshot that it
// tries; its memory is one state of at most MaxSnapshot bytes. An owner calls it
// after Own.
func (c *Client) LoadSnapshot(ctx context.Context, k SnapshotKey) (*Snapshot, error) {
	err := k.check()
	if err == nil {
		l := c.loader(ctx, k)
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
	scan        func(from, end int64, each func(Record) error) error
	damaged     func(found) // told of a snapshot that is passed over
}

// found is a manifest as it lies in the log.
type found struct {
	*event.SnapshotManifest
	offset int64
}

func (c *Client) loader(ctx context.Context, k SnapshotKey) *loader {
	return &loader{
		key: k, incarnation: c.Incarnation(k.Input), ended: c.Ended,
		scan: func(from, end int64, each func(Record) error) error { return c.scan(ctx, k.at(), from, end, each) },
	}
}

func (l *loader) load() (*Snapshot, error) {
	manifests, err := l.manifests()
	if err != nil {
		return nil, err
	}
	for _, m := range manifests {
		if m.InputTopic != l.key.Input {
			return nil, component.Fatal(fmt.Errorf("it follows from topic %s, not from %s: give it a name of its own", m.InputTopic, l.key.Input))
		}
		if m.Incarnation != l.incarnation {
			if l.ended != nil && l.ended(m.Incarnation) {
				continue // of a life that somebody ended: it does not count
			}
			return nil, component.Fatal(&LogError{
				Fault: Recreated, What: "snapshot " + l.key.Name, Topic: m.InputTopic, Partition: l.key.Partition, Stored: m.Input,
				StoredIncarnation: m.Incarnation, Incarnation: l.incarnation,
			})
		}
		state, err := l.state(m)
		if err != nil {
			return nil, err
		}
		if state == nil {
			l.damaged(m)
			continue
		}
		s := &Snapshot{Epoch: m.Epoch, Incarnation: m.Incarnation, Input: m.Input, Form: m.Form, State: state}
		for _, out := range m.Outputs {
			s.Outputs = append(s.Outputs, OutputEnd(out))
		}
		return s, nil
	}
	return nil, nil
}

// manifests lists the manifests that can be believed, the newest first.
func (l *loader) manifests() ([]found, error) {
	bySlot := make(map[string]found)
	err := l.scan(FromStart, logEnd, func(r Record) error {
		key := string(r.Key)
		if !strings.HasPrefix(key, l.key.prefix()) || !strings.HasSuffix(key, "|manifest") {
			return nil
		}
		m, err := event.DecodeAs[*event.SnapshotManifest](r.Value)
		if err == nil && l.believable(m, key) {
			bySlot[key] = found{m, r.Offset}
		} else if r.Value == nil {
			delete(bySlot, key)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	all := make([]found, 0, len(bySlot))
	for _, m := range bySlot {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b found) int {
		return cmp.Or(cmp.Compare(b.Epoch, a.Epoch), cmp.Compare(b.Input, a.Input), cmp.Compare(b.offset, a.offset))
	})
	return all, nil
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

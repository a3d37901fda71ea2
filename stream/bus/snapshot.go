package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"sync"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

const (
	// snapshotChunk is how much of a state one record carries.
	snapshotChunk = 512 << 10
	// MaxSnapshot bounds a snapshot's state, in bytes: SaveSnapshot refuses more,
	// and LoadSnapshot believes no manifest that claims more.
	MaxSnapshot = 512 << 20
	// savesInFlight bounds the chunks of a save that wait to be acknowledged, so
	// that they take little of the queue that the role's other records go through.
	savesInFlight = 4
)

// Snapshot is a role's state and where it belongs in the logs.
type Snapshot struct {
	// Epoch is the Number of the owner that saved it; SaveSnapshot fills it in.
	Epoch uint64
	// Incarnation is that of the input topic, SnapshotKey.Input.
	Incarnation event.ID
	// Input is the offset of the first input record that is not in the state.
	Input int64
	// Outputs are the ends of the partitions that the role appends to, when all
	// that follows from the records before Input was acknowledged.
	Outputs []OutputEnd
	// Form is the form of State's bytes, which the role counts up when it changes.
	Form  uint32
	State []byte
}

// OutputEnd is the end offset of one partition.
type OutputEnd struct {
	Topic     string
	Partition int32
	End       int64
}

// SnapshotKey names a snapshot.
type SnapshotKey struct {
	Topic     string // state.<role>
	Partition int32
	// Name tells the snapshots of one partition apart, "engine".
	Name string
	// Input is the topic whose records the state follows from.
	Input string
}

func (k *SnapshotKey) at() TopicPartition { return TopicPartition{k.Topic, k.Partition} }

func (k *SnapshotKey) check() error {
	if _, known := event.Topic(k.Input); !known {
		return fmt.Errorf("input topic %q is none of ours", k.Input)
	}
	if spec, _ := event.Topic(k.Topic); !spec.Compacted {
		return fmt.Errorf("topic %q does not hold state: it is not compacted", k.Topic)
	}
	if k.Name == "" || strings.Contains(k.Name, "|") {
		return fmt.Errorf("name %q: want one without |", k.Name)
	}
	return nil
}

func (k *SnapshotKey) prefix() string { return "snapshot|" + k.Name + "|" }

// slot begins the keys of one slot. Each owner has two of its own, so that nobody
// else's late records replace one of them.
func (k *SnapshotKey) slot(epoch uint64, slot uint32) string {
	return fmt.Sprintf("%s%d|%d|", k.prefix(), epoch, slot)
}

func chunkKey(slot string, index uint32) string { return fmt.Sprintf("%s%d", slot, index) }

func manifestKey(slot string) string { return slot + "manifest" }

func manifestChecksum(m *event.SnapshotManifest) uint32 {
	bare := *m
	bare.Checksum = 0
	return crc32.Checksum(event.Marshal(&bare), castagnoli)
}

// saves is what an owner knows of the snapshots of one key.
type saves struct {
	mu     sync.Mutex
	last   uint32    // slot of the last whole one
	whole  int       // how many it saved
	chunks [2]uint32 // most chunks that were written to a slot
}

func (o *Owner) savesOf(k SnapshotKey) *saves {
	o.savesMu.Lock()
	defer o.savesMu.Unlock()
	if o.saves == nil {
		o.saves = make(map[SnapshotKey]*saves)
	}
	s := o.saves[k]
	if s == nil {
		s = &saves{last: 1}
		o.saves[k] = s
	}
	return s
}

// SaveSnapshot writes a snapshot and waits until it is whole: the chunks, then,
// once they are acknowledged, the manifest. It overwrites the older of the owner's
// two slots. p must be an Owner's that owns the key's partition. It keeps s.State
// until it returns, which takes as long as the bytes take to the broker: a role
// encodes its state, then calls this in a goroutine of its own and goes on. A call
// during another of the same key waits for it.
func (c *Client) SaveSnapshot(ctx context.Context, p *Producer, k SnapshotKey, s *Snapshot) error {
	if err := c.save(ctx, p, k, s); err != nil {
		return fmt.Errorf("saving snapshot %s to %s: %w", k.Name, k.at(), err)
	}
	return nil
}

func (c *Client) save(ctx context.Context, p *Producer, k SnapshotKey, s *Snapshot) error {
	if err := k.check(); err != nil {
		return err
	}
	o := p.owner
	switch {
	case o == nil || !slices.Contains(o.partitions, k.at()):
		return errors.New("the producer does not own the partition, see Client.Own")
	case len(s.State) > MaxSnapshot:
		return fmt.Errorf("the state has %d bytes, at most %d fit", len(s.State), MaxSnapshot)
	case s.Epoch != 0 && s.Epoch != o.number:
		return fmt.Errorf("it has epoch %d, the owner's is %d", s.Epoch, o.number)
	}
	s.Epoch = o.number
	saves := o.savesOf(k)
	saves.mu.Lock()
	defer saves.mu.Unlock()
	m := &event.SnapshotManifest{
		Name: k.Name, Epoch: s.Epoch, Save: newID(), Slot: 1 - saves.last,
		InputTopic: k.Input, Incarnation: s.Incarnation, Input: s.Input, Form: s.Form,
		Chunks: uint32((len(s.State) + snapshotChunk - 1) / snapshotChunk), Size: uint64(len(s.State)),
		Time: p.env.Clock.Now().UnixNano(), StateChecksum: crc32.Checksum(s.State, castagnoli),
	}
	for _, out := range s.Outputs {
		m.Outputs = append(m.Outputs, event.SnapshotOutput(out))
	}
	slot := k.slot(m.Epoch, m.Slot)
	first, err := c.saveChunks(ctx, p, k, m, s.State)
	if err != nil {
		return err
	}
	saves.chunks[m.Slot] = max(saves.chunks[m.Slot], m.Chunks)
	m.First = first
	m.Checksum = manifestChecksum(m)
	if _, err := p.publish(ctx, k.at(), []byte(manifestKey(slot)), event.Marshal(m)); err != nil {
		return err
	}
	saves.last = m.Slot
	saves.whole++
	// What a longer state left in the slot is of no use to anybody.
	for i := m.Chunks; i < saves.chunks[m.Slot]; i++ {
		if err := p.appendWaiting(ctx, k.at(), []byte(chunkKey(slot, i)), nil, nil); err != nil {
			return err
		}
	}
	saves.chunks[m.Slot] = m.Chunks
	return nil
}

// saveChunks appends the chunks, a few at a time, and returns the first one's
// offset.
func (c *Client) saveChunks(ctx context.Context, p *Producer, k SnapshotKey, m *event.SnapshotManifest, state []byte) (first int64, err error) {
	first = -1
	slot := k.slot(m.Epoch, m.Slot)
	acked := make(chan appended, savesInFlight)
	inFlight := 0
	settle := func() error {
		inFlight--
		_, err := acknowledged(ctx, k.at(), acked)
		return err
	}
	for i := range m.Chunks {
		if inFlight == savesInFlight {
			if err := settle(); err != nil {
				return -1, err
			}
		}
		data := state[int(i)*snapshotChunk : min(int(i+1)*snapshotChunk, len(state))]
		value := event.Marshal(&event.SnapshotChunk{Name: k.Name, Save: m.Save, Index: i, Data: data})
		if err := p.appendWaiting(ctx, k.at(), []byte(chunkKey(slot, i)), value, func(offset int64, err error) {
			if i == 0 {
				first = offset // read after the acknowledgement below
			}
			acked <- appended{offset, err}
		}); err != nil {
			return -1, err
		}
		inFlight++
	}
	for inFlight > 0 {
		if err := settle(); err != nil {
			return -1, err
		}
	}
	return first, nil
}

// LoadSnapshot returns the newest whole snapshot, the one with the highest epoch
// and then the highest input offset; nil when there is none. One that is damaged,
// half-written or partly overwritten is passed over for the next, and so is one of
// a life of the input topic that somebody ended. One of another incarnation is a
// LogError that is component.Fatal.
func (c *Client) LoadSnapshot(ctx context.Context, k SnapshotKey) (*Snapshot, error) {
	s, err := c.load(ctx, k)
	if err != nil {
		return nil, fmt.Errorf("loading snapshot %s from %s: %w", k.Name, k.at(), err)
	}
	return s, nil
}

// found is a manifest as it lies in the log.
type found struct {
	*event.SnapshotManifest
	offset int64
}

func (c *Client) load(ctx context.Context, k SnapshotKey) (*Snapshot, error) {
	if err := k.check(); err != nil {
		return nil, err
	}
	manifests, err := c.manifests(ctx, k)
	if err != nil {
		return nil, err
	}
	for _, m := range manifests {
		if own := c.Incarnation(k.Input); m.InputTopic == k.Input && m.Incarnation != own {
			if c.Ended(m.Incarnation) {
				continue
			}
			all, err := c.Offsets(ctx, k.Input)
			if err != nil {
				return nil, err
			}
			e := &LogError{
				Fault: Recreated, What: "snapshot " + k.Name, Topic: k.Input, Partition: k.Partition, Stored: m.Input,
				StoredIncarnation: m.Incarnation, Incarnation: own,
			}
			if int(k.Partition) < len(all) {
				e.Start, e.End = all[k.Partition].Start, all[k.Partition].End
			}
			return nil, component.Fatal(e)
		}
		state, err := c.state(ctx, k, m)
		if err != nil {
			return nil, err
		}
		if state == nil {
			c.metrics.errors.WithLabelValues("snapshot").Inc()
			c.env.Log.Warn("passing over a snapshot that is not whole", "topic", k.Topic, "partition", k.Partition, "name", k.Name, "epoch", m.Epoch, "input", m.Input)
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
func (c *Client) manifests(ctx context.Context, k SnapshotKey) ([]found, error) {
	bySlot := make(map[string]found)
	_, err := c.ReadAll(ctx, k.Topic, k.Partition, FromStart, func(r Record) error {
		key := string(r.Key)
		if !strings.HasPrefix(key, k.prefix()) || !strings.HasSuffix(key, "|manifest") {
			return nil
		}
		delete(bySlot, key) // whatever comes now, the one before is overwritten
		m, err := event.DecodeAs[*event.SnapshotManifest](r.Value)
		if err != nil || m.Checksum != manifestChecksum(m) || key != manifestKey(k.slot(m.Epoch, m.Slot)) || m.Name != k.Name ||
			m.Size > MaxSnapshot || uint64(m.Chunks) != (m.Size+snapshotChunk-1)/snapshotChunk {
			return nil
		}
		bySlot[key] = found{m, r.Offset}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var all []found
	for _, m := range bySlot {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b found) int {
		return cmp.Or(cmp.Compare(b.Epoch, a.Epoch), cmp.Compare(b.Input, a.Input), cmp.Compare(b.offset, a.offset))
	})
	return all, nil
}

// state reads the chunks of a manifest; nil says that they are not whole. Memory
// grows with what is found, not with what is claimed.
func (c *Client) state(ctx context.Context, k SnapshotKey, m found) ([]byte, error) {
	slot := k.slot(m.Epoch, m.Slot)
	from := m.First
	if from < 0 {
		from = FromStart
	}
	state, next := []byte{}, uint32(0)
	err := c.readUntil(ctx, k.at(), from, m.offset, func(r Record) error {
		if next == m.Chunks || string(r.Key) != chunkKey(slot, next) {
			return nil
		}
		x, err := event.DecodeAs[*event.SnapshotChunk](r.Value)
		if err == nil && x.Save == m.Save && x.Index == next && x.Name == k.Name && len(x.Data) <= snapshotChunk {
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

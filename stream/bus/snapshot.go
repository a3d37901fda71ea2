package bus

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"sync"

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
	// Owner is the key of whoever saves it, "signals.2"; those who only look learn
	// from topic meta who that is, and where it is empty they read the partition
	// whole.
	Owner string
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

// saves is what an owner knows of its own snapshots of one key.
type saves struct {
	mu      sync.Mutex
	last    uint32    // slot of the last whole one
	whole   int       // how many it saved
	input   int64     // of the last whole one
	chunks  [2]uint32 // most chunks that may lie in a slot
	cleared bool      // what former owners saved is removed
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
	saves := o.savesOf(k)
	saves.mu.Lock()
	defer saves.mu.Unlock()
	if s.Input < saves.input {
		return fmt.Errorf("its input offset %d is below %d, that of the one before", s.Input, saves.input)
	}
	s.Epoch = o.number
	m := &event.SnapshotManifest{
		Name: k.Name, Epoch: s.Epoch, Save: newID(), Slot: 1 - saves.last,
		InputTopic: k.Input, Incarnation: s.Incarnation, Input: s.Input, Form: s.Form,
		Chunks: uint32((len(s.State) + o.chunk - 1) / o.chunk), Size: uint64(len(s.State)),
		Time: p.env.Clock.Now().UnixNano(), StateChecksum: crc32.Checksum(s.State, castagnoli),
	}
	for _, out := range s.Outputs {
		m.Outputs = append(m.Outputs, event.SnapshotOutput(out))
	}
	slot := k.slot(m.Epoch, m.Slot)
	saves.chunks[m.Slot] = max(saves.chunks[m.Slot], m.Chunks)
	var err error
	if m.First, err = c.saveChunks(ctx, p, k, m, s.State); err != nil {
		return err
	}
	m.Checksum = manifestChecksum(m)
	if _, err := p.publish(ctx, k.at(), []byte(manifestKey(slot)), event.Marshal(m)); err != nil {
		return err
	}
	saves.last, saves.input = m.Slot, m.Input
	saves.whole++
	c.noteReign(k.at(), reign{o.key, o.number})
	c.clear(ctx, p, k, m, saves)
	return nil
}

// clear removes what is of no use to anybody once a snapshot is whole: what a
// longer state left in the slot, and, when both slots are whole, what former
// owners left. What cannot be removed now is removed after the next save.
func (c *Client) clear(ctx context.Context, p *Producer, k SnapshotKey, m *event.SnapshotManifest, saves *saves) {
	for i := saves.chunks[m.Slot]; i > m.Chunks; i-- {
		if p.appendWaiting(ctx, k.at(), []byte(chunkKey(k.slot(m.Epoch, m.Slot), i-1)), nil, nil) != nil {
			return
		}
		saves.chunks[m.Slot] = i - 1
	}
	if saves.whole < 2 || saves.cleared {
		return
	}
	if err := c.clearFormer(ctx, p, k, m.Epoch); err != nil {
		p.env.Log.Warn("leaving the snapshots of former owners for now", "topic", k.Topic, "partition", k.Partition, "name", k.Name, "error", err)
		return
	}
	saves.cleared = true
}

// clearFormer removes what owners with lower numbers saved.
func (c *Client) clearFormer(ctx context.Context, p *Producer, k SnapshotKey, epoch uint64) error {
	former := make(map[string]bool)
	if err := c.scan(ctx, k.at(), FromStart, logEnd, func(r Record) error {
		rest, ours := strings.CutPrefix(string(r.Key), k.prefix())
		number, _, _ := strings.Cut(rest, "|")
		if n, err := strconv.ParseUint(number, 10, 64); err == nil && ours && n < epoch {
			former[string(r.Key)] = r.Value != nil
		}
		return nil
	}); err != nil {
		return err
	}
	for key, stands := range former {
		if stands {
			if err := p.appendWaiting(ctx, k.at(), []byte(key), nil, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// saveChunks appends the chunks, a few at a time, and returns the first one's
// offset.
func (c *Client) saveChunks(ctx context.Context, p *Producer, k SnapshotKey, m *event.SnapshotManifest, state []byte) (int64, error) {
	// The producer's goroutine writes it, also after this function gave up.
	first := int64(-1)
	slot, chunk := k.slot(m.Epoch, m.Slot), p.owner.chunk
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
		data := state[int(i)*chunk : min(int(i+1)*chunk, len(state))]
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

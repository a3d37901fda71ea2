package bus

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/autohedge/autohedge/stream/event"
)

// Incarnations live in meta, keyed by topic: the first record after the last
// tombstone counts. Whoever created a topic writes a tombstone, if meta still
// holds the topic's former life, and a new id; a topic without a record gets one
// from whoever looks first. Two that look at once may both write: the first
// counts, and since compaction keeps the last, whoever sees a second one repeats
// the first.

// ensureIncarnations returns the incarnation of every topic.
func (c *Client) ensureIncarnations(ctx context.Context, created map[string]bool) (map[string]event.ID, error) {
	for range 5 {
		known, err := c.readIncarnations(ctx)
		if err != nil {
			return nil, err
		}
		ids := make(map[string]event.ID, len(known))
		var write []incarnationWrite
		for _, spec := range event.Topics {
			life := known[spec.Name]
			switch {
			case created[spec.Name] && !life.first.IsZero():
				write = append(write, incarnationWrite{topic: spec.Name, tombstone: true, id: newID()})
			case life.first.IsZero():
				write = append(write, incarnationWrite{topic: spec.Name, id: newID()})
			case life.last != life.first:
				write = append(write, incarnationWrite{topic: spec.Name, id: life.first})
			default:
				ids[spec.Name] = life.first
			}
		}
		if len(write) == 0 {
			return ids, nil
		}
		if err := c.writeIncarnations(ctx, write); err != nil {
			return nil, err
		}
		created = nil // written; what is read next counts
	}
	return nil, fmt.Errorf("topic %s is being written by others without end", event.TopicMeta)
}

type incarnationWrite struct {
	topic     string
	tombstone bool
	id        event.ID
}

// life is what meta says of one topic since its last tombstone.
type life struct{ first, last event.ID }

func (c *Client) readIncarnations(ctx context.Context) (map[string]life, error) {
	known := make(map[string]life)
	_, err := c.ReadAll(ctx, event.TopicMeta, 0, FromStart, func(r Record) error {
		if r.Value == nil {
			delete(known, string(r.Key))
			return nil
		}
		m, err := event.DecodeAs[*event.Incarnation](r.Value)
		if err != nil {
			return fmt.Errorf("decoding record %d of %s: %w", r.Offset, event.TopicMeta, err)
		}
		l := known[m.Topic]
		if l.first.IsZero() {
			l.first = m.ID
		}
		l.last = m.ID
		known[m.Topic] = l
		return nil
	})
	return known, err
}

func (c *Client) writeIncarnations(ctx context.Context, writes []incarnationWrite) error {
	p, err := c.NewProducer(ctx, ProducerConfig{Name: "meta", Blocking: true}, c.env)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close(ctx) }()
	for _, w := range writes {
		if w.tombstone {
			if err := p.Append(event.TopicMeta, 0, []byte(w.topic), nil, nil); err != nil {
				return err
			}
		}
		value := event.Marshal(&event.Incarnation{
			Topic: w.topic, ID: w.id, Partitions: uint32(c.Partitions(w.topic)), Time: c.env.Clock.Now().UnixNano(), //nolint:gosec // positive
		})
		if err := p.Append(event.TopicMeta, 0, []byte(w.topic), value, nil); err != nil {
			return err
		}
	}
	return p.Flush(ctx)
}

// newID returns a random id: an incarnation is the one thing that must differ
// although nothing else does.
func newID() (id event.ID) {
	_, _ = rand.Read(id[:]) // never fails, see crypto/rand
	return id
}

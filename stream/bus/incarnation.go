package bus

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/autohedge/autohedge/stream/event"
)

// Incarnations live in meta, keyed by topic. The first record of a topic whose
// life has not ended counts. Whoever is about to create a topic that meta knows
// says first that its former life has ended, in a record of its own key (topic
// and id) and without partitions; a topic without a life gets one from whoever
// looks first. Two that look at once may both write: the first counts, and since
// compaction keeps the last of a key, whoever sees another one last repeats the
// first.

// endLives ends the lives of topics that do not exist any more.
func (c *Client) endLives(ctx context.Context, missing []string) error {
	lives, err := c.readIncarnations(ctx)
	if err != nil {
		return err
	}
	var records []incarnationRecord
	for _, topic := range missing {
		if l, known := lives[topic]; known {
			records = append(records, incarnationRecord{key: topic + "|" + l.id.String(), topic: topic, id: l.id})
		}
	}
	return c.writeIncarnations(ctx, records)
}

// ensureIncarnations returns the incarnation of every topic.
func (c *Client) ensureIncarnations(ctx context.Context) (map[string]event.ID, error) {
	for range 10 {
		lives, err := c.readIncarnations(ctx)
		if err != nil {
			return nil, err
		}
		ids := make(map[string]event.ID, len(event.Topics))
		var records []incarnationRecord
		for _, spec := range event.Topics {
			l, known := lives[spec.Name]
			switch {
			case !known:
				l.id = newID()
			case l.last:
				ids[spec.Name] = l.id
				continue
			}
			records = append(records, incarnationRecord{key: spec.Name, topic: spec.Name, id: l.id, partitions: c.Partitions(spec.Name)})
		}
		if len(records) == 0 {
			return ids, nil
		}
		if err := c.writeIncarnations(ctx, records); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("topic %s is being written by others without end", event.TopicMeta)
}

// life is the incarnation of one topic; last says that its record is the last
// of its key, which compaction keeps.
type life struct {
	id   event.ID
	last bool
}

func (c *Client) readIncarnations(ctx context.Context) (map[string]life, error) {
	var records []*event.Incarnation
	ended := make(map[event.ID]bool)
	_, err := c.ReadAll(ctx, event.TopicMeta, 0, FromStart, func(r Record) error {
		m, err := event.DecodeAs[*event.Incarnation](r.Value)
		if err != nil {
			return fmt.Errorf("decoding record %d of %s: %w", r.Offset, event.TopicMeta, err)
		}
		if m.Partitions == 0 {
			ended[m.ID] = true
		} else {
			records = append(records, m)
		}
		return nil
	})
	lives := make(map[string]life)
	for _, m := range records {
		l, known := lives[m.Topic]
		if !known && !ended[m.ID] {
			l.id = m.ID
		}
		if l.last = l.id == m.ID; !l.id.IsZero() {
			lives[m.Topic] = l
		}
	}
	return lives, err
}

// incarnationRecord is one record to write; no partitions end the life.
type incarnationRecord struct {
	key, topic string
	id         event.ID
	partitions int32
}

func (c *Client) writeIncarnations(ctx context.Context, records []incarnationRecord) error {
	if len(records) == 0 {
		return nil
	}
	p, err := c.NewProducer(ctx, ProducerConfig{Name: "meta", Blocking: true}, c.env)
	if err != nil {
		return err
	}
	for _, r := range records {
		value := event.Marshal(&event.Incarnation{
			Topic: r.topic, ID: r.id, Partitions: uint32(r.partitions), Time: c.env.Clock.Now().UnixNano(),
		})
		if err := p.Append(event.TopicMeta, 0, []byte(r.key), value, nil); err != nil {
			_ = p.Close(ctx)
			return err
		}
	}
	return p.Close(ctx)
}

// newID returns a random id: an incarnation is the one thing that must differ
// although nothing else does.
func newID() (id event.ID) {
	_, _ = rand.Read(id[:]) // never fails, see crypto/rand
	return id
}

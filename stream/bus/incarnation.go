package bus

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/autohedge/autohedge/stream/event"
)

// Incarnations live in meta. The first record of a topic whose life has not
// ended counts. Whoever is about to create a topic that meta knows says first
// that its former life has ended, in a record without partitions; a topic without
// a life gets one from whoever looks first. Two that look at once may both write:
// the first counts. Since compaction keeps only the last record of a key, the key
// is topic and id: no life's record is removed because of another's.

// endLives ends the lives of topics that do not exist any more.
func (c *Client) endLives(ctx context.Context, missing []string) error {
	lives, err := c.readIncarnations(ctx)
	if err != nil {
		return err
	}
	var records []incarnationRecord
	for _, topic := range missing {
		if id, known := lives[topic]; known {
			records = append(records, incarnationRecord{topic: topic, id: id})
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
			if id, known := lives[spec.Name]; known {
				ids[spec.Name] = id
				continue
			}
			records = append(records, incarnationRecord{topic: spec.Name, id: newID(), partitions: c.Partitions(spec.Name)})
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

// readIncarnations returns the incarnation of every topic that has a life.
func (c *Client) readIncarnations(ctx context.Context) (map[string]event.ID, error) {
	var records []*event.Incarnation
	ended := make(map[event.ID]bool)
	_, err := c.ReadAll(ctx, event.TopicMeta, 0, FromStart, func(r Record) error {
		if event.TypeOf(r.Value) != event.TypeIncarnation {
			return nil // an owner's claim
		}
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
	lives := make(map[string]event.ID)
	for _, m := range records {
		if _, known := lives[m.Topic]; !known && !ended[m.ID] {
			lives[m.Topic] = m.ID
		}
	}
	return lives, err
}

// incarnationRecord is one record to write; no partitions end the life.
type incarnationRecord struct {
	topic      string
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
		if err := p.Append(event.TopicMeta, 0, []byte(r.topic+"|"+r.id.String()), value, nil); err != nil {
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

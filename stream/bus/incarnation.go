package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/autohedge/autohedge/stream/event"
)

// Incarnations live in meta. The first record of a topic whose life has not
// ended counts; a topic without a life gets one from whoever looks first. Two
// that look at once may both write: the first counts. A life is ended, in a record
// without partitions, by a named human only (BeginLives): a topic that is gone
// although it has a life is refused. Since compaction keeps only the last record
// of a key, the key is topic and id: no life's record is removed because of
// another's.

// metaView is what meta says.
type metaView struct {
	lives map[string]*event.Incarnation // by topic
	ended map[event.ID]bool
	skips []*event.Skip
}

// Incarnation returns the topic's incarnation as read by EnsureTopics.
func (c *Client) Incarnation(topic string) event.ID {
	m := c.view()
	if m == nil || m.lives[topic] == nil {
		return event.ID{}
	}
	return m.lives[topic].ID
}

// Ended reports whether a human ended that life of a topic: what was stored of
// it does not count any more.
func (c *Client) Ended(id event.ID) bool {
	m := c.view()
	return m != nil && m.ended[id]
}

// Begins returns where the topic's life begins in the partition, when it was
// begun by hand: everything before belongs to a former life. A group that stood
// before that offset goes on where it stood.
func (c *Client) Begins(topic string, partition int32) (offset int64, known bool) {
	m := c.view()
	if m == nil || m.lives[topic] == nil {
		return 0, false
	}
	for _, b := range m.lives[topic].Begins {
		if b.Partition == partition {
			return b.Offset, true
		}
	}
	return 0, false
}

func (c *Client) view() *metaView {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.meta
}

func (c *Client) setView(m *metaView) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.meta = m
}

// ensureIncarnations gives every topic a life that has none, and returns what
// meta says then.
func (c *Client) ensureIncarnations(ctx context.Context) (*metaView, error) {
	for range 10 {
		view, err := c.readMeta(ctx)
		if err != nil {
			return nil, err
		}
		var records []*event.Incarnation
		for _, spec := range event.Topics {
			if view.lives[spec.Name] == nil {
				records = append(records, &event.Incarnation{Topic: spec.Name, ID: newID(), Partitions: uint32(c.Partitions(spec.Name))})
			}
		}
		if len(records) == 0 {
			return view, nil
		}
		if err := c.writeIncarnations(ctx, records); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("topic %s is being written by others without end", event.TopicMeta)
}

// readMeta reads meta whole.
func (c *Client) readMeta(ctx context.Context) (*metaView, error) {
	v := &metaView{lives: make(map[string]*event.Incarnation), ended: make(map[event.ID]bool)}
	var records []*event.Incarnation
	_, err := c.ReadAll(ctx, event.TopicMeta, 0, FromStart, func(r Record) error {
		m, err := event.Decode(r.Value)
		switch {
		case errors.Is(err, event.ErrUnknownType), len(r.Value) == 0:
			return nil // of a newer version, or a tombstone
		case err != nil:
			return fmt.Errorf("decoding record %d of %s: %w", r.Offset, event.TopicMeta, err)
		}
		switch m := m.(type) {
		case *event.Incarnation:
			if m.Partitions == 0 {
				v.ended[m.ID] = true
			} else {
				records = append(records, m)
			}
		case *event.Skip:
			v.skips = append(v.skips, m)
		}
		return nil // the rest is an owner's claim
	})
	if err != nil {
		return nil, err
	}
	for _, m := range records {
		if v.lives[m.Topic] == nil && !v.ended[m.ID] {
			v.lives[m.Topic] = m
		}
	}
	return v, nil
}

// writeIncarnations appends lives to meta; one without partitions ends its life.
func (c *Client) writeIncarnations(ctx context.Context, records []*event.Incarnation) error {
	return c.writeMeta(ctx, len(records), func(i int) (string, event.Message) {
		r := *records[i]
		r.Time = c.env.Clock.Now().UnixNano()
		return r.Topic + "|" + r.ID.String(), &r
	})
}

// writeMeta appends n records to meta and waits for their acknowledgements.
func (c *Client) writeMeta(ctx context.Context, n int, record func(i int) (key string, m event.Message)) error {
	if n == 0 {
		return nil
	}
	p, err := c.NewProducer(ctx, ProducerConfig{Name: "meta", Blocking: true}, c.env)
	if err != nil {
		return err
	}
	for i := range n {
		key, m := record(i)
		if err := p.Append(event.TopicMeta, 0, []byte(key), event.Marshal(m), nil); err != nil {
			return errors.Join(err, p.Close(ctx))
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

package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Incarnations live in meta, in the order in which they were written. A topic without
// a life gets one from each process that finds none. Several processes that start at
// once may each write one: the first counts, and the others never do. A life that a
// named human began (beginLives), which has Begins, ends every life of its topic that
// is before it in meta: the newest of these counts. A record without partitions ends a
// life too; beginLives writes one for each former life, for builds that know no other
// end. A topic that is gone although it has a life is refused. Since compaction keeps
// only the last record of a key, the key is topic and id: no life's record is removed
// because of another's.
//
// A life knows the brokers' own id of its topic, so that one that was deleted and
// created anew by others is seen however much was written to it since. Lives of
// earlier versions get it in a second record, under a key of its own, since the
// order of the first ones counts.

// metaView is what meta says.
type metaView struct {
	lives map[string]*event.Incarnation // by topic
	begun map[string][]event.ID         // every life of a topic, in order
	ended map[event.ID]bool
	skips []*event.Skip
}

func newMetaView() *metaView {
	return &metaView{lives: make(map[string]*event.Incarnation), begun: make(map[string][]event.ID), ended: make(map[event.ID]bool)}
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
// meta says then. A topic that is not the one that has its life, by the brokers'
// ids of them, is refused.
func (c *Client) ensureIncarnations(ctx context.Context) (*metaView, error) {
	recreated := 0
	for range 10 {
		view, err := c.readMeta(ctx)
		if err != nil {
			return nil, err
		}
		l, err := c.settled(ctx, c.named())
		if err != nil {
			return nil, err
		}
		var lives, known []*event.Incarnation
		var faults LogErrors
		for _, spec := range event.Topics {
			life, t := view.lives[spec.Name], l.topic(c.prefix()+spec.Name)
			if f := view.fault(spec.Name, t.presence(), t.id); f != nil && f.Fault == Recreated {
				faults = append(faults, f)
				continue
			}
			switch {
			case life == nil:
				lives = append(lives, &event.Incarnation{Topic: spec.Name, ID: newID(), Partitions: uint32(c.Partitions(spec.Name)), TopicID: t.id})
			case life.TopicID.IsZero() && !t.id.IsZero():
				same := *life
				same.TopicID = t.id
				known = append(known, &same)
			}
		}
		if len(faults) > 0 {
			// The broker that was asked may not have heard of the last change yet.
			if recreated++; recreated < 4 {
				if err := sleep(ctx, backoff(recreated+3)); err != nil {
					return nil, err
				}
				continue
			}
			for _, f := range faults {
				f.Bounds, _ = c.Offsets(ctx, f.Topic) // for people; unread where they cannot be told
			}
			return nil, component.Fatal(faults)
		}
		if len(lives)+len(known) == 0 {
			return view, nil
		}
		if err := errors.Join(c.writeIncarnations(ctx, "", lives), c.writeIncarnations(ctx, "|topic", known)); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("topic %s is being written by others without end", event.TopicMeta)
}

// fault compares a topic's life with the topic that bears its name now. It returns an
// error when that topic is missing or is another one, and nil when it is the same or
// when the brokers do not tell. Every start and every command judges by it.
func (v *metaView) fault(topic string, there presence, id event.ID) *LogError {
	life := v.lives[topic]
	switch {
	case life == nil:
	case there == absent:
		return &LogError{Fault: Missing, Topic: topic, Partition: -1, StoredIncarnation: life.ID}
	case there == present && !life.TopicID.IsZero() && !id.IsZero() && life.TopicID != id:
		return &LogError{Fault: Recreated, Topic: topic, Partition: -1, StoredIncarnation: life.ID, StoredTopicID: life.TopicID, TopicID: id}
	}
	return nil
}

// sameTopic returns a Recreated LogError when the topic is not the one that had
// its life when EnsureTopics ran; nil also where that cannot be told.
func (c *Client) sameTopic(ctx context.Context, topic string) error {
	m := c.view()
	if m == nil {
		return nil
	}
	l, err := c.layout(ctx, []string{c.prefix() + topic})
	if err != nil {
		return nil //nolint:nilerr // it cannot be told
	}
	t := l.topic(c.prefix() + topic)
	f := m.fault(topic, t.presence(), t.id)
	if f == nil || f.Fault != Recreated {
		return nil
	}
	f.Bounds, _ = c.Offsets(ctx, topic)
	return component.Fatal(f)
}

// readMeta reads meta whole.
func (c *Client) readMeta(ctx context.Context) (*metaView, error) {
	v := newMetaView()
	var records []*event.Incarnation
	_, err := c.ReadAll(ctx, event.TopicMeta, 0, FromStart, func(r Record) error {
		m, err := event.Decode(r.Value)
		switch {
		case errors.Is(err, event.ErrUnknownType), len(r.Value) == 0:
			return nil // of a newer version, or a tombstone
		case err != nil:
			// No program of ours writes such a record. To stop at it would stop every command
			// and every start, for good.
			c.noteUnreadable(event.TopicMeta, 0, r.Offset, err)
			return nil
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
	v.addLives(records)
	return v, nil
}

// addLives finds the life of each topic among the records of meta that begin one, in
// their order. The records that end one have been noted already.
func (v *metaView) addLives(records []*event.Incarnation) {
	seen := make(map[event.ID]bool, len(records))
	for _, m := range records {
		life := v.lives[m.Topic]
		switch {
		case v.ended[m.ID]:
		case seen[m.ID]:
			// The second record of a life, which only adds the brokers' id of its topic.
			if life != nil && life.ID == m.ID && life.TopicID.IsZero() {
				life.TopicID = m.TopicID
			}
		case len(m.Begins) > 0:
			for _, id := range v.begun[m.Topic] {
				v.ended[id] = true
			}
			v.lives[m.Topic] = m
		case life == nil:
			v.lives[m.Topic] = m
		}
		if !seen[m.ID] {
			seen[m.ID] = true
			v.begun[m.Topic] = append(v.begun[m.Topic], m.ID)
		}
	}
}

// noteUnreadable logs a record that is passed over, once.
func (c *Client) noteUnreadable(topic string, partition int32, offset int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := fmt.Sprintf("%s/%d@%d", topic, partition, offset)
	if c.unreadable[at] || len(c.unreadable) >= maxUnreadable {
		return
	}
	if c.unreadable == nil {
		c.unreadable = make(map[string]bool)
	}
	c.unreadable[at] = true
	c.env.Log.Error("passing over a record that cannot be read", "topic", topic, "partition", partition, "offset", offset, "err", err)
}

// maxUnreadable bounds the records that a client logs as unreadable.
const maxUnreadable = 256

// writeIncarnations appends lives to meta, each under a key that ends in suffix; one
// without partitions ends its life.
func (c *Client) writeIncarnations(ctx context.Context, suffix string, records []*event.Incarnation) error {
	return c.writeMeta(ctx, len(records), func(i int) (string, event.Message) {
		r := *records[i]
		r.Time = c.env.Clock.Now().UnixNano()
		return r.Topic + "|" + r.ID.String() + suffix, &r
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

package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/autohedge/autohedge/stream/event"
)

// SkipRequest asks for a group to go on at a later offset of a partition.
type SkipRequest struct {
	Role      string // the group is autohedge.<role>, prefixed by the session
	Topic     string
	Partition int32
	To        int64 // FromStart is the log's start
	// Stands is where the role's own state says that it stands, which the group's
	// offset may lie behind; -1 when it does not say.
	Stands int64
	// Rebuilds says that the role reads again from Stands on, also where the group's
	// offset is beyond it, to rebuild what is not in its newest snapshot.
	Rebuilds bool
	Who, Why string
}

// CheckSkip says what Skip would do, and why it may not: only what retention took
// is skipped, and only forward, and only while the group has no members. It
// changes nothing. EnsureTopics must have run.
func (c *Client) CheckSkip(ctx context.Context, r SkipRequest) (*event.Skip, error) {
	where := fmt.Sprintf("skipping in %s/%d", r.Topic, r.Partition)
	spec, known := event.Topic(r.Topic)
	switch n := c.Partitions(r.Topic); {
	case !known:
		return nil, fmt.Errorf("%s: no such topic", where)
	case r.Partition < 0 || r.Partition >= n:
		return nil, fmt.Errorf("%s: the topic has %d partitions", where, n)
	case spec.Forever || spec.Compacted:
		return nil, fmt.Errorf("%s: this topic is never trimmed, so retention takes nothing of it", where)
	case strings.TrimSpace(r.Who) == "" || strings.TrimSpace(r.Why) == "":
		return nil, fmt.Errorf("%s: it needs a name and a reason", where)
	}
	group := c.Group(r.Role)
	if err := c.idle(ctx, group); err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	all, err := c.bounds(ctx, r.Topic, []int32{r.Partition})
	if err != nil {
		return nil, err
	}
	b := all[0]
	committed, err := c.committed(ctx, group, r.Topic, []int{int(r.Partition)})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	from, has := committed[r.Partition]
	if r.Stands >= 0 && (!has || r.Rebuilds || r.Stands > from) {
		from, has = r.Stands, true
	}
	to := r.To
	if to == FromStart {
		to = b.Start
	}
	switch {
	case !has:
		return nil, fmt.Errorf("%s: group %s has no offset there, so it begins at the log's start %d by itself", where, group, b.Start)
	case to < from && r.To != FromStart:
		return nil, fmt.Errorf("%s: group %s stands at offset %d, and offset %d would go back: a skip goes forward only", where, group, from, to)
	case to > b.Start:
		return nil, fmt.Errorf("%s: records %d to %d are still there (the log begins at %d and ends at %d): only what retention took is skipped", where, max(from, b.Start), to-1, b.Start, b.End)
	case from >= b.Start:
		return nil, fmt.Errorf("%s: group %s stands at offset %d and the log begins at %d: nothing is gone", where, group, from, b.Start)
	case to < b.Start:
		return nil, fmt.Errorf("%s: the log begins at %d by now, so offset %d is gone too: skip to %d", where, b.Start, to, b.Start)
	}
	s := &event.Skip{
		Group: r.Role, Topic: r.Topic, Partition: r.Partition, Incarnation: c.Incarnation(r.Topic), From: from, To: to, Who: r.Who, Why: r.Why,
		Time: c.env.Clock.Now().UnixNano(),
	}
	s.ID = event.SkipID(s)
	return s, nil
}

// Skip lets a group pass over what retention took. The skip is stated in meta,
// where every process reads it, and as a dead letter, which lands; then the
// group's offset moves, if it lies before. Made again after it was interrupted it
// goes on.
func (c *Client) Skip(ctx context.Context, r SkipRequest) (*event.Skip, error) {
	s, err := c.CheckSkip(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := c.stateSkip(ctx, s, s.Group, fmt.Sprintf("records %d to %d were taken by retention before %s read them, skipped by %s: %s", s.From, s.To-1, s.Group, s.Who, s.Why)); err != nil {
		return nil, err
	}
	at, err := c.committed(ctx, c.Group(r.Role), r.Topic, []int{int(r.Partition)})
	if err != nil {
		return nil, err
	}
	if stood, has := at[r.Partition]; has && stood >= s.To {
		return s, nil
	}
	if err := c.commitFor(ctx, c.Group(r.Role), r.Topic, map[int32]int64{r.Partition: s.To}); err != nil {
		return nil, err
	}
	return s, nil
}

// SkipRecord lets every role pass over one record that cannot be used. It is stated in
// meta, where every process reads it at its start, and as a dead letter.
func (c *Client) SkipRecord(ctx context.Context, topic string, partition int32, offset int64, who, why string) (*event.Skip, error) {
	where := fmt.Sprintf("skipping %s/%d at offset %d", topic, partition, offset)
	if n := c.Partitions(topic); partition < 0 || partition >= n {
		return nil, fmt.Errorf("%s: the topic has %d partitions", where, n)
	}
	if strings.TrimSpace(who) == "" || strings.TrimSpace(why) == "" {
		return nil, fmt.Errorf("%s: it needs a name and a reason", where)
	}
	all, err := c.bounds(ctx, topic, []int32{partition})
	if err != nil {
		return nil, err
	}
	if b := all[0]; offset < b.Start || offset >= b.End {
		return nil, fmt.Errorf("%s: the log begins at %d and ends at %d", where, b.Start, b.End)
	}
	s := &event.Skip{
		Topic: topic, Partition: partition, Incarnation: c.Incarnation(topic), From: offset, To: offset + 1, Who: who, Why: why, Time: c.env.Clock.Now().UnixNano(),
	}
	s.ID = event.SkipID(s)
	return s, c.stateSkip(ctx, s, "skip", fmt.Sprintf("the record at offset %d cannot be used, skipped by %s: %s", offset, who, why))
}

// SkippedRecord reports whether somebody allowed every role to pass over the record.
// It says what was known when EnsureTopics ran.
func (c *Client) SkippedRecord(topic string, partition int32, offset int64) bool {
	m := c.view()
	return m != nil && slices.ContainsFunc(m.skips, func(s *event.Skip) bool {
		return s.Group == "" && s.Topic == topic && s.Partition == partition && s.Incarnation == c.Incarnation(topic) && s.From <= offset && offset < s.To
	})
}

// stateSkip writes a skip into meta and as a dead letter.
func (c *Client) stateSkip(ctx context.Context, s *event.Skip, role, reason string) error {
	if err := c.writeMeta(ctx, 1, func(int) (string, event.Message) { return "skip|" + s.ID.String(), s }); err != nil {
		return fmt.Errorf("stating the skip: %w", err)
	}
	letter := &event.Dead{
		ID: s.ID, Role: role, Lineage: event.Lineage{Topic: s.Topic, Partition: s.Partition, Offset: s.From},
		Key: fmt.Appendf(nil, "%s/%d", s.Topic, s.Partition), Time: s.Time, Reason: reason,
	}
	p, err := c.NewProducer(ctx, ProducerConfig{Name: "skip", Blocking: true}, c.env)
	if err != nil {
		return err
	}
	err = p.Append(event.TopicDead, 0, letter.Key, event.Marshal(letter), nil)
	if err := errors.Join(err, p.Close(ctx)); err != nil {
		return fmt.Errorf("stating the skip: %w", err)
	}
	return nil
}

// Skipped returns the offset up to which a role may pass over what it lacks of a
// partition's records from offset from on; ok is false where nobody allowed it.
// It says what was known when EnsureTopics ran.
func (c *Client) Skipped(role, topic string, partition int32, from int64) (to int64, ok bool) {
	m := c.view()
	if m == nil {
		return 0, false
	}
	return m.skipped(role, topic, partition, from)
}

func (v *metaView) skipped(role, topic string, partition int32, from int64) (to int64, ok bool) {
	var life event.ID
	if v.lives[topic] != nil {
		life = v.lives[topic].ID
	}
	for _, s := range v.skips {
		if s.Group == role && s.Topic == topic && s.Partition == partition && s.Incarnation == life && s.To > max(from, to) {
			to, ok = s.To, true
		}
	}
	return to, ok
}

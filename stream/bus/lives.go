package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/segmentio/kafka-go"

	"github.com/autohedge/autohedge/stream/event"
)

// NewLife is one topic whose life a human began anew.
type NewLife struct {
	Topic string `json:"topic"`
	// Former is zero where the topic had no life, or one that had ended.
	Former      event.ID `json:"former,omitzero"`
	Incarnation event.ID `json:"incarnation"`
	Created     bool     `json:"created"` // the topic was missing
	Begins      []int64  `json:"begins"`  // by partition
	Ends        []int64  `json:"ends"`
	// Groups are the offsets that were set back, or forward, into the log.
	Groups []GroupOffset `json:"groups"`
}

// GroupOffset is what a group stood at in a partition, and where it goes on.
type GroupOffset struct {
	Group     string `json:"group"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"`
	To        int64  `json:"to"`
}

// ErrGroupRunning says that a group has members: what is done to its offsets
// would be undone, or would skip what they are reading.
var ErrGroupRunning = errors.New("it is running")

// AdoptTopics accepts the logs as they are now: each topic begins a new life at
// its log's end (a missing topic is created, empty), a group goes on where it
// stood or at that end, whichever comes first, and nothing else that is stored of
// a former life counts. It is refused while a group of this session has members.
func (c *Client) AdoptTopics(ctx context.Context, topics []string, who, why string) ([]NewLife, error) {
	return c.beginLives(ctx, topics, false, who, why)
}

// DiscardTopics forgets everything that is stored of the topics: each begins a
// new life at its log's start, and so does every group. It is refused while a
// group of this session has members.
func (c *Client) DiscardTopics(ctx context.Context, topics []string, who, why string) ([]NewLife, error) {
	return c.beginLives(ctx, topics, true, who, why)
}

func (c *Client) beginLives(ctx context.Context, topics []string, discard bool, who, why string) ([]NewLife, error) {
	verb := "adopting"
	if discard {
		verb = "discarding"
	}
	topics = slices.Clone(topics)
	for _, t := range topics {
		if _, known := event.Topic(t); !known || t == event.TopicMeta {
			return nil, fmt.Errorf("%s %s: it is not one of the topics that have a life", verb, t)
		}
	}
	groups, err := c.idleGroups(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", verb, strings.Join(topics, ", "), err)
	}
	exists, replicas, err := c.existing(ctx)
	if err != nil {
		return nil, err
	}
	// The topics that stay missing are refused or created by EnsureTopics.
	absent := slices.DeleteFunc(c.missing(exists), func(s event.TopicSpec) bool {
		return s.Name != event.TopicMeta && !slices.Contains(topics, s.Name)
	})
	if _, err := c.create(ctx, absent, replicas); err != nil {
		return nil, fmt.Errorf("creating topics: %w", err)
	}
	found, err := c.checkThese(ctx, append(topics, event.TopicMeta))
	if err != nil {
		return nil, fmt.Errorf("checking topics: %w", err)
	}
	c.setPartitions(found)
	view, err := c.readMeta(ctx)
	if err != nil {
		return nil, err
	}
	l, err := c.settled(ctx, c.named())
	if err != nil {
		return nil, err
	}
	all := make([]NewLife, 0, len(topics))
	var records []*event.Incarnation
	for _, topic := range topics {
		bounds, err := c.Offsets(ctx, topic)
		if err != nil {
			return nil, err
		}
		n := NewLife{Topic: topic, Incarnation: newID(), Created: !exists[topic], Groups: []GroupOffset{}}
		life := &event.Incarnation{Topic: topic, ID: n.Incarnation, Partitions: uint32(len(bounds)), Who: who, Why: why, TopicID: l.topic(c.prefix() + topic).id}
		for p, b := range bounds {
			begin := b.End
			if discard {
				begin = b.Start
			}
			n.Begins, n.Ends = append(n.Begins, begin), append(n.Ends, b.End)
			life.Begins = append(life.Begins, event.PartitionOffset{Partition: int32(p), Offset: begin})
		}
		if former := view.lives[topic]; former != nil {
			n.Former = former.ID
		}
		// The new life ends all others by itself. The rest is for builds that do not know this.
		records = append(records, life)
		for _, id := range view.begun[topic] {
			if !view.ended[id] {
				records = append(records, &event.Incarnation{Topic: topic, ID: id, Who: who, Why: why})
			}
		}
		all = append(all, n)
	}
	// First the lives: when this is interrupted, the groups' offsets are refused as
	// before, and the same command goes on.
	if err := c.writeIncarnations(ctx, "", records); err != nil {
		return nil, fmt.Errorf("writing the new lives: %w", err)
	}
	for i := range all {
		if err := c.moveGroups(ctx, groups, &all[i], discard); err != nil {
			return all, err
		}
	}
	return all, nil
}

// moveGroups puts the groups' offsets of the topic into its new life.
func (c *Client) moveGroups(ctx context.Context, groups []string, n *NewLife, discard bool) error {
	parts := make([]int, len(n.Begins))
	for p := range parts {
		parts[p] = p
	}
	for _, group := range groups {
		committed, err := c.committed(ctx, group, n.Topic, parts)
		if err != nil {
			return err
		}
		moved := make(map[int32]int64)
		for p, begin := range n.Begins {
			if at, ok := committed[int32(p)]; ok && at != begin && (discard || at > begin) {
				moved[int32(p)] = begin
				n.Groups = append(n.Groups, GroupOffset{Group: group, Partition: int32(p), From: at, To: begin})
			}
		}
		if err := c.commitFor(ctx, group, n.Topic, moved); err != nil {
			return err
		}
	}
	return nil
}

// idleGroups lists the session's groups; one that has members is an error.
func (c *Client) idleGroups(ctx context.Context) ([]string, error) {
	groups, err := c.groups(ctx, c.prefix()+"autohedge.")
	if err != nil {
		return nil, err
	}
	for _, group := range groups {
		if err := c.idle(ctx, group); err != nil {
			return nil, err
		}
	}
	return groups, nil
}

// idle returns ErrGroupRunning, with the members, when the group has any.
func (c *Client) idle(ctx context.Context, group string) error {
	var members []string
	err := patiently(ctx, func() (err error) {
		members, err = c.members(ctx, group)
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("asking for the members of group %s: %w", group, err)
	case len(members) > 0:
		return fmt.Errorf("group %s has %d members (%s): %w; stop its processes first", group, len(members), strings.Join(members, ", "), ErrGroupRunning)
	}
	return nil
}

// members returns where the group's members connect from.
func (c *Client) members(ctx context.Context, group string) (hosts []string, err error) {
	call, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.kafka.DescribeGroups(call, &kafka.DescribeGroupsRequest{GroupIDs: []string{group}})
	if err != nil {
		return nil, err
	}
	for _, g := range res.Groups {
		if g.Error != nil {
			return nil, g.Error
		}
		for _, m := range g.Members {
			hosts = append(hosts, fmt.Sprintf("%s from %s", m.ClientID, m.ClientHost))
		}
	}
	return hosts, nil
}

// committed returns the group's offsets, by partition; one that has none is left
// out.
func (c *Client) committed(ctx context.Context, group, topic string, partitions []int) (at map[int32]int64, err error) {
	err = patiently(ctx, func() error {
		at, err = c.offsetsOf(ctx, group, topic, partitions)
		if errors.Is(err, kafka.GroupIdNotFound) {
			err = nil
		}
		return err
	})
	maps.DeleteFunc(at, func(_ int32, offset int64) bool { return offset < 0 })
	return at, err
}

// offsetsOf returns the group's offset in each of the partitions, -1 where the broker
// says that there is none; a partition that the answer leaves out is an error.
func (c *Client) offsetsOf(ctx context.Context, group, topic string, partitions []int) (map[int32]int64, error) {
	call, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.kafka.OffsetFetch(call, &kafka.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{c.prefix() + topic: partitions}})
	if err == nil {
		err = res.Error
	}
	if err != nil {
		return nil, fmt.Errorf("reading the offsets of group %s in %s: %w", group, topic, err)
	}
	at := make(map[int32]int64)
	for _, p := range res.Topics[c.prefix()+topic] {
		if p.Error != nil {
			return nil, fmt.Errorf("reading the offsets of group %s in %s/%d: %w", group, topic, p.Partition, p.Error)
		}
		at[int32(p.Partition)] = max(p.CommittedOffset, -1)
	}
	for _, p := range partitions {
		if _, answered := at[int32(p)]; !answered {
			return nil, fmt.Errorf("reading the offsets of group %s in %s/%d: the answer leaves the partition out", group, topic, p)
		}
	}
	return at, nil
}

// commitFor sets offsets of a group that has no members; the broker refuses it
// when one has joined meanwhile.
func (c *Client) commitFor(ctx context.Context, group, topic string, offsets map[int32]int64) error {
	if len(offsets) == 0 {
		return nil
	}
	return patiently(ctx, func() error { return c.tryCommitFor(ctx, group, topic, offsets) })
}

func (c *Client) tryCommitFor(ctx context.Context, group, topic string, offsets map[int32]int64) error {
	var commits []kafka.OffsetCommit
	for p, at := range offsets {
		commits = append(commits, kafka.OffsetCommit{Partition: int(p), Offset: at})
	}
	call, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.kafka.OffsetCommit(call, &kafka.OffsetCommitRequest{GroupID: group, GenerationID: -1, Topics: map[string][]kafka.OffsetCommit{c.prefix() + topic: commits}})
	if err != nil {
		return fmt.Errorf("setting the offsets of group %s in %s: %w", group, topic, err)
	}
	for _, p := range res.Topics[c.prefix()+topic] {
		if errors.Is(p.Error, kafka.UnknownMemberId) || errors.Is(p.Error, kafka.RebalanceInProgress) {
			return fmt.Errorf("setting the offset of group %s in %s/%d: %w; stop its processes first", group, topic, p.Partition, ErrGroupRunning)
		}
		if p.Error != nil {
			return fmt.Errorf("setting the offset of group %s in %s/%d: %w", group, topic, p.Partition, p.Error)
		}
	}
	return nil
}

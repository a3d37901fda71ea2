package bus

import (
	"context"
	"strings"

	"github.com/autohedge/autohedge/stream/event"
)

// JudgeTopics adds to the states of DescribeTopics what makes a start refuse the topics:
// a life whose topic is missing or another one, and groups whose offsets the log does
// not have. It judges by the functions that refuse a start and a reader. The client
// knows the topics afterwards as after AttachTopics.
func (c *Client) JudgeTopics(ctx context.Context, states []TopicState) error {
	if err := c.AttachTopics(ctx); err != nil {
		return err
	}
	view := c.view()
	if view == nil {
		return nil // there is no meta, and so nothing has a life
	}
	l, err := c.settled(ctx, c.named())
	if err != nil {
		return err
	}
	groups, err := c.groups(ctx, c.prefix()+"autohedge.")
	if err != nil {
		return err
	}
	for i := range states {
		s := &states[i]
		t := l.topic(s.Name)
		if s.Fault = view.fault(s.Topic, t.presence(), t.id); s.Fault != nil {
			s.Deleted = s.Fault.Fault == Missing
			if s.Fault.Fault == Recreated {
				s.Fault.Bounds, _ = c.Offsets(ctx, s.Topic) // for people; unread where they cannot be told
			}
		} else if s.Known() {
			if s.Fault, err = c.groupFault(ctx, view, s, groups); err != nil {
				return err
			}
		}
		s.Refuse(s.Fault)
	}
	return nil
}

// Refuse notes why a start refuses the topic; nil notes nothing.
func (s *TopicState) Refuse(f *LogError) {
	if f != nil && s.FaultText == "" {
		s.Fault, s.FaultText = f, f.Error()
	}
}

// groupFault returns the error that a group of the session meets in the topic, nil
// where there is none.
func (c *Client) groupFault(ctx context.Context, view *metaView, s *TopicState, groups []string) (*LogError, error) {
	partitions, ids := make([]int, s.Partitions), make([]int32, s.Partitions)
	for p := range partitions {
		partitions[p], ids[p] = p, int32(p)
	}
	spec, _ := event.Topic(s.Topic)
	for _, group := range groups {
		at, err := c.committed(ctx, group, s.Topic, partitions)
		if err != nil {
			return nil, err
		}
		if len(at) == 0 {
			continue
		}
		// Asked after the offsets: a group goes no further than the log did.
		bounds, err := c.bounds(ctx, s.Topic, ids)
		if err != nil {
			return nil, err
		}
		for p, b := range bounds {
			offset, has := at[int32(p)]
			if !has {
				continue
			}
			if what := outside(spec, offset, b); what != "" {
				f := &LogError{Fault: what, Group: strings.TrimPrefix(group, c.Group("")), Topic: s.Topic, Partition: int32(p), Stored: offset, Start: b.Start, End: b.End}
				if life := view.lives[s.Topic]; life != nil {
					f.Incarnation = life.ID
				}
				if to, ok := view.skipped(f.Group, s.Topic, int32(p), offset); what == Overtaken && ok && to >= b.Start {
					continue
				}
				return f, nil
			}
		}
	}
	return nil, nil
}

// outside returns how an offset does not fit the log, "" when it does.
func outside(spec event.TopicSpec, offset int64, b Bounds) LogFault {
	switch {
	case spec.Compacted && offset >= 0 && offset < b.Start: // compaction is no loss
	case offset < b.Start:
		return Overtaken
	case offset > b.End:
		return Truncated
	}
	return ""
}

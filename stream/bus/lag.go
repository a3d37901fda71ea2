package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/segmentio/kafka-go"

	"github.com/autohedge/autohedge/stream/event"
)

// Lag is how far a group is behind on one partition.
type Lag struct {
	Group     string `json:"group"`
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Committed int64  `json:"committed"` // -1: nothing committed
	End       int64  `json:"end"`
	Records   int64  `json:"records"`
}

// Lag returns the lag of a group (a role's name, or the group's whole name) on
// the named topics, or on those it has committed offsets for when none is named.
// A partition without a committed offset lags by all its records.
func (c *Client) Lag(ctx context.Context, group string, topics ...string) ([]Lag, error) {
	if !strings.Contains(group, "autohedge.") {
		group = c.Group(group)
	}
	ask := make(map[string][]int)
	named := len(topics) > 0
	if !named {
		for _, spec := range event.Topics {
			topics = append(topics, spec.Name)
		}
	}
	for _, t := range topics {
		n := c.Partitions(t)
		if n == 0 {
			return nil, fmt.Errorf("reading the lag of %s: no topic %s", group, t)
		}
		for p := range n {
			ask[c.prefix()+t] = append(ask[c.prefix()+t], int(p))
		}
	}
	call, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.kafka.OffsetFetch(call, &kafka.OffsetFetchRequest{GroupID: group, Topics: ask})
	if err == nil {
		err = res.Error
	}
	committed := make(map[string][]kafka.OffsetFetchPartition)
	switch {
	case err == nil:
		committed = res.Topics
	case !errors.Is(err, kafka.GroupIdNotFound):
		return nil, fmt.Errorf("reading the lag of %s: %w", group, err)
	default: // a group that never committed
		for name, parts := range ask {
			for _, p := range parts {
				committed[name] = append(committed[name], kafka.OffsetFetchPartition{Partition: p, CommittedOffset: -1})
			}
		}
	}
	var lags []Lag
	for name, parts := range committed {
		topic := strings.TrimPrefix(name, c.prefix())
		if !named && !slices.ContainsFunc(parts, func(p kafka.OffsetFetchPartition) bool { return p.CommittedOffset >= 0 }) {
			continue
		}
		bounds, err := c.Offsets(ctx, topic)
		if err != nil {
			return nil, fmt.Errorf("reading the lag of %s: %w", group, err)
		}
		for _, p := range parts {
			if p.Error != nil {
				return nil, fmt.Errorf("reading the lag of %s on %s/%d: %w", group, topic, p.Partition, p.Error)
			}
			b := bounds[p.Partition]
			lags = append(lags, Lag{
				Group: group, Topic: topic, Partition: int32(p.Partition), Committed: max(p.CommittedOffset, -1),
				End: b.End, Records: max(b.End-max(p.CommittedOffset, b.Start), 0),
			})
		}
	}
	slices.SortFunc(lags, func(a, b Lag) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return lags, nil
}

package sinks

import (
	"context"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// Stands returns the first offset of a partition that may not have landed, as the
// plans in state.sinks tell: the group's offset may lie behind. It is -1 where
// nothing was planned.
func Stands(ctx context.Context, client *bus.Client, topic string, partition int32) (int64, error) {
	if client.Partitions(event.TopicSinkState) <= partition {
		return -1, nil
	}
	at := place{topic, partition}
	known, _, err := newPlans(client).read(ctx, at)
	if err != nil || known == nil {
		return -1, err
	}
	return known.last.First, nil
}

package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"
)

// TrimFloor returns the offset that nobody who reads the partition by group needs
// anything before, the copy window left: the lowest offset that a group of this
// session has committed there. ok is false where none has. Groups that a broker does
// not tell are an error, never taken for none.
func (c *Client) TrimFloor(ctx context.Context, topic string, partition int32) (offset int64, ok bool, err error) {
	groups, err := c.groups(ctx, c.prefix()+"autohedge.")
	if err != nil {
		return 0, false, err
	}
	for _, group := range groups {
		committed, err := c.committed(ctx, group, topic, []int{int(partition)})
		if err != nil {
			return 0, false, err
		}
		if at, has := committed[partition]; has && (!ok || at < offset) {
			offset, ok = at, true
		}
	}
	return max(0, offset-copyWindow), ok, nil
}

// OffsetAt returns the offset of the partition's first record that is not older
// than the time, by the records' timestamps; its end where all are older.
func (c *Client) OffsetAt(ctx context.Context, topic string, partition int32, at time.Time) (int64, error) {
	all, err := c.bounds(ctx, topic, []int32{partition}) // first: what comes meanwhile is younger
	if err != nil {
		return 0, err
	}
	call, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	name := c.prefix() + topic
	res, err := c.kafka.ListOffsets(call, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{name: {kafka.TimeOffsetOf(int(partition), at)}}})
	if err != nil {
		return 0, fmt.Errorf("asking for the offset of %s/%d at %s: %w", topic, partition, at.UTC().Format(time.RFC3339), err)
	}
	for _, p := range res.Topics[name] {
		if p.Error != nil {
			return 0, fmt.Errorf("asking for the offset of %s/%d at %s: %w", topic, partition, at.UTC().Format(time.RFC3339), p.Error)
		}
		for offset := range p.Offsets {
			if offset >= 0 {
				return offset, nil
			}
		}
	}
	return all[0].End, nil
}

// SnapshotFloor returns the input offset of the older of the two newest snapshots
// that are whole: a start may fall back to it. ok is false until there are two.
func (c *Client) SnapshotFloor(ctx context.Context, k SnapshotKey) (input int64, ok bool, err error) {
	whole := 0
	l, err := c.loader(ctx, k)
	if err == nil {
		err = l.newest(func(m found) (done bool, err error) {
			if m.InputTopic != k.Input || m.Incarnation != c.Incarnation(k.Input) {
				return false, nil
			}
			state, err := l.state(m)
			if err != nil || state == nil {
				return false, err
			}
			if whole++; whole == 1 || m.Input < input {
				input = m.Input
			}
			return whole == 2, nil
		})
	}
	if err != nil {
		return 0, false, fmt.Errorf("looking for snapshots %s in %s/%d: %w", k.Name, k.Topic, k.Partition, err)
	}
	return input, whole == 2, nil
}

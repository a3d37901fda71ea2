package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/fetch"

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
	// Seconds is the age of the oldest record that is not committed: since the
	// timestamp of its batch, 0 where there is none, never negative. -1: not
	// measured.
	Seconds float64 `json:"seconds"`
	// Gone counts the records that retention or a trim took after the committed
	// offset, before they were done; of a compacted topic none.
	Gone int64 `json:"gone"`
}

// Lag returns the lag of a group (a role's name, or the group's whole name) on
// the named topics, or on those it has committed offsets for when none is named.
// A partition without a committed offset lags by all its records. Seconds are
// not measured.
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
	var res *kafka.OffsetFetchResponse
	never := false
	// A coordinator that is being made, or moves, says so for a while.
	err := patiently(ctx, func() (err error) {
		call, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		if res, err = c.kafka.OffsetFetch(call, &kafka.OffsetFetchRequest{GroupID: group, Topics: ask}); err == nil {
			err = res.Error
		}
		if never = errors.Is(err, kafka.GroupIdNotFound); never {
			return nil
		}
		return err
	})
	committed := make(map[string][]kafka.OffsetFetchPartition)
	switch {
	case err == nil && !never:
		committed = res.Topics
	case err != nil:
		return nil, fmt.Errorf("reading the lag of %s: %w%s", group, err, c.grant(err, group))
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
				return nil, fmt.Errorf("reading the lag of %s on %s/%d: %w%s", group, topic, p.Partition, p.Error, c.grant(p.Error, name))
			}
			b := bounds[p.Partition]
			var gone int64
			if spec, _ := event.Topic(topic); !spec.Compacted && p.CommittedOffset >= 0 {
				gone = max(b.Start-p.CommittedOffset, 0)
			}
			lags = append(lags, Lag{
				Group: group, Topic: topic, Partition: int32(p.Partition), Committed: max(p.CommittedOffset, -1),
				End: b.End, Records: max(b.End-max(p.CommittedOffset, b.Start), 0),
				Seconds: -1, Gone: gone,
			})
		}
	}
	slices.SortFunc(lags, func(a, b Lag) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return lags, nil
}

// LagSeconds is Lag with Seconds measured: it reads the batch of the oldest
// record that is not committed, of each partition that lags. One that cannot be
// read stays at -1.
func (c *Client) LagSeconds(ctx context.Context, group string, topics ...string) ([]Lag, error) {
	lags, err := c.Lag(ctx, group, topics...)
	if err != nil {
		return nil, err
	}
	for i := range lags {
		l := &lags[i]
		if l.Records == 0 {
			l.Seconds = 0
			continue
		}
		// The committed offset may be before the log's start by now: what is there
		// begins at End-Records.
		at, err := c.timeAt(ctx, l.Topic, l.Partition, l.End-l.Records)
		switch {
		case err != nil:
			c.metrics.errors.WithLabelValues("lag").Inc()
		case at < 0: // compaction removed all that was left
			l.Seconds = 0
		default:
			l.Seconds = max(float64(time.Now().UnixMilli()-at)/1000, 0)
		}
	}
	return lags, nil
}

// timeAt returns the timestamp, in Unix milliseconds, of the first batch that
// ends at or after the offset; -1 where there is none.
func (c *Client) timeAt(ctx context.Context, topic string, partition int32, offset int64) (int64, error) {
	call, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	// A broker sends the first batch whole, however little is asked for.
	answer, err := c.fetch(call, &fetchCall{Request: fetch.Request{
		ReplicaID: -1, MinBytes: 0, MaxBytes: 1, SessionEpoch: -1,
		Topics: []fetch.RequestTopic{{Topic: c.prefix() + topic, Partitions: []fetch.RequestPartition{{
			Partition: partition, CurrentLeaderEpoch: -1, FetchOffset: offset, LogStartOffset: -1, PartitionMaxBytes: 1,
		}}}},
	}})
	if err != nil {
		return 0, err
	}
	defer answer.release()
	err = answer.of(c.prefix()+topic, partition)
	if code := cmp.Or(answer.code, answer.partitionCode); code != 0 {
		err = code
	}
	if err != nil {
		return 0, fmt.Errorf("reading the time of %s/%d at %d: %w", topic, partition, offset, err)
	}
	if answer.buf == nil {
		return -1, nil
	}
	for b := *answer.buf; ; {
		h, _, err := parseBatch(b)
		if errors.Is(err, errPartial) {
			return -1, nil
		}
		if err != nil {
			return 0, fmt.Errorf("reading the time of %s/%d at %d: %w", topic, partition, offset, err)
		}
		if h.last >= offset {
			return h.firstTime, nil
		}
		b = b[h.size:]
	}
}

// WatchLag measures the lag of the groups every so often, until ctx ends, as
// gauges autohedge_bus_lag_records and autohedge_bus_lag_seconds. It needs one
// goroutine, that of the caller, and the partitions it names are those that the
// groups have committed offsets for.
func (c *Client) WatchLag(ctx context.Context, every time.Duration, groups ...string) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		for _, group := range groups {
			lags, err := c.LagSeconds(ctx, group)
			if err != nil {
				if ctx.Err() == nil {
					c.metrics.errors.WithLabelValues("lag").Inc()
				}
				continue
			}
			for _, l := range lags {
				labels := []string{l.Group, l.Topic, strconv.Itoa(int(l.Partition))}
				c.metrics.lagRecords.WithLabelValues(labels...).Set(float64(l.Records))
				if l.Seconds >= 0 {
					c.metrics.lagSeconds.WithLabelValues(labels...).Set(l.Seconds)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

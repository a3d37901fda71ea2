package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/autohedge/autohedge/stream/event"
)

// kafka-go does not know DeleteRecords: its request and response are registered
// here, in their first version, which every broker since 0.11 answers.
func init() {
	protocol.Register(&deleteRecordsRequest{}, &deleteRecordsResponse{})
}

// deleteRecordsRequest goes to the leader of its partitions; DeleteRecords sends
// one partition a request.
type deleteRecordsRequest struct {
	Topics    []deleteRecordsTopic `kafka:"min=v0,max=v1"`
	TimeoutMs int32                `kafka:"min=v0,max=v1"`
}

type deleteRecordsTopic struct {
	Name       string                   `kafka:"min=v0,max=v1"`
	Partitions []deleteRecordsPartition `kafka:"min=v0,max=v1"`
}

type deleteRecordsPartition struct {
	Partition int32 `kafka:"min=v0,max=v1"`
	Offset    int64 `kafka:"min=v0,max=v1"`
}

// ApiKey tells the protocol table which request this is.
//
//nolint:revive // kafka-go names it
func (r *deleteRecordsRequest) ApiKey() protocol.ApiKey { return protocol.DeleteRecords }

// Broker names the partition's leader.
func (r *deleteRecordsRequest) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	topic := r.Topics[0]
	layout, ok := cluster.Topics[topic.Name]
	if !ok {
		return protocol.Broker{}, fmt.Errorf("topic %s: %w", topic.Name, protocol.ErrNoTopic)
	}
	part, ok := layout.Partitions[topic.Partitions[0].Partition]
	if !ok {
		return protocol.Broker{}, fmt.Errorf("topic %s: %w", topic.Name, protocol.ErrNoPartition)
	}
	leader, ok := cluster.Brokers[part.Leader]
	if !ok {
		return protocol.Broker{}, fmt.Errorf("topic %s: %w", topic.Name, protocol.ErrNoLeader)
	}
	return leader, nil
}

type deleteRecordsResponse struct {
	ThrottleTimeMs int32                        `kafka:"min=v0,max=v1"`
	Topics         []deleteRecordsResponseTopic `kafka:"min=v0,max=v1"`
}

type deleteRecordsResponseTopic struct {
	Name       string                           `kafka:"min=v0,max=v1"`
	Partitions []deleteRecordsResponsePartition `kafka:"min=v0,max=v1"`
}

type deleteRecordsResponsePartition struct {
	Partition    int32 `kafka:"min=v0,max=v1"`
	LowWatermark int64 `kafka:"min=v0,max=v1"`
	ErrorCode    int16 `kafka:"min=v0,max=v1"`
}

// ApiKey tells the protocol table which response this is.
//
//nolint:revive // kafka-go names it
func (r *deleteRecordsResponse) ApiKey() protocol.ApiKey { return protocol.DeleteRecords }

var (
	_ protocol.BrokerMessage = (*deleteRecordsRequest)(nil)
	_ protocol.Message       = (*deleteRecordsResponse)(nil)
)

// CopyWindow is how many records before an offset a reader that begins there
// reads again, to know second copies: what is trimmed must leave them.
const CopyWindow = copyWindow

// DeleteRecords removes the records before each offset, by partition, and returns
// where the log begins then. An offset at or before the log's start removes
// nothing; one beyond the end is an error. A topic that is never trimmed, or
// compacted, is refused. Temporary errors are waited out as long as ctx allows,
// at most 30 s.
func (c *Client) DeleteRecords(ctx context.Context, topic string, before map[int32]int64) (starts map[int32]int64, err error) {
	spec, known := event.Topic(topic)
	if !known || spec.Forever || spec.Compacted {
		return nil, fmt.Errorf("trimming %s: this topic is never trimmed", topic)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*requestTimeout)
	defer cancel()
	starts = make(map[int32]int64, len(before))
	for _, p := range slices.Sorted(maps.Keys(before)) {
		for attempt := 0; ; attempt++ {
			start, err := c.deleteRecords(ctx, topic, p, before[p])
			if err == nil {
				starts[p] = start
				break
			}
			if errors.Is(err, kafka.OffsetOutOfRange) {
				// The embedded broker says this too of an offset that is gone already.
				all, berr := c.bounds(ctx, topic, []int32{p})
				if berr == nil && before[p] <= all[0].Start {
					starts[p] = all[0].Start
					break
				}
			}
			if code, ok := errorCode(err); ok && !code.Temporary() && code != kafka.BrokerNotAvailable {
				return starts, fmt.Errorf("trimming %s/%d before offset %d: %w%s", topic, p, before[p], err, c.grant(err, c.prefix()+topic))
			}
			if sleep(ctx, backoff(attempt)) != nil {
				return starts, fmt.Errorf("trimming %s/%d before offset %d: %w", topic, p, before[p], err)
			}
		}
	}
	return starts, nil
}

func (c *Client) deleteRecords(ctx context.Context, topic string, partition int32, before int64) (start int64, err error) {
	call, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.transport.RoundTrip(call, c.kafka.Addr, &deleteRecordsRequest{
		Topics:    []deleteRecordsTopic{{Name: c.prefix() + topic, Partitions: []deleteRecordsPartition{{Partition: partition, Offset: before}}}},
		TimeoutMs: int32(requestTimeout / time.Millisecond),
	})
	if err != nil {
		return 0, err
	}
	answer, ok := res.(*deleteRecordsResponse)
	if !ok || len(answer.Topics) != 1 || len(answer.Topics[0].Partitions) != 1 {
		return 0, fmt.Errorf("delete records answer is a %T for another partition", res)
	}
	part := answer.Topics[0].Partitions[0]
	if part.ErrorCode != 0 {
		return 0, kafka.Error(part.ErrorCode)
	}
	return part.LowWatermark, nil
}

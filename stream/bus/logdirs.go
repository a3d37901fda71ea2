package bus

import (
	"context"
	"fmt"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// DiskUse is what the topics take up on the brokers' disks, as the brokers
// say it.
type DiskUse struct {
	Dirs  []LogDir
	bytes map[string]map[int32]int64 // by the broker's name of the topic; the largest replica
	name  func(topic string) string
}

// LogDir is one log directory of one broker.
type LogDir struct {
	Broker int32  `json:"broker"`
	Path   string `json:"path"`
	// Total and Usable are the bytes of its disk, -1 where the broker does not say.
	Total  int64 `json:"total_bytes"`
	Usable int64 `json:"usable_bytes"`
	// Err is why the directory is not used, as a failed disk is not.
	Err error `json:"-"`
}

// Bytes returns what the partition's largest replica takes up; ok is false
// where no broker named it. Topic is without the session's prefix.
func (d *DiskUse) Bytes(topic string, partition int32) (n int64, ok bool) {
	n, ok = d.bytes[d.name(topic)][partition]
	return n, ok
}

// Topic returns what the largest replicas of the topic's partitions take up
// together; ok is false where no broker named it.
func (d *DiskUse) Topic(topic string) (n int64, ok bool) {
	parts, ok := d.bytes[d.name(topic)]
	for _, b := range parts {
		n += b
	}
	return n, ok
}

// DiskUse asks every broker what its log directories hold. It needs the right
// to describe the cluster; without it the error is that the cluster refused
// (kafka.ClusterAuthorizationFailed).
func (c *Client) DiskUse(ctx context.Context) (*DiskUse, error) {
	l, err := c.layout(ctx, []string{})
	if err != nil {
		return nil, fmt.Errorf("reading the log directories: %w", err)
	}
	use := &DiskUse{bytes: make(map[string]map[int32]int64), name: func(t string) string { return c.prefix() + t }}
	for _, b := range l.brokers {
		if err := c.addLogDirs(ctx, use, int32(b.ID)); err != nil {
			return nil, fmt.Errorf("reading the log directories of broker %d: %w", b.ID, err)
		}
	}
	return use, nil
}

func (c *Client) addLogDirs(ctx context.Context, use *DiskUse, broker int32) error {
	call, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m, err := c.transport.RoundTrip(call, c.kafka.Addr, &logDirsRequest{broker: broker})
	if err != nil {
		return err
	}
	res, ok := m.(*logDirsResponse)
	if !ok {
		return fmt.Errorf("answer of type %T", m)
	}
	if code := kafka.Error(res.ErrorCode); code != 0 {
		return fmt.Errorf("%w%s", code, c.grant(code))
	}
	for _, r := range res.Results {
		dir := LogDir{Broker: broker, Path: r.LogDir, Total: r.TotalBytes, Usable: r.UsableBytes}
		if dir.Total == 0 && dir.Usable == 0 {
			dir.Total, dir.Usable = -1, -1 // an older broker sends neither
		}
		if r.ErrorCode != 0 {
			dir.Err = kafka.Error(r.ErrorCode)
		}
		use.Dirs = append(use.Dirs, dir)
		for _, t := range r.Topics {
			if use.bytes[t.Name] == nil {
				use.bytes[t.Name] = make(map[int32]int64)
			}
			for _, p := range t.Partitions {
				use.bytes[t.Name][p.PartitionIndex] = max(use.bytes[t.Name][p.PartitionIndex], p.PartitionSize)
			}
		}
	}
	return nil
}

// DescribeLogDirs is not among kafka-go's requests.
func init() {
	protocol.Register(&logDirsRequest{}, &logDirsResponse{})
}

type logDirsRequest struct {
	_ struct{} `kafka:"min=v2,max=v4,tag"`

	Topics []logDirsRequestTopic `kafka:"min=v1,max=v4,nullable"` // none: all

	broker int32 // which one is asked
}

type logDirsRequestTopic struct {
	Topic      string  `kafka:"min=v1,max=v4"`
	Partitions []int32 `kafka:"min=v1,max=v4"`
}

// ApiKey tells the protocol table which request this is.
//
//nolint:revive // kafka-go names it
func (*logDirsRequest) ApiKey() protocol.ApiKey { return protocol.DescribeLogDirs }

// Broker says who is asked: each broker knows its own directories only.
func (r *logDirsRequest) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	b, ok := cluster.Brokers[r.broker]
	if !ok {
		return protocol.Broker{}, kafka.BrokerNotAvailable
	}
	return b, nil
}

type logDirsResponse struct {
	_ struct{} `kafka:"min=v2,max=v4,tag"`

	ThrottleTimeMs int32           `kafka:"min=v1,max=v4"`
	ErrorCode      int16           `kafka:"min=v3,max=v4"`
	Results        []logDirsResult `kafka:"min=v1,max=v4"`
}

// ApiKey tells the protocol table which response this is.
//
//nolint:revive // kafka-go names it
func (*logDirsResponse) ApiKey() protocol.ApiKey { return protocol.DescribeLogDirs }

type logDirsResult struct {
	ErrorCode   int16          `kafka:"min=v1,max=v4"`
	LogDir      string         `kafka:"min=v1,max=v4"`
	Topics      []logDirsTopic `kafka:"min=v1,max=v4"`
	TotalBytes  int64          `kafka:"min=v4,max=v4"`
	UsableBytes int64          `kafka:"min=v4,max=v4"`
}

type logDirsTopic struct {
	Name       string             `kafka:"min=v1,max=v4"`
	Partitions []logDirsPartition `kafka:"min=v1,max=v4"`
}

type logDirsPartition struct {
	PartitionIndex int32 `kafka:"min=v1,max=v4"`
	PartitionSize  int64 `kafka:"min=v1,max=v4"`
	OffsetLag      int64 `kafka:"min=v1,max=v4"`
	IsFutureKey    bool  `kafka:"min=v1,max=v4"`
}

var _ protocol.BrokerMessage = (*logDirsRequest)(nil)

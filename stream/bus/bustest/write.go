package bustest

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// ForeignRecord is a record that another program writes, whatever it holds.
type ForeignRecord struct {
	Topic      string
	Partition  int32
	Key, Value []byte
}

// WriteForeign writes records with a client that is not ours, compressed, in batches as
// large as a broker takes them.
func WriteForeign(ctx context.Context, addr string, records []ForeignRecord) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.ZstdCompression()),
		kgo.ProducerBatchMaxBytes(64<<20), kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()))
	if err != nil {
		return fmt.Errorf("making a foreign client: %w", err)
	}
	defer cl.Close()
	list := make([]*kgo.Record, len(records))
	for i, r := range records {
		list[i] = &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value}
	}
	if err := cl.ProduceSync(ctx, list...).FirstErr(); err != nil {
		return fmt.Errorf("writing foreign records: %w", err)
	}
	return nil
}

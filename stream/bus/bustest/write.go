package bustest

import (
	"context"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// ForeignRecord is a record that another program writes, whatever it holds.
type ForeignRecord struct {
	Topic      string
	Partition  int32
	Key, Value []byte
}

// LogIn is an option of a foreign client that logs in.
func LogIn(user, password string) kgo.Opt {
	return kgo.SASL(scram.Auth{User: user, Pass: password}.AsSha256Mechanism())
}

// DialAs is Dial for brokers that ask for a login.
func DialAs(t testing.TB, user, password string, brokers ...string) *Admin {
	t.Helper()
	return NewAdmin(t, kgo.SeedBrokers(brokers...), LogIn(user, password))
}

// WriteForeign writes records with a client that is not ours, compressed, in batches as
// large as a broker takes them.
func WriteForeign(ctx context.Context, addr string, records []ForeignRecord, options ...kgo.Opt) error {
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.ZstdCompression()),
		kgo.ProducerBatchMaxBytes(64 << 20), kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck())}, options...)...)
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

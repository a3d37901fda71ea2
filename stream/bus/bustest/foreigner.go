package bustest

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Foreigner is another program that writes to a partition of ours in transactions.
type Foreigner struct {
	t         testing.TB
	client    *kgo.Client
	topic     string
	partition int32
}

// NewForeigner connects to a broker, as the owner of a transactional id, until the
// test ends. What fails ends the test.
func NewForeigner(t testing.TB, addr, id, topic string, partition int32) *Foreigner {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &Foreigner{t, c, topic, partition}
}

// Begin begins a transaction.
func (f *Foreigner) Begin() {
	f.t.Helper()
	if err := f.client.BeginTransaction(); err != nil {
		f.t.Fatal(err)
	}
}

// Add appends one batch of records with that key to the transaction.
func (f *Foreigner) Add(key string, values ...[]byte) {
	f.t.Helper()
	var records []*kgo.Record
	for _, v := range values {
		records = append(records, &kgo.Record{Topic: f.topic, Partition: f.partition, Key: []byte(key), Value: v})
	}
	if err := f.client.ProduceSync(f.t.Context(), records...).FirstErr(); err != nil {
		f.t.Fatal(err)
	}
}

// Commit ends the transaction; Apache Kafka writes its mark a moment later.
func (f *Foreigner) Commit() {
	f.t.Helper()
	f.end(kgo.TryCommit)
}

// Abort ends the transaction; Apache Kafka writes its mark a moment later.
func (f *Foreigner) Abort() {
	f.t.Helper()
	f.end(kgo.TryAbort)
}

func (f *Foreigner) end(how kgo.TransactionEndTry) {
	f.t.Helper()
	if err := f.client.EndTransaction(f.t.Context(), how); err != nil {
		f.t.Fatal(err)
	}
}

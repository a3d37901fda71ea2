package peer

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Event is one record to produce. Its slices are not changed before it is
// acknowledged.
type Event struct {
	Partition  int32
	Key, Value []byte
}

// slab is how many records are allocated at once.
const slab = 1024

// Franz produces with franz-go.
type Franz struct {
	client *kgo.Client
	failed failure
}

// failure keeps the first error.
type failure struct {
	mu  sync.Mutex
	err error
}

func (f *failure) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *failure) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// FranzProduceOptions says how NewFranz sets its client up.
const FranzProduceOptions = "idempotent (which has five requests in flight), acks all, ProducerLinger(0), ManualPartitioner, NoCompression, ProducerBatchMaxBytes 1,000,000, MaxBufferedRecords 262,144, records allocated 1,024 at once"

// NewFranz makes a producer of the topic; Close ends it.
func NewFranz(broker, topic string) (*Franz, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(broker), kgo.DefaultProduceTopic(topic), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(0), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(1_000_000), kgo.MaxBufferedRecords(262_144),
	)
	if err != nil {
		return nil, fmt.Errorf("making a franz-go producer: %w", err)
	}
	return &Franz{client: client}, nil
}

// Produce takes events from more until it gives none, and returns their number
// once all are acknowledged.
func (f *Franz) Produce(ctx context.Context, more func() []Event) (n int, err error) {
	var records []kgo.Record
	for events := more(); len(events) > 0; events = more() {
		for i := range events {
			if len(records) == 0 {
				records = make([]kgo.Record, slab)
			}
			r := &records[0]
			records = records[1:]
			r.Key, r.Value, r.Partition = events[i].Key, events[i].Value, events[i].Partition
			f.client.Produce(ctx, r, f.done)
		}
		n += len(events)
	}
	if err := f.client.Flush(ctx); err != nil {
		return n, fmt.Errorf("flushing a franz-go producer: %w", err)
	}
	return n, f.failed.get()
}

func (f *Franz) done(_ *kgo.Record, err error) {
	if err != nil {
		f.failed.set(fmt.Errorf("producing with franz-go: %w", err))
	}
}

// One produces one event and waits until it is acknowledged.
func (f *Franz) One(ctx context.Context, e Event) error {
	r := &kgo.Record{Key: e.Key, Value: e.Value, Partition: e.Partition}
	if err := f.client.ProduceSync(ctx, r).FirstErr(); err != nil {
		return fmt.Errorf("producing with franz-go: %w", err)
	}
	return nil
}

// Close releases the producer.
func (f *Franz) Close() { f.client.Close() }

// FranzConsumeOptions says how FranzConsume sets its client up.
const FranzConsumeOptions = "CRC checked, FetchMaxBytes 16 MiB, FetchMaxPartitionBytes 1 MiB, FetchMaxWait 250 ms, records pooled (WithPools), a decoding goroutine for each partition"

// recordPool is the pool of records that a careful user of franz-go has.
type recordPool struct{ p sync.Pool }

// GetRecords implements kgo.PoolRecords.
func (p *recordPool) GetRecords(n int) []kgo.Record {
	if s, _ := p.p.Get().(*[]kgo.Record); s != nil && cap(*s) >= n {
		return (*s)[:0]
	}
	return make([]kgo.Record, 0, n)
}

// PutRecords implements kgo.PoolRecords.
func (p *recordPool) PutRecords(s []kgo.Record) { p.p.Put(&s) }

var _ kgo.PoolRecords = (*recordPool)(nil)

// FranzConsume reads partitions 0 to n-1 of the topic from the start until the
// given number of records was decoded, and returns how many were. decode is
// called by one goroutine for each partition.
func FranzConsume(ctx context.Context, broker, topic string, ends []int64, decode func(partition int32, value []byte) error) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	from := make(map[int32]kgo.Offset, len(ends))
	var want int64
	for p, end := range ends {
		if end > 0 {
			from[int32(p)] = kgo.NewOffset().At(0)
		}
		want += end
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(broker), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}),
		kgo.FetchMaxBytes(16<<20), kgo.FetchMaxPartitionBytes(1<<20), kgo.FetchMaxWait(250*time.Millisecond), kgo.WithPools(&recordPool{}),
	)
	if err != nil {
		return 0, fmt.Errorf("making a franz-go consumer: %w", err)
	}
	defer client.Close()

	var decoded atomic.Int64
	var failed failure
	work := make([]chan []*kgo.Record, len(ends))
	var all sync.WaitGroup
	defer all.Wait()
	for p := range work {
		work[p] = make(chan []*kgo.Record, 4)
		defer close(work[p])
		all.Go(func() {
			for records := range work[p] {
				for _, r := range records {
					if err := decode(int32(p), r.Value); err != nil {
						failed.set(err)
						cancel()
					}
					r.Recycle()
				}
				if decoded.Add(int64(len(records))) >= want {
					cancel()
				}
			}
		})
	}
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil && ctx.Err() == nil {
			return decoded.Load(), fmt.Errorf("consuming with franz-go: %w", err)
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if len(p.Records) > 0 {
				work[p.Partition] <- p.Records
			}
		})
	}
	if err := failed.get(); err != nil {
		return decoded.Load(), err
	}
	if n = decoded.Load(); n < want {
		return n, fmt.Errorf("consuming with franz-go: %d of %d records came: %w", n, want, ctx.Err())
	}
	return n, nil
}

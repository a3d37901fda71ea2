package sinks

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// nothing is a store that takes rows and forgets them: what remains is the role.
type nothing struct{}

type nothingBatch struct {
	rows int
	one  []Block
}

func (b *nothingBatch) Add(int64, []byte, []byte) (int, error) { b.rows++; return 0, nil }
func (b *nothingBatch) Reset()                                 { b.rows = 0 }
func (b *nothingBatch) Blocks() []Block                        { return b.one }
func (b *nothingBatch) Table() string                          { return "ticks" }
func (b *nothingBatch) Partition() string                      { return "20261123" }
func (b *nothingBatch) Rows() int                              { return b.rows }

func (nothing) NewBatch(string, event.ID, int32) Batch {
	b := &nothingBatch{}
	b.one = []Block{b}
	return b
}
func (nothing) Insert(context.Context, Block, string) error               { return nil }
func (nothing) Prepare(context.Context) error                             { return nil }
func (nothing) Settle(_ context.Context, p event.SinkPlan) (int64, error) { return p.Last + 1, nil }
func (nothing) Land(context.Context, clickhouse.Landed) error             { return nil }

// fillTrades publishes n trades of 100 symbols and waits until they are there.
func fillTrades(b *testing.B, client *bus.Client, n int) {
	b.Helper()
	ctx := b.Context()
	producer, err := client.NewProducer(ctx, bus.ProducerConfig{Name: "bench", Blocking: true}, component.Discard())
	if err != nil {
		b.Fatal(err)
	}
	var keys [100][]byte
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "binance|SYM%02dUSDT", i)
	}
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).UnixNano()
	tr := event.Trade{Channel: event.ChannelTrade, Qty: event.Some(event.MustDecimal("0.01532")), Aggressor: event.Buy, TimeSource: event.TimeEvent}
	var value []byte
	for i := range n {
		tr.TradeID = uint64(i + 1) //nolint:gosec // counts from 1
		tr.Price = event.NewDecimal(6_500_000+int64(i%1000), 2)
		tr.EventTime = start + int64(i)*int64(50*time.Microsecond)
		tr.RecvTime = tr.EventTime + 900_000
		value = tr.AppendWire(value[:0])
		key := keys[i%len(keys)]
		if err := producer.Append(event.TopicMarket, client.Partition(event.TopicMarket, key), key, value, nil); err != nil {
			b.Fatal(err)
		}
	}
	if err := producer.Close(ctx); err != nil {
		b.Fatal(err)
	}
}

// benchWorld starts a broker for a benchmark.
func benchWorld(b *testing.B) *bus.Client {
	b.Helper()
	embedded, err := bus.StartEmbedded(b.Context(), bus.EmbeddedConfig{Addr: "127.0.0.1:0", Partitions: 4}, component.Discard())
	if err != nil {
		b.Fatal(err)
	}
	cfg := bus.DefaultConfig()
	cfg.Brokers = []string{embedded.Addr()}
	client, err := bus.Connect(b.Context(), cfg, component.Discard())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = client.Close()
		_ = embedded.Close()
	})
	if err := client.EnsureTopics(b.Context()); err != nil {
		b.Fatal(err)
	}
	return client
}

// benchLand runs the role over what is in the log, to its end.
func benchLand(b *testing.B, client *bus.Client, store Store) {
	b.Helper()
	role, err := New(DefaultConfig(), client, store, component.Discard())
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- role.Run(b.Context()) }()
	<-role.Ready()
	if err := role.Drain(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRole is the role without a database: embedded broker, group, plans,
// batches. An operation is one record.
func BenchmarkRole(b *testing.B) {
	client := benchWorld(b)
	fillTrades(b, client, b.N)
	b.ResetTimer()
	benchLand(b, client, nothing{})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

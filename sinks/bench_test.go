package sinks

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/shirou/gopsutil/v4/process"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// cpu reports the CPU time of this process since its call, an operation: on a
// machine that others use too, it says more than the wall clock.
func cpu(b *testing.B) (report func()) {
	used := func() time.Duration {
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			b.Fatal(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	start := used()
	return func() { b.ReportMetric(float64(used()-start)/float64(b.N), "cpu-ns/op") }
}

// engineCPU is the CPU time of the engine's process.
func engineCPU(b *testing.B, e *engine) time.Duration {
	b.Helper()
	p, err := process.NewProcess(int32(e.PID()))
	if err != nil {
		b.Fatal(err)
	}
	t, err := p.Times()
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration((t.User + t.System) * float64(time.Second))
}

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
func (nothing) Insert(context.Context, Block, string) error                  { return nil }
func (nothing) Prepare(context.Context) error                                { return nil }
func (nothing) Settle(_ context.Context, p event.SinkPlan) (int64, error)    { return p.Last + 1, nil }
func (nothing) Remove(context.Context, string, event.ID, int32, int64) error { return nil }
func (nothing) RowsBelow(context.Context, string, event.ID, int32, int64) (map[string]uint64, int64, error) {
	return nil, -1, nil
}
func (nothing) FormerEnd(context.Context, string, event.ID, int32) (int64, error)   { return 0, nil }
func (nothing) ForgetLanded(context.Context, string, event.ID, int32, string) error { return nil }
func (nothing) Land(context.Context, clickhouse.Landed) error                       { return nil }

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
		tr.TradeID = uint64(i + 1)
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
	cfg.Partitions = 4
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
	report := cpu(b)
	benchLand(b, client, nothing{})
	report()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkClickHouse is the whole way from the log into the production ticks
// table of the embedded engine, everything on the same machine. An operation is
// one trade.
func BenchmarkClickHouse(b *testing.B) {
	e := startEngine(b, nil)
	client := benchWorld(b)
	fillTrades(b, client, b.N)
	if err := e.client.Prepare(b.Context()); err != nil {
		b.Fatal(err)
	}
	engine := engineCPU(b, e)
	b.ResetTimer()
	report := cpu(b)
	benchLand(b, client, ClickHouse(e.client))
	b.StopTimer()
	report()
	b.ReportMetric(float64(engineCPU(b, e)-engine)/float64(b.N), "engine-cpu-ns/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	res, err := e.client.Query(b.Context(), "SELECT count(), uniqExact(event_id) FROM ticks")
	if err != nil {
		b.Fatal(err)
	}
	if want := fmt.Sprint(b.N); res.Rows[0][0] != want || res.Rows[0][1] != want {
		b.Errorf("landed %v rows, want %s", res.Rows[0], want)
	}
}

// BenchmarkAdd is the client's cost of one tick: decoded, into the columns. What
// it takes to write the columns out is part of the plug-in's BenchmarkTick.
func BenchmarkAdd(b *testing.B) {
	tr := event.Trade{
		Channel: event.ChannelTrade, TradeID: 4_000_000_000, Price: event.NewDecimal(6_500_012, 2), Qty: event.Some(event.MustDecimal("0.01532")),
		Aggressor: event.Buy, TimeSource: event.TimeEvent, EventTime: midnight, RecvTime: midnight + 900_000,
	}
	value, key := tr.AppendWire(nil), []byte("binance|BTCUSDT")
	batch := ClickHouse(nil).NewBatch(event.TopicMarket, event.HashStrings("bench"), 1)
	b.ReportAllocs()
	defer cpu(b)()
	for i := 0; b.Loop(); i++ {
		if i%50_000 == 0 {
			batch.Reset()
		}
		if _, err := batch.Add(int64(i), key, value); err != nil {
			b.Fatal(err)
		}
	}
}

package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/bus/peer"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// tradeValue is a trade of about the size that venues give, as produced.
func tradeValue(id uint64) []byte {
	return (&event.Trade{
		Channel: event.ChannelTrade, TradeID: id, Aggressor: event.Buy, Price: event.MustDecimal("64123.45000000"),
		Qty: event.Some(event.MustDecimal("0.00123000")), EventTime: 1_700_000_000_000_000_000, RecvTime: 1_700_000_000_000_100_000, TimeSource: event.TimeEvent,
	}).AppendWire(nil)
}

func TestAppendDoesNotAllocate(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	key, value := []byte("binance|BTCUSDT"), tradeValue(1)
	done := func(int64, error) {}
	// The batches grow to their size first.
	for range 50_000 {
		if err := p.Append(event.TopicMarket, 0, key, value, done); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A used batch takes records without allocating.
	l := p.topics[event.TopicMarket][0]
	l.mu.Lock()
	b := l.take()
	l.mu.Unlock()
	if n := testing.AllocsPerRun(1000, func() { b.add(key, value, done) }); n > 0 {
		t.Errorf("%v allocations a record", n)
	}
	var acked atomic.Int64
	count := func(int64, error) { acked.Add(1) }
	const many = 200_000
	total := testing.AllocsPerRun(1, func() {
		for range many {
			if err := p.Append(event.TopicMarket, 0, key, value, count); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	// In all, the embedded broker in this process and the requests included.
	if each := total / many; each > 0.5 {
		t.Errorf("%.2f allocations a record in all", each)
	} else {
		t.Logf("%.3f allocations a record, requests and embedded broker included", each)
	}
}

func BenchmarkAppend(b *testing.B) {
	var x batch
	key, value := []byte("binance|BTCUSDT"), tradeValue(1)
	b.ReportAllocs()
	x.reset()
	for b.Loop() {
		if !x.fits(recordSize(key, value), maxBatch) {
			x.reset()
		}
		x.add(key, value, nil)
	}
}

// benchBroker is the broker of the benchmarks: a process of its own, whichever.
func benchBroker(b *testing.B) string { return startBrokerProcess(b).addr }

// benchEvents are trades over 100 keys, each with bytes of its own.
func benchEvents(c *Client, n int) []peer.Event {
	events := make([]peer.Event, n)
	for i := range events {
		key := fmt.Appendf(nil, "binance|B%03dUSDT", i%100)
		events[i] = peer.Event{Partition: c.Partition(event.TopicMarket, key), Key: key, Value: tradeValue(uint64(i + 1))}
	}
	return events
}

// inChunks gives the events over and over until there were n.
func inChunks(events []peer.Event, n int) func() []peer.Event {
	at := 0
	return func() []peer.Event {
		chunk := events[at : at+min(1024, len(events)-at, n)]
		n -= len(chunk)
		at = (at + len(chunk)) % len(events)
		return chunk
	}
}

// BenchmarkProduce appends trades to four partitions until all are acknowledged;
// an operation is one event.
func BenchmarkProduce(b *testing.B) {
	addr := benchBroker(b)
	c := connect(b, testConfig(addr))
	events := benchEvents(c, 1<<17)
	run := func(name string, produce func(ctx context.Context, more func() []peer.Event) (int, error)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(events[0].Key) + len(events[0].Value)))
			if n, err := produce(b.Context(), inChunks(events, b.N)); err != nil || n != b.N {
				b.Fatalf("%d of %d events: %v", n, b.N, err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
	by := func(p *Producer) func(ctx context.Context, more func() []peer.Event) (int, error) {
		return func(ctx context.Context, more func() []peer.Event) (n int, err error) {
			for chunk := more(); len(chunk) > 0; chunk = more() {
				for i := range chunk {
					if err := p.Append(event.TopicMarket, c.Partition(event.TopicMarket, chunk[i].Key), chunk[i].Key, chunk[i].Value, nil); err != nil {
						return n, err
					}
				}
				n += len(chunk)
			}
			return n, p.Flush(ctx)
		}
	}
	run("bus", by(newProducer(b, c, ProducerConfig{Name: "bench", Blocking: true})))
	// A spill that is there and takes nothing.
	run("bus with spill", by(newProducer(b, c, ProducerConfig{Name: "spilling", Blocking: true, Spill: SpillConfig{Dir: b.TempDir()}})))
	franz, err := peer.NewFranz(addr, event.TopicMarket)
	if err != nil {
		b.Fatal(err)
	}
	defer franz.Close()
	run("franz-go", franz.Produce)
	writer := peer.NewWriter(addr, event.TopicMarket, peer.WriterBatch)
	defer func() { _ = writer.Close() }()
	run("kafka-go", writer.Produce)
}

// BenchmarkAck publishes one event and waits for its acknowledgement.
func BenchmarkAck(b *testing.B) {
	addr := benchBroker(b)
	c := connect(b, testConfig(addr))
	p := newProducer(b, c, ProducerConfig{Name: "bench", Blocking: true})
	m := &event.Control{ID: event.HashStrings("a")}
	key := []byte("all")
	e := peer.Event{Key: key, Value: event.Marshal(m)}
	run := func(name string, one func(ctx context.Context) error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var took []time.Duration
			for b.Loop() {
				begun := time.Now()
				if err := one(b.Context()); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begun))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-us")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-us")
		})
	}
	run("bus", func(ctx context.Context) error {
		_, _, err := p.Publish(ctx, event.TopicControl, key, m)
		return err
	})
	franz, err := peer.NewFranz(addr, event.TopicControl)
	if err != nil {
		b.Fatal(err)
	}
	defer franz.Close()
	run("franz-go", func(ctx context.Context) error { return franz.One(ctx, e) })
	writer := peer.NewWriter(addr, event.TopicControl, 1)
	defer func() { _ = writer.Close() }()
	run("kafka-go", func(ctx context.Context) error { return writer.One(ctx, e) })
	raw, err := peer.NewRaw(addr, event.TopicControl)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	run("raw", func(ctx context.Context) error { return raw.One(ctx, e) })
}

// BenchmarkConsume reads trades of four partitions, CRC checked, and decodes
// them; bus looks for second copies too. An operation is the whole log.
func BenchmarkConsume(b *testing.B) {
	addr := benchBroker(b)
	c := connect(b, testConfig(addr))
	p := newProducer(b, c, ProducerConfig{Name: "bench", Blocking: true})
	const n = 400_000
	for _, e := range benchEvents(c, n) {
		if err := p.Append(event.TopicMarket, e.Partition, e.Key, e.Value, nil); err != nil {
			b.Fatal(err)
		}
	}
	if err := p.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	bounds, err := c.Offsets(b.Context(), event.TopicMarket)
	if err != nil {
		b.Fatal(err)
	}
	ends := make([]int64, len(bounds))
	for i, bound := range bounds {
		ends[i] = bound.End
	}
	run := func(name string, consume func(ctx context.Context, decode func(p int32, value []byte) error) (int64, error)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			trades := make([]event.Trade, len(ends))
			read := 0
			for b.Loop() {
				got, err := consume(b.Context(), func(p int32, value []byte) error { return event.DecodeTrade(value, &trades[p]) })
				if err != nil || got != n {
					b.Fatalf("%d of %d events: %v", got, n, err)
				}
				read += n
			}
			b.ReportMetric(float64(read)/b.Elapsed().Seconds(), "events/s")
		})
	}
	run("bus", func(ctx context.Context, decode func(p int32, value []byte) error) (int64, error) {
		var read atomic.Int64
		var failed atomic.Pointer[error]
		var all sync.WaitGroup
		for i, end := range ends {
			all.Go(func() {
				got, err := readTo(ctx, c, int32(i), end, decode)
				if read.Add(got); err != nil {
					failed.Store(&err)
				}
			})
		}
		all.Wait()
		if err := failed.Load(); err != nil {
			return read.Load(), *err
		}
		return read.Load(), nil
	})
	run("franz-go", func(ctx context.Context, decode func(p int32, value []byte) error) (int64, error) {
		return peer.FranzConsume(ctx, addr, event.TopicMarket, ends, decode)
	})
}

func readTo(ctx context.Context, c *Client, partition int32, end int64, decode func(p int32, value []byte) error) (n int64, err error) {
	r, err := c.NewReader(ctx, ReaderConfig{Topic: event.TopicMarket, Partition: partition, Offset: FromStart}, component.Discard())
	if err != nil {
		return 0, err
	}
	defer r.Close()
	r.EndAt(end)
	for {
		records, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		for i := range records {
			if err := decode(partition, records[i].Value); err != nil {
				return n, err
			}
		}
		n += int64(len(records))
	}
}

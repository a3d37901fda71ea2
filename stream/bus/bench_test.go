package bus

import (
	"errors"
	"io"
	"sync/atomic"
	"testing"

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

func BenchmarkProduce(b *testing.B) {
	c := connect(b, testConfig(startBroker(b).Addr()))
	p := newProducer(b, c, ProducerConfig{Name: "bench", Blocking: true})
	key, value := []byte("binance|BTCUSDT"), tradeValue(1)
	b.ReportAllocs()
	b.SetBytes(int64(len(key) + len(value)))
	i := 0
	for b.Loop() {
		if err := p.Append(event.TopicMarket, int32(i&3), key, value, nil); err != nil {
			b.Fatal(err)
		}
		i++
	}
	if err := p.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkAck(b *testing.B) {
	c := connect(b, testConfig(startBroker(b).Addr()))
	p := newProducer(b, c, ProducerConfig{Name: "bench", Blocking: true})
	m := &event.Control{ID: event.HashStrings("a")}
	for b.Loop() {
		if _, _, err := p.Publish(b.Context(), event.TopicControl, []byte("all"), m); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkConsume reads trades, CRC and copies checked, and decodes them.
func BenchmarkConsume(b *testing.B) {
	c := connect(b, testConfig(startBroker(b).Addr()))
	p := newProducer(b, c, ProducerConfig{Name: "bench", Blocking: true})
	key := []byte("binance|BTCUSDT")
	const n = 400_000
	for i := range n {
		if err := p.Append(event.TopicMarket, 0, key, tradeValue(uint64(i+1)), nil); err != nil {
			b.Fatal(err)
		}
	}
	if err := p.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	read := 0
	for b.Loop() {
		r, err := c.NewReader(b.Context(), ReaderConfig{Topic: event.TopicMarket, Offset: FromStart}, component.Discard())
		if err != nil {
			b.Fatal(err)
		}
		r.EndAt(n)
		var tr event.Trade
		for {
			records, err := r.Next(b.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			for i := range records {
				if err := event.DecodeTrade(records[i].Value, &tr); err != nil {
					b.Fatal(err)
				}
			}
			read += len(records)
		}
		r.Close()
	}
	b.ReportMetric(float64(read)/b.Elapsed().Seconds(), "records/s")
}

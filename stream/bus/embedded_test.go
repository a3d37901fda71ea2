package bus

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

func TestEmbeddedBrokerKeepsEverythingOverARestart(t *testing.T) {
	dir := t.TempDir()
	b, err := StartEmbedded(t.Context(), EmbeddedConfig{Dir: dir, Addr: "127.0.0.1:0"}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 4000)
	incarnation := c.Incarnation(event.TopicMarket)
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()

	again := startKfake(t, dir)
	c = connect(t, testConfig(again.Addr()))
	if got := c.Incarnation(event.TopicMarket); got != incarnation || got.IsZero() {
		t.Errorf("incarnation %s after the restart, %s before", got, incarnation)
	}
	checkOnce(t, c, event.TopicMarket, 4000)
	produce(t, newProducer(t, c, ProducerConfig{Name: "test", Blocking: true}), event.TopicMarket, 4000, 400)
	checkOnce(t, c, event.TopicMarket, 4400)
}

// While the broker's disk is nearly full nothing is appended and nothing acknowledged;
// then everything is, once, and is there after a restart.
func TestEmbeddedBrokerAppendsNothingToAFullDisk(t *testing.T) {
	dir := t.TempDir()
	var free atomic.Int64
	free.Store(diskReserve)
	b, err := StartEmbedded(t.Context(), EmbeddedConfig{Dir: dir, free: func(string) (int64, error) { return free.Load(), nil }}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 400)

	free.Store(diskReserve - 1)
	var acknowledged atomic.Int64
	for i := range 400 {
		err := p.Append(event.TopicMarket, int32(i%4), fmt.Append(nil, "k", i), trade(uint64(10_000+i)), func(_ int64, err error) {
			if err == nil {
				acknowledged.Add(1)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the broker refuses", 20*time.Second, func() bool {
		d, why := p.Stalled()
		return d > 0 && errors.Is(why, kafka.KafkaStorageError)
	})
	if n := acknowledged.Load(); n != 0 {
		t.Errorf("%d records were acknowledged with a full disk", n)
	}
	free.Store(diskReserve)
	if err := p.Close(t.Context()); err != nil || acknowledged.Load() != 400 {
		t.Errorf("%d of 400 records were acknowledged once there was room: %v", acknowledged.Load(), err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	c = connect(t, testConfig(startKfake(t, dir).Addr()))
	bounds, err := c.Offsets(t.Context(), event.TopicMarket)
	if err != nil {
		t.Fatal(err)
	}
	for n, b := range bounds {
		if b.End-b.Start != 200 {
			t.Errorf("md/%d holds %d records after the restart, want 200", n, b.End-b.Start)
		}
	}
}

// A producer and a reader live through kills of the broker: nothing that was
// acknowledged is lost, and what is in the log twice is dropped by the reader.
func TestKilledBrokerLosesNothingAcknowledged(t *testing.T) {
	b := startBrokerProcess(t)
	kills := 4
	if b.apache {
		kills = 2 // it takes seconds to start
	}
	c := connect(t, testConfig(b.addr))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	r, err := c.NewReader(t.Context(), ReaderConfig{Topic: event.TopicMarket, Offset: FromStart}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	key := []byte("binance|BTCUSDT")
	const each = 500
	for k := range kills {
		for i := range each {
			if err := p.Append(event.TopicMarket, 0, key, trade(uint64(k*each+i+1)), nil); err != nil {
				t.Fatal(err)
			}
			if i == each/2 {
				b.kill()
				b.start()
			}
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	bounds, err := c.Offsets(t.Context(), event.TopicMarket)
	if err != nil {
		t.Fatal(err)
	}
	r.EndAt(bounds[0].End)
	next := uint64(1)
	for {
		records, err := r.Next(t.Context())
		if err != nil {
			if next != uint64(kills*each+1) {
				t.Errorf("ended with %v after record %d, want %d records", err, next-1, kills*each)
			}
			break
		}
		for _, rec := range records {
			var tr event.Trade
			if err := event.DecodeTrade(rec.Value, &tr); err != nil {
				t.Fatal(err)
			}
			if tr.TradeID != next {
				t.Fatalf("offset %d holds trade %d, want %d", rec.Offset, tr.TradeID, next)
			}
			next++
		}
	}
	t.Logf("%d kills, %d acknowledged records, %d in the log, %d second copies dropped", kills, kills*each, bounds[0].End, int(total(t, c.metrics.secondCopies)))
}

func TestEmbeddedBrokerRefusesOtherAddresses(t *testing.T) {
	if _, err := StartEmbedded(t.Context(), EmbeddedConfig{Addr: "0.0.0.0:0"}, component.Discard()); err == nil {
		t.Error("listened on every interface")
	}
	b := startKfake(t, "")
	if _, err := StartEmbedded(t.Context(), EmbeddedConfig{Addr: b.Addr()}, component.Discard()); err == nil {
		t.Error("listened on a busy port")
	}
}

func TestConnectSaysThatNobodyAnswers(t *testing.T) {
	b := startKfake(t, "")
	addr := b.Addr()
	_ = b.Close()
	ctx, cancel := contextWithTimeout(t, 300*time.Millisecond)
	defer cancel()
	_, err := Connect(ctx, testConfig(addr), component.Discard())
	if err == nil {
		t.Fatal("connected to nobody")
	}
	if want := fmt.Sprintf("connecting to Kafka at [%s]: ", addr); len(err.Error()) < len(want) || err.Error()[:len(want)] != want {
		t.Errorf("error %q", err)
	}
}

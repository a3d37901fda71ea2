package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

func TestPrefetchLetsInInOrder(t *testing.T) {
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "held"})
	p := newPrefetch(100, gauge)
	took := make(chan string, 10)
	waits := 0
	take := func(name string, bytes int64) (cancel func()) {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			if err := p.take(ctx, bytes); err != nil {
				name = "no " + name
			}
			took <- name
		}()
		waits++
		eventually(t, name+" waits", 5*time.Second, func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.waiting.Len() == waits
		})
		return cancel
	}
	next := func(want string) {
		t.Helper()
		if got := <-took; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		waits--
	}
	if err := p.take(t.Context(), 60); err != nil {
		t.Fatal(err)
	}
	take("large", 250)
	cancel := take("gives up", 80)
	take("small", 10)       // there would be room, but others came first
	take("also small", 100) // fits alone
	cancel()
	next("no gives up")
	p.give(60)
	next("large") // alone, as it is larger than everything
	p.force(5)
	p.give(250)
	next("small")
	p.give(10)
	if p.held != 5 {
		t.Errorf("%d bytes are held", p.held)
	}
	p.give(5)
	next("also small")
	if p.held != 100 || p.most != 255 || gaugeValue(t, gauge) != 100 {
		t.Errorf("%d bytes held, %d at most, the gauge says %v", p.held, p.most, gaugeValue(t, gauge))
	}
	p.give(100)
	if n := testing.AllocsPerRun(100, func() {
		_ = p.take(t.Context(), 50)
		p.give(50)
	}); n > 0 {
		t.Errorf("%v allocations to take and give", n)
	}
}

func gaugeValue(t testing.TB, g prometheus.Gauge) float64 {
	t.Helper()
	var m dto.Metric
	if err := g.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetGauge().GetValue()
}

// However many readers there are, as many answers as each may hold fit.
func TestPrefetchIsSharedOut(t *testing.T) {
	for _, limit := range []int64{readerPrefetch, defaultPrefetch, defaultPrefetch - 1, 100 << 20} {
		p := newPrefetch(limit, nil)
		for n := int64(1); n <= limit/prefetchDepth/smallFetch; n++ {
			p.among(int(n))
			if each := bufferSize(int64(p.ask()) + answerHead); each*prefetchDepth*n > limit || (each < fetchBytes && 2*each*prefetchDepth*n <= limit) {
				t.Fatalf("%d readers of %d bytes ask for %d each, in %d", n, limit, p.ask(), each)
			}
		}
	}
	for size := int64(0); size < 3<<20; size += 997 {
		if held := bufferSize(size); held < size || held > max(2*size, 1<<smallBuffer) {
			t.Fatalf("%d bytes are held in %d", size, held)
		}
		b := takeBuffer(int(min(size, fetchBytes)))
		if int64(cap(*b)) > bufferSize(min(size, fetchBytes)) {
			t.Fatalf("%d bytes are read into %d", size, cap(*b))
		}
		putBuffer(b)
	}
}

// Many partitions whose handlers stand still, then go slowly: what is held of them
// together is bounded, and each gets its records.
func TestPrefetchOfManyPartitionsIsBounded(t *testing.T) {
	const partitions = 16
	cfg := testConfig(startBroker(t).Addr())
	cfg.Partitions = partitions
	connect(t, cfg)
	for _, tt := range []struct {
		name, topic string
		limit       int64
		queue       int // of the producer: a sixteenth is its largest batch
		value, each int // bytes of a record, records of a partition
		compression string
		blocks      bool // every handler at first stands still with its first records
		beyond      int64
	}{
		{name: "batches smaller than a share", topic: event.TopicMarket, limit: 1 << 20, queue: 16 * 6_000, value: 1000, each: 250, blocks: true},
		{name: "batches larger than a share", topic: event.TopicSignals, limit: 1 << 20, queue: 16 * 150_000, value: 10_000, each: 30},
		{name: "batches larger than all", topic: event.TopicJournal, limit: 100_000, queue: 16 * 150_000, value: 10_000, each: 30, beyond: bufferSize(150_000) - 100_000},
		{name: "compressed", topic: event.TopicDecisions, limit: 2 << 20, queue: 16 * 40_000, value: 1000, each: 250, compression: "zstd", beyond: partitions * 64 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := cfg
			if tt.compression != "" {
				cfg.Compression = tt.compression
			}
			c := connect(t, cfg)
			p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true, QueueBytes: tt.queue})
			for i := range tt.each * partitions {
				value := fmt.Appendf(make([]byte, 0, tt.value), "%d ", i)
				if err := p.Append(tt.topic, int32(i%partitions), nil, value[:tt.value], nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{tt.topic}, PrefetchBytes: tt.limit}, component.Discard())
			var handled atomic.Int64
			var began sync.WaitGroup
			began.Add(partitions)
			goOn, done := make(chan struct{}), make(chan error, 1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				done <- k.Run(ctx, func(ctx context.Context, a *Assignment) error {
					a.Ready()
					for n := 0; ; {
						records, err := a.Next(ctx)
						if err != nil {
							return err
						}
						if n == 0 {
							began.Done()
							<-goOn
						}
						for _, r := range records {
							if want := fmt.Sprintf("%d ", n*partitions+int(a.Partition)); string(r.Value[:len(want)]) != want || len(r.Value) != tt.value {
								return fmt.Errorf("record %d of partition %d is %.20q", n, a.Partition, r.Value)
							}
							n++
						}
						handled.Add(int64(len(records)))
						time.Sleep(time.Millisecond)
					}
				})
			}()
			if !tt.blocks {
				close(goOn)
			}
			began.Wait()
			if tt.blocks {
				// Nothing was given back: all that came is held.
				var before float64
				same := 0
				bustest.Settles(t, "the readers have read ahead what they may", 30*time.Second, func() bool {
					now := total(t, c.metrics.fetchedBytes)
					if same++; now != before {
						before, same = now, 0
					}
					return same > 10
				})
				if before > float64(tt.limit) || before < float64(tt.limit)/4 {
					t.Errorf("%v bytes were read ahead of handlers that stand still, want up to %d", before, tt.limit)
				}
				if held := gaugeValue(t, c.metrics.prefetchBytes.WithLabelValues(k.group)); held < before || held > float64(tt.limit) {
					t.Errorf("the gauge says %v, and %v bytes were read ahead of %d", held, before, tt.limit)
				}
				close(goOn)
			}
			eventually(t, "everything is handled", time.Minute, func() bool { return handled.Load() == int64(tt.each*partitions) })
			cancel()
			if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			// Connections give back what arrives for nobody.
			eventually(t, "everything is given back", 20*time.Second, func() bool {
				k.room.mu.Lock()
				defer k.room.mu.Unlock()
				return k.room.held == 0
			})
			batches := total(t, c.metrics.producedBatches)
			t.Logf("%d partitions, %d records in %v batches of %.0f bytes: at most %d bytes held of %d", partitions, handled.Load(), batches,
				total(t, c.metrics.producedBytes)/batches, k.room.most, tt.limit)
			if k.room.most > tt.limit+tt.beyond {
				t.Errorf("%d bytes were held, want at most %d and %d", k.room.most, tt.limit, tt.beyond)
			}
		})
	}
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/bus/kafkatest"
	"github.com/autohedge/autohedge/stream/bus/peer"
	"github.com/autohedge/autohedge/stream/event"
)

const (
	// busRounds is how often the clients take turns within a measurement; the
	// medians of their rounds are reported.
	busRounds = 7
	// busKeys is how many instruments the load has where keys are not the matter.
	busKeys = 100
	// busTable is how many events the clients produce over and over.
	busTable = 1 << 17
	// busChunk is how many of them are taken between looks at the clock.
	busChunk = 1 << 10
)

// The clients that are measured: bus itself and its peers.
const (
	franzGo = ".franz-go"
	kafkaGo = ".kafka-go"
	// rawFloor is no client: what the broker and the way there take.
	rawFloor = ".raw"
)

func busMeasurements(o Options) []measurement {
	var all []measurement
	for _, kind := range o.kinds() {
		s := suffix(kind)
		all = append(all,
			measurement{
				names:   []string{"bus.produce.rate" + s, "bus.produce.rate" + franzGo + s, "bus.produce.rate" + kafkaGo + s},
				summary: "events appended to four partitions and acknowledged, in turns with two other clients",
				run:     func(ctx context.Context, o Options) ([]Result, error) { return busProduce(ctx, o, kind) },
			},
			measurement{
				names:   []string{"bus.consume.rate" + s, "bus.consume.rate" + franzGo + s},
				summary: "events of four partitions read, checked and decoded, in turns with another client",
				run:     func(ctx context.Context, o Options) ([]Result, error) { return busConsume(ctx, o, kind) },
			},
			measurement{
				names:   []string{"bus.ack_us" + s, "bus.ack_us" + franzGo + s, "bus.ack_us" + kafkaGo + s, "bus.ack_us" + rawFloor + s},
				summary: "one event published and acknowledged, in turns with two other clients and the floor, a bare write and read",
				run:     func(ctx context.Context, o Options) ([]Result, error) { return busAck(ctx, o, kind) },
			},
			measurement{
				names:   []string{"bus.keys_ratio.zipf" + s, "bus.keys_ratio.uniform" + s},
				summary: "cost of an event at 100,000 keys over that at 10",
				run:     func(ctx context.Context, o Options) ([]Result, error) { return busKeysRatio(ctx, o, kind) },
			},
		)
	}
	return all
}

// where says which broker was measured.
func where(kind string) string {
	if kind == Apache {
		return "Apache Kafka " + kafkatest.Version + " in a process of its own, Java as kafka-server-start.sh runs it"
	}
	return "embedded broker in a process of its own"
}

// turn is one client's part of a round; it returns how many events it did.
type turn func(ctx context.Context) (n int, err error)

// rounds lets the clients take turns, each beginning once, after a round that
// does not count. It returns events a second for each client and round, and how
// many events each did.
func rounds(ctx context.Context, turns []turn) (rates [][]float64, events []int, err error) {
	rates, events = make([][]float64, len(turns)), make([]int, len(turns))
	for round := range busRounds + 1 {
		for k := range turns {
			i := (k + round) % len(turns) // each begins a round once
			runtime.GC()
			begun := time.Now()
			n, err := turns[i](ctx)
			took := time.Since(begun)
			if err != nil {
				return nil, nil, err
			}
			if round > 0 {
				rates[i] = append(rates[i], float64(n)/took.Seconds())
				events[i] += n
			}
		}
	}
	return rates, events, nil
}

func busProduce(ctx context.Context, o Options, kind string) (results []Result, err error) {
	c, err := o.connect(ctx, kind)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.drop(ctx)) }()
	events, err := table(c.Client, loadKeys(busKeys), busTable)
	if err != nil {
		return nil, err
	}
	p, err := c.NewProducer(ctx, bus.ProducerConfig{Name: "bench", Blocking: true}, env(o))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close(ctx)) }()
	franz, err := peer.NewFranz(c.addr, c.topic(event.TopicMarket))
	if err != nil {
		return nil, err
	}
	defer franz.Close()
	writer := peer.NewWriter(c.addr, c.topic(event.TopicMarket), peer.WriterBatch)
	defer func() { err = errors.Join(err, writer.Close()) }()

	at := 0
	until := func() func() []peer.Event {
		deadline := time.Now().Add(o.Length / busRounds)
		return func() []peer.Event {
			if !time.Now().Before(deadline) {
				return nil
			}
			chunk := events[at : at+busChunk]
			at = (at + busChunk) % len(events)
			return chunk
		}
	}
	var allocs []float64
	ours := func(ctx context.Context) (n int, err error) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		more := until()
		for chunk := more(); len(chunk) > 0; chunk = more() {
			for i := range chunk {
				// The partition is found anew for each event, as roles do.
				if err := p.Append(event.TopicMarket, c.Partition(event.TopicMarket, chunk[i].Key), chunk[i].Key, chunk[i].Value, nil); err != nil {
					return n, err
				}
			}
			n += len(chunk)
		}
		err = p.Flush(ctx)
		runtime.ReadMemStats(&after)
		allocs = append(allocs, float64(after.Mallocs-before.Mallocs)/float64(n))
		return n, err
	}
	rates, counts, err := rounds(ctx, []turn{
		ours,
		func(ctx context.Context) (int, error) { return franz.Produce(ctx, until()) },
		func(ctx context.Context) (int, error) { return writer.Produce(ctx, until()) },
	})
	if err != nil {
		return nil, err
	}
	s := suffix(kind)
	size := len(events[0].Key) + len(events[0].Value)
	toFranz, toWriter := ratio(rates[0], rates[1]), ratio(rates[0], rates[2])
	return []Result{
		{Name: "bus.produce.rate" + s, Value: median(rates[0]), Unit: "events/s", N: counts[0], Note: fmt.Sprintf(
			"%.2f of franz-go, %.2f of kafka-go's Writer; %.3f allocations an event; %d-byte events, %d keys, 4 partitions, idempotent, acks all, medians of %d rounds; %s",
			toFranz, toWriter, median(allocs), size, busKeys, busRounds, where(kind))},
		{Name: "bus.produce.rate" + franzGo + s, Value: median(rates[1]), Unit: "events/s", N: counts[1], Note: peer.FranzProduceOptions},
		{Name: "bus.produce.rate" + kafkaGo + s, Value: median(rates[2]), Unit: "events/s", N: counts[2], Note: peer.WriterOptions},
	}, nil
}

// tally is what a decoder of one partition saw.
type tally struct {
	trade event.Trade
	sum   uint64
	_     [64]byte // each on a cache line of its own
}

func (t *tally) decode(value []byte) error {
	if err := event.DecodeTrade(value, &t.trade); err != nil {
		return err
	}
	t.sum += t.trade.TradeID
	return nil
}

// readPartitions reads every partition of md from its start to the given ends,
// decodes every record, and returns how many came and the sum of their numbers.
func readPartitions(ctx context.Context, c *bus.Client, o Options, ends []int64) (n int64, sum uint64, err error) {
	tallies := make([]tally, len(ends))
	var total atomic.Int64
	var mu sync.Mutex
	var all sync.WaitGroup
	for p := range ends {
		all.Go(func() {
			if rerr := readPartition(ctx, c, o, int32(p), ends[p], &tallies[p], &total); rerr != nil {
				mu.Lock()
				err = errors.Join(err, rerr)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	for i := range tallies {
		sum += tallies[i].sum
	}
	return total.Load(), sum, err
}

func readPartition(ctx context.Context, c *bus.Client, o Options, partition int32, end int64, t *tally, total *atomic.Int64) error {
	r, err := c.NewReader(ctx, bus.ReaderConfig{Topic: event.TopicMarket, Partition: partition, Offset: bus.FromStart}, env(o))
	if err != nil {
		return err
	}
	defer r.Close()
	r.EndAt(end)
	for {
		records, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for i := range records {
			if err := t.decode(records[i].Value); err != nil {
				return err
			}
		}
		total.Add(int64(len(records)))
	}
}

// fill appends n trades over the keys and returns the ends of the partitions and
// the sum of the trades' numbers.
func fill(ctx context.Context, c *connection, o Options, keys [][]byte, n int) (ends []int64, sum uint64, err error) {
	t, err := newTrades()
	if err != nil {
		return nil, 0, err
	}
	p, err := c.NewProducer(ctx, bus.ProducerConfig{Name: "bench", Blocking: true}, env(o))
	if err != nil {
		return nil, 0, err
	}
	for i := range n {
		key := keys[i%len(keys)]
		sum += t.next
		if err := p.Append(event.TopicMarket, c.Partition(event.TopicMarket, key), key, t.record(), nil); err != nil {
			return nil, 0, errors.Join(err, p.Close(ctx))
		}
	}
	if err := p.Close(ctx); err != nil {
		return nil, 0, err
	}
	bounds, err := c.Offsets(ctx, event.TopicMarket)
	for _, b := range bounds {
		ends = append(ends, b.End)
	}
	return ends, sum, err
}

func busConsume(ctx context.Context, o Options, kind string) (results []Result, err error) {
	c, err := o.connect(ctx, kind)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.drop(ctx)) }()
	n := max(int(o.Length.Seconds()*1e6), 50_000)
	ends, sum, err := fill(ctx, c, o, loadKeys(busKeys), n)
	if err != nil {
		return nil, err
	}
	same := func(who string, got int64, gotSum uint64) error {
		if got != int64(n) || gotSum != sum {
			return fmt.Errorf("%s read %d of %d events, the sum of their numbers is %d, not %d", who, got, n, gotSum, sum)
		}
		return nil
	}
	rates, counts, err := rounds(ctx, []turn{
		func(ctx context.Context) (int, error) {
			got, gotSum, err := readPartitions(ctx, c.Client, o, ends)
			return int(got), errors.Join(err, same("bus", got, gotSum))
		},
		func(ctx context.Context) (int, error) {
			tallies := make([]tally, len(ends))
			got, err := peer.FranzConsume(ctx, c.addr, c.topic(event.TopicMarket), ends, func(p int32, value []byte) error { return tallies[p].decode(value) })
			var gotSum uint64
			for i := range tallies {
				gotSum += tallies[i].sum
			}
			return int(got), errors.Join(err, same("franz-go", got, gotSum))
		},
	})
	if err != nil {
		return nil, err
	}
	s := suffix(kind)
	return []Result{
		{Name: "bus.consume.rate" + s, Value: median(rates[0]), Unit: "events/s", N: counts[0], Note: fmt.Sprintf(
			"%.2f of franz-go; CRC checked, second copies looked for, decoded, 4 partitions read at once, medians of %d rounds; kafka-go's checked path cannot run beside bus, which replaces its fetch response; %s",
			ratio(rates[0], rates[1]), busRounds, where(kind))},
		{Name: "bus.consume.rate" + franzGo + s, Value: median(rates[1]), Unit: "events/s", N: counts[1], Note: "the same decoder, no second copies looked for; " + peer.FranzConsumeOptions},
	}, nil
}

// busAckBlock is how many events one client publishes in its turn.
const busAckBlock = 100

func busAck(ctx context.Context, o Options, kind string) (results []Result, err error) {
	c, err := o.connect(ctx, kind)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.drop(ctx)) }()
	p, err := c.NewProducer(ctx, bus.ProducerConfig{Name: "bench", Blocking: true}, env(o))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close(ctx)) }()
	franz, err := peer.NewFranz(c.addr, c.topic(event.TopicMarket))
	if err != nil {
		return nil, err
	}
	defer franz.Close()
	writer := peer.NewWriter(c.addr, c.topic(event.TopicMarket), 1)
	defer func() { err = errors.Join(err, writer.Close()) }()
	raw, err := peer.NewRaw(c.addr, c.topic(event.TopicMarket))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, raw.Close()) }()

	key := loadKeys(1)[0]
	trade := &event.Trade{Channel: event.ChannelTrade, TradeID: firstTrade, Price: event.MustDecimal("64123.45"), RecvTime: 1_700_000_000_000_100_000}
	one := peer.Event{Partition: c.Partition(event.TopicMarket, key), Key: key, Value: event.Marshal(trade)}
	clients := []func(ctx context.Context) error{
		func(ctx context.Context) error {
			_, _, err := p.Publish(ctx, event.TopicMarket, key, trade)
			return err
		},
		func(ctx context.Context) error { return franz.One(ctx, one) },
		func(ctx context.Context) error { return writer.One(ctx, one) },
		func(ctx context.Context) error { return raw.One(ctx, one) },
	}
	samples := make([][]float64, len(clients))
	// The first half does not count: a broker in Java compiles what it does often.
	begin := time.Now().Add(time.Duration(len(clients)) * o.Length)
	for deadline := begin.Add(time.Duration(len(clients)) * o.Length); time.Now().Before(deadline) || len(samples[0]) == 0; {
		for i, publish := range clients {
			for k := range busAckBlock {
				begun := time.Now()
				if err := publish(ctx); err != nil {
					return nil, err
				}
				if took := time.Since(begun); k >= busAckBlock/10 && begun.After(begin) { // after the others' turns, caches and connections are cold
					samples[i] = append(samples[i], float64(took)/1e3)
				}
			}
		}
	}
	s := suffix(kind)
	note := func(i int, rest string) string {
		median(samples[i]) // sorts
		return fmt.Sprintf("median, p99 %.0f us; %s", percentile(samples[i], 99), rest)
	}
	names := []string{"bus.ack_us" + s, "bus.ack_us" + franzGo + s, "bus.ack_us" + kafkaGo + s, "bus.ack_us" + rawFloor + s}
	notes := []string{
		note(0, "Publish of one event on an idle producer, in turns of 100; "+where(kind)),
		note(1, "ProduceSync of the same bytes"), note(2, "WriteMessages of the same bytes, BatchSize 1"),
		note(3, "the floor: "+peer.RawOptions),
	}
	for i, name := range names {
		results = append(results, Result{Name: name, Value: median(samples[i]), Unit: "us", N: len(samples[i]), Note: notes[i]})
	}
	return results, nil
}

package bus

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/event"
)

// conflating is a producer's policy for quotes.
var conflating = []StreamPolicy{{Topic: event.TopicMarket, Type: event.TypeQuote, Policy: Conflate}}

func quote(seq uint64, channel event.Channel) []byte {
	return (&event.Quote{Channel: channel, Sequence: seq, Bid: event.MustDecimal("1.5"), Ask: event.MustDecimal("1.6"), RecvTime: 1}).AppendWire(nil)
}

// told is one record of a test and what became of it.
type told struct {
	text   string // in the log's terms
	series string // key and channel of a quote; empty for what must not go
	times  atomic.Int32
	err    atomic.Pointer[error]
	offset atomic.Int64
}

func (r *told) done(offset int64, err error) {
	r.times.Add(1)
	r.offset.Store(offset)
	r.err.Store(&err)
}

func describe(t testing.TB, key, value []byte) string {
	t.Helper()
	m, err := event.Decode(value)
	if err != nil {
		t.Fatal(err)
	}
	switch m := m.(type) {
	case *event.Trade:
		return fmt.Sprintf("trade %s %d", key, m.TradeID)
	case *event.Quote:
		return fmt.Sprintf("quote %s %d %d", key, m.Channel, m.Sequence)
	}
	return fmt.Sprintf("%T", m)
}

// TestConflationKeepsOrder appends trades and quotes at random while
// nothing can be sent. Whatever the bounds: every trade is in the log, in order;
// of each key and channel the last quote is; a quote that stayed is where it was
// among the trades and other quotes; every record is told once what became of it.
func TestConflationKeepsOrder(t *testing.T) {
	b, _ := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	rounds := 30
	if onApache() {
		rounds = 10 // each takes its time there
	}
	for round := range rounds {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Logf("seed %d", seed)
			conflateAtRandom(t, b, c, rand.New(rand.NewPCG(seed, 0)), uint64(round+1)*1_000_000)
		})
	}
}

func conflateAtRandom(t *testing.T, b *broker, c *Client, rnd *rand.Rand, base uint64) {
	release := b.stuck()
	defer release()
	cfg := ProducerConfig{Name: "test", QueueBytes: 2_000 + rnd.IntN(60_000), Policies: conflating}
	if rnd.IntN(2) == 0 {
		cfg.Spill = SpillConfig{Dir: t.TempDir(), After: 1}
	}
	p := newProducer(t, c, cfg)
	watchQueue(t, p, int64(cfg.QueueBytes), 1<<30)
	bounds, err := c.Offsets(t.Context(), event.TopicMarket)
	if err != nil {
		t.Fatal(err)
	}
	metricBefore := total(t, c.metrics.conflated)
	var appended []*told
	last := map[string]string{}
	keys := 1 + rnd.IntN(6)
	refused := 0
	for i := range 200 + rnd.IntN(3000) {
		key := fmt.Appendf(nil, "binance|K%d", rnd.IntN(keys))
		r := new(told)
		value := trade(base + uint64(i))
		if rnd.IntN(4) > 0 {
			ch := event.ChannelBookTicker
			if rnd.IntN(2) == 0 {
				ch = event.ChannelTicker
			}
			value = quote(base+uint64(i), ch)
			r.series = fmt.Sprintf("%s %d", key, ch)
		}
		r.text = describe(t, key, value)
		if err := p.Append(event.TopicMarket, 0, key, value, r.done); err != nil {
			if !errors.Is(err, ErrQueueFull) || cfg.Spill.Dir != "" {
				t.Fatalf("record %d: %v", i, err)
			}
			refused++
			continue
		}
		appended = append(appended, r)
		if r.series != "" {
			last[r.series] = r.text
		}
	}
	release()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	var want []string
	conflated := 0
	for _, r := range appended {
		if n := r.times.Load(); n != 1 {
			t.Fatalf("%s was told %d times", r.text, n)
		}
		err := *r.err.Load()
		switch {
		case err == nil:
			want = append(want, r.text)
			if at := bounds[0].End + int64(len(want)) - 1; r.offset.Load() != at {
				t.Fatalf("%s was told offset %d, it is at %d", r.text, r.offset.Load(), at)
			}
		case errors.Is(err, ErrConflated) && r.series != "":
			conflated++
			if last[r.series] == r.text {
				t.Errorf("%s was replaced, and is the last of its series", r.text)
			}
		default:
			t.Fatalf("%s was told %v", r.text, err)
		}
	}
	var got []string
	if _, err := c.ReadAll(t.Context(), event.TopicMarket, 0, bounds[0].End, func(r Record) error {
		got = append(got, describe(t, r.Key, r.Value))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("log (-want +got):\n%s", cmp.Diff(want, got))
	}
	counted := uint64(0)
	for _, n := range p.Conflated() {
		counted += n
	}
	if metric := total(t, c.metrics.conflated) - metricBefore; counted != uint64(conflated) || metric != float64(conflated) {
		t.Errorf("%d records were replaced, %d counted by key, %v by the metric", conflated, counted, metric)
	}
	if p.Queued() != 0 || p.dead.Load() != 0 {
		t.Errorf("%d bytes are still queued, %d of replaced records", p.Queued(), p.dead.Load())
	}
	t.Logf("%d appended, %d replaced, %d refused, bound %d, spill %v", len(appended), conflated, refused, cfg.QueueBytes, cfg.Spill.Dir != "")
}

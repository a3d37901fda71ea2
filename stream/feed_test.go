package stream

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/venue"
)

// queue is a producer that has room for so many records.
type queue struct {
	room    int
	lines   []string
	records []bus.Record
}

func (q *queue) Append(topic string, _ int32, key, value []byte, _ func(int64, error)) error {
	if q.room <= 0 {
		return bus.ErrQueueFull
	}
	q.room--
	q.records = append(q.records, bus.Record{Topic: topic, Key: slices.Clone(key), Value: slices.Clone(value)})
	m, err := event.Decode(value)
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case *event.Trade:
		line := fmt.Sprintf("trade %d", m.TradeID)
		if m.Epoch != 0 {
			line += fmt.Sprintf(" epoch %d", m.Epoch)
		}
		if m.Late {
			line += " late"
		}
		q.lines = append(q.lines, line)
	case *event.Quote:
		line := fmt.Sprintf("quote %d", m.Sequence)
		if m.Epoch != 0 {
			line += fmt.Sprintf(" epoch %d", m.Epoch)
		}
		q.lines = append(q.lines, line)
	case *event.Coverage:
		q.lines = append(q.lines, describeCoverage(m))
	case *event.Clock:
		q.lines = append(q.lines, fmt.Sprintf("clock %d", m.Connections))
	default:
		q.lines = append(q.lines, topic)
	}
	return nil
}

func (q *queue) Queued() int64  { return 0 }
func (q *queue) Spilled() int64 { return 0 }

// bare is a feed without sockets.
func bare(t *testing.T, q *queue, cfg FeedConfig) *feed {
	t.Helper()
	h := &host{env: component.Discard(), out: q, partition: func([]byte) int32 { return 0 }, queue: 1 << 20,
		failed: func(err error) { t.Errorf("the role failed: %v", err) }}
	f, err := newFeed(h, cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.numbers = new(numbers)
	f.restore(newRecovered())
	return f
}

// bareConn is a connection of it without a socket.
func (f *feed) bareConn() *conn {
	f.alive++
	return &conn{feed: f, number: f.numbers.next(), decoder: f.venue.NewDecoder(), rotate: make(chan struct{}, 1)}
}

func (c *conn) feedFrame(recv int64, frame string) error {
	c.lastRecv = recv
	return c.feed.receive(c, []byte(frame), recv)
}

func TestFullQueueStatesTheGap(t *testing.T) {
	q := &queue{room: 5}
	cfg := DefaultFeed()
	cfg.Venue, cfg.Symbols = "binance", []string{"BTCUSDT"}
	f := bare(t, q, cfg)
	c := f.bareConn()
	var err error
	n := 1
	for ; err == nil; n++ {
		err = c.feedFrame(int64(n), bnTrade(n))
	}
	if !errors.Is(err, bus.ErrQueueFull) || reason(err) != whyQueueFull || n != 6 {
		t.Fatalf("frame %d: %v", n-1, err)
	}
	f.lose(c, whyQueueFull) // nothing can be said yet
	f.tick()
	q.room = 100
	f.tick()
	c = f.bareConn()
	if err := c.feedFrame(50, bnTrade(9)); err != nil {
		t.Fatal(err)
	}
	f.tick()
	if diff := cmp.Diff([]string{
		"received trade 1-0", "trade 1", "trade 2", "trade 3", "trade 4",
		"unknown trade 5-0: queue full", "clock 0",
		"lost trade 5-8 bounded: queue full", "received trade 9-0", "trade 9", "clock 1",
	}, q.lines); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// TestFullQueueAnywhere fills the queue at every record in turn: whatever is cut
// off, the next connection accounts for every id, once.
func TestFullQueueAnywhere(t *testing.T) {
	for room := range 12 {
		q := &queue{room: room}
		cfg := DefaultFeed()
		cfg.Venue, cfg.Symbols = "binance", []string{"BTCUSDT"}
		f := bare(t, q, cfg)
		c := f.bareConn()
		for i, id := range []int{1, 2, 5, 6, 9, 10} {
			if err := c.feedFrame(int64(10+i), bnTrade(id)); err != nil {
				f.lose(c, reason(err))
				break
			}
		}
		q.room = 1000
		f.tick()
		c = f.bareConn()
		for i, id := range []int{20, 21} {
			if err := c.feedFrame(int64(100+i), bnTrade(id)); err != nil {
				t.Fatal(err)
			}
		}
		next := 0
		for _, l := range q.lines {
			from, to := 0, 0
			if _, err := fmt.Sscanf(l, "trade %d", &from); err == nil {
				to = from
			} else if _, err := fmt.Sscanf(l, "lost trade %d-%d", &from, &to); err != nil {
				continue
			}
			if next != 0 && from != next {
				t.Errorf("room %d: %q after id %d", room, l, next-1)
			}
			next = to + 1
		}
		if next != 22 {
			t.Errorf("room %d: ids end at %d: %q", room, next-1, q.lines)
		}
	}
}

func TestDeadLettersAreBounded(t *testing.T) {
	q := &queue{room: 1 << 20}
	cfg := DefaultFeed()
	cfg.Venue, cfg.Symbols = "binance", []string{"BTCUSDT"}
	f := bare(t, q, cfg)
	c := f.bareConn()
	for i := range 1000 {
		if err := c.feedFrame(int64(i+1)*1e6, "{"+strings.Repeat("x", 100<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if f.stats.dead != deadBurst+deadPerSecond-1 || f.stats.dead+f.stats.deadDropped != 1000 || f.stats.refused[venue.CodeMalformed] != 1000 {
		t.Errorf("%d written, %d left out", f.stats.dead, f.stats.deadDropped)
	}
	if len(f.buf) > 2*deadBytes {
		t.Errorf("a dead letter has %d bytes", len(f.buf))
	}
}

// TestStallLimit: a pace is that of a connection beyond its first seconds, no shorter
// than three times the longest gap, and doubles with each stall.
func TestStallLimit(t *testing.T) {
	start := time.Unix(1000, 0)
	// each tells of n frames that came together, every so often, for so long.
	type burst struct {
		n              int64
		every, lasting time.Duration
	}
	for name, c := range map[string]struct {
		least  time.Duration
		stalls int
		bursts []burst
		want   time.Duration
	}{
		"nothing came":                   {least: 4 * time.Second},
		"busy":                           {4 * time.Second, 0, []burst{{250, 250 * time.Millisecond, time.Minute}}, 4 * time.Second},
		"busy after two stalls":          {4 * time.Second, 2, []burst{{250, 250 * time.Millisecond, time.Minute}}, 16 * time.Second},
		"an opening burst":               {4 * time.Second, 0, []burst{{500, 100 * time.Millisecond, time.Second}}, 0},
		"an opening burst, then quiet":   {4 * time.Second, 0, []burst{{500, 100 * time.Millisecond, time.Second}, {1, 12 * time.Second, 2 * time.Minute}}, 1200 * time.Second},
		"quiet, then a burst":            {4 * time.Second, 0, []burst{{1, 12 * time.Second, 2 * time.Minute}, {5000, 250 * time.Millisecond, time.Second}}, 36 * time.Second},
		"now and then":                   {4 * time.Second, 0, []burst{{1, 100 * time.Second, time.Hour}}, 0},
		"never given up":                 {-1, 0, []burst{{250, 250 * time.Millisecond, time.Minute}}, 0},
		"busy, with a pause of 5 s once": {4 * time.Second, 0, []burst{{250, 250 * time.Millisecond, time.Minute}, {250, 5 * time.Second, 5 * time.Second}, {250, 250 * time.Millisecond, time.Minute}}, 15 * time.Second},
	} {
		p, now, frames := pace{least: c.least, stalls: c.stalls}, start, int64(0)
		for _, b := range c.bursts {
			for end := now.Add(b.lasting); now.Before(end); {
				now, frames = now.Add(b.every), frames+b.n
				p.look(frames, now)
			}
		}
		got := p.limit()
		if diff := got - c.want; diff < -c.want/10 || diff > c.want/10 {
			t.Errorf("%s: the limit is %s, want %s", name, got, c.want)
		}
		if p.stalled(now.Add(got)) || got > 0 && !p.stalled(now.Add(got+time.Millisecond)) {
			t.Errorf("%s: stalled at another time than after %s", name, got)
		}
	}
}

// BenchmarkReceive is the whole path of one trade but for socket and Kafka.
func BenchmarkReceive(b *testing.B) {
	h := &host{env: component.Discard(), out: sinkhole{}, partition: func([]byte) int32 { return 0 }, queue: 1 << 20, failed: func(error) {}}
	cfg := DefaultFeed()
	cfg.Venue, cfg.Symbols = "binance", []string{"BTCUSDT"}
	f, err := newFeed(h, cfg)
	if err != nil {
		b.Fatal(err)
	}
	f.numbers = new(numbers)
	f.restore(newRecovered())
	c := f.bareConn()
	frames := make([][]byte, 4096)
	for i := range frames {
		frames[i] = []byte(bnTrade(1e9 + i))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i%len(frames) == 0 { // begin anew
			f.symbols["BTCUSDT"].channels[0].ids.begin()
		}
		if err := f.receive(c, frames[i%len(frames)], int64(i)); err != nil {
			b.Fatal(err)
		}
		i++
	}
	if int(f.stats.trades) != i || f.stats.gaps != 0 {
		b.Fatalf("%d of %d trades published, %d gaps", f.stats.trades, i, f.stats.gaps)
	}
}

type sinkhole struct{}

func (sinkhole) Append(string, int32, []byte, []byte, func(int64, error)) error { return nil }
func (sinkhole) Queued() int64                                                  { return 0 }
func (sinkhole) Spilled() int64                                                 { return 0 }

func TestNothingIsAllocatedPerTick(t *testing.T) {
	f := bare(t, &queue{}, FeedConfig{Venue: "binance", Symbols: []string{"BTCUSDT"}})
	f.out = sinkhole{}
	c := f.bareConn()
	frames := make([][]byte, 300)
	for i := range frames {
		frames[i] = []byte(bnTrade(i + 1))
	}
	i := 0
	if n := testing.AllocsPerRun(200, func() {
		if err := f.receive(c, frames[i], int64(i+1)); err != nil {
			t.Fatal(err)
		}
		i++
	}); n > 0 {
		t.Errorf("%v allocations a trade", n)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	env := component.Discard()
	env.Metrics = reg
	cfg := DefaultConfig()
	r, err := New(cfg, nil, env)
	if err != nil {
		t.Fatal(err)
	}
	f := r.feeds[0]
	r.host.out = sinkhole{}
	r.host.partition = func([]byte) int32 { return 0 }
	f.restore(newRecovered())
	c := f.bareConn()
	for i, frame := range []string{bnTrade(1), bnTrade(3), bnTrade(3), "x", `{"e":"kline"}`} {
		if err := c.feedFrame(int64(i+1)*1e9, frame); err != nil {
			t.Fatal(err)
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, mf := range families {
		for _, m := range mf.GetMetric() {
			var labels []string
			feed := ""
			for _, l := range m.GetLabel() {
				if l.GetName() == "feed" {
					feed = l.GetValue()
				} else {
					labels = append(labels, l.GetValue())
				}
			}
			if v := m.GetCounter().GetValue() + m.GetGauge().GetValue(); v != 0 && feed == "binance" {
				got = append(got, strings.TrimSpace(fmt.Sprintf("%s %v %s", strings.TrimPrefix(mf.GetName(), "autohedge_stream_"), v, strings.Join(labels, " "))))
			}
		}
	}
	if diff := cmp.Diff([]string{
		"connections 1", "dead_letters_total 1", "duplicates_total 1",
		"frames_total 1 kline ignored not_used", "frames_total 1 trade ignored duplicate", "frames_total 2 trade published", "frames_total 1 unknown refused",
		"gaps_total 1", "last_message_timestamp_seconds 5", "lost_ids_total 1", "refused_frames_total 1 malformed", "trades_total 2",
	}, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

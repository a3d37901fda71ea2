package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// startsVar is from how many places TestCopiesFromRandomStartsOfReaders reads.
const startsVar = "AUTOHEDGE_TEST_STARTS"

// copiesLog is a log in which each kind of record has second copies, right at the
// window's edge and elsewhere, with what the rule says of each, spelled out: another
// program than copies decides.
type copiesLog struct {
	records []keyed
	second  []bool
	edges   map[int64]int // copies by their distance, of those at the edge
}

// makeCopiesLog makes one of n records.
func makeCopiesLog(n int, rng *rand.Rand) *copiesLog {
	l := &copiesLog{edges: make(map[int64]int)}
	type quoteKey struct {
		key string
		ch  event.Channel
	}
	last := make(map[string]int64) // identity: its newest offset
	// The quotes of a series by offset; the newest of a sequence as high or higher is
	// looked for from the end.
	type quoteAt struct {
		offset int64
		seq    uint64
	}
	quotes := make(map[quoteKey][]quoteAt)
	identity := make([]string, 0, n)
	isQuote := make([]*event.Quote, 0, n)
	add := func(r keyed, id string, q *event.Quote) {
		o := int64(len(l.records))
		second := false
		switch {
		case q != nil:
			series := quoteKey{string(r.key), q.Channel}
			all := quotes[series]
			for i := len(all) - 1; i >= 0 && all[i].offset >= o-copyWindow && !second; i-- {
				second = all[i].seq >= q.Sequence
			}
			quotes[series] = append(all, quoteAt{o, q.Sequence})
		case id != "":
			before, seen := last[id]
			second = seen && before >= o-copyWindow
			last[id] = o
		}
		l.records, l.second = append(l.records, r), append(l.second, second)
		identity, isQuote = append(identity, id), append(isQuote, q)
	}
	again := func(back int64) {
		i := int64(len(l.records)) - back
		if d := back - copyWindow; d >= -1 && d <= 1 {
			l.edges[back]++
		}
		add(l.records[i], identity[i], isQuote[i])
	}
	for i := 0; len(l.records) < n; i++ {
		o := int64(len(l.records))
		if back := copyWindow - 1 + rng.Int64N(3); o >= back && rng.IntN(20) == 0 {
			again(back) // 65,535, 65,536 or 65,537 records back
			continue
		}
		if o > 0 && rng.IntN(12) == 0 {
			again(1 + rng.Int64N(min(o, 2*copyWindow)))
			continue
		}
		key := fmt.Appendf(nil, "binance|S%d", rng.IntN(40))
		switch rng.IntN(6) {
		case 0, 1:
			m := &event.Trade{Channel: event.ChannelTrade, TradeID: uint64(i + 1), Price: event.NewDecimal(1, 0), RecvTime: int64(i)}
			add(keyed{key, m.AppendWire(nil)}, "trade "+string(m.AppendID(nil, key)), nil)
		case 2:
			m := &event.Trade{Channel: event.ChannelTrade, TradeIDText: fmt.Sprintf("x%d", i), Price: event.NewDecimal(1, 0), RecvTime: int64(i)}
			add(keyed{key, m.AppendWire(nil)}, "trade "+string(m.AppendID(nil, key)), nil)
		case 3, 4:
			m := &event.Quote{Channel: event.ChannelBookTicker, Sequence: uint64(i + 1), RecvTime: int64(i)}
			if rng.IntN(20) == 0 {
				m.Sequence -= rng.Uint64N(m.Sequence) // an older one comes late
			}
			add(keyed{key, m.AppendWire(nil)}, "", m)
		default:
			add(keyed{key, event.Marshal(&event.Clock{Feed: "f", Time: 7})}, "", nil) // never a copy
		}
	}
	return l
}

// append writes the log to a partition.
func (l *copiesLog) append(t *testing.T, c *Client, at TopicPartition) {
	t.Helper()
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	for _, r := range l.records {
		if err := p.Append(at.Topic, at.Partition, r.key, r.value, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// read reads the log from one offset to another, marked or not, and says what is
// not as the rule has it.
func (l *copiesLog) read(t *testing.T, c *Client, at TopicPartition, from, to int64, keep bool) error {
	r, err := c.NewReader(t.Context(), ReaderConfig{Topic: at.Topic, Partition: at.Partition, Offset: from, KeepCopies: keep}, component.Discard())
	if err != nil {
		return err
	}
	defer r.Close()
	r.EndAt(to)
	next := from
	passOver := func(until int64) error {
		for ; next < until; next++ {
			if keep || !l.second[next] {
				return fmt.Errorf("from %d: record %d is missing and no copy", from, next)
			}
		}
		return nil
	}
	for {
		records, err := r.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return passOver(to)
		}
		if err != nil {
			return fmt.Errorf("from %d: %w", from, err)
		}
		for _, rec := range records {
			if err := passOver(rec.Offset); err != nil {
				return err
			}
			if rec.Offset != next || rec.SecondCopy != l.second[next] || !bytes.Equal(rec.Value, l.records[next].value) || !bytes.Equal(rec.Key, l.records[next].key) {
				return fmt.Errorf("from %d: record %d (copy %t) where %d (copy %t) is next", from, rec.Offset, rec.SecondCopy, next, l.second[next])
			}
			next++
		}
	}
}

// Real readers over a real log, from many places: each gives exactly the events that
// it should. A start is at random, or so that a copy or what it is a copy of lies at
// its window's edge.
func TestCopiesFromRandomStartsOfReaders(t *testing.T) {
	starts := scale(t, startsVar, 32) // each reads the window back first
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	at := TopicPartition{event.TopicMarket, 2}
	rng := rand.New(rand.NewPCG(7, 65_536))
	l := makeCopiesLog(3*copyWindow, rng)
	l.append(t, c, at)
	n := int64(len(l.records))
	var seconds []int64
	for o, second := range l.second {
		if second {
			seconds = append(seconds, int64(o))
		}
	}
	for _, d := range []int64{copyWindow - 1, copyWindow, copyWindow + 1} {
		if l.edges[d] < 500 {
			t.Fatalf("%d copies at a distance of %d", l.edges[d], d)
		}
	}
	if err := l.read(t, c, at, 0, n, true); err != nil { // as whole
		t.Fatal(err)
	}
	if err := l.read(t, c, at, 0, n, false); err != nil {
		t.Fatal(err)
	}
	var todo, read atomic.Int64
	todo.Store(int64(starts))
	var all sync.WaitGroup
	for w := range 4 {
		rng := rand.New(rand.NewPCG(uint64(w), 3))
		all.Go(func() {
			for left := todo.Add(-1); left >= 0; left = todo.Add(-1) {
				from := rng.Int64N(n)
				if left%2 == 0 {
					from = max(seconds[rng.IntN(len(seconds))]-rng.Int64N(3), 0)
				}
				// On over what the window does not reach back to any more.
				to := min(from+500+rng.Int64N(2000), n)
				if err := l.read(t, c, at, from, to, left%3 == 0); err != nil {
					t.Error(err)
				}
				read.Add(to - from)
			}
		})
	}
	all.Wait()
	t.Logf("%d records, %d of them second copies; copies made at the window's edge, by distance: %v; %d readers at other starts gave %d of them as they should",
		n, len(seconds), l.edges, starts, read.Load())
}

// A member that takes over in the middle of the log judges as the one before it: what
// two that follow one another handle is what one would have.
func TestCopiesAreDroppedAcrossARestart(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	rng := rand.New(rand.NewPCG(11, 1))
	l := makeCopiesLog(copyWindow+6000, rng)
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	for _, r := range l.records {
		if err := p.Append(event.TopicMarket, 2, r.key, r.value, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	var offsets []int64
	enough := errors.New("enough")
	for restart := 0; ; restart++ {
		stop := int64(len(l.records)) - 5000 + int64(restart)*700
		k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
		if err := k.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := k.Run(t.Context(), copiesUntil(&offsets, stop, enough))
		if err == nil {
			break
		}
		if !errors.Is(err, enough) {
			t.Fatal(err)
		}
	}
	var want []int64
	for o, second := range l.second {
		if !second {
			want = append(want, int64(o))
		}
	}
	if !slices.Equal(offsets, want) {
		t.Errorf("%d records were handled, want %d", len(offsets), len(want))
	}
}

// copiesUntil is a handler that notes the offsets it is given, commits what it has
// done and fails once it is at the offset.
func copiesUntil(offsets *[]int64, stop int64, enough error) func(context.Context, *Assignment) error {
	return func(ctx context.Context, a *Assignment) error {
		a.Ready()
		for {
			records, err := a.Next(ctx)
			if err != nil {
				return err
			}
			for _, r := range records {
				if r.Offset >= stop {
					a.Commit(r.Offset)
					return enough
				}
				*offsets = append(*offsets, r.Offset)
			}
			a.Commit(a.Position())
		}
	}
}

// After a trim that took what filled the window, the rule is judged by what is left:
// a copy whose first one is gone is the first of the log. What a trim leaves as it
// should (CopyWindow before what is read) changes nothing.
func TestCopiesAfterATrim(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	at := TopicPartition{event.TopicMarket, 2}
	rng := rand.New(rand.NewPCG(5, 9))
	l := makeCopiesLog(2*copyWindow+4000, rng)
	l.append(t, c, at)
	n := int64(len(l.records))
	// As trimming does it: the window before what is read stays.
	from := int64(copyWindow + 3000)
	b.admin.DeleteRecords(t, at.Topic, at.Partition, from-copyWindow)
	for _, start := range []int64{from, from + 1, from + 1000} {
		if err := l.read(t, c, at, start, min(start+3000, n), true); err != nil {
			t.Error(err)
		}
	}
	// As retention does it, and a skip then goes on at the log's start: nothing is left
	// to judge by. The rule over what is left says what is a copy.
	start := n - 3000
	b.admin.DeleteRecords(t, at.Topic, at.Partition, start)
	rule := newCopies(copyWindow)
	left := &copiesLog{records: l.records, second: slices.Clone(l.second)}
	differ := 0
	for o := start; o < n; o++ {
		if left.second[o] = rule.second(o, l.records[o].key, l.records[o].value); left.second[o] != l.second[o] {
			differ++
			if left.second[o] {
				t.Errorf("record %d is a copy of one that is gone", o)
			}
		}
	}
	if differ == 0 {
		t.Fatal("no copy's first one is gone")
	}
	for _, s := range []int64{start, start + 1, start + 1500} {
		if err := left.read(t, c, at, s, n, true); err != nil {
			t.Error(err)
		}
		if err := left.read(t, c, at, s, n, false); err != nil {
			t.Error(err)
		}
	}
	t.Logf("after the trim %d of %d records count as first ones that were copies of what is gone", differ, n-start)
}

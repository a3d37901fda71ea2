package bus

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/autohedge/autohedge/stream/event"
)

type keyed struct{ key, value []byte }

// drawMarket draws a record of few possible identities, so that they repeat.
func drawMarket(t *rapid.T) (keyed, event.Message) {
	key := []byte(rapid.SampledFrom([]string{"binance|A", "binance|B"}).Draw(t, "key"))
	channel := rapid.SampledFrom([]event.Channel{event.ChannelTrade, event.ChannelJSON}).Draw(t, "channel")
	number := rapid.Uint64Range(0, 4).Draw(t, "number")
	connection, ordinal := rapid.Uint32Range(0, 1).Draw(t, "connection"), rapid.Uint64Range(0, 2).Draw(t, "ordinal")
	other := rapid.Int64Range(1, 3).Draw(t, "other")
	price := event.NewDecimal(other, 2)
	epoch := rapid.Uint32Range(0, 2).Draw(t, "epoch")
	switch rapid.IntRange(0, 2).Draw(t, "type") {
	case 0:
		m := &event.Trade{Channel: channel, TradeID: number, Price: price, RecvTime: other, Connection: connection, Ordinal: ordinal, Epoch: epoch, Late: other%2 == 1}
		if rapid.Bool().Draw(t, "text") {
			m.TradeIDText = rapid.SampledFrom([]string{"1", "01", "x"}).Draw(t, "id")
		}
		return keyed{key, m.AppendWire(nil)}, m
	case 1:
		m := &event.Quote{Channel: channel, Sequence: number, Bid: price, Ask: price, RecvTime: other, Connection: connection, Ordinal: ordinal, Epoch: epoch}
		return keyed{key, m.AppendWire(nil)}, m
	default:
		m := &event.Coverage{Kind: event.CoverageKind(other), Channel: channel, FromID: number, RecvTime: other, Connection: connection, Ordinal: ordinal, Epoch: epoch}
		return keyed{key, event.Marshal(m)}, m
	}
}

func appendID(m event.Message, key []byte) string {
	switch m := m.(type) {
	case *event.Trade:
		return "trade " + string(m.AppendID(nil, key))
	case *event.Quote:
		return "quote " + string(m.AppendID(nil, key))
	case *event.Coverage:
		return string(m.AppendID(nil, key))
	}
	panic(fmt.Sprintf("%T", m))
}

// The rule, spelled out over the whole log, against the one that keeps a window.
func TestCopiesFollowTheRule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		window := rapid.Int64Range(1, 12).Draw(t, "window")
		n := rapid.IntRange(1, 120).Draw(t, "n")
		offset := rapid.SampledFrom([]int64{0, 1<<32 - 40}).Draw(t, "base")
		c := newCopies(window)
		var log []struct {
			offset int64
			m      event.Message
			key    []byte
		}
		for range n {
			if rapid.IntRange(0, 15).Draw(t, "jump") == 0 {
				offset += rapid.Int64Range(1, 3*window).Draw(t, "gap")
			}
			r, m := drawMarket(t)
			want := false
			for _, old := range log {
				if old.offset < offset-window {
					continue
				}
				q, isQuote := m.(*event.Quote)
				p, wasQuote := old.m.(*event.Quote)
				if isQuote && q.Sequence != 0 {
					want = want || (wasQuote && bytes.Equal(old.key, r.key) && p.Channel == q.Channel && p.Epoch == q.Epoch && p.Sequence >= q.Sequence && p.Sequence != 0)
				} else {
					want = want || appendID(old.m, old.key) == appendID(m, r.key)
				}
			}
			if got := c.second(offset, r.key, r.value); got != want {
				t.Fatalf("offset %d, %s: second copy %t, want %t", offset, appendID(m, r.key), got, want)
			}
			log = append(log, struct {
				offset int64
				m      event.Message
				key    []byte
			}{offset, m, r.key})
			offset++
		}
	})
}

// drawLog makes a log with copies in it, some near, some at the window's edge,
// some beyond.
func drawLog(n int, window int64) []keyed {
	rng := rand.New(rand.NewPCG(4, 2))
	var log []keyed
	for i := range n {
		if i > 0 && rng.IntN(10) == 0 {
			back := 1 + rng.Int64N(2*window)
			if rng.IntN(4) == 0 {
				back = window - 1 + rng.Int64N(3)
			}
			if int(back) <= i {
				log = append(log, log[i-int(back)])
				continue
			}
		}
		key := fmt.Appendf(nil, "binance|S%d", rng.IntN(20))
		switch rng.IntN(5) {
		case 0, 1:
			log = append(log, keyed{key, (&event.Trade{Channel: event.ChannelTrade, TradeID: uint64(i + 1), Price: event.NewDecimal(1, 0), RecvTime: int64(i)}).AppendWire(nil)})
		case 2, 3:
			seq := uint64(i + 1)
			if rng.IntN(20) == 0 {
				seq -= rng.Uint64N(seq) // an older one comes late
			}
			log = append(log, keyed{key, (&event.Quote{Channel: event.ChannelBookTicker, Sequence: seq, RecvTime: int64(i)}).AppendWire(nil)})
		default:
			log = append(log, keyed{key, event.Marshal(&event.Clock{Feed: "f", Time: int64(i + 1)})})
		}
	}
	return log
}

// A reader that starts anywhere, having read the window back, judges every
// record as one that read the log from its start.
func TestCopiesFromAThousandStarts(t *testing.T) {
	const window = 500
	log := drawLog(20_000, window)
	whole := newCopies(window)
	want := make([]bool, len(log))
	copied := 0
	for o, r := range log {
		if want[o] = whole.second(int64(o), r.key, r.value); want[o] {
			copied++
		}
	}
	if copied < 500 {
		t.Fatalf("only %d copies in the log", copied)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		start := rng.IntN(len(log))
		c := newCopies(window)
		for o := max(0, start-window); o < min(len(log), start+2*window); o++ {
			if got := c.second(int64(o), log[o].key, log[o].value); o >= start && got != want[o] {
				t.Fatalf("started at %d, offset %d is a second copy: %t, want %t", start, o, got, want[o])
			}
		}
	}
}

func TestDerivedEventsAreCopiesByTheirID(t *testing.T) {
	c := newCopies(copyWindow)
	id := event.HashStrings("a")
	steps := []struct {
		m    event.Message
		want bool
	}{
		{&event.Signal{ID: id}, false},
		{&event.Signal{ID: id, Rule: "other"}, true},
		{&event.Decision{ID: id}, false}, // another type
		{&event.Fill{ID: event.HashStrings("b")}, false},
		{&event.Fill{ID: event.HashStrings("b")}, true},
		{&event.Control{}, false}, // without an id
		{&event.Control{}, false},
		{&event.Clock{Feed: "f", Time: 5}, false},
		{&event.Clock{Feed: "f", Time: 5}, false},
		{&event.SinkPlan{Topic: "md"}, false},
		{&event.SinkPlan{Topic: "md"}, false},
	}
	for o, s := range steps {
		if got := c.second(int64(o), []byte("k"), event.Marshal(s.m)); got != s.want {
			t.Errorf("record %d, a %T, is a second copy: %t, want %t", o, s.m, got, s.want)
		}
	}
	for o, garbage := range [][]byte{nil, {}, {0xff}, []byte("garbage"), {0x0a, 2, 0x0a, 1}} {
		for range 2 {
			if c.second(int64(100+o), []byte("k"), garbage) {
				t.Errorf("%q is a second copy", garbage)
			}
		}
	}
}

// Each of many keys has series of its own, however far their table grew.
func TestCopiesOfManyKeys(t *testing.T) {
	c := newCopies(copyWindow)
	const keys = 20_000
	offset := int64(0)
	judge := func(key int, value []byte) bool {
		offset++
		return c.second(offset, fmt.Appendf(nil, "binance|S%dUSDT", key), value)
	}
	quote := func(seq uint64) []byte {
		return (&event.Quote{Channel: event.ChannelBookTicker, Sequence: seq, Bid: event.NewDecimal(1, 0)}).AppendWire(nil)
	}
	for k := range keys {
		// The same numbers for all keys, and for both types.
		if judge(k, tradeValue(7)) || judge(k, quote(7)) {
			t.Fatalf("the first records of key %d are copies", k)
		}
	}
	for k := range keys {
		if k < keys/2 && (judge(k, tradeValue(8)) || judge(k, quote(8))) {
			t.Fatalf("newer records of key %d are copies", k)
		}
		if k >= keys/2 && (!judge(k, tradeValue(7)) || !judge(k, quote(6))) {
			t.Fatalf("copies of key %d are not seen", k)
		}
	}
}

func TestJudgingCopiesDoesNotAllocate(t *testing.T) {
	c := newCopies(copyWindow)
	key := []byte("binance|BTCUSDT")
	var value []byte
	offset := int64(0)
	tr := event.Trade{Channel: event.ChannelTrade, Price: event.NewDecimal(123, 2)}
	q := event.Quote{Channel: event.ChannelBookTicker, Bid: event.NewDecimal(1, 0)}
	step := func() {
		tr.TradeID++
		value = tr.AppendWire(value[:0])
		c.second(offset, key, value)
		q.Sequence++
		value = q.AppendWire(value[:0])
		c.second(offset+1, key, value)
		offset += 2
	}
	for range 3 * copyWindow {
		step()
	}
	if n := testing.AllocsPerRun(1000, step); n > 0 {
		t.Errorf("%v allocations a pair of records", n)
	}
}

func BenchmarkCopies(b *testing.B) {
	for _, keys := range []int{10, 100_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			c := newCopies(copyWindow)
			names := make([][]byte, keys)
			for i := range names {
				names[i] = fmt.Appendf(nil, "binance|S%dUSDT", i)
			}
			tr := event.Trade{Channel: event.ChannelTrade, Price: event.MustDecimal("64123.45"), Qty: event.Some(event.MustDecimal("0.01")), EventTime: 1, RecvTime: 2}
			var value []byte
			var offset int64
			for b.Loop() {
				tr.TradeID++ // in rising order, as without copies
				value = tr.AppendWire(value[:0])
				c.second(offset, names[offset%int64(keys)], value)
				offset++
			}
		})
	}
}

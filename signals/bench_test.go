package signals

import (
	"fmt"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

// manySymbols is how many instruments the benchmarks of the state have, with the
// ten rules of tenRules each.
const manySymbols = 10_000

// manyEngine is the state of symbols instruments that have each seen 250 trades:
// every indicator is warmed up.
func manyEngine(tb testing.TB, symbols int) *Engine {
	tb.Helper()
	e := NewEngine(0)
	if err := e.Apply(tenRules(tb)); err != nil {
		tb.Fatal(err)
	}
	now, offset := int64(1_787_000_000_000_000_000), int64(0)
	var buf []byte
	for i := range 250 {
		for s := range symbols {
			now += int64(10 * time.Microsecond)
			cents := int64(6_400_000 + (s*7919+i*104729)%20_011)
			t := event.Trade{Channel: event.ChannelTrade, TradeID: uint64(i + 1), Price: event.NewDecimal(cents, 2), TimeSource: event.TimeEvent,
				Qty: event.Some(event.NewDecimal(int64(1+(s+i)*31%4999), 4)), EventTime: now, RecvTime: now}
			buf = t.AppendWire(buf[:0])
			if _, err := e.Step(offset, fmt.Appendf(nil, "binance|B%05dUSDT", s), buf); err != nil {
				tb.Fatal(err)
			}
			offset++
		}
	}
	return e
}

// BenchmarkSave10kSymbols takes the state of 10,000 symbols with ten rules in one
// go.
func BenchmarkSave10kSymbols(b *testing.B) {
	e := manyEngine(b, manySymbols)
	state := e.AppendState(nil)
	b.ReportAllocs()
	for b.Loop() {
		state = e.AppendState(state[:0])
	}
	b.ReportMetric(float64(len(state))/1e6, "MB")
	b.ReportMetric(float64(len(state))/manySymbols, "B/symbol")
}

// BenchmarkSaveSlice is the longest that a snapshot of the same state holds the
// tick path up: its longest slice, or its first.
func BenchmarkSaveSlice(b *testing.B) {
	e := manyEngine(b, manySymbols)
	var longest time.Duration
	state := e.AppendState(nil)
	slices := 0
	for b.Loop() {
		buf := state[:0]
		for done, first := false, true; !done; slices++ {
			begun := time.Now()
			if first {
				e.BeginSave(buf)
				first = false
			}
			state, done = e.Save(saveSlice)
			longest = max(longest, time.Since(begun))
		}
	}
	b.ReportMetric(float64(longest.Microseconds()), "longest-us")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(slices), "mean-us/slice")
}

// BenchmarkRestore10kSymbols makes an engine of that state.
func BenchmarkRestore10kSymbols(b *testing.B) {
	set := tenRules(b)
	state := manyEngine(b, manySymbols).AppendState(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := restored(0, state, only(set)); err != nil {
			b.Fatal(err)
		}
	}
}

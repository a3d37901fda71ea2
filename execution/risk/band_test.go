package risk

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/autohedge/autohedge/stream/event"
)

// TestMarketOrders: a market order goes out as a limit order at the touch and the smaller
// of band and slippage beyond it, inside the band of what confirms the quote, rounded to
// the inside.
func TestMarketOrders(t *testing.T) {
	for _, c := range []struct {
		name                  string
		slippage, trade, mean string
		buy, sell             string
	}{
		{"no bound of its own: the band", "", "50000", "", "50500", "49500"}, // 50501.01 is beyond the band of the last trade
		{"slippage", "5", "50000", "", "50026", "49974.01"},                  // 50026.0005, 49974.0005
		{"slippage wider than the band", "300", "50000", "", "50500", "49500"},
		{"none", "0", "50000", "", "50001", "49999"},
		{"less than a step", "0.001", "50000", "", "50001", "49999"},
		{"the mean is nearer than the trade", "", "50000", "49800", "50298", "49500"},
		{"the mean alone", "", "", "50200", "50501.01", "49698"},
	} {
		for _, side := range []event.Side{event.Buy, event.Sell} {
			d, v := base()
			want := c.buy
			if side == event.Sell {
				d.Side, d.Action, want = side, event.ActionShort, c.sell
			}
			d.MaxSlippageBps = event.NullDecimal{}
			if c.slippage != "" {
				d.MaxSlippageBps = event.Some(dec(c.slippage))
			}
			v.Trade = nil
			if c.trade != "" {
				v.Trade = &Trade{Price: dec(c.trade), RecvTime: now}
			}
			if c.mean != "" {
				v.MeanMid = event.Some(dec(c.mean))
			}
			o, r := NewGate(DefaultConfig()).Check(d, v)
			if r != nil || o.LimitPrice.Cmp(dec(want)) != 0 || o.TIF != event.IOC {
				t.Errorf("%s, %s: got %+v, %+v, want %s", c.name, side, o, r, want)
			}
		}
	}
	d, v := base()
	d.TIF = event.GTC
	if o, r := NewGate(DefaultConfig()).Check(d, v); r != nil || o.TIF != event.IOC {
		t.Errorf("a market order that would rest: %+v, %+v", o, r)
	}
	d.TIF = event.FOK
	if o, r := NewGate(DefaultConfig()).Check(d, v); r != nil || o.TIF != event.FOK {
		t.Errorf("a market order that fills whole or not at all: %+v, %+v", o, r)
	}
}

func TestMeanMid(t *testing.T) {
	const second, milli = int64(time.Second), int64(time.Millisecond)
	var m MeanMid
	want := func(at int64, text string) {
		t.Helper()
		got := m.Mean(at)
		if got.Valid != (text != "") || got.Valid && got.Decimal.Cmp(dec(text)) != 0 {
			t.Errorf("mean at %s is %q, want %q", time.Duration(at-now), got, text)
		}
	}
	m.Add(now, dec("99"), dec("101"))
	want(now+9*second, "") // the last quote does not confirm itself
	m.Add(now+4*second, dec("99"), dec("101"))
	want(now+4*second, "") // four seconds are too few
	m.Add(now+5*second, dec("0.5"), dec("1.5"))
	want(now+5*second, "100")
	m.Add(now+5*second+milli, dec("99"), dec("101")) // one bad quote for a millisecond
	m.Add(now+10*second, dec("99"), dec("101"))
	want(now+10*second, "99.9901")
	m.Add(now+11*second, dec("199"), dec("201"))  // a real move
	m.Add(now+15*second, dec("0"), dec("201"))    // one side
	m.Add(now+16*second, dec("202"), dec("201"))  // crossed
	want(now+20*second, "126.660066666666666666") // (10.999 x 100 + 0.001 x 1 + 4 x 200) / 15
	want(now+100*second, "")                      // all of it is old
	m.Add(now+200*second, dec("49"), dec("51"))
	m.Add(now+300*second, dec("49"), dec("51")) // held for five seconds, not for a hundred
	want(now+300*second, "")
	m.Add(now+299*second, dec("49"), dec("51")) // a time that goes back
	m.Add(now+305*second, dec("49"), dec("51"))
	want(now+305*second, "50")
}

// TestMeanMidIsAMean: whatever quotes come and however late, the mean is never outside
// of the mids that it is made of.
func TestMeanMidIsAMean(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m MeanMid
		at := now
		low, high := int64(1)<<62, int64(0)
		for range rapid.IntRange(1, 200).Draw(t, "quotes") {
			at += rapid.Int64Range(-int64(time.Second), int64(20*time.Second)).Draw(t, "later")
			mid := rapid.Int64Range(1, 1<<40).Draw(t, "mid")
			low, high = min(low, mid), max(high, mid)
			m.Add(at, event.NewDecimal(mid, 8), event.NewDecimal(mid, 8))
			if got := m.Mean(at); got.Valid && (got.Decimal.Cmp(event.NewDecimal(low, 8)) < 0 && !nearly(got.Decimal, low) || got.Decimal.Cmp(event.NewDecimal(high, 8)) > 0) {
				t.Fatalf("mean is %s, mids are between %d and %d", got, low, high)
			}
		}
	})
}

// nearly allows for the cut at 18 decimals.
func nearly(d event.Decimal, low int64) bool {
	return d.Float64() > float64(low)/1e8*(1-1e-9)
}

func BenchmarkMeanMid(b *testing.B) {
	var m MeanMid
	bid, ask := dec("50000.01"), dec("50000.02")
	at := now
	b.ReportAllocs()
	for b.Loop() {
		at += int64(2 * time.Millisecond)
		m.Add(at, bid, ask)
	}
}

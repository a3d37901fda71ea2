package indicator

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// drawTicks draws a path that is unkind to rolling sums: small steps, flat
// stretches, jumps of the level and outliers.
func drawTicks(t *rapid.T) []Tick {
	base := rapid.SampledFrom([]float64{0.00001234, 1, 97.25, 64591.75}).Draw(t, "base")
	step := base * rapid.SampledFrom([]float64{1e-6, 1e-4, 1e-3}).Draw(t, "step")
	price, now := base, int64(1_700_000_000_000_000_000)
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Tick {
		seen := price
		switch kind := rapid.IntRange(0, 30).Draw(t, "kind"); {
		case kind < 10: // unchanged
		case kind < 28:
			price += step * float64(rapid.IntRange(-5, 5).Draw(t, "steps"))
			price = math.Max(price, base/2)
			seen = price
		case kind == 28: // the level moves
			price = base * rapid.SampledFrom([]float64{0.5, 0.9, 1.1, 3}).Draw(t, "level")
			seen = price
		default: // one print far away
			seen = base * rapid.SampledFrom([]float64{0.01, 10, 1000}).Draw(t, "outlier")
		}
		now += int64(rapid.SampledFrom([]time.Duration{0, time.Microsecond, time.Millisecond, 300 * time.Millisecond, 3 * time.Second}).Draw(t, "wait"))
		half := step * float64(rapid.IntRange(0, 3).Draw(t, "half"))
		qty := rapid.SampledFrom([]float64{0, 0.00001, 0.5, 3, 1e5}).Draw(t, "qty")
		return Tick{Time: now, Price: seen, Qty: qty, Bid: seen - half, Ask: seen + half}
	}), 1, 300).Draw(t, "ticks")
}

// reference computes an indicator's value after the last of ticks from nothing
// but the ticks, in the most straightforward way.
type reference func(ticks []Tick) (value float64, ok bool)

// against compares an indicator with its reference after every tick, and after
// a reset in between. tolerance is in units of the value plus its magnitude.
func against(t *rapid.T, ind Indicator, ref reference, tolerance float64) {
	ticks := drawTicks(t)
	reset := rapid.IntRange(0, len(ticks)).Draw(t, "reset")
	start := 0
	for i := range ticks {
		if i == reset {
			ind.Reset()
			start = i
		}
		got, ok := ind.Update(&ticks[i])
		want, wantOK := ref(ticks[start : i+1])
		if ok != wantOK {
			t.Fatalf("tick %d: ok is %v, want %v (value %v, want %v)", i, ok, wantOK, got, want)
		}
		if !ok {
			continue
		}
		if math.IsNaN(got) || math.IsInf(got, 0) {
			t.Fatalf("tick %d: value is %v", i, got)
		}
		if math.Abs(got-want) > tolerance*(1+math.Abs(want)) {
			t.Fatalf("tick %d: value is %v, want %v", i, got, want)
		}
		if first := ind.Values(nil)[0].Value; first != got {
			t.Fatalf("tick %d: the first of Values is %v, Update gave %v", i, first, got)
		}
	}
}

func prices(ticks []Tick) []float64 {
	p := make([]float64, len(ticks))
	for i := range ticks {
		p[i] = ticks[i].Price
	}
	return p
}

func meanOf(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}

// squaresOf is the sum of squared distances from the mean, in two passes.
func squaresOf(x []float64) float64 {
	m, sum := meanOf(x), 0.0
	equal := true
	for _, v := range x {
		sum += (v - m) * (v - m)
		equal = equal && v == x[0]
	}
	if equal {
		return 0 // the rounding of m is not a deviation
	}
	return sum
}

// expAverage is the closed form: the seed and every later value with its weight.
func expAverage(x []float64, n int) float64 {
	if len(x) < n {
		return meanOf(x)
	}
	alpha := 2 / (float64(n) + 1)
	later := x[n:]
	sum := meanOf(x[:n]) * math.Pow(1-alpha, float64(len(later)))
	for i, v := range later {
		sum += v * alpha * math.Pow(1-alpha, float64(len(later)-1-i))
	}
	return sum
}

func TestEMAReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := EMAConfig{Period: rapid.IntRange(2, 40).Draw(t, "period")}
		c.Fast = rapid.IntRange(0, c.Period-1).Draw(t, "fast")
		against(t, build(t, "ema", &c), func(ticks []Tick) (float64, bool) {
			x := prices(ticks)
			if len(x) < c.Period {
				return 0, false
			}
			fast, slow := x[len(x)-1], expAverage(x, c.Period)
			if c.Fast > 0 {
				fast = expAverage(x, c.Fast)
			}
			return (fast - slow) / slow * 1e4, true
		}, 1e-8)
	})
}

func TestRSIReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 30).Draw(t, "period")
		against(t, build(t, "rsi", &RSIConfig{Period: n}), func(ticks []Tick) (float64, bool) {
			x := prices(ticks)
			var up, down []float64
			for i := 1; i < len(x); i++ {
				up = append(up, math.Max(0, x[i]-x[i-1]))
				down = append(down, math.Max(0, x[i-1]-x[i]))
			}
			if len(up) < n {
				return 0, false
			}
			wilder := func(c []float64) float64 {
				keep := 1 - 1/float64(n)
				sum := meanOf(c[:n]) * math.Pow(keep, float64(len(c)-n))
				for i, v := range c[n:] {
					sum += v / float64(n) * math.Pow(keep, float64(len(c)-n-1-i))
				}
				return sum
			}
			gain, loss := wilder(up), wilder(down)
			if gain+loss == 0 {
				return 50, true
			}
			if loss == 0 {
				return 100, true
			}
			return 100 - 100/(1+gain/loss), true
		}, 1e-9)
	})
}

func TestBollingerReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := BollingerConfig{Period: rapid.IntRange(2, 40).Draw(t, "period"), Width: rapid.Float64Range(0.5, 4).Draw(t, "width"),
			Output: rapid.SampledFrom([]string{BollingerSigmas, BollingerPercentB}).Draw(t, "output")}
		against(t, build(t, "bollinger", &c), func(ticks []Tick) (float64, bool) {
			x := prices(ticks)
			if len(x) < c.Period {
				return 0, false
			}
			x = x[len(x)-c.Period:]
			sd, z := math.Sqrt(squaresOf(x)/float64(c.Period)), 0.0
			if sd > 0 {
				z = (x[len(x)-1] - meanOf(x)) / sd
			}
			if c.Output == BollingerSigmas {
				return z, true
			}
			lower, upper := -c.Width, c.Width
			return (z - lower) / (upper - lower), true
		}, 1e-4)
	})
}

func TestZScoreReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 40).Draw(t, "period")
		against(t, build(t, "zscore", &ZScoreConfig{Period: n}), func(ticks []Tick) (float64, bool) {
			x := prices(ticks)
			if len(x) <= n {
				return 0, false
			}
			now, before := x[len(x)-1], x[len(x)-1-n:len(x)-1]
			sd := math.Sqrt(squaresOf(before) / float64(n-1))
			switch {
			case sd > 0:
				return (now - meanOf(before)) / sd, true
			case now == before[0]:
				return 0, true
			}
			return 0, false
		}, 1e-4)
	})
}

func TestVWAPReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := VWAPConfig{Window: rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Second, 10 * time.Second}).Draw(t, "window"),
			Count: rapid.IntRange(2, 60).Draw(t, "count")}
		warm := -1 // index of the tick that warmed it up; a reset shortens what the reference sees
		seen := 0
		against(t, build(t, "vwap", &c), func(ticks []Tick) (float64, bool) {
			if len(ticks) < seen {
				warm = -1
			}
			seen = len(ticks)
			now := ticks[len(ticks)-1]
			if now.Qty <= 0 {
				return 0, false
			}
			var held []Tick
			var began int64
			for _, x := range ticks {
				if x.Qty <= 0 {
					continue
				}
				if began == 0 {
					began = x.Time
				}
				if c.Window == 0 || now.Time-x.Time <= int64(c.Window) {
					held = append(held, x)
				}
			}
			held = held[max(0, len(held)-c.Count):]
			if warm < 0 && (len(held) == c.Count || (c.Window > 0 && now.Time-began >= int64(c.Window))) {
				warm = len(ticks)
			}
			if warm < 0 {
				return 0, false
			}
			var pq, q float64
			for _, x := range held {
				pq += (x.Price - now.Price) * x.Qty
				q += x.Qty
			}
			vwap := now.Price + pq/q
			return (now.Price - vwap) / vwap * 1e4, true
		}, 1e-6)
	})
}

// What left the window outweighed what is in it, by its size or by its distance: what
// is left of the sums must not be their rounding. Prices there are equal, or the newest
// is twice the others.
func TestVWAPForgetsWhatOutweighed(t *testing.T) {
	const price, size = 1.234e-5, 1e-5
	light := Tick{Time: 1, Price: price, Qty: size}
	for _, heavy := range []Tick{
		{Time: 1, Price: 1000 * price, Qty: 0.5},
		{Time: 1, Price: 10 * price, Qty: 1e5},
		{Time: 1, Price: price, Qty: 1e5},
		{Time: 1, Price: 1e8 * price, Qty: size},
	} {
		for _, count := range []int{2, 4} {
			for lead := range count {
				for _, newest := range []float64{1, 2} {
					v := build(t, "vwap", &VWAPConfig{Count: count})
					for range lead {
						v.Update(&light)
					}
					v.Update(&heavy)
					for range count - 1 {
						v.Update(&light)
					}
					got, _ := v.Update(&Tick{Time: 1, Price: newest * price, Qty: size}) // pushes it out
					mean := (float64(count-1) + newest) / float64(count)
					if want := (newest/mean - 1) * bps; math.Abs(got-want) > 1e-8*(1+want) {
						t.Errorf("after %v left a window of %d, %d before it: %v basis points, want %v", heavy, count, lead, got, want)
					}
				}
			}
		}
	}
}

func TestSpreadReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 20).Draw(t, "smooth")
		against(t, build(t, "spread", &SpreadConfig{Smooth: n}), func(ticks []Tick) (float64, bool) {
			if len(ticks) < n {
				return 0, false
			}
			x := make([]float64, len(ticks))
			for i, q := range ticks {
				x[i] = (q.Ask - q.Bid) / ((q.Ask + q.Bid) / 2) * 1e4
			}
			return expAverage(x, n), true
		}, 1e-9)
	})
}

// A hundred million ticks are too long for a test; three million with a level
// far from zero show that errors do not add up.
func TestNoDrift(t *testing.T) {
	w := newWindow(20)
	x := 64591.75
	for i := range 3_000_000 {
		x += 0.01 * float64(i*7919%11-5)
		w.add(x)
	}
	mean, squares := w.mean(), w.squares()
	if want := meanOf(w.ring); math.Abs(mean-want) > 1e-9 {
		t.Errorf("mean is %v, want %v", mean, want)
	}
	if want := squaresOf(w.ring); math.Abs(squares-want) > 1e-9*want {
		t.Errorf("sum of squares is %v, want %v", squares, want)
	}
}

// Hours without a change keep the RSI where it was, and do not end in 0/0.
func TestRSIFlatForHours(t *testing.T) {
	r := build(t, "rsi", &RSIConfig{Period: 14})
	var value float64
	for i := range 20 {
		value, _ = r.Update(&Tick{Price: 100 + float64(i*7%5)})
	}
	for range 200_000 {
		got, ok := r.Update(&Tick{Price: 100 + float64(19*7%5)})
		if !ok || math.Abs(got-value) > 1e-9 {
			t.Fatalf("value became %v, %v; it was %v", got, ok, value)
		}
	}
	if got, _ := r.Update(&Tick{Price: 150}); got < 99.9 {
		t.Errorf("after the first rise it is %v, want 100", got)
	}
}

package indicator

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/event"
)

// wild are ticks of every kind that an indicator may see: decimals, mids with
// all 53 bits, sizes that are absent, outliers, times that stand or go back.
func wild(seed uint64, n int) []Tick {
	r := rand.New(rand.NewPCG(seed, 3))
	ticks := make([]Tick, n)
	now, price := int64(1_787_000_000_000_000_000), 100+1e5*r.Float64()
	for i := range ticks {
		now += r.Int64N(int64(20 * time.Millisecond))
		if r.IntN(200) == 0 {
			now -= r.Int64N(int64(time.Minute))
		}
		price *= 1 + 0.001*r.NormFloat64()
		x := price
		switch r.IntN(8) {
		case 0: // as it is
		case 1:
			x = max(1e-8, math.Exp(20*r.NormFloat64()))
		default:
			x = math.Round(price*100) / 100
		}
		ticks[i] = Tick{Time: now, Price: x, Bid: x - x*1e-4, Ask: x + x*1e-4*r.Float64()}
		if r.IntN(10) > 0 {
			ticks[i].Qty = float64(r.IntN(100_000)) / 1e4
		}
		if i > 0 && r.IntN(20) == 0 {
			ticks[i].Price = ticks[i-1].Price
		}
	}
	return ticks
}

// variants are parameters for which a test of any indicator runs: its defaults,
// and small windows that are lapped often.
func variants(t failer, name string) []any {
	t.Helper()
	list := []map[string]any{{}}
	switch name {
	case "ema":
		list = append(list, map[string]any{"period": 9, "fast": 3})
	case "vwap":
		list = append(list, map[string]any{"window": "0s", "count": 7}, map[string]any{"window": "300ms", "count": 50})
	case "spread":
		list = append(list, map[string]any{"smooth": 5})
	default:
		list = append(list, map[string]any{"period": 7})
	}
	var out []any
	for _, m := range list {
		cfg, problems := Decode(name, m)
		if err := problems.Err(); err != nil {
			t.Fatalf("%s %v: %v", name, m, err)
		}
		out = append(out, cfg)
	}
	return out
}

// bitsOf is a value that differs when any bit does.
func bitsOf(values []event.Value) map[string]uint64 {
	m := make(map[string]uint64)
	for _, v := range values {
		m[v.Name] = math.Float64bits(v.Value)
	}
	return m
}

// TestStateConformance saves every registered indicator after any number of
// ticks and restores it into a used one: from then on both give the same bits.
func TestStateConformance(t *testing.T) {
	for _, spec := range Registry.All() {
		t.Run(spec.Name, func(t *testing.T) {
			seed := rand.Uint64()
			r := rand.New(rand.NewPCG(seed, 1))
			for _, cfg := range variants(t, spec.Name) {
				for round := range 60 {
					n := round
					if round >= 20 {
						n = r.IntN(9000)
					}
					ticks := wild(seed+uint64(round), n+1500)
					one, two := build(t, spec.Name, cfg), build(t, spec.Name, cfg)
					for i := range r.IntN(300) {
						two.Update(&ticks[i]) // must be forgotten
					}
					feed := func(from []Tick) {
						for i := range from {
							one.Update(&from[i])
							if r.IntN(5000) == 0 {
								one.Reset()
							}
						}
					}
					feed(ticks[:n])
					state := one.AppendState([]byte("before"))
					if !bytes.HasPrefix(state, []byte("before")) {
						t.Fatal("AppendState does not append")
					}
					state = state[len("before"):]
					in := NewStateReader(append(bytes.Clone(state), 1, 2, 3))
					if err := two.RestoreState(in); err != nil || in.Len() != 3 {
						t.Fatalf("seed %d, %+v after %d ticks: %v, %d bytes left of 3", seed, cfg, n, err, in.Len())
					}
					if again := two.AppendState(nil); !bytes.Equal(again, state) {
						t.Fatalf("seed %d, %+v after %d ticks: it saves as %x, restored as %x", seed, cfg, n, state, again)
					}
					if diff := cmp.Diff(bitsOf(one.Values(nil)), bitsOf(two.Values(nil))); diff != "" {
						t.Fatalf("seed %d, %+v after %d ticks:\n%s", seed, cfg, n, diff)
					}
					for i := range ticks[n:] {
						v, ok := one.Update(&ticks[n+i])
						w, ok2 := two.Update(&ticks[n+i])
						if ok != ok2 || math.Float64bits(v) != math.Float64bits(w) {
							t.Fatalf("seed %d, %+v after %d ticks and %d more: %v %v, restored %v %v", seed, cfg, n, i+1, v, ok, w, ok2)
						}
						if i == 0 || i == 1499 {
							if diff := cmp.Diff(bitsOf(one.Values(nil)), bitsOf(two.Values(nil))); ok && diff != "" {
								t.Fatalf("seed %d, %+v after %d ticks and %d more:\n%s", seed, cfg, n, i+1, diff)
							}
						}
					}
				}
			}
		})
	}
}

// A state that was cut anywhere is refused, and one of another window is not
// taken for it.
func TestStateCut(t *testing.T) {
	for _, spec := range Registry.All() {
		for _, cfg := range variants(t, spec.Name) {
			ticks := wild(5, 40)
			ind := build(t, spec.Name, cfg)
			for i := range ticks {
				ind.Update(&ticks[i])
			}
			state := ind.AppendState(nil)
			for n := range state {
				if err := ind.RestoreState(NewStateReader(state[:n])); err == nil {
					t.Errorf("%s %+v: %d of %d bytes were accepted", spec.Name, cfg, n, len(state))
				}
			}
		}
	}
	long, short := build(t, "bollinger", &BollingerConfig{Period: 50, Width: 2, Output: BollingerSigmas}),
		build(t, "bollinger", &BollingerConfig{Period: 20, Width: 2, Output: BollingerSigmas})
	for _, tick := range wild(6, 100) {
		long.Update(&tick)
	}
	if err := short.RestoreState(NewStateReader(long.AppendState(nil))); err == nil {
		t.Error("a window of 50 was read into one of 20")
	}
}

// Every bit of a float comes back, whatever it is.
func TestColumn(t *testing.T) {
	for _, xs := range [][]float64{
		nil, {0}, {1, 2, 3}, {64591.73, 64591.75, 0.01, 1e15, -3.5}, {math.Pi, 1.25, math.E}, {1.25, math.Pi},
		{math.Inf(1), math.NaN(), math.Copysign(0, -1), math.MaxFloat64, math.SmallestNonzeroFloat64, 1 << 53, -1 << 53, 1<<53 - 1},
		{0.00000001, 0.12345678, 21000000}, {1, 1, 1, 1, 1, 1, 1, 1, 1e-10, 0.3},
	} {
		b := appendFloats(nil, xs)
		got := make([]float64, len(xs))
		r := NewStateReader(b)
		r.floats(got)
		if err := r.End(); err != nil {
			t.Errorf("%v: %v", xs, err)
		}
		for i := range xs {
			if math.Float64bits(xs[i]) != math.Float64bits(got[i]) {
				t.Errorf("%v became %v", xs, got)
			}
		}
	}
	cents := make([]float64, 1000)
	for i := range cents {
		cents[i] = (6459173 + float64(i*7919%101)) / 100
	}
	if n := len(appendFloats(nil, cents)); n > 2100 {
		t.Errorf("1000 prices take %d bytes, want about 2 each", n)
	}
}

// FuzzRestoreState: no bytes make an indicator panic, at once or later.
func FuzzRestoreState(f *testing.F) {
	all := Registry.All()
	ticks := wild(7, 300)
	for i, spec := range all {
		for _, cfg := range variants(f, spec.Name) {
			ind := build(f, spec.Name, cfg)
			for i := range ticks {
				ind.Update(&ticks[i])
			}
			f.Add(uint8(i), ind.AppendState(nil))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, state []byte) {
		spec := all[int(which)%len(all)]
		for _, cfg := range variants(t, spec.Name) {
			ind := build(t, spec.Name, cfg)
			err := ind.RestoreState(NewStateReader(state))
			if err != nil {
				ind.Reset()
			} else {
				again := build(t, spec.Name, cfg)
				saved := ind.AppendState(nil)
				if err := again.RestoreState(NewStateReader(saved)); err != nil || !bytes.Equal(again.AppendState(nil), saved) {
					t.Fatalf("%s %+v: a state that was accepted is not when saved again: %v", spec.Name, cfg, err)
				}
			}
			for i := range ticks {
				if _, ok := ind.Update(&ticks[i]); ok {
					ind.Values(nil)
				}
			}
		}
	})
}

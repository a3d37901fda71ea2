package indicator

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/component"
)

var update = flag.Bool("update", false, "write what is into testdata instead of comparing with it")

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

func build(t failer, name string, cfg any) Indicator {
	t.Helper()
	spec, err := Registry.Lookup(name)
	if err != nil {
		t.Fatalf("%v", err)
	}
	ind, err := spec.New.New(cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return ind
}

// walk is a fixed path for tests that compare an indicator with itself.
func walk(n int) []Tick {
	ticks := make([]Tick, n)
	price := 64591.75
	for i := range ticks {
		price += 0.25 * float64(i*7919%13-6)
		ticks[i] = Tick{Time: 1_700_000_000_000_000_000 + int64(i)*int64(10*time.Millisecond), Price: price,
			Qty: 0.001 * float64(1+i*31%17), Bid: price - 0.25, Ask: price + 0.25*float64(1+i%3)}
	}
	return ticks
}

// TestConformance runs every registered indicator through the same behaviours.
func TestConformance(t *testing.T) {
	for _, spec := range Registry.All() {
		t.Run(spec.Name, func(t *testing.T) {
			if spec.Summary == "" || spec.New.Sources == 0 || spec.New.Sources&^(Trades|Quotes) != 0 {
				t.Errorf("summary %q or sources %d missing", spec.Summary, spec.New.Sources)
			}
			cfg := spec.Config()
			if p := cfg.(component.Validator).Validate(); len(p) > 0 {
				t.Errorf("the defaults have problems: %v", p)
			}
			typ := reflect.TypeOf(cfg).Elem()
			for i := range typ.NumField() {
				if f := typ.Field(i); f.Tag.Get("yaml") == "" || f.Tag.Get("doc") == "" {
					t.Errorf("field %s lacks a yaml or doc tag", f.Name)
				}
			}
			again, problems := Decode(spec.Name, throughJSON(t, Encode(cfg)))
			if diff := cmp.Diff(cfg, again); diff != "" || len(problems) > 0 {
				t.Errorf("parameters changed through JSON (%v):\n%s", problems, diff)
			}
			if _, err := spec.New.New(struct{}{}); err == nil {
				t.Error("foreign parameters were accepted")
			}
			zero := reflect.New(typ).Interface()
			if _, err := spec.New.New(zero); err == nil {
				t.Error("parameters that are all zero were accepted")
			}

			ticks := walk(10_000)
			one, two := build(t, spec.Name, cfg), build(t, spec.Name, spec.Config())
			if _, ok := one.Update(&ticks[0]); ok && spec.Name != "spread" {
				t.Error("there is a value after one tick")
			}
			one.Reset()
			names := map[string]bool{}
			warm := 0
			for i := range ticks {
				v, ok := one.Update(&ticks[i])
				w, ok2 := two.Update(&ticks[i])
				if ok != ok2 || v != w {
					t.Fatalf("tick %d: after a reset it gives %v, a new one %v", i, v, w)
				}
				if !ok {
					continue
				}
				warm++
				if math.IsNaN(v) || math.IsInf(v, 0) {
					t.Fatalf("tick %d: value is %v", i, v)
				}
				values := one.Values(nil)
				if len(values) == 0 || values[0].Value != v {
					t.Fatalf("tick %d: Values begins with %v, want %v", i, values, v)
				}
				for _, x := range values {
					names[x.Name] = true
				}
			}
			if warm < 5000 {
				t.Errorf("only %d of %d ticks gave a value", warm, len(ticks))
			}
			for n := range names {
				if n == "" || strings.Trim(n, "abcdefghijklmnopqrstuvwxyz_") != "" {
					t.Errorf("value name %q: want lower case and underscores", n)
				}
			}
			i := 0
			if n := testing.AllocsPerRun(2000, func() {
				one.Update(&ticks[i])
				i++
			}); n != 0 {
				t.Errorf("a tick allocates %v times", n)
			}
			fixtures, err := filepath.Glob(filepath.Join("testdata", spec.Name, "*.txt"))
			if err != nil || len(fixtures) == 0 {
				t.Fatalf("testdata/%s has no *.txt fixture (%v): see README.md of signals", spec.Name, err)
			}
			for _, f := range fixtures {
				t.Run(filepath.Base(f), func(t *testing.T) { runFixture(t, spec.Name, f) })
			}
		})
	}
}

func throughJSON(t *testing.T, m map[string]any) map[string]any {
	t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// runFixture feeds a fixture's ticks and compares what comes out. Its lines:
//
//	params {"period": 3}
//	trade SECONDS PRICE SIZE        -> VALUES or none
//	quote SECONDS BID ASK           -> VALUES or none
//	reset
//
// A # begins a comment line. With -update the right-hand sides are written.
func runFixture(t *testing.T, name, path string) {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	var ind Indicator
	for sc := bufio.NewScanner(strings.NewReader(string(data))); sc.Scan(); {
		line, _, _ := strings.Cut(sc.Text(), "->")
		line = strings.TrimSpace(line)
		verb, rest, _ := strings.Cut(line, " ")
		switch verb {
		case "", "#":
			fmt.Fprintln(&out, line)
			continue
		case "params":
			var m map[string]any
			if err := json.Unmarshal([]byte(rest), &m); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			cfg, problems := Decode(name, m)
			if err := problems.Err(); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			ind = build(t, name, cfg)
			fmt.Fprintln(&out, line)
			continue
		case "reset":
			ind.Reset()
			fmt.Fprintln(&out, line)
			continue
		}
		var n [3]float64
		f := strings.Fields(rest)
		for i := range n {
			if n[i], err = strconv.ParseFloat(f[i], 64); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
		tick := Tick{Time: int64(n[0] * 1e9), Price: n[1], Qty: n[2]}
		if verb == "quote" {
			tick = Tick{Time: tick.Time, Price: (n[1] + n[2]) / 2, Bid: n[1], Ask: n[2]}
		}
		result := "none"
		if _, ok := ind.Update(&tick); ok {
			var parts []string
			for _, v := range ind.Values(nil) {
				parts = append(parts, fmt.Sprintf("%s=%.6g", v.Name, v.Value))
			}
			result = strings.Join(parts, " ")
		}
		fmt.Fprintf(&out, "%s -> %s\n", line, result)
	}
	if *update {
		if err := os.WriteFile(path, []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(data), out.String()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestDecodeProblems(t *testing.T) {
	for _, tc := range []struct {
		name   string
		params map[string]any
		want   string
	}{
		{"emma", nil, `unknown indicator "emma": want one of bollinger, ema, rsi, spread, vwap, zscore`},
		{"ema", map[string]any{"perid": 3}, "perid: unknown parameter of ema: want one of fast, period"},
		{"ema", map[string]any{"period": "x"}, `period: is the text "x": want a number, without quotes`},
		{"ema", map[string]any{"period": 2.5}, "period: is 2.5: want a whole number"},
		{"ema", map[string]any{"period": 0}, "period: is 0 ticks: want 1 to 1048576"},
		{"ema", map[string]any{"period": uint64(5), "fast": 9}, "fast: is 9: want less than period (5), or 0 for the price"},
		{"rsi", map[string]any{"period": 1}, "period: is 1 ticks: want 2 to 1048576"},
		{"bollinger", map[string]any{"width": -1.0}, "width: is -1 standard deviations: want more than 0, at most 100"},
		{"bollinger", map[string]any{"output": "b"}, `output: is "b": want sigmas or percent_b`},
		{"bollinger", map[string]any{"output": 7}, "output: is 7: want a text"},
		{"vwap", map[string]any{"window": 30}, "window: is 30: want a duration such as 500ms, 30s or 5m"},
		{"vwap", map[string]any{"window": "-1s"}, "window: is -1s: want 0s (by count) to 24h"},
		{"vwap", map[string]any{"window": "5s", "count": 100}, ""},
	} {
		_, problems := Decode(tc.name, tc.params)
		got := ""
		if len(problems) > 0 {
			got = problems[0].Error()
		}
		if got != tc.want || len(problems) > 1 {
			t.Errorf("%s %v gave %q (%d problems), want %q", tc.name, tc.params, got, len(problems), tc.want)
		}
	}
}

func BenchmarkEMARSIBollinger(b *testing.B) {
	ema := build(b, "ema", &EMAConfig{Period: 20})
	rsi := build(b, "rsi", &RSIConfig{Period: 14})
	bb := build(b, "bollinger", &BollingerConfig{Period: 20, Width: 2, Output: BollingerSigmas})
	ticks := walk(4096)
	var sum float64
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		t := &ticks[i&4095]
		x, _ := ema.Update(t)
		y, _ := rsi.Update(t)
		z, _ := bb.Update(t)
		sum += x + y + z
	}
	if math.IsNaN(sum) {
		b.Fatal(sum)
	}
}

func BenchmarkEach(b *testing.B) {
	ticks := walk(4096)
	for _, spec := range Registry.All() {
		b.Run(spec.Name, func(b *testing.B) {
			ind := build(b, spec.Name, spec.Config())
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				ticks[i&4095].Time += int64(4096 * 10 * time.Millisecond)
				ind.Update(&ticks[i&4095])
			}
		})
	}
}

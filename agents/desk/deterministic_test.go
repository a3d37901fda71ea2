package desk

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/event"
)

var update = flag.Bool("update", false, "rewrite the expected output of the scripts in testdata")

// still is a clock that stands where it is put; Spent moves it.
type still struct{ now int64 }

func (s *still) Now() int64            { return s.now }
func (s *still) Spent(d time.Duration) { s.now += int64(d) }

// TestDeterministic runs the scripts: a line "config k=v ..." changes the desk's
// configuration, "judge k=v ..." judges a signal; what follows ">" is expected.
func TestDeterministic(t *testing.T) {
	files, err := filepath.Glob("testdata/deterministic/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("script %s (-want +got):\n%s", file, diff)
			}
		})
	}
}

func runScript(t *testing.T, script string) string {
	cfg := scripted()
	var out strings.Builder
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, ">") {
			continue
		}
		out.WriteString(line)
		cmd, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		args := strings.Fields(rest)
		switch cmd {
		case "", "#":
		case "config":
			for _, a := range args {
				set(t, &cfg, a)
			}
			if err := cfg.Validate().Err(); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		case "judge":
			in := input(t, args)
			v, err := NewDeterministic(cfg).Judge(t.Context(), in)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			show(&out, v)
		default:
			t.Fatalf("unknown command %q", cmd)
		}
	}
	return out.String()
}

func set(t *testing.T, c *Config, arg string) {
	k, v, _ := strings.Cut(arg, "=")
	number := func() uint32 {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			t.Fatalf("%s: %v", arg, err)
		}
		return uint32(n)
	}
	switch k {
	case "notional":
		c.Budget.Notional = event.MustDecimal(v)
	case "position_cap":
		c.Budget.PositionCap = event.MustDecimal(v)
	case "quantity_decimals":
		c.Budget.QuantityDecimals = int(number())
	case "allow_short":
		c.Budget.AllowShort = v == "true"
	case "max_spread_bps":
		c.Quote.MaxSpreadBps = event.MustDecimal(v)
	case "edge_bps":
		c.Policy.EdgeBps = float64(number())
	case "probe_every":
		c.Policy.ProbeEvery = number()
	case "fee_bps":
		c.Policy.FeeBps = float64(number())
	case "stop_bps":
		c.Policy.StopBps = number()
	case "target_bps":
		c.Policy.TargetBps = number()
	case "max_slippage_bps":
		c.Policy.MaxSlippageBps = number()
	case "order":
		c.Policy.Order = v
	default:
		t.Fatalf("unknown key %q", k)
	}
}

// scripted is the configuration that the scripts begin with, so that a change of
// a default changes no script.
func scripted() Config {
	c := DefaultConfig()
	c.Budget.PositionCap, c.Quote.MaxSpreadBps = event.MustDecimal("2500"), event.MustDecimal("25")
	c.Policy.EdgeBps, c.Policy.FeeBps = 80, 10
	return c
}

// testSignal is a buy of an oversold market at 100, a deadline two seconds away.
func testSignal() *event.Signal {
	return &event.Signal{
		ID: event.HashStrings("signal"), Rule: "rsi-low", Strategy: "mean", Account: "paper", Venue: "binance", Symbol: "BTCUSDT",
		Side: event.Buy, Time: 1_000_000_000, EventTime: 990_000_000,
		Indicator: "rsi", Value: 29.4, Threshold: 30,
		RefPrice: event.MustDecimal("100.00"), Bid: event.Some(event.MustDecimal("99.99")), Ask: event.Some(event.MustDecimal("100.01")),
		Horizon: int64(5 * time.Minute), Deadline: 3_000_000_000, MaxDriftBps: event.MustDecimal("20"),
	}
}

func input(t *testing.T, args []string) Input {
	s := testSignal()
	in := Input{Signal: s, Lineage: event.Lineage{Topic: event.TopicSignals, Partition: 1, Offset: 7}, Time: &still{s.Time}}
	for _, a := range args {
		k, v, _ := strings.Cut(a, "=")
		float := func() float64 {
			f, err := strconv.ParseFloat(v, 64)
			if err != nil {
				t.Fatalf("%s: %v", a, err)
			}
			return f
		}
		null := func() event.NullDecimal {
			if v == "" {
				return event.NullDecimal{}
			}
			return event.Some(event.MustDecimal(v))
		}
		switch k {
		case "id":
			s.ID = event.HashStrings(v)
		case "side":
			if err := s.Side.UnmarshalText([]byte(v)); err != nil {
				t.Fatal(err)
			}
		case "value":
			s.Value = float()
		case "threshold":
			s.Threshold = float()
		case "ref":
			s.RefPrice = event.MustDecimal(v)
		case "bid":
			s.Bid = null()
		case "ask":
			s.Ask = null()
		case "drift":
			s.MaxDriftBps = event.MustDecimal(v)
		case "quote_age": // milliseconds
			s.Values = append(s.Values, event.Value{Name: quoteAge, Value: float()})
		case "late": // seconds after the signal at which it is judged
			in.Time = &still{s.Time + int64(float()*1e9)}
		case "age": // seconds from the venue's event to the signal's arrival
			s.EventTime = s.Time - int64(float()*1e9)
		case "position":
			in.Position = event.MustDecimal(v)
		case "tick":
			in.PriceTick = event.MustDecimal(v)
		case "step":
			in.QtyStep = event.MustDecimal(v)
		default:
			t.Fatalf("unknown key %q", k)
		}
	}
	return in
}

func show(out *strings.Builder, v *event.Verdict) {
	d := v.Decision
	fmt.Fprintf(out, "> %s %s: %s\n", d.Action, d.Reason, d.Rationale)
	for _, r := range v.Roles {
		fmt.Fprintf(out, ">   %s: %s %s\n", r.Role, r.Verdict, r.Detail)
	}
	if d.Qty.Valid {
		fmt.Fprintf(out, ">   order: %s %s %s %s", d.Side, d.Qty, d.Type, d.TIF)
		if d.LimitPrice.Valid {
			fmt.Fprintf(out, " at %s", d.LimitPrice)
		}
		fmt.Fprintf(out, ", conviction %d, stop %d, target %d, horizon %s\n", d.Conviction, d.StopBps, d.TargetBps, time.Duration(d.Horizon))
	}
}

// BenchmarkDeterministic is one whole judgement that ends in an order.
func BenchmarkDeterministic(b *testing.B) {
	cfg := DefaultConfig()
	cfg.Policy.EdgeBps = 60
	d := NewDeterministic(cfg)
	in := Input{Signal: testSignal(), Time: &still{testSignal().Time}}
	b.ReportAllocs()
	for b.Loop() {
		if v, err := d.Judge(b.Context(), in); err != nil || v.Decision.Action != event.ActionLong {
			b.Fatal(v, err)
		}
	}
}

package signals

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/event"
)

var update = flag.Bool("update", false, "write what is into testdata instead of comparing with it")

// TestScripts runs testdata/*.txt: events in, signals out.
//
//	rules                     a rule set in YAML on the indented lines that follow
//	trade KEY ID T PRICE SIZE [event=T]
//	quote KEY SEQ T BID ASK
//	coverage KEY KIND CHANNEL T
//	clock T
//	type N KEY                a record of another type
//	raw KEY HEX               a record that is no event
//
// T is in seconds, - an absent size. Each line is one record; what follows ->
// on indented lines is what the record fires. -update rewrites it.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(data))
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(data), got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func parseRules(t testing.TB, text string) *RuleSet {
	t.Helper()
	var cfg Config
	if err := yaml.UnmarshalWithOptions([]byte(text), &cfg, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	set, err := CompileRules(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func runScript(t *testing.T, script string) string {
	var out strings.Builder
	e := NewEngine(3)
	offset := int64(100)
	lines := strings.Split(strings.TrimSuffix(script, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if strings.HasPrefix(line, "    ->") {
			continue // output of the run that wrote the script
		}
		fmt.Fprintln(&out, line)
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if f[0] == "rules" {
			var text strings.Builder
			for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "  ") {
				i++
				fmt.Fprintln(&out, lines[i])
				fmt.Fprintln(&text, lines[i][2:])
			}
			if err := e.Apply(parseRules(t, text.String())); err != nil {
				t.Fatal(err)
			}
			continue
		}
		key, value := scriptRecord(t, f)
		before := e.Stats()
		signals, err := e.Step(offset, key, value)
		offset++
		if err != nil {
			fmt.Fprintf(&out, "    -> dead: %v\n", err)
		}
		for _, s := range signals {
			var values []string
			for _, v := range s.Values {
				values = append(values, fmt.Sprintf("%s=%.5g", v.Name, v.Value))
			}
			fmt.Fprintf(&out, "    -> %s %s %s value=%.5g ref=%s bid=%s ask=%s k=%d deadline=%g [%s] %s\n", s.Rule, s.Side, s.Symbol, s.Value, s.RefPrice,
				s.Bid, s.Ask, s.Lineage.K, float64(s.Deadline)/1e9, strings.Join(values, " "), strings.Join(s.Triggers, " "))
		}
		after := e.Stats()
		for _, c := range []struct {
			name string
			n    uint64
		}{{"suppressed", after.Suppressed - before.Suppressed}, {"unusable", after.Unusable - before.Unusable},
			{"ignored", after.Ignored - before.Ignored}, {"reset indicators", after.Resets - before.Resets}} {
			if c.n > 0 {
				fmt.Fprintf(&out, "    -> %s: %d\n", c.name, c.n)
			}
		}
	}
	return out.String()
}

func scriptRecord(t testing.TB, f []string) (key, value []byte) {
	t.Helper()
	seconds := func(s string) int64 {
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatalf("%v: %v", f, err)
		}
		return int64(n * 1e9)
	}
	number := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("%v: %v", f, err)
		}
		return n
	}
	switch f[0] {
	case "trade":
		tr := event.Trade{Channel: event.ChannelTrade, TradeID: number(f[2]), RecvTime: seconds(f[3]), EventTime: seconds(f[3]),
			TimeSource: event.TimeEvent, Price: event.MustDecimal(f[4]), Aggressor: event.Buy}
		if f[5] != "-" {
			tr.Qty = event.Some(event.MustDecimal(f[5]))
		}
		if len(f) > 6 {
			tr.EventTime = seconds(strings.TrimPrefix(f[6], "event="))
		}
		return []byte(f[1]), tr.AppendWire(nil)
	case "quote":
		q := event.Quote{Channel: event.ChannelBookTicker, Sequence: number(f[2]), RecvTime: seconds(f[3]), TimeSource: event.TimeReceive,
			Bid: event.MustDecimal(f[4]), Ask: event.MustDecimal(f[5])}
		return []byte(f[1]), q.AppendWire(nil)
	case "coverage":
		c := event.Coverage{RecvTime: seconds(f[4])}
		if err := c.Kind.UnmarshalText([]byte(f[2])); err != nil {
			t.Fatal(err)
		}
		if err := c.Channel.UnmarshalText([]byte(f[3])); err != nil {
			t.Fatal(err)
		}
		return []byte(f[1]), event.Marshal(&c)
	case "clock":
		return []byte("feed"), event.Marshal(&event.Clock{Feed: "sim", Time: seconds(f[1])})
	case "type":
		return []byte(f[2]), append(binary.AppendUvarint(nil, number(f[1])<<3|2), 0)
	case "raw":
		var b []byte
		if _, err := fmt.Sscanf(f[2], "%x", &b); err != nil {
			t.Fatal(err)
		}
		return []byte(f[1]), b
	}
	t.Fatalf("unknown line %v", f)
	return nil, nil
}

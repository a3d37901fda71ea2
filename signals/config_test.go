package signals

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/signals/indicator"
	"github.com/autohedge/autohedge/stream/event"
)

// oneRule is a valid configuration for tests to spoil.
func oneRule() Config {
	return Config{
		Snapshots:  DefaultConfig().Snapshots,
		Strategies: []StrategyConfig{{Name: "s", Account: "paper"}},
		Rules: []RuleConfig{{Name: "r", Strategy: "s", Venues: []string{"binance"}, Symbols: []string{"BTC*"}, Indicator: "bollinger",
			Params: map[string]any{"period": 30}, Source: SourceTrade, Threshold: -2.5, Direction: CrossDown, Side: event.Buy, Hysteresis: 1,
			DebounceTicks: 2, Debounce: 100 * time.Millisecond, Cooldown: time.Second, Horizon: time.Minute, TTL: 2 * time.Second, MaxDriftBps: event.MustDecimal("7.5")}},
	}
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		spoil func(*Config)
		want  string
	}{
		{func(*Config) {}, ""},
		{func(c *Config) { c.Strategies[0].Name, c.Rules = "", nil }, `strategies[0].name: is empty: want a name`},
		{func(c *Config) { c.Strategies[0].Account = "" }, `strategies[0].account: is empty: want the name of an account`},
		{func(c *Config) { c.Strategies = append(c.Strategies, c.Strategies[0]) }, `strategies[1].name: is "s": another strategy has that name`},
		{func(c *Config) { c.Rules = append(c.Rules, c.Rules[0]) }, `rules[1].name: is "r": another rule has that name`},
		{func(c *Config) { c.Snapshots.Every = -1 }, `snapshots.every: is -1ns: want 0s (only at the end) to 24h`},
		{func(c *Config) { c.Snapshots.Every = 0 }, `snapshots.every: is 0s: a role that is killed replays all of md since it was last stopped in order, and md is not trimmed meanwhile`},
		{func(c *Config) { c.Snapshots.Records = -1 }, `snapshots.records: is -1: want 0 to 1073741824`},
		{func(c *Config) { c.Rules[0].Name = "" }, `rules[0].name: is empty: want a name`},
		{func(c *Config) { c.Rules[0].Strategy = "x" }, `rules[0].strategy: is "x": want one of s`},
		{func(c *Config) { c.Rules[0].Strategy, c.Strategies = "x", nil }, `rules[0].strategy: is "x": want one of the strategies, of which there are none`},
		{func(c *Config) { c.Rules[0].Symbols = []string{"A", ""} }, `rules[0].symbols[1]: is "": want a name or a pattern with * and ?`},
		{func(c *Config) { c.Rules[0].Venues = []string{"a|b"} }, `rules[0].venues[0]: is "a|b": want a name or a pattern with * and ?`},
		{func(c *Config) { c.Rules[0].Indicator = "macd" }, `rules[0].indicator: unknown indicator "macd": want one of bollinger, ema, rsi, spread, vwap, zscore`},
		{func(c *Config) { c.Rules[0].Params = map[string]any{"width": 0} }, `rules[0].params.width: is 0 standard deviations: want more than 0, at most 100`},
		{func(c *Config) { c.Rules[0].Source = "" }, `rules[0].source: is "": want trade or quote`},
		{func(c *Config) { c.Rules[0].Indicator, c.Rules[0].Params = "spread", nil }, `rules[0].source: is trade: spread needs quote`},
		{func(c *Config) {
			c.Rules[0].Indicator, c.Rules[0].Params, c.Rules[0].Source = "vwap", nil, SourceQuote
		}, `rules[0].source: is quote: vwap needs trade`},
		{func(c *Config) { c.Rules[0].Direction = "up" }, `rules[0].direction: is "up": want above, below, cross_up or cross_down`},
		{func(c *Config) { c.Rules[0].Side = event.SideUnknown }, `rules[0].side: is "unknown": want buy or sell`},
		{func(c *Config) { c.Rules[0].Hysteresis = -1 }, `rules[0].hysteresis: is -1: want 0 or more`},
		{func(c *Config) { c.Rules[0].DebounceTicks = -1 }, `rules[0].debounce_ticks: is -1: want 0 to 1048576`},
		{func(c *Config) { c.Rules[0].Debounce = -1 }, `rules[0].debounce: is -1ns: want a duration of 0s or more`},
		{func(c *Config) { c.Rules[0].TTL = 0 }, `rules[0].ttl: is 0s: want a duration of more than 0s`},
		{func(c *Config) { c.Rules[0].Horizon = 0 }, `rules[0].horizon: is 0s: want a duration of more than 0s`},
		{func(c *Config) { c.Rules[0].MaxDriftBps = event.Decimal{} }, `rules[0].max_drift_bps: is 0: want more than 0 basis points`},
		{func(c *Config) {
			r := &c.Rules[0]
			r.Cooldown, r.Hysteresis, r.Debounce, r.DebounceTicks = 0, 0, 0, 0
		}, `rules[0].cooldown: is 0s with neither hysteresis nor debounce: a value that dithers at the threshold fires on every other tick`},
	} {
		c := oneRule()
		tc.spoil(&c)
		got := ""
		p := c.Validate()
		if len(p) > 0 {
			got = p[0].Error()
		}
		if got != tc.want || len(p) > 1 {
			t.Errorf("got %v, want %s", p, tc.want)
		}
	}
}

// The canonical form of a fixed rule makes a change of hashes visible: a change
// of this file makes every stored rule set another one.
func TestCanonicalForm(t *testing.T) {
	set, err := CompileRules(oneRule())
	if err != nil {
		t.Fatal(err)
	}
	got := set.Hash.String() + "\n" + string(set.Body) + "\n"
	path := filepath.Join("testdata", "canonical.golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestRuleSetRoundTrip(t *testing.T) {
	for _, cfg := range []Config{DefaultConfig(), oneRule(), {}} {
		set, err := CompileRules(cfg)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseRuleSet(set.Body)
		if err != nil {
			t.Fatal(err)
		}
		if again.Hash != set.Hash || string(again.Body) != string(set.Body) || len(again.rules) != len(cfg.Rules) {
			t.Errorf("rule set %s came back as %s:\n%s\n%s", set.Hash, again.Hash, set.Body, again.Body)
		}
	}
	for _, bad := range []string{"", "{}", `[] []`} {
		if set, err := ParseRuleSet([]byte(bad)); err == nil {
			t.Errorf("%s made rule set %s", bad, set.Hash)
		}
	}
}

// What this build cannot run of a stored set is inert, and the set keeps the hash
// of its bytes; a parameter that the bytes lack has the default of this build.
func TestStoredRuleSets(t *testing.T) {
	set := compiled(t, oneRule())
	for _, tc := range []struct{ old, changed, inert string }{
		{`"semantics":1`, `"semantics":99`, "rule semantics 99"},
		{`"indicator":"bollinger"`, `"indicator":"macd"`, "macd"},
		{`"width":2`, `"width":-2`, "width"},
		{`"width":2`, `"breadth":2`, "breadth"},
		{`"horizon":`, `"forecast":1,"horizon":`, "forecast"},
		{`"width":2`, `"width":"2"`, "width"},
		{`,"width":2`, ``, ""},
	} {
		body := strings.Replace(string(set.Body), tc.old, tc.changed, 1)
		if body == string(set.Body) {
			t.Fatalf("%s is not in %s", tc.old, body)
		}
		got, err := ParseRuleSet([]byte(body))
		if err != nil {
			t.Fatalf("%s: %v", tc.changed, err)
		}
		rule := event.Hash([]byte(strings.Trim(body, "[]")))
		if want := event.Hash(rule[:]); got.Hash != want || string(got.Body) != body {
			t.Errorf("%s: hash %s, the bytes have %s", tc.changed, got.Hash, want)
		}
		inert := strings.Join(got.Inert(), "\n")
		if (inert == "") != (tc.inert == "") || !strings.Contains(inert, tc.inert) || got.rules[0].Name != set.rules[0].Name {
			t.Errorf("%s: inert %q, name %q", tc.changed, inert, got.rules[0].Name)
		}
		if tc.inert == "" && !got.rules[0].evaluatesLike(set.rules[0]) {
			t.Errorf("%s: a parameter that is absent has not its default: %s", tc.changed, got.rules[0].watch)
		}
	}
}

// Every field of a rule, its account and the order of rules are part of the hash.
func TestHashCoversEverything(t *testing.T) {
	hashes := map[event.ID]string{}
	add := func(what string, c Config) {
		t.Helper()
		set, err := CompileRules(c)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if other, twice := hashes[set.Hash]; twice {
			t.Errorf("%s and %s have one hash", what, other)
		}
		hashes[set.Hash] = what
	}
	add("the rule", oneRule())
	spoil := map[string]any{
		"Name": "q", "Strategy": "other", "Venues": []string{"kraken"}, "Symbols": []string{}, "Indicator": "zscore", "Params": map[string]any{"period": 31},
		"Source": SourceQuote, "Threshold": -2.6, "Direction": Below, "Side": event.Sell, "Hysteresis": 0.5, "DebounceTicks": 3, "Debounce": time.Second,
		"Cooldown": time.Minute, "Horizon": time.Second, "TTL": time.Second, "MaxDriftBps": event.MustDecimal("8"),
	}
	typ := reflect.TypeFor[RuleConfig]()
	for i := range typ.NumField() {
		name := typ.Field(i).Name
		v, ok := spoil[name]
		if !ok {
			t.Fatalf("field %s is not in the test", name)
		}
		c := oneRule()
		c.Strategies = append(c.Strategies, StrategyConfig{Name: "other", Account: "paper"})
		reflect.ValueOf(&c.Rules[0]).Elem().Field(i).Set(reflect.ValueOf(v))
		add(name, c)
	}
	c := oneRule()
	c.Strategies[0].Account = "real"
	add("account", c)
	two := DefaultConfig()
	add("two", two)
	two.Rules[0], two.Rules[1] = two.Rules[1], two.Rules[0]
	add("two in another order", two)

	same := oneRule()
	same.Rules[0].Params = map[string]any{"period": uint64(30), "width": 2.0, "output": indicator.BollingerSigmas}
	set, err := CompileRules(same)
	if err != nil {
		t.Fatal(err)
	}
	if hashes[set.Hash] != "the rule" {
		t.Error("naming a default changes the hash")
	}
}

func TestWildcard(t *testing.T) {
	for _, tc := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true}, {"*", "x", true}, {"", "", true}, {"", "x", false}, {"BTC*", "BTCUSDT", true}, {"BTC*", "BTC", true}, {"BTC*", "ETHBTC", false},
		{"*BTC", "ETHBTC", true}, {"*/USD", "BTC/USD", true}, {"B?C", "BTC", true}, {"B?C", "BC", false}, {"a**b*c", "axxbyyc", true}, {"a*b", "ac", false},
		{"*A*A*A*A*A*A*A*A*X", strings.Repeat("A", 4000), false}, {"*a*b*c*", "xxaxxbxxcxx", true}, {"*??", "a", false}, {"*??", "abc", true},
	} {
		if got := matchWildcard(tc.pattern, tc.s); got != tc.want {
			t.Errorf("%q on %q is %v", tc.pattern, tc.s, got)
		}
	}
}

// The identity and the numbers of signals do not depend on how instruments are
// spread over partitions.
func TestPartitioningDoesNotMatter(t *testing.T) {
	set, err := CompileRules(anywhere(""))
	if err != nil {
		t.Fatal(err)
	}
	run := func(partitions int) map[event.ID]event.Signal {
		m := newMarket(9, true, demoKeys...)
		engines := make([]*Engine, partitions)
		offsets := make([]int64, partitions)
		for i := range engines {
			engines[i] = NewEngine(int32(i))
			if err := engines[i].Apply(set); err != nil {
				t.Fatal(err)
			}
		}
		out := map[event.ID]event.Signal{}
		for range 20_000 {
			rec := m.next()
			p := int(rec.key[len(rec.key)-4]+rec.key[0]) % partitions
			signals, err := engines[p].Step(offsets[p], rec.key, rec.value)
			offsets[p]++
			if err != nil {
				continue
			}
			for _, s := range signals {
				s.Lineage = event.Lineage{}
				if _, twice := out[s.ID]; twice {
					t.Fatalf("two signals have id %s", s.ID)
				}
				out[s.ID] = s
			}
		}
		return out
	}
	one, five := run(1), run(5)
	if diff := cmp.Diff(one, five, cmp.AllowUnexported(event.Decimal{})); diff != "" || len(one) < 100 {
		t.Errorf("%d signals differ:\n%.3000s", len(one), diff)
	}
}

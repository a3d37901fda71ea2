package signals

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/autohedge/autohedge/signals/indicator"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Config says which rules watch which instruments, and to whom a rule belongs.
type Config struct {
	Strategies []StrategyConfig `yaml:"strategies" doc:"who owns rules: each strategy trades for one account"`
	Rules      []RuleConfig     `yaml:"rules" doc:"what to watch and when to fire; empty fires nothing"`
	Snapshots  SnapshotConfig   `yaml:"snapshots" doc:"how often the state is saved: a start replays what came after"`
}

// SnapshotConfig says when a partition's state is saved. What it costs is the
// state's size, written to state.signals each time; what it gives is a start that
// replays no more than came since.
type SnapshotConfig struct {
	Every   time.Duration `yaml:"every" doc:"time between two snapshots of a partition; 0s saves only when the role stops in order"`
	Records int           `yaml:"records" doc:"records of md that must have come since the last one"`
}

// Validate implements component.Validator.
func (c *SnapshotConfig) Validate() component.Problems {
	var p component.Problems
	if c.Every < 0 || c.Every > 24*time.Hour {
		p.Addf("every", "is %s: want 0s (only at the end) to 24h", c.Every)
	}
	if c.Records < 0 || c.Records > 1<<30 {
		p.Addf("records", "is %d: want 0 to %d", c.Records, 1<<30)
	}
	if c.Every == 0 {
		p.Warnf("every", "is 0s: a role that is killed replays all of md since it was last stopped in order, and md is not trimmed meanwhile")
	}
	return p
}

// StrategyConfig is the owner of rules.
type StrategyConfig struct {
	Name    string `yaml:"name" doc:"name of the strategy, unique"`
	Account string `yaml:"account" doc:"account that its signals are judged and traded for"`
}

// Values of RuleConfig.Source.
const (
	SourceTrade = "trade"
	SourceQuote = "quote"
)

// Values of RuleConfig.Direction. The crossings fire when a value that was seen
// on the quiet side goes beyond the threshold; the levels need not have seen the
// quiet side first, and wait for a cooldown to end where a crossing is dropped.
const (
	Above     = "above"
	Below     = "below"
	CrossUp   = "cross_up"
	CrossDown = "cross_down"
)

// RuleConfig is one rule.
type RuleConfig struct {
	Name          string         `yaml:"name" doc:"name of the rule, unique"`
	Strategy      string         `yaml:"strategy" doc:"name of the strategy it belongs to"`
	Venues        []string       `yaml:"venues" doc:"venues it watches, * and ? are wildcards; empty is all"`
	Symbols       []string       `yaml:"symbols" doc:"symbols it watches as the venue writes them, * and ? are wildcards; empty is all"`
	Indicator     string         `yaml:"indicator" doc:"what it computes (see autohedge list indicators)"`
	Params        map[string]any `yaml:"params" doc:"parameters of the indicator that differ from its defaults"`
	Source        string         `yaml:"source" doc:"trade (every trade) or quote (the mid of every top of book)"`
	Threshold     float64        `yaml:"threshold" doc:"value that is compared, in the indicator's unit"`
	Direction     string         `yaml:"direction" doc:"above, below, cross_up or cross_down"`
	Side          event.Side     `yaml:"side" doc:"buy or sell: what the signal suggests"`
	Hysteresis    float64        `yaml:"hysteresis" doc:"how far the value must come back behind the threshold before the rule is armed again"`
	DebounceTicks int            `yaml:"debounce_ticks" doc:"values in a row beyond the threshold before it fires; 0 and 1 are the first"`
	Debounce      time.Duration  `yaml:"debounce" doc:"receive time beyond the threshold before it fires"`
	Cooldown      time.Duration  `yaml:"cooldown" doc:"receive time after a signal in which the rule is silent on that instrument"`
	Horizon       time.Duration  `yaml:"horizon" doc:"how long the effect is expected to last; a position that was entered on it is closed when that has passed since its first fill"`
	TTL           time.Duration  `yaml:"ttl" doc:"time after the trigger in which a decision still counts"`
	MaxDriftBps   event.Decimal  `yaml:"max_drift_bps" doc:"how far the price may move against the signal before the order is written, in basis points"`
}

// SetDefaults fills a rule before a list of the configuration is decoded into it:
// what a rule leaves out is what the default rules have. The threshold has no
// default: it is no number until it is given.
func (r *RuleConfig) SetDefaults() {
	*r = RuleConfig{Source: SourceTrade, Threshold: math.NaN(), Horizon: 5 * time.Second, TTL: 2 * time.Second, MaxDriftBps: event.MustDecimal("10")}
}

// DefaultConfig returns mean-reversion rules over the simulator's symbols, at
// least one for each indicator, that fire some signals a second in all.
func DefaultConfig() Config {
	reversion := func(name, ind string, params map[string]any, direction string, threshold, hysteresis float64, side event.Side) RuleConfig {
		var r RuleConfig
		r.SetDefaults()
		r.Name, r.Strategy, r.Venues, r.Symbols = name, "reversion", []string{"binance", "coinbase"}, []string{"BTC*", "ETH*", "SOL*"}
		r.Indicator, r.Params, r.Threshold, r.Direction, r.Side, r.Hysteresis = ind, params, threshold, direction, side, hysteresis
		r.Cooldown = 3 * time.Second
		return r
	}
	ema := map[string]any{"period": 200, "fast": 10}
	rsi := map[string]any{"period": 50}
	bands := map[string]any{"period": 100, "width": 2.0}
	zscore := map[string]any{"period": 150}
	vwap := map[string]any{"window": "5s", "count": 2048}
	spread := map[string]any{"smooth": 3}
	c := Config{
		Snapshots:  SnapshotConfig{Every: 30 * time.Second, Records: 1000},
		Strategies: []StrategyConfig{{Name: "reversion", Account: "paper"}, {Name: "liquidity", Account: "paper"}},
		Rules: []RuleConfig{
			reversion("ema-dip", "ema", ema, CrossDown, -10, 5, event.Buy),
			reversion("ema-spike", "ema", ema, CrossUp, 10, 5, event.Sell),
			reversion("rsi-oversold", "rsi", rsi, CrossDown, 35, 10, event.Buy),
			reversion("rsi-overbought", "rsi", rsi, CrossUp, 65, 10, event.Sell),
			reversion("bollinger-low", "bollinger", bands, CrossDown, -3.5, 2, event.Buy),
			reversion("bollinger-high", "bollinger", bands, CrossUp, 3.5, 2, event.Sell),
			reversion("zscore-low", "zscore", zscore, CrossDown, -4, 2, event.Buy),
			reversion("zscore-high", "zscore", zscore, CrossUp, 4, 2, event.Sell),
			reversion("vwap-discount", "vwap", vwap, CrossDown, -12, 6, event.Buy),
			reversion("vwap-premium", "vwap", vwap, CrossUp, 12, 6, event.Sell),
			reversion("spread-wide", "spread", spread, CrossUp, 6, 3, event.Sell),
			reversion("spread-normal", "spread", spread, CrossDown, 2, 4, event.Buy),
		},
	}
	for i := range c.Rules {
		switch r := &c.Rules[i]; r.Indicator {
		case "spread":
			r.Strategy, r.Source = "liquidity", SourceQuote
		case "vwap": // the desk does not judge while the spread is wide, so that spread rules alone would never sell
			r.Strategy = "liquidity"
		}
	}
	return c
}

// Validate implements component.Validator. It does no I/O.
func (c *Config) Validate() component.Problems {
	var p component.Problems
	p.Under("snapshots", c.Snapshots.Validate())
	accounts := make(map[string]bool, len(c.Strategies))
	var names []string
	for i, s := range c.Strategies {
		path := fmt.Sprintf("strategies[%d]", i)
		switch {
		case s.Name == "":
			p.Addf(path+".name", "is empty: want a name")
		case accounts[s.Name]:
			p.Addf(path+".name", "is %q: another strategy has that name", s.Name)
		default:
			names = append(names, s.Name)
		}
		accounts[s.Name] = true
		if s.Account == "" {
			p.Addf(path+".account", "is empty: want the name of an account")
		}
		checkName(&p, path+".name", s.Name)
	}
	rules := make(map[string]bool, len(c.Rules))
	for i := range c.Rules {
		r := &c.Rules[i]
		path := fmt.Sprintf("rules[%d]", i)
		p.Under(path, r.Validate())
		if r.Name != "" && rules[r.Name] {
			p.Addf(path+".name", "is %q: another rule has that name", r.Name)
		}
		rules[r.Name] = true
		if !accounts[r.Strategy] || r.Strategy == "" {
			p.Addf(path+".strategy", "is %q: want one of %s", r.Strategy, orNone(names))
		}
	}
	return p
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "the strategies, of which there are none"
	}
	return strings.Join(names, ", ")
}

// Validate reports the problems of one rule, apart from what concerns others.
func (r *RuleConfig) Validate() component.Problems {
	var p component.Problems
	if r.Name == "" {
		p.Addf("name", "is empty: want a name")
	}
	checkName(&p, "name", r.Name)
	patterns(&p, "venues", r.Venues)
	patterns(&p, "symbols", r.Symbols)
	r.validateIndicator(&p)
	if math.IsNaN(r.Threshold) {
		p.Addf("threshold", "is missing: want a finite number, in the indicator's unit")
	}
	finite := func(path string, v float64) {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			p.Addf(path, "is %v: want a finite number", v)
		}
	}
	if !math.IsNaN(r.Threshold) {
		finite("threshold", r.Threshold)
	}
	finite("hysteresis", r.Hysteresis)
	if r.Hysteresis < 0 {
		p.Addf("hysteresis", "is %v: want 0 or more", r.Hysteresis)
	}
	switch r.Direction {
	case Above, Below, CrossUp, CrossDown:
	default:
		p.Addf("direction", "is %q: want %s, %s, %s or %s", r.Direction, Above, Below, CrossUp, CrossDown)
	}
	if r.Side != event.Buy && r.Side != event.Sell {
		p.Addf("side", "is %q: want buy or sell", r.Side)
	}
	if r.DebounceTicks < 0 || r.DebounceTicks > 1<<20 {
		p.Addf("debounce_ticks", "is %d: want 0 to %d", r.DebounceTicks, 1<<20)
	}
	for _, d := range []struct {
		path  string
		value time.Duration
		least time.Duration
	}{{"debounce", r.Debounce, 0}, {"cooldown", r.Cooldown, 0}, {"horizon", r.Horizon, 1}, {"ttl", r.TTL, 1}} {
		if d.value < d.least {
			p.Addf(d.path, "is %s: want a duration of %s", d.value, map[bool]string{true: "0s or more", false: "more than 0s"}[d.least == 0])
		}
	}
	if r.MaxDriftBps.Sign() <= 0 {
		p.Addf("max_drift_bps", "is %s: want more than 0 basis points", r.MaxDriftBps)
	}
	if r.Cooldown == 0 && r.Hysteresis == 0 && r.Debounce == 0 && r.DebounceTicks <= 1 {
		p.Warnf("cooldown", "is 0s with neither hysteresis nor debounce: a value that dithers at the threshold fires on every other tick")
	}
	return p
}

// checkReach warns of a threshold that the indicator never goes beyond, and of a
// quiet side that it never comes back to.
func (r *RuleConfig) checkReach(p *component.Problems, low, high float64) {
	if low == high {
		return
	}
	up := r.Direction == Above || r.Direction == CrossUp
	if (up && r.Threshold >= high) || (!up && r.Threshold <= low) {
		p.Warnf("threshold", "is %v: %s is never %s that, it is %v to %v: the rule cannot fire", r.Threshold, r.Indicator, map[bool]string{true: "above", false: "below"}[up], low, high)
		return
	}
	if quiet := r.Threshold - r.Hysteresis; up && quiet < low {
		p.Warnf("hysteresis", "is %v: %s is %v to %v and never comes back to %v: the rule is not armed (again)", r.Hysteresis, r.Indicator, low, high, quiet)
	}
	if quiet := r.Threshold + r.Hysteresis; !up && quiet > high {
		p.Warnf("hysteresis", "is %v: %s is %v to %v and never comes back to %v: the rule is not armed (again)", r.Hysteresis, r.Indicator, low, high, quiet)
	}
}

// maxName bounds the names of rules and strategies, which become labels of metrics.
const maxName = 64

// checkName refuses a name that does not print in one line.
func checkName(p *component.Problems, path, name string) {
	printable := utf8.ValidString(name) && strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
	if len(name) > maxName || !printable {
		p.Addf(path, "is %.80q: want at most %d bytes of printable text in one line", name, maxName)
	}
}

// Watches reports whether the rule watches one of the venue's symbols; without any,
// whether it watches the venue.
func (r *RuleConfig) Watches(venue string, symbols []string) bool {
	if !anyMatches(r.Venues, venue) {
		return false
	}
	return len(symbols) == 0 || slices.ContainsFunc(symbols, func(s string) bool { return anyMatches(r.Symbols, s) })
}

func (r *RuleConfig) validateIndicator(p *component.Problems) {
	if r.Source != SourceTrade && r.Source != SourceQuote {
		p.Addf("source", "is %q: want %s or %s", r.Source, SourceTrade, SourceQuote)
	}
	spec, err := indicator.Registry.Lookup(r.Indicator)
	if err != nil {
		p.Addf("indicator", "%v", err)
		return
	}
	_, problems := indicator.Decode(r.Indicator, r.Params)
	p.Under("params", problems)
	if r.Source == SourceTrade && spec.New.Sources&indicator.Trades == 0 {
		p.Addf("source", "is trade: %s needs %s", r.Indicator, SourceQuote)
	}
	if r.Source == SourceQuote && spec.New.Sources&indicator.Quotes == 0 {
		p.Addf("source", "is quote: %s needs %s", r.Indicator, SourceTrade)
	}
	if len(*p) == 0 {
		r.checkReach(p, spec.New.Low, spec.New.High)
	}
}

func patterns(p *component.Problems, path string, list []string) {
	for i, s := range list {
		if s == "" || strings.ContainsRune(s, '|') {
			p.Addf(fmt.Sprintf("%s[%d]", path, i), "is %q: want a name or a pattern with * and ?", s)
		}
	}
}

package config

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/autohedge/autohedge/agents"
	"github.com/autohedge/autohedge/agents/desk"
	"github.com/autohedge/autohedge/cmd/internal/obs"
	"github.com/autohedge/autohedge/execution"
	"github.com/autohedge/autohedge/signals"
	"github.com/autohedge/autohedge/sinks"
	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
)

// Config is the whole configuration file.
type Config struct {
	Data       string            `yaml:"data" doc:"Data folder of everything embedded; empty takes $AUTOHEDGE_DATA, $XDG_DATA_HOME/autohedge or ~/.local/share/autohedge."`
	MaxBytes   int64             `yaml:"data_max_bytes" doc:"Bytes that the data folder may take: topics, ClickHouse and spill. At 95 % of it new risk halts. 0 takes 80 % of what it has and its file system has free."`
	Log        obs.LogConfig     `yaml:"log" doc:"What is logged to stderr."`
	HTTP       obs.HTTPConfig    `yaml:"http" doc:"Metrics and health."`
	Kafka      bus.Config        `yaml:"kafka" doc:"Kafka. Without brokers the embedded one is used, or started."`
	ClickHouse clickhouse.Config `yaml:"clickhouse" doc:"ClickHouse. Without a URL the embedded engine is used, or started."`
	Embedded   Embedded          `yaml:"embedded" doc:"Where the embedded servers listen."`
	Stream     stream.Config     `yaml:"stream" doc:"Market data: the feeds."`
	Signals    signals.Config    `yaml:"signals" doc:"Strategies and the rules that fire signals."`
	Agents     agents.Config     `yaml:"agents" doc:"The desk that judges signals."`
	Execution  execution.Config  `yaml:"execution" doc:"Accounts, brokers and hard limits."`
	Sinks      sinks.Config      `yaml:"sinks" doc:"Landing in ClickHouse."`
}

// Embedded is where the embedded servers listen.
type Embedded struct {
	Kafka      string `yaml:"kafka" doc:"host:port; empty takes 127.0.0.1:9292, or a free port where that is busy"`
	ClickHouse string `yaml:"clickhouse" doc:"host:port; empty takes 127.0.0.1:8223, or a free port where that is busy"`
	// KafkaMaxBytes is 0 where it follows from the memory.
	KafkaMaxBytes int64 `yaml:"kafka_max_bytes" doc:"bytes of the embedded Kafka's log, beyond which the oldest records of md, signals, decisions and dead go, landed or not; a start reads all of it, about a second for each GiB, and keeps about a tenth of it in memory; 0 takes a quarter of the memory there is, at most 4 GiB"`
	OpenReads     bool  `yaml:"open_reads" doc:"whether every program of this machine may read topics and tables, journal, control and what copies them apart; false asks for the credentials of run/kafka.json and run/clickhouse.json, which only the data folder's owner can read"`
}

// Validate reports all problems.
func (e *Embedded) Validate() component.Problems {
	var p component.Problems
	for _, a := range []struct{ path, value string }{{"kafka", e.Kafka}, {"clickhouse", e.ClickHouse}} {
		if a.value == "" {
			continue
		}
		if err := obs.CheckAddress(a.value); err != nil {
			p.Addf(a.path, "%v: want host:port, or nothing for the default", err)
		}
	}
	if e.KafkaMaxBytes != 0 && e.KafkaMaxBytes < bus.MinLogBytes {
		p.Addf("kafka_max_bytes", "is %d; want %d (256 MiB) or more, or 0 for what fits the memory", e.KafkaMaxBytes, int64(bus.MinLogBytes))
	}
	return p
}

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{
		Log: obs.DefaultLogConfig(), Kafka: bus.DefaultConfig(), ClickHouse: clickhouse.DefaultConfig(), Stream: stream.DefaultConfig(),
		Signals: signals.DefaultConfig(), Agents: agents.DefaultConfig(), Execution: execution.DefaultConfig(), Sinks: sinks.DefaultConfig(), Embedded: Embedded{OpenReads: true},
	}
}

// Validate reports all problems of all parts; it does no I/O.
func (c *Config) Validate() component.Problems {
	var p component.Problems
	if c.MaxBytes != 0 && c.MaxBytes < 256<<20 {
		p.Addf("data_max_bytes", "is %d; want at least 268435456 (256 MiB), or 0 for 80 %% of the file system", c.MaxBytes)
	}
	p.Under("log", c.Log.Validate())
	p.Under("http", c.HTTP.Validate())
	p.Under("kafka", c.Kafka.Validate())
	p.Under("clickhouse", c.ClickHouse.Validate())
	p.Under("embedded", c.Embedded.Validate())
	p.Under("stream", c.Stream.Validate())
	p.Under("signals", c.Signals.Validate())
	p.Under("agents", c.Agents.Validate())
	p.Under("execution", c.Execution.Validate())
	p.Under("sinks", c.Sinks.Validate())
	c.accounts(&p)
	c.checkListeners(&p)
	c.checkExposed(&p)
	if p.Err() == nil {
		c.checkWatched(&p)
		c.checkCycle(&p)
		c.checkCaps(&p)
	}
	return p
}

// checkCycle warns of rules whose signals are too old by the time the desk has judged
// them.
func (c *Config) checkCycle(p *component.Problems) {
	need := c.Agents.CycleLatency()
	short, first := 0, -1
	for i := range c.Signals.Rules {
		if c.Signals.Rules[i].TTL < need {
			if short++; first < 0 {
				first = i
			}
		}
	}
	if short > 0 {
		r := &c.Signals.Rules[first]
		p.Warnf("agents.llm", "%d calls, one after another, take about %s (usual_latency %s each), but the ttl of %d rules is shorter (%q: %s): their signals abstain by deadline, after calls that are paid for",
			desk.Calls, need, c.Agents.LLM.UsualLatency, short, r.Name, r.TTL)
	}
}

// checkCaps warns where the desk's caps add up to more than an account may hold of an
// instrument: hard limits then refuse what the desk decides.
func (c *Config) checkCaps(p *component.Problems) {
	strategies := make(map[string]uint64)
	for _, s := range c.Signals.Strategies {
		strategies[s.Account]++
	}
	position := c.Agents.Budget.PositionCap.Money()
	for i := range c.Execution.Accounts {
		a := &c.Execution.Accounts[i]
		n := strategies[a.Name]
		for _, currency := range a.Limits.MaxPositionNotional.Currencies() {
			if limit := a.Limits.MaxPositionNotional[currency].Money(); position.Mul64(n).GreaterThan(limit) {
				p.Warnf(fmt.Sprintf("execution.accounts[%d].limits.max_position_notional.%s", i, currency),
					"is %s, but %d strategies of account %s may each hold %s of an instrument (agents.budget.position_cap): limits will refuse orders that the desk decides", limit, n, a.Name, position)
			}
		}
	}
}

// checkListeners refuses one address for two listeners.
func (c *Config) checkListeners(p *component.Problems) {
	taken := make(map[string]string)
	for _, l := range []struct{ path, addr string }{{"http.listen", c.HTTP.Listen}, {"embedded.kafka", c.Embedded.Kafka}, {"embedded.clickhouse", c.Embedded.ClickHouse}} {
		_, port, err := net.SplitHostPort(l.addr)
		if err != nil || port == "0" {
			continue
		}
		if other, ok := taken[port]; ok {
			p.Addf(l.path, "is %s: %s has that port", l.addr, other)
		}
		taken[port] = l.path
	}
}

// checkExposed refuses embedded servers that other machines reach without a password.
func (c *Config) checkExposed(p *component.Problems) {
	if a := c.Embedded.ClickHouse; obs.CheckAddress(a) == nil && c.ClickHouse.URL == "" && !component.IsLoopback(a) && c.ClickHouse.Password.IsZero() {
		p.Addf("embedded.clickhouse", "is %s, which other machines reach: want clickhouse.user and clickhouse.password, or a loopback address", a)
	}
	if a := c.Embedded.Kafka; obs.CheckAddress(a) == nil && len(c.Kafka.Brokers) == 0 && !component.IsLoopback(a) {
		p.Addf("embedded.kafka", "is %s, which other machines reach: the embedded Kafka listens on loopback only; use Apache Kafka", a)
	}
}

// checkWatched warns of feeds that no rule watches, and of rules that watch no feed:
// both are legal, and nothing comes of them. The default feeds may be watched in part.
func (c *Config) checkWatched(p *component.Problems) {
	feeds, rules := c.Stream.Feeds, c.Signals.Rules
	watches := func(r *signals.RuleConfig, f *stream.FeedConfig) bool { return r.Watches(f.VenueID(), f.Symbols) }
	byDefault := reflect.DeepEqual(feeds, stream.DefaultConfig().Feeds)
	for i := range feeds {
		if !byDefault && !slices.ContainsFunc(rules, func(r signals.RuleConfig) bool { return watches(&r, &feeds[i]) }) {
			p.Warnf(fmt.Sprintf("stream.feeds[%d]", i), "no rule of signals.rules watches venue %s, symbols %s: what it sends is recorded and fires nothing",
				feeds[i].VenueID(), cmp.Or(strings.Join(feeds[i].Symbols, ", "), "any"))
		}
	}
	var idle []int
	for i := range rules {
		if !slices.ContainsFunc(feeds, func(f stream.FeedConfig) bool { return watches(&rules[i], &f) }) {
			idle = append(idle, i)
		}
	}
	if len(idle) == len(rules) {
		return // the feeds are warned of
	}
	for _, i := range idle {
		p.Warnf(fmt.Sprintf("signals.rules[%d]", i), "rule %q watches no symbol of stream.feeds (venues %v, symbols %v, in their case): it never fires",
			rules[i].Name, rules[i].Venues, rules[i].Symbols)
	}
}

// accounts checks what two parts must agree on: a strategy trades for an account
// that execution knows.
func (c *Config) accounts(p *component.Problems) {
	known := make(map[string]bool)
	var names []string
	for _, a := range c.Execution.Accounts {
		known[a.Name] = true
		names = append(names, a.Name)
	}
	for i, s := range c.Signals.Strategies {
		if !known[s.Account] && len(known) > 0 {
			p.Addf(fmt.Sprintf("signals.strategies[%d].account", i), "unknown account %q: want one of execution.accounts: %s", s.Account, strings.Join(names, ", "))
		}
	}
}

// Load reads a file over the defaults and validates it. lookup is the
// environment. The error is about reading the file; what is wrong in it are
// findings, warnings among them.
func Load(path string, lookup func(string) (string, bool)) (Config, Findings, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return Config{}, nil, fmt.Errorf("reading configuration: %w", err)
	}
	c, f := Parse(path, src, lookup)
	return c, f, nil
}

// Parse is Load of a text.
func Parse(name string, src []byte, lookup func(string) (string, bool)) (Config, Findings) {
	c := Default()
	d, f := decode(name, src, lookup, &c)
	f = append(f, d.locate(c.Validate())...)
	// In the order of the file; what has no place comes last.
	slices.SortStableFunc(f, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b2i(a.Line == 0), b2i(b.Line == 0)), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return c, f
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Environment returns the environment, with the variables of a .env file beside
// the configuration, or in the working folder, where the environment has none.
func Environment(configPath string) (func(string) (string, bool), error) {
	extra := make(map[string]string)
	dirs := []string{"."}
	if configPath != "" {
		dirs = []string{filepath.Dir(configPath), "."}
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, ".env")
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		if err := parseEnv(path, text, extra); err != nil {
			return nil, err
		}
	}
	return func(name string) (string, bool) {
		if v, ok := os.LookupEnv(name); ok {
			return v, true
		}
		v, ok := extra[name]
		return v, ok
	}, nil
}

func parseEnv(path string, text []byte, into map[string]string) error {
	s := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; s.Scan(); n++ {
		line := strings.TrimSpace(s.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !ok || strings.TrimSpace(name) == "" {
			return fmt.Errorf("%s:%d: want NAME=value", path, n)
		}
		value = strings.TrimSpace(value)
		if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
			value = value[1 : len(value)-1]
		}
		if _, set := into[strings.TrimSpace(name)]; !set {
			into[strings.TrimSpace(name)] = value
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

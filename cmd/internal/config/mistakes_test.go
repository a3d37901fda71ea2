package config

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// mistakes are testdata/NAME.bad.yaml and all that is said of each, without the
// file's name.
var mistakes = []struct {
	name string
	want []string
}{
	{"account", []string{
		`:3:34: signals.strategies[0].account: unknown account "papr": want one of execution.accounts: paper`,
	}},
	{"accounts", []string{
		`:3:13: execution.accounts[0].name: is "My Account": want 1 to 32 lower case letters, digits and hyphens, not a hyphen first`,
		`:4:15: execution.accounts[0].broker: unknown broker "alpaka": want one of paper`,
		`:6:13: execution.accounts[2].name: "paper" is taken by accounts[1]`,
		`:9:22: execution.accounts[2].settings.paper.taker_bps: is -1: want 0 to 1000 basis points with at most 4 decimals`,
		`:10:25: execution.accounts[2].settings.paper.default_size: is 0: want an amount of quote currency above 0`,
	}},
	{"account_renamed", []string{
		`: signals.strategies[0].account: unknown account "paper": want one of execution.accounts: main; the file does not give signals.strategies, so its default applies: give the list`,
		`: signals.strategies[1].account: unknown account "paper": want one of execution.accounts: main; the file does not give signals.strategies, so its default applies: give the list`,
	}},
	{"anchors", []string{
		`:2:15: signals.strategies: anchors and aliases are not used here: write the value out`,
	}},
	{"channel", []string{
		`:5:17: stream.feeds[0].channels: unknown channel "trades": want matches, ticker`,
	}},
	{"clickhouse_credentials", []string{
		`:2:8: clickhouse.url: credentials do not belong into the URL: use user and password`,
	}},
	{"clickhouse_url", []string{
		`:2:8: clickhouse.url: "clickhouse.example.com:8123": want http://host:8123 or https://host:8443 (the HTTP interface, not port 9000)`,
		`:3:13: clickhouse.database: "my-db": want letters, digits and underscores, not beginning with a digit`,
		`:4:16: clickhouse.compression: "brotli": want one of auto, none, lz4, zstd`,
		`:5:12: clickhouse.timeout: 1ms: want at least 1s`,
		`:6:9: clickhouse.user: want a user name`,
	}},
	{"data_budget", []string{
		`:2:17: data_max_bytes: is 50; want at least 268435456 (256 MiB), or 0 for 80 % of the file system`,
	}},
	{"desk", []string{
		`:2:9: agents.desk: is "oracle": want auto, deterministic or llm`,
		`:3:16: agents.concurrency: is 0: want 1 to 1024`,
	}},
	{"desk_without_endpoint", []string{
		`:2:3: agents.llm.base_url: is empty: desk llm needs llm.base_url or llm.api_key`,
	}},
	{"duplicate_rules", []string{
		`:4:14: signals.strategies[1].name: is "s": another strategy has that name`,
		`:7:14: signals.rules[1].name: is "r": another rule has that name`,
		`:7:27: signals.rules[1].strategy: is "t": want one of s`,
	}},
	{"durations", []string{
		`:2:19: sinks.flush_interval: "5" is no duration: want a number with a unit, like 500ms, 2s or 1h30m`,
		`:3:19: sinks.insert_timeout: "soon" is no duration: want a number with a unit, like 500ms, 2s or 1h30m`,
		`:5:16: execution.ack_timeout: is 1ms: want at least 10ms`,
	}},
	{"embedded", []string{
		`:1:19: embedded.kafka: "nowhere" is no address: want host:port, or nothing for the default`,
		`:1:40: embedded.clickhouse: "8223" is no address: want host:port, or nothing for the default`,
	}},
	{"exposed", []string{
		`:1:16: http.listen: is 0.0.0.0:9464, which other machines reach: want user and password beside it, or a loopback address; metrics carry positions and profit`,
		`:2:19: embedded.kafka: is 0.0.0.0:9292, which other machines reach: the embedded Kafka listens on loopback only; use Apache Kafka`,
		`:2:47: embedded.clickhouse: is 192.0.2.1:8123, which other machines reach: want clickhouse.user and clickhouse.password, or a loopback address`,
	}},
	{"environment", []string{
		`:3:13: clickhouse.password: environment variable CLICKHOUSE_PASSWORD is not set: set it, or write ${CLICKHOUSE_PASSWORD:-default}`,
		`:6:14: agents.llm.api_key: environment variable NO_SUCH_KEY is not set: set it, or write ${NO_SUCH_KEY:-default}`,
	}},
	{"feed_urls", []string{
		`:6:12: stream.feeds[0].url: "https://stream.example.com" is no URL: want ws:// or wss://host`,
		`:7:13: stream.feeds[0].rest: "stream.example.com" is no URL: want http:// or https://host`,
		`:8:7: stream.feeds[1].url: is empty, and venue json has no public one`,
	}},
	{"feeds", []string{
		`:2:16: stream.queue_bytes: is 100: want at least 1048576`,
		`:3:16: stream.spill_bytes: is 1000: want at least 16777216, or 0 to spill nothing`,
		`:5:7: stream.feeds[0].symbols: is empty: want the symbols as binance writes them`,
		`:5:13: stream.feeds[0].name: is "Binance Spot": want lower-case letters, digits and hyphens, 40 at most`,
		`:11:20: stream.feeds[1].backoff_max: is 1s: want at least backoff_min, 10s`,
		`:12:13: stream.feeds[1].idle: is 10ms: want at least 1s, or 0`,
		`:13:13: stream.feeds[2].name: "twin" is also the name of feeds[1]`,
		`:15:17: stream.feeds[2].symbols[0]: "" is no symbol: want 1 to 128 bytes`,
	}},
	{"given_twice", []string{
		`:2:1: mapping key "data" already defined at [1:1]`,
	}},
	{"indicator", []string{
		`:4:41: signals.rules[0].indicator: unknown indicator "emma": want one of bollinger, ema, rsi, spread, vwap, zscore`,
	}},
	{"indicator_params", []string{
		`:9:15: signals.rules[0].params.fats: unknown parameter of ema: want one of fast, period`,
	}},
	{"indicator_source", []string{
		`:7:15: signals.rules[0].source: is trade: spread needs quote`,
	}},
	{"instruments", []string{
		`:6:11: stream.feeds[0].instruments[0]: wants symbol, base and quote`,
		`:8:23: stream.feeds[0].instruments[0].price_tick: is 0: want more than 0`,
		`:9:21: stream.feeds[0].instruments[0].qty_step: is -1: want more than 0`,
	}},
	{"json_feed", []string{
		`:3:7: stream.feeds[0].json: is missing: it describes the feed`,
		`:10:9: stream.feeds[1].json.price: is empty: want the path to the price, or quote.bid and quote.ask`,
		`:10:17: stream.feeds[1].json.symbol: give either symbol, a path, or fixed_symbol, a text`,
		`:10:17: stream.feeds[1].json.symbol: path "data..symbol" has an empty part`,
		`:12:20: stream.feeds[1].json.time_unit: is "minutes": want auto, rfc3339, s, ms, us or ns`,
		`:13:14: stream.feeds[1].json.ids: is "sure": want contiguous, ordered or absent`,
		`:14:13: stream.feeds[2].name: is "binance": a json feed's name is its venue in every key, so it needs one of its own`,
	}},
	{"kafka", []string{
		`:2:13: kafka.brokers[0]: "kafka-1" is no address: want host:port`,
		`:3:15: kafka.partitions: 1001 is out of range: want 1 to 1000, or 0 for as many as there are`,
		`:4:16: kafka.replication: 99 is out of range: want 0 to 15`,
		`:5:14: kafka.retention: 1m0s is too short: want 1h or more`,
		`:6:20: kafka.retention_bytes: 5 is too little: want 67108864 (64 MiB) or more, or -1`,
		`:7:16: kafka.compression: unknown compression "brotli": want one of none, gzip, snappy, lz4, zstd`,
		`:8:9: kafka.sasl: unknown mechanism "kerberos": want one of none, plain, scram-sha-256, scram-sha-512`,
	}},
	{"kafka_replication_embedded", []string{
		`:2:16: kafka.replication: 3 replicas on the embedded broker: it is one broker, want 0 or 1`,
	}},
	{"kafka_sasl", []string{
		`:2:3: kafka.user: is empty: scram-sha-512 needs a user`,
		`:4:8: kafka.tls.enabled: is false, but other TLS settings are given: set it to true or remove them`,
		`:4:37: kafka.tls.cert_file: cert_file and key_file belong together: give both or neither`,
	}},
	{"limits", []string{
		`:5:18: execution.accounts[0].limits.symbols: is empty, so nothing could be traded: list venue|symbol or symbol, or "*"`,
		`:6:24: execution.accounts[0].limits.max_order_qty: is 0: want a number above 0`,
		`:7:35: execution.accounts[0].limits.max_order_notional.USD: parsing "lots": not a decimal number`,
		`:8:32: execution.accounts[0].limits.max_position_notional: is 2500 of no currency: write an amount for each quote currency that may be traded, such as {USD: 2500, USDT: 2500}`,
		`:9:25: warning: execution.accounts[0].limits.max_daily_loss: has no entry for USDT: orders in USDT are refused, though another limit has one`,
		`:9:31: execution.accounts[0].limits.max_daily_loss.USD: is -5: want a number above 0`,
		`:9:41: execution.accounts[0].limits.max_daily_loss.usdt: is no currency: want its code in capital letters, such as USDT`,
	}},
	{"exits", []string{
		`:3:15: agents.on_failure: is "rules": want reduce_only or none`,
		`:8:23: execution.accounts[0].exits.slippage_bps: is 0: want 1 to 1000`,
		`:9:27: execution.accounts[0].exits.max_slippage_bps: is 6000: want slippage_bps, 0, to 5000`,
		`:9:27: warning: execution.accounts[0].exits.max_slippage_bps: is 6000: limits.collar_bps, 100, bounds exits too`,
		`:10:25: execution.accounts[0].exits.retry_interval: is 1ms: want at least 10ms`,
		`:11:24: execution.accounts[0].exits.max_quote_age: is 0s: want a duration above 0, such as 30s`,
		`:12:28: execution.accounts[0].exits.orders_per_second: is 0: want at least 1`,
	}},
	{"limits_range", []string{
		`:5:18: execution.accounts[0].limits.symbols: holds an empty name: want venue|symbol, symbol or "*"`,
		`:6:24: execution.accounts[0].limits.max_order_qty: is 0: want a number above 0`,
		`:7:25: warning: execution.accounts[0].limits.max_daily_loss: has no entry for USDT: orders in USDT are refused, though another limit has one`,
		`:7:31: execution.accounts[0].limits.max_daily_loss.USD: is -5: want a number above 0`,
		`:8:21: execution.accounts[0].limits.collar_bps: is 20000: want at most 10000, which is the whole price`,
		`:9:24: execution.accounts[0].limits.max_drift_bps: is 0.00001: want at most 4 decimals`,
		`:10:24: execution.accounts[0].limits.max_quote_age: is 0s: want a duration above 0, such as 5s`,
		`:11:32: execution.accounts[0].limits.max_orders_per_second: is 0: want at least 1`,
		`:12:32: execution.accounts[0].limits.max_orders_per_minute: is -1: want at least max_orders_per_second, 0`,
	}},
	{"llm", []string{
		`:3:15: agents.llm.base_url: want http://HOST[:PORT]/... or https://HOST[:PORT]/...`,
		`:4:14: agents.llm.timeout: is 1h0m0s: want 100ms to 10m`,
		`:5:17: agents.llm.max_tokens: is 1: want 16 to 100000`,
		`:6:18: agents.llm.temperature: is 3: want 0 to 2, or -1 to send none`,
		`:7:23: agents.llm.reasoning_effort: is "hard": want none, minimal, low, medium, high, xhigh, max, or nothing`,
		`:8:25: agents.llm.max_response_bytes: is 1: want 4096 to 524288, so that an exchange fits one journal record`,
	}},
	{"logs_and_http", []string{
		`:1:14: log.level: unknown level "loud": want debug, info, warn or error`,
		`:1:28: log.format: unknown format "xml": want text or json`,
		`:2:16: http.listen: "9464" is no address: want host:port, off, or nothing for 127.0.0.1:9464`,
	}},
	{"no_accounts", []string{
		`:2:13: execution.accounts: is empty: want at least one account`,
	}},
	{"no_feeds", []string{
		`:2:10: stream.feeds: is empty: want at least one feed`,
	}},
	{"numbers", []string{
		`:3:15: kafka.partitions: want a whole number in decimal digits, have "010"`,
		`:9:24: signals.rules[0].params.period: want a number in decimal digits, have "0x10"`,
		`:12:23: signals.rules[0].debounce_ticks: want a whole number in decimal digits, have "1.9"`,
		`:16:16: agents.concurrency: want a whole number in decimal digits, have "1_6"`,
		`:18:17: agents.llm.max_tokens: want a whole number in decimal digits, have "1e3"`,
	}},
	{"open_variable", []string{
		`:2:8: clickhouse.url: has a ${ that begins no variable: want ${NAME} or ${NAME:-default}, or $$ for a dollar sign`,
	}},
	{"rule", []string{
		`:7:15: signals.rules[0].source: is "candle": want trade or quote`,
		`:8:18: signals.rules[0].direction: is "sideways": want above, below, cross_up or cross_down`,
		`:9:13: signals.rules[0].side: parsing side "hold": want one of buy, sell`,
		`:10:19: signals.rules[0].hysteresis: is -1: want 0 or more`,
		`:11:23: signals.rules[0].debounce_ticks: is -2: want 0 to 1048576`,
		`:12:17: signals.rules[0].cooldown: is -1s: want a duration of 0s or more`,
		`:13:16: signals.rules[0].venues[0]: is "bin|ance": want a name or a pattern with * and ?`,
	}},
	{"rule_side", []string{
		`:4:7: signals.rules[0].threshold: is missing: want a finite number, in the indicator's unit`,
		`:4:7: signals.rules[0].side: is "unknown": want buy or sell`,
		`:7:15: signals.rules[0].source: is "candle": want trade or quote`,
		`:8:18: signals.rules[0].direction: is "sideways": want above, below, cross_up or cross_down`,
		`:9:19: signals.rules[0].hysteresis: is -1: want 0 or more`,
		`:10:23: signals.rules[0].debounce_ticks: is -2: want 0 to 1048576`,
		`:11:17: signals.rules[0].cooldown: is -1s: want a duration of 0s or more`,
		`:12:16: signals.rules[0].venues[0]: is "bin|ance": want a name or a pattern with * and ?`,
	}},
	{"second_document", []string{
		`:3:1: a second document: want one`,
	}},
	{"sinks", []string{
		`:2:15: sinks.flush_rows: is 0; want 1 to 1000000`,
		`:3:16: sinks.flush_bytes: is 10; want at least 1048576 (1 MiB), the largest record`,
		`:4:19: sinks.flush_interval: is 1ms; want 10ms to 1m`,
		`:5:14: sinks.max_bytes: is 10; want at least twice flush_bytes (20)`,
		`:6:16: sinks.max_inserts: is 0; want 1 to 64`,
		`:7:19: sinks.insert_timeout: is 1ms; want at least 1s`,
		`:8:16: sinks.max_refused: is -1; want 0 or more`,
	}},
	{"syntax", []string{
		`:2:15: sequence end token ']' not found`,
	}},
	{"trade_and_aggtrade", []string{
		`:4:17: stream.feeds[0].symbols[0]: "BTCUSDT" would make every trade twice: channel trade of feeds[0].symbols[0] and channel aggTrade; take one of them`,
	}},
	{"trade_twice_in_two_feeds", []string{
		`:4:54: stream.feeds[1].symbols[1]: "BTCUSDT" would make every trade twice: channel trade of feeds[0].symbols[0] and channel aggTrade; take one of them`,
	}},
	{"types", []string{
		`:2:15: kafka.partitions: want a whole number, have "four"`,
		`:3:8: kafka.tls: want a mapping of keys to values, have "yes"`,
		`:4:12: kafka.brokers: want a list, have "kafka:9092"`,
		`:6:15: sinks.flush_rows: want a whole number, have the text "1000": take the quotes away`,
		`:8:8: agents.llm: want a mapping of keys to values, have a list`,
	}},
	{"unknown_key", []string{
		`:2:1: kafak: unknown key: did you mean kafka?`,
		`:5:3: sinks.flush_intervall: unknown key: did you mean flush_interval?`,
		`:11:7: stream.feeds[0].chanels: unknown key: did you mean channels?`,
	}},
	{"venue", []string{
		`:3:14: stream.feeds[0].venue: unknown venue "binanse": want one of binance, coinbase, json`,
	}},
}

// environment is what the samples refer to.
func environment(name string) (string, bool) {
	switch name {
	case "OPENAI_API_KEY", "KAFKA_PASSWORD", "FEED_TOKEN":
		return "secret", true
	}
	return "", false
}

func TestMistakes(t *testing.T) {
	tested := make(map[string]bool)
	for _, m := range mistakes {
		file := m.name + ".bad.yaml"
		tested[file] = true
		_, findings, err := Load(filepath.Join("testdata", file), environment)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		var got []string
		for _, f := range findings {
			got = append(got, strings.TrimPrefix(f.String(), filepath.Join("testdata", file)))
		}
		if diff := cmp.Diff(m.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
		if findings.Err() == nil {
			t.Errorf("%s is accepted", file)
		}
	}
	files, err := filepath.Glob("testdata/*.bad.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !tested[filepath.Base(f)] {
			t.Errorf("%s is not in the table", f)
		}
	}
}

// warnings are testdata/NAME.warn.yaml, which are legal, and all that is said of each.
var warnings = []struct {
	name string
	want []string
}{
	{"rules_that_never_fire", []string{
		`:5:7: warning: stream.feeds[1]: no rule of signals.rules watches venue coinbase, symbols BTC-USD: what it sends is recorded and fires nothing`,
		`:12:7: warning: signals.rules[0]: rule "case" watches no symbol of stream.feeds (venues [], symbols [btcusdt], in their case): it never fires`,
		`:13:93: warning: signals.rules[1].threshold: is 150: rsi is never above that, it is 0 to 100: the rule cannot fire`,
		`:14:142: warning: signals.rules[2].hysteresis: is 70: rsi is 0 to 100 and never comes back to -5: the rule is not armed (again)`,
		`:15:114: warning: signals.rules[3].threshold: is -5: spread is never below that, it is 0 to +Inf: the rule cannot fire`,
	}},
}

func TestWarnings(t *testing.T) {
	for _, tc := range warnings {
		file := filepath.Join("testdata", tc.name+".warn.yaml")
		_, findings, err := Load(file, environment)
		if err != nil || findings.Err() != nil {
			t.Fatalf("%v, %v", err, findings.Err())
		}
		var got []string
		for _, f := range findings {
			got = append(got, strings.TrimPrefix(f.String(), file))
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}

// Samples load without a word.
func TestSamples(t *testing.T) {
	files, err := filepath.Glob("testdata/*.good.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("samples: %v %v", files, err)
	}
	lookup := func(name string) (string, bool) {
		if name == "CLICKHOUSE_PASSWORD" {
			return "secret", true
		}
		return environment(name)
	}
	check := func(name, text string) {
		if _, findings := Parse(name, []byte(text), lookup); len(findings) > 0 {
			t.Errorf("%v\nof\n%s", findings, text)
		}
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		check(f, string(text))
	}
	// What the READMEs show, too.
	const mine = "../../../README.md"
	readmes, err := filepath.Glob("../../../*/README.md")
	if err != nil {
		t.Fatal(err)
	}
	fence := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")
	n := 0
	for _, path := range append(readmes, mine) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
			n++
			sample := m[1]
			if role := filepath.Base(filepath.Dir(path)); path != mine && !strings.HasPrefix(sample, role+":") {
				// A role's README shows its own part.
				sample = role + ":\n  " + strings.ReplaceAll(strings.TrimSpace(sample), "\n", "\n  ")
			}
			check(path, sample)
		}
	}
	if n < 3 {
		t.Errorf("found %d YAML samples in the READMEs", n)
	}
}

// The defaults need no word of explanation, and what `config init` writes is the
// defaults.
func TestDefaults(t *testing.T) {
	c := Default()
	if p := c.Validate(); len(p) > 0 {
		t.Errorf("the defaults: %v", p)
	}
	back, findings := Parse("autohedge.yaml", []byte(SampleFile()), environment)
	if len(findings) > 0 {
		t.Errorf("the sample: %v", findings)
	}
	// Whole numbers of params come as another type; their text is what counts.
	params := cmp.Transformer("params", func(m map[string]any) string { return fmt.Sprint(m) })
	if diff := cmp.Diff(Default(), back, params, cmpopts.EquateEmpty(), cmp.AllowUnexported(event.Decimal{}, component.Secret{})); diff != "" {
		t.Errorf("the sample reads back (-default +sample):\n%s", diff)
	}
	// Each key of the sample is explained.
	lines := strings.Split(SampleFile(), "\n")
	for i, l := range lines {
		if regexp.MustCompile(`^[a-z_]+:`).MatchString(l) && !strings.HasPrefix(lines[i-1], "#") {
			t.Errorf("no comment above %q", l)
		}
	}
}

// The template of .env is one that is read, and names what the sample needs.
func TestSampleEnv(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".env"), []byte(SampleEnv+"FROM_FILE='a b'\nexport PATH=nowhere\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	lookup, err := Environment(filepath.Join(dir, "autohedge.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := lookup("FROM_FILE"); v != "a b" || !ok {
		t.Errorf("FROM_FILE is %q, %v", v, ok)
	}
	if v, _ := lookup("PATH"); v != os.Getenv("PATH") {
		t.Errorf("the file wins over the environment: PATH is %q", v)
	}
	if _, ok := lookup("NOT_THERE"); ok {
		t.Error("a variable that is nowhere is set")
	}
	if err := os.WriteFile(filepath.Join(dir, ".env"), []byte("# fine\nnot an assignment\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Environment(filepath.Join(dir, "autohedge.yaml")); err == nil || !strings.HasSuffix(err.Error(), ".env:2: want NAME=value") {
		t.Errorf("a bad .env: %v", err)
	}
}

package stream

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/venue"
)

func TestDefaultConfigIsLegal(t *testing.T) {
	c := DefaultConfig()
	if p := c.Validate(); len(p) != 0 {
		t.Errorf("problems: %v", p)
	}
}

func TestConfigProblems(t *testing.T) {
	bn := func(change func(*FeedConfig)) FeedConfig {
		f := FeedConfig{Venue: "binance", Symbols: []string{"BTCUSDT"}}
		change(&f)
		return f
	}
	guide := venue.JSON{Symbol: "symbol", Price: "price"}
	for name, c := range map[string]struct {
		feeds []FeedConfig
		want  []string
	}{
		"a feed with its defaults": {[]FeedConfig{bn(func(*FeedConfig) {})}, nil},
		"the guide's feed":         {[]FeedConfig{{Name: "guide", Venue: "json", URL: "ws://127.0.0.1:1/x", JSON: &guide}}, nil},
		"no feed":                  {nil, []string{"feeds: is empty: want at least one feed"}},
		"unknown venue":            {[]FeedConfig{{Venue: "nyse"}}, []string{`feeds[0].venue: unknown venue "nyse": want one of binance, coinbase, json`}},
		"unknown channel": {[]FeedConfig{bn(func(f *FeedConfig) { f.Channels = []string{"trades"} })},
			[]string{`feeds[0].channels: unknown channel "trades": want trade, aggTrade, bookTicker`}},
		"trades twice in one feed": {[]FeedConfig{bn(func(f *FeedConfig) { f.Channels = []string{"trade", "aggTrade"} })},
			[]string{`feeds[0].symbols[0]: "BTCUSDT" would make every trade twice: channel trade of feeds[0].symbols[0] and channel aggTrade; take one of them`}},
		"trades twice in two feeds": {[]FeedConfig{bn(func(*FeedConfig) {}), bn(func(f *FeedConfig) { f.Name, f.Channels = "second", []string{"aggTrade"} })},
			[]string{`feeds[1].symbols[0]: "BTCUSDT" would make every trade twice: channel trade of feeds[0].symbols[0] and channel aggTrade; take one of them`}},
		"a channel twice": {[]FeedConfig{bn(func(*FeedConfig) {}), bn(func(f *FeedConfig) { f.Name, f.Channels = "second", []string{"bookTicker"} })},
			[]string{`feeds[1].symbols[0]: channel bookTicker of "BTCUSDT" is also taken at feeds[0].symbols[0]`}},
		"a name twice": {[]FeedConfig{bn(func(*FeedConfig) {}), bn(func(f *FeedConfig) { f.Symbols = []string{"ETHUSDT"} })},
			[]string{`feeds[1].name: "binance" is also the name of feeds[0]`}},
		"no symbols":  {[]FeedConfig{{Venue: "coinbase"}}, []string{"feeds[0].symbols: is empty: want the symbols as coinbase writes them"}},
		"wrong names": {[]FeedConfig{bn(func(f *FeedConfig) { f.Name, f.Symbols = "A b", []string{""} })}, []string{`feeds[0].name: is "A b": want lower-case letters, digits and hyphens, 40 at most`, `feeds[0].symbols[0]: "" is no symbol: want 1 to 128 bytes`}},
		"wrong urls": {[]FeedConfig{bn(func(f *FeedConfig) { f.URL, f.REST = "http://x", "ftp://x" })},
			[]string{`feeds[0].url: "http://x" is no URL: want ws:// or wss://host`, `feeds[0].rest: "ftp://x" is no URL: want http:// or https://host`}},
		"wrong times": {[]FeedConfig{bn(func(f *FeedConfig) {
			f.Idle, f.Stall, f.BackoffMin, f.BackoffMax, f.Healthy = time.Millisecond, time.Millisecond, time.Second, time.Millisecond, -1
		})}, []string{"feeds[0].idle: is 1ms: want at least 1s, or 0", "feeds[0].stall: is 1ms: want at least 1s, or less than 0 for never", "feeds[0].backoff_max: is 1ms: want at least backoff_min, 1s", "feeds[0].healthy: is -1ns: want 0 or more"}},
		"wrong instrument": {[]FeedConfig{bn(func(f *FeedConfig) {
			f.Instruments = []InstrumentConfig{{Symbol: "X", PriceTick: event.MustDecimal("-1"), MinQty: event.MustDecimal("-1")}}
		})}, []string{"feeds[0].instruments[0]: wants symbol, base and quote", "feeds[0].instruments[0].price_tick: is -1: want more than 0", "feeds[0].instruments[0].qty_step: is 0: want more than 0", "feeds[0].instruments[0]: has a minimum below 0"}},
		"json without a description": {[]FeedConfig{{Name: "x", Venue: "json", URL: "ws://h"}}, []string{"feeds[0].json: is missing: it describes the feed"}},
		"json without a name":        {[]FeedConfig{{Venue: "json", URL: "ws://h", JSON: &guide}}, []string{`feeds[0].name: is "": a json feed's name is its venue in every key, so it needs one of its own`}},
		"json under another's name":  {[]FeedConfig{{Name: "binance", Venue: "json", JSON: &guide}}, []string{`feeds[0].name: is "binance": a json feed's name is its venue in every key, so it needs one of its own`, "feeds[0].url: is empty, and venue json has no public one"}},
		"a description too many":     {[]FeedConfig{bn(func(f *FeedConfig) { f.JSON = &guide })}, []string{"feeds[0].json: belongs to venue json, this is binance"}},
		"a wrong description": {[]FeedConfig{{Name: "x", Venue: "json", URL: "ws://h", JSON: &venue.JSON{Fixed: "A", Symbol: "s", List: "$.a", Time: "a..b", TimeUnit: "h", SideOf: "me", IDs: "x", Idle: 1, Filter: map[string]string{"": "x"}}}},
			[]string{"feeds[0].json.symbol: give either symbol, a path, or fixed_symbol, a text", "feeds[0].json.price: is empty: want the path to the price, or quote.bid and quote.ask", `feeds[0].json.time: path "a..b" has an empty part`, `feeds[0].json.list: starts at the frame always: leave out "$."`,
				"feeds[0].json.filter: has an empty path", `feeds[0].json.time_unit: is "h": want auto, rfc3339, s, ms, us or ns`, `feeds[0].json.side_of: is "me": want taker or maker`, `feeds[0].json.ids: is "x": want contiguous, ordered or absent`, "feeds[0].json.idle: is 1ns: want at least 1s"}},
		"replay beside live": {[]FeedConfig{bn(func(*FeedConfig) {}), bn(func(f *FeedConfig) { f.Name, f.Replay, f.Symbols = "r", true, nil })}, []string{"feeds[1]: replays and live feeds cannot run together"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Feeds: c.feeds, QueueBytes: 1 << 20}
			var got []string
			for _, p := range cfg.Validate() {
				got = append(got, p.Error())
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s\n%s", diff, strings.Join(got, "\n"))
			}
		})
	}
}

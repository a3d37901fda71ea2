package stream

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/venue"
)

// Config is the stream role's configuration.
type Config struct {
	Feeds      []FeedConfig `yaml:"feeds" doc:"what to listen to"`
	QueueBytes int          `yaml:"queue_bytes" doc:"bytes that may wait for Kafka's acknowledgement; beyond half of it quotes are replaced by newer ones, beyond all of it records are spilled"`
	SpillBytes int64        `yaml:"spill_bytes" doc:"bytes of files under spill/ in the data folder that take what the queue does not hold; when they are full too, the socket is closed and the gap stated; 0 spills nothing"`
	// SpillDir is where the files lie; without it nothing is spilled.
	SpillDir string `yaml:"-"`
}

// FeedConfig is one feed: a venue, its symbols and channels.
type FeedConfig struct {
	Name        string                      `yaml:"name" doc:"name of the feed, lower case, digits and hyphens; empty takes the venue's. A json feed's name is its venue in every key"`
	Venue       string                      `yaml:"venue" doc:"binance, coinbase, or json: a feed described under json"`
	URL         string                      `yaml:"url" doc:"WebSocket base URL; empty takes the venue's public one"`
	REST        string                      `yaml:"rest" doc:"REST base URL for the instruments' steps; empty takes the venue's public one where url is empty too, else none is asked"`
	Symbols     []string                    `yaml:"symbols" doc:"symbols as the venue writes them"`
	Channels    []string                    `yaml:"channels" doc:"channels of the venue; empty takes its trades and top of book"`
	Headers     map[string]component.Secret `yaml:"headers" doc:"HTTP headers of the handshake"`
	Idle        time.Duration               `yaml:"idle" doc:"silence, pings included, after which a connection is given up; 0 takes the venue's"`
	Stall       time.Duration               `yaml:"stall" doc:"silence after which a busy connection is given up: at least 100 times its usual gap between frames; 0 takes 4s, a negative one never gives up"`
	BackoffMin  time.Duration               `yaml:"backoff_min" doc:"longest wait before the first attempt to reconnect; the wait is random (full jitter) and its bound doubles; 0 takes 250ms"`
	BackoffMax  time.Duration               `yaml:"backoff_max" doc:"longest wait between attempts to reconnect; 0 takes 30s"`
	Healthy     time.Duration               `yaml:"healthy" doc:"time of data after which the wait starts anew at backoff_min; 0 takes 10s"`
	Instruments []InstrumentConfig          `yaml:"instruments" doc:"steps of instruments; they win over what the venue says"`
	JSON        *venue.JSON                 `yaml:"json" doc:"description of a json feed"`
	// Replay marks a feed that a player of recorded frames serves.
	Replay bool `yaml:"-"`
}

// InstrumentConfig states an instrument's name and steps.
type InstrumentConfig struct {
	Symbol      string        `yaml:"symbol" doc:"as the venue writes it"`
	Base        string        `yaml:"base" doc:"what is traded"`
	Quote       string        `yaml:"quote" doc:"what it is paid in"`
	PriceTick   event.Decimal `yaml:"price_tick" doc:"smallest step of a price"`
	QtyStep     event.Decimal `yaml:"qty_step" doc:"smallest step of a quantity"`
	MinQty      event.Decimal `yaml:"min_qty" doc:"smallest quantity of an order; 0 states none"`
	MinNotional event.Decimal `yaml:"min_notional" doc:"smallest price times quantity of an order; 0 states none"`
}

// DefaultFeed returns a feed with the default times and no venue.
func DefaultFeed() FeedConfig {
	return FeedConfig{
		Stall:      4 * time.Second,
		BackoffMin: 250 * time.Millisecond,
		BackoffMax: 30 * time.Second,
		Healthy:    10 * time.Second,
	}
}

// withDefaults fills in what a feed in a list of the configuration left out.
func (c FeedConfig) withDefaults() FeedConfig {
	d := DefaultFeed()
	for _, v := range []struct{ at, def *time.Duration }{{&c.Stall, &d.Stall}, {&c.BackoffMin, &d.BackoffMin}, {&c.BackoffMax, &d.BackoffMax}, {&c.Healthy, &d.Healthy}} {
		if *v.at == 0 {
			*v.at = *v.def
		}
	}
	return c
}

// LiveFeeds returns the public feeds of the built-in venues.
func LiveFeeds() []FeedConfig {
	b, c := DefaultFeed(), DefaultFeed()
	b.Name, b.Venue, b.Symbols = "binance", "binance", []string{"BTCUSDT", "ETHUSDT"}
	c.Name, c.Venue, c.Symbols = "coinbase", "coinbase", []string{"BTC-USD", "ETH-USD"}
	return []FeedConfig{b, c}
}

// DefaultConfig listens to the public feeds.
func DefaultConfig() Config {
	return Config{Feeds: LiveFeeds(), QueueBytes: 64 << 20, SpillBytes: 1 << 30}
}

var feedName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

// name is the feed's name, which is its venue's unless it has one of its own.
func (c *FeedConfig) name() string {
	if c.Name == "" {
		return c.Venue
	}
	return c.Name
}

// VenueID is the venue's part of the keys of the feed's instruments.
func (c *FeedConfig) VenueID() string {
	if c.Venue == "json" {
		return c.name()
	}
	return c.Venue
}

// open makes the venue.
func (c *FeedConfig) open() (venue.Venue, error) {
	spec, err := venue.Registry.Lookup(c.Venue)
	if err != nil {
		return nil, err
	}
	var cfg any
	if spec.Config != nil {
		cfg = c.JSON
	}
	return spec.New(cfg)
}

// channels returns the channels that the feed takes, with what the venue says of
// each. A replay without a choice takes what comes.
func (c *FeedConfig) channels(info venue.Info) ([]venue.ChannelSpec, error) {
	var out []venue.ChannelSpec
	for _, name := range c.Channels {
		spec, ok := info.Find(name)
		if !ok {
			legal := make([]string, len(info.Channels))
			for i, l := range info.Channels {
				legal[i] = l.Name
			}
			return nil, fmt.Errorf("unknown channel %q: want %s", name, strings.Join(legal, ", "))
		}
		out = append(out, spec)
	}
	if len(c.Channels) > 0 {
		return out, nil
	}
	for _, spec := range info.Channels {
		if spec.Default || c.Replay {
			out = append(out, spec)
		}
	}
	return out, nil
}

// Validate reports every mistake; it does no I/O.
func (c *Config) Validate() component.Problems {
	var p component.Problems
	if c.QueueBytes < 1<<20 {
		p.Addf("queue_bytes", "is %d: want at least 1048576", c.QueueBytes)
	}
	if c.SpillBytes != 0 && c.SpillBytes < 16<<20 {
		p.Addf("spill_bytes", "is %d: want at least 16777216, or 0 to spill nothing", c.SpillBytes)
	}
	if len(c.Feeds) == 0 {
		p.Addf("feeds", "is empty: want at least one feed")
	}
	names := map[string]int{}
	taken := map[string]string{} // venue, symbol and channel, or trades -> where
	for i := range c.Feeds {
		f := &c.Feeds[i]
		at := fmt.Sprintf("feeds[%d]", i)
		p.Under(at, f.Validate())
		if first, dup := names[f.name()]; dup {
			p.Addf(at+".name", "%q is also the name of feeds[%d]", f.name(), first)
		}
		names[f.name()] = i
		if f.Replay != c.Feeds[0].Replay {
			p.Addf(at, "replays and live feeds cannot run together")
		}
		f.checkTaken(&p, at, taken)
	}
	return p
}

// checkTaken refuses a channel taken twice, and two channels that both make the
// trades of one symbol.
func (c *FeedConfig) checkTaken(p *component.Problems, at string, taken map[string]string) {
	v, err := c.open()
	if err != nil {
		return // reported by Validate
	}
	specs, err := c.channels(v.Info())
	if err != nil || c.Replay && len(c.Channels) == 0 {
		return
	}
	for j, symbol := range c.Symbols {
		where := fmt.Sprintf("%s.symbols[%d]", at, j)
		for _, spec := range specs {
			id := c.VenueID() + "|" + symbol + "|" + spec.Name
			if first, dup := taken[id]; dup {
				p.Addf(where, "channel %s of %q is also taken at %s", spec.Name, symbol, first)
				continue
			}
			taken[id] = where
			if !spec.Trades {
				continue
			}
			id = c.VenueID() + "|" + symbol + "|trades"
			if first, dup := taken[id]; dup {
				p.Addf(where, "%q would make every trade twice: channel %s and channel %s; take one of them", symbol, first, spec.Name)
				continue
			}
			taken[id] = spec.Name + " of " + where
		}
	}
}

// Validate reports every mistake; it does no I/O.
func (c *FeedConfig) Validate() component.Problems {
	filled := c.withDefaults()
	return filled.validate()
}

func (c *FeedConfig) validate() component.Problems {
	var p component.Problems
	if c.Name != "" && !feedName.MatchString(c.Name) {
		p.Addf("name", "is %q: want lower-case letters, digits and hyphens, 40 at most", c.Name)
	}
	spec, err := venue.Registry.Lookup(c.Venue)
	if err != nil {
		p.Addf("venue", "%v", err)
		return p
	}
	switch {
	case spec.Config == nil && c.JSON != nil:
		p.Addf("json", "belongs to venue json, this is %s", c.Venue)
	case spec.Config != nil && c.JSON == nil:
		p.Addf("json", "is missing: it describes the feed")
		return p
	case c.JSON != nil:
		p.Under("json", c.JSON.Validate())
	}
	if _, err := venue.Registry.Lookup(c.name()); c.Venue == "json" && (c.Name == "" || err == nil) {
		p.Addf("name", "is %q: a json feed's name is its venue in every key, so it needs one of its own", c.Name)
	}
	v, err := c.open()
	if err != nil {
		return p // the reason is among the problems already
	}
	info := v.Info()
	if _, err := c.channels(info); err != nil {
		p.Addf("channels", "%v", err)
	}
	c.checkURLs(&p, info)
	c.checkSymbols(&p, info)
	c.checkTimes(&p)
	c.checkInstruments(&p)
	return p
}

func (c *FeedConfig) checkURLs(p *component.Problems, info venue.Info) {
	if c.URL == "" && info.URL == "" {
		p.Addf("url", "is empty, and venue %s has no public one", c.Venue)
	}
	for _, u := range []struct {
		name, text string
		schemes    string
	}{{"url", c.URL, "ws wss"}, {"rest", c.REST, "http https"}} {
		if u.text == "" {
			continue
		}
		parsed, err := url.Parse(u.text)
		if err != nil || parsed.Host == "" || !strings.Contains(" "+u.schemes+" ", " "+parsed.Scheme+" ") {
			p.Addf(u.name, "%q is no URL: want %s://host", u.text, strings.ReplaceAll(u.schemes, " ", ":// or "))
		}
	}
}

func (c *FeedConfig) checkSymbols(p *component.Problems, info venue.Info) {
	if len(c.Symbols) == 0 && !info.AnySymbol && !c.Replay {
		p.Addf("symbols", "is empty: want the symbols as %s writes them", c.Venue)
	}
	for i, s := range c.Symbols {
		if s == "" || len(s) > 128 || !utf8.ValidString(s) {
			p.Addf(fmt.Sprintf("symbols[%d]", i), "%q is no symbol: want 1 to 128 bytes", s)
			continue
		}
		if info.Canonical == nil {
			continue
		}
		if want := info.Canonical(s); s != want {
			p.Addf(fmt.Sprintf("symbols[%d]", i), "is %q: %s writes it %q", s, c.Venue, want)
		}
	}
}

func (c *FeedConfig) checkTimes(p *component.Problems) {
	if c.Idle != 0 && c.Idle < time.Second {
		p.Addf("idle", "is %s: want at least 1s, or 0", c.Idle)
	}
	if c.Stall > 0 && c.Stall < time.Second {
		p.Addf("stall", "is %s: want at least 1s, or less than 0 for never", c.Stall)
	}
	if c.BackoffMin < 10*time.Millisecond {
		p.Addf("backoff_min", "is %s: want at least 10ms", c.BackoffMin)
	}
	if c.BackoffMax < c.BackoffMin {
		p.Addf("backoff_max", "is %s: want at least backoff_min, %s", c.BackoffMax, c.BackoffMin)
	}
	if c.Healthy < 0 {
		p.Addf("healthy", "is %s: want 0 or more", c.Healthy)
	}
}

func (c *FeedConfig) checkInstruments(p *component.Problems) {
	for i := range c.Instruments {
		in, at := &c.Instruments[i], fmt.Sprintf("instruments[%d]", i)
		if in.Symbol == "" || in.Base == "" || in.Quote == "" {
			p.Addf(at, "wants symbol, base and quote")
		}
		if in.PriceTick.Sign() <= 0 {
			p.Addf(at+".price_tick", "is %s: want more than 0", in.PriceTick)
		}
		if in.QtyStep.Sign() <= 0 {
			p.Addf(at+".qty_step", "is %s: want more than 0", in.QtyStep)
		}
		if in.MinQty.Sign() < 0 || in.MinNotional.Sign() < 0 {
			p.Addf(at, "has a minimum below 0")
		}
	}
}

package sim

import (
	"net"
	"strings"
	"time"

	"github.com/autohedge/autohedge/stream/component"
)

// What happens to a client whose queue is full.
const (
	SlowClose = "close"
	SlowWait  = "wait"
)

// Names of fault schedules.
const (
	ScheduleNone = "none"
	ScheduleDemo = "demo"
)

// Config describes one simulator.
type Config struct {
	Dir            string        `yaml:"dir" doc:"folder of the ledger file, from which ids and sequences go on after a restart"`
	Listen         string        `yaml:"listen" doc:"host:port to serve on; port 0 takes a free one"`
	Seed           uint64        `yaml:"seed" doc:"fixes the shape of the market: same seed, symbols and rate, same prices, sides and sizes"`
	Rate           float64       `yaml:"rate" doc:"trades a second over all symbols together"`
	QuotesPerTrade float64       `yaml:"quotes_per_trade" doc:"top-of-book changes for each trade of a Binance symbol (0 to 100)"`
	Binance        []string      `yaml:"binance" doc:"symbols of the Binance side, as that venue writes them (BTCUSDT)"`
	Coinbase       []string      `yaml:"coinbase" doc:"products of the Coinbase side, as that venue writes them (BTC-USD)"`
	Schedule       string        `yaml:"schedule" doc:"named fault schedule: none, or demo (a dropped feed at 6 s, duplicates at 10 s, a stall at 18 s)"`
	Faults         []FaultPlan   `yaml:"faults" doc:"further faults, timed from the first client of their venue"`
	Ledger         bool          `yaml:"ledger" doc:"write each trade to the ledger before it is sent; without it ids start from the clock"`
	MaxLedgerBytes int64         `yaml:"max_ledger_bytes" doc:"size at which the ledger starts anew, keeping one older file; 0 is unbounded"`
	QueueBytes     int           `yaml:"queue_bytes" doc:"bytes that wait for one client at most"`
	SlowClients    string        `yaml:"slow_clients" doc:"what a full queue does: close (the connection, as the venues do) or wait (the market stands still; for benchmarks)"`
	PingInterval   time.Duration `yaml:"ping_interval" doc:"time between the server's WebSocket pings"`
	PongTimeout    time.Duration `yaml:"pong_timeout" doc:"time after which an unanswered ping closes the connection"`
	SubscribeGrace time.Duration `yaml:"subscribe_grace" doc:"time a Coinbase client has to subscribe"`
	MaxAge         time.Duration `yaml:"max_age" doc:"life of a Binance connection, after which the server closes it"`
}

// FaultPlan is one fault that happens by itself.
type FaultPlan struct {
	Kind     FaultKind     `yaml:"kind" doc:"drop, close, stall, mute, duplicate, garbage or shutdown"`
	Venue    string        `yaml:"venue" doc:"binance or coinbase; empty is both"`
	After    time.Duration `yaml:"after" doc:"time after the venue's first client"`
	Every    time.Duration `yaml:"every" doc:"repeat after this time; 0 is once"`
	Duration time.Duration `yaml:"duration" doc:"how long it lasts: drop and close refuse new connections, stall holds frames back, mute loses them, duplicate repeats them"`
}

// DefaultConfig returns three symbols on each wire format, 1,100 trades a second
// and no faults.
func DefaultConfig() Config {
	return Config{
		Listen:         "127.0.0.1:0",
		Seed:           1,
		Rate:           1100,
		QuotesPerTrade: 1,
		Binance:        []string{"BTCUSDT", "ETHUSDT", "SOLUSDT"},
		Coinbase:       []string{"BTC-USD", "ETH-USD", "SOL-USD"},
		Schedule:       ScheduleNone,
		Ledger:         true,
		QueueBytes:     8 << 20,
		SlowClients:    SlowClose,
		PingInterval:   20 * time.Second,
		PongTimeout:    60 * time.Second,
		SubscribeGrace: 5 * time.Second,
		MaxAge:         24 * time.Hour,
	}
}

// DemoFaults is the schedule named demo: within 30 s every kind of trouble that
// a feed sees daily, above all one drop whose lost ids must be stated as a gap.
func DemoFaults() []FaultPlan {
	return []FaultPlan{
		{Kind: Drop, Venue: VenueCoinbase, After: 6 * time.Second, Duration: 1500 * time.Millisecond},
		{Kind: Duplicate, Venue: VenueBinance, After: 10 * time.Second, Duration: 200 * time.Millisecond},
		{Kind: Stall, Venue: VenueBinance, After: 18 * time.Second, Duration: 2 * time.Second},
	}
}

// Validate reports every problem; it does no I/O.
func (c *Config) Validate() component.Problems {
	var p component.Problems
	if c.Ledger && c.Dir == "" {
		p.Addf("dir", "empty: the ledger needs a folder; name one or set ledger: false")
	}
	if host, _, err := net.SplitHostPort(c.Listen); err != nil {
		p.Addf("listen", "%q is not host:port", c.Listen)
	} else if !component.IsLoopback(host) {
		p.Addf("listen", "%q is not a loopback address: the simulator asks nobody for a password, and who reaches it can inject faults", c.Listen)
	}
	if !(c.Rate > 0 && c.Rate <= 5e6) {
		p.Addf("rate", "%v: want more than 0 and at most 5000000 trades a second", c.Rate)
	}
	if c.Ledger && c.Rate > 100_000 {
		p.Warnf("ledger", "at %v trades a second the ledger grows by about %.0f MB a second; set ledger: false for benchmarks", c.Rate, c.Rate*70/1e6)
	}
	if !(c.QuotesPerTrade >= 0 && c.QuotesPerTrade <= 100) {
		p.Addf("quotes_per_trade", "%v: want 0 to 100", c.QuotesPerTrade)
	}
	if len(c.Binance)+len(c.Coinbase) == 0 {
		p.Addf("binance", "no symbols: name at least one here or under coinbase")
	}
	checkNames(&p, "binance", c.Binance, func(n string) bool { return n == strings.ToUpper(n) && !strings.ContainsAny(n, "-/@ \t\r\n\"\\") })
	checkNames(&p, "coinbase", c.Coinbase, func(n string) bool {
		base, quote, ok := strings.Cut(n, "-")
		return ok && base != "" && quote != "" && n == strings.ToUpper(n) && !strings.ContainsAny(n, "/@ \t\r\n\"\\")
	})
	if c.Schedule != ScheduleNone && c.Schedule != ScheduleDemo {
		p.Addf("schedule", "%q: want %s or %s", c.Schedule, ScheduleNone, ScheduleDemo)
	}
	for i := range c.Faults {
		var fp component.Problems
		f := &c.Faults[i]
		if f.Kind == FaultNone || f.Kind >= faultKinds {
			fp.Addf("kind", "want one of %s", strings.Join(faultNames[1:], ", "))
		}
		if f.Venue != "" && f.Venue != VenueBinance && f.Venue != VenueCoinbase {
			fp.Addf("venue", "%q: want %s, %s or empty for both", f.Venue, VenueBinance, VenueCoinbase)
		}
		if f.After < 0 || f.Every < 0 || f.Duration < 0 {
			fp.Addf("", "times must not be negative")
		}
		p.Under("faults["+itoa(i)+"]", fp)
	}
	if c.MaxLedgerBytes != 0 && c.MaxLedgerBytes < 4*checkpointBytes {
		p.Addf("max_ledger_bytes", "%d: want 0 or at least %d", c.MaxLedgerBytes, 4*checkpointBytes)
	}
	if c.QueueBytes < 64<<10 {
		p.Addf("queue_bytes", "%d: want at least %d", c.QueueBytes, 64<<10)
	}
	if c.SlowClients != SlowClose && c.SlowClients != SlowWait {
		p.Addf("slow_clients", "%q: want %s or %s", c.SlowClients, SlowClose, SlowWait)
	}
	for _, d := range []struct {
		path string
		d    time.Duration
	}{{"ping_interval", c.PingInterval}, {"pong_timeout", c.PongTimeout}, {"subscribe_grace", c.SubscribeGrace}, {"max_age", c.MaxAge}} {
		if d.d < 10*time.Millisecond {
			p.Addf(d.path, "%s: want at least 10ms", d.d)
		}
	}
	return p
}

func checkNames(p *component.Problems, path string, names []string, ok func(string) bool) {
	seen := make(map[string]bool, len(names))
	for i, n := range names {
		switch {
		case n == "" || !ok(n):
			p.Addf(path+"["+itoa(i)+"]", "%q is not a symbol as %s writes it", n, path)
		case seen[n]:
			p.Addf(path+"["+itoa(i)+"]", "%q is named twice", n)
		}
		seen[n] = true
	}
}

package execution

import (
	"fmt"
	"regexp"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/execution/exits"
	"github.com/autohedge/autohedge/execution/risk"
	"github.com/autohedge/autohedge/stream/component"
)

// Config is the execution role's configuration.
type Config struct {
	Accounts      []Account     `yaml:"accounts" doc:"The accounts that strategies trade for."`
	MarkInterval  time.Duration `yaml:"mark_interval" doc:"how often an open position is valued and recorded"`
	AckTimeout    time.Duration `yaml:"ack_timeout" doc:"an order that its broker has not confirmed after this is unknown"`
	QueryInterval time.Duration `yaml:"query_interval" doc:"how often the broker is asked about an order whose outcome is unknown"`
}

// Account is one account at one broker, with its limits.
type Account struct {
	Name     string          `yaml:"name" doc:"what strategies call it; lower case letters, digits and hyphens"`
	Broker   string          `yaml:"broker" doc:"where its orders go: paper"`
	Limits   risk.Config     `yaml:"limits" doc:"Hard limits that no order of the account passes."`
	Exits    exits.Config    `yaml:"exits" doc:"How positions are closed at their stop, target or horizon."`
	Settings broker.Settings `yaml:"settings" doc:"Settings of the account's broker."`
}

// SetDefaults fills in what a configuration does not name.
func (a *Account) SetDefaults() {
	*a = Account{Broker: "paper", Limits: risk.DefaultConfig(), Exits: exits.DefaultConfig(), Settings: broker.DefaultSettings()}
}

// DefaultConfig returns one paper account named "paper".
func DefaultConfig() Config {
	var a Account
	a.SetDefaults()
	a.Name = "paper"
	return Config{Accounts: []Account{a}, MarkInterval: 5 * time.Second, AckTimeout: 5 * time.Second, QueryInterval: time.Second}
}

var accountName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// Validate reports every value that makes no sense.
func (c *Config) Validate() component.Problems {
	var p component.Problems
	if len(c.Accounts) == 0 {
		p.Addf("accounts", "is empty: want at least one account")
	}
	seen := make(map[string]int)
	for i := range c.Accounts {
		a := &c.Accounts[i]
		path := fmt.Sprintf("accounts[%d]", i)
		if !accountName.MatchString(a.Name) {
			p.Addf(path+".name", "is %q: want 1 to 32 lower case letters, digits and hyphens, not a hyphen first", a.Name)
		} else if first, dup := seen[a.Name]; dup {
			p.Addf(path+".name", "%q is taken by accounts[%d]", a.Name, first)
		} else {
			seen[a.Name] = i
		}
		p.Under(path+".limits", a.Limits.Validate())
		p.Under(path+".exits", a.Exits.Validate())
		if collar := a.Limits.CollarBps.Float64(); float64(a.Exits.MaxSlippageBps) > collar && collar > 0 {
			p.Warnf(path+".exits.max_slippage_bps", "is %d: limits.collar_bps, %s, bounds exits too", a.Exits.MaxSlippageBps, a.Limits.CollarBps)
		}
		if spec, err := broker.Registry.Lookup(a.Broker); err != nil {
			p.Addf(path+".broker", "%v", err)
		} else {
			p.Under(path+".settings", spec.New.Validate(&a.Settings))
		}
	}
	for _, d := range []struct {
		path  string
		value time.Duration
	}{{"mark_interval", c.MarkInterval}, {"ack_timeout", c.AckTimeout}, {"query_interval", c.QueryInterval}} {
		if d.value < 10*time.Millisecond {
			p.Addf(d.path, "is %s: want at least 10ms", d.value)
		}
	}
	return p
}

var _ component.Validator = (*Config)(nil)

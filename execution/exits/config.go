package exits

import (
	"time"

	"github.com/autohedge/autohedge/stream/component"
)

// Config is how one account closes lots at their stop, target or horizon.
type Config struct {
	SlippageBps     uint32        `yaml:"slippage_bps" doc:"how far beyond the best price the first exit of a lot may fill, in basis points; it doubles after each exit of which the market filled nothing"`
	MaxSlippageBps  uint32        `yaml:"max_slippage_bps" doc:"the most that it doubles to, within limits.collar_bps; when an exit with it fills nothing either, the account is halted and the exit keeps being tried"`
	RetryInterval   time.Duration `yaml:"retry_interval" doc:"how long after an exit the next one of the same lot is sent"`
	MaxQuoteAge     time.Duration `yaml:"max_quote_age" doc:"while there is no fresh quote, an exit that was triggered is priced at the last one up to this age, and then waits"`
	OrdersPerSecond int           `yaml:"orders_per_second" doc:"exits sent in any second; entries have a budget of their own"`
}

// DefaultConfig reaches the default band of prices with the fifth exit of a lot.
func DefaultConfig() Config {
	return Config{SlippageBps: 10, MaxSlippageBps: 100, RetryInterval: time.Second, MaxQuoteAge: 30 * time.Second, OrdersPerSecond: 10}
}

// Validate implements component.Validator.
func (c *Config) Validate() component.Problems {
	var p component.Problems
	if c.SlippageBps < 1 || c.SlippageBps > 1_000 {
		p.Addf("slippage_bps", "is %d: want 1 to 1000", c.SlippageBps)
	}
	if c.MaxSlippageBps < c.SlippageBps || c.MaxSlippageBps > 5_000 {
		p.Addf("max_slippage_bps", "is %d: want slippage_bps, %d, to 5000", c.MaxSlippageBps, c.SlippageBps)
	}
	if c.RetryInterval < 10*time.Millisecond {
		p.Addf("retry_interval", "is %s: want at least 10ms", c.RetryInterval)
	}
	if c.MaxQuoteAge <= 0 {
		p.Addf("max_quote_age", "is %s: want a duration above 0, such as 30s", c.MaxQuoteAge)
	}
	if c.OrdersPerSecond < 1 {
		p.Addf("orders_per_second", "is %d: want at least 1", c.OrdersPerSecond)
	}
	return p
}

var _ component.Validator = (*Config)(nil)

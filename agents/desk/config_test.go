package desk

import (
	"testing"

	"github.com/autohedge/autohedge/stream/event"
)

func TestConfigValidate(t *testing.T) {
	good := DefaultConfig()
	if p := good.Validate(); len(p) != 0 {
		t.Errorf("defaults: %v", p)
	}
	for name, tt := range map[string]struct {
		change func(*Config)
		path   string
	}{
		"no notional":    {func(c *Config) { c.Budget.Notional = event.Decimal{} }, "budget.notional"},
		"nothing fits":   {func(c *Config) { c.Budget.PositionCap = event.MustDecimal("199") }, "budget.position_cap"},
		"decimals":       {func(c *Config) { c.Budget.QuantityDecimals = 13 }, "budget.quantity_decimals"},
		"spread":         {func(c *Config) { c.Quote.MaxSpreadBps = event.MustDecimal("0.001") }, "quote.max_spread_bps"},
		"quote's age":    {func(c *Config) { c.Quote.MaxAge = -1 }, "quote.max_age"},
		"age":            {func(c *Config) { c.Quote.MaxEventAge = -1 }, "quote.max_event_age"},
		"edge":           {func(c *Config) { c.Policy.EdgeBps, c.Policy.FeeBps = -1, -1 }, "policy.edge_bps"},
		"fees eat all":   {func(c *Config) { c.Policy.EdgeBps = 10 }, "policy.edge_bps"},
		"stop":           {func(c *Config) { c.Policy.StopBps = 5000 }, "policy.stop_bps"},
		"target":         {func(c *Config) { c.Policy.TargetBps = 50000 }, "policy.target_bps"},
		"slippage":       {func(c *Config) { c.Policy.MaxSlippageBps = 101 }, "policy.max_slippage_bps"},
		"kind of order":  {func(c *Config) { c.Policy.Order = "stop" }, "policy.order"},
		"eight decimals": {func(c *Config) { c.Budget.Notional = event.MustDecimal("1.123456789") }, "budget.notional"},
	} {
		c := DefaultConfig()
		tt.change(&c)
		p := c.Validate()
		if len(p) == 0 || p[0].Path != tt.path {
			t.Errorf("%s: got %v, want a problem at %s", name, p, tt.path)
		}
	}
}

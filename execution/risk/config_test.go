package risk

import (
	"strings"
	"testing"
)

func TestConfig(t *testing.T) {
	c := DefaultConfig()
	if p := c.Validate(); len(p) != 0 {
		t.Errorf("default limits: %v", p)
	}
	c.MaxOrderNotional["USD"] = dec("5000.01")
	if p := c.Validate(); len(p) != 1 || !p[0].Warning || p[0].Path != "max_order_notional.USD" {
		t.Errorf("an order limit beyond the position limit: %v", p)
	}
	if DefaultConfig().MaxOrderNotional["USD"].Cmp(dec("3000")) != 0 {
		t.Error("one configuration changed the defaults of all")
	}
	bad := Config{}
	if got := len(bad.Validate()); got != 12 {
		t.Errorf("an empty config has %d problems: %v", got, bad.Validate())
	}
}

// TestCurrencies: limits in money name their currencies.
func TestCurrencies(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Config)
		path   string
		text   string
		warns  bool
	}{
		{"lower case", func(c *Config) { c.MaxDailyLoss["usdt"] = dec("1") }, "max_daily_loss.usdt", "USDT", false},
		{"no code", func(c *Config) { c.MaxDailyLoss["US dollar"] = dec("1") }, "max_daily_loss.US dollar", "USD", false},
		{"zero", func(c *Config) { c.MaxOrderNotional["USD"] = dec("0") }, "max_order_notional.USD", "above 0", false},
		{"absurd", func(c *Config) { c.MaxPositionNotional["USD"] = dec("1000000000000") }, "max_position_notional.USD", "below", false},
		{"empty", func(c *Config) { c.MaxOrderNotional = Amounts{} }, "max_order_notional", "empty", false},
		{"lacking", func(c *Config) { delete(c.MaxDailyLoss, "USD") }, "max_daily_loss", "orders in USD are refused", true},
	} {
		c := DefaultConfig()
		tc.change(&c)
		found := false
		for _, p := range c.Validate() {
			found = found || p.Path == tc.path && p.Warning == tc.warns && strings.Contains(p.Message, tc.text)
		}
		if !found {
			t.Errorf("%s: got %v, want %q at %s", tc.name, c.Validate(), tc.text, tc.path)
		}
	}
	if got := (Amounts{}).WantMapping("3000"); !strings.Contains(got, "{USD: 3000, USDT: 3000}") {
		t.Errorf("one number for all: %s", got)
	}
}

package risk

import (
	"strings"
	"time"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Config is one account's hard limits.
type Config struct {
	Symbols             []string      `yaml:"symbols" doc:"what may be traded: venue|symbol or symbol as the venue writes it; \"*\" is every known instrument"`
	MaxOrderQty         event.Decimal `yaml:"max_order_qty" doc:"largest order, in base currency"`
	MaxOrderNotional    Amounts       `yaml:"max_order_notional" doc:"largest order, for each quote currency; a symbol whose quote currency has no entry is not traded"`
	MaxPositionNotional Amounts       `yaml:"max_position_notional" doc:"largest position a symbol, working orders counted as filled, for each quote currency"`
	CollarBps           event.Decimal `yaml:"collar_bps" doc:"the price band in basis points: how far an order's price, and the quote that it takes, may be from the last quote, the last trade and the mean mid of 60 s, either way"`
	MaxDriftBps         event.Decimal `yaml:"max_drift_bps" doc:"how far the price may have moved against the signal, in basis points; a signal may ask for less"`
	MaxQuoteAge         time.Duration `yaml:"max_quote_age" doc:"an older quote is as good as none"`
	MaxTradeAge         time.Duration `yaml:"max_trade_age" doc:"an older trade is no reference for the price band; an entry needs such a trade, or 5s of quotes within the last 60s, beside the quote"`
	MaxDecisionAge      time.Duration `yaml:"max_decision_age" doc:"an older decision is not acted on, whatever its deadline"`
	MaxClockSkew        time.Duration `yaml:"max_clock_skew" doc:"how far the time of a quote or decision may lie ahead of the session's; what is further ahead is refused, less counts as new"`
	MaxOrdersPerSecond  int           `yaml:"max_orders_per_second" doc:"orders sent in any second"`
	MaxOrdersPerMinute  int           `yaml:"max_orders_per_minute" doc:"orders sent in any minute"`
	MaxDailyLoss        Amounts       `yaml:"max_daily_loss" doc:"loss since midnight UTC, for each quote currency; once one of them is lost, only reducing orders pass, in every currency"`
}

// DefaultConfig returns limits for a paper account whose strategies trade up to
// 1,000 of quote currency at a time: two such orders in one direction fit, a third
// does not, and a position that the market carried somewhat beyond its limit can
// still be closed in one order.
func DefaultConfig() Config {
	return Config{
		Symbols:             []string{"*"},
		MaxOrderQty:         event.MustDecimal("10000"),
		MaxOrderNotional:    dollars("3000"),
		MaxPositionNotional: dollars("2500"),
		CollarBps:           event.MustDecimal("100"),
		MaxDriftBps:         event.MustDecimal("50"),
		MaxQuoteAge:         5 * time.Second,
		MaxTradeAge:         time.Minute,
		MaxDecisionAge:      5 * time.Second,
		MaxClockSkew:        250 * time.Millisecond,
		MaxOrdersPerSecond:  10,
		MaxOrdersPerMinute:  300,
		MaxDailyLoss:        dollars("500"),
	}
}

// Validate reports every value that is no limit.
func (c *Config) Validate() component.Problems {
	var p component.Problems
	if len(c.Symbols) == 0 {
		p.Addf("symbols", "is empty, so nothing could be traded: list venue|symbol or symbol, or \"*\"")
	}
	for _, s := range c.Symbols {
		if strings.TrimSpace(s) == "" {
			p.Addf("symbols", "holds an empty name: want venue|symbol, symbol or \"*\"")
		}
	}
	for _, d := range []struct {
		path  string
		value event.Decimal
	}{
		{"max_order_qty", c.MaxOrderQty}, {"collar_bps", c.CollarBps}, {"max_drift_bps", c.MaxDriftBps},
	} {
		checkAmount(&p, d.path, d.value)
	}
	c.validateMoney(&p)
	for _, d := range []struct {
		path  string
		value event.Decimal
	}{{"collar_bps", c.CollarBps}, {"max_drift_bps", c.MaxDriftBps}} {
		if d.value.Cmp(event.NewDecimal(10000, 0)) > 0 {
			p.Addf(d.path, "is %s: want at most 10000, which is the whole price", d.value)
		}
		if d.value.Scale() > 4 {
			p.Addf(d.path, "is %s: want at most 4 decimals", d.value)
		}
	}
	for _, d := range []struct {
		path  string
		value time.Duration
	}{{"max_quote_age", c.MaxQuoteAge}, {"max_trade_age", c.MaxTradeAge}, {"max_decision_age", c.MaxDecisionAge}, {"max_clock_skew", c.MaxClockSkew}} {
		if d.value <= 0 {
			p.Addf(d.path, "is %s: want a duration above 0, such as 5s", d.value)
		}
	}
	if c.MaxOrdersPerSecond < 1 {
		p.Addf("max_orders_per_second", "is %d: want at least 1", c.MaxOrdersPerSecond)
	}
	if c.MaxOrdersPerMinute < c.MaxOrdersPerSecond {
		p.Addf("max_orders_per_minute", "is %d: want at least max_orders_per_second, %d", c.MaxOrdersPerMinute, c.MaxOrdersPerSecond)
	}
	return p
}

var _ component.Validator = (*Config)(nil)

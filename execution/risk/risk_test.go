package risk

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/event"
)

var dec = event.MustDecimal

const now = int64(1_800_000_000_000_000_000)

func base() (*event.Decision, View) {
	d := &event.Decision{
		ID: event.ID{1}, Account: "paper", Strategy: "s", Venue: "binance", Symbol: "BTCUSDT", Action: event.ActionLong, Side: event.Buy,
		Qty: event.Some(dec("0.02")), Type: event.Market, TIF: event.IOC, RefPrice: dec("50000"), Deadline: now + 1e9, Time: now - 1e6,
		SignalTime: now - 2e6, MaxDriftBps: dec("20"), MaxSlippageBps: event.Some(dec("0")),
	}
	v := View{
		Now: now, DayPnL: map[string]event.NullDecimal{"USDT": event.Some(event.Decimal{})},
		Instrument: &event.Instrument{Venue: "binance", Symbol: "BTCUSDT", Quote: "USDT", PriceTick: dec("0.01"), QtyStep: dec("0.00001"), MinQty: event.Some(dec("0.0001")), MinNotional: event.Some(dec("5"))},
		Quote:      &Quote{Bid: dec("49999"), Ask: dec("50001"), RecvTime: now - 1e6},
		Trade:      &Trade{Price: dec("50000"), RecvTime: now - 2e6},
	}
	return d, v
}

// TestLimits changes one thing at a time of an order that passes. Every limit
// must be hit, and its message must hold the numbers.
func TestLimits(t *testing.T) {
	limit := func(d *event.Decision, price string) {
		d.Type, d.TIF, d.LimitPrice = event.Limit, event.GTC, event.Some(dec(price))
	}
	cases := []struct {
		name   string
		change func(d *event.Decision, v *View, g *Gate)
		limit  string // "" passes
		detail []string
	}{
		{"passes", func(*event.Decision, *View, *Gate) {}, "", nil},
		{"no quantity", func(d *event.Decision, _ *View, _ *Gate) { d.Qty = event.NullDecimal{} }, Malformed, nil},
		{"zero quantity", func(d *event.Decision, _ *View, _ *Gate) { d.Qty = event.Some(dec("0.00")) }, Malformed, []string{"0.00"}},
		{"negative quantity", func(d *event.Decision, _ *View, _ *Gate) { d.Qty = event.Some(dec("-1")) }, Malformed, []string{"-1"}},
		{"absurd quantity", func(d *event.Decision, _ *View, _ *Gate) { d.Qty = event.Some(dec("1000000000000")) }, Malformed, nil},
		{"no side", func(d *event.Decision, _ *View, _ *Gate) { d.Side = event.SideUnknown }, Malformed, nil},
		{"long that sells", func(d *event.Decision, _ *View, _ *Gate) { d.Side = event.Sell }, Malformed, []string{"long", "sell"}},
		{"a stop of the whole price", func(d *event.Decision, _ *View, _ *Gate) { d.StopBps = 10_000 }, Malformed, []string{"10000"}},
		{"a horizon before it", func(d *event.Decision, _ *View, _ *Gate) { d.Horizon = -1 }, Malformed, []string{"-1ns"}},
		{"no type", func(d *event.Decision, _ *View, _ *Gate) { d.Type = 0 }, Malformed, nil},
		{"no time in force", func(d *event.Decision, _ *View, _ *Gate) { d.TIF = 0 }, Malformed, nil},
		{"limit without price", func(d *event.Decision, _ *View, _ *Gate) { d.Type = event.Limit }, Malformed, nil},
		{"negative limit", func(d *event.Decision, _ *View, _ *Gate) { limit(d, "-1") }, Malformed, []string{"-1"}},
		{"market with limit", func(d *event.Decision, _ *View, _ *Gate) { d.LimitPrice = event.Some(dec("1")) }, Malformed, nil},
		{"no reference", func(d *event.Decision, _ *View, _ *Gate) { d.RefPrice = event.Decimal{} }, Malformed, nil},
		{"no deadline", func(d *event.Decision, _ *View, _ *Gate) { d.Deadline = 0 }, Malformed, nil},
		{"too many decimals", func(d *event.Decision, v *View, _ *Gate) {
			d.Qty = event.Some(dec("0.020000000000000001"))
			v.Instrument.QtyStep = event.Decimal{}
			v.Quote.Ask = dec("50001.1")
		}, Malformed, []string{"0.020000000000000001", "50001.1"}},
		{"halted", func(_ *event.Decision, v *View, _ *Gate) { v.Halted = "all by ann: drill" }, KillSwitch, []string{"ann", "drill"}},
		{"entry while only reducing is allowed", func(_ *event.Decision, v *View, _ *Gate) { v.ReduceOnly = "all by ann: drill" }, KillSwitch, []string{"ann", "drill"}},
		{"halted and reducing", func(d *event.Decision, v *View, _ *Gate) {
			v.Halted, v.Position = "all by ann: drill", dec("-1")
		}, KillSwitch, nil},
		{"second arm", func(_ *event.Decision, v *View, _ *Gate) { v.Entered = "ah1" }, Children, []string{"ah1", "at most 1"}},
		{"second child", func(_ *event.Decision, v *View, _ *Gate) { v.Orders = 1 }, Children, []string{"1 orders", "at most 1"}},
		{"close without a position", func(d *event.Decision, _ *View, _ *Gate) { d.Action, d.Side = event.ActionFlat, event.Sell }, NothingToClose, []string{"position is 0 ", "0.02"}},
		{"close that adds to a long", func(d *event.Decision, v *View, _ *Gate) { d.Action, v.Own = event.ActionFlat, dec("0.05") }, NothingToClose, []string{"0.05", "0.02", "add"}},
		{"close that adds to a short", func(d *event.Decision, v *View, _ *Gate) {
			d.Action, d.Side, v.Own = event.ActionFlat, event.Sell, dec("-0.05")
		}, NothingToClose, []string{"-0.05", "0.02", "add"}},
		{"close what is being closed", func(d *event.Decision, v *View, _ *Gate) {
			d.Action, d.Side, v.Own, v.OwnWorking = event.ActionFlat, event.Sell, dec("0.05"), dec("0.050")
		}, NothingToClose, []string{"0.05", "0.050", "0.02"}},
		{"close another strategy's position", func(d *event.Decision, v *View, _ *Gate) {
			d.Action, d.Side, v.Position = event.ActionFlat, event.Sell, dec("0.05")
		}, NothingToClose, nil},
		{"close less than a step that is left", func(d *event.Decision, v *View, _ *Gate) {
			d.Action, d.Side, v.Own, v.Position, v.OwnWorking = event.ActionFlat, event.Sell, dec("0.05"), dec("0.05"), dec("0.049999")
		}, MinQty, []string{"0.000001"}},
		{"close a short", func(d *event.Decision, v *View, _ *Gate) {
			d.Action, v.Own, v.Position = event.ActionFlat, dec("-0.02"), dec("-0.02")
		}, "", nil},
		{"close what another strategy holds the other way", func(d *event.Decision, v *View, _ *Gate) { d.Action, v.Own = event.ActionFlat, dec("-0.02") }, WouldFlip, []string{"position is 0 ", "0.02"}},
		{"close what other exits close", func(d *event.Decision, v *View, _ *Gate) {
			d.Action, v.Own, v.Position, v.ExitsWorking = event.ActionFlat, dec("-0.02"), dec("-0.02"), dec("0.02")
		}, WouldFlip, []string{"-0.02", "0.02"}},
		{"close beside entries that work", func(d *event.Decision, v *View, _ *Gate) {
			d.Action, v.Own, v.Position, v.WorkingBuy, v.Unknown = event.ActionFlat, dec("-0.02"), dec("-0.02"), dec("9"), "ahx"
		}, "", nil},
		{"unknown order", func(_ *event.Decision, v *View, _ *Gate) { v.Unknown = "ahx" }, UnknownOrder, []string{"ahx"}},
		{"unknown order, reducing", func(_ *event.Decision, v *View, _ *Gate) { v.Unknown, v.Position = "ahx", dec("-0.02") }, "", nil},
		{"unknown order, flipping", func(_ *event.Decision, v *View, _ *Gate) { v.Unknown, v.Position = "ahx", dec("-0.01") }, UnknownOrder, nil},
		{"unknown order, reducing twice", func(_ *event.Decision, v *View, _ *Gate) {
			v.Unknown, v.Position, v.WorkingBuy = "ahx", dec("-0.02"), dec("0.00001")
		}, UnknownOrder, nil},
		{"no instrument", func(_ *event.Decision, v *View, _ *Gate) { v.Instrument = nil }, UnknownInstrument, []string{"BTCUSDT"}},
		{"other symbols", func(_ *event.Decision, _ *View, g *Gate) { g.cfg.Symbols = []string{"ETHUSDT", "okx|BTCUSDT"} }, SymbolNotAllowed, []string{"binance|BTCUSDT", "2"}},
		{"listed symbol", func(_ *event.Decision, _ *View, g *Gate) { g.cfg.Symbols = []string{"binance|BTCUSDT"} }, "", nil},
		{"other symbols, reducing", func(_ *event.Decision, v *View, g *Gate) {
			g.cfg.Symbols, v.Position = []string{"ETHUSDT"}, dec("-1")
		}, "", nil},
		{"other currency", func(_ *event.Decision, v *View, _ *Gate) { v.Instrument.Quote = "BTC" }, NoLimit, []string{"BTC", "max_order_notional", "USD, USDT"}},
		{"other currency, reducing", func(_ *event.Decision, v *View, _ *Gate) { v.Instrument.Quote, v.Position = "BTC", dec("-1") }, "", nil},
		{"currency without a daily loss", func(_ *event.Decision, _ *View, g *Gate) { delete(g.cfg.MaxDailyLoss, "USDT") }, NoLimit, []string{"USDT", "max_daily_loss"}},
		{"deadline", func(d *event.Decision, _ *View, _ *Gate) { d.Deadline = now - 2e6 }, Expired, []string{"2ms", "0s"}},
		{"old decision", func(d *event.Decision, _ *View, _ *Gate) { d.Time = now - 6e9 }, Expired, []string{"6s", "5s"}},
		{"no quote", func(_ *event.Decision, v *View, _ *Gate) { v.Quote = nil }, QuoteMissing, nil},
		{"one side", func(_ *event.Decision, v *View, _ *Gate) { v.Quote.Bid = event.Decimal{} }, QuoteMissing, nil},
		{"crossed", func(_ *event.Decision, v *View, _ *Gate) { v.Quote.Bid = dec("50002") }, QuoteMissing, []string{"50002", "50001"}},
		{"stale quote", func(_ *event.Decision, v *View, _ *Gate) { v.Quote.RecvTime = now - 5e9 - 1 }, QuoteStale, []string{"5.000000001s", "5s"}},
		{"stale quote, reducing", func(_ *event.Decision, v *View, _ *Gate) {
			v.Quote.RecvTime, v.Position = now-30e9, dec("-1")
		}, "", nil},
		{"very stale quote, reducing", func(_ *event.Decision, v *View, _ *Gate) {
			v.Quote.RecvTime, v.Position = now-30e9-1, dec("-1")
		}, QuoteStale, []string{"30s"}},
		{"below the step", func(d *event.Decision, _ *View, _ *Gate) { d.Qty = event.Some(dec("0.000009")) }, MinQty, []string{"0.000009", "0.0001"}},
		{"below the smallest", func(d *event.Decision, _ *View, _ *Gate) { d.Qty = event.Some(dec("0.00009")) }, MinQty, []string{"0.00009", "0.0001"}},
		{"worth too little", func(_ *event.Decision, v *View, _ *Gate) { v.Instrument.MinNotional = event.Some(dec("1000.03")) }, MinNotional, []string{"1000.02", "1000.03"}},
		{"quantity", func(_ *event.Decision, _ *View, g *Gate) { g.cfg.MaxOrderQty = dec("0.019") }, MaxOrderQty, []string{"0.02", "0.019"}},
		{"notional", func(d *event.Decision, _ *View, _ *Gate) { d.Qty = event.Some(dec("0.06")) }, MaxOrderNotional, []string{"3000.06", "3000"}},
		{"collar below", func(d *event.Decision, _ *View, _ *Gate) { limit(d, "49000") }, Collar, []string{"49000", "50001", "200.19", "100"}},
		{"collar above", func(d *event.Decision, _ *View, _ *Gate) { limit(d, "50502") }, Collar, []string{"50502", "100.19"}},
		{"limit in the collar", func(d *event.Decision, _ *View, _ *Gate) { limit(d, "49950") }, "", nil},
		{"wide book", func(_ *event.Decision, v *View, _ *Gate) { v.Quote.Bid = dec("49000") }, Collar, []string{"49000", "204.28"}},
		{"drift", func(d *event.Decision, _ *View, _ *Gate) { d.RefPrice = dec("49900") }, Drifted, []string{"49900", "50001", "20.24", "20"}},
		{"drift the good way", func(d *event.Decision, _ *View, _ *Gate) { d.RefPrice = dec("50400") }, "", nil},
		{"too good a price", func(d *event.Decision, _ *View, _ *Gate) { d.RefPrice = dec("51000") }, Collar, []string{"50001", "51000", "195.88", "100"}},
		{"one bad quote", func(d *event.Decision, v *View, _ *Gate) {
			v.Quote.Bid, v.Quote.Ask, d.Qty = dec("0.99"), dec("0.99"), event.Some(dec("2500"))
		}, Collar, []string{"0.99"}},
		{"one bad quote, and the signal is as bad", func(d *event.Decision, v *View, _ *Gate) {
			v.Quote.Bid, v.Quote.Ask, d.RefPrice, d.Qty = dec("0.99"), dec("0.99"), dec("0.99"), event.Some(dec("2500"))
		}, Collar, []string{"0.99", "last trade's 50000"}},
		{"nothing beside the quote", func(_ *event.Decision, v *View, _ *Gate) { v.Trade = nil }, ReferenceMissing, []string{"1m0s", "5s"}},
		{"an old trade", func(_ *event.Decision, v *View, _ *Gate) { v.Trade.RecvTime = now - 60e9 - 1 }, ReferenceMissing, nil},
		{"a trade of the future", func(_ *event.Decision, v *View, _ *Gate) { v.Trade.RecvTime = now + 251e6 }, ReferenceMissing, nil},
		{"the mean alone", func(_ *event.Decision, v *View, _ *Gate) { v.Trade, v.MeanMid = nil, event.Some(dec("50400")) }, "", nil},
		{"far from the mean", func(_ *event.Decision, v *View, _ *Gate) { v.MeanMid = event.Some(dec("49500")) }, Collar, []string{"50001", "mean mid of 1m0s's 49500", "101.21", "100"}},
		{"far below the mean", func(_ *event.Decision, v *View, _ *Gate) { v.MeanMid = event.Some(dec("50510")) }, Collar, []string{"50001", "50510"}},
		{"far from the last trade", func(_ *event.Decision, v *View, _ *Gate) {
			v.Trade.Price, v.MeanMid = dec("51000"), event.Some(dec("50000"))
		}, Collar, []string{"50001", "last trade's 51000"}},
		{"limit far from the last trade", func(d *event.Decision, v *View, _ *Gate) {
			limit(d, "49600")
			v.Trade.Price = dec("50300")
		}, Collar, []string{"49600", "last trade's 50300"}},
		{"fast market, reducing", func(_ *event.Decision, v *View, _ *Gate) {
			v.MeanMid, v.Position = event.Some(dec("51000")), dec("-1")
		}, "", nil},
		{"one bad quote, reducing", func(_ *event.Decision, v *View, _ *Gate) {
			v.Quote.Bid, v.Quote.Ask, v.MeanMid, v.Position = dec("90000"), dec("90000"), event.Some(dec("50000")), dec("-1")
		}, Collar, []string{"90000", "50000"}},
		{"nothing beside the quote, reducing", func(_ *event.Decision, v *View, _ *Gate) { v.Trade, v.Position = nil, dec("-1") }, "", nil},
		{"slippage below 0", func(d *event.Decision, _ *View, _ *Gate) { d.MaxSlippageBps = event.Some(dec("-1")) }, Malformed, []string{"-1"}},
		{"slippage of all", func(d *event.Decision, _ *View, _ *Gate) { d.MaxSlippageBps = event.Some(dec("10000")) }, Malformed, []string{"10000"}},
		{"notional at what slippage allows", func(d *event.Decision, _ *View, _ *Gate) {
			d.MaxSlippageBps, d.Qty = event.Some(dec("10")), event.Some(dec("0.05995"))
		}, MaxOrderNotional, []string{"3000.55", "3000"}},
		{"moved away, reducing", func(d *event.Decision, v *View, _ *Gate) { d.RefPrice, v.Position = dec("40000"), dec("-1") }, "", nil},
		{"notional, reducing", func(d *event.Decision, v *View, _ *Gate) { d.Qty, v.Position = event.Some(dec("0.06")), dec("-1") }, "", nil},
		{"notional at the touch", func(d *event.Decision, v *View, _ *Gate) {
			d.Action, d.Side, d.Qty = event.ActionShort, event.Sell, event.Some(dec("0.0601"))
			d.Type, d.TIF, d.LimitPrice = event.Limit, event.GTC, event.Some(dec("49900"))
		}, MaxOrderNotional, []string{"3004.9399", "3000"}},
		{"decision of the future", func(d *event.Decision, _ *View, _ *Gate) { d.Time = now + 251e6 }, ClockSkew, []string{"251ms", "250ms"}},
		{"decision slightly ahead", func(d *event.Decision, _ *View, _ *Gate) { d.Time = now + 250e6 }, "", nil},
		{"quote of the future", func(_ *event.Decision, v *View, _ *Gate) { v.Quote.RecvTime = now + 251e6 }, ClockSkew, []string{"251ms", "250ms"}},
		{"rate, reducing", func(_ *event.Decision, v *View, g *Gate) {
			v.Position = dec("-1")
			for range 300 {
				g.Charge(now, false)
			}
		}, "", nil},
		{"rate of what reduces", func(_ *event.Decision, v *View, g *Gate) {
			v.Position = dec("-1")
			for range 10 {
				g.Charge(now, true)
			}
		}, OrderRate, []string{"10 orders"}},
		{"rate of what reduces, entry", func(_ *event.Decision, _ *View, g *Gate) {
			for range 300 {
				g.Charge(now, true)
			}
		}, "", nil},
		{"drift, account's limit", func(d *event.Decision, _ *View, _ *Gate) { d.RefPrice, d.MaxDriftBps = dec("49700"), dec("500") }, Drifted, []string{"60.56", "50"}},
		{"position", func(_ *event.Decision, v *View, _ *Gate) { v.Position, v.WorkingBuy = dec("0.02"), dec("0.01") }, MaxPosition, []string{"0.05", "2500.05", "2500"}},
		{"position, opposite orders do not help", func(_ *event.Decision, v *View, _ *Gate) { v.Position, v.WorkingSell = dec("0.03"), dec("1") }, MaxPosition, nil},
		{"too large a position, reducing", func(_ *event.Decision, v *View, _ *Gate) { v.Position = dec("-9") }, "", nil},
		{"daily loss", func(_ *event.Decision, v *View, _ *Gate) { v.DayPnL["USDT"] = event.Some(dec("-500")) }, DailyLoss, []string{"-500"}},
		{"daily loss not known", func(_ *event.Decision, v *View, _ *Gate) { v.DayPnL["USDT"] = event.NullDecimal{} }, DailyLoss, nil},
		{"daily loss in another currency", func(_ *event.Decision, v *View, _ *Gate) { v.DayPnL["USD"] = event.Some(dec("-500.01")) }, DailyLoss, []string{"-500.01 USD"}},
		{"daily loss in a currency without a limit", func(_ *event.Decision, v *View, _ *Gate) { v.DayPnL["EUR"] = event.Some(dec("-0.01")) }, DailyLoss, []string{"-0.01 EUR"}},
		{"daily gain in a currency without a limit", func(_ *event.Decision, v *View, _ *Gate) { v.DayPnL["EUR"] = event.Some(dec("1")) }, "", nil},
		{"daily loss, reducing", func(_ *event.Decision, v *View, _ *Gate) {
			v.DayPnL["USDT"], v.Position = event.Some(dec("-501")), dec("-1")
		}, "", nil},
		{"rate a second", func(_ *event.Decision, _ *View, g *Gate) {
			for i := range 10 {
				g.Charge(now-1e9+1+int64(i), false)
			}
		}, OrderRate, []string{"10 orders", "1s", "at most 10"}},
		{"rate a second later", func(_ *event.Decision, _ *View, g *Gate) {
			for range 10 {
				g.Charge(now-1e9, false)
			}
		}, "", nil},
		{"rate a minute", func(_ *event.Decision, _ *View, g *Gate) {
			for i := range 300 {
				g.Charge(now-59e9+int64(i), false)
			}
		}, OrderRate, []string{"300 orders", "1m0s", "at most 300"}},
	}
	hit := map[string]bool{UnknownAccount: true} // the role's: there is no gate for it
	for _, c := range cases {
		d, v := base()
		g := NewGate(DefaultConfig())
		c.change(d, &v, g)
		o, r := g.Check(d, v)
		if c.limit == "" {
			if r != nil {
				t.Errorf("%s: refused by %s: %s", c.name, r.Limit, r.Detail)
			} else if o.Qty.Sign() <= 0 || o.LimitPrice.Sign() <= 0 {
				t.Errorf("%s: passed without quantity or price: %+v", c.name, o)
			}
			continue
		}
		if r == nil || r.Limit != c.limit {
			t.Errorf("%s: got %+v, want %s", c.name, r, c.limit)
			continue
		}
		hit[c.limit] = true
		for _, part := range c.detail {
			if !strings.Contains(r.Detail, part) {
				t.Errorf("%s: %q does not mention %q", c.name, r.Detail, part)
			}
		}
	}
	for _, l := range Limits() {
		if !hit[l] {
			t.Errorf("no case hits limit %s", l)
		}
	}
}

// TestRounding: quantities go down to the step, limit prices away from the
// market.
func TestRounding(t *testing.T) {
	d, v := base()
	d.Qty = event.Some(dec("0.0123456789"))
	d.Type, d.TIF, d.LimitPrice = event.Limit, event.GTC, event.Some(dec("50000.019"))
	o, r := NewGate(DefaultConfig()).Check(d, v)
	if r != nil || o.Qty.String() != "0.01234" || o.LimitPrice.Cmp(dec("50000.01")) != 0 {
		t.Errorf("buy: got %+v, %+v", o, r)
	}
	d.Side, d.Action = event.Sell, event.ActionShort
	d.LimitPrice = event.Some(dec("50000.011"))
	o, r = NewGate(DefaultConfig()).Check(d, v)
	if r != nil || o.LimitPrice.Cmp(dec("50000.02")) != 0 {
		t.Errorf("sell: got %+v, %+v", o, r)
	}
}

// TestClosing: a flat order is cut down to what is left of its strategy's own
// position, and only then judged by the other limits.
func TestClosing(t *testing.T) {
	for _, c := range []struct{ qty, own, working, want, detail string }{
		{"0.02", "0.05", "0", "0.02", ""},
		{"0.05", "0.05", "0", "0.05", ""},
		{"0.06", "0.05", "0", "0.05", "reduced from 0.06 to 0.05"},
		{"0.05", "0.05", "0.02", "0.03", "reduced from 0.05 to 0.03"},
		{"0.05", "0.0299999", "0.02", "0.00999", "reduced from 0.05 to 0.0099999"},
		{"9", "0.05", "0.02", "0.03", "reduced from 9 to 0.03"}, // 9 would be beyond max_order_notional
	} {
		for _, side := range []event.Side{event.Sell, event.Buy} {
			d, v := base()
			d.Action, d.Side, d.Qty = event.ActionFlat, side, event.Some(dec(c.qty))
			v.Own, v.OwnWorking = dec(c.own), dec(c.working)
			if side == event.Buy {
				v.Own = ledger.Neg(v.Own)
			}
			v.Position = v.Own
			o, r := NewGate(DefaultConfig()).Check(d, v)
			if r != nil || o.Qty.Cmp(dec(c.want)) != 0 || !strings.HasPrefix(o.Detail, c.detail) || (o.Detail == "") != (c.detail == "") {
				t.Errorf("%s %s of %s, %s working: got %+v, %+v, want %s", side, c.qty, c.own, c.working, o, r, c.want)
			}
			if d.Qty.Decimal.Cmp(dec(c.qty)) != 0 {
				t.Errorf("the decision was changed to %s", d.Qty)
			}
		}
	}
}

// TestFlatNeverCrossesZero lets decisions, fills and the ends of orders arrive in
// any order. A strategy that opens in one direction only never gets a position on
// the other side, however its flat decisions, which may ask for anything, fall;
// one that opens both ways never gets one beyond what it asked for there.
func TestFlatNeverCrossesZero(t *testing.T) {
	type working struct {
		side event.Side
		left event.Decimal
	}
	rapid.Check(t, func(t *rapid.T) {
		must := func(d event.Decimal, err error) event.Decimal {
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		cfg := DefaultConfig()
		cfg.MaxOrderNotional, cfg.MaxPositionNotional = dollars("1000000000"), dollars("1000000000")
		cfg.MaxOrdersPerSecond, cfg.MaxOrdersPerMinute = 1000, 1000
		g := NewGate(cfg)
		opens := rapid.SampledFrom([]string{"long", "short", "both"}).Draw(t, "opens")
		var own, longs, shorts event.Decimal
		var orders []working
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(orders) > 0 && rapid.Bool().Draw(t, "fill") {
				i := rapid.IntRange(0, len(orders)-1).Draw(t, "which")
				w := &orders[i]
				steps := must(ledger.Mul(w.left, dec("100000")))
				n := rapid.Int64Range(0, int64(steps.Float64())).Draw(t, "steps filled")
				qty := event.NewDecimal(n, 5)
				w.left = must(ledger.Sub(w.left, qty))
				if w.side == event.Buy {
					own = must(ledger.Add(own, qty))
				} else {
					own = must(ledger.Sub(own, qty))
				}
				if w.left.IsZero() || rapid.Bool().Draw(t, "expires") {
					orders = append(orders[:i], orders[i+1:]...)
				}
			} else {
				d, v := base()
				d.Qty = event.Some(event.NewDecimal(rapid.Int64Range(10, 1000).Draw(t, "qty"), 5))
				d.Action = rapid.SampledFrom([]event.Action{event.ActionFlat, event.ActionLong, event.ActionShort}).Draw(t, "action")
				if (d.Action == event.ActionLong && opens == "short") || (d.Action == event.ActionShort && opens == "long") {
					d.Action = event.ActionFlat
				}
				d.Side = event.Buy
				if d.Action == event.ActionShort || (d.Action == event.ActionFlat && rapid.Bool().Draw(t, "sell")) {
					d.Side = event.Sell
				}
				v.Own, v.Position, v.Instrument.MinNotional = own, own, event.NullDecimal{}
				for _, w := range orders {
					if w.side == d.Side {
						v.OwnWorking = must(ledger.Add(v.OwnWorking, w.left))
					}
				}
				o, r := g.Check(d, v)
				if r != nil {
					if d.Action != event.ActionFlat {
						t.Fatalf("%s refused: %+v", d.Action, r)
					}
					continue
				}
				switch d.Action {
				case event.ActionLong:
					longs = must(ledger.Add(longs, o.Qty))
				case event.ActionShort:
					shorts = must(ledger.Add(shorts, o.Qty))
				}
				orders = append(orders, working{d.Side, o.Qty})
			}
			if own.Cmp(longs) > 0 || own.Cmp(ledger.Neg(shorts)) < 0 {
				t.Fatalf("position is %s after opening %s long and %s short", own, longs, shorts)
			}
		}
	})
}

// TestNothingPassesALimit throws random orders at a gate that keeps its own
// books, and checks after each that no limit was passed.
func TestNothingPassesALimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := DefaultConfig()
		g := NewGate(cfg)
		_, v := base()
		at := now
		var sent []int64
		for range rapid.IntRange(1, 60).Draw(t, "orders") {
			d, _ := base()
			at += rapid.Int64Range(0, int64(300*time.Millisecond)).Draw(t, "wait")
			d.Time, d.Deadline = at, at+1
			if rapid.Bool().Draw(t, "sell") {
				d.Side, d.Action = event.Sell, event.ActionShort
			}
			d.Qty = event.Some(event.NewDecimal(rapid.Int64Range(-10, 1_000_000).Draw(t, "qty"), uint8(rapid.IntRange(0, 12).Draw(t, "scale"))))
			if rapid.Bool().Draw(t, "limit") {
				d.Type, d.TIF = event.Limit, event.GTC
				d.LimitPrice = event.Some(event.NewDecimal(rapid.Int64Range(4_800_000, 5_200_000).Draw(t, "price"), 2))
			}
			v.Now, v.Quote.RecvTime = at, at
			o, r := g.Check(d, v)
			if r != nil {
				continue
			}
			g.Charge(at, o.Reducing)
			sent = append(sent, at)
			if o.Qty.Cmp(d.Qty.Decimal) > 0 || o.Qty.Sign() <= 0 {
				t.Fatalf("quantity grew from %s to %s", d.Qty, o.Qty)
			}
			notional, err := ledger.Mul(o.Qty, o.LimitPrice)
			if err != nil || notional.Cmp(cfg.MaxOrderNotional["USDT"]) > 0 {
				t.Fatalf("order of %s passed: %v", notional, err)
			}
			before := v.Position
			if d.Side == event.Buy {
				v.Position, err = ledger.Add(v.Position, o.Qty)
			} else {
				v.Position, err = ledger.Sub(v.Position, o.Qty)
			}
			if err != nil {
				t.Fatal(err)
			}
			worth, err := ledger.Mul(ledger.Abs(v.Position), o.LimitPrice)
			if err != nil {
				t.Fatal(err)
			}
			if worth.Cmp(cfg.MaxPositionNotional["USDT"]) > 0 && ledger.Abs(v.Position).Cmp(ledger.Abs(before)) >= 0 {
				t.Fatalf("position of %s passed", worth)
			}
			n := 0
			for _, s := range sent {
				if s > at-int64(time.Second) {
					n++
				}
			}
			if n > cfg.MaxOrdersPerSecond {
				t.Fatalf("%d orders in a second", n)
			}
		}
	})
}

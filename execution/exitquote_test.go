package execution

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/autohedge/autohedge/execution/risk"
	"github.com/autohedge/autohedge/stream/event"
)

// TestLimitsOfEntriesHoldNoExitUp: what refuses every entry of an account lets its exits
// pass.
func TestLimitsOfEntriesHoldNoExitUp(t *testing.T) {
	w := newExitWorld(t)
	r := w.startWithQuote()
	d := w.decide(w.enter(event.Buy, "0.02", 0))
	w.wantStates(d, "submitting accepted filled")
	w.until("the position is recorded", func() bool { return len(all[*event.Position](w, event.TopicPositions)) > 0 })
	r.drain()
	for name, change := range map[string]func(*risk.Config){
		"symbols": func(c *risk.Config) { c.Symbols = []string{"ETHUSDT"} },
		"size": func(c *risk.Config) {
			c.MaxOrderQty, c.MaxOrderNotional, c.MaxPositionNotional = dec("0.0001"), risk.Amounts{"USDT": dec("1")}, risk.Amounts{"USDT": dec("1")}
		},
		"currency": func(c *risk.Config) {
			c.MaxOrderNotional, c.MaxPositionNotional, c.MaxDailyLoss = risk.Amounts{"EUR": dec("1")}, risk.Amounts{"EUR": dec("1")}, risk.Amounts{"EUR": dec("1")}
		},
		"loss": func(c *risk.Config) { c.MaxDailyLoss = risk.Amounts{"USDT": dec("0.01")} },
		"rate": func(c *risk.Config) { c.MaxOrdersPerSecond, c.MaxOrdersPerMinute = 1, 1 },
		"age":  func(c *risk.Config) { c.MaxDecisionAge = time.Nanosecond },
	} {
		limits := DefaultConfig().Accounts[0].Limits
		limits.MaxQuoteAge = time.Minute
		change(&limits)
		w.cfg.Accounts[0].Limits = limits
		r := w.startWithQuote()
		refused := w.decide(w.enter(event.Buy, "0.02", 0))
		w.until(name+" refuses an entry", func() bool {
			if w.states(refused) == "submitting accepted filled" { // within the rate
				refused = w.decide(w.enter(event.Buy, "0.0002", 0))
			}
			return strings.HasPrefix(w.states(refused), "risk_rejected:")
		})
		w.quote("49700.00", "0.5", "49701.00", "0.5")
		w.until("an exit passes in spite of "+name, func() bool { return w.position("momentum").IsZero() })
		r.drain()
		// The next one has something to close again.
		w.cfg.Accounts[0].Limits = DefaultConfig().Accounts[0].Limits
		w.cfg.Accounts[0].Limits.MaxOrdersPerSecond, w.cfg.Accounts[0].Limits.MaxOrdersPerMinute, w.cfg.Accounts[0].Limits.MaxQuoteAge = 100, 1000, time.Minute
		r = w.startWithQuote()
		w.wantStates(w.decide(w.enter(event.Buy, "0.02", 0)), "submitting accepted filled")
		r.drain()
	}
	w.audit()
}

// TestBadQuotesCloseNothing: a quote that no other price agrees with reaches no stop.
func TestBadQuotesCloseNothing(t *testing.T) {
	w := newExitWorld(t)
	r := w.startWithQuote()
	d := w.decide(w.enter(event.Buy, "0.02", 0))
	w.wantStates(d, "submitting accepted filled")
	bad := func(bid, ask string) {
		w.seq++
		w.publish(event.TopicMarket, event.Key(venue, symbol), &event.Quote{
			Channel: event.ChannelBookTicker, Sequence: w.seq, Bid: dec(bid), BidQty: event.Some(dec("1")), Ask: dec(ask), AskQty: event.Some(dec("1")),
			RecvTime: time.Now().UnixNano(), TimeSource: event.TimeReceive,
		})
		w.seesQuote(r)
		r.looks()
	}
	bad("0.99", "0.99")         // far from the last trade
	bad("49400.00", "50300.00") // wide, and beyond the band
	bad("49800.00", "49700.00") // crossed
	bad("49700.00", "0")        // one side
	w.wantExits(d, "")
	w.quote("49700.00", "0.5", "49701.00", "0.5")
	w.wantExits(d, "stop 1: submitting accepted filled")
	r.drain()
	w.audit()
}

// TestFirstQuoteOfAStartClosesNothing: after a start nothing but the quotes may be known
// of an instrument, and the first of them may be wrong.
func TestFirstQuoteOfAStartClosesNothing(t *testing.T) {
	w := newExitWorld(t)
	r := w.startWithQuote()
	d := w.decide(w.enter(event.Buy, "0.02", 0))
	w.wantStates(d, "submitting accepted filled")
	w.until("the position is recorded", func() bool { return len(all[*event.Position](w, event.TopicPositions)) > 0 })
	r.stop()
	r.err <- <-r.err
	r = w.start(nil)
	alone := func(bid, ask string) {
		w.seq++
		w.publish(event.TopicMarket, event.Key(venue, symbol), &event.Quote{
			Channel: event.ChannelBookTicker, Sequence: w.seq, Bid: dec(bid), BidQty: event.Some(dec("1")), Ask: dec(ask), AskQty: event.Some(dec("1")),
			RecvTime: time.Now().UnixNano(), TimeSource: event.TimeReceive,
		})
		w.seesQuote(r)
		r.looks()
		r.looks() // the same quote does not confirm itself
	}
	alone("4970.00", "4970.10")
	alone("50000.00", "50001.00")
	alone("49700.00", "49701.00") // which the one before confirms
	w.wantExits(d, "stop 1: submitting accepted filled")
	r.drain()
	w.audit()
	for _, e := range all[*event.OrderEvent](w, event.TopicOrders) {
		if e.Lot != "" && e.RefPrice.Cmp(dec("49700")) != 0 {
			t.Errorf("exit %+v", e)
		}
	}
}

// TestExitWithoutFreshQuote: a horizon that passes without a fresh quote is acted on at
// the last one while that is not too old, then it waits and says so.
func TestExitWithoutFreshQuote(t *testing.T) {
	for _, c := range []struct {
		name string
		age  time.Duration
		want string
	}{{"young", 10 * time.Second, "time 1: submitting accepted filled"}, {"old", 40 * time.Second, ""}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newExitWorld(t)
			r := w.startWithQuote()
			d := w.decide(w.enter(event.Buy, "0.02", time.Hour))
			w.wantStates(d, "submitting accepted filled")
			w.until("the position is recorded", func() bool { return len(all[*event.Position](w, event.TopicPositions)) > 0 })
			r.stop()
			r.err <- <-r.err
			// The lot's time comes in a second life, which has seen one old quote only.
			w.cfg.Accounts[0].Limits.MaxQuoteAge = 5 * time.Second
			r = w.start(func(r *Role) { r.env.Clock = laterClock{time.Hour + time.Second} })
			w.quoteAt(time.Now().Add(time.Hour+time.Second-c.age), "50000.00", "0.5", "50001.00", "0.5")
			w.seesQuote(r)
			r.looks()
			if c.want == "" {
				w.until("/health says that it waits", func() bool { return strings.Contains(r.role.waitingExits(), "old") })
				w.wantExits(d, "")
				w.quoteAt(time.Now().Add(time.Hour+time.Second), "50000.00", "0.5", "50001.00", "0.5")
				c.want = "time 1: submitting accepted filled"
			}
			w.wantExits(d, c.want)
			r.drain()
			w.audit()
		})
	}
}

// TestExitsOnAClockThatIsBehind: an owner whose clock is behind that of the one before
// tries the exits on that it began.
func TestExitsOnAClockThatIsBehind(t *testing.T) {
	w := newExitWorld(t)
	w.cfg.Accounts[0].Exits.RetryInterval = time.Second
	r := w.startWithQuote()
	d := w.decide(w.enter(event.Buy, "0.02", 0))
	w.wantStates(d, "submitting accepted filled")
	w.quote("49700.00", "0.015", "49701.00", "0.5")
	w.wantExits(d, "stop 1: submitting accepted partially_filled expired:ioc")
	r.stop()
	r.err <- <-r.err
	r = w.start(func(r *Role) { r.env.Clock = laterClock{-10 * time.Minute} })
	w.quoteAt(time.Now().Add(-10*time.Minute), "49700.00", "0.5", "49701.00", "0.5")
	w.wantExits(d, "stop 1: submitting accepted partially_filled expired:ioc, stop 2: submitting accepted filled")
	r.drain()
	w.wantFlat("momentum")
}

// TestBlindLotsAreSaid: while no quote can trigger a lot, somebody hears of it.
func TestBlindLotsAreSaid(t *testing.T) {
	w := newExitWorld(t)
	w.cfg.Accounts[0].Limits.MaxQuoteAge, w.cfg.Accounts[0].Exits.MaxQuoteAge = 50*time.Millisecond, 100*time.Millisecond
	r := w.startWithQuote()
	d := w.enter(event.Buy, "0.02", 0)
	w.until("it is entered on a quote that is fresh", func() bool {
		w.quote("50000.00", "0.5", "50001.00", "0.5")
		d = w.enter(event.Buy, "0.02", 0)
		w.decide(d)
		w.until("it is judged", func() bool { return len(w.history(d)) > 0 })
		return w.history(d)[0].State == event.OrderSubmitting
	})
	w.wantStates(d, "submitting accepted filled")
	w.until("/health says that nothing can close it", func() bool { return strings.Contains(r.role.waitingExits(), "old") })
	if r.metric("waiting_exits") != 1 {
		t.Errorf("%v lots wait", r.metric("waiting_exits"))
	}
	w.until("a quote ends that", func() bool {
		w.quote("50000.00", "0.5", "50001.00", "0.5")
		w.seesQuote(r)
		r.looks()
		return r.role.waitingExits() == ""
	})
	w.wantExits(d, "")
	r.drain()
}

// laterClock is ahead of the machine's.
type laterClock struct{ by time.Duration }

func (c laterClock) Now() time.Time { return time.Now().Add(c.by) }

// TestBandsWithinTheCollar: no exit reaches beyond the band of prices.
func TestBandsWithinTheCollar(t *testing.T) {
	for _, c := range []struct {
		slippage, most uint32
		collar         string
		want           string
	}{{10, 100, "100", "10 100"}, {10, 100, "55.5", "10 55"}, {60, 100, "50", "50 50"}, {10, 100, "0.5", "0 0"}} {
		cfg := DefaultConfig().Accounts[0]
		cfg.Exits.SlippageBps, cfg.Exits.MaxSlippageBps, cfg.Limits.CollarBps = c.slippage, c.most, dec(c.collar)
		first, most := (&account{cfg: &cfg}).bands()
		if got := fmt.Sprint(first, " ", most); got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
}

package app_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

// quote publishes a trade and a quote around it, in cents.
func (d *desk) quote(bid int64) {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seq++
	now, at := time.Now().UnixNano(), func(cents int64) event.Decimal { return event.NewDecimal(cents, 2) }
	d.publish(event.TopicMarket, event.Key("binance", "BTCUSDT"), &event.Trade{
		Channel: event.ChannelTrade, TradeID: d.seq, Price: at(bid), Qty: event.Some(event.MustDecimal("1")), EventTime: now, RecvTime: now, TimeSource: event.TimeReceive,
	})
	d.publish(event.TopicMarket, event.Key("binance", "BTCUSDT"), &event.Quote{
		Channel: event.ChannelBookTicker, Sequence: d.seq, Bid: at(bid), BidQty: event.Some(event.MustDecimal("5")), Ask: at(bid + 100), AskQty: event.Some(event.MustDecimal("5")),
		RecvTime: now, TimeSource: event.TimeReceive,
	})
}

// enter decides to buy for an account, with a stop, and returns the entry's id.
func (d *desk) enter(account string, stopBps uint32) string {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seq++
	now, price := time.Now().UnixNano(), event.MustDecimal("50000")
	signal := event.HashStrings("exits", fmt.Sprint(d.seq))
	x := &event.Decision{
		ID: event.DecisionID(signal, account, "champion"), SignalID: signal, Arm: "champion", Account: account, Strategy: "s", Venue: "binance", Symbol: "BTCUSDT",
		Desk: "deterministic", Action: event.ActionLong, Reason: "test", Side: event.Buy, Qty: event.Some(event.MustDecimal("0.002")), Type: event.Market, TIF: event.IOC, RefPrice: price,
		Bid: event.Some(price), Ask: event.Some(price), SignalTime: now, Deadline: now + int64(time.Minute), MaxDriftBps: event.MustDecimal("50"), StartedAt: now, Time: now, StopBps: stopBps,
	}
	d.publish(event.TopicDecisions, []byte(account), x)
	return event.ClientOrderID(x.ID, 0)
}

// A process with open lots is killed, and the next one once more as soon as it begins to
// close them. The one after that goes on: every lot is closed once, whole, and the
// brokers' ledgers say the same.
func TestProcessKilledWithOpenLots(t *testing.T) {
	t.Parallel()
	brokerData := t.TempDir()
	kafka := start(t, "kafka", "--data", brokerData, "--output", "json")
	kafka.addresses()
	d := newDesk(t, brokerData)
	file, data := d.config(brokerData), t.TempDir()
	begin := func() *process {
		p := start(t, "run", "--config", file, "--data", data, "--roles", "execution")
		p.ready()
		return p
	}
	p := begin()
	lots := make(map[string]bool)
	for i, account := range d.accounts {
		for range 3 {
			until(t, "an entry is filled", func() bool {
				d.quote(50_000_00)
				id := d.enter(account, uint32(50+10*i)) //nolint:gosec // small
				until(t, "it is judged and done", func() bool { last, _, _ := d.entries(); return last[id] != nil && last[id].State.Terminal() })
				last, _, _ := d.entries()
				lots[id] = last[id].State == event.OrderFilled
				return lots[id]
			})
		}
	}
	p.kill()

	// exits are the exits in the order log, by the lot that they close.
	exits := func() map[string][]*event.OrderEvent {
		last, _, _ := d.entries()
		out := make(map[string][]*event.OrderEvent)
		for _, e := range last {
			if e.Lot != "" {
				out[e.Lot] = append(out[e.Lot], e)
			}
		}
		return out
	}
	p = begin()
	d.quote(49_900_00) // 20 bps: no stop
	if n := len(exits()); n != 0 {
		t.Errorf("%d lots are being closed", n)
	}
	until(t, "the stops are reached", func() bool { d.quote(49_550_00); return len(exits()) > 0 })
	p.kill()
	p = begin()
	until(t, "every lot is closed", func() bool {
		d.quote(49_500_00)
		all := exits()
		for lot, filled := range lots {
			done := false
			for _, e := range all[lot] {
				done = done || e.State == event.OrderFilled
			}
			if filled && !done {
				return false
			}
		}
		return true
	})
	p.signal(syscall.SIGTERM)
	p.ended()
	last, fills, sends := d.entries()
	closed := make(map[string]int)
	for id, e := range last {
		sum := event.Decimal{}
		for _, f := range fills[id] {
			sum, _ = event.FromMoney(sum.Money().Add(f.Qty.Money()))
		}
		if e.FilledQty.Cmp(sum) != 0 || sends[id] > 1 {
			t.Errorf("order %s is %s, filled %s, its fills prove %s, begun %d times", id, e.State, e.FilledQty, sum, sends[id])
		}
		if e.Lot != "" && e.State == event.OrderFilled {
			closed[e.Lot]++
			if e.Leg != event.LegStop || e.Side != event.Sell || e.FilledQty.Cmp(last[e.Lot].FilledQty) != 0 {
				t.Errorf("exit %+v", e)
			}
		}
	}
	for lot, filled := range lots {
		if filled && closed[lot] != 1 {
			t.Errorf("lot %s was closed %d times", lot, closed[lot])
		}
	}
	for _, account := range d.accounts {
		if n := d.ledger(data, account); n < 6 {
			t.Errorf("the ledger of %s has %d orders", account, n)
		}
	}
	t.Logf("%d lots, %d exits", len(closed), len(exits()))
	kafka.signal(syscall.SIGTERM)
	kafka.ended()
}

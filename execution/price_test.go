package execution

import (
	"testing"

	"github.com/autohedge/autohedge/execution/risk"
	"github.com/autohedge/autohedge/stream/event"
)

// TestMarketOrderGoesOutAsLimit: what the broker is sent and the order log says is a
// limit order at the touch and the decision's slippage beyond it.
func TestMarketOrderGoesOutAsLimit(t *testing.T) {
	w := newWorld(t)
	r := w.start(nil)
	w.quote("50000", "1", "50001", "1")
	w.seesQuote(r)
	d := w.decision(event.Buy, "0.02", "50000")
	d.MaxSlippageBps = event.Some(dec("4"))
	w.decide(d)
	w.until("the order is filled", func() bool { return len(all[*event.Fill](w, event.TopicFills)) == 1 })
	for _, e := range all[*event.OrderEvent](w, event.TopicOrders) {
		if e.Type != event.Limit || e.TIF != event.IOC || e.LimitPrice.String() != "50021" { // 50021.0004 in steps of 0.01
			t.Errorf("entry %d is a %s %s order at %s", e.Seq, e.Type, e.TIF, e.LimitPrice)
		}
	}
	if f := all[*event.Fill](w, event.TopicFills)[0]; f.Price.Cmp(dec("50021")) > 0 {
		t.Errorf("filled at %s, beyond the limit", f.Price)
	}
}

// TestOneBadQuoteTradesNothing: a quote that neither the last trade nor the mean of mids
// confirms is no price, even where the decision's reference price agrees with it; and
// after a start nothing is traded until something confirms the quote.
func TestOneBadQuoteTradesNothing(t *testing.T) {
	w := newWorld(t)
	r := w.start(nil)
	alone := &event.Quote{Channel: event.ChannelBookTicker, Sequence: 1, Bid: dec("50000"), BidQty: event.Some(dec("1")), Ask: dec("50001"), AskQty: event.Some(dec("1"))}
	publish := func(q *event.Quote) {
		w.seq++
		q.Sequence, q.RecvTime, q.TimeSource = w.seq, r.role.env.Clock.Now().UnixNano(), event.TimeReceive
		w.publish(event.TopicMarket, event.Key(venue, symbol), q)
		w.seesQuote(r)
	}
	reason := func(n int) string {
		w.until("the decision is judged", func() bool { return len(all[*event.OrderEvent](w, event.TopicOrders)) >= n })
		return all[*event.OrderEvent](w, event.TopicOrders)[n-1].Reason
	}
	publish(alone)
	w.decide(w.decision(event.Buy, "0.02", "50000"))
	if got := reason(1); got != risk.ReferenceMissing {
		t.Errorf("a quote alone: %q", got)
	}
	w.quote("50000", "1", "50001", "1")
	bad := *alone
	bad.Bid, bad.Ask, bad.BidQty, bad.AskQty = dec("0.99"), dec("0.99"), event.Some(dec("9000")), event.Some(dec("9000"))
	publish(&bad)
	w.decide(w.decision(event.Buy, "2500", "0.99"))
	if got := reason(2); got != risk.Collar {
		t.Errorf("one bad quote: %q", got)
	}
	if fills := all[*event.Fill](w, event.TopicFills); len(fills) != 0 {
		t.Errorf("%d fills", len(fills))
	}
}

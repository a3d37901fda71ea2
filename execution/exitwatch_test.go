package execution

import (
	"fmt"
	"testing"
	"time"

	"github.com/autohedge/autohedge/execution/exits"
	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/execution/risk"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// BenchmarkQuoteWithLots is one quote of an instrument in which ten lots are open, with a
// last trade and a mean of mids beside it; none is triggered.
func BenchmarkQuoteWithLots(b *testing.B) {
	for _, lots := range []int{0, 10} {
		b.Run(fmt.Sprint(lots), func(b *testing.B) {
			m := newMarket(nil, component.Discard())
			w := newExitWatch(m, component.SystemClock{})
			m.watch(w)
			key := event.Key(venue, symbol)
			now := time.Now().UnixNano()
			m.atLocked(key).trade = risk.Trade{Price: dec("50000.5"), RecvTime: now}
			cfg := DefaultConfig().Accounts[0]
			k := ledger.Key{Account: "paper", Strategy: "s", Venue: venue, Symbol: symbol}
			var all []*exits.Lot
			for i := range lots {
				all = append(all, &exits.Lot{ID: fmt.Sprint(i), Key: k, Side: event.Buy, Qty: dec("1"), Entered: dec("1"), Cost: dec("50000"), Opened: now, StopBps: 60, TargetBps: 120, Horizon: int64(time.Hour)})
			}
			w.arm(k, &account{cfg: &cfg}, all, dec("0.01"))
			rec := &bus.Record{Key: key}
			q := event.Quote{Bid: dec("50000.00"), Ask: dec("50001.00")}
			b.ReportAllocs()
			for b.Loop() {
				q.RecvTime = time.Now().UnixNano()
				m.note(rec, &q)
			}
			if len(w.fired) > 0 {
				b.Fatal("a lot was triggered")
			}
		})
	}
}

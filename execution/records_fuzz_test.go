package execution

import (
	"testing"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// FuzzRecords gives a takeover whatever may be in the logs that it reads: a record is
// taken, or refused, for which the partition's accounts are halted; none panics or spoils
// what comes after it.
func FuzzRecords(f *testing.F) {
	order := &event.OrderEvent{ClientOrderID: "ah1", State: event.OrderSubmitting, Account: "paper", Strategy: "s", Venue: "v", Symbol: "X", Side: event.Buy, Qty: dec("1"), Leg: event.LegEntry, StopBps: 1 << 31, Horizon: -1}
	fill := &event.Fill{ID: event.ID{1}, ExecID: "x", ClientOrderID: "ah1", Account: "paper", Strategy: "s", Venue: "v", Symbol: "X", Side: event.Sell, Price: dec("99999999999999999999"), Qty: dec("0.000000000000000001")}
	for i, m := range []event.Message{order, fill, &event.Position{Account: "paper", Version: 1 << 63}, &event.Control{Scope: "all"}} {
		f.Add(byte(i), event.Marshal(m))
	}
	f.Add(byte(0), []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, topic byte, value []byte) {
		s := newRecords()
		quoted := func(string, string) string { return "USDT" }
		for i := range int64(3) {
			rec := &bus.Record{Topic: sources[int(topic)%len(sources)], Offset: i, Key: []byte("paper"), Value: value}
			if i == 1 { // a good one between
				rec.Topic, rec.Value = event.TopicOrders, event.Marshal(order)
			}
			if err := s.take(rec, quoted); err != nil && i == 1 { // the reader halts the accounts for any other
				t.Fatalf("the good record is refused: %v", err)
			}
		}
		if s.orders.of("ah1") == nil {
			t.Fatal("the good order is not there")
		}
	})
}

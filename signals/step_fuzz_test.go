package signals

import (
	"errors"
	"testing"

	"github.com/autohedge/autohedge/stream/event"
)

// FuzzStep gives an engine whatever may be in topic md: each record is taken or refused,
// none stops it, and a trade after it is still seen.
func FuzzStep(f *testing.F) {
	tr := tradeAt(1e18, 1e18)
	for _, m := range []event.Message{
		&event.Quote{Channel: event.ChannelBookTicker, Sequence: 1, Bid: event.NewDecimal(1, 0), Ask: event.NewDecimal(2, 0)},
		&event.Coverage{Kind: event.CoverageLost, Channel: 255, FromID: 9, ToID: 1}, &event.Clock{Feed: "f", Time: -1}, &event.Control{Scope: "all"},
	} {
		f.Add([]byte("v|X"), event.Marshal(m))
	}
	f.Add([]byte("v|X"), tr.AppendWire(nil))
	f.Add([]byte("\xff|"), []byte{0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		e := NewEngine(0)
		if err := e.Apply(compiled(t, DefaultConfig())); err != nil {
			t.Fatal(err)
		}
		for i := range int64(2) {
			if _, err := e.Step(i, key, value); err != nil && errors.Unwrap(err) == nil && err.Error() == "" {
				t.Fatalf("refused without a word: %v", err)
			}
		}
		before := e.Stats().Trades
		if _, err := e.Step(2, []byte("binance|BTCUSDT"), tr.AppendWire(nil)); err != nil || e.Stats().Trades != before+1 {
			t.Fatalf("a trade after it: %v", err)
		}
	})
}

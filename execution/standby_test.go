package execution

import (
	"testing"

	"github.com/autohedge/autohedge/stream/event"
)

// A second process on the data folder stands by: it starts, takes over what the group
// gives it, obeys what is halted through the first, and answers on the socket once
// that one is gone.
func TestStandbyOnOneFolder(t *testing.T) {
	w := newWorld(t)
	first := w.start(nil)
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(first)
	w.wantStates(w.decide(w.decision(event.Buy, "0.001", "50000.5")), "submitting accepted filled")
	second := w.start(nil)
	trades := func() {
		t.Helper()
		w.until("decisions are filled", func() bool {
			d := w.decide(w.decision(event.Buy, "0.0001", "50000.5"))
			w.until("the decision has an order that is done", func() bool {
				h := w.history(d)
				return len(h) > 0 && h[len(h)-1].State.Terminal()
			})
			h := w.history(d)
			return h[len(h)-1].State == event.OrderFilled
		})
	}
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(second)
	trades()
	halted := func(r *running) func() bool {
		return func() bool { return r.role.board.blocked("paper", venue, symbol, true) != "" }
	}
	if _, err := RequestHalt(t.Context(), w.paths, w.connect, ScopeAll, "test", "through the first", event.HaltStop); err != nil {
		t.Fatal(err)
	}
	if !halted(first)() || !halted(second)() { // the second by the file, at once
		t.Error("a halt through the first holds in one of them only")
	}
	if _, err := RequestResume(t.Context(), w.paths, w.connect, ScopeAll, "test", "seen"); err != nil {
		t.Fatal(err)
	}
	w.until("the second is resumed", func() bool { return !halted(second)() })
	first.drain()
	trades()
	w.until("the second answers on the socket", func() bool {
		report, err := HaltStatus(t.Context(), w.paths, w.connect)
		return err == nil && report.Engine
	})
	second.drain()
	w.audit()
	w.proofs()
}

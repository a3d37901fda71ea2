package execution

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/stream/event"
)

// rest places a limit order that rests.
func (w *world) rest(qty, limit string) *event.Decision {
	d := w.decision(event.Buy, qty, "50000.5")
	d.Type, d.TIF, d.LimitPrice = event.Limit, event.GTC, event.Some(dec(limit))
	return w.decide(d)
}

// refusal waits until the account is refused, or is not any more, and returns why.
func (w *world) refusal(r *running, refused bool) string {
	w.t.Helper()
	d := w.decide(w.decision(event.Buy, "0.001", "50000.5"))
	want := "submitting accepted filled"
	if refused {
		want = "risk_rejected:kill_switch"
	}
	w.wantStates(d, want)
	return w.history(d)[0].Detail
}

func (w *world) adopt() {
	w.t.Helper()
	if _, err := broker.AdoptPaper(filepath.Join(w.paths.PaperDir, "paper"), broker.Adoption{Who: "test", Why: "the disk is gone", Time: time.Now().UnixNano()}); err != nil {
		w.t.Fatal(err)
	}
}

// proofs compares, for every order, the order log with the recorded fills.
func (w *world) proofs() {
	w.t.Helper()
	last, sums := make(map[string]*event.OrderEvent), make(map[string]event.Decimal)
	for _, e := range all[*event.OrderEvent](w, event.TopicOrders) {
		last[e.ClientOrderID] = e
	}
	ids := make(map[event.ID]bool)
	for _, f := range all[*event.Fill](w, event.TopicFills) {
		sum, err := event.FromMoney(sums[f.ClientOrderID].Money().Add(f.Qty.Money()))
		if err != nil || ids[f.ID] {
			w.t.Errorf("fill %s: %v, there before: %v", f.ID, err, ids[f.ID])
		}
		sums[f.ClientOrderID], ids[f.ID] = sum, true
	}
	for id, e := range last {
		if e.FilledQty.Cmp(sums[id]) != 0 {
			w.t.Errorf("order %s is filled %s, its fills prove %s", id, e.FilledQty, sums[id])
		}
	}
}

// A ledger that is gone is seen at the start: the account is refused with both
// numbers and the command, the order log is left as it is, and no fill is lost. It
// goes on by itself once the ledger is back.
func TestLedgerGone(t *testing.T) {
	w := newWorld(t)
	r := w.start(nil)
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(r)
	d := w.rest("0.01", "49990")
	w.wantStates(d, "submitting accepted")
	w.wantStates(w.decide(w.decision(event.Buy, "0.002", "50000.5")), "submitting accepted filled")
	r.drain()
	dir, kept := filepath.Join(w.paths.PaperDir, "paper"), w.paths.PaperDir+"-kept"
	if err := os.Rename(dir, kept); err != nil {
		t.Fatal(err)
	}

	r = w.start(nil)
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(r)
	why := w.refusal(r, true)
	for _, want := range []string{"holds 0 of the 2 orders", dir, "autohedge paper adopt paper --why"} {
		if !strings.Contains(why, want) {
			t.Errorf("the refusal %q does not say %q", why, want)
		}
	}
	w.wantStates(d, "submitting accepted")
	if got := r.role.Conditions()["accounts"](); !strings.Contains(got, "account paper is refused: the ledger") {
		t.Errorf("the role says of itself %q", got)
	}

	// Restored while the role runs.
	if err := errors.Join(os.RemoveAll(dir), os.Rename(kept, dir)); err != nil {
		t.Fatal(err)
	}
	w.until("the account is taken again", func() bool { return r.role.board != nil && r.metric("refused_accounts") == 0 })
	if got := r.role.Conditions()["accounts"](); got != "" {
		t.Errorf("the role says of itself %q", got)
	}
	w.refusal(r, false)
	w.quote("49988.00", "0.5", "49989.00", "0.5")
	w.wantStates(d, "submitting accepted filled")
	r.drain()
	w.audit()
	w.proofs()
}

// A ledger that was restored from a backup lacks the last orders, or their last
// fills; adopting it writes off what it lacks, and what comes then is booked.
func TestLedgerOlderThanTheLog(t *testing.T) {
	for name, later := range map[string]func(w *world) string{
		"an order": func(w *world) string {
			w.wantStates(w.decide(w.decision(event.Buy, "0.004", "50000.5")), "submitting accepted filled")
			return "holds 2 of the 3 orders"
		},
		"a fill": func(w *world) string {
			w.quote("49988.00", "0.5", "49989.00", "0.004")
			return "holds 1 of the 2 orders"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := w.start(nil)
			w.quote("50000.00", "0.5", "50001.00", "0.5")
			w.seesQuote(r)
			resting := w.rest("0.01", "49990")
			w.wantStates(resting, "submitting accepted")
			w.wantStates(w.decide(w.decision(event.Buy, "0.002", "50000.5")), "submitting accepted filled")
			r.drain()
			path := filepath.Join(w.paths.PaperDir, "paper", "ledger")
			backup, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			r = w.start(nil)
			w.quote("50000.00", "0.5", "50001.00", "0.5")
			w.seesQuote(r)
			numbers := later(w)
			if name == "a fill" {
				w.wantStates(resting, "submitting accepted partially_filled")
			}
			r.drain()
			if err := os.WriteFile(path, backup, 0o600); err != nil {
				t.Fatal(err)
			}

			r = w.start(nil)
			w.quote("50000.00", "0.5", "50001.00", "0.5")
			w.seesQuote(r)
			if why := w.refusal(r, true); !strings.Contains(why, numbers) {
				t.Errorf("the refusal %q does not say %q", why, numbers)
			}
			before := len(all[*event.Fill](w, event.TopicFills))
			w.adopt()
			w.until("the account is taken again", func() bool { return r.metric("refused_accounts") == 0 })
			if name == "a fill" {
				w.wantStates(resting, "submitting accepted partially_filled canceled:written_off")
			}
			w.refusal(r, false)
			w.wantStates(w.decide(w.decision(event.Buy, "0.003", "50000.5")), "submitting accepted filled")
			fills := all[*event.Fill](w, event.TopicFills)
			if len(fills) != before+2 || fills[before].Life == "" || fills[before].Life == fills[0].Life {
				t.Errorf("%d fills, want %d and those of another life: %+v", len(fills), before+2, fills[before])
			}
			r.drain()
			w.proofs()

			// What was written off is not looked for again.
			r = w.start(nil)
			w.quote("50000.00", "0.5", "50001.00", "0.5")
			w.seesQuote(r)
			w.refusal(r, false)
			r.drain()
			w.proofs()
		})
	}
}

// Another host's ledger holds an open order that the order log does not know.
func TestLedgerOfAnotherHost(t *testing.T) {
	w := newWorld(t)
	b, err := broker.OpenPaper(w.cfg.Accounts[0].Settings.Paper, filepath.Join(w.paths.PaperDir, "paper"), w.env())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Submit(t.Context(), broker.Order{
		ClientOrderID: "ahother", Venue: venue, Symbol: symbol, QuoteCurrency: "USDT", Side: event.Buy, Type: event.Limit, TIF: event.GTC, Qty: dec("1"),
		LimitPrice: event.Some(dec("49990")), PriceTick: dec("0.01"), QtyStep: dec("0.00001"),
	}), b.Close()); err != nil {
		t.Fatal(err)
	}
	r := w.start(nil)
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(r)
	if why := w.refusal(r, true); !strings.Contains(why, "holds 1 open orders and the order log knows 0 of them, not ahother") {
		t.Errorf("the refusal says %q", why)
	}
	w.adopt()
	w.until("the account is taken again", func() bool { return r.metric("refused_accounts") == 0 })
	w.quote("49988.00", "0.5", "49989.00", "0.5")
	w.seesQuote(r)
	w.refusal(r, false)
	r.drain()
	w.proofs()
	if n := len(all[*event.Fill](w, event.TopicFills)); n != 1 {
		t.Errorf("%d fills: the foreign order was filled", n)
	}
}

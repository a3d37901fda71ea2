package execution

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/autohedge/autohedge/execution/exits"
	"github.com/autohedge/autohedge/execution/risk"
	"github.com/autohedge/autohedge/stream/event"
)

// TestOldSnapshotsHaveNoLots: a position of a build without lots is left to decisions.
func TestOldSnapshotsHaveNoLots(t *testing.T) {
	s := newRecords()
	id := event.ClientOrderID(event.ID{1}, 0)
	s.order(&event.OrderEvent{ClientOrderID: id, DecisionID: event.ID{1}, Account: "paper", Leg: event.LegEntry, State: event.OrderFilled, StopBps: 50})
	f := &event.Fill{ID: event.ID{2}, ExecID: "X1", ClientOrderID: id, Account: "paper", Strategy: "s", Venue: venue, Symbol: symbol, Side: event.Sell, Qty: dec("2"), Price: dec("100"), Time: 1}
	s.fill(f, "USDT")
	life := func(string) event.ID { return event.ID{} }
	for _, topic := range sources {
		s.next[topic] = 1
	}
	text, err := s.encode(life)
	if err != nil {
		t.Fatal(err)
	}
	k := keyOf(f)
	now, err := decodeRecords(text, life)
	if err != nil || len(now.lots.Of(k)) != 1 || now.lots.Of(k)[0].StopBps != 50 {
		t.Fatalf("lots are %+v, %v", now.lots.Save(), err)
	}
	saved, err := exits.Load(s.lots.Save())
	if err != nil || len(saved.Lots()) != 1 {
		t.Fatalf("%+v, %v", saved, err)
	}
	before := strings.Replace(string(text), `"lots":`, `"other":`, 1)
	old, err := decodeRecords([]byte(before), life)
	if err != nil {
		t.Fatal(err)
	}
	lots := old.lots.Of(k)
	if len(lots) != 1 || lots[0].Exits() || lots[0].ID != "" || lots[0].Qty.Cmp(dec("2")) != 0 || lots[0].Long() {
		t.Errorf("lots are %+v", lots)
	}
	old.checkLots()
	if len(old.conflicts) != 0 {
		t.Errorf("conflicts: %v", old.conflicts)
	}
	old.lots.Adopt(k, dec("-1"))
	if old.checkLots(); !strings.Contains(old.conflicts["paper"], "add up to -3, its fills to -2") {
		t.Errorf("conflicts: %v", old.conflicts)
	}
}

// TestExitsUnderFire: random decisions, a market that wanders and is thin at times, and
// restarts in the middle of it. No lot ever has two exits that are not done, none is
// closed by more than it was, nothing turns a position around, and in the end, once every
// horizon has passed, nothing is held.
func TestExitsUnderFire(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newExitWorld(t)
			w.cfg.Accounts[0].Limits.MaxPositionNotional = risk.Amounts{"USDT": dec("1000000")}
			w.cfg.Accounts[0].Limits.MaxOrdersPerSecond, w.cfg.Accounts[0].Limits.MaxOrdersPerMinute = 1000, 1000
			rng := rand.New(rand.NewPCG(seed, 7)) //nolint:gosec // a test's
			price, r := int64(50_000_00), w.start(nil)
			quote := func(size string) {
				at := func(p int64) string { return event.NewDecimal(p, 2).String() }
				w.quote(at(price), size, at(price+100), size)
				w.seesQuote(r)
			}
			quote("0.5")
			for i := range 60 {
				price += rng.Int64N(150_00) - 75_00
				quote([]string{"0.5", "0.5", "0.006", "0"}[rng.IntN(4)])
				d := w.enter(event.Buy, []string{"0.01", "0.017"}[rng.IntN(2)], time.Duration(rng.Int64N(int64(400*time.Millisecond))))
				d.RefPrice, d.Strategy = event.NewDecimal(price, 2), []string{"momentum", "reversal"}[rng.IntN(2)]
				d.StopBps, d.TargetBps = uint32(rng.IntN(40)), uint32(rng.IntN(40))
				if rng.IntN(4) == 0 {
					d.Side, d.Action, d.StopBps, d.TargetBps, d.Horizon = event.Sell, event.ActionFlat, 0, 0, 0
				} else if d.Horizon == 0 {
					d.Horizon = int64(time.Millisecond)
				}
				w.decide(d)
				if i%20 == 10 {
					r.stop()
					r.err <- <-r.err
					r = w.start(nil)
				}
			}
			w.until("nothing is held", func() bool {
				quote("0.5")
				return w.position("momentum").IsZero() && w.position("reversal").IsZero() && len(r.open()) == 0
			})
			r.drain()
			w.checkExits()
		})
	}
}

// open are the orders of a role that are not done, and its lots.
func (r *running) open() (ids []string) {
	r.role.ownersMu.Lock()
	defer r.role.ownersMu.Unlock()
	for _, o := range r.role.owners {
		o.mu.Lock()
		for id := range o.open {
			ids = append(ids, id)
		}
		for _, l := range o.lots.Lots() {
			ids = append(ids, l.ID)
		}
		o.mu.Unlock()
	}
	return ids
}

// checkExits reads the order log and the fills as an auditor does.
func (w *world) checkExits() {
	w.t.Helper()
	working, filled, exitsSent := make(map[string]string), make(map[string]*big.Rat), 0
	for _, e := range all[*event.OrderEvent](w, event.TopicOrders) {
		if e.Lot == "" || e.State == event.OrderRiskRejected {
			continue
		}
		if e.Seq == 0 {
			exitsSent++
			if other := working[e.Lot]; other != "" {
				w.t.Errorf("exit %s of lot %s begins while %s is not done", e.ClientOrderID, e.Lot, other)
			}
			working[e.Lot] = e.ClientOrderID
		}
		if e.State.Terminal() && working[e.Lot] == e.ClientOrderID {
			working[e.Lot] = ""
		}
	}
	lotOf := make(map[string]string)
	for _, e := range all[*event.OrderEvent](w, event.TopicOrders) {
		lotOf[e.ClientOrderID] = e.Lot
	}
	held := make(map[string]*big.Rat) // by strategy
	for _, f := range all[*event.Fill](w, event.TopicFills) {
		lot := f.ClientOrderID
		if l := lotOf[lot]; l != "" {
			lot = l
		}
		if filled[lot] == nil {
			filled[lot] = new(big.Rat)
		}
		if held[f.Strategy] == nil {
			held[f.Strategy] = new(big.Rat)
		}
		qty := rat(f.Qty)
		if f.Side == event.Sell {
			qty.Neg(qty)
		}
		filled[lot].Add(filled[lot], qty)
		held[f.Strategy].Add(held[f.Strategy], qty)
		if held[f.Strategy].Sign() < 0 {
			w.t.Errorf("strategy %s is short after fill %s of order %s", f.Strategy, f.ExecID, f.ClientOrderID)
		}
	}
	for id, sum := range filled {
		if lotOf[id] == "" && sum.Sign() < 0 && len(w.exitsOfLot(id)) > 0 {
			w.t.Errorf("lot %s was closed by %s more than it was", id, sum.FloatString(8))
		}
	}
	if exitsSent < 5 {
		w.t.Errorf("%d exits were sent", exitsSent)
	}
	w.t.Logf("%d exits were sent", exitsSent)
}

// exitsOfLot are the client order ids of a lot's exits.
func (w *world) exitsOfLot(lot string) (ids []string) {
	for _, e := range all[*event.OrderEvent](w, event.TopicOrders) {
		if e.Lot == lot && e.Seq == 0 {
			ids = append(ids, e.ClientOrderID)
		}
	}
	return ids
}

// TestLotsAgainstPositions: lots that do not add up to their position halt the account,
// with both numbers.
func TestLotsAgainstPositions(t *testing.T) {
	w := newExitWorld(t)
	w.cfg.MarkInterval = 20 * time.Millisecond
	r := w.startWithQuote()
	w.wantStates(w.decide(w.enter(event.Buy, "0.02", 0)), "submitting accepted filled")
	w.until("positions are marked", func() bool { return len(all[*event.Position](w, event.TopicPositions)) > 2 })
	if halts := r.role.board.list(); len(halts) != 0 {
		t.Fatalf("halted: %v", halts)
	}
	r.role.ownersMu.Lock()
	for _, o := range r.role.owners {
		o.mu.Lock()
		for _, k := range o.lots.Keys() {
			o.lots.Adopt(k, dec("0.01"))
		}
		o.mu.Unlock()
	}
	r.role.ownersMu.Unlock()
	w.until("the account is halted", func() bool {
		return slices.ContainsFunc(r.role.board.list(), func(h Halt) bool {
			return h.Scope == "account:paper" && strings.Contains(h.Why, "add up to 0.03, its fills to 0.02")
		})
	})
}

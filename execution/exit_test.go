package execution

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/event"
)

// exitsOf are the exits of a decision's lot, as text: leg and attempt, then the states.
func (w *world) exitsOf(d *event.Decision) string {
	w.t.Helper()
	var ids []string
	text := make(map[string]string)
	for _, e := range all[*event.OrderEvent](w, event.TopicOrders) {
		if e.Lot != event.ClientOrderID(d.ID, 0) {
			continue
		}
		if e.DecisionID != d.ID || e.SignalID != d.SignalID || e.Cause == "" || e.ClientOrderID != event.ExitOrderID(d.ID, e.Leg, e.Attempt) {
			w.t.Errorf("exit %+v is not of decision %s", e, d.ID)
		}
		if e.Seq == 0 {
			ids = append(ids, e.ClientOrderID)
			text[e.ClientOrderID] = fmt.Sprintf("%s %d:", e.Leg, e.Attempt)
		}
		text[e.ClientOrderID] += " " + e.State.String()
		if e.Reason != "" {
			text[e.ClientOrderID] += ":" + e.Reason
		}
	}
	var parts []string
	for _, id := range ids {
		parts = append(parts, text[id])
	}
	return strings.Join(parts, ", ")
}

func (w *world) wantExits(d *event.Decision, want string) {
	w.t.Helper()
	w.until("the exits of "+d.ID.String()+" are "+want, func() bool {
		got := w.exitsOf(d)
		if len(got) > len(want) || !strings.HasPrefix(want, got) {
			w.t.Fatalf("exits are %q, want %q", got, want)
		}
		return got == want
	})
}

// looks has every owner of a role look at its lots, as time does.
func (r *running) looks() {
	r.t.Helper()
	r.role.ownersMu.Lock()
	owners := make([]*owner, 0, len(r.role.owners))
	for _, o := range r.role.owners {
		owners = append(owners, o)
	}
	r.role.ownersMu.Unlock()
	for _, o := range owners {
		if err := o.closeLots(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
	}
}

// position is the strategy's, by the fills in the log.
func (w *world) position(strategy string) event.Decimal {
	w.t.Helper()
	b := ledger.NewBook()
	for _, f := range all[*event.Fill](w, event.TopicFills) {
		if _, err := b.Apply(f, "USDT"); err != nil {
			w.t.Fatal(err)
		}
	}
	return b.Qty(ledger.Key{Account: "paper", Strategy: strategy, Venue: venue, Symbol: symbol})
}

// enter makes a decision with a stop of 50 bps, a target of 100 and a horizon.
func (w *world) enter(side event.Side, qty string, horizon time.Duration) *event.Decision {
	d := w.decision(side, qty, "50000.5")
	d.StopBps, d.TargetBps, d.Horizon = 50, 100, int64(horizon)
	return d
}

func newExitWorld(t testing.TB) *world {
	w := newWorld(t)
	w.cfg.Accounts[0].Exits.RetryInterval = 20 * time.Millisecond
	w.cfg.Accounts[0].Exits.OrdersPerSecond = 100
	return w
}

// TestExits: a lot is closed at its stop, its target or its horizon, whichever comes
// first, long and short, by one order that names it.
func TestExits(t *testing.T) {
	// A long is bought at 50003.51, the ask and half a basis point: its stop is 49753.50,
	// its target 50503.54. A short is sold at 49997.50: 50247.48 and 49497.53.
	for _, c := range []struct {
		name    string
		side    event.Side
		horizon time.Duration
		near    string // the bid, or ask, that is a tick short of it
		at      string
		leg     event.Leg
		cause   string
		limit   string
	}{
		{"stop of a long", event.Buy, 0, "49753.51", "49753.50", event.LegStop, "bid 49753.50 reached the stop 49753.5", "49703.75"},
		{"target of a long", event.Buy, 0, "50503.53", "50503.54", event.LegTarget, "bid 50503.54 reached the target 50503.54", "50453.04"},
		{"stop of a short", event.Sell, 0, "50247.47", "50247.48", event.LegStop, "ask 50247.48 reached the stop 50247.48", "50297.72"},
		{"target of a short", event.Sell, 0, "49497.54", "49497.53", event.LegTarget, "ask 49497.53 reached the target 49497.53", "49547.02"},
		{"horizon", event.Buy, 30 * time.Millisecond, "", "50000.00", event.LegTime, "due at ", "49950"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newExitWorld(t)
			r := w.startWithQuote()
			d := w.decide(w.enter(c.side, "0.02", c.horizon))
			w.wantStates(d, "submitting accepted filled")
			quote := func(price string) {
				if c.side == event.Buy {
					w.quote(price, "0.5", plus(price, "1"), "0.5")
				} else {
					w.quote(plus(price, "-1"), "0.5", price, "0.5")
				}
				w.seesQuote(r)
			}
			if c.near != "" {
				quote(c.near)
				r.looks()
				w.wantExits(d, "")
			}
			quote(c.at)
			w.wantExits(d, c.leg.String()+" 1: submitting accepted filled")
			r.looks()
			r.drain()
			w.wantExits(d, c.leg.String()+" 1: submitting accepted filled")
			w.audit()
			if qty := w.position("momentum"); !qty.IsZero() {
				t.Errorf("the position is %s", qty)
			}
			for _, e := range all[*event.OrderEvent](w, event.TopicOrders) {
				if e.Lot == "" {
					if e.Leg != event.LegEntry || e.StopBps != 50 || e.TargetBps != 100 || e.Horizon != d.Horizon || e.Attempt != 0 || e.Cause != "" {
						t.Errorf("entry %+v", e)
					}
					continue
				}
				if e.Leg != c.leg || !strings.HasPrefix(e.Cause, c.cause) || e.Type != event.Limit || e.TIF != event.IOC || e.LimitPrice.Decimal.Cmp(dec(c.limit)) != 0 || e.Lineage.Topic != event.TopicMarket {
					t.Errorf("exit %+v", e)
				}
			}
		})
	}
}

func plus(a, b string) string {
	sum, err := ledger.Add(dec(a), dec(b))
	if err != nil {
		panic(err)
	}
	return sum.String()
}

// TestExitsSurviveRestarts: a lot keeps its exits through a kill, from a snapshot and
// from the logs alone.
func TestExitsSurviveRestarts(t *testing.T) {
	for _, c := range []struct {
		name      string
		saveEvery time.Duration
	}{{"snapshot", 5 * time.Millisecond}, {"logs", time.Hour}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newExitWorld(t)
			set := func(r *Role) { r.saveEvery = c.saveEvery }
			r := w.start(set)
			w.quote("50000.00", "0.5", "50001.00", "0.5")
			w.seesQuote(r)
			d := w.decide(w.enter(event.Buy, "0.02", 0))
			w.wantStates(d, "submitting accepted filled")
			w.until("the position is recorded", func() bool { return len(all[*event.Position](w, event.TopicPositions)) > 0 })
			if c.saveEvery < time.Hour {
				was := r.metric("snapshots_total")
				w.until("a snapshot is saved", func() bool { return r.metric("snapshots_total") > was || was >= 2 })
			}
			r.stop()
			if err := <-r.err; err != nil {
				t.Fatal(err)
			}
			r.err <- nil

			r = w.start(set)
			w.quote("49800.00", "0.5", "49801.00", "0.5")
			w.seesQuote(r)
			r.looks()
			w.wantExits(d, "")
			w.quote("49700.00", "0.5", "49701.00", "0.5")
			w.wantExits(d, "stop 1: submitting accepted filled")
			r.drain()
			w.audit()
			if qty := w.position("momentum"); !qty.IsZero() {
				t.Errorf("the position is %s", qty)
			}
		})
	}
}

// TestExitCrashes: the process dies at each site of an exit, again and again; the lot is
// closed once, and the broker's ledger says the same.
func TestExitCrashes(t *testing.T) {
	for _, site := range []crashSite{siteBeforeSubmitting, siteSubmitting, siteSent, siteFill, siteLogged} {
		t.Run(string(site), func(t *testing.T) {
			t.Parallel()
			w := newExitWorld(t)
			r := w.startWithQuote()
			d := w.decide(w.enter(event.Buy, "0.02", 0))
			w.wantStates(d, "submitting accepted filled")
			w.until("the position is recorded", func() bool { return len(all[*event.Position](w, event.TopicPositions)) > 0 })
			r.stop()
			if err := <-r.err; err != nil {
				t.Fatal(err)
			}
			r.err <- nil
			died := 0
			for range 2 {
				r = w.start(func(r *Role) {
					r.crash = func(s crashSite) error {
						if s != site {
							return nil
						}
						return errors.New("killed: " + string(s))
					}
				})
				w.quote("49700.00", "0.5", "49701.00", "0.5")
				if died > 0 && site != siteBeforeSubmitting && site != siteSubmitting {
					break // the exit was filled in the life before
				}
				select {
				case err := <-r.err:
					if err == nil || !strings.Contains(err.Error(), string(site)) {
						t.Fatalf("ended with %v", err)
					}
					died++
					r.err <- err
				case <-time.After(20 * time.Second):
					t.Fatal("it did not die")
				}
			}
			r.stop()
			r.err <- <-r.err
			r = w.start(nil)
			w.quote("49700.00", "0.5", "49701.00", "0.5")
			w.until("the lot is closed", func() bool { return w.position("momentum").IsZero() })
			r.looks()
			r.drain()
			w.audit()
			got := w.exitsOf(d)
			want := map[crashSite]string{
				siteBeforeSubmitting: "stop 1: submitting accepted filled",
				siteSubmitting:       "stop 1: submitting not_placed:not_found, stop 2: submitting not_placed:not_found, stop 3: submitting accepted filled",
				siteSent:             "stop 1: submitting accepted filled",
				siteFill:             "stop 1: submitting accepted filled",
				siteLogged:           "stop 1: submitting accepted filled",
			}[site]
			if got != want {
				t.Errorf("exits are %q, want %q", got, want)
			}
		})
	}
}

// TestExitsWhileHalted: a halt of level reduce refuses entries and keeps exits, one of
// level stop keeps them until it is lifted.
func TestExitsWhileHalted(t *testing.T) {
	w := newExitWorld(t)
	r := w.startWithQuote()
	a, b := w.enter(event.Buy, "0.01", 0), w.enter(event.Buy, "0.01", 0)
	b.StopBps = 100
	w.decide(a)
	w.decide(b)
	w.wantStates(a, "submitting accepted filled")
	w.wantStates(b, "submitting accepted filled")
	if _, err := RequestHalt(t.Context(), w.paths, w.connect, ScopeAll, "ann", "drill", event.HaltReduce); err != nil {
		t.Fatal(err)
	}
	w.wantStates(w.decide(w.enter(event.Buy, "0.01", 0)), "risk_rejected:kill_switch")
	w.quote("49700.00", "0.5", "49701.00", "0.5")
	w.wantExits(a, "stop 1: submitting accepted filled")
	if _, err := RequestHalt(t.Context(), w.paths, w.connect, ScopeAll, "ann", "drill", event.HaltStop); err != nil {
		t.Fatal(err)
	}
	w.quote("49400.00", "0.5", "49401.00", "0.5")
	w.seesQuote(r)
	r.looks()
	w.wantExits(b, "")
	if why := r.role.waitingExits(); !strings.Contains(why, "drill") {
		t.Errorf("/health says %q", why)
	}
	if _, err := RequestResume(t.Context(), w.paths, w.connect, ScopeAll, "ann", "over"); err != nil {
		t.Fatal(err)
	}
	w.wantExits(b, "stop 1: submitting accepted filled")
	r.looks()
	if why := r.role.waitingExits(); why != "" {
		t.Errorf("/health says %q", why)
	}
	r.drain()
	w.audit()
}

// TestExitInParts: what the market does not take is tried again, with the same band
// while it takes something.
func TestExitInParts(t *testing.T) {
	w := newExitWorld(t)
	r := w.startWithQuote()
	d := w.decide(w.enter(event.Buy, "0.02", 0))
	w.wantStates(d, "submitting accepted filled")
	w.quote("49700.00", "0.015", "49701.00", "0.5")
	w.until("a part is closed", func() bool { // the next exit may have begun
		return strings.HasPrefix(w.exitsOf(d), "stop 1: submitting accepted partially_filled expired:ioc")
	})
	w.quote("49690.00", "0.015", "49691.00", "0.5")
	w.until("the rest is closed", func() bool { return w.position("momentum").IsZero() })
	r.drain()
	w.audit()
	for _, e := range all[*event.OrderEvent](w, event.TopicOrders) {
		if e.Leg == event.LegStop && e.State == event.OrderSubmitting && e.Attempt <= 2 && !strings.Contains(e.Detail, "10 bps") {
			t.Errorf("exit %+v", e)
		}
	}
}

// TestRestingEntryIsWithdrawn: once the lot of an entry is being closed, what rests of
// the entry is withdrawn.
func TestRestingEntryIsWithdrawn(t *testing.T) {
	w := newExitWorld(t)
	r := w.start(nil)
	w.quote("50000.00", "0.5", "50001.00", "0.01")
	w.seesQuote(r)
	d := w.enter(event.Buy, "0.02", 0)
	d.Type, d.TIF, d.LimitPrice, d.TargetBps = event.Limit, event.GTC, event.Some(dec("50001")), 10
	w.wantStates(w.decide(d), "submitting accepted partially_filled")
	w.quote("50060.00", "0.5", "50061.00", "0.5")
	w.wantExits(d, "target 1: submitting accepted filled")
	w.wantStates(d, "submitting accepted partially_filled canceled:requested")
	r.drain()
	w.audit()
	w.wantFlat("momentum")
}

// TestExitsThatMiss: an exit of which nothing fills is tried again with a band that
// doubles up to its bound; then the account is halted, and it keeps being tried.
func TestExitsThatMiss(t *testing.T) {
	w := newExitWorld(t)
	w.cfg.Accounts[0].Exits.SlippageBps, w.cfg.Accounts[0].Exits.MaxSlippageBps = 30, 80
	r := w.startWithQuote()
	d := w.decide(w.enter(event.Buy, "0.02", 0))
	w.wantStates(d, "submitting accepted filled")
	w.quote("49700.00", "0", "49701.00", "0.5") // nothing to sell to
	halts := func() bool {
		return slices.ContainsFunc(r.role.board.list(), func(h Halt) bool {
			return h.Scope == "account:paper" && h.Level == event.HaltReduce && strings.Contains(h.Why, "80 bps beyond the touch")
		})
	}
	w.until("the account is halted", halts)
	// Who resumes has it until the next exit misses.
	if report, err := RequestResume(t.Context(), w.paths, w.connect, ScopeAll, "ann", "looked at it"); err != nil {
		t.Fatalf("resuming: %+v, %v", report, err)
	}
	w.until("the account is halted again", halts)
	halted := strings.Count(w.exitsOf(d), ",")
	w.until("it keeps being tried", func() bool { return strings.Count(w.exitsOf(d), ",") > halted+2 })
	w.quote("49600.00", "0.5", "49601.00", "0.5")
	w.until("the lot is closed", func() bool { return w.position("momentum").IsZero() })
	r.drain()
	w.audit()
	bands := ""
	for _, e := range all[*event.OrderEvent](w, event.TopicOrders) {
		if e.Leg == event.LegStop && e.Seq == 0 && e.Attempt <= 5 {
			_, band, _ := strings.Cut(e.Detail, ", ")
			band, _, _ = strings.Cut(band, " bps")
			bands += band + " at " + e.LimitPrice.String() + ", "
		}
	}
	if want := "30 at 49550.9, 60 at 49401.8, 80 at 49302.4, 80 at 49302.4, 80 at 49302.4, "; bands != want {
		t.Errorf("bands are %q, want %q", bands, want)
	}
}

// TestExitOfUnknownOutcome: an exit whose outcome is not known is not sent again, also
// after a restart, until the broker tells.
func TestExitOfUnknownOutcome(t *testing.T) {
	for _, c := range []struct {
		name string
		flaw func(*flaky)
		want string
	}{
		{"it was placed", func(f *flaky) { f.timeout = true }, "stop 1: submitting unknown:submit accepted filled"},
		{"it was not placed", func(f *flaky) { f.swallow = true }, "stop 1: submitting unknown:submit not_placed:not_found, stop 2: submitting accepted filled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newExitWorld(t)
			f := new(flaky)
			through := func(r *Role) {
				open := r.openBroker
				r.openBroker = func(ctx context.Context, kind broker.Kind, a broker.Account) (broker.Broker, error) {
					b, err := open(ctx, kind, a)
					f.set(func(f *flaky) { f.Broker = b })
					return f, err
				}
			}
			r := w.start(through)
			w.quote("50000.00", "0.5", "50001.00", "0.5")
			w.seesQuote(r)
			d := w.decide(w.enter(event.Buy, "0.02", 0))
			w.wantStates(d, "submitting accepted filled")
			// Another lot, which nothing triggers: there is more to reduce.
			other := w.enter(event.Buy, "0.02", 0)
			other.StopBps = 2000
			w.wantStates(w.decide(other), "submitting accepted filled")
			f.set(func(f *flaky) { f.queryDown = true; c.flaw(f) })
			w.quote("49700.00", "0.5", "49701.00", "0.5")
			w.wantExits(d, "stop 1: submitting unknown:submit")
			submits := 0
			f.set(func(f *flaky) { submits = f.submits })
			for range 5 {
				w.quote("49600.00", "0.5", "49601.00", "0.5")
				w.seesQuote(r)
				r.looks()
			}
			r.stop()
			if err := <-r.err; err != nil {
				t.Fatal(err)
			}
			r.err <- nil
			r = w.start(through)
			w.quote("49600.00", "0.5", "49601.00", "0.5")
			w.seesQuote(r)
			r.looks()
			f.set(func(f *flaky) {
				if f.submits != submits {
					t.Errorf("sent %d orders while the outcome of the exit was unknown", f.submits-submits)
				}
				f.swallow, f.timeout, f.queryDown = false, false, false
			})
			w.wantExits(d, c.want)
			r.drain()
			w.audit()
			w.wantExits(other, "")
			if qty := w.position("momentum"); qty.Cmp(dec("0.02")) != 0 {
				t.Errorf("the position is %s", qty)
			}
		})
	}
}

// TestExitsOnlyReduce: an exit takes no more than the account's net, what is left out is
// in the order log, and it goes on once there is something to reduce.
func TestExitsOnlyReduce(t *testing.T) {
	w := newExitWorld(t)
	r := w.startWithQuote()
	d := w.decide(w.enter(event.Buy, "0.02", 0))
	w.wantStates(d, "submitting accepted filled")
	other := w.decision(event.Sell, "0.015", "50000.5")
	other.Strategy = "reversal"
	w.wantStates(w.decide(other), "submitting accepted filled")
	w.quote("49700.00", "0.5", "49701.00", "0.5") // the net is 0.005
	w.wantExits(d, "stop 1: submitting:would_flip accepted filled, stop 2: risk_rejected:would_flip")
	r.looks()
	w.wantExits(d, "stop 1: submitting:would_flip accepted filled, stop 2: risk_rejected:would_flip")
	back := w.decision(event.Buy, "0.015", "49700.5")
	back.Strategy = "reversal"
	w.wantStates(w.decide(back), "submitting accepted filled")
	w.wantExits(d, "stop 1: submitting:would_flip accepted filled, stop 2: risk_rejected:would_flip, stop 3: submitting accepted filled")
	r.drain()
	w.wantFlat("momentum", "reversal")
}

// TestEntriesThatRestHoldNoExitUp: only exits and flat decisions that work take from what
// an exit may reduce.
func TestEntriesThatRestHoldNoExitUp(t *testing.T) {
	w := newExitWorld(t)
	r := w.startWithQuote()
	d := w.decide(w.enter(event.Buy, "0.02", 0))
	w.wantStates(d, "submitting accepted filled")
	other := w.decision(event.Sell, "0.02", "50000.5")
	other.Strategy, other.Type, other.TIF, other.LimitPrice = "reversal", event.Limit, event.GTC, event.Some(dec("50100"))
	w.wantStates(w.decide(other), "submitting accepted")
	w.quote("49700.00", "0.5", "49701.00", "0.5")
	w.wantExits(d, "stop 1: submitting accepted filled")
	w.wantStates(other, "submitting accepted")
	r.drain()
	w.audit()
	w.wantFlat("momentum")
}

// wantFlat checks that the strategies hold nothing.
func (w *world) wantFlat(strategies ...string) {
	w.t.Helper()
	for _, s := range strategies {
		if qty := w.position(s); !qty.IsZero() {
			w.t.Errorf("strategy %s holds %s", s, qty)
		}
	}
}

// TestFlatDecisionClosesLots: what a decision closes no exit closes again.
func TestFlatDecisionClosesLots(t *testing.T) {
	w := newExitWorld(t)
	r := w.startWithQuote()
	a, b := w.enter(event.Buy, "0.01", 0), w.enter(event.Buy, "0.02", 0)
	for _, d := range []*event.Decision{a, b} {
		w.wantStates(w.decide(d), "submitting accepted filled")
	}
	flat := w.decision(event.Sell, "0.015", "50000.5")
	flat.Action = event.ActionFlat
	w.wantStates(w.decide(flat), "submitting accepted filled")
	w.quote("49700.00", "0.5", "49701.00", "0.5")
	w.wantExits(b, "stop 1: submitting accepted filled")
	r.looks()
	w.wantExits(a, "") // the oldest, closed by the decision
	r.drain()
	w.audit()
	for _, e := range all[*event.OrderEvent](w, event.TopicOrders) {
		if e.Lot != "" && e.Qty.Cmp(dec("0.015")) != 0 {
			t.Errorf("exit %+v", e)
		}
	}
}

package execution

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// scripted is a broker that takes every order and says of it what a test tells it.
type scripted struct {
	mu      sync.Mutex
	seq     uint64
	reports map[string]broker.Report
	changed chan struct{}
	queries int
}

func newScripted() *scripted {
	return &scripted{reports: make(map[string]broker.Report), changed: make(chan struct{})}
}

func (s *scripted) Submit(_ context.Context, o broker.Order) error {
	s.say(broker.Report{ClientOrderID: o.ClientOrderID, BrokerOrderID: "B", State: event.OrderAccepted})
	return nil
}

func (s *scripted) say(r broker.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	r.Seq, r.BrokerOrderID = s.seq, "B"
	s.reports[r.ClientOrderID] = r
	close(s.changed)
	s.changed = make(chan struct{})
}

func (*scripted) Cancel(context.Context, string) error { return nil }

func (s *scripted) Query(_ context.Context, id string) (broker.Report, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queries++
	r, ok := s.reports[id]
	if !ok {
		return r, broker.ErrNotFound
	}
	return r, nil
}

func (s *scripted) Next(ctx context.Context, after uint64) ([]broker.Report, error) {
	for {
		s.mu.Lock()
		var out []broker.Report
		for _, r := range s.reports {
			if r.Seq > after {
				out = append(out, r)
			}
		}
		changed := s.changed
		s.mu.Unlock()
		if len(out) > 0 {
			slices.SortFunc(out, func(a, b broker.Report) int { return int(a.Seq) - int(b.Seq) }) //nolint:gosec // small
			return out, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (*scripted) Close() error { return nil }

// through makes a role use the scripted broker, which needs settle to tell of fills.
func (s *scripted) through(settle time.Duration) func(*Role) {
	return func(r *Role) {
		r.openBroker = func(context.Context, broker.Kind, broker.Account) (broker.Broker, error) { return s, nil }
		r.profile = func(broker.Profile) broker.Profile { return broker.Profile{Settle: settle} }
	}
}

func exec(id, qty, price string) broker.Execution {
	return broker.Execution{ExecID: id, Qty: dec(qty), Price: dec(price), Liquidity: event.Taker, FeeCurrency: "USDT", Time: time.Now().UnixNano()}
}

// halts waits for a halt of the account and returns its reason.
func (w *world) halts(r *running) string {
	w.t.Helper()
	why := ""
	w.until("the account is halted", func() bool {
		for _, h := range r.role.board.list() {
			if h.Scope == "account:paper" && h.Source == "control" {
				why = h.Why
			}
		}
		return why != ""
	})
	return why
}

// Contradictions between fills, or between fills and the broker's word, halt the
// account at once and say both numbers; what was recorded stays.
func TestContradictionsHalt(t *testing.T) {
	for _, c := range []struct {
		name  string
		says  func(id string) broker.Report
		want  []string
		fills int
	}{
		{"another price", func(id string) broker.Report {
			return broker.Report{ClientOrderID: id, State: event.OrderPartiallyFilled, Fills: []broker.Execution{exec("X1", "0.004", "50002")}}
		}, []string{"X1", "0.004 at 50001", "0.004 at 50002"}, 1},
		{"another quantity", func(id string) broker.Report {
			return broker.Report{ClientOrderID: id, State: event.OrderPartiallyFilled, Fills: []broker.Execution{exec("X1", "0.005", "50001")}}
		}, []string{"0.004 at 50001", "0.005 at 50001"}, 1},
		{"twice in one report, with other content", func(id string) broker.Report {
			return broker.Report{ClientOrderID: id, State: event.OrderPartiallyFilled, Fills: []broker.Execution{exec("X1", "0.004", "50001"), exec("X1", "0.006", "50001")}}
		}, []string{"0.004 at 50001", "0.006 at 50001"}, 1},
		{"a fill is gone: more proven than claimed", func(id string) broker.Report {
			return broker.Report{ClientOrderID: id, State: event.OrderAccepted}
		}, []string{"prove 0.004", "claims 0"}, 1},
		{"no fill at all", func(id string) broker.Report {
			return broker.Report{ClientOrderID: id, State: event.OrderPartiallyFilled, Fills: []broker.Execution{exec("X1", "0.004", "50001"), exec("X2", "0", "50001")}}
		}, []string{"X2", "is no fill"}, 1},
		{"the same again is nothing", nil, nil, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := newScripted()
			r := w.start(s.through(time.Hour))
			w.quote("50000.00", "0.5", "50001.00", "0.5")
			w.seesQuote(r)
			d := w.rest("0.01", "49990")
			w.wantStates(d, "submitting accepted")
			id := event.ClientOrderID(d.ID, 0)
			same := broker.Report{ClientOrderID: id, State: event.OrderPartiallyFilled, Fills: []broker.Execution{exec("X1", "0.004", "50001"), exec("X1", "0.004", "50001")}}
			s.say(same)
			w.wantStates(d, "submitting accepted partially_filled")
			if c.says == nil {
				s.say(same)
				s.say(broker.Report{ClientOrderID: id, State: event.OrderFilled, Fills: []broker.Execution{exec("X1", "0.004", "50001"), exec("X2", "0.006", "50001")}})
				w.wantStates(d, "submitting accepted partially_filled filled")
				if h := r.role.board.list(); len(h) != 0 {
					t.Errorf("halted: %v", h)
				}
				w.proofs()
				r.drain()
				return
			}
			s.say(c.says(id))
			why := w.halts(r)
			for _, want := range append(c.want, id) {
				if !strings.Contains(why, want) {
					t.Errorf("the reason %q does not say %q", why, want)
				}
			}
			w.wantStates(d, "submitting accepted partially_filled")
			w.proofs()
			if n := len(all[*event.Fill](w, event.TopicFills)); n != c.fills {
				t.Errorf("%d fills, want %d", n, c.fills)
			}
			r.drain()

			// The same is seen at the next start: it is not lifted by a restart, and said
			// again after a resume.
			r = w.start(s.through(time.Hour))
			if _, err := r.role.board.resume(t.Context(), "account:paper", "test", "to see it again", "test"); err != nil {
				t.Fatal(err)
			}
			r.drain()
			r = w.start(s.through(time.Hour))
			w.halts(r)
			r.drain()
		})
	}
}

// More claimed than proven: no new risk on the instrument, the larger quantity in the
// limits, the position as proven, the broker is asked; fills that come clear it.
func TestClaimedWithoutFills(t *testing.T) {
	w := newWorld(t)
	s := newScripted()
	r := w.start(s.through(time.Hour))
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(r)
	d := w.rest("0.01", "49990")
	w.wantStates(d, "submitting accepted")
	id := event.ClientOrderID(d.ID, 0)
	s.say(broker.Report{ClientOrderID: id, State: event.OrderFilled, FilledQty: event.Some(dec("0.01"))})
	w.wantStates(d, "submitting accepted accepted:unproven")
	if e := w.history(d)[2]; e.ClaimedQty.Decimal.Cmp(dec("0.01")) != 0 || !e.FilledQty.IsZero() || !strings.Contains(e.Detail, "0.01 of 0.01 is filled, its fills prove 0") {
		t.Errorf("the entry is %+v", e)
	}
	w.until("the order is counted as unproven", func() bool { return r.metric("unproven_orders") == 1 })
	w.wantStates(w.decide(w.decision(event.Buy, "0.001", "50000.5")), "risk_rejected:unknown_order")
	if n := len(all[*event.Position](w, event.TopicPositions)); n != 0 {
		t.Errorf("%d records of a position that no fill proves", n)
	}
	s.mu.Lock()
	asked := s.queries
	s.mu.Unlock()
	w.until("the broker is asked for the fills", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.queries > asked+1
	})
	s.say(broker.Report{ClientOrderID: id, State: event.OrderFilled, Fills: []broker.Execution{exec("X1", "0.004", "50001"), exec("X2", "0.006", "50001")}})
	w.wantStates(d, "submitting accepted accepted:unproven partially_filled filled")
	w.until("nothing is unproven", func() bool { return r.metric("unproven_orders") == 0 })
	w.wantStates(w.decide(w.decision(event.Buy, "0.001", "50000.5")), "submitting accepted")
	w.proofs()
	if h := r.role.board.list(); len(h) != 0 {
		t.Errorf("halted: %v", h)
	}
	r.drain()
}

// Fills that do not come within the broker's settle time halt the account, also when
// the claim is of before a restart.
func TestClaimedForTooLong(t *testing.T) {
	w := newWorld(t)
	s := newScripted()
	r := w.start(s.through(time.Hour))
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(r)
	d := w.rest("0.01", "49990")
	w.wantStates(d, "submitting accepted")
	id := event.ClientOrderID(d.ID, 0)
	s.say(broker.Report{ClientOrderID: id, State: event.OrderPartiallyFilled, FilledQty: event.Some(dec("0.007")), Fills: []broker.Execution{exec("X1", "0.004", "50001")}})
	w.wantStates(d, "submitting accepted partially_filled partially_filled:unproven")
	r.drain()
	r = w.start(s.through(0))
	why := w.halts(r)
	for _, want := range []string{id, "claims 0.007 of 0.01", "prove 0.004"} {
		if !strings.Contains(why, want) {
			t.Errorf("the reason %q does not say %q", why, want)
		}
	}
	r.drain()
}

// A log of before: an order counts fills that were never recorded. Where the broker
// still has them they are recorded at the start; else the account is halted.
func TestLogClaimsWhatNoFillProves(t *testing.T) {
	for _, has := range []bool{true, false} {
		w := newWorld(t)
		s := newScripted()
		d := w.decision(event.Buy, "0.01", "50000.5")
		e := begin(d, "paper", d.Time, 1, event.Lineage{Topic: event.TopicDecisions})
		for i, state := range []event.OrderState{event.OrderSubmitting, event.OrderAccepted, event.OrderFilled} {
			e.Seq, e.ID, e.State = uint32(i), event.OrderEventID(e.ClientOrderID, uint32(i)), state //nolint:gosec // small
			if i > 0 {
				e.BrokerOrderID = "B"
			}
			if i == 2 {
				e.FilledQty = dec("0.01")
			}
			w.publish(event.TopicOrders, []byte("paper"), &e)
		}
		rep := broker.Report{ClientOrderID: e.ClientOrderID, State: event.OrderFilled}
		if has {
			rep.Fills = []broker.Execution{exec("X1", "0.01", "50001")}
		}
		s.say(rep)
		r := w.start(s.through(0))
		if has {
			w.until("the fill is recorded", func() bool { return len(all[*event.Fill](w, event.TopicFills)) == 1 })
			w.proofs()
		} else if why := w.halts(r); !strings.Contains(why, "claims 0.01 of 0.01, its fills prove 0") {
			t.Errorf("the reason is %q", why)
		}
		r.drain()
	}
}

// Two records of one fill in the log that differ halt the account at the start.
func TestLogContradictsItself(t *testing.T) {
	w := newWorld(t)
	e := begin(w.decision(event.Buy, "0.03", "50000.5"), "paper", time.Now().UnixNano(), 1, event.Lineage{Topic: event.TopicDecisions})
	e.State = event.OrderNotPlaced
	w.publish(event.TopicOrders, []byte("paper"), &e)
	for _, qty := range []string{"0.01", "0.02"} {
		f := &event.Fill{ID: event.HashStrings("fill", qty), ExecID: "X1", ClientOrderID: e.ClientOrderID, Account: "paper", Strategy: "momentum", Venue: venue, Symbol: symbol,
			Side: event.Buy, Price: dec("50000"), Qty: dec(qty), FeeCurrency: "USDT", Time: time.Now().UnixNano()}
		w.publish(event.TopicFills, []byte("paper"), f)
	}
	for range 2 { // from the logs, then from a snapshot
		r := w.start(nil)
		if why := w.halts(r); !strings.Contains(why, "0.01 at 50000") || !strings.Contains(why, "0.02 at 50000") {
			t.Errorf("the reason is %q", why)
		}
		if _, err := r.role.board.resume(t.Context(), "account:paper", "test", "to see it again", "test"); err != nil {
			t.Fatal(err)
		}
		r.drain()
	}
}

// A fill of an order that the order log does not have halts its account at the start.
func TestFillOfNoOrder(t *testing.T) {
	w := newWorld(t)
	w.publish(event.TopicFills, []byte("paper"), &event.Fill{
		ID: event.ID{7}, ExecID: "X1", ClientOrderID: "ahx", Account: "paper", Strategy: "momentum", Venue: venue, Symbol: symbol, Side: event.Buy,
		Price: dec("50000"), Qty: dec("0.01"), FeeCurrency: "USDT", Time: time.Now().UnixNano(),
	})
	r := w.start(nil)
	if why := w.halts(r); why != "order ahx: its fills prove 0.01, and the order log does not know it" {
		t.Errorf("the reason is %q", why)
	}
	r.drain()
}

// Activity at the broker that is not ours halts the account; an order that came to
// nothing there does not.
func TestForeignActivityHalts(t *testing.T) {
	w := newWorld(t)
	s := newScripted()
	r := w.start(s.through(0))
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(r)
	s.say(broker.Report{ClientOrderID: "byhand1", State: event.OrderRejected, Reason: "funds"})
	w.until("the report is seen", func() bool { return r.metric("orphan_reports_total") == 1 })
	d := w.decide(w.decision(event.Buy, "0.001", "50000.5"))
	w.wantStates(d, "submitting accepted")
	s.say(broker.Report{ClientOrderID: "byhand2", State: event.OrderFilled, Fills: []broker.Execution{exec("Y1", "3", "50001")}})
	if why := w.halts(r); !strings.Contains(why, "byhand2") || !strings.Contains(why, "filled 3") || !strings.Contains(why, "none of the account's") {
		t.Errorf("the reason is %q", why)
	}
	w.wantStates(w.decide(w.decision(event.Buy, "0.001", "50000.5")), "risk_rejected:kill_switch")
	r.drain()
}

// While nobody can tell whether the partition has another owner an order that waited
// stays unsent and is tried again; past its deadline it is not placed. The role goes
// on.
func TestUnconfirmedClaimIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	down, tried := true, 0
	r := w.start(func(r *Role) {
		r.lease = -time.Second
		r.confirm = func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			tried++
			if down {
				return errors.New("reading the offsets of meta: [-1] Unknown")
			}
			return nil
		}
	})
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(r)
	late := w.decision(event.Buy, "0.001", "50000.5")
	late.Deadline = late.Time + int64(300*time.Millisecond)
	w.decide(late)
	w.wantStates(late, "submitting not_placed:unconfirmed")
	d := w.decide(w.decision(event.Buy, "0.001", "50000.5"))
	mu.Lock()
	before := tried
	mu.Unlock()
	w.until("it is tried again", func() bool { mu.Lock(); defer mu.Unlock(); return tried > before+2 })
	w.wantStates(d, "submitting")
	mu.Lock()
	down = false
	mu.Unlock()
	w.wantStates(d, "submitting accepted filled")
	r.drain()
	w.audit()
}

// A takeover whose claims cannot be read now is tried again; the role goes on.
func TestTakeoverIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	failures := 0
	r := w.start(func(r *Role) {
		own := r.takeOver
		r.takeOver = func(ctx context.Context, c bus.OwnConfig, env component.Env) (*bus.Owner, error) {
			mu.Lock()
			defer mu.Unlock()
			if failures++; failures <= 3 {
				return nil, errors.New("reading the claims in meta/0: reading the offsets of meta: [-1] Unknown")
			}
			return own(ctx, c, env)
		}
	})
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(r)
	w.wantStates(w.decide(w.decision(event.Buy, "0.001", "50000.5")), "submitting accepted filled")
	r.drain()
	if failures < 4 {
		t.Errorf("%d takeovers were tried", failures)
	}
}

// Names that come with a decision are no labels: one that is not UTF-8 ends nothing,
// and many of them make no more than a bounded number of series.
func TestLabelsHold(t *testing.T) {
	m := newMetrics(component.Discard().Metrics)
	p := &event.Position{Account: "paper", Strategy: "a\x00b\xff\n", Venue: venue, Symbol: symbol + strings.Repeat("x", 1000)}
	m.showPosition(p)
	for i := range 3 * maxShown {
		p.Strategy = strings.Repeat("s", i%60) + string(rune('a'+i/60))
		m.showPosition(p)
	}
	if n := len(m.shown); n != maxShown {
		t.Errorf("%d positions have gauges, want %d", n, maxShown)
	}
}

// A decision whose action is none that this build knows is a dead letter.
func TestUnknownAction(t *testing.T) {
	w := newWorld(t)
	r := w.start(nil)
	d := w.decision(event.Buy, "0.001", "50000.5")
	d.Action = event.ActionUnknown
	w.decide(d)
	w.until("the dead letter is there", func() bool { return len(all[*event.Dead](w, event.TopicDead)) == 1 })
	if dead := all[*event.Dead](w, event.TopicDead)[0]; !strings.Contains(dead.Reason, "action 0 is none") {
		t.Errorf("the dead letter says %q", dead.Reason)
	}
	w.wantStates(d, "")
	r.drain()
}

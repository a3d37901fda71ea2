package execution

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/execution/exits"
	"github.com/autohedge/autohedge/execution/risk"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// TestFromDecisionToPosition is the main path: filled, filled in part, refused,
// not wanted, unusable; then a drain and a second life on the same data.
func TestFromDecisionToPosition(t *testing.T) {
	w := newWorld(t)
	r := w.start(nil)
	w.quote("50000.00", "0.5", "50001.00", "0.03")
	w.seesQuote(r)
	bought := w.decide(w.decision(event.Buy, "0.02", "50000.5"))
	w.wantStates(bought, "submitting accepted filled")
	part := w.decide(w.decision(event.Buy, "0.0250001", "50000.5")) // 0.01 is left of the ask
	w.wantStates(part, "submitting accepted partially_filled expired:ioc")
	refused := w.decide(w.decision(event.Buy, "0.03", "50000.5"))
	w.wantStates(refused, "risk_rejected:max_position")
	none := w.decision(event.Buy, "0.02", "50000.5")
	none.Action = event.ActionNone
	w.decide(none)
	abstained := w.decision(event.Buy, "0.02", "50000.5")
	abstained.Action = event.ActionAbstain
	w.decide(abstained)
	stranger := w.decision(event.Buy, "0.02", "50000.5")
	stranger.Account = "nobody"
	w.decide(stranger)
	w.publish(event.TopicDecisions, []byte("paper"), &event.Fill{ID: event.ID{9}}) // not a decision
	w.quote("50010.00", "0.5", "50011.00", "0.03")
	w.seesQuote(r)
	sold := w.decide(w.decision(event.Sell, "0.02", "50000.5"))
	w.wantStates(sold, "submitting accepted filled")
	w.wantStates(stranger, "risk_rejected:account_unknown")
	w.quote("49990.00", "0.5", "49991.00", "0.03") // read in the drain, for the final mark
	r.drain()
	for _, d := range []*event.Decision{none, abstained} {
		w.wantStates(d, "")
	}
	w.audit()

	// What the records say beyond sums.
	e := w.history(bought)[0]
	if e.ID != event.OrderEventID(e.ClientOrderID, 0) || e.ClientOrderID != event.ClientOrderID(bought.ID, 0) || e.Lineage.Topic != event.TopicDecisions || e.SignalTime != bought.SignalTime || e.SignalID != bought.SignalID {
		t.Errorf("first entry: %+v", e)
	}
	if e := w.history(part)[3]; e.Qty.String() != "0.025" || e.FilledQty.Cmp(dec("0.01")) != 0 || e.BrokerOrderID == "" || e.FilledNotional.Cmp(dec("500.0351")) != 0 {
		t.Errorf("last entry of a partial fill: %+v", e)
	}
	if e := w.history(refused)[0]; !strings.Contains(e.Detail, "2500") || !strings.Contains(e.Detail, "0.06") {
		t.Errorf("detail of a rejection: %q", e.Detail)
	}
	positions := all[*event.Position](w, event.TopicPositions)
	last := positions[len(positions)-1]
	if last.Qty.Cmp(dec("0.01")) != 0 || last.Mark.Decimal.Cmp(dec("49990")) != 0 || last.MarkID != "binance|bookTicker|BTCUSDT|3" || last.QuoteCurrency != "USDT" || last.Lineage.Topic != event.TopicMarket {
		t.Errorf("final mark: %+v", last)
	}
	if p := positions[0]; p.Lineage.Topic != event.TopicFills || p.Fills != 1 || p.Version != 0 {
		t.Errorf("first position: %+v", p)
	}
	if dead := all[*event.Dead](w, event.TopicDead); len(dead) != 1 || dead[0].Role != "execution" || dead[0].Lineage.Topic != event.TopicDecisions {
		t.Errorf("dead letters: %+v", dead)
	}

	// A second life goes on from there: nothing is done again.
	orders, fills := len(all[*event.OrderEvent](w, event.TopicOrders)), len(all[*event.Fill](w, event.TopicFills))
	r = w.start(nil)
	if n := len(all[*event.OrderEvent](w, event.TopicOrders)); n != orders || len(all[*event.Fill](w, event.TopicFills)) != fills {
		t.Errorf("a restart wrote into the logs")
	}
	w.quote("50000.00", "0.5", "50001.00", "0.03")
	w.seesQuote(r)
	flat := w.decision(event.Sell, "0.01", "50000.5")
	flat.Action = event.ActionFlat
	w.wantStates(w.decide(flat), "submitting accepted filled")
	r.drain()
	w.audit()
	positions = all[*event.Position](w, event.TopicPositions)
	if last := positions[len(positions)-1]; !last.Qty.IsZero() || !last.Total.Valid {
		t.Errorf("closed position: %+v", last)
	}
}

func TestRestingOrders(t *testing.T) {
	w := newWorld(t)
	w.cfg.MarkInterval = 20 * time.Millisecond
	r := w.start(nil)
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(r)
	d := w.decision(event.Buy, "0.02", "50000.5")
	d.Type, d.TIF, d.LimitPrice = event.Limit, event.GTC, event.Some(dec("49990"))
	w.decide(d)
	w.wantStates(d, "submitting accepted")
	// It counts as a position that may come to be.
	w.wantStates(w.decide(w.decision(event.Buy, "0.035", "50000.5")), "risk_rejected:max_position")
	r.drain()
	w.wantStates(d, "submitting accepted")

	r = w.start(nil)
	w.quote("49988.00", "0.5", "49989.00", "0.015")
	w.wantStates(d, "submitting accepted partially_filled")
	w.quote("49988.00", "0.5", "49988.50", "0.015")
	w.wantStates(d, "submitting accepted partially_filled filled")
	n := len(all[*event.Position](w, event.TopicPositions))
	w.until("marks go on", func() bool { return len(all[*event.Position](w, event.TopicPositions)) > n+2 })
	r.drain()
	w.audit()
	if f := all[*event.Fill](w, event.TopicFills); len(f) != 2 || f[0].Liquidity != event.Maker || f[1].QuoteID != "binance|bookTicker|BTCUSDT|3" {
		t.Errorf("fills: %+v", f)
	}
}

// TestCrashes lets the role die at each site, again and again, and starts it on
// the same data: no decision ever has two orders, no fill is lost or doubled, and
// the position equals the paper broker's own ledger.
func TestCrashes(t *testing.T) {
	for _, site := range []crashSite{siteBeforeSubmitting, siteSubmitting, siteSent, siteFill, siteLogged} {
		t.Run(string(site), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.cfg.Accounts[0].Limits.MaxPositionNotional = risk.Amounts{"USDT": dec("1000000")}
			var ds []*event.Decision
			died := 0
			for i := range 4 {
				r := w.start(func(r *Role) {
					r.crash = func(s crashSite) error {
						if s != site || i == 3 {
							return nil
						}
						return errors.New("killed: " + string(s))
					}
				})
				w.quote("50000.00", "0.5", "50001.00", "0.01")
				w.seesQuote(r)
				side := event.Buy
				if i%2 == 1 {
					side = event.Sell
				}
				ds = append(ds, w.decide(w.decision(side, "0.02", "50000.5")))
				if i == 3 {
					w.wantStates(ds[i], "submitting accepted filled")
					r.drain()
					break
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
			if died != 3 {
				t.Errorf("died %d times", died)
			}
			w.audit()
			for i, d := range ds[:3] {
				want := map[crashSite]string{
					// Nothing was written: the next life takes the decision up, before or
					// after it has seen a quote.
					siteBeforeSubmitting: "",
					siteSubmitting:       "submitting not_placed:not_found",
					siteSent:             "submitting accepted ",
					siteFill:             "submitting accepted ",
					siteLogged:           "submitting accepted ",
				}[site]
				if got := w.states(d); !strings.HasPrefix(got, want) {
					t.Errorf("decision %d: %s", i, got)
				}
			}
		})
	}
}

// flaky passes orders on to the paper broker and loses answers on the way.
type flaky struct {
	broker.Broker
	mu        sync.Mutex
	swallow   bool // Submit does not reach the broker
	timeout   bool // Submit reaches it, the answer is lost
	queryDown bool
	submits   int
}

func (f *flaky) Submit(ctx context.Context, o broker.Order) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.submits++
	if f.swallow {
		return errors.New("connection reset")
	}
	err := f.Broker.Submit(ctx, o)
	if f.timeout {
		return context.DeadlineExceeded
	}
	return err
}

func (f *flaky) Query(ctx context.Context, id string) (broker.Report, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.queryDown {
		return broker.Report{}, errors.New("service unavailable")
	}
	return f.Broker.Query(ctx, id)
}

// Next tells nothing: only Query does.
func (f *flaky) Next(ctx context.Context, _ uint64) ([]broker.Report, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (f *flaky) Quote(q *broker.Quote) { f.Broker.(broker.QuoteTaker).Quote(q) }

func (f *flaky) set(change func(*flaky)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// TestUnknownBlocks: an order whose outcome is unknown blocks new risk until the
// broker tells, also over a restart, and is never sent again.
func TestUnknownBlocks(t *testing.T) {
	for _, c := range []struct {
		name   string
		flaw   func(*flaky)
		answer string // once the broker can be asked
	}{
		{"it was placed", func(f *flaky) { f.timeout = true }, " accepted filled"},
		{"it was not placed", func(f *flaky) { f.swallow = true }, " not_placed:not_found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
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
			f.set(func(f *flaky) { f.queryDown = true; c.flaw(f) })
			d := w.decide(w.decision(event.Buy, "0.01", "50000.5"))
			w.wantStates(d, "submitting unknown:submit")
			w.wantStates(w.decide(w.decision(event.Buy, "0.01", "50000.5")), "risk_rejected:unknown_order")
			r.stop()
			if err := <-r.err; err != nil {
				t.Fatal(err)
			}
			r.err <- nil

			r = w.start(through)
			w.quote("50000.00", "0.5", "50001.00", "0.5")
			w.seesQuote(r)
			w.wantStates(w.decide(w.decision(event.Buy, "0.01", "50000.5")), "risk_rejected:unknown_order")
			w.wantStates(d, "submitting unknown:submit")
			f.set(func(f *flaky) { f.swallow, f.timeout, f.queryDown = false, false, false })
			w.wantStates(d, "submitting unknown:submit"+c.answer)
			again := w.decide(w.decision(event.Buy, "0.01", "50000.5"))
			w.wantStates(again, "submitting accepted filled")
			r.drain()
			w.audit()
			if f.submits != 2 {
				t.Errorf("%d orders were sent, want 2", f.submits)
			}
		})
	}
}

// TestOrderRateSurvivesRestart: what was sent is counted from the order log.
func TestOrderRateSurvivesRestart(t *testing.T) {
	w := newWorld(t)
	w.cfg.Accounts[0].Limits.MaxOrdersPerSecond = 2
	w.cfg.Accounts[0].Limits.MaxOrdersPerMinute = 2
	r := w.start(nil)
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(r)
	for range 2 {
		w.wantStates(w.decide(w.decision(event.Buy, "0.001", "50000.5")), "submitting accepted filled")
	}
	r.drain()
	r = w.start(nil)
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(r)
	w.wantStates(w.decide(w.decision(event.Buy, "0.001", "50000.5")), "risk_rejected:order_rate")
	r.drain()
}

func TestConfig(t *testing.T) {
	c := DefaultConfig()
	if p := c.Validate(); len(p) != 0 {
		t.Errorf("default configuration: %v", p)
	}
	c.Accounts = append(c.Accounts, c.Accounts[0], Account{Name: "../x", Broker: "nobody", Limits: risk.DefaultConfig(), Exits: exits.DefaultConfig(), Settings: broker.DefaultSettings()})
	c.Accounts[0].Settings.Paper.TakerBps = dec("-1")
	c.MarkInterval = 0
	var got []string
	for _, p := range c.Validate() {
		got = append(got, p.Error())
	}
	want := []string{
		"accounts[0].settings.paper.taker_bps: is -1: want 0 to 1000 basis points with at most 4 decimals",
		`accounts[1].name: "paper" is taken by accounts[0]`,
		`accounts[2].name: is "../x": want 1 to 32 lower case letters, digits and hyphens, not a hyphen first`,
		`accounts[2].broker: unknown broker "nobody": want one of paper`,
		"mark_interval: is 0s: want at least 10ms",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %s", fmt.Sprintf("%q", got))
	}
}

var _ component.Role = (*Role)(nil)

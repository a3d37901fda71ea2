package execution

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// TestStalledOrderLogHaltsNewRisk takes Kafka away between a decision and its
// entry in the order log. Nothing is sent while it is away, nor afterwards what
// was judged before; then orders are placed again.
func TestStalledOrderLogHaltsNewRisk(t *testing.T) {
	w := newWorld(t)
	gone := make(chan struct{})
	var judged atomic.Int32
	away := sync.OnceFunc(func() {
		w.stopBroker()
		close(gone)
	})
	r := w.start(func(r *Role) {
		r.logPatience = 500 * time.Millisecond
		r.crash = func(s crashSite) error {
			if s == siteBeforeSubmitting {
				judged.Add(1)
				away()
			}
			return nil
		}
	})
	w.quote("99.99", "10", "100.01", "10")
	w.seesQuote(r)
	late := w.decide(w.decision(event.Buy, "0.1", "100"))
	<-gone
	time.Sleep(2 * r.role.logPatience) // how long it is away
	w.startBroker()
	last := func(d *event.Decision) (e event.OrderEvent) {
		for p := range w.client.Partitions(event.TopicOrders) {
			if _, err := w.client.ReadAll(t.Context(), event.TopicOrders, p, bus.FromStart, func(rec bus.Record) error {
				if event.TypeOf(rec.Value) != event.TypeOrder {
					return nil
				}
				x, err := event.DecodeAs[*event.OrderEvent](rec.Value)
				if err == nil && x.DecisionID == d.ID {
					e = *x
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		return e
	}
	w.until("the order that waited is done with", func() bool { return last(late).State.Terminal() })
	switch e := last(late); {
	case e.State == event.OrderNotPlaced && (e.Reason == reasonLogStalled || e.Reason == reasonNotFound):
		// Its owner survived the absence, or its successor asked the broker.
	case e.State == event.OrderFilled && judged.Load() > 1:
		// Its entry was lost with the owner, and the successor judged the decision anew.
	case e.State == event.OrderRiskRejected && judged.Load() > 1 && e.Reason == "expired":
		// The same, and it was too late by then.
	default:
		t.Errorf("the order that waited is %s: %s, %s", e.State, e.Reason, e.Detail)
	}
	w.quote("99.99", "10", "100.01", "10")
	w.seesQuote(r)
	next := w.decide(w.decision(event.Buy, "0.1", "100"))
	w.until("the next order is filled", func() bool { return last(next).State == event.OrderFilled })
}

// TestStalledOrderLogIsTold: an owner that keeps its partition while the order log
// takes nothing says so, and when it does again.
func TestStalledOrderLogIsTold(t *testing.T) {
	w := newWorld(t)
	role, err := New(w.cfg, w.client, w.paths, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	role.logPatience = 50 * time.Millisecond
	p, err := w.client.NewProducer(t.Context(), bus.ProducerConfig{Name: "stalled", Blocking: true}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	o := &owner{role: role, producer: &bus.Owner{Producer: p}}
	var watching sync.WaitGroup
	watching.Go(func() { o.watchLog(ctx) })
	w.stopBroker()
	if err := p.Append(event.TopicOrders, 0, []byte("paper"), []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	w.until("new risk is halted", func() bool { return testutil.ToFloat64(role.metrics.stalled) == 1 })
	w.startBroker()
	w.until("new risk is taken again", func() bool { return testutil.ToFloat64(role.metrics.stalled) == 0 })
	cancel()
	watching.Wait()
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestOrderThatTheLogTookLateIsNotSent: but one that reduces a position is.
func TestOrderThatTheLogTookLateIsNotSent(t *testing.T) {
	now := time.Now()
	o := &owner{role: &Role{logPatience: logPatience}, open: map[string]*working{}}
	for _, tt := range []struct {
		took     time.Duration
		reducing bool
		want     string
	}{{logPatience, false, ""}, {logPatience + time.Second, false, reasonLogStalled}, {time.Hour, true, ""}} {
		out := &outgoing{working: &working{order: &order{}}, reducing: tt.reducing, until: now.Add(time.Minute), judged: now.Add(-tt.took), logged: now}
		reason, detail := o.begin(out)
		if reason != tt.want || reason != "" && !strings.Contains(detail, "the order log took 6s") {
			t.Errorf("an order that took %s, reducing %v: %q, %q", tt.took, tt.reducing, reason, detail)
		}
	}
}

package execution

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/stream/event"
)

// sulky is the paper broker behind a Cancel that hangs for the first order it is asked
// about, and fails a few times for every other one.
type sulky struct {
	broker.Broker

	release chan struct{} // what hangs fails once it is closed

	mu    sync.Mutex
	hangs string
	asked map[string]int
}

func (s *sulky) Quote(q *broker.Quote) { s.Broker.(broker.QuoteTaker).Quote(q) }

func (s *sulky) Cancel(ctx context.Context, id string) error {
	s.mu.Lock()
	if s.hangs == "" {
		s.hangs = id
	}
	s.asked[id]++
	n, hangs := s.asked[id], s.hangs == id
	s.mu.Unlock()
	if hangs && n <= 2 {
		select {
		case <-ctx.Done():
		case <-s.release:
		}
		return errors.New("gateway timeout")
	}
	if n <= 2 {
		return errors.New("service unavailable")
	}
	return s.Broker.Cancel(ctx, id)
}

// TestHaltCancelsAgain: a halt returns although a Cancel hangs, the other orders are
// withdrawn meanwhile, and what failed or hung is tried again until it is done.
func TestHaltCancelsAgain(t *testing.T) {
	w, s := newWorld(t), &sulky{asked: make(map[string]int), release: make(chan struct{})}
	w.cfg.AckTimeout = time.Minute // longer than the test waits for anything
	w.cfg.Accounts[0].Limits.MaxPositionNotional["USDT"] = dec("1000000")
	r := w.start(func(r *Role) {
		open := r.openBroker
		r.openBroker = func(ctx context.Context, kind broker.Kind, a broker.Account) (broker.Broker, error) {
			b, err := open(ctx, kind, a)
			s.Broker = b
			return s, err
		}
	})
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(r)
	const orders = 6
	resting := make([]*event.Decision, orders)
	for i := range resting {
		d := w.decision(event.Buy, "0.001", "50000.5")
		d.Type, d.TIF, d.LimitPrice = event.Limit, event.GTC, event.Some(dec("49990"))
		resting[i] = w.decide(d)
	}
	for _, d := range resting {
		w.wantStates(d, "submitting accepted")
	}
	if report, err := RequestHalt(t.Context(), w.paths, w.connect, ScopeAll, "ann", "drill", event.HaltStop); err != nil || !report.Engine {
		t.Fatalf("halting: %+v, %v", report, err)
	}
	canceled := func() (n int) {
		for _, e := range all[*event.OrderEvent](w, event.TopicOrders) {
			if e.State == event.OrderCanceled {
				n++
			}
		}
		return n
	}
	w.until("every order but the one that hangs is withdrawn", func() bool { return canceled() == orders-1 })
	close(s.release)
	w.until("the one that hung is withdrawn", func() bool { return canceled() == orders })
	s.mu.Lock()
	for id, n := range s.asked {
		if n < 3 {
			t.Errorf("order %s: asked %d times, the first two failed", id, n)
		}
	}
	s.mu.Unlock()
	r.drain()
	w.audit()
}

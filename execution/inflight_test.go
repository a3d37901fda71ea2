package execution

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/stream/event"
)

// slow is the paper broker behind a Submit that a test can hold.
type slow struct {
	broker.Broker
	begun chan string // client order ids, as Submit begins

	mu      sync.Mutex
	held    chan struct{} // Submit waits for it; nil does not
	deaf    bool          // it tells nothing of its orders
	submits int
}

func (s *slow) Submit(ctx context.Context, o broker.Order) error {
	var held chan struct{}
	s.set(func(s *slow) { s.submits++; held = s.held })
	s.begun <- o.ClientOrderID
	if held != nil {
		<-held
	}
	return s.Broker.Submit(ctx, o)
}

func (s *slow) Query(ctx context.Context, id string) (broker.Report, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deaf {
		return broker.Report{}, errors.New("service unavailable")
	}
	return s.Broker.Query(ctx, id)
}

// Next tells nothing: only Query does.
func (s *slow) Next(ctx context.Context, _ uint64) ([]broker.Report, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (s *slow) Quote(q *broker.Quote) { s.Broker.(broker.QuoteTaker).Quote(q) }

func (s *slow) set(change func(*slow)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *slow) hold() (release func()) {
	held := make(chan struct{})
	s.set(func(s *slow) { s.held = held })
	return sync.OnceFunc(func() {
		s.set(func(s *slow) { s.held = nil })
		close(held)
	})
}

// startSlow starts the role with a slow broker, a long position of 0.02 and, held
// by that broker, a sale of all of it.
func startSlow(t *testing.T, ackTimeout time.Duration) (w *world, r *running, s *slow, closing *event.Decision, release func()) {
	w, s = newWorld(t), &slow{begun: make(chan string, 16)}
	w.cfg.AckTimeout = ackTimeout
	r = w.start(func(r *Role) {
		open := r.openBroker
		r.openBroker = func(ctx context.Context, kind broker.Kind, a broker.Account) (broker.Broker, error) {
			b, err := open(ctx, kind, a)
			s.Broker = b
			return s, err
		}
	})
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(r)
	w.wantStates(w.decide(w.decision(event.Buy, "0.02", "50000.5")), "submitting accepted filled")
	<-s.begun
	release = s.hold()
	t.Cleanup(release)
	closing = w.decide(w.flat("0.02"))
	if id := <-s.begun; id != event.ClientOrderID(closing.ID, 0) {
		t.Fatalf("order %s is sent", id)
	}
	return w, r, s, closing, release
}

func (w *world) flat(qty string) *event.Decision {
	d := w.decision(event.Sell, qty, "50000.5")
	d.Action = event.ActionFlat
	return d
}

// TestOrdersInFlight: while the broker takes its time, decisions go on through the
// limits into the order log, and the limits count what is on its way.
func TestOrdersInFlight(t *testing.T) {
	w, r, s, closing, release := startSlow(t, 5*time.Second)
	w.wantStates(closing, "submitting")
	again := w.decide(w.flat("0.02"))
	w.wantStates(again, "risk_rejected:nothing_to_close")
	if e := w.history(again)[0]; !strings.Contains(e.Detail, "position is 0.02") || !strings.Contains(e.Detail, "orders are 0.02") {
		t.Errorf("detail: %q", e.Detail)
	}
	bought := w.decide(w.decision(event.Buy, "0.025", "50000.5"))
	w.wantStates(bought, "submitting") // what is being sold is still there
	w.wantStates(w.decide(w.decision(event.Buy, "0.01", "50000.5")), "risk_rejected:max_position")
	w.wantStates(closing, "submitting")
	if n := len(s.begun); n != 0 {
		t.Errorf("%d orders overtook the one that is being sent", n)
	}
	release()
	w.wantStates(closing, "submitting accepted filled")
	w.wantStates(bought, "submitting accepted filled")
	// More than there is to close is cut down, and the order log says so.
	rest := w.decide(w.flat("0.9"))
	w.wantStates(rest, "submitting accepted filled")
	if e := w.history(rest)[0]; e.Qty.Cmp(dec("0.025")) != 0 || !strings.Contains(e.Detail, "from 0.9 to 0.025") {
		t.Errorf("first entry: %+v", e)
	}
	w.wantStates(w.decide(w.flat("0.01")), "risk_rejected:nothing_to_close")
	r.drain()
	w.audit()
}

// TestOvertaken: an order that waited behind another is not sent after its
// deadline, nor, if it adds risk, behind one that came to be unknown.
func TestOvertaken(t *testing.T) {
	t.Run("deadline", func(t *testing.T) {
		w, r, s, closing, release := startSlow(t, 5*time.Second)
		d := w.decision(event.Buy, "0.01", "50000.5")
		d.Deadline = time.Now().Add(200 * time.Millisecond).UnixNano()
		w.wantStates(w.decide(d), "submitting")
		w.until("its deadline has passed", func() bool { return time.Now().UnixNano() > d.Deadline })
		release()
		w.wantStates(d, "submitting not_placed:expired")
		w.wantStates(closing, "submitting accepted filled")
		r.drain()
		w.audit()
		if s.submits != 2 {
			t.Errorf("%d orders were sent, want 2", s.submits)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		w, r, s, closing, release := startSlow(t, 500*time.Millisecond)
		d := w.decide(w.decision(event.Buy, "0.01", "50000.5"))
		w.wantStates(d, "submitting")
		w.wantStates(closing, "submitting unknown:unconfirmed") // Submit has not returned
		w.wantStates(w.decide(w.decision(event.Buy, "0.01", "50000.5")), "risk_rejected:unknown_order")
		s.set(func(s *slow) { s.deaf = true })
		release()
		w.wantStates(d, "submitting not_placed:unknown_order")
		w.wantStates(closing, "submitting unknown:unconfirmed")
		s.set(func(s *slow) { s.deaf = false })
		w.wantStates(closing, "submitting unknown:unconfirmed accepted filled")
		w.wantStates(w.decide(w.decision(event.Buy, "0.01", "50000.5")), "submitting accepted filled")
		r.drain()
		w.audit()
		if s.submits != 3 {
			t.Errorf("%d orders were sent, want 3", s.submits)
		}
	})
}

// TestBurst: decisions that arrive together are judged one after another, each
// with those before it counted, though nothing of them is filled yet.
func TestBurst(t *testing.T) {
	w := newWorld(t)
	r := w.start(nil)
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(r)
	var ds []*event.Decision
	for range 40 {
		d := w.decision(event.Buy, "0.01", "50000.5") // worth 500.01 of at most 2500
		ds = append(ds, d)
		if err := w.feed.Append(event.TopicDecisions, w.client.Partition(event.TopicDecisions, []byte(d.Account)), []byte(d.Account), event.Marshal(d), nil); err != nil {
			t.Fatal(err)
		}
	}
	for i, d := range ds {
		want := "submitting accepted filled"
		if i >= 4 {
			want = "risk_rejected:max_position"
		}
		w.wantStates(d, want)
	}
	r.drain()
	w.audit()
	// All of them are committed: a second life takes none of them up.
	r = w.start(nil)
	r.drain()
	if n := testutil.ToFloat64(r.role.metrics.skipped); n != 0 {
		t.Errorf("%v decisions were delivered again after a drain", n)
	}
}

func TestProgress(t *testing.T) {
	committed := int64(-1)
	p := progress{commit: func(next int64) { committed = next }}
	var done []func()
	for _, offset := range []int64{5, 6, 9, 10} { // second copies leave holes
		done = append(done, p.begin(offset))
	}
	for _, step := range []struct {
		done int
		want int64
	}{{2, -1}, {1, -1}, {0, 10}, {3, 11}} {
		done[step.done]()
		if committed != step.want {
			t.Errorf("after decision %d: committed %d, want %d", step.done, committed, step.want)
		}
	}
	if p.begin(11)(); committed != 12 {
		t.Errorf("committed %d, want 12", committed)
	}
}

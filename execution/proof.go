package execution

import (
	"context"
	"fmt"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/stream/event"
)

// Fills prove, brokers and the order log claim (design.md 4.6). More proven than
// claimed, or a fill that is known with other content, halts the account at once.
// More claimed than proven is a doubt: the instrument takes no new risk, limits count
// the larger quantity, the broker is asked for the fills, and if they do not come
// within the broker's settle time the account is halted.

// doubt is an order of which more is claimed than its fills prove.
type doubt struct {
	*working
	since  time.Time // of the machine's clock
	halted bool
}

// proven is the sum of the recorded fills of an order.
func (o *owner) proven(clientOrderID string) event.Decimal {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.book.Proven(clientOrderID)
}

// stale reports whether a newer report on the order was taken over: reports come by
// more than one way. A report without a Seq is taken as it comes.
func (o *owner) stale(w *working, r *broker.Report) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return r.Seq != 0 && r.Seq < w.reported
}

// weigh compares what the fills of an order prove with what is claimed of it, after a
// report was taken over, or at the start, without one.
func (o *owner) weigh(ctx context.Context, w *working, r *broker.Report) error {
	o.mu.Lock()
	proven, claimed := o.book.Proven(w.id()), w.claimed()
	d := o.doubts[w.id()]
	switch differs := proven.Cmp(claimed) != 0; {
	case differs && d == nil:
		o.doubts[w.id()] = &doubt{working: w, since: time.Now()}
		o.role.metrics.unproven.Inc()
	case !differs && d != nil:
		delete(o.doubts, w.id())
		o.role.metrics.unproven.Dec()
	}
	o.mu.Unlock()
	if r == nil {
		return nil
	}
	claims, err := r.Claimed(w.last.Qty)
	if err != nil {
		return err
	}
	if proven.Cmp(claims) > 0 {
		return o.contradiction(ctx, w, fmt.Sprintf("order %s: its fills prove %s, the broker claims %s", w.id(), proven, claims))
	}
	return nil
}

// contradiction halts an account whose records contradict each other, once for each
// order and text.
func (o *owner) contradiction(ctx context.Context, w *working, why string) error {
	if o.contradictions[w.id()] == why {
		return nil
	}
	o.contradictions[w.id()] = why
	o.role.metrics.contradictions.Inc()
	o.role.env.Log.Error("halting an account whose records contradict each other", "account", w.last.Account, "order", w.id(), "why", why)
	return o.haltAccount(ctx, w.last.Account, why)
}

// pursue asks for the fills that are missing, and halts the accounts of those that
// did not come in time. settling is held.
func (o *owner) pursue(ctx context.Context, machine time.Time) error {
	o.mu.Lock()
	var all []*doubt
	for _, d := range o.doubts {
		all = append(all, d)
	}
	o.mu.Unlock()
	for _, d := range all {
		acc := o.accounts[d.last.Account]
		if acc == nil || acc.broker.refused() != nil {
			continue
		}
		if machine.Sub(d.askedAt) >= o.role.cfg.QueryInterval {
			if err := o.ask(ctx, d.working); err != nil {
				return err
			}
		}
		if err := o.giveUp(ctx, acc, d, machine); err != nil {
			return err
		}
	}
	return nil
}

// giveUp halts the account of a doubt that the broker had its time to clear.
func (o *owner) giveUp(ctx context.Context, acc *account, d *doubt, machine time.Time) error {
	o.mu.Lock()
	proven, claimed := o.book.Proven(d.id()), d.claimed()
	still := o.doubts[d.id()] == d
	o.mu.Unlock()
	if !still || d.halted || !d.askedAt.After(d.since) || machine.Sub(d.since) < acc.profile.Settle {
		return nil
	}
	d.halted = true
	return o.contradiction(ctx, d.working, fmt.Sprintf("order %s: the order log claims %s of %s, its fills prove %s, and the broker told no other within %s",
		d.id(), claimed, d.last.Qty, proven, acc.profile.Settle))
}

// doubtfulLocked returns an order of an instrument that is in doubt, or nothing; o.mu is
// held.
func (o *owner) doubtfulLocked(account, venue, symbol string) string {
	for id, d := range o.doubts {
		if d.last.Account == account && d.last.Venue == venue && d.last.Symbol == symbol {
			return id
		}
	}
	return ""
}

// distinct returns the report with each execution once, or a text that says which of
// its executions contradict each other.
func distinct(r *broker.Report) (*broker.Report, string) {
	seen := make(map[string]*broker.Execution, len(r.Fills))
	out := *r
	out.Fills = nil
	for i := range r.Fills {
		x := &r.Fills[i]
		was := seen[x.ExecID]
		switch {
		case was == nil:
			seen[x.ExecID] = x
			out.Fills = append(out.Fills, *x)
		case was.Qty.Cmp(x.Qty) != 0 || was.Price.Cmp(x.Price) != 0:
			return r, fmt.Sprintf("order %s: one report has execution %s as %s at %s and as %s at %s", r.ClientOrderID, x.ExecID, was.Qty, was.Price, x.Qty, x.Price)
		}
	}
	return &out, ""
}

package execution

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/execution/risk"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// inFlight bounds the decisions of one owner that are taken up and neither
// refused nor sent.
const inFlight = 64

// outgoing is an order whose first entry is acknowledged, on its way to its
// broker.
type outgoing struct {
	*working
	order    broker.Order
	reducing bool
	exit     bool      // it has one of the exits' slots
	until    time.Time // of the machine's clock: the decision's deadline
	// judged is when the limits were checked, logged when the order log had it.
	judged, logged time.Time
}

// ownerLease is how long after its entry was acknowledged an order is sent without
// another look at whether this process still owns the partition: less than the
// group needs to pass over a member that stands still, 3 s.
const ownerLease = time.Second

// logPatience is how long the order log may take for an entry. While it takes
// longer, new risk is halted: an order was checked against a market of that long
// ago, and more would pile up behind it.
const logPatience = 5 * time.Second

// sends passes an account's orders on to its broker, one after another: exits first,
// each kind in the order in which it stands in the order log. Limits and the order log
// go on meanwhile.
func (o *owner) sends(ctx context.Context, acc *account) error {
	for {
		var out *outgoing
		select {
		case out = <-acc.exits:
		default:
			select {
			case out = <-acc.exits:
			case out = <-acc.outgoing:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := o.send(ctx, acc, out); err != nil {
			return err
		}
		if out.exit {
			<-o.exitSlots
		} else {
			o.free()
		}
	}
}

// send sends an order, once, whatever happens, and takes over what it came to at
// once.
func (o *owner) send(ctx context.Context, acc *account, out *outgoing) error {
	if err := ctx.Err(); err != nil {
		return err // whoever owns the partition next asks the broker
	}
	if err := o.reach(siteSubmitting); err != nil {
		return err
	}
	w := out.working
	var sent error
	var reason, detail string
	unconfirmed, err := o.confirmOwner(ctx, out)
	switch {
	case err != nil:
		return err
	case unconfirmed != nil:
		reason, detail = reasonUnconfirmed, fmt.Sprintf("never sent: until its deadline meta did not say who owns partition %d: %v", o.partition, unconfirmed)
	default:
		reason, detail = o.begin(out)
	}
	if reason == "" {
		if halted := o.role.board.send(w.last.Account, w.last.Venue, w.last.Symbol, out.reducing, func() {
			// Losing the partition must not cut a request in two.
			sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.role.cfg.AckTimeout)
			defer cancel()
			sent = acc.broker.Submit(sctx, out.order)
		}); halted != "" {
			reason, detail = risk.KillSwitch, "halted before it was sent: "+halted
		} else if err := o.reach(siteSent); err != nil {
			return err
		}
	}
	o.settling.Lock()
	defer o.settling.Unlock()
	o.mu.Lock()
	w.sending = false
	late := w.state() == event.OrderUnknown // the answer took longer than it may
	o.mu.Unlock()
	switch {
	case reason != "":
		return o.move(ctx, w, func(at stamp) (event.OrderEvent, bool) { return w.notPlaced(reason, detail, at) })
	case sent != nil:
		if err := o.lose(ctx, w, reasonSubmit, sent.Error()); err != nil {
			return err
		}
		return o.ask(ctx, w)
	case acc.profile.Immediate || late:
		return o.ask(ctx, w)
	}
	return nil
}

// confirmOwner makes sure, before an order is sent that waited, that nobody took the
// partition over: the process may have stood still, and another may own the partition
// and have asked the broker about the order already. While that cannot be told the
// order stays unsent and it is tried again, until the order's deadline; then it
// returns why not. Only that another is the owner is an error.
func (o *owner) confirmOwner(ctx context.Context, out *outgoing) (unconfirmed, err error) {
	wait := 20 * time.Millisecond
	for attempt := 0; time.Since(out.logged) > o.role.lease; attempt++ {
		cctx, cancel := context.WithDeadline(ctx, out.until)
		err := o.confirm(cctx)
		cancel()
		switch {
		case err == nil:
			return nil, nil
		case errors.Is(err, bus.ErrFenced):
			return nil, fmt.Errorf("sending nothing of partition %d: %w", o.partition, err)
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case attempt == 0:
			o.role.env.Log.Warn("keeping an order unsent until meta says who owns its partition", "partition", o.partition, "order", out.id(), "err", err)
		}
		if time.Until(out.until) <= wait {
			return err, nil
		}
		if !sleep(ctx, wait) {
			return nil, ctx.Err()
		}
		wait = min(2*wait, time.Second)
	}
	return nil, nil
}

// confirm asks meta whether this process still owns the partition; tests put another
// answer there.
func (o *owner) confirm(ctx context.Context) error {
	if o.role.confirm != nil {
		return o.role.confirm(ctx)
	}
	return o.producer.Confirm(ctx)
}

// begin notes that an order is about to be sent, or says why it must not be any
// more: it waited behind others of its account, and meanwhile its deadline passed
// or one of them came to be unknown.
func (o *owner) begin(out *outgoing) (reason, detail string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	if late := now.Sub(out.until); late > 0 {
		return risk.Expired, fmt.Sprintf("%s past the deadline before it was sent, at most 0s is allowed", late)
	}
	if took := out.logged.Sub(out.judged); !out.reducing && took > o.role.logPatience {
		return reasonLogStalled, fmt.Sprintf("new risk was halted: the order log took %s to take the order, at most %s is allowed", took.Round(time.Millisecond), o.role.logPatience)
	}
	for id, other := range o.open {
		if !out.reducing && other.last.Account == out.last.Account && other.state() == event.OrderUnknown {
			return risk.UnknownOrder, fmt.Sprintf("before it was sent, order %s of the account came to have an unknown outcome, 0 such orders are allowed", id)
		}
	}
	out.sentAt = now
	return "", ""
}

// progress tells how far the decisions of a partition are done: up to the first
// of which nothing is acknowledged yet. Its methods are safe for concurrent use
// and do not block.
type progress struct {
	commit func(next int64)

	mu   sync.Mutex
	open []*mark // in offset order
}

type mark struct {
	offset int64
	done   bool
}

// begin notes that a record is taken up and returns what must be called when it
// is done.
func (p *progress) begin(offset int64) func() {
	m := &mark{offset: offset}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = append(p.open, m)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		m.done = true
		n := 0
		for n < len(p.open) && p.open[n].done {
			n++
		}
		if n > 0 {
			p.commit(p.open[n-1].offset + 1)
			p.open = append(p.open[:0], p.open[n:]...)
		}
	}
}

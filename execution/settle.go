package execution

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// What follows carries a broker's word into the logs. Whoever calls it holds
// o.settling, so that entries of one order, and records of one position, keep
// their order, and does not hold o.mu, so that the limits of the next decision
// do not wait for acknowledgements. What o.mu guards changes in one step: a fill
// counts as position from the moment on from which it no longer counts as open.

// lose notes that an order's outcome is unknown, which blocks new risk.
func (o *owner) lose(ctx context.Context, w *working, reason, detail string) error {
	return o.move(ctx, w, func(at stamp) (event.OrderEvent, bool) {
		e, ok := w.unknown(reason, detail, at)
		if ok {
			o.role.env.Log.Error("an order's outcome is unknown, its account takes no new risk", "account", w.last.Account, "order", w.id(), "reason", reason, "detail", detail)
		}
		return e, ok
	})
}

// ask asks the broker about an order and takes over what it says. An order that
// is not, or still being, sent is not asked for: not to find it would say nothing.
func (o *owner) ask(ctx context.Context, w *working) error {
	o.mu.Lock()
	sending := w.sending
	o.mu.Unlock()
	if sending {
		return nil
	}
	acc := o.accounts[w.last.Account]
	if acc != nil && acc.broker.refused() != nil {
		return nil // nobody can be asked, and nothing is sent
	}
	if acc == nil {
		return o.lose(ctx, w, reasonLost, fmt.Sprintf("account %s is not configured any more", w.last.Account))
	}
	w.askedAt = time.Now()
	qctx, cancel := context.WithTimeout(ctx, o.role.cfg.AckTimeout)
	defer cancel()
	r, err := acc.broker.Query(qctx, w.id())
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		w.missingSince = time.Time{}
		return o.take(ctx, w, &r)
	case !errors.Is(err, broker.ErrNotFound):
		return o.lose(ctx, w, reasonUnconfirmed, fmt.Sprintf("asking the broker: %v", err))
	case !w.unconfirmed():
		return o.lose(ctx, w, reasonLost, "the broker had it and does not know it any more: its records are not those that took the order")
	case w.missingSince.IsZero():
		w.missingSince = w.askedAt
		return nil
	case w.askedAt.Sub(w.missingSince) < acc.profile.Settle:
		return nil
	}
	return o.move(ctx, w, func(at stamp) (event.OrderEvent, bool) {
		return w.notPlaced(reasonNotFound, "the broker never had it", at)
	})
}

// take records what a report tells: first the fills, then the order's entries,
// then the positions, each acknowledged before the next, so that a crash in
// between leaves nothing that the next start could not complete.
func (o *owner) take(ctx context.Context, w *working, r *broker.Report) error {
	if o.stale(w, r) {
		return nil
	}
	r, why := distinct(r)
	if why != "" {
		return o.contradiction(ctx, w, why)
	}
	currency := o.role.market.quoted(w.last.Venue, w.last.Symbol)
	var fills []*event.Fill
	for i := range r.Fills {
		f := fillOf(w.order, r, i)
		applied, err := o.applied(f)
		if err == nil {
			err = ledger.CheckFill(f)
		}
		if err != nil { // nothing of a report that contradicts the log is taken over
			return o.contradiction(ctx, w, err.Error())
		}
		if !applied {
			fills = append(fills, f)
		}
	}
	var from []event.Lineage
	for _, f := range fills {
		partition, offset, err := o.producer.Publish(ctx, event.TopicFills, []byte(f.Account), f)
		if err != nil {
			return err
		}
		if err := o.reach(siteFill); err != nil {
			return err
		}
		from = append(from, event.Lineage{Topic: event.TopicFills, Partition: partition, Offset: offset})
	}
	events, err := o.absorb(w, r, fills, currency)
	if err != nil {
		return component.Fatal(err)
	}
	o.role.metrics.fills.Add(float64(len(fills)))
	if err := o.log(ctx, events...); err != nil {
		return err
	}
	if len(events) > 0 {
		if err := o.reach(siteLogged); err != nil {
			return err
		}
	}
	for _, e := range events {
		if e.Reason == reasonOverfill {
			if err := o.haltAccount(ctx, e.Account, fmt.Sprintf("order %s: %s", e.ClientOrderID, e.Detail)); err != nil {
				return err
			}
		}
	}
	for i, f := range fills {
		if err := o.record(ctx, keyOf(f), from[i]); err != nil {
			return err
		}
	}
	return o.weigh(ctx, w, r)
}

// applied reports whether a fill is recorded already, and returns an error when it
// is, with other content.
func (o *owner) applied(f *event.Fill) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.book.Check(f)
}

// absorb takes what a report tells over into the positions and the order, in one
// step, and returns the entries to append.
func (o *owner) absorb(w *working, r *broker.Report, fills []*event.Fill, currency string) ([]event.OrderEvent, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range fills {
		applied, err := o.book.Apply(f, cmp.Or(currency, f.FeeCurrency))
		if err == nil && applied {
			err = o.lots.Apply(f, termsOf(w.order))
		}
		if err != nil {
			return nil, err
		}
		o.armLocked(keyOf(f))
	}
	events, err := w.adopt(r, o.at())
	for i := range events {
		o.lots.Order(&events[i])
	}
	o.moved(w)
	return events, err
}

func keyOf(f *event.Fill) ledger.Key {
	return ledger.Key{Account: f.Account, Strategy: f.Strategy, Venue: f.Venue, Symbol: f.Symbol}
}

// fillOf is the i-th fill of a report as an event.
func fillOf(ord *order, r *broker.Report, i int) *event.Fill {
	e, x := &ord.last, &r.Fills[i]
	from := e.Lineage
	from.K = uint32(i)
	return &event.Fill{
		ID: event.FillID(e.Venue, e.Symbol, e.ClientOrderID, x.ExecID, x.Life), ExecID: x.ExecID, ClientOrderID: e.ClientOrderID, BrokerOrderID: r.BrokerOrderID, Broker: e.Broker,
		DecisionID: e.DecisionID, Account: e.Account, Strategy: e.Strategy, Venue: e.Venue, Symbol: e.Symbol, Side: e.Side,
		Price: x.Price, Qty: x.Qty, Liquidity: x.Liquidity, Fee: x.Fee, FeeCurrency: x.FeeCurrency, FeeQuote: x.FeeQuote, QuoteID: x.QuoteID,
		Time: x.Time, Lineage: from, Life: x.Life,
	}
}

// move changes an order's state by one step of its machine, if that gives one, and
// appends the entry.
func (o *owner) move(ctx context.Context, w *working, step func(at stamp) (event.OrderEvent, bool)) error {
	o.mu.Lock()
	e, ok := step(o.at())
	if ok {
		o.lots.Order(&e)
	}
	o.moved(w)
	o.mu.Unlock()
	if !ok {
		return nil
	}
	return o.log(ctx, e)
}

// moved keeps the list of open orders and the gauge after a change of state;
// o.mu is held.
func (o *owner) moved(w *working) {
	if w.state().Terminal() {
		delete(o.open, w.id())
	} else {
		o.open[w.id()] = w
	}
	if w.state() == event.OrderUnknown {
		o.unknown[w.id()] = struct{}{}
	} else {
		delete(o.unknown, w.id())
	}
	o.role.metrics.unknown.Add(float64(len(o.unknown) - o.unknowns))
	o.unknowns = len(o.unknown)
}

// log appends entries to the order log and waits until all are acknowledged.
func (o *owner) log(ctx context.Context, events ...event.OrderEvent) error {
	acked := make(chan error, len(events))
	for i := range events {
		e := &events[i]
		if err := o.producer.Append(event.TopicOrders, o.partition, []byte(e.Account), event.Marshal(e), func(_ int64, err error) { acked <- err }); err != nil {
			return fmt.Errorf("appending to the order log: %w", err)
		}
	}
	for range events {
		select {
		case err := <-acked:
			if err != nil {
				return fmt.Errorf("appending to the order log: %w", err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for i := range events {
		o.role.metrics.orders[events[i].State].Inc()
	}
	return nil
}

package execution

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/execution/risk"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// decide handles one decision: what it comes to is appended to the order log, and
// logged is called once that is acknowledged (or nothing is to be done). It does
// not wait: decisions that arrive together are acknowledged together. The order
// counts for the limits of the next decision from here on; an append that fails
// ends the owner, and the next one reads what is in the log.
func (o *owner) decide(ctx context.Context, rec *bus.Record, logged func()) error {
	if event.TypeOf(rec.Value) == event.TypeEpoch { // another worker of the desk took over
		logged()
		o.free()
		return nil
	}
	from := event.Lineage{Topic: event.TopicDecisions, Partition: rec.Partition, Offset: rec.Offset}
	d, err := event.DecodeAs[*event.Decision](rec.Value)
	if err == nil && o.role.client.Partition(event.TopicOrders, []byte(d.Account)) != o.partition {
		err = fmt.Errorf("placing decision %s: account %q does not belong to partition %d", d.ID, d.Account, o.partition)
	}
	if err == nil {
		err = checkAction(d.Action)
	}
	if err != nil {
		err = o.bury(ctx, rec, from, err)
	} else {
		var taken bool
		if taken, err = o.judge(d, from, logged); taken {
			return err
		}
	}
	if err == nil {
		logged()
		o.free()
	}
	return err
}

// checkAction refuses an action that this build does not know: it may be an order.
func checkAction(a event.Action) error {
	switch a {
	case event.ActionLong, event.ActionShort, event.ActionFlat, event.ActionNone, event.ActionAbstain:
		return nil
	}
	return fmt.Errorf("action %d is none that this build knows", a)
}

// judge takes a decision through the limits and reports whether anything was
// appended for it.
func (o *owner) judge(d *event.Decision, from event.Lineage, logged func()) (taken bool, err error) {
	switch d.Action {
	case event.ActionLong, event.ActionShort, event.ActionFlat:
	default:
		return false, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.orders.has(event.ClientOrderID(d.ID, 0)) {
		o.role.metrics.skipped.Inc()
		return false, nil
	}
	acc := o.accounts[d.Account]
	if acc == nil {
		return true, o.refuse(d, "", &risk.Rejection{Limit: risk.UnknownAccount, Detail: fmt.Sprintf("account %q is none of the %d that are configured", d.Account, len(o.role.accounts))}, from, logged)
	}
	o.role.market.advance(d.Time) // a session is as late as its decisions, whichever process made them
	v := o.view(d, acc)
	passed, rejection := acc.gate.Check(d, v)
	if rejection != nil {
		return true, o.refuse(d, acc.cfg.Broker, rejection, from, logged)
	}
	return true, o.place(acc, d, v, passed, from, logged)
}

// crashSite names a place where tests let the process die.
type crashSite string

const (
	siteBeforeSubmitting crashSite = "before submitting is appended"
	siteSubmitting       crashSite = "submitting is acknowledged, the order not sent"
	siteSent             crashSite = "the broker has the order"
	siteFill             crashSite = "a fill is recorded, the order log does not know"
	siteLogged           crashSite = "the order log knows, the position does not"
)

// reach lets a test die at a site.
func (o *owner) reach(s crashSite) error {
	if o.role.crash == nil {
		return nil
	}
	return o.role.crash(s)
}

// view is what the limits are checked against, at this moment; o.mu is held.
func (o *owner) view(d *event.Decision, acc *account) risk.View {
	v := risk.View{
		Now: o.now(), Halted: o.role.board.blocked(d.Account, d.Venue, d.Symbol, true), ReduceOnly: o.role.board.blocked(d.Account, d.Venue, d.Symbol, false),
		Orders: o.begun(d.ID), Instrument: o.role.market.instrument(d.Venue, d.Symbol),
	}
	if d.Action != event.ActionFlat {
		v.Entered = o.orders.entered(d.SignalID, d.Account)
	}
	v.Quote, v.Trade, v.MeanMid = o.role.market.forRisk(d.Venue, d.Symbol, v.Now)
	var err error
	if refused := acc.broker.refused(); refused != nil {
		v.Halted = refused.Error()
	}
	v.Own = o.book.Qty(ledger.Key{Account: d.Account, Strategy: d.Strategy, Venue: d.Venue, Symbol: d.Symbol})
	if v.Position, err = o.book.Net(d.Account, d.Venue, d.Symbol); err != nil {
		v.Halted = fmt.Sprintf("the position cannot be told: %v", err)
	}
	v.Unknown = o.doubtfulLocked(d.Account, d.Venue, d.Symbol)
	for id := range o.unknown {
		if o.open[id].last.Account == d.Account && (v.Unknown == "" || id < v.Unknown) {
			v.Unknown = id
		}
	}
	o.eachAtWorkLocked(func(w *order) {
		if w.last.Account != d.Account || w.last.Venue != d.Venue || w.last.Symbol != d.Symbol {
			return
		}
		sums := []*event.Decimal{&v.WorkingBuy}
		if w.last.Side == event.Sell {
			sums[0] = &v.WorkingSell
		}
		if w.last.Strategy == d.Strategy && w.last.Side == d.Side {
			sums = append(sums, &v.OwnWorking)
		}
		if w.last.Leg != event.LegEntry && w.last.Side == d.Side {
			sums = append(sums, &v.ExitsWorking)
		}
		for _, sum := range sums {
			if *sum, err = ledger.Add(*sum, w.left(o.book.Proven(w.id()))); err != nil {
				v.Halted = fmt.Sprintf("the working orders cannot be added up: %v", err)
			}
		}
	})
	if v.DayPnL, err = o.book.DayPnL(acc.cfg.Name, v.Now, o.role.market.prices); err != nil {
		v.Halted = fmt.Sprintf("the day's profit cannot be told: %v", err)
	}
	return v
}

// eachAtWorkLocked calls f for each order that may still become a position: those that
// are not done, and those of which more is claimed than proven; o.mu is held.
func (o *owner) eachAtWorkLocked(f func(*order)) {
	for _, w := range o.open {
		f(w.order)
	}
	for id, d := range o.doubts {
		if o.open[id] == nil {
			f(d.order)
		}
	}
}

// begun counts the orders of a decision; o.mu is held.
func (o *owner) begun(decision event.ID) int {
	if o.orders.has(event.ClientOrderID(decision, 0)) {
		return 1
	}
	return 0
}

// put remembers an order and lets go of the oldest that are done; o.mu is held.
func (o *owner) put(ord *order) {
	o.orders.put(ord)
	for _, id := range o.orders.trim(func(old *order) bool { return old.state().Terminal() && o.doubts[old.id()] == nil }) {
		o.book.Forget(id)
	}
}

// refuse appends the one entry of an order that a limit refused.
func (o *owner) refuse(d *event.Decision, brokerName string, r *risk.Rejection, from event.Lineage, logged func()) error {
	e := refused(d, brokerName, r, o.now(), o.epoch, from)
	o.put(restored(&e))
	return o.post(&e, func() {
		o.role.metrics.rejections[r.Limit].Inc()
		logged()
		o.free()
	})
}

// place appends the order to the order log and, once that is acknowledged, leaves
// it to its account's sender.
func (o *owner) place(acc *account, d *event.Decision, v risk.View, passed risk.Order, from event.Lineage, logged func()) error {
	ord, e := newOrder(d, acc.cfg.Broker, passed, v.Now, o.epoch, from)
	if err := o.reach(siteBeforeSubmitting); err != nil {
		return err
	}
	acc.gate.Charge(e.Time, passed.Reducing)
	w := &working{order: ord, sending: true}
	o.put(ord)
	o.open[ord.id()] = w
	out := &outgoing{
		working: w, reducing: passed.Reducing, until: time.Now().Add(time.Duration(d.Deadline - v.Now)), judged: time.Now(),
		order: broker.Order{
			ClientOrderID: ord.id(), Venue: d.Venue, Symbol: d.Symbol, QuoteCurrency: v.Instrument.Quote, Side: d.Side, Type: event.Limit, TIF: passed.TIF,
			Qty: passed.Qty, LimitPrice: event.Some(passed.LimitPrice), PriceTick: v.Instrument.PriceTick, QtyStep: v.Instrument.QtyStep,
		},
	}
	return o.post(&e, func() {
		if d.SignalTime > 0 {
			o.role.metrics.tickToOrder.Observe(time.Duration(o.now() - d.SignalTime).Seconds())
		}
		logged()
		out.logged = time.Now()
		acc.outgoing <- out // never full: it has room for every slot
	})
}

// post appends one entry to the order log; acked is called once it is
// acknowledged, and must not block.
func (o *owner) post(e *event.OrderEvent, acked func()) error {
	state := e.State
	err := o.producer.Append(event.TopicOrders, o.partition, []byte(e.Account), event.Marshal(e), func(_ int64, err error) {
		if err != nil {
			o.fail(fmt.Errorf("appending to the order log: %w", err))
			return
		}
		o.role.metrics.orders[state].Inc()
		acked()
	})
	if err != nil {
		return fmt.Errorf("appending to the order log: %w", err)
	}
	return nil
}

// free gives back the slot of a decision that is done with.
func (o *owner) free() { <-o.slots }

// bury puts a decision that cannot be used into dead.
func (o *owner) bury(ctx context.Context, rec *bus.Record, from event.Lineage, why error) error {
	o.role.metrics.dead.Inc()
	o.role.env.Log.Error("burying a decision that cannot be used", "partition", rec.Partition, "offset", rec.Offset, "err", why)
	dead := &event.Dead{
		ID: event.DeadID("execution", from, rec.Value), Role: "execution", Reason: why.Error(), Key: slices.Clone(rec.Key), Value: slices.Clone(rec.Value), Time: o.now(), Lineage: from,
	}
	_, _, err := o.producer.Publish(ctx, event.TopicDead, fmt.Appendf(nil, "%s/%d", rec.Topic, rec.Partition), dead)
	return err
}

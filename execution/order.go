package execution

import (
	"fmt"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/execution/risk"
	"github.com/autohedge/autohedge/stream/event"
)

// Reasons that execution itself writes into the order log.
const (
	reasonSubmit      = "submit"      // the broker's answer to the order did not come
	reasonUnconfirmed = "unconfirmed" // the broker took it and then said nothing
	reasonLost        = "lost"        // the broker had it and does not know it any more
	reasonOverfill    = "overfill"    // the broker filled more than was ordered
	reasonNotFound    = "not_found"
	reasonUnproven    = "unproven"    // the broker claims more than its fills prove
	reasonWrittenOff  = "written_off" // an operator went on without the records that had it
	reasonLogStalled  = "log_stalled" // the order log took too long to take it
)

// order is the state machine of one order. It is pure: every method returns the
// entry to append to the order log and has moved the state to it.
type order struct {
	last event.OrderEvent
	// reported is the Seq of the newest report that was taken over; it is not in the
	// log.
	reported uint64
}

// newOrder begins an order that passed the limits: the entry that must be
// acknowledged before the order is sent.
func newOrder(d *event.Decision, brokerName string, o risk.Order, now int64, epoch uint32, from event.Lineage) (*order, event.OrderEvent) {
	e := begin(d, brokerName, now, epoch, from)
	e.State, e.Qty, e.Detail = event.OrderSubmitting, o.Qty, o.Detail
	e.Type, e.TIF, e.LimitPrice = event.Limit, o.TIF, event.Some(o.LimitPrice)
	return &order{last: e}, e
}

// refused is the only entry of an order that a limit refused.
func refused(d *event.Decision, brokerName string, r *risk.Rejection, now int64, epoch uint32, from event.Lineage) event.OrderEvent {
	e := begin(d, brokerName, now, epoch, from)
	e.State, e.Reason, e.Detail = event.OrderRiskRejected, r.Limit, r.Detail
	return e
}

func begin(d *event.Decision, brokerName string, now int64, epoch uint32, from event.Lineage) event.OrderEvent {
	id := event.ClientOrderID(d.ID, 0)
	leg := event.LegEntry
	if d.Action == event.ActionFlat {
		leg = event.LegFlatten
	}
	e := event.OrderEvent{
		ID: event.OrderEventID(id, 0), Leg: leg, ClientOrderID: id, Broker: brokerName, DecisionID: d.ID, SignalID: d.SignalID,
		Account: d.Account, Strategy: d.Strategy, Venue: d.Venue, Symbol: d.Symbol, Side: d.Side, Type: d.Type, TIF: d.TIF,
		Qty: d.Qty.Decimal, LimitPrice: d.LimitPrice, Time: now, SignalTime: d.SignalTime, RefPrice: d.RefPrice, Epoch: epoch, Lineage: from,
	}
	if leg == event.LegEntry {
		e.StopBps, e.TargetBps, e.Horizon = d.StopBps, d.TargetBps, d.Horizon
	}
	return e
}

// restored continues an order from its last entry.
func restored(e *event.OrderEvent) *order { return &order{last: *e} }

func (o *order) id() string              { return o.last.ClientOrderID }
func (o *order) state() event.OrderState { return o.last.State }

// left is the quantity that may still become a position beyond what fills prove:
// what is not filled, or what the broker claims beyond them, the larger.
func (o *order) left(proven event.Decimal) event.Decimal {
	until := o.claimed()
	if !o.state().Terminal() && until.Cmp(o.last.Qty) < 0 {
		until = o.last.Qty
	}
	l, err := ledger.Sub(until, proven)
	if err != nil || l.Sign() < 0 {
		return event.Decimal{}
	}
	return l
}

// settled reports whether nothing more is to come of the order: it is done and its fills
// prove all that it claims.
func (o *order) settled(proven event.Decimal) bool {
	return o.state().Terminal() && !o.last.ClaimedQty.Valid && proven.Cmp(o.last.FilledQty) == 0
}

// claimed is the filled quantity that the order log claims.
func (o *order) claimed() event.Decimal {
	if c := o.last.ClaimedQty; c.Valid && c.Decimal.Cmp(o.last.FilledQty) > 0 {
		return c.Decimal
	}
	return o.last.FilledQty
}

// stamp is what the caller knows of the moment of an entry.
type stamp struct {
	now   int64
	epoch uint32
}

// next appends an entry in the given state.
func (o *order) next(s event.OrderState, reason, detail string, at stamp) event.OrderEvent {
	e := o.last
	e.Seq++
	e.ID = event.OrderEventID(e.ClientOrderID, e.Seq)
	e.State, e.Reason, e.Detail = s, reason, detail
	e.Time, e.Epoch, e.BrokerTime = at.now, at.epoch, 0
	e.Lineage.K = e.Seq
	o.last = e
	return e
}

// unknown notes that the outcome is not known; a state that is already so, or
// terminal, stays.
func (o *order) unknown(reason, detail string, at stamp) (event.OrderEvent, bool) {
	if o.state() == event.OrderUnknown || o.state().Terminal() {
		return event.OrderEvent{}, false
	}
	return o.next(event.OrderUnknown, reason, detail, at), true
}

// notPlaced notes that the broker never had the order; only an order that it
// never confirmed can be so.
func (o *order) notPlaced(reason, detail string, at stamp) (event.OrderEvent, bool) {
	if !o.unconfirmed() {
		return event.OrderEvent{}, false
	}
	return o.next(event.OrderNotPlaced, reason, detail, at), true
}

// writtenOff ends an order that an operator went on without: what its fills prove
// is what it came to.
func (o *order) writtenOff(proven, notional event.Decimal, detail string, at stamp) event.OrderEvent {
	state := o.state()
	if !state.Terminal() {
		state = event.OrderCanceled
	}
	e := o.next(state, reasonWrittenOff, detail, at)
	e.FilledQty, e.FilledNotional, e.ClaimedQty = proven, notional, event.NullDecimal{}
	o.last = e
	return e
}

// unconfirmed reports whether the broker has never said that it has the order.
func (o *order) unconfirmed() bool {
	return (o.state() == event.OrderSubmitting || o.state() == event.OrderUnknown) && o.last.BrokerOrderID == ""
}

// adopt takes over what the broker reports and returns the entries that lead
// there; reports are absolute, so that one which tells nothing new gives none.
// Fills are counted once they are in the log of fills, whatever state the broker
// calls the order in; a terminal state changes only by fills that come late. While
// the broker claims more than its fills prove, the order stays open and says so.
func (o *order) adopt(r *broker.Report, at stamp) ([]event.OrderEvent, error) {
	claimed, err := r.Claimed(o.last.Qty)
	if err != nil {
		return nil, err
	}
	o.reported = max(o.reported, r.Seq)
	var out []event.OrderEvent
	add := func(s event.OrderState, reason, detail string) *event.OrderEvent {
		e := o.next(s, reason, detail, at)
		e.BrokerOrderID, e.BrokerTime = r.BrokerOrderID, r.Time
		e.ClaimedQty = event.NullDecimal{}
		o.last = e
		out = append(out, e)
		return &out[len(out)-1]
	}
	waiting := o.state() == event.OrderSubmitting || o.state() == event.OrderUnknown
	if r.State == event.OrderRejected && waiting && claimed.IsZero() {
		add(event.OrderRejected, r.Reason, r.Detail)
		return out, nil
	}
	said := o.last.ClaimedQty
	if waiting && o.last.FilledQty.IsZero() {
		add(event.OrderAccepted, "", "")
		waiting, said = false, event.NullDecimal{}
	}
	var qty, notional event.Decimal
	for i := range r.Fills {
		f := &r.Fills[i]
		n, err := ledger.Mul(f.Price, f.Qty)
		if err == nil {
			if qty, err = ledger.Add(qty, f.Qty); err == nil {
				notional, err = ledger.Add(notional, n)
			}
		}
		if err != nil {
			return out, fmt.Errorf("adding up the fills of order %s: %w", o.id(), err)
		}
		if qty.Cmp(o.last.FilledQty) <= 0 {
			continue
		}
		state, reason, detail := event.OrderPartiallyFilled, "", ""
		switch c := qty.Cmp(o.last.Qty); {
		case c > 0:
			state, reason, detail = event.OrderFilled, reasonOverfill, fmt.Sprintf("filled %s of %s", qty, o.last.Qty)
		case c == 0:
			state = event.OrderFilled
		case o.state().Terminal(): // a late one
			state, reason, detail = o.state(), o.last.Reason, o.last.Detail
		}
		e := add(state, reason, detail)
		e.FilledQty, e.FilledNotional, e.BrokerTime = qty, notional, f.Time
		o.last = *e
		waiting, said = false, event.NullDecimal{}
	}
	if claimed.Cmp(o.last.FilledQty) > 0 {
		if !waiting && said.Valid && said.Decimal.Cmp(claimed) == 0 {
			return out, nil
		}
		e := add(o.unprovenState(), reasonUnproven, fmt.Sprintf("the broker claims that %s of %s is filled, its fills prove %s", claimed, o.last.Qty, o.last.FilledQty))
		e.ClaimedQty = event.Some(claimed)
		o.last = *e
		return out, nil
	}
	switch {
	case o.state().Terminal():
		if said.Valid { // which it does not claim any more
			add(o.state(), "", "")
		}
	case r.State.Terminal():
		add(r.State, r.Reason, r.Detail)
	case waiting || said.Valid: // an order with fills whose state was lost, or whose fills were, for a while
		state := event.OrderPartiallyFilled
		if o.last.FilledQty.IsZero() {
			state = event.OrderAccepted
		}
		add(state, "", "")
	}
	return out, nil
}

// unprovenState is the state of an order of which fills are missing: it is not done,
// whatever the broker calls it, unless it was before.
func (o *order) unprovenState() event.OrderState {
	switch {
	case o.state().Terminal():
		return o.state()
	case o.last.FilledQty.IsZero():
		return event.OrderAccepted
	}
	return event.OrderPartiallyFilled
}

package execution

import (
	"fmt"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/execution/exits"
	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/event"
)

// exit is one exit on its way to the order log.
type exit struct {
	lot        *exits.Lot
	acc        *account
	instrument *event.Instrument
	trigger    trigger
	attempt    uint32
	at         *top
	now        int64
	band       uint32

	qty   event.Decimal
	price event.NullDecimal
	cut   string // why it is less than the lot
}

// sizeLocked fits an exit to what there is to reduce and to the venue's steps. It
// returns why nothing of it can be sent; where other orders already take all, neither
// that nor a quantity.
func (o *owner) sizeLocked(x *exit) (waitKind, string, error) {
	l, in := x.lot, x.instrument
	side := l.Closing()
	h, err := o.holdingLocked(l.Key, side)
	if err != nil {
		return "", "", err
	}
	idle := h
	idle.OwnWorking, idle.NetWorking = event.Decimal{}, event.Decimal{}
	most, cut, err := exits.Fit(side, l.Qty, idle)
	if err != nil {
		return "", "", err
	}
	if most.Sign() <= 0 {
		return waitFlip, cut, nil
	}
	if x.qty, x.cut, err = exits.Fit(side, l.Qty, h); err != nil {
		return "", "", err
	}
	if x.qty.Sign() <= 0 {
		return "", "", nil
	}
	q := x.at.forExits()
	if x.price = exits.Limit(side, &q, x.band, in.PriceTick); !x.price.Valid {
		return waitQuote, fmt.Sprintf("bid %s and ask %s give no price for a %s", q.Bid, q.Ask, side), nil
	}
	fits := x.qty
	if x.qty, err = floorStep(fits, in.QtyStep); err != nil {
		return "", "", err
	}
	worth, err := ledger.Mul(x.price.Decimal, x.qty)
	if err != nil {
		return "", "", err
	}
	switch {
	case x.qty.Sign() <= 0 || in.MinQty.Valid && x.qty.Cmp(in.MinQty.Decimal) < 0:
		return waitDust, fmt.Sprintf("%s in steps of %s is %s, at least %s is needed", fits, in.QtyStep, x.qty, in.MinQty), nil
	case in.MinNotional.Valid && worth.Cmp(in.MinNotional.Decimal) < 0:
		return waitDust, fmt.Sprintf("%s is worth %s %s, at least %s is needed", x.qty, worth, in.Quote, in.MinNotional), nil
	}
	return "", "", nil
}

// floorStep returns the largest multiple of step that is not above v; a step of 0 is none.
func floorStep(v, step event.Decimal) (event.Decimal, error) {
	if step.Sign() <= 0 {
		return v, nil
	}
	_, rest, err := v.Money().QuoRem(step.Money())
	if err != nil {
		return v, fmt.Errorf("rounding %s to steps of %s: %w", v, step, err)
	}
	r, err := event.FromMoney(rest)
	if err != nil {
		return v, fmt.Errorf("rounding %s to steps of %s: %w", v, step, err)
	}
	f, err := ledger.Sub(v, r)
	return ledger.Trim(f), err
}

// holdingLocked is what orders of a side could reduce of a position: what exits and flat
// decisions that work, or whose outcome is not known, do not take; o.mu is held. An entry
// of that side means to go there, and may rest for long.
func (o *owner) holdingLocked(k ledger.Key, side event.Side) (h exits.Holding, err error) {
	h.Own = o.book.Qty(k)
	if h.Net, err = o.book.Net(k.Account, k.Venue, k.Symbol); err != nil {
		return h, err
	}
	o.eachAtWorkLocked(func(w *order) {
		if w.last.Account != k.Account || w.last.Venue != k.Venue || w.last.Symbol != k.Symbol || w.last.Side != side || w.last.Leg == event.LegEntry || err != nil {
			return
		}
		left := w.left(o.book.Proven(w.id()))
		if h.NetWorking, err = ledger.Add(h.NetWorking, left); err == nil && w.last.Strategy == k.Strategy {
			h.OwnWorking, err = ledger.Add(h.OwnWorking, left)
		}
	})
	return h, err
}

// exitEntry is the first entry of an exit in the order log.
func (o *owner) exitEntry(x *exit) event.OrderEvent {
	l := x.lot
	id := event.ExitOrderID(l.Decision, x.trigger.leg, x.attempt)
	e := event.OrderEvent{
		ID: event.OrderEventID(id, 0), ClientOrderID: id, Broker: x.acc.cfg.Broker, DecisionID: l.Decision, SignalID: l.Signal,
		Account: l.Key.Account, Strategy: l.Key.Strategy, Venue: l.Key.Venue, Symbol: l.Key.Symbol, Side: l.Closing(), Type: event.Limit, TIF: event.IOC,
		Qty: l.Qty, LimitPrice: x.price, Time: x.now, SignalTime: x.trigger.at, Epoch: o.epoch, Lineage: x.trigger.from,
		Leg: x.trigger.leg, Attempt: x.attempt, Cause: x.trigger.cause, Lot: l.ID,
	}
	e.RefPrice = x.at.quote.Bid
	if e.Side == event.Buy {
		e.RefPrice = x.at.quote.Ask
	}
	if e.Lineage.Topic == "" {
		e.Lineage = x.at.from
	}
	if e.SignalTime == 0 {
		e.SignalTime = x.now
	}
	return e
}

// recordWaitLocked writes into the order log, once, that an exit would do more than
// reduce, or that a lot is less than the venue takes.
func (o *owner) recordWaitLocked(x *exit, kind waitKind, detail string) error {
	if kind != waitFlip && kind != waitDust {
		return nil
	}
	w := o.waitLocked(x.lot.ID)
	if w.recorded == string(kind)+detail {
		return nil
	}
	w.recorded = string(kind) + detail
	e := o.exitEntry(x)
	e.State, e.Reason, e.Detail = event.OrderRiskRejected, string(kind), detail
	o.put(restored(&e))
	o.lots.Order(&e)
	return o.post(&e, func() {})
}

// placeExitLocked appends an exit to the order log and, once that is acknowledged,
// leaves it to its account's sender.
func (o *owner) placeExitLocked(x *exit) error {
	e := o.exitEntry(x)
	e.State, e.Qty = event.OrderSubmitting, x.qty
	e.Detail = fmt.Sprintf("attempt %d, %d bps beyond the touch of %s", x.attempt, x.band, e.RefPrice)
	if x.cut != "" {
		e.Reason, e.Detail = exits.WouldFlip, e.Detail+"; "+x.cut
	}
	if err := o.reach(siteBeforeSubmitting); err != nil {
		return err
	}
	ord := &order{last: e}
	w := &working{order: ord, sending: true}
	o.put(ord)
	o.lots.Order(&e)
	o.open[ord.id()] = w
	out := &outgoing{
		working: w, reducing: true, exit: true, until: time.Now().Add(max(x.acc.cfg.Exits.RetryInterval, time.Second)), judged: time.Now(),
		order: broker.Order{
			ClientOrderID: ord.id(), Venue: e.Venue, Symbol: e.Symbol, QuoteCurrency: x.instrument.Quote, Side: e.Side, Type: e.Type, TIF: e.TIF,
			Qty: e.Qty, LimitPrice: e.LimitPrice, PriceTick: x.instrument.PriceTick, QtyStep: x.instrument.QtyStep,
		},
	}
	o.role.metrics.exits[e.Leg].Inc()
	return o.post(&e, func() {
		out.logged = time.Now()
		x.acc.exits <- out // never full: it has room for every slot
	})
}

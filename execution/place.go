package execution

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/execution/risk"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// decide handles one decision. When it returns without error the decision is
// either in the order log, or in dead, or wants nothing.
func (o *owner) decide(ctx context.Context, rec *bus.Record) error {
	from := event.Lineage{Topic: event.TopicDecisions, Partition: rec.Partition, Offset: rec.Offset}
	d, err := event.DecodeAs[*event.Decision](rec.Value)
	if err == nil && o.role.client.Partition(event.TopicOrders, []byte(d.Account)) != o.partition {
		err = fmt.Errorf("placing decision %s: account %q does not belong to partition %d", d.ID, d.Account, o.partition)
	}
	if err != nil {
		return o.bury(ctx, rec, from, err)
	}
	switch d.Action {
	case event.ActionLong, event.ActionShort, event.ActionFlat:
	default:
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	id := event.ClientOrderID(d.ID, 0)
	if o.orders[id] != nil {
		o.role.metrics.skipped.Inc()
		return nil
	}
	acc := o.accounts[d.Account]
	if acc == nil {
		return o.refuse(ctx, d, "", &risk.Rejection{Limit: risk.UnknownAccount, Detail: fmt.Sprintf("account %q is none of the %d that are configured", d.Account, len(o.role.accounts))}, from)
	}
	passed, rejection := acc.gate.Check(d, o.view(d, acc))
	if rejection != nil {
		return o.refuse(ctx, d, acc.cfg.Broker, rejection, from)
	}
	return o.place(ctx, acc, d, passed, from)
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

// view is what the limits are checked against, at this moment.
func (o *owner) view(d *event.Decision, acc *account) risk.View {
	v := risk.View{
		Now: o.now(), Halted: o.role.board.halted(d.Account, d.Venue, d.Symbol),
		Orders: o.children[d.ID], Instrument: o.role.market.instrument(d.Venue, d.Symbol),
	}
	if top, ok := o.role.market.last(d.Venue, d.Symbol); ok {
		v.Quote = top.forRisk()
		// The day's profit is judged at the newest marks.
		for _, k := range o.book.Keys(true) {
			if t, ok := o.role.market.last(k.Venue, k.Symbol); ok {
				if err := o.book.Mark(k, t.forLedger()); err != nil {
					o.role.env.Log.Warn("keeping the last mark", "symbol", k.Symbol, "err", err)
				}
			}
		}
	}
	var err error
	v.Own = o.book.Qty(ledger.Key{Account: d.Account, Strategy: d.Strategy, Venue: d.Venue, Symbol: d.Symbol})
	if v.Position, err = o.book.Net(d.Account, d.Venue, d.Symbol); err != nil {
		v.Halted = fmt.Sprintf("the position cannot be told: %v", err)
	}
	for _, id := range slices.Sorted(maps.Keys(o.open)) {
		w := o.open[id]
		if w.last.Account != d.Account {
			continue
		}
		if w.state() == event.OrderUnknown {
			v.Unknown = id
		}
		if w.last.Venue != d.Venue || w.last.Symbol != d.Symbol {
			continue
		}
		sums := []*event.Decimal{&v.WorkingBuy}
		if w.last.Side == event.Sell {
			sums[0] = &v.WorkingSell
		}
		if w.last.Strategy == d.Strategy && w.last.Side == d.Side {
			sums = append(sums, &v.OwnWorking)
		}
		for _, sum := range sums {
			if *sum, err = ledger.Add(*sum, w.left()); err != nil {
				v.Halted = fmt.Sprintf("the working orders cannot be added up: %v", err)
			}
		}
	}
	if v.Instrument != nil {
		if v.DayPnL, err = o.book.DayPnL(acc.cfg.Name, v.Instrument.Quote, v.Now); err != nil {
			v.DayPnL = event.NullDecimal{}
		}
	}
	return v
}

// refuse writes the one entry of an order that a limit refused.
func (o *owner) refuse(ctx context.Context, d *event.Decision, brokerName string, r *risk.Rejection, from event.Lineage) error {
	e := refused(d, brokerName, r, o.now(), o.epoch, from)
	if err := o.log(ctx, e); err != nil {
		return err
	}
	o.orders[e.ClientOrderID] = restored(&e)
	o.role.metrics.rejections[r.Limit].Inc()
	return nil
}

// place writes the order to the order log and, once that is acknowledged, sends
// it: once, whatever happens.
func (o *owner) place(ctx context.Context, acc *account, d *event.Decision, passed risk.Order, from event.Lineage) error {
	ord, e := newOrder(d, acc.cfg.Broker, passed, o.now(), o.epoch, from)
	if err := o.reach(siteBeforeSubmitting); err != nil {
		return err
	}
	if err := o.log(ctx, e); err != nil {
		return err // in the log or not: the next start asks the broker
	}
	acked := o.now()
	if d.SignalTime > 0 {
		o.role.metrics.tickToOrder.Observe(time.Duration(acked - d.SignalTime).Seconds())
	}
	acc.gate.Charge(e.Time)
	o.children[d.ID]++
	w := &working{order: ord, sentAt: time.Now()}
	o.orders[ord.id()], o.open[ord.id()] = ord, w

	in := o.role.market.instrument(d.Venue, d.Symbol)
	out := broker.Order{
		ClientOrderID: ord.id(), Venue: d.Venue, Symbol: d.Symbol, Side: d.Side, Type: d.Type, TIF: d.TIF, Qty: passed.Qty, LimitPrice: passed.LimitPrice,
	}
	if in != nil {
		out.QuoteCurrency, out.PriceTick = in.Quote, in.PriceTick
	}
	if err := o.reach(siteSubmitting); err != nil {
		return err
	}
	var sent error
	halted := o.role.board.send(d.Account, d.Venue, d.Symbol, func() {
		// Losing the partition must not cut a request in two.
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.role.cfg.AckTimeout)
		defer cancel()
		sent = acc.broker.Submit(sctx, out)
	})
	if halted != "" {
		e, ok := ord.notPlaced(risk.KillSwitch, "halted before it was sent: "+halted, o.at())
		return o.append(ctx, w, ok, e)
	}
	if err := o.reach(siteSent); err != nil {
		return err
	}
	if sent != nil {
		if err := o.lose(ctx, w, reasonSubmit, sent.Error()); err != nil {
			return err
		}
		return o.ask(ctx, w)
	}
	if acc.profile.Immediate {
		return o.ask(ctx, w)
	}
	return nil
}

// lose notes that an order's outcome is unknown, which blocks new risk.
func (o *owner) lose(ctx context.Context, w *working, reason, detail string) error {
	e, ok := w.unknown(reason, detail, o.at())
	if ok {
		o.role.env.Log.Error("an order's outcome is unknown, its account takes no new risk", "account", w.last.Account, "order", w.id(), "reason", reason, "detail", detail)
	}
	return o.append(ctx, w, ok, e)
}

// ask asks the broker about an order and takes over what it says.
func (o *owner) ask(ctx context.Context, w *working) error {
	acc := o.accounts[w.last.Account]
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
	e, ok := w.notPlaced(reasonNotFound, "the broker never had it", o.at())
	return o.append(ctx, w, ok, e)
}

// take records what a report tells: first the fills, then the order's entries,
// then the positions, each acknowledged before the next, so that a crash in
// between leaves nothing that the next start could not complete.
func (o *owner) take(ctx context.Context, w *working, r *broker.Report) error {
	currency := ""
	if in := o.role.market.instrument(w.last.Venue, w.last.Symbol); in != nil {
		currency = in.Quote
	}
	type recorded struct {
		key  ledger.Key
		from event.Lineage
	}
	var positions []recorded
	for i := range r.Fills {
		f := fillOf(w.order, r, i)
		if o.book.Seen(f.ID) {
			continue
		}
		partition, offset, err := o.producer.Publish(ctx, event.TopicFills, []byte(f.Account), f)
		if err != nil {
			return err
		}
		if currency == "" {
			currency = f.FeeCurrency
		}
		if _, err := o.book.Apply(f, currency); err != nil {
			return component.Fatal(err)
		}
		if err := o.reach(siteFill); err != nil {
			return err
		}
		o.role.metrics.fills.Inc()
		positions = append(positions, recorded{
			ledger.Key{Account: f.Account, Strategy: f.Strategy, Venue: f.Venue, Symbol: f.Symbol},
			event.Lineage{Topic: event.TopicFills, Partition: partition, Offset: offset},
		})
	}
	events, err := w.adopt(r, o.at())
	if err != nil {
		return component.Fatal(err)
	}
	if err := o.log(ctx, events...); err != nil {
		return err
	}
	o.moved(w)
	if len(events) > 0 {
		if err := o.reach(siteLogged); err != nil {
			return err
		}
	}
	for _, e := range events {
		if e.Reason == reasonOverfill {
			if _, err := o.role.board.halt(ctx, scopeAccount+e.Account, "execution", fmt.Sprintf("order %s: %s", e.ClientOrderID, e.Detail)); err != nil {
				return err
			}
		}
	}
	for _, p := range positions {
		if err := o.record(ctx, p.key, p.from); err != nil {
			return err
		}
	}
	return nil
}

// fillOf is the i-th fill of a report as an event.
func fillOf(ord *order, r *broker.Report, i int) *event.Fill {
	e, x := &ord.last, &r.Fills[i]
	from := e.Lineage
	from.K = uint32(i)
	return &event.Fill{
		ID: event.FillID(e.Broker, e.Account, x.ExecID), ExecID: x.ExecID, ClientOrderID: e.ClientOrderID, BrokerOrderID: r.BrokerOrderID, Broker: e.Broker,
		DecisionID: e.DecisionID, Account: e.Account, Strategy: e.Strategy, Venue: e.Venue, Symbol: e.Symbol, Side: e.Side,
		Price: x.Price, Qty: x.Qty, Liquidity: x.Liquidity, Fee: x.Fee, FeeCurrency: x.FeeCurrency, FeeQuote: x.FeeQuote, QuoteID: x.QuoteID,
		Time: x.Time, Lineage: from,
	}
}

// append writes an entry that the state machine gave, if it gave one.
func (o *owner) append(ctx context.Context, w *working, given bool, e event.OrderEvent) error {
	if !given {
		return nil
	}
	if err := o.log(ctx, e); err != nil {
		return err
	}
	o.moved(w)
	return nil
}

// moved keeps the list of open orders and the gauge after a change of state.
func (o *owner) moved(w *working) {
	if w.state().Terminal() {
		delete(o.open, w.id())
	} else {
		o.open[w.id()] = w
	}
	n := 0
	for _, x := range o.open {
		if x.state() == event.OrderUnknown {
			n++
		}
	}
	o.role.metrics.unknown.Add(float64(n - o.unknowns))
	o.unknowns = n
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

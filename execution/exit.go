package execution

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/execution/exits"
	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/event"
)

// Lots are closed at their stop, target or horizon (design.md 4.14), by orders of their
// own: immediate or cancel limits beyond the touch, logged first, at most one at a time
// for each lot, again with a wider band while the market fills nothing. Which lots there
// are and how often each was tried follows from the order log and the fills; what a
// quote triggered is in no log before its exit is, and a restart looks at the market
// again.

// waitKind is why an exit that was triggered cannot be sent now.
type waitKind string

const (
	waitHalted     waitKind = "halted"
	waitAccount    waitKind = "account" // refused, or not configured any more
	waitInstrument waitKind = "instrument"
	waitQuote      waitKind = "quote"
	waitRate       waitKind = "rate"
	waitFlip       waitKind = exits.WouldFlip
	waitDust       waitKind = exits.Dust
)

var waitKinds = []waitKind{waitHalted, waitAccount, waitInstrument, waitQuote, waitRate, waitFlip, waitDust}

// exitWait is a lot whose exit waits.
type exitWait struct {
	kind     waitKind
	detail   string
	recorded string // of the order log's last entry of it
}

// exitState is what an owner remembers of exits beside the logs; o.mu guards it.
type exitState struct {
	waits map[string]*exitWait // by lot
	sent  map[string][]int64   // when exits were sent in the last second, by account
	over  bool                 // a drain: none is sent any more
	shown map[waitKind]int     // as the gauges have it
	lots  int
}

func newExitState() exitState {
	return exitState{waits: make(map[string]*exitWait), sent: make(map[string][]int64), shown: make(map[waitKind]int)}
}

// show sets the gauges to what is there, as the difference to what was.
func (s *exitState) show(m *metrics, lots int) {
	n := make(map[waitKind]int)
	for _, w := range s.waits {
		if w.kind != "" {
			n[w.kind]++
		}
	}
	for _, k := range waitKinds {
		m.waiting[k].Add(float64(n[k] - s.shown[k]))
	}
	m.lots.Add(float64(lots - s.lots))
	s.shown, s.lots = n, lots
}

// close takes the owner out of the gauges.
func (s *exitState) close(m *metrics) {
	clear(s.waits)
	s.show(m, 0)
}

// armAll begins to watch the market for the lots that a restart found.
func (o *owner) armAll() {
	o.mu.Lock()
	for _, k := range o.lots.Keys() {
		o.armLocked(k)
	}
	o.mu.Unlock()
	o.role.market.watch(o.watch)
}

// armLocked takes the lots of a position over into the watch; o.mu is held.
func (o *owner) armLocked(k ledger.Key) {
	tick := event.Decimal{}
	if in := o.role.market.instrument(k.Venue, k.Symbol); in != nil {
		tick = in.PriceTick
	}
	o.watch.arm(k, o.accounts[k.Account], o.lots.Of(k), tick)
}

// closesLots sends the exits of lots that quotes or time triggered, until ctx ends.
func (o *owner) closesLots(ctx context.Context) error {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-o.watch.work:
		}
		if err := o.closeLots(ctx); err != nil {
			return err
		}
	}
}

// lastExits sends what was triggered up to the end of market data, and then none any
// more: a drain waits for what was sent.
func (o *owner) lastExits(ctx context.Context) error {
	if err := o.closeLots(ctx); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.exits.over = true
	return nil
}

// closeLots looks at every lot once.
func (o *owner) closeLots(ctx context.Context) error {
	halts := make(map[string]string) // why, by account
	err := o.closeLotsOnce(halts)
	for _, account := range slices.Sorted(maps.Keys(halts)) {
		o.role.env.Log.Error("halting an account whose exit the market does not fill; it is tried on", "account", account, "why", halts[account])
		if err := o.haltAccount(ctx, account, halts[account]); err != nil {
			return err
		}
	}
	return err
}

func (o *owner) closeLotsOnce(halts map[string]string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.exits.over {
		return nil
	}
	now := o.now()
	there := make(map[string]bool)
	for _, k := range o.lots.Keys() {
		var last *top
		if t, ok := o.role.market.last(k.Venue, k.Symbol); ok {
			last = &t
		}
		if in := o.role.market.instrument(k.Venue, k.Symbol); in != nil {
			if tick, armed := o.watch.tickOf(k); armed && tick.Cmp(in.PriceTick) != 0 {
				o.armLocked(k)
			}
		}
		o.watch.look(k, last)
		for _, l := range o.lots.Of(k) {
			there[l.ID] = true
			if !l.Exits() {
				continue
			}
			kind, detail, err := o.closeLotLocked(l, last, now, halts)
			if err != nil {
				return err
			}
			o.noteWaitLocked(l, kind, detail)
		}
	}
	o.lots.Prune(func(lot string) bool {
		entry := o.orders.of(lot)
		return entry == nil || entry.settled(o.book.Proven(lot))
	})
	maps.DeleteFunc(o.exits.waits, func(lot string, _ *exitWait) bool { return !there[lot] })
	o.exits.show(o.role.metrics, len(there))
	return nil
}

// noteWaitLocked keeps why a lot waits, and logs it when that is news.
func (o *owner) noteWaitLocked(l *exits.Lot, kind waitKind, detail string) {
	w := o.exits.waits[l.ID]
	if w == nil {
		if kind == "" {
			return
		}
		w = &exitWait{}
		o.exits.waits[l.ID] = w
	}
	if kind != "" && kind != w.kind {
		o.role.env.Log.Error("keeping a lot open whose exit cannot be sent now", "account", l.Key.Account, "strategy", l.Key.Strategy, "symbol", l.Key.Symbol, "lot", l.ID, "qty", l.Qty.String(),
			"waits_for", string(kind), "why", detail)
	}
	w.kind, w.detail = kind, detail
}

// triggerLocked returns what closes a lot: what the order log says that did, or what the
// watch saw.
func (o *owner) triggerLocked(l *exits.Lot, tries exits.Tries) (trigger, bool) {
	if tries.Begun > 0 {
		return trigger{leg: tries.Leg, cause: tries.Cause}, true
	}
	return o.watch.triggered(l.ID)
}

// closeLotLocked sends an exit of a lot that was triggered, if none works and it is
// time. It returns why the exit cannot be sent, or nothing.
func (o *owner) closeLotLocked(l *exits.Lot, last *top, now int64, halts map[string]string) (waitKind, string, error) {
	tries := o.lots.Tries(l.ID)
	why, is := o.triggerLocked(l, tries)
	if !is {
		return "", "", nil
	}
	acc := o.accounts[l.Key.Account]
	if acc == nil {
		return waitAccount, "the account is not configured any more", nil
	}
	cfg := &acc.cfg.Exits
	if exits.Exhausted(cfg.SlippageBps, o.mostBand(acc), tries.Misses) && o.role.board.blocked(l.Key.Account, l.Key.Venue, l.Key.Symbol, false) == "" {
		halts[l.Key.Account] = fmt.Sprintf("the %s of lot %s, %s %s %s, was tried %d times, the last time %d bps beyond the touch, and nothing filled",
			why.leg, l.ID, l.Side, l.Qty, l.Key.Symbol, tries.Begun, o.mostBand(acc))
	}
	if tries.Begun > 0 && now-tries.BegunAt < int64(cfg.RetryInterval) {
		return o.stillWaitsLocked(l)
	}
	if refused := acc.refusal(); refused != "" {
		return waitAccount, refused, nil
	}
	if halted := o.role.board.blocked(l.Key.Account, l.Key.Venue, l.Key.Symbol, true); halted != "" {
		return waitHalted, halted, nil
	}
	for _, w := range o.open {
		if w.last.Lot == l.ID {
			return "", "", nil // one at a time
		}
	}
	in := o.role.market.instrument(l.Key.Venue, l.Key.Symbol)
	if in == nil {
		return waitInstrument, fmt.Sprintf("%s is not known on %s", l.Key.Symbol, l.Key.Venue), nil
	}
	at, wrong := o.watch.priced(l.Key, acc, last, now)
	if at == nil {
		return waitQuote, wrong, nil
	}
	sent := slices.DeleteFunc(o.exits.sent[acc.cfg.Name], func(t int64) bool { return t <= now-int64(time.Second) })
	o.exits.sent[acc.cfg.Name] = sent
	if len(sent) >= cfg.OrdersPerSecond {
		return waitRate, fmt.Sprintf("%d exits within 1s, at most %d are allowed", len(sent), cfg.OrdersPerSecond), nil
	}
	x := &exit{lot: l, acc: acc, instrument: in, trigger: why, attempt: o.nextAttemptLocked(l, why.leg, tries), at: at, now: now, band: exits.Band(cfg.SlippageBps, o.mostBand(acc), tries.Misses)}
	kind, detail, err := o.sizeLocked(x)
	if err != nil {
		return "", "", err
	}
	if kind != "" {
		return kind, detail, o.recordWaitLocked(x, kind, detail)
	}
	if x.qty.Sign() <= 0 {
		return "", "", nil // orders that work take it
	}
	select {
	case o.exitSlots <- struct{}{}:
	default:
		return waitRate, fmt.Sprintf("%d exits are on their way", cap(o.exitSlots)), nil
	}
	o.exits.sent[acc.cfg.Name] = append(sent, now)
	return "", "", o.placeExitLocked(x)
}

// refusal says why an account is refused, or nothing.
func (a *account) refusal() string {
	if err := a.broker.refused(); err != nil {
		return err.Error()
	}
	return ""
}

// stillWaitsLocked is what a lot waited for when it was looked at last.
func (o *owner) stillWaitsLocked(l *exits.Lot) (waitKind, string, error) {
	if w := o.exits.waits[l.ID]; w != nil {
		return w.kind, w.detail, nil
	}
	return "", "", nil
}

// mostBand is the bound of an account's exits: no further than the band of prices.
func (o *owner) mostBand(acc *account) uint32 {
	most := acc.cfg.Exits.MaxSlippageBps
	if collar := acc.cfg.Limits.CollarBps.Float64(); collar < float64(most) {
		most = uint32(collar)
	}
	return max(most, acc.cfg.Exits.SlippageBps)
}

// nextAttemptLocked is the number of the next exit of a lot: one that no order has.
func (o *owner) nextAttemptLocked(l *exits.Lot, leg event.Leg, tries exits.Tries) uint32 {
	attempt := tries.Begun + 1
	for o.orders.has(event.ExitOrderID(l.Decision, leg, attempt)) {
		attempt++
	}
	return attempt
}

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

// holdingLocked is what orders of a side could reduce of a position; o.mu is held.
func (o *owner) holdingLocked(k ledger.Key, side event.Side) (h exits.Holding, err error) {
	h.Own = o.book.Qty(k)
	if h.Net, err = o.book.Net(k.Account, k.Venue, k.Symbol); err != nil {
		return h, err
	}
	o.eachAtWorkLocked(func(w *order) {
		if w.last.Account != k.Account || w.last.Venue != k.Venue || w.last.Symbol != k.Symbol || w.last.Side != side || err != nil {
			return
		}
		left := w.left(o.book.Proven(w.id()))
		if h.NetWorking, err = ledger.Add(h.NetWorking, left); err == nil && w.last.Strategy == k.Strategy {
			h.OwnWorking, err = ledger.Add(h.OwnWorking, left)
		}
	})
	return h, err
}

// entry is the first entry of an exit in the order log.
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
	w := o.exits.waits[x.lot.ID]
	if w == nil {
		w = &exitWait{}
		o.exits.waits[x.lot.ID] = w
	}
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

// waitingExits says which lots wait for their exit, for /health. Dust stays where it is
// and is no news.
func (r *Role) waitingExits() string {
	r.ownersMu.Lock()
	defer r.ownersMu.Unlock()
	n, first := 0, ""
	for _, partition := range slices.Sorted(maps.Keys(r.owners)) {
		o := r.owners[partition]
		o.mu.Lock()
		for _, lot := range slices.Sorted(maps.Keys(o.exits.waits)) {
			w := o.exits.waits[lot]
			if w.kind == "" || w.kind == waitDust || w.kind == waitRate {
				continue
			}
			if n++; first == "" {
				first = fmt.Sprintf("lot %s: %s", lot, w.detail)
			}
		}
		o.mu.Unlock()
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d lots were triggered and cannot be closed now, the first is %s", n, first)
}

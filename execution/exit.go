package execution

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

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
	halted   uint32 // after how many attempts the account was halted last
	since    int64  // of kind
	logged   bool
}

// quietFor is how long an exit may wait before that is logged: after a start quotes take a
// moment.
const quietFor = time.Second

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
		o.role.env.Log.Error("halting an account whose exit the market does not fill; it keeps being tried", "account", account, "why", halts[account])
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
			o.noteWaitLocked(l, kind, detail, now)
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

// noteWaitLocked keeps why a lot waits, and logs it when that lasts.
func (o *owner) noteWaitLocked(l *exits.Lot, kind waitKind, detail string, now int64) {
	if kind == "" && o.exits.waits[l.ID] == nil {
		return
	}
	w := o.waitLocked(l.ID)
	if kind != w.kind {
		w.since, w.logged = now, false
	}
	w.kind, w.detail = kind, detail
	if kind == "" || w.logged || now-w.since < int64(quietFor) {
		return
	}
	w.logged = true
	o.role.env.Log.Error("a lot cannot be closed now", "account", l.Key.Account, "strategy", l.Key.Strategy, "symbol", l.Key.Symbol, "lot", l.ID, "qty", l.Qty.String(),
		"waits_for", string(kind), "why", detail)
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
		if blind := o.watch.blind(l.Key, now); blind != "" {
			return waitQuote, blind, nil
		}
		return "", "", nil
	}
	acc := o.accounts[l.Key.Account]
	if acc == nil {
		return waitAccount, "the account is not configured any more", nil
	}
	cfg := &acc.cfg.Exits
	first, most := acc.bands()
	if exits.Exhausted(first, most, tries.Misses) && o.haltsLocked(l, tries) {
		halts[l.Key.Account] = fmt.Sprintf("the %s of lot %s, %s %s %s, was tried %d times, the last time %d bps beyond the touch, and nothing filled",
			why.leg, l.ID, l.Side, l.Qty, l.Key.Symbol, tries.Begun, most)
	}
	// A clock that is behind that of the owner before must not hold the next one up.
	if since := now - tries.BegunAt; tries.Begun > 0 && since >= 0 && since < int64(cfg.RetryInterval) {
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
	at, wrong := o.watch.priced(l.Key, last, now)
	if at == nil {
		return waitQuote, wrong, nil
	}
	sent := slices.DeleteFunc(o.exits.sent[acc.cfg.Name], func(t int64) bool { return t <= now-int64(time.Second) || t > now })
	o.exits.sent[acc.cfg.Name] = sent
	if len(sent) >= cfg.OrdersPerSecond {
		return waitRate, fmt.Sprintf("%d exits within 1s, at most %d are allowed", len(sent), cfg.OrdersPerSecond), nil
	}
	x := &exit{lot: l, acc: acc, instrument: in, trigger: why, attempt: o.nextAttemptLocked(l, why.leg, tries), at: at, now: now, band: exits.Band(first, most, tries.Misses)}
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

// haltsLocked reports whether the account is to be halted for an exit that the market
// does not fill: once for each attempt, so that somebody can resume, and not while it is
// halted.
func (o *owner) haltsLocked(l *exits.Lot, tries exits.Tries) bool {
	w := o.waitLocked(l.ID)
	if w.halted >= tries.Judged || o.role.board.blocked(l.Key.Account, l.Key.Venue, l.Key.Symbol, false) != "" {
		return false
	}
	w.halted = tries.Judged
	return true
}

// waitLocked returns what is kept of a lot that was triggered.
func (o *owner) waitLocked(lot string) *exitWait {
	w := o.exits.waits[lot]
	if w == nil {
		w = &exitWait{}
		o.exits.waits[lot] = w
	}
	return w
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

// bands are how far beyond the touch the first exit of a lot may reach and any, within
// the band of prices.
func (a *account) bands() (first, most uint32) {
	most = a.cfg.Exits.MaxSlippageBps
	if collar := a.cfg.Limits.CollarBps.Float64(); collar < float64(most) {
		most = uint32(collar)
	}
	return min(a.cfg.Exits.SlippageBps, most), most
}

// nextAttemptLocked is the number of the next exit of a lot: one that no order has.
func (o *owner) nextAttemptLocked(l *exits.Lot, leg event.Leg, tries exits.Tries) uint32 {
	attempt := tries.Begun + 1
	for o.orders.has(event.ExitOrderID(l.Decision, leg, attempt)) {
		attempt++
	}
	return attempt
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
	return fmt.Sprintf("%d lots cannot be closed now, the first is %s", n, first)
}

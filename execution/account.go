package execution

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/execution/risk"
	"github.com/autohedge/autohedge/stream/event"
)

// account is one account as its owner holds it.
type account struct {
	cfg     *Account
	broker  *gatedBroker
	profile broker.Profile
	gate    *risk.Gate
	// outgoing are the orders that stand in the order log and wait to be sent.
	outgoing chan *outgoing
	// exits are those that close lots, which go first.
	exits chan *outgoing
	// triedAt is when the account was opened last, retryIn how long after that it is
	// again while it is refused: reading a ledger takes time. settling guards both.
	triedAt time.Time
	retryIn time.Duration
}

// gatedBroker is the broker of an account: none yet, for as long as the account is
// refused. Then every call fails but Next, which waits.
type gatedBroker struct {
	opened chan struct{} // closed once there is one

	mu     sync.Mutex
	inner  broker.Broker
	why    error // of the refusal
	closed bool
	ready  atomic.Bool
}

// refusedError says why an account is refused.
type refusedError struct{ why error }

func (e *refusedError) Error() string { return "the account is refused: " + e.why.Error() }
func (e *refusedError) Unwrap() error { return e.why }

var errNotOpened = errors.New("it was not opened yet")

func newGatedBroker() *gatedBroker {
	return &gatedBroker{opened: make(chan struct{}), why: errNotOpened}
}

// get returns the broker, or why there is none.
func (g *gatedBroker) get() (broker.Broker, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inner == nil {
		return nil, &refusedError{g.why}
	}
	return g.inner, nil
}

// refused returns why the account is refused, or nil.
func (g *gatedBroker) refused() error {
	if g.ready.Load() {
		return nil
	}
	_, err := g.get()
	return err
}

// refuse notes why there is no broker, and reports whether that is news.
func (g *gatedBroker) refuse(why error) (news bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	news = g.why == nil || g.why.Error() != why.Error()
	g.why = why
	return news
}

func (g *gatedBroker) open(b broker.Broker) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inner, g.why = b, nil
	g.ready.Store(true)
	close(g.opened)
}

func (g *gatedBroker) Submit(ctx context.Context, o broker.Order) error {
	b, err := g.get()
	if err != nil {
		return err
	}
	return b.Submit(ctx, o)
}

func (g *gatedBroker) Cancel(ctx context.Context, clientOrderID string) error {
	b, err := g.get()
	if err != nil {
		return err
	}
	return b.Cancel(ctx, clientOrderID)
}

func (g *gatedBroker) Query(ctx context.Context, clientOrderID string) (broker.Report, error) {
	b, err := g.get()
	if err != nil {
		return broker.Report{}, err
	}
	return b.Query(ctx, clientOrderID)
}

func (g *gatedBroker) Next(ctx context.Context, after uint64) ([]broker.Report, error) {
	select {
	case <-g.opened:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	b, err := g.get()
	if err != nil {
		return nil, err
	}
	return b.Next(ctx, after)
}

func (g *gatedBroker) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inner == nil || g.closed {
		return nil
	}
	g.closed = true
	return g.inner.Close()
}

// simulator returns the broker if it simulates.
func (g *gatedBroker) simulator() (broker.QuoteTaker, bool) {
	b, err := g.get()
	if err != nil {
		return nil, false
	}
	t, ok := b.(broker.QuoteTaker)
	return t, ok
}

var _ broker.Broker = (*gatedBroker)(nil)

// openAccount opens an account's broker if its records are those that took the
// account's orders, and asks it about every order that is not done. Else the account
// is refused, here, and opened again later: another process may have the ledger
// still, or somebody restores or adopts it. o.settling is held.
func (o *owner) openAccount(ctx context.Context, acc *account) error {
	acc.triedAt = time.Now()
	acc.retryIn = min(max(2*acc.retryIn, o.role.cfg.QueryInterval), 16*o.role.cfg.QueryInterval)
	spec, err := broker.Registry.Lookup(acc.cfg.Broker)
	if err != nil {
		return err
	}
	b, err := o.role.openBroker(ctx, spec.New, broker.Account{
		Name: acc.cfg.Name, Settings: acc.cfg.Settings, Dir: filepath.Join(o.role.paths.PaperDir, acc.cfg.Name), Env: o.role.env.With("broker"),
	})
	if err == nil {
		if err = o.checkRecords(ctx, acc, b); err != nil {
			err = errors.Join(err, b.Close())
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		o.role.setRefused(acc.cfg.Name, err)
		if acc.broker.refuse(err) {
			o.role.env.Log.Error("refusing an account: it takes no decisions here until its broker can be opened", "account", acc.cfg.Name, "partition", o.partition, "err", err)
		}
		return nil
	}
	acc.broker.open(b)
	o.role.setRefused(acc.cfg.Name, nil)
	o.role.metrics.refused.Dec()
	if err := o.reconcile(ctx, func(account string) bool { return account == acc.cfg.Name }); err != nil {
		return err
	}
	if t, simulates := acc.broker.simulator(); simulates {
		o.role.market.join(t)
	}
	return nil
}

// setRefused notes why an account is refused by this process, or that it is not.
func (r *Role) setRefused(account string, why error) {
	r.refusedMu.Lock()
	defer r.refusedMu.Unlock()
	if why == nil {
		delete(r.refused, account)
		return
	}
	r.refused[account] = why.Error()
}

// Conditions are what can be wrong with execution although it works, by name: each
// returns what is wrong now, or nothing, at once.
func (r *Role) Conditions() map[string]func() string {
	return map[string]func() string{"accounts": r.refusedAccounts, "halt": r.board.wrong, "exits": r.waitingExits}
}

// refusedAccounts lists the accounts that this process refuses, and why.
func (r *Role) refusedAccounts() string {
	r.refusedMu.Lock()
	defer r.refusedMu.Unlock()
	var parts []string
	for _, account := range slices.Sorted(maps.Keys(r.refused)) {
		parts = append(parts, fmt.Sprintf("account %s is refused: %s", account, r.refused[account]))
	}
	return strings.Join(parts, "; ")
}

// openRefused tries the accounts again that are refused; o.settling is held.
func (o *owner) openRefused(ctx context.Context, machine time.Time) error {
	for _, acc := range o.accounts {
		if acc.broker.refused() == nil || machine.Sub(acc.triedAt) < acc.retryIn {
			continue
		}
		if err := o.openAccount(ctx, acc); err != nil {
			return err
		}
		if acc.broker.refused() == nil {
			o.role.env.Log.Info("taking decisions of an account that was refused", "account", acc.cfg.Name, "partition", o.partition)
		}
	}
	return nil
}

// checkRecords compares the records of a broker that keeps all of them with the
// order log. Orders that the log says it took, and fills that it told, must be there,
// and no open order that the log does not know; else the broker's ledger was lost,
// restored from a backup, or is another machine's. What an operator adopted is
// written off instead.
func (o *owner) checkRecords(ctx context.Context, acc *account, b broker.Broker) error {
	if !acc.profile.Keeps {
		return nil
	}
	var at broker.LedgerState
	if k, ok := b.(broker.Keeper); ok {
		at = k.Ledger()
	}
	took, lacking, err := o.lackingOrders(ctx, acc, b)
	if err != nil {
		return err
	}
	foreign := slices.DeleteFunc(slices.Clone(at.Open), o.begunBefore)
	if len(lacking)+len(foreign) == 0 {
		return nil
	}
	goOn := fmt.Sprintf("restore it, start where it is, or go on without them: autohedge paper adopt %s --why \"...\"", acc.cfg.Name)
	if at.Adopted == nil {
		if len(lacking) > 0 {
			return fmt.Errorf("the ledger %s holds %d of the %d orders that the order log says it took, up to %s; %s", at.Path, took-len(lacking), took, lacking[len(lacking)-1].id(), goOn)
		}
		return fmt.Errorf("the ledger %s holds %d open orders and the order log knows %d of them, not %s; %s", at.Path, len(at.Open), len(at.Open)-len(foreign), foreign[0], goOn)
	}
	for _, ord := range lacking {
		if ord.last.Time > at.Adopted.Time {
			return fmt.Errorf("the ledger %s, adopted at %s, lacks order %s of after that, and holds %d of the %d orders that the order log says it took; %s",
				at.Path, time.Unix(0, at.Adopted.Time).UTC().Format(time.RFC3339), ord.id(), took-len(lacking), took, goOn)
		}
	}
	return o.writeOff(ctx, acc, b, at.Adopted, lacking, foreign)
}

// lackingOrders lists the orders of an account that the log says the broker took and
// of which the broker does not know, or does not know all fills, by time. took is how
// many the log says it took.
func (o *owner) lackingOrders(ctx context.Context, acc *account, b broker.Broker) (took int, lacking []*order, err error) {
	all := o.remembered(func(ord *order) bool {
		return ord.last.Account == acc.cfg.Name && ord.last.Broker == acc.cfg.Broker && ord.last.BrokerOrderID != "" && ord.last.Reason != reasonWrittenOff
	})
	for _, ord := range all {
		r, err := b.Query(ctx, ord.id())
		switch {
		case errors.Is(err, broker.ErrNotFound):
			lacking = append(lacking, ord)
			continue
		case err != nil:
			if ctx.Err() != nil {
				return 0, nil, ctx.Err()
			}
			continue // it cannot be asked now: that says nothing of its records
		}
		has, err := r.FillsQty()
		if err != nil {
			return 0, nil, err
		}
		if proven := o.proven(ord.id()); has.Cmp(proven) < 0 || has.Cmp(ord.last.FilledQty) < 0 {
			lacking = append(lacking, ord)
		}
	}
	slices.SortFunc(lacking, func(a, b *order) int { return cmp.Compare(a.last.Time, b.last.Time) })
	return len(all), lacking, nil
}

// begunBefore reports whether the order log knows an order.
func (o *owner) begunBefore(clientOrderID string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.orders.has(clientOrderID)
}

// remembered lists the orders, by id, for which that is true.
func (o *owner) remembered(which func(*order) bool) []*order {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []*order
	for _, id := range slices.Sorted(maps.Keys(o.orders.whole)) {
		if ord := o.orders.of(id); which(ord) {
			out = append(out, ord)
		}
	}
	return out
}

// writeOff ends the orders that a ledger lacks, with what their fills prove, and
// cancels those in it that the order log does not know.
func (o *owner) writeOff(ctx context.Context, acc *account, b broker.Broker, a *broker.Adoption, lacking []*order, foreign []string) error {
	var events []event.OrderEvent
	for _, ord := range lacking {
		proven := o.proven(ord.id())
		o.mu.Lock()
		notional, err := o.book.Notional(ord.id())
		o.mu.Unlock()
		if err != nil {
			return err
		}
		detail := fmt.Sprintf("the order log claims %s of %s, fills prove %s; %s went on without the ledger that had it: %s", ord.claimed(), ord.last.Qty, proven, a.Who, a.Why)
		o.mu.Lock()
		e := ord.writtenOff(proven, notional, detail, o.at())
		o.lots.Order(&e)
		events = append(events, e)
		delete(o.open, ord.id())
		o.mu.Unlock()
	}
	if err := o.log(ctx, events...); err != nil {
		return err
	}
	for _, id := range foreign {
		if err := b.Cancel(ctx, id); err != nil {
			return fmt.Errorf("canceling order %s, which the order log does not know: %w", id, err)
		}
	}
	o.role.env.Log.Warn("wrote off what an adopted ledger lacks", "account", acc.cfg.Name, "orders", len(lacking), "canceled", len(foreign), "who", a.Who, "why", a.Why)
	return nil
}

// foreign deals with a report on an order that is none of ours, or so old that nobody
// remembers what was recorded of it. What it did to the account is in no position, so
// the account is halted, unless it did nothing and can do nothing any more.
func (o *owner) foreign(ctx context.Context, acc *account, r *broker.Report) error {
	o.role.metrics.orphans.Inc()
	filled, err := r.FillsQty()
	if err == nil && r.FilledQty.Valid && r.FilledQty.Decimal.Cmp(filled) > 0 {
		filled = r.FilledQty.Decimal
	}
	what := "is none of the account's: somebody else trades there"
	if o.begunBefore(r.ClientOrderID) {
		what = fmt.Sprintf("was done so long ago that its fills are not remembered (the last %d orders are)", keepWhole)
	}
	why := fmt.Sprintf("order %s at the broker (%s, filled %s) %s", r.ClientOrderID, r.State, filled, what)
	if err == nil && filled.IsZero() && r.State.Terminal() && r.State != event.OrderFilled {
		o.role.env.Log.Error("leaving out a report on an order that came to nothing", "account", acc.cfg.Name, "why", why)
		return nil
	}
	if o.contradictions[r.ClientOrderID] == why {
		return nil
	}
	o.contradictions[r.ClientOrderID] = why
	o.role.metrics.contradictions.Inc()
	o.role.env.Log.Error("halting an account at whose broker there is activity that is not ours", "account", acc.cfg.Name, "why", why)
	return o.haltAccount(ctx, acc.cfg.Name, why)
}

// haltAccount halts an account because its records contradict each other.
func (o *owner) haltAccount(ctx context.Context, account, why string) error {
	_, err := o.role.board.halt(ctx, haltRequest{scope: scopeAccount + account, who: "execution", why: why, level: event.HaltReduce, whence: "engine"})
	return err
}

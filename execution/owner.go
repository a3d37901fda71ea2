package execution

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/execution/exits"
	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/execution/risk"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// working is an order that is not done, with what the machine's clock says of it.
type working struct {
	*order
	// sending says that it is on its way from the order log to the broker, or is
	// being sent; sentAt is when that began.
	sending      bool
	sentAt       time.Time
	askedAt      time.Time
	missingSince time.Time // since when the broker says it does not know it
	// canceling says that a cancel is on its way to the broker, under mu;
	// canceledAt is when the last one began.
	canceling  bool
	canceledAt time.Time
}

// owner holds the accounts of one partition: their orders, fills and positions,
// which follow from that partition of the order log, fills and positions.
type owner struct {
	role      *Role
	partition int32
	producer  *bus.Owner
	epoch     uint32
	accounts  map[string]*account
	// slots bounds the decisions in flight; fail ends the owner.
	slots chan struct{}
	fail  func(error)
	// exitSlots bounds the exits in flight: they wait for no decision.
	exitSlots chan struct{}
	// cancels are the withdrawals after a halt that are on their way, at most
	// haltCancels at once.
	cancels     sync.WaitGroup
	cancelSlots chan struct{}

	// settling is held by whoever carries a broker's word into the logs, also
	// while it waits for acknowledgements. It comes before mu.
	settling sync.Mutex
	nextMark int64
	// contradictions are the reasons for which accounts were halted here, by order.
	contradictions map[string]string

	// mu is never held while anything is waited for. Of an open order, who holds
	// settling changes state, under both, and the sender sentAt and sending.
	mu       sync.Mutex
	book     *ledger.Book
	orders   *orders
	lots     *exits.Book
	open     map[string]*working // those that are not done
	unknown  map[string]struct{} // those whose outcome is not known
	unknowns int                 // as the gauge has it
	doubts   map[string]*doubt   // those of which more is claimed than proven
	exits    exitState

	// watch sees quotes for the lots; it has a lock of its own.
	watch *exitWatch

	saved saved
}

// restore restores what the partition of the order log, fills and positions holds,
// opens the accounts' brokers and asks them about every order that is not done.
func (r *Role) restore(ctx context.Context, partition int32, fail func(error)) (*owner, error) {
	o := &owner{
		role: r, partition: partition, slots: make(chan struct{}, inFlight), exitSlots: make(chan struct{}, inFlight), cancelSlots: make(chan struct{}, haltCancels), fail: fail, accounts: make(map[string]*account),
		open: make(map[string]*working), unknown: make(map[string]struct{}), doubts: make(map[string]*doubt), contradictions: make(map[string]string), exits: newExitState(),
		watch: newExitWatch(r.market, r.env.Clock),
	}
	if err := r.patiently(ctx, partition, func() (err error) {
		o.producer, err = r.takeOver(ctx, bus.OwnConfig{
			Name: "execution", Key: ownerKey(partition), Blocking: true,
			Partitions: []bus.TopicPartition{
				{Topic: event.TopicOrders, Partition: partition}, {Topic: event.TopicFills, Partition: partition}, {Topic: event.TopicPositions, Partition: partition},
				{Topic: event.TopicExecutionState, Partition: partition},
			},
		}, r.env)
		return err
	}); err != nil {
		return nil, fmt.Errorf("taking over partition %d: %w", partition, err)
	}
	o.epoch = uint32(o.producer.Number())
	ok := false
	defer func() {
		if !ok {
			o.close()
		}
	}()
	for name, cfg := range r.accounts {
		if r.client.Partition(event.TopicOrders, []byte(name)) != partition {
			continue
		}
		spec, err := broker.Registry.Lookup(cfg.Broker)
		if err != nil {
			return nil, err
		}
		o.accounts[name] = &account{cfg: cfg, broker: newGatedBroker(), profile: r.profile(spec.New.Profile), gate: risk.NewGate(cfg.Limits), outgoing: make(chan *outgoing, inFlight), exits: make(chan *outgoing, inFlight)}
		r.metrics.refused.Inc()
	}
	var rec *records
	if err := r.patiently(ctx, partition, func() (err error) { rec, err = o.remember(ctx); return err }); err != nil {
		return nil, fmt.Errorf("restoring partition %d: %w", partition, err)
	}
	rec.checkLots()
	for _, why := range rec.unreadable {
		for name := range o.accounts {
			rec.conflicts[name] = why
		}
	}
	o.book, o.orders, o.lots = rec.book, rec.orders, rec.lots
	for id, ord := range o.orders.whole {
		if !ord.state().Terminal() {
			o.open[id] = &working{order: ord}
		}
		if ord.state() == event.OrderUnknown {
			o.unknown[id] = struct{}{}
		}
	}
	o.unknowns = len(o.unknown)
	r.metrics.unknown.Add(float64(o.unknowns))
	for name, times := range rec.charged {
		if acc := o.accounts[name]; acc != nil {
			for _, t := range times {
				acc.gate.Charge(t, false)
			}
		}
	}
	o.settling.Lock()
	defer o.settling.Unlock()
	if err := o.openAccounts(ctx, rec.conflicts); err != nil {
		return nil, err
	}
	o.armAll()
	o.nextMark = o.now() + int64(r.cfg.MarkInterval)
	ok = true
	return o, nil
}

// takeOverPatience is how long a takeover is tried again before its error ends the role.
const takeOverPatience = 5 * time.Minute

// patiently tries a step of a takeover again while brokers answer with errors that may
// pass: claims and logs that cannot be read now end nothing. Decisions wait meanwhile.
func (r *Role) patiently(ctx context.Context, partition int32, step func() error) error {
	began, wait := time.Now(), 50*time.Millisecond
	for {
		err := step()
		if err == nil || component.IsFatal(err) || errors.Is(err, bus.ErrFenced) || ctx.Err() != nil || time.Since(began) > takeOverPatience {
			return err
		}
		r.env.Log.Warn("taking over a partition failed; it is tried again", "partition", partition, "wait", wait.String(), "err", err)
		if !sleep(ctx, wait) {
			return err
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// ownerKey is what the owner of a partition owns.
func ownerKey(partition int32) string { return fmt.Sprintf("execution.%d", partition) }

// openAccounts opens the accounts' brokers and brings the logs to what they say. Where
// the log of fills contradicts itself, the account is halted first.
func (o *owner) openAccounts(ctx context.Context, conflicts map[string]string) error {
	for id, account := range o.book.Filled() {
		if !o.orders.has(id) {
			conflicts[account] = fmt.Sprintf("order %s: its fills prove %s, and the order log does not know it", id, o.book.Proven(id))
		}
	}
	for account, why := range conflicts {
		o.role.metrics.contradictions.Inc()
		if err := o.haltAccount(ctx, account, why); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.accounts)) {
		if err := o.openAccount(ctx, o.accounts[name]); err != nil {
			return err
		}
	}
	// Orders of accounts that are not configured any more.
	if err := o.reconcile(ctx, func(account string) bool { return o.accounts[account] == nil }); err != nil {
		return err
	}
	for _, k := range o.book.Behind() {
		if err := o.record(ctx, k, event.Lineage{Topic: event.TopicFills, Partition: o.partition}); err != nil {
			return err
		}
	}
	return nil
}

// reconcile asks the brokers about every order that is not done, and about those
// whose recorded fills are not what the order log claims.
func (o *owner) reconcile(ctx context.Context, of func(account string) bool) error {
	for _, ord := range o.remembered(func(ord *order) bool { return of(ord.last.Account) }) {
		o.mu.Lock()
		w := o.open[ord.id()]
		differs := o.book.Proven(ord.id()).Cmp(ord.claimed()) != 0
		o.mu.Unlock()
		if w == nil && !differs {
			continue
		}
		if w == nil {
			w = &working{order: ord}
		}
		// Twice: an order that is not found is only then called not placed.
		for range 2 {
			if err := o.ask(ctx, w); err != nil {
				return err
			}
			if !w.unconfirmed() {
				break
			}
		}
		if w.state() == event.OrderSubmitting {
			if err := o.lose(ctx, w, reasonUnconfirmed, "asking the broker after a restart gave no answer yet"); err != nil {
				return err
			}
		}
		if err := o.weigh(ctx, w, nil); err != nil {
			return err
		}
	}
	return nil
}

func (o *owner) now() int64 { return o.role.env.Clock.Now().UnixNano() }

func (o *owner) at() stamp { return stamp{now: o.now(), epoch: o.epoch} }

// close releases the producer and the brokers.
func (o *owner) close() {
	o.cancels.Wait()
	o.role.market.unwatch(o.watch)
	o.exits.close(o.role.metrics)
	ctx, cancel := context.WithTimeout(context.Background(), controlTimeout)
	defer cancel()
	if err := o.producer.Close(ctx); err != nil {
		o.role.env.Log.Warn("closing the producer", "partition", o.partition, "err", err)
	}
	for name, acc := range o.accounts {
		if t, simulates := acc.broker.simulator(); simulates {
			o.role.market.leave(t)
		}
		if acc.broker.refused() != nil {
			o.role.metrics.refused.Dec()
			o.role.setRefused(name, nil) // another process may have it now
		}
		if err := acc.broker.Close(); err != nil {
			o.role.env.Log.Warn("closing the broker", "account", name, "err", err)
		}
	}
	o.role.metrics.unknown.Sub(float64(o.unknowns))
	o.role.metrics.unproven.Sub(float64(len(o.doubts)))
	o.unknowns, o.doubts = 0, nil
}

// consume handles decisions until the partition is lost or drained.
func (o *owner) consume(ctx context.Context, a *bus.Assignment) error {
	done := progress{commit: a.Commit}
	for {
		records, err := a.Next(ctx)
		if errors.Is(err, io.EOF) {
			return o.finish(ctx)
		}
		if err != nil {
			return err
		}
		for i := range records {
			if err := o.slot(ctx, a); err != nil {
				return err
			}
			if err := o.decide(ctx, &records[i], done.begin(records[i].Offset)); err != nil {
				return err
			}
		}
	}
}

// slot waits for room among the decisions in flight: for brokers, whose answers
// have deadlines of their own.
func (o *owner) slot(ctx context.Context, a *bus.Assignment) error {
	select {
	case o.slots <- struct{}{}:
		return nil
	default:
	}
	defer a.Waiting()()
	select {
	case o.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reports takes what a broker tells of its orders.
func (o *owner) reports(ctx context.Context, acc *account) error {
	after := uint64(0)
	for {
		rs, err := acc.broker.Next(ctx, after)
		if errors.Is(err, component.ErrNotConnected) && ctx.Err() == nil {
			o.role.env.Log.Warn("asking for every working order, for the broker's reports stopped", "account", acc.cfg.Name, "err", err)
			if err := o.askAll(ctx, acc); err != nil {
				return err
			}
			if !sleep(ctx, o.role.cfg.QueryInterval) {
				return ctx.Err()
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("following the reports of account %s: %w", acc.cfg.Name, err)
		}
		for i := range rs {
			after = max(after, rs[i].Seq)
			if err := o.report(ctx, acc, &rs[i]); err != nil {
				return err
			}
		}
	}
}

func (o *owner) report(ctx context.Context, acc *account, r *broker.Report) error {
	o.settling.Lock()
	defer o.settling.Unlock()
	o.mu.Lock()
	ord, w := o.orders.of(r.ClientOrderID), o.open[r.ClientOrderID]
	o.mu.Unlock()
	if ord == nil || ord.last.Account != acc.cfg.Name {
		return o.foreign(ctx, acc, r)
	}
	if w == nil {
		w = &working{order: ord} // done, but a fill may come late
	}
	if w.state() == event.OrderNotPlaced {
		// The broker took longer than its profile allows: nothing it says about
		// what it does not have can be believed.
		if err := o.haltAccount(ctx, w.last.Account, fmt.Sprintf("order %s was called not placed, and the broker has it", w.id())); err != nil {
			return err
		}
	}
	return o.take(ctx, w, r)
}

func (o *owner) askAll(ctx context.Context, acc *account) error {
	o.settling.Lock()
	defer o.settling.Unlock()
	for _, w := range o.working() {
		if w.last.Account == acc.cfg.Name {
			if err := o.ask(ctx, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// working lists the open orders by id, as they are now.
func (o *owner) working() []*working {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]*working, 0, len(o.open))
	for _, id := range slices.Sorted(maps.Keys(o.open)) {
		out = append(out, o.open[id])
	}
	return out
}

// watchLog tells while the order log takes nothing. That halts new risk by itself:
// no order is sent before its entry is acknowledged, nor one whose entry took
// longer than logPatience, and no more than inFlight wait for it.
func (o *owner) watchLog(ctx context.Context) {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	halted := false
	defer func() {
		if halted {
			o.role.metrics.stalled.Dec()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		d, why := o.producer.Stalled()
		switch {
		case d > o.role.logPatience && !halted:
			halted = true
			o.role.metrics.stalled.Inc()
			o.role.env.Log.Error("halting new risk, for the order log takes nothing", "partition", o.partition, "for", d.Round(time.Millisecond).String(), "err", why)
		case d <= o.role.logPatience && halted:
			halted = false
			o.role.metrics.stalled.Dec()
			o.role.env.Log.Info("taking new risk again, for the order log takes entries", "partition", o.partition)
		}
	}
}

// ticks does what time alone brings.
func (o *owner) ticks(ctx context.Context) error {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := o.tick(ctx, time.Now()); err != nil {
				return err
			}
		}
	}
}

func (o *owner) tick(ctx context.Context, machine time.Time) error {
	o.settling.Lock()
	defer o.settling.Unlock()
	cfg := &o.role.cfg
	for _, w := range o.working() {
		o.mu.Lock()
		state, sentAt := w.state(), w.sentAt
		o.mu.Unlock()
		switch state {
		case event.OrderSubmitting:
			if !sentAt.IsZero() && machine.Sub(sentAt) >= cfg.AckTimeout {
				if err := o.lose(ctx, w, reasonUnconfirmed, fmt.Sprintf("the broker said nothing for %s", cfg.AckTimeout)); err != nil {
					return err
				}
			}
		case event.OrderUnknown:
			if machine.Sub(w.askedAt) >= cfg.QueryInterval {
				if err := o.ask(ctx, w); err != nil {
					return err
				}
			}
		default:
			o.cancelUnwanted(ctx, w, machine)
		}
	}
	if err := o.pursue(ctx, machine); err != nil {
		return err
	}
	if err := o.openRefused(ctx, machine); err != nil {
		return err
	}
	if now := o.now(); now >= o.nextMark {
		o.nextMark = now + int64(cfg.MarkInterval)
		return o.markAll(ctx)
	}
	return nil
}

// haltCancels bounds the withdrawals after a halt that a partition has on their way.
const haltCancels = 16

// cancelUnwanted withdraws a working order that a halt covers, or an entry whose lot is
// being closed, beside everything else: no order waits for another's broker. It is tried
// again until the broker says that the order is done.
func (o *owner) cancelUnwanted(ctx context.Context, w *working, machine time.Time) {
	o.mu.Lock()
	closing := o.lots.Tries(w.id()).Begun > 0
	busy, last, id := w.canceling || machine.Sub(w.canceledAt) < o.role.cfg.QueryInterval, w.last, w.id()
	o.mu.Unlock()
	acc := o.accounts[last.Account]
	if busy || acc == nil || acc.broker.refused() != nil || !closing && o.role.board.blocked(last.Account, last.Venue, last.Symbol, last.Leg.Reduces()) == "" {
		return
	}
	select {
	case o.cancelSlots <- struct{}{}:
	default:
		return // at a later tick
	}
	o.mu.Lock()
	w.canceling, w.canceledAt = true, machine
	o.mu.Unlock()
	o.cancels.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.role.cfg.AckTimeout)
		defer cancel()
		if err := acc.broker.Cancel(ctx, id); err != nil {
			o.role.env.Log.Error("canceling an order, will be tried again", "order", id, "err", err)
		}
		o.mu.Lock()
		w.canceling = false
		o.mu.Unlock()
		<-o.cancelSlots
	})
}

// markAll values every open position and records it.
func (o *owner) markAll(ctx context.Context) error {
	o.mu.Lock()
	keys := o.book.Keys(true)
	o.mu.Unlock()
	for _, k := range keys {
		top, ok := o.role.market.last(k.Venue, k.Symbol)
		if !ok {
			continue
		}
		if err := o.record(ctx, k, top.from); err != nil {
			return err
		}
	}
	return nil
}

// record marks a position with the last quote and appends its next record.
func (o *owner) record(ctx context.Context, k ledger.Key, from event.Lineage) error {
	o.mu.Lock()
	if top, ok := o.role.market.last(k.Venue, k.Symbol); ok {
		if err := o.book.Mark(k, top.forLedger()); err != nil {
			o.role.env.Log.Warn("keeping the last mark", "symbol", k.Symbol, "err", err)
		}
	}
	p, err := o.book.Record(k, o.now(), from)
	differs := lotsDiffer(o.book, o.lots, k)
	o.mu.Unlock()
	if err != nil {
		return component.Fatal(err)
	}
	if differs != "" && o.contradictions[k.Account+"/lots"] != differs {
		o.contradictions[k.Account+"/lots"] = differs
		o.role.metrics.contradictions.Inc()
		o.role.env.Log.Error("halting an account whose records contradict each other", "account", k.Account, "why", differs)
		if err := o.haltAccount(ctx, k.Account, differs); err != nil {
			return err
		}
	}
	if _, _, err := o.producer.Publish(ctx, event.TopicPositions, []byte(k.Account), p); err != nil {
		return err
	}
	o.role.metrics.showPosition(p)
	return nil
}

// settleFor bounds how long a drain waits for orders that should be done at once.
const settleFor = 3 * time.Second

// finish ends a drain: the quotes to their end, every working order asked for
// until only resting ones are left, final marks.
func (o *owner) finish(ctx context.Context) error {
	deadline := time.Now().Add(settleFor)
	select {
	case <-o.role.market.ended:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settleFor):
		o.role.env.Log.Warn("going on without the end of market data", "partition", o.partition)
	}
	if err := o.lastExits(ctx); err != nil {
		return err
	}
	for {
		waiting, err := o.settle(ctx)
		if err != nil {
			return err
		}
		if waiting == 0 || time.Now().After(deadline) {
			break
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
	}
	o.settling.Lock()
	defer o.settling.Unlock()
	if err := o.markAll(ctx); err != nil {
		return err
	}
	if n := len(o.working()); n > 0 {
		o.role.env.Log.Info("orders keep working at their brokers", "partition", o.partition, "orders", n)
	}
	if err := o.producer.Flush(ctx); err != nil {
		return err
	}
	return o.saveLast(ctx)
}

// settle asks for every order that is not done and counts those that should be.
func (o *owner) settle(ctx context.Context) (waiting int, err error) {
	o.settling.Lock()
	defer o.settling.Unlock()
	for _, w := range o.working() {
		if acc := o.accounts[w.last.Account]; acc != nil && acc.broker.refused() != nil {
			continue
		}
		if err := o.ask(ctx, w); err != nil {
			return 0, err
		}
		resting := w.last.TIF == event.GTC && (w.state() == event.OrderAccepted || w.state() == event.OrderPartiallyFilled)
		if !w.state().Terminal() && !resting {
			waiting++
		}
	}
	return waiting, nil
}

// sleep waits and reports whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

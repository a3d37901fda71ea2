package exits

import (
	"fmt"
	"slices"

	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/event"
)

// Lot is what is left of the filled quantity of one entry.
type Lot struct {
	// ID is the client order id of the entry, Decision and Signal are the entry's; all are
	// empty for what was held before there were lots.
	ID       string     `json:"id"`
	Decision event.ID   `json:"decision"`
	Signal   event.ID   `json:"signal"`
	Key      ledger.Key `json:"key"`
	// Side is the entry's: a lot that was bought is long.
	Side event.Side    `json:"side"`
	Qty  event.Decimal `json:"qty"` // above 0, base currency
	// Entered and Cost are the sums of quantity and of price x quantity of the fills that
	// made the lot, Opened the time of the first of them.
	Entered event.Decimal `json:"entered"`
	Cost    event.Decimal `json:"cost"`
	Opened  int64         `json:"opened"`
	// StopBps, TargetBps and Horizon (nanoseconds) are the decision's; 0 is none.
	StopBps   uint32 `json:"stop_bps,omitempty"`
	TargetBps uint32 `json:"target_bps,omitempty"`
	Horizon   int64  `json:"horizon,omitempty"`
}

// Long reports whether the lot gains when the price rises.
func (l *Lot) Long() bool { return l.Side == event.Buy }

// Closing is the side of the orders that close the lot.
func (l *Lot) Closing() event.Side {
	if l.Long() {
		return event.Sell
	}
	return event.Buy
}

// Exits reports whether anything but a decision closes the lot.
func (l *Lot) Exits() bool { return l.StopBps > 0 || l.TargetBps > 0 || l.Horizon > 0 }

// Tries are the exits of one lot so far, as the order log has them.
type Tries struct {
	Leg   event.Leg `json:"leg"`
	Cause string    `json:"cause"`
	// Begun is the number of the last attempt and BegunAt its time; Judged is the last
	// one that is done.
	Begun   uint32 `json:"begun"`
	BegunAt int64  `json:"begun_at"`
	Judged  uint32 `json:"judged"`
	// Misses counts the last attempts, one after another, that the market filled nothing
	// of.
	Misses uint32 `json:"misses"`
}

// Terms are what an order says of the lots that its fills change.
type Terms struct {
	Leg                event.Leg
	Lot                string
	Decision, Signal   event.ID
	StopBps, TargetBps uint32
	Horizon            int64
}

// TermsOf returns the terms of an order; any of its entries has them.
func TermsOf(e *event.OrderEvent) Terms {
	return Terms{Leg: e.Leg, Lot: e.Lot, Decision: e.DecisionID, Signal: e.SignalID, StopBps: e.StopBps, TargetBps: e.TargetBps, Horizon: e.Horizon}
}

// Book holds the lots of every position. The lots of one position are all of one side,
// and their sum is the position. It is not safe for concurrent use.
type Book struct {
	lots  map[ledger.Key][]*Lot // oldest first
	byID  map[string]*Lot
	tries map[string]*Tries // by lot
}

// NewBook returns an empty book.
func NewBook() *Book {
	return &Book{lots: make(map[ledger.Key][]*Lot), byID: make(map[string]*Lot), tries: make(map[string]*Tries)}
}

// Adopt takes a position over that was held before there were lots: it becomes a lot
// that only decisions close.
func (b *Book) Adopt(k ledger.Key, qty event.Decimal) {
	if qty.IsZero() {
		return
	}
	l := &Lot{Key: k, Side: event.Buy, Qty: ledger.Abs(qty)}
	if qty.Sign() < 0 {
		l.Side = event.Sell
	}
	b.lots[k] = append(b.lots[k], l)
}

// Order takes an entry of the order log over: of an exit it notes that it was tried,
// and what came of it. It must be told every first entry before the fills of the order.
func (b *Book) Order(e *event.OrderEvent) {
	if !e.Leg.Exits() || e.Lot == "" {
		return
	}
	t := b.tries[e.Lot]
	if e.Seq == 0 {
		if t == nil {
			t = &Tries{Leg: e.Leg, Cause: e.Cause}
			b.tries[e.Lot] = t
		}
		if e.Attempt > t.Begun {
			t.Begun, t.BegunAt = e.Attempt, e.Time
		}
	}
	if t == nil || !e.State.Terminal() || e.Attempt <= t.Judged {
		return // the lot is gone, the order works, or a late fill writes of it again
	}
	t.Judged = e.Attempt
	switch {
	case e.FilledQty.Sign() > 0:
		t.Misses = 0
	case e.State == event.OrderExpired || e.State == event.OrderCanceled || e.State == event.OrderRejected:
		t.Misses++
	}
}

// Apply takes a fill over that is not known yet. One against the lots of its position
// closes them, an exit's its own lot first, then the oldest; the rest of it is a lot.
func (b *Book) Apply(f *event.Fill, t Terms) error {
	k := ledger.Key{Account: f.Account, Strategy: f.Strategy, Venue: f.Venue, Symbol: f.Symbol}
	rest := f.Qty
	if own := b.byID[t.Lot]; own != nil && t.Lot != "" && own.Key == k && own.Side != f.Side {
		rest = b.reduce(own, rest)
	}
	for rest.Sign() > 0 && len(b.lots[k]) > 0 && b.lots[k][0].Side != f.Side {
		rest = b.reduce(b.lots[k][0], rest)
	}
	if rest.Sign() <= 0 {
		return nil
	}
	l := b.byID[f.ClientOrderID]
	if l == nil {
		l = &Lot{ID: f.ClientOrderID, Decision: t.Decision, Signal: t.Signal, Key: k, Side: f.Side, Opened: f.Time}
		if t.Leg == event.LegEntry {
			l.StopBps, l.TargetBps, l.Horizon = t.StopBps, t.TargetBps, t.Horizon
		}
	}
	cost, err := ledger.Mul(f.Price, rest)
	if err == nil {
		cost, err = ledger.Add(l.Cost, cost)
	}
	if err != nil {
		return fmt.Errorf("adding fill %s to lot %s: %w", f.ID, l.ID, err)
	}
	entered, err := ledger.Add(l.Entered, rest)
	if err != nil {
		return fmt.Errorf("adding fill %s to lot %s: %w", f.ID, l.ID, err)
	}
	qty, err := ledger.Add(l.Qty, rest)
	if err != nil {
		return fmt.Errorf("adding fill %s to lot %s: %w", f.ID, l.ID, err)
	}
	l.Cost, l.Entered, l.Qty = cost, entered, qty
	if b.byID[l.ID] == nil {
		b.byID[l.ID] = l
		b.lots[k] = append(b.lots[k], l)
	}
	return nil
}

// reduce takes at most qty from a lot and returns what it did not take.
func (b *Book) reduce(l *Lot, qty event.Decimal) event.Decimal {
	left, err := ledger.Sub(l.Qty, qty)
	if err == nil && left.Sign() > 0 {
		l.Qty = left
		return event.Decimal{}
	}
	rest, err := ledger.Sub(qty, l.Qty)
	if err != nil {
		rest = event.Decimal{} // cannot happen: both are quantities above 0
	}
	b.lots[l.Key] = slices.DeleteFunc(b.lots[l.Key], func(x *Lot) bool { return x == l })
	if len(b.lots[l.Key]) == 0 {
		delete(b.lots, l.Key)
	}
	if l.ID != "" {
		delete(b.byID, l.ID)
	}
	return rest
}

// Prune drops what is known of the exits of lots that are closed and for which gone says
// that nothing will be added to them. Until then it stays: an entry of the order log may
// be read before the fills that make its lot, and what an entry fills after its lot was
// closed is closed as well.
func (b *Book) Prune(gone func(lot string) bool) {
	for id := range b.tries {
		if b.byID[id] == nil && gone(id) {
			delete(b.tries, id)
		}
	}
}

// Lots lists the lots, by position, oldest first. They are the book's own, to be read
// only.
func (b *Book) Lots() []*Lot {
	var out []*Lot
	for _, k := range b.Keys() {
		out = append(out, b.lots[k]...)
	}
	return out
}

// Of lists the lots of a position, oldest first; they are the book's own.
func (b *Book) Of(k ledger.Key) []*Lot { return b.lots[k] }

// Lot returns a lot, nil where there is none of that id.
func (b *Book) Lot(id string) *Lot { return b.byID[id] }

// Tries returns the exits of a lot so far.
func (b *Book) Tries(lot string) Tries {
	if t := b.tries[lot]; t != nil {
		return *t
	}
	return Tries{}
}

// Keys lists the positions that have lots, in order.
func (b *Book) Keys() []ledger.Key {
	keys := make([]ledger.Key, 0, len(b.lots))
	for k := range b.lots {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, ledger.Key.Compare)
	return keys
}

// Sum is the signed sum of the lots of a position.
func (b *Book) Sum(k ledger.Key) (sum event.Decimal, err error) {
	for _, l := range b.lots[k] {
		qty := l.Qty
		if !l.Long() {
			qty = ledger.Neg(qty)
		}
		if sum, err = ledger.Add(sum, qty); err != nil {
			return sum, fmt.Errorf("adding up the lots of account %s in %s %s: %w", k.Account, k.Venue, k.Symbol, err)
		}
	}
	return sum, nil
}

// Saved is a Book as it is stored, exactly.
type Saved struct {
	Lots  []Lot            `json:"lots"` // by position, oldest first
	Tries map[string]Tries `json:"tries,omitempty"`
}

// Save returns what the book holds.
func (b *Book) Save() *Saved {
	out := &Saved{Lots: []Lot{}, Tries: make(map[string]Tries, len(b.tries))}
	for _, l := range b.Lots() {
		out.Lots = append(out.Lots, *l)
	}
	for id, t := range b.tries {
		out.Tries[id] = *t
	}
	return out
}

// Load makes a book of what Save returned.
func Load(s *Saved) (*Book, error) {
	b := NewBook()
	for i := range s.Lots {
		l := s.Lots[i]
		if l.Qty.Sign() <= 0 || (l.Side != event.Buy && l.Side != event.Sell) {
			return nil, fmt.Errorf("loading lots: lot %q of account %s is %s %s", l.ID, l.Key.Account, l.Side, l.Qty)
		}
		if others := b.lots[l.Key]; len(others) > 0 && others[0].Side != l.Side {
			return nil, fmt.Errorf("loading lots: the lots of account %s in %s %s are of both sides", l.Key.Account, l.Key.Venue, l.Key.Symbol)
		}
		if l.ID != "" {
			if b.byID[l.ID] != nil {
				return nil, fmt.Errorf("loading lots: lot %q is there twice", l.ID)
			}
			b.byID[l.ID] = &l
		}
		b.lots[l.Key] = append(b.lots[l.Key], &l)
	}
	for id, t := range s.Tries {
		b.tries[id] = &t
	}
	return b, nil
}

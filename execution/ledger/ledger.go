package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

// Key names one position.
type Key struct{ Account, Strategy, Venue, Symbol string }

// Compare orders positions by account, strategy, venue and symbol.
func (k Key) Compare(l Key) int {
	return cmp.Or(cmp.Compare(k.Account, l.Account), cmp.Compare(k.Strategy, l.Strategy), cmp.Compare(k.Venue, l.Venue), cmp.Compare(k.Symbol, l.Symbol))
}

// Quote is the top of a book as marks need it: bid and ask in quote currency a
// unit (0 is an empty side) and the quote's identity.
type Quote struct {
	Bid, Ask event.Decimal
	ID       string
}

// side is the side of the quote that a mark was taken from.
type side uint8

const (
	bidSide side = iota + 1
	askSide
)

// position is one holding. qty, cash and fees follow from the fills alone; mark,
// version and the day's base from marks and records.
type position struct {
	key             Key
	currency        string
	qty, cash, fees event.Decimal
	fills           uint64

	mark     event.NullDecimal
	markID   string
	markSide side

	version       uint64 // of the next record
	recordedFills uint64
	// recorded is the last total that a record told; base the same as it was when the
	// UTC day number day began. Both are absent only in a position that an older build
	// saved without a mark: its day begins with the next total that is known.
	recorded event.NullDecimal
	base     event.NullDecimal
	day      int64
}

// Book holds every position of one owner. It is not safe for concurrent use.
type Book struct {
	positions map[Key]*position
	fills     *fills
}

// NewBook returns an empty book.
func NewBook() *Book { return &Book{positions: make(map[Key]*position), fills: newFills()} }

// dayOf is the number of the UTC day of a time in Unix nanoseconds.
func dayOf(t int64) int64 {
	const day = int64(24 * time.Hour)
	d := t / day
	if t < 0 && t%day != 0 {
		d--
	}
	return d
}

func (b *Book) at(k Key, currency string, now int64) *position {
	p, ok := b.positions[k]
	if !ok {
		p = &position{key: k, day: dayOf(now), base: event.Some(event.Decimal{}), recorded: event.Some(event.Decimal{})}
		b.positions[k] = p
	}
	if p.currency == "" {
		p.currency = currency
	}
	return p
}

// roll starts a new UTC day: its base is the last total that a record told, so that
// the day's profit is a function of the records and survives a restart. A position
// without a mark at midnight has one too: what it was worth when that was last known.
func (p *position) roll(now int64) {
	if d := dayOf(now); d > p.day {
		p.day, p.base = d, p.recorded
	}
}

// Check looks for a fill in the book. It reports whether the same fill was applied,
// and returns an error that is ErrConflict when that one had other content.
func (b *Book) Check(f *event.Fill) (applied bool, err error) { return b.fills.check(f) }

// Proven returns the sum of the fills of an order that were applied.
func (b *Book) Proven(clientOrderID string) event.Decimal { return b.fills.proven[clientOrderID] }

// Notional returns the sum of price x quantity of the fills of an order that were
// applied.
func (b *Book) Notional(clientOrderID string) (sum event.Decimal, err error) {
	for _, f := range b.fills.orders[clientOrderID] {
		n, err := Mul(f.Price, f.Qty)
		if err != nil {
			return sum, err
		}
		if sum, err = Add(sum, n); err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// Filled lists the orders whose fills are remembered, with the accounts of these.
func (b *Book) Filled() map[string]string {
	out := make(map[string]string, len(b.fills.orders))
	for order, all := range b.fills.orders {
		out[order] = all[0].Account
	}
	return out
}

// CheckFill reports whether a fill can be one at all.
func CheckFill(f *event.Fill) error {
	if f.Qty.Sign() <= 0 || f.Price.Sign() <= 0 || (f.Side != event.Buy && f.Side != event.Sell) {
		return fmt.Errorf("fill %s, execution %s of order %s: %s %s at %s is no fill", f.ID, f.ExecID, f.ClientOrderID, f.Side, f.Qty, f.Price)
	}
	return nil
}

// Apply adds a fill; a fill that was applied before changes nothing and reports
// false, one whose content differs gives an error that is ErrConflict. currency is
// what the instrument is quoted in. An error leaves the book as it was.
func (b *Book) Apply(f *event.Fill, currency string) (bool, error) {
	if applied, err := b.fills.check(f); applied || err != nil {
		return false, err
	}
	if err := CheckFill(f); err != nil {
		return false, err
	}
	notional, err := Mul(f.Price, f.Qty)
	if err != nil {
		return false, fmt.Errorf("applying fill %s: %w", f.ID, err)
	}
	dq, dc := f.Qty, Neg(notional)
	if f.Side == event.Sell {
		dq, dc = Neg(f.Qty), notional
	}
	// It does not begin a day, which the next record does: so it comes to the same
	// whichever of the two logs is read first.
	p := b.at(Key{f.Account, f.Strategy, f.Venue, f.Symbol}, currency, f.Time)
	qty, err1 := Add(p.qty, dq)
	cash, err2 := Add(p.cash, dc)
	fees, err3 := Add(p.fees, f.FeeQuote)
	proven, err4 := Add(b.Proven(f.ClientOrderID), f.Qty)
	if err := cmp.Or(err1, err2, err3, err4); err != nil {
		return false, fmt.Errorf("applying fill %s: %w", f.ID, err)
	}
	p.qty, p.cash, p.fees = qty, cash, fees
	p.fills++
	b.fills.add(f, proven)
	return true, nil
}

// Forget drops the fills of an order: none of them may be applied again.
func (b *Book) Forget(clientOrderID string) { b.fills.forget(clientOrderID) }

// Mark values the position at the side of the quote at which it could be closed:
// the bid when long or flat, the ask when short. An empty side leaves the mark as
// it was. A position that does not exist is left alone.
func (b *Book) Mark(k Key, q Quote) error {
	p, ok := b.positions[k]
	if !ok {
		return nil
	}
	price, s := q.Bid, bidSide
	if p.qty.Sign() < 0 {
		price, s = q.Ask, askSide
	}
	if price.Sign() <= 0 {
		return nil
	}
	if _, err := Mul(p.qty, price); err != nil {
		return fmt.Errorf("marking %s %s: %w", k.Venue, k.Symbol, err)
	}
	p.mark, p.markID, p.markSide = event.Some(price), q.ID, s
	return nil
}

// total is Cash + Qty x Mark - Fees. It is absent when the position is open and
// has no mark of the side that would close it.
func (p *position) total() (event.NullDecimal, error) {
	if !p.marked() {
		return p.totalAt(event.NullDecimal{})
	}
	return p.totalAt(p.mark)
}

// totalAt is the same at another mark.
func (p *position) totalAt(mark event.NullDecimal) (event.NullDecimal, error) {
	net, err := Sub(p.cash, p.fees)
	if err != nil {
		return event.NullDecimal{}, err
	}
	if p.qty.IsZero() {
		return event.Some(net), nil
	}
	if !mark.Valid {
		return event.NullDecimal{}, nil
	}
	value, err := Mul(p.qty, mark.Decimal)
	if err != nil {
		return event.NullDecimal{}, err
	}
	t, err := Add(net, value)
	return event.Some(t), err
}

// marked reports whether the mark is of the side that would close the position.
func (p *position) marked() bool {
	want := bidSide
	if p.qty.Sign() < 0 {
		want = askSide
	}
	return p.mark.Valid && p.markSide == want
}

// Record returns the next record of the position, with the next version.
func (b *Book) Record(k Key, now int64, from event.Lineage) (*event.Position, error) {
	p, ok := b.positions[k]
	if !ok {
		return nil, fmt.Errorf("recording position of %s in %s %s: there is none", k.Account, k.Venue, k.Symbol)
	}
	p.roll(now)
	total, err := p.total()
	if err != nil {
		return nil, fmt.Errorf("valuing position of %s in %s %s: %w", k.Account, k.Venue, k.Symbol, err)
	}
	r := &event.Position{
		ID: event.PositionID(k.Account, k.Strategy, k.Venue, k.Symbol, p.version), Account: k.Account, Strategy: k.Strategy, Venue: k.Venue, Symbol: k.Symbol,
		QuoteCurrency: p.currency, Qty: p.qty, Cash: p.cash, Fees: p.fees, Total: total,
		Fills: p.fills, Version: p.version, Time: now, Lineage: from,
	}
	if p.marked() {
		r.Mark, r.MarkID = p.mark, p.markID
	}
	p.version++
	p.recordedFills = p.fills
	p.tell(total)
	return r, nil
}

// tell notes the total of a record.
func (p *position) tell(total event.NullDecimal) {
	if !total.Valid {
		return
	}
	p.recorded = total
	if !p.base.Valid {
		p.base = total
	}
}

// Restore takes versions, marks and the day's base from a record, in the order
// they were written. Quantities and money come from the fills, which Apply must
// be given as well.
func (b *Book) Restore(r *event.Position) {
	p := b.at(Key{r.Account, r.Strategy, r.Venue, r.Symbol}, r.QuoteCurrency, r.Time)
	if r.Version < p.version {
		return // a second copy
	}
	p.roll(r.Time)
	p.currency = r.QuoteCurrency
	p.version, p.recordedFills = r.Version+1, r.Fills
	p.tell(r.Total)
	if r.Mark.Valid {
		p.mark, p.markID, p.markSide = r.Mark, r.MarkID, bidSide
		if r.Qty.Sign() < 0 {
			p.markSide = askSide
		}
	}
}

// Keys lists the positions in order; with open set only those that hold
// something.
func (b *Book) Keys(open bool) []Key {
	keys := make([]Key, 0, len(b.positions))
	for k, p := range b.positions {
		if !open || !p.qty.IsZero() {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, Key.Compare)
	return keys
}

// Behind lists the positions that hold fills which no record tells of, as after
// a crash between the two.
func (b *Book) Behind() []Key {
	var keys []Key
	for k, p := range b.positions {
		if p.fills != p.recordedFills {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, Key.Compare)
	return keys
}

// Qty is the signed holding of one position.
func (b *Book) Qty(k Key) event.Decimal {
	if p, ok := b.positions[k]; ok {
		return p.qty
	}
	return event.Decimal{}
}

// Net is the account's signed holding of an instrument over all strategies.
func (b *Book) Net(account, venue, symbol string) (event.Decimal, error) {
	var sum event.Decimal
	var err error
	for k, p := range b.positions {
		if k.Account == account && k.Venue == venue && k.Symbol == symbol {
			if sum, err = Add(sum, p.qty); err != nil {
				return sum, err
			}
		}
	}
	return sum, nil
}

// DayPnL is what the account gained since the UTC day of now began, by currency, with
// every open position at the quote that last returns for it, or at its last mark where
// that has no such side; last is nil for the marks alone. A currency is absent when an
// open position in it has neither: then nobody can tell. Currencies in which the account
// never had a position are not in the map.
func (b *Book) DayPnL(account string, now int64, last func(venue, symbol string) (bid, ask event.Decimal)) (map[string]event.NullDecimal, error) {
	sums := make(map[string]event.NullDecimal)
	for k, p := range b.positions {
		if k.Account != account {
			continue
		}
		sum, ok := sums[p.currency]
		if !ok {
			sum = event.Some(event.Decimal{})
		}
		p.roll(now)
		total, err := p.totalNow(last)
		if err != nil {
			return nil, err
		}
		if !sum.Valid || !total.Valid || !p.base.Valid {
			sums[p.currency] = event.NullDecimal{}
			continue
		}
		gain, err := Sub(total.Decimal, p.base.Decimal)
		if err == nil {
			sum.Decimal, err = Add(sum.Decimal, gain)
		}
		if err != nil {
			return nil, err
		}
		sums[p.currency] = sum
	}
	return sums, nil
}

// totalNow is total at the quote's side that would close the position, if there
// is one.
func (p *position) totalNow(last func(venue, symbol string) (bid, ask event.Decimal)) (event.NullDecimal, error) {
	if last == nil || p.qty.IsZero() {
		return p.total()
	}
	price, ask := last(p.key.Venue, p.key.Symbol)
	if p.qty.Sign() < 0 {
		price = ask
	}
	if price.Sign() <= 0 {
		return p.total()
	}
	return p.totalAt(event.Some(price))
}

package ledger

import (
	"fmt"

	"github.com/autohedge/autohedge/stream/event"
)

// Saved is a Book as it is stored, exactly.
type Saved struct {
	Positions []SavedPosition `json:"positions"`
	// Fills are those that were applied, by client order id.
	Fills map[string][]Fill `json:"fills"`
}

// SavedPosition is one position of a Book. Money is in quote currency; an absent
// decimal is one that was not known.
type SavedPosition struct {
	Key
	Currency string            `json:"currency"`
	Qty      event.Decimal     `json:"qty"` // signed, base currency
	Cash     event.Decimal     `json:"cash"`
	Fees     event.Decimal     `json:"fees"`
	Fills    uint64            `json:"fills"`
	Mark     event.NullDecimal `json:"mark"`
	MarkID   string            `json:"mark_id"`
	MarkSide uint8             `json:"mark_side"`
	Version  uint64            `json:"version"`
	// RecordedFills and Recorded are the last record's; Base is what Recorded was
	// when the UTC day number Day began.
	RecordedFills uint64            `json:"recorded_fills"`
	Recorded      event.NullDecimal `json:"recorded"`
	Base          event.NullDecimal `json:"base"`
	Day           int64             `json:"day"`
}

// Save returns what the book holds, positions in order. The fills are the book's own.
func (b *Book) Save() Saved {
	out := Saved{Fills: b.fills.orders}
	for _, k := range b.Keys(false) {
		p := b.positions[k]
		out.Positions = append(out.Positions, SavedPosition{
			Key: k, Currency: p.currency, Qty: p.qty, Cash: p.cash, Fees: p.fees, Fills: p.fills,
			Mark: p.mark, MarkID: p.markID, MarkSide: uint8(p.markSide), Version: p.version,
			RecordedFills: p.recordedFills, Recorded: p.recorded, Base: p.base, Day: p.day,
		})
	}
	return out
}

// Load makes a book of what Save returned.
func Load(s Saved) (*Book, error) {
	b := NewBook()
	for _, p := range s.Positions {
		if _, twice := b.positions[p.Key]; twice || p.MarkSide > uint8(askSide) {
			return nil, fmt.Errorf("loading positions: that of %s in %s %s is there twice or has no side of a quote", p.Account, p.Venue, p.Symbol)
		}
		b.positions[p.Key] = &position{
			key: p.Key, currency: p.Currency, qty: p.Qty, cash: p.Cash, fees: p.Fees, fills: p.Fills,
			mark: p.Mark, markID: p.MarkID, markSide: side(p.MarkSide), version: p.Version,
			recordedFills: p.RecordedFills, recorded: p.Recorded, base: p.Base, day: p.Day,
		}
	}
	if err := b.fills.load(s.Fills); err != nil {
		return nil, err
	}
	return b, nil
}

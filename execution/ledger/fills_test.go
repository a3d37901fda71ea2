package ledger

import (
	"errors"
	"strings"
	"testing"

	"github.com/autohedge/autohedge/stream/event"
)

// Within an order a fill is recognised by its execution id, whatever id the record
// has; of another order the same execution id is another fill.
func TestFillsAreRecognised(t *testing.T) {
	fill := func(id byte, order, exec, qty, price string) *event.Fill {
		return &event.Fill{ID: event.ID{id}, ExecID: exec, ClientOrderID: order, Account: "a", Strategy: "s", Venue: "v", Symbol: "X", Side: event.Buy, Price: dec(price), Qty: dec(qty)}
	}
	b := NewBook()
	for _, c := range []struct {
		name     string
		fill     *event.Fill
		applied  bool
		conflict string
	}{
		{"the first", fill(1, "o1", "X1", "1", "10"), true, ""},
		{"again", fill(1, "o1", "X1", "1", "10"), false, ""},
		{"again, under the id that this build gives", fill(2, "o1", "X1", "1.0", "10.0"), false, ""},
		{"the same execution id of another order", fill(3, "o2", "X1", "2", "11"), true, ""},
		{"another quantity", fill(1, "o1", "X1", "2", "10"), false, "buy 1 at 10, and now is buy 2 at 10"},
		{"another price", fill(1, "o1", "X1", "1", "11"), false, "buy 1 at 10, and now is buy 1 at 11"},
		{"another order", fill(1, "o3", "X9", "1", "10"), false, "recorded for order o1, and now is execution X9 of order o3"},
	} {
		applied, err := b.Apply(c.fill, "USD")
		if applied != c.applied || errors.Is(err, ErrConflict) != (c.conflict != "") || (err != nil && !strings.Contains(err.Error(), c.conflict)) {
			t.Errorf("%s: applied %v, %v", c.name, applied, err)
		}
	}
	sell := fill(1, "o1", "X1", "1", "10")
	sell.Side = event.Sell
	if _, err := b.Apply(sell, "USD"); !errors.Is(err, ErrConflict) {
		t.Errorf("another side: %v", err)
	}
	again, err := Load(b.Save())
	if err != nil {
		t.Fatal(err)
	}
	for _, book := range []*Book{b, again} {
		notional, err := book.Notional("o2")
		if book.Proven("o1").Cmp(dec("1")) != 0 || book.Proven("o2").Cmp(dec("2")) != 0 || err != nil || notional.Cmp(dec("22")) != 0 {
			t.Errorf("proven %s and %s, worth %s (%v)", book.Proven("o1"), book.Proven("o2"), notional, err)
		}
		book.Forget("o1")
		if !book.Proven("o1").IsZero() || len(book.Save().Fills) != 1 {
			t.Error("a forgotten order is remembered")
		}
	}
}

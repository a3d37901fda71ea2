package ledger

import (
	"fmt"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/autohedge/autohedge/stream/event"
)

var dec = event.MustDecimal

// rat is the naive arithmetic the book is compared with.
func rat(d event.Decimal) *big.Rat {
	r, ok := new(big.Rat).SetString(d.String())
	if !ok {
		panic("not a number: " + d.String())
	}
	return r
}

func genFill(t *rapid.T, i int) *event.Fill {
	side := event.Buy
	if rapid.Bool().Draw(t, "sell") {
		side = event.Sell
	}
	price := event.NewDecimal(rapid.Int64Range(1, 1e9).Draw(t, "price"), uint8(rapid.IntRange(0, 9).Draw(t, "price scale")))
	qty := event.NewDecimal(rapid.Int64Range(1, 1e8).Draw(t, "qty"), uint8(rapid.IntRange(0, 9).Draw(t, "qty scale")))
	fee := event.NewDecimal(rapid.Int64Range(0, 1e9).Draw(t, "fee"), 8)
	return &event.Fill{
		ID: event.FillID("v", "X", fmt.Sprint(i), "", ""), ClientOrderID: fmt.Sprint(i), Account: "a", Strategy: rapid.SampledFrom([]string{"s", "t"}).Draw(t, "strategy"),
		Venue: "v", Symbol: rapid.SampledFrom([]string{"X", "Y"}).Draw(t, "symbol"), Side: side, Price: price, Qty: qty, FeeQuote: fee,
		Time: int64(i) * int64(time.Hour),
	}
}

// TestBookEqualsNaiveSums compares positions with plain sums in rational numbers,
// whatever fills come twice, and shows that a book restored in the middle goes on
// with the same records as one that never stopped.
func TestBookEqualsNaiveSums(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 30).Draw(t, "fills")
		cut := rapid.IntRange(0, n).Draw(t, "restart after")
		type sums struct{ qty, cash, fees *big.Rat }
		want := map[Key]*sums{}
		whole, restarted := NewBook(), NewBook()
		var fills []*event.Fill
		var records []*event.Position
		for i := range n {
			f := genFill(t, i)
			fills = append(fills, f)
			if i == cut { // restart: records and fills are all that is left
				restarted = NewBook()
				for _, r := range records {
					restarted.Restore(r)
				}
				for _, old := range fills[:i] {
					if ok, err := restarted.Apply(old, "USD"); err != nil || !ok {
						t.Fatalf("restoring fill: %v %v", ok, err)
					}
				}
				if b := restarted.Behind(); len(b) != 0 {
					t.Fatalf("behind after a clean restart: %v", b)
				}
			}
			for range rapid.IntRange(1, 2).Draw(t, "copies") {
				for _, b := range []*Book{whole, restarted} {
					if _, err := b.Apply(f, "USD"); err != nil {
						t.Fatal(err)
					}
				}
			}
			k := Key{f.Account, f.Strategy, f.Venue, f.Symbol}
			w := want[k]
			if w == nil {
				w = &sums{new(big.Rat), new(big.Rat), new(big.Rat)}
				want[k] = w
			}
			sign := big.NewRat(1, 1)
			if f.Side == event.Sell {
				sign.Neg(sign)
			}
			signed := new(big.Rat).Mul(sign, rat(f.Qty))
			w.qty.Add(w.qty, signed)
			w.cash.Sub(w.cash, new(big.Rat).Mul(signed, rat(f.Price)))
			w.fees.Add(w.fees, rat(f.FeeQuote))

			q := Quote{Bid: event.NewDecimal(rapid.Int64Range(1, 1e9).Draw(t, "bid"), 4), ID: fmt.Sprint("q", i)}
			q.Ask = q.Bid
			var recs [2]*event.Position
			for j, b := range []*Book{whole, restarted} {
				if err := b.Mark(k, q); err != nil {
					t.Fatal(err)
				}
				var err error
				if recs[j], err = b.Record(k, f.Time, event.Lineage{}); err != nil {
					t.Fatal(err)
				}
			}
			r := recs[0]
			if *r != *recs[1] {
				t.Fatalf("restarted book differs:\n%+v\n%+v", *r, *recs[1])
			}
			all1, err1 := whole.DayPnL("a", f.Time, nil)
			all2, err2 := restarted.DayPnL("a", f.Time, nil)
			d1, d2 := all1["USD"], all2["USD"]
			if err1 != nil || err2 != nil || len(all1) != len(all2) || d1.Valid != d2.Valid || d1.Decimal.Cmp(d2.Decimal) != 0 {
				t.Fatalf("day's profit differs: %v %v, %v %v", d1, d2, err1, err2)
			}
			records = append(records, r)
			if rat(r.Qty).Cmp(w.qty) != 0 || rat(r.Cash).Cmp(w.cash) != 0 || rat(r.Fees).Cmp(w.fees) != 0 {
				t.Fatalf("position %v: got %s %s %s, want %s %s %s", k, r.Qty, r.Cash, r.Fees, w.qty, w.cash, w.fees)
			}
			total := new(big.Rat).Sub(w.cash, w.fees)
			total.Add(total, new(big.Rat).Mul(w.qty, rat(q.Bid)))
			if !r.Total.Valid || rat(r.Total.Decimal).Cmp(total) != 0 {
				t.Fatalf("total: got %s, want %s", r.Total, total)
			}
			net, err := whole.Net("a", "v", f.Symbol)
			if err != nil {
				t.Fatal(err)
			}
			sum := new(big.Rat)
			for k, w := range want {
				if k.Symbol == f.Symbol {
					sum.Add(sum, w.qty)
				}
			}
			if rat(net).Cmp(sum) != 0 {
				t.Fatalf("net: got %s, want %s", net, sum)
			}
		}
	})
}

func TestMulRefusesWhatItWouldTruncate(t *testing.T) {
	if got, err := Mul(dec("1.0000000000"), dec("2.5000000000")); err != nil || got.Cmp(dec("2.5")) != 0 {
		t.Errorf("trailing zeros: got %s, %v", got, err)
	}
	if got, err := Mul(dec("0.0000000001"), dec("0.0000000003")); err == nil {
		t.Errorf("20 decimals: got %s, want an error", got)
	}
	if got, err := Mul(dec("99999999999999999999"), dec("10")); err == nil {
		t.Errorf("21 digits: got %s, want an error", got)
	}
	f := &event.Fill{ID: event.ID{1}, Side: event.Buy, Price: dec("0.0000000001"), Qty: dec("0.0000000001")}
	b := NewBook()
	if _, err := b.Apply(f, "USD"); err == nil || len(b.Keys(false)) != 0 || !b.Proven("").IsZero() {
		t.Errorf("a fill that cannot be held changed the book: %v", err)
	}
}

func TestMarkIsTheClosingSide(t *testing.T) {
	k := Key{"a", "s", "v", "X"}
	q := Quote{Bid: dec("99"), Ask: dec("101"), ID: "q1"}
	fill := func(id byte, side event.Side, qty string) *event.Fill {
		return &event.Fill{ID: event.ID{id}, Account: "a", Strategy: "s", Venue: "v", Symbol: "X", Side: side, Price: dec("100"), Qty: dec(qty)}
	}
	b := NewBook()
	steps := []struct {
		f           *event.Fill
		mark, total string
	}{
		{fill(1, event.Buy, "2"), "99", "-2"},
		{fill(2, event.Sell, "3"), "101", "-1"},
		{fill(3, event.Buy, "1"), "99", "0"},
	}
	for i, s := range steps {
		if _, err := b.Apply(s.f, "USD"); err != nil {
			t.Fatal(err)
		}
		if i == 1 { // the old mark is of the wrong side: no value rather than a wrong one
			if got, err := b.DayPnL("a", 0, nil); err != nil || got["USD"].Valid {
				t.Errorf("profit with a mark of the wrong side: %v %v", got, err)
			}
			last := func(string, string) (bid, ask event.Decimal) { return q.Bid, q.Ask }
			if got, err := b.DayPnL("a", 0, last); err != nil || got["USD"].String() != "-1" {
				t.Errorf("profit at the last quote: %v %v, want -1", got, err)
			}
			empty := func(string, string) (bid, ask event.Decimal) { return q.Bid, event.Decimal{} }
			if got, err := b.DayPnL("a", 0, empty); err != nil || got["USD"].Valid {
				t.Errorf("profit at a quote without the side: %v %v", got, err)
			}
		}
		if err := b.Mark(k, q); err != nil {
			t.Fatal(err)
		}
		if err := b.Mark(k, Quote{ID: "empty"}); err != nil { // an empty book moves nothing
			t.Fatal(err)
		}
		r, err := b.Record(k, 0, event.Lineage{})
		if err != nil {
			t.Fatal(err)
		}
		if r.Mark.Decimal.Cmp(dec(s.mark)) != 0 || r.Total.Decimal.Cmp(dec(s.total)) != 0 || r.MarkID != "q1" || r.Version != uint64(i) {
			t.Errorf("step %d: mark %s total %s id %s version %d, want %s %s", i, r.Mark, r.Total, r.MarkID, r.Version, s.mark, s.total)
		}
	}
}

func TestDayBeginsWithTheLastRecord(t *testing.T) {
	day := int64(24 * time.Hour)
	k := Key{"a", "s", "v", "X"}
	b := NewBook()
	if _, err := b.Apply(&event.Fill{ID: event.ID{1}, Account: "a", Strategy: "s", Venue: "v", Symbol: "X", Side: event.Buy, Price: dec("100"), Qty: dec("1"), Time: day - 2}, "USD"); err != nil {
		t.Fatal(err)
	}
	mark := func(bid string, now int64) *event.Position {
		t.Helper()
		if err := b.Mark(k, Quote{Bid: dec(bid), Ask: dec(bid), ID: bid}); err != nil {
			t.Fatal(err)
		}
		r, err := b.Record(k, now, event.Lineage{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	want := func(b *Book, now int64, pnl string) {
		t.Helper()
		all, err := b.DayPnL("a", now, nil)
		got := all["USD"]
		if err != nil || !got.Valid || got.Decimal.Cmp(dec(pnl)) != 0 {
			t.Errorf("day's profit is %s (%v), want %s", got, err, pnl)
		}
	}
	r1 := mark("90", day-1)
	want(b, day-1, "-10")
	want(b, day, "0") // a new day begins
	r2 := mark("87", day+1)
	want(b, day+1, "-3")

	again := NewBook()
	again.Restore(r1)
	again.Restore(r2)
	if _, err := again.Apply(&event.Fill{ID: event.ID{1}, Account: "a", Strategy: "s", Venue: "v", Symbol: "X", Side: event.Buy, Price: dec("100"), Qty: dec("1"), Time: day - 2}, "USD"); err != nil {
		t.Fatal(err)
	}
	want(again, day+2, "-3")
}

// TestDayBeginsWithoutAMark: a position that has no mark at midnight has a day's profit
// again once it has one, counted from what was last known, also after a restart.
func TestDayBeginsWithoutAMark(t *testing.T) {
	day := int64(24 * time.Hour)
	k := Key{"a", "s", "v", "X"}
	buy := &event.Fill{ID: event.ID{1}, Account: "a", Strategy: "s", Venue: "v", Symbol: "X", Side: event.Buy, Price: dec("100"), Qty: dec("1"), Time: day - 2}
	b := NewBook()
	if _, err := b.Apply(buy, "USD"); err != nil {
		t.Fatal(err)
	}
	r1, err := b.Record(k, day-1, event.Lineage{}) // no mark: no total
	if err != nil || r1.Total.Valid {
		t.Fatalf("total %s, %v", r1.Total, err)
	}
	if got, err := b.DayPnL("a", day, nil); err != nil || got["USD"].Valid {
		t.Fatalf("profit without a mark: %v, %v", got, err)
	}
	if err := b.Mark(k, Quote{Bid: dec("97"), Ask: dec("97"), ID: "q"}); err != nil {
		t.Fatal(err)
	}
	r2, err := b.Record(k, day+1, event.Lineage{})
	if err != nil {
		t.Fatal(err)
	}
	again := NewBook()
	again.Restore(r1)
	again.Restore(r2)
	if _, err := again.Apply(buy, "USD"); err != nil {
		t.Fatal(err)
	}
	for name, book := range map[string]*Book{"running": b, "restarted": again} {
		if got, err := book.DayPnL("a", day+2, nil); err != nil || got["USD"].String() != "-3" {
			t.Errorf("%s: the day's profit is %v, %v, want -3", name, got, err)
		}
	}
}

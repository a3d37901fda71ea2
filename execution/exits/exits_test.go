package exits

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/event"
)

var (
	update = flag.Bool("update", false, "write the expected output into testdata")
	dec    = event.MustDecimal
	key    = ledger.Key{Account: "paper", Strategy: "s", Venue: "binance", Symbol: "BTCUSDT"}
)

// TestScripts runs testdata/*.txt: lines that begin with "> " are what happens to one
// position, the lines under them the lots, or what triggers them.
//
//	> at DURATION                               the time from now on
//	> tick STEP                                 of prices
//	> adopt QTY                                 held before there were lots, signed
//	> fill ORDER SIDE QTY@PRICE [entry|flatten] [stop=BPS] [target=BPS] [horizon=DURATION] [lot=ORDER]
//	> exit LOT ATTEMPT LEG [STATE [FILLED]]     the first entry of an exit, and its last
//	> quote BID ASK
//	> restart                                   save and load
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s := script{t: t, b: NewBook(), tick: dec("0.01")}
		lines := bufio.NewScanner(strings.NewReader(string(text)))
		for lines.Scan() {
			line := lines.Text()
			command, is := strings.CutPrefix(line, "> ")
			if is || line == "" || strings.HasPrefix(line, "#") {
				s.out.WriteString(line + "\n")
			}
			if is {
				s.run(strings.Fields(command))
			}
		}
		got := s.out.String()
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if diff := cmp.Diff(string(text), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}

type script struct {
	t    *testing.T
	b    *Book
	tick event.Decimal
	now  int64
	out  strings.Builder
}

func (s *script) run(words []string) {
	s.t.Helper()
	switch words[0] {
	case "at":
		s.now = int64(s.duration(words[1]))
		s.triggers(nil)
	case "tick":
		s.tick = dec(words[1])
	case "adopt":
		s.b.Adopt(key, dec(words[1]))
		s.show()
	case "fill":
		f, terms := s.fill(words[1:])
		if err := s.b.Apply(f, terms); err != nil {
			s.t.Fatal(err)
		}
		s.show()
	case "exit":
		s.exit(words[1:])
		s.show()
	case "quote":
		s.triggers(&Quote{Bid: dec(words[1]), Ask: dec(words[2])})
	case "restart":
		s.b = restart(s.t, s.b)
		s.show()
	default:
		s.t.Fatalf("unknown command %v", words)
	}
}

func (s *script) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *script) fill(words []string) (*event.Fill, Terms) {
	f := &event.Fill{ClientOrderID: words[0], Account: key.Account, Strategy: key.Strategy, Venue: key.Venue, Symbol: key.Symbol, Time: s.now}
	if err := f.Side.UnmarshalText([]byte(words[1])); err != nil {
		s.t.Fatal(err)
	}
	qty, price, _ := strings.Cut(words[2], "@")
	f.Qty, f.Price = dec(qty), dec(price)
	terms := Terms{Leg: event.LegEntry, Decision: event.HashStrings(words[0])}
	for _, w := range words[3:] {
		name, value, has := strings.Cut(w, "=")
		n, err := strconv.Atoi(value)
		switch {
		case !has:
			err = terms.Leg.UnmarshalText([]byte(name))
		case name == "stop":
			terms.StopBps = uint32(n)
		case name == "target":
			terms.TargetBps = uint32(n)
		case name == "horizon":
			terms.Horizon, err = int64(s.duration(value)), nil
		case name == "lot":
			terms.Lot, err = value, nil
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return f, terms
}

func (s *script) exit(words []string) {
	attempt, err := strconv.ParseUint(words[1], 10, 32)
	if err != nil {
		s.t.Fatal(err)
	}
	e := &event.OrderEvent{Lot: words[0], Attempt: uint32(attempt), State: event.OrderSubmitting, Cause: "cause", Time: s.now}
	if err := e.Leg.UnmarshalText([]byte(words[2])); err != nil {
		s.t.Fatal(err)
	}
	s.b.Order(e)
	if len(words) > 3 {
		e.Seq++
		if err := e.State.UnmarshalText([]byte(words[3])); err != nil {
			s.t.Fatal(err)
		}
		if len(words) > 4 {
			e.FilledQty = dec(words[4])
		}
		s.b.Order(e)
	}
}

func (s *script) show() {
	for _, l := range s.b.Lots() {
		fmt.Fprintf(&s.out, "%s %s %s", l.ID, l.Side, l.Qty)
		v := l.Levels(s.tick)
		if v.Stop.Valid {
			fmt.Fprintf(&s.out, " stop %s", v.Stop)
		}
		if v.Target.Valid {
			fmt.Fprintf(&s.out, " target %s", v.Target)
		}
		if v.Due > 0 {
			fmt.Fprintf(&s.out, " due %s", time.Duration(v.Due))
		}
		if t := s.b.Tries(l.ID); t.Begun > 0 {
			fmt.Fprintf(&s.out, " %s begun %d at %s judged %d misses %d", t.Leg, t.Begun, time.Duration(t.BegunAt), t.Judged, t.Misses)
		}
		s.out.WriteByte('\n')
	}
	sum, err := s.b.Sum(key)
	if err != nil {
		s.t.Fatal(err)
	}
	fmt.Fprintf(&s.out, "= %s\n", sum)
}

func (s *script) triggers(q *Quote) {
	for _, l := range s.b.Lots() {
		if leg, cause := l.Levels(s.tick).Check(l.Long(), q, s.now); leg != event.LegUnset {
			fmt.Fprintf(&s.out, "%s %s: %s\n", l.ID, leg, cause)
		}
	}
}

func restart(t testing.TB, b *Book) *Book {
	t.Helper()
	text, err := json.Marshal(b.Save())
	if err != nil {
		t.Fatal(err)
	}
	var saved Saved
	if err := json.Unmarshal(text, &saved); err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(&saved)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

// TestRestarts: whatever fills come, the lots are of one side, add up to the position,
// and are the same where the book was saved and loaded in between.
func TestRestarts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		straight, restarted, positions := NewBook(), NewBook(), ledger.NewBook()
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			f := &event.Fill{
				ID: event.HashStrings("fill", strconv.Itoa(i)), ExecID: strconv.Itoa(i), ClientOrderID: "o" + strconv.Itoa(rapid.IntRange(0, 9).Draw(t, "order")), Account: key.Account,
				Strategy: rapid.SampledFrom([]string{"s", "t"}).Draw(t, "strategy"), Venue: key.Venue, Symbol: key.Symbol, Side: rapid.SampledFrom([]event.Side{event.Buy, event.Sell}).Draw(t, "side"),
				Qty: event.NewDecimal(rapid.Int64Range(1, 50).Draw(t, "qty"), 2), Price: event.NewDecimal(rapid.Int64Range(1, 1e6).Draw(t, "price"), 3), Time: int64(i),
			}
			f.ClientOrderID += f.Strategy
			terms := Terms{Leg: event.LegEntry, Decision: event.HashStrings(f.ClientOrderID), StopBps: 50, TargetBps: 70, Horizon: 9}
			if lots := straight.Of(ledger.Key{Account: f.Account, Strategy: f.Strategy, Venue: f.Venue, Symbol: f.Symbol}); len(lots) > 0 && rapid.Bool().Draw(t, "exit") {
				terms = Terms{Leg: event.LegStop, Lot: lots[rapid.IntRange(0, len(lots)-1).Draw(t, "lot")].ID}
				f.ClientOrderID = "exit" + strconv.Itoa(i)
				e := &event.OrderEvent{Lot: terms.Lot, Leg: terms.Leg, Attempt: uint32(i + 1), State: event.OrderSubmitting}
				straight.Order(e)
				restarted.Order(e)
			}
			if _, err := positions.Apply(f, "USDT"); err != nil {
				t.Fatal(err)
			}
			for _, b := range []*Book{straight, restarted} {
				if err := b.Apply(f, terms); err != nil {
					t.Fatal(err)
				}
			}
			if rapid.Bool().Draw(t, "restart") {
				loaded, err := Load(restarted.Save())
				if err != nil {
					t.Fatal(err)
				}
				restarted = loaded
			}
			if diff := cmp.Diff(straight.Save(), restarted.Save(), cmp.AllowUnexported(event.Decimal{})); diff != "" {
				t.Fatalf("after a restart the lots are others (-without +with):\n%s", diff)
			}
			for _, k := range positions.Keys(false) {
				sum, err := straight.Sum(k)
				if err != nil || sum.Cmp(positions.Qty(k)) != 0 {
					t.Fatalf("the lots add up to %s, %v; the position is %s", sum, err, positions.Qty(k))
				}
				for _, l := range straight.Of(k) {
					if l.Side != straight.Of(k)[0].Side || l.Qty.Sign() <= 0 || l.Qty.Cmp(l.Entered) > 0 {
						t.Fatalf("lot %+v beside %+v", l, straight.Of(k)[0])
					}
				}
			}
		}
	})
}

func TestUsableQuotes(t *testing.T) {
	const now = int64(time.Minute)
	for _, c := range []struct {
		name       string
		q          Quote
		references []string
		sell, buy  bool // usable for
	}{
		{"no other price", Quote{dec("100"), dec("100.1"), now}, nil, false, false},
		{"inside", Quote{dec("99.5"), dec("99.6"), now}, []string{"100"}, true, true},
		{"inside one of two, as in a crash", Quote{dec("95"), dec("95.1"), now}, []string{"100", "95.05"}, true, true},
		{"wide in a crash: the bid agrees with the last trade", Quote{dec("95"), dec("99.8"), now}, []string{"95.05"}, true, false},
		{"wide in a crash: each side agrees with a price", Quote{dec("95"), dec("99.8"), now}, []string{"100", "95.05"}, true, true},
		{"at the edge of a mean", Quote{dec("99.01"), dec("100.009999999999999999"), now}, []string{"100.010101010101010102"}, false, true},
		{"at the edge", Quote{dec("99"), dec("99.5"), now}, []string{"100"}, true, true},
		{"beyond the edge", Quote{dec("98.99"), dec("99.5"), now}, []string{"100"}, false, true},
		{"a bad tick", Quote{dec("0.99"), dec("0.99"), now}, []string{"100", "100.2"}, false, false},
		{"one side", Quote{dec("0"), dec("100"), now}, []string{"100"}, false, false},
		{"crossed", Quote{dec("100.1"), dec("100"), now}, []string{"100"}, false, false},
		{"as old as may be", Quote{dec("100"), dec("100.1"), now - int64(5*time.Second)}, []string{"100"}, true, true},
		{"old", Quote{dec("100"), dec("100.1"), now - int64(5*time.Second) - 1}, []string{"100"}, false, false},
		{"ahead", Quote{dec("100"), dec("100.1"), now + int64(time.Second) + 1}, []string{"100"}, false, false},
	} {
		var references []event.Decimal
		for _, r := range c.references {
			references = append(references, dec(r))
		}
		for side, usable := range map[event.Side]bool{event.Sell: c.sell, event.Buy: c.buy} {
			if why := c.q.Unusable(side, now, 5*time.Second, time.Second, dec("100"), references); (why == "") != usable {
				t.Errorf("%s, to %s: %q", c.name, side, why)
			}
		}
	}
}

func TestPrices(t *testing.T) {
	q := &Quote{Bid: dec("100.00"), Ask: dec("100.02")}
	for _, c := range []struct {
		side event.Side
		band uint32
		tick string
		want string
	}{
		{event.Sell, 10, "0.01", "99.9"}, {event.Sell, 10, "0.07", "99.96"}, {event.Buy, 10, "0.01", "100.12"}, {event.Buy, 10, "0", "100.12002"},
		{event.Sell, 0, "0.01", "100"}, {event.Sell, 1, "5", "100"}, {event.Buy, 1, "5", "100.02"}, {event.Sell, 10_000, "0.01", ""},
	} {
		if got := Limit(c.side, q, c.band, dec(c.tick)); got.String() != c.want && got.Decimal.Cmp(dec("0"+c.want)) != 0 {
			t.Errorf("%s with band %d and tick %s: %s, want %s", c.side, c.band, c.tick, got, c.want)
		}
	}
	bands := ""
	for misses := range uint32(6) {
		bands += fmt.Sprint(Band(10, 60, misses), Exhausted(10, 60, misses), " ")
	}
	if want := "10 false 20 false 40 false 60 false 60 true 60 true "; bands != want {
		t.Errorf("bands are %q, want %q", bands, want)
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		side                           event.Side
		qty, own, ownWork, net, netWrk string
		want                           string
		cut                            bool
	}{
		{event.Sell, "1", "2", "0", "2", "0", "1", false},
		{event.Sell, "1", "2", "1.5", "2", "1.5", "0.5", true},
		{event.Sell, "1", "2", "0", "0.4", "0", "0.4", true},
		{event.Sell, "1", "2", "0", "1.4", "0.9", "0.5", true},
		{event.Sell, "1", "2", "0", "-1", "0", "0", true},
		{event.Sell, "1", "2", "0", "0", "0", "0", true},
		{event.Sell, "1", "2", "3", "2", "3", "0", true},
		{event.Buy, "1", "-2", "0", "-2", "0", "1", false},
		{event.Buy, "1", "-2", "0", "1", "0", "0", true},
	} {
		got, cut, err := Fit(c.side, dec(c.qty), Holding{Own: dec(c.own), OwnWorking: dec(c.ownWork), Net: dec(c.net), NetWorking: dec(c.netWrk)})
		if err != nil || got.Cmp(dec(c.want)) != 0 || (cut != "") != c.cut {
			t.Errorf("%+v: got %s, %q, %v", c, got, cut, err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	lot := Lot{ID: "a", Key: key, Side: event.Buy, Qty: dec("1")}
	short := lot
	short.ID, short.Side = "b", event.Sell
	none := lot
	none.Qty = dec("0")
	for name, lots := range map[string][]Lot{"twice": {lot, lot}, "two sides": {lot, short}, "no quantity": {none}} {
		if _, err := Load(&Saved{Lots: lots}); err == nil {
			t.Errorf("%s: it was loaded", name)
		}
	}
}

package execution

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/execution/exits"
	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/event"
)

// history is three logs as the role writes them, made up: orders that are refused,
// filled in parts, expire or rest, and positions that are marked, over days.
type history struct {
	logs map[string][]event.Message
	rng  *rand.Rand
	book *ledger.Book
	now  int64
	open []*order
	n    int
	// lots are kept as the owner keeps them, exits counts the exits of each.
	lots  *exits.Book
	exits map[string]uint32
}

func newHistory(seed uint64) *history {
	return &history{
		logs: make(map[string][]event.Message), rng: rand.New(rand.NewPCG(seed, 1)), book: ledger.NewBook(), lots: exits.NewBook(), exits: make(map[string]uint32),
		now: time.Date(2026, 11, 26, 23, 50, 0, 0, time.UTC).UnixNano(),
	}
}

func (h *history) add(topic string, m event.Message) { h.logs[topic] = append(h.logs[topic], m) }

func (h *history) entry(e event.OrderEvent) {
	h.add(event.TopicOrders, &e)
	h.lots.Order(&e)
}

// exit begins to close a lot that no exit works on.
func (h *history) exit() {
	all := h.lots.Lots()
	if len(all) == 0 {
		return
	}
	l := all[h.rng.IntN(len(all))]
	if l.ID == "" || !l.Exits() || slices.ContainsFunc(h.open, func(o *order) bool { return o.last.Lot == l.ID }) {
		return
	}
	h.exits[l.ID]++
	leg := []event.Leg{event.LegStop, event.LegTarget, event.LegTime}[h.rng.IntN(3)]
	if t := h.lots.Tries(l.ID); t.Begun > 0 {
		leg = t.Leg
	}
	id := event.ExitOrderID(l.Decision, leg, h.exits[l.ID])
	e := event.OrderEvent{
		ID: event.OrderEventID(id, 0), ClientOrderID: id, State: event.OrderSubmitting, Broker: "paper", DecisionID: l.Decision, Account: l.Key.Account, Strategy: l.Key.Strategy,
		Venue: l.Key.Venue, Symbol: l.Key.Symbol, Side: l.Closing(), Type: event.Limit, TIF: event.IOC, Qty: l.Qty, Time: h.now, Leg: leg, Attempt: h.exits[l.ID], Cause: "made up", Lot: l.ID,
	}
	h.entry(e)
	h.open = append(h.open, restored(&e))
}

// step lets one thing happen.
func (h *history) step() {
	h.now += h.rng.Int64N(int64(20 * time.Second))
	at := stamp{now: h.now, epoch: 1}
	switch k := h.rng.IntN(12); {
	case k >= 10:
		h.exit()
	case k < 4 || len(h.open) == 0:
		h.n++
		d := &event.Decision{
			ID: event.HashStrings("decision", fmt.Sprint(h.n)), Account: []string{"paper", "second"}[h.rng.IntN(2)], Strategy: "momentum", Venue: "binance",
			Symbol: []string{"BTCUSDT", "ETHUSDT"}[h.rng.IntN(2)], Side: []event.Side{event.Buy, event.Sell}[h.rng.IntN(2)], Type: event.Market, TIF: event.IOC,
			Qty: event.Some(dec("1.50")), StopBps: 50, TargetBps: 100, Horizon: int64(time.Minute), Action: []event.Action{event.ActionLong, event.ActionFlat}[h.rng.IntN(4)/3],
		}
		e := begin(d, "paper", h.now, 1, event.Lineage{Topic: event.TopicDecisions, Offset: int64(h.n)})
		if k == 0 {
			e.State, e.Reason = event.OrderRiskRejected, "max_position"
			h.entry(e)
			return
		}
		e.State = event.OrderSubmitting
		h.entry(e)
		if k == 1 {
			h.entry(e) // a second copy
		}
		h.open = append(h.open, restored(&e))
	case k < 8:
		i := h.rng.IntN(len(h.open))
		ord := h.open[i]
		qty := dec("0.50")
		f := &event.Fill{
			ID: event.HashStrings("fill", ord.id(), fmt.Sprint(ord.last.Seq)), ExecID: fmt.Sprint(ord.last.Seq), ClientOrderID: ord.id(), Account: ord.last.Account, Strategy: ord.last.Strategy, Venue: ord.last.Venue,
			Symbol: ord.last.Symbol, Side: ord.last.Side, Price: event.NewDecimal(h.rng.Int64N(1e6)+1, 2), Qty: qty, FeeQuote: dec("0.01"), FeeCurrency: "BNB", Time: h.now,
		}
		h.add(event.TopicFills, f)
		if h.rng.IntN(20) == 0 {
			h.add(event.TopicFills, f) // a second copy
		}
		e := ord.next(event.OrderPartiallyFilled, "", "", at)
		e.FilledQty, _ = ledger.Add(e.FilledQty, qty)
		if e.FilledQty.Cmp(e.Qty) == 0 {
			e.State = event.OrderFilled
			h.open = append(h.open[:i], h.open[i+1:]...)
		}
		ord.last = e
		h.entry(e)
		if _, err := h.book.Apply(f, "USDT"); err != nil {
			panic(err)
		}
		if err := h.lots.Apply(f, exits.TermsOf(&e)); err != nil {
			panic(err)
		}
		h.record(keyOf(f))
	case k < 9:
		i := h.rng.IntN(len(h.open))
		h.entry(h.open[i].next(event.OrderExpired, "ioc", "", at))
		h.open = append(h.open[:i], h.open[i+1:]...)
	default:
		for _, k := range h.book.Keys(true) {
			if err := h.book.Mark(k, ledger.Quote{Bid: event.NewDecimal(h.rng.Int64N(1e6)+1, 2), Ask: dec("12000"), ID: fmt.Sprint(h.now)}); err != nil {
				panic(err)
			}
			h.record(k)
		}
	}
}

func (h *history) record(k ledger.Key) {
	p, err := h.book.Record(k, h.now, event.Lineage{Topic: event.TopicFills})
	if err != nil {
		panic(err)
	}
	h.add(event.TopicPositions, p)
}

// give gives the records from some lengths of the logs on up to others.
func (h *history) give(t *testing.T, s *records, to map[string]int) {
	t.Helper()
	for _, topic := range sources {
		for _, m := range h.logs[topic][s.next[topic]:to[topic]] {
			switch m := m.(type) {
			case *event.OrderEvent:
				s.order(m)
			case *event.Fill:
				s.fill(m, m.FeeCurrency) // the instrument is not known: the position says it
			case *event.Position:
				s.book.Restore(m)
			}
		}
		s.next[topic] = int64(to[topic])
	}
	s.trim()
}

func (h *history) lengths() map[string]int {
	out := make(map[string]int)
	for _, topic := range sources {
		out[topic] = len(h.logs[topic])
	}
	return out
}

func sameLife(string) event.ID { return event.ID{1} }

func encoded(t *testing.T, s *records) []byte {
	t.Helper()
	b, err := s.encode(sameLife)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Reading on from a snapshot comes to the same as reading all, wherever in the logs
// it was taken and however often.
func TestRecordsFromAnySnapshot(t *testing.T) {
	for seed := range uint64(20) {
		h := newHistory(seed)
		var cuts []map[string]int
		var lots [][]exits.Lot // as the owner has them
		for range 600 {
			h.step()
			cuts, lots = append(cuts, h.lengths()), append(lots, h.lots.Save().Lots)
		}
		whole := newRecords()
		h.give(t, whole, h.lengths())
		want := encoded(t, whole)
		on := newRecords()
		for i, at := 0, 0; at < len(cuts); i++ {
			// Fills are read no further than they were before the orders were.
			cut := maps.Clone(cuts[at])
			cut[event.TopicFills] = max(cuts[max(0, at-h.rng.IntN(4))][event.TopicFills], int(on.next[event.TopicFills]))
			h.give(t, on, cut)
			again, err := decodeRecords(encoded(t, on), sameLife)
			if err != nil {
				t.Fatal(err)
			}
			restarted, err := decodeRecords(encoded(t, on), sameLife)
			if err != nil {
				t.Fatal(err)
			}
			h.give(t, restarted, cuts[at])
			if diff := cmp.Diff(lots[at], restarted.lots.Save().Lots, cmp.AllowUnexported(event.Decimal{})); diff != "" {
				t.Fatalf("seed %d, step %d: lots as the owner has them, and after a restart (-owner +restart):\n%s", seed, at, diff)
			}
			on, at = again, at+1+h.rng.IntN(40)
		}
		h.give(t, on, h.lengths())
		if got := encoded(t, on); !bytes.Equal(got, want) {
			t.Fatalf("seed %d: read on from snapshots\n%s\nread whole\n%s", seed, got, want)
		}
		h.lots.Prune(func(lot string) bool { return whole.settled(whole.orders.of(lot)) })
		if diff := cmp.Diff(h.lots.Save(), on.lots.Save(), cmp.AllowUnexported(event.Decimal{})); diff != "" {
			t.Errorf("seed %d: lots as the owner has them, and as read from snapshots (-owner +read):\n%s", seed, diff)
		}
		if on.checkLots(); len(on.conflicts) > 0 {
			t.Errorf("seed %d: %v", seed, on.conflicts)
		}
		for _, k := range h.book.Keys(false) {
			if on.book.Qty(k).Cmp(h.book.Qty(k)) != 0 {
				t.Errorf("seed %d: %v is %s, want %s", seed, k, on.book.Qty(k), h.book.Qty(k))
			}
			for _, now := range []int64{h.now, h.now + int64(24*time.Hour)} {
				gain, err1 := on.book.DayPnL(k.Account, now, nil)
				wants, err2 := h.book.DayPnL(k.Account, now, nil)
				got, want := gain["USDT"], wants["USDT"]
				if err1 != nil || err2 != nil || got.Valid != want.Valid || got.Decimal.Cmp(want.Decimal) != 0 {
					t.Errorf("seed %d: the day's profit of %s is %v, want %v (%v, %v)", seed, k.Account, got, want, err1, err2)
				}
			}
		}
	}
}

// However many orders there were, those that are done are let go of, and those that
// are not are kept; money stays.
func TestRecordsStayBounded(t *testing.T) {
	h := newHistory(7)
	s := newRecords()
	s.orders.keepWhole, s.orders.keepKnown = 20, 50
	for i := range 20_000 {
		h.step()
		if i%100 == 0 {
			h.give(t, s, h.lengths())
			limit := 20 + len(h.open)
			if n := len(s.orders.whole); n > limit || len(s.orders.recent) != n {
				t.Fatalf("%d orders whole, %d in line; %d are open and 20 are kept", n, len(s.orders.recent), len(h.open))
			}
			if n := len(s.orders.known); n > 50+len(h.open) || len(s.orders.begun) != n {
				t.Fatalf("%d orders known, %d in line", n, len(s.orders.begun))
			}
			if n := len(s.book.Save().Fills); n > limit {
				t.Fatalf("fills of %d orders are remembered", n)
			}
			for _, ord := range h.open {
				if got := s.orders.of(ord.id()); got == nil || got.last.Seq != ord.last.Seq || !s.orders.has(ord.id()) {
					t.Fatalf("open order %s was let go of", ord.id())
				}
			}
		}
	}
	h.give(t, s, h.lengths())
	for _, k := range h.book.Keys(false) {
		if s.book.Qty(k).Cmp(h.book.Qty(k)) != 0 {
			t.Errorf("%v is %s, want %s", k, s.book.Qty(k), h.book.Qty(k))
		}
	}
}

// An order whose fills the log of fills does not hold whole is kept: the restart
// asks for it.
func TestRecordsKeepWhatIsNotSettled(t *testing.T) {
	s := newRecords()
	s.orders.keepWhole = 1
	lacking := event.OrderEvent{ClientOrderID: "lacking", State: event.OrderFilled, FilledQty: dec("1")}
	s.order(&lacking)
	for i := range 10 {
		s.order(&event.OrderEvent{ClientOrderID: fmt.Sprint(i), State: event.OrderExpired})
		s.trim()
	}
	if s.orders.of("lacking") == nil || len(s.orders.whole) > 2 {
		t.Errorf("%d orders are kept, the one that lacks fills among them: %v", len(s.orders.whole), s.orders.of("lacking") != nil)
	}
	s.fill(&event.Fill{ID: event.ID{1}, ClientOrderID: "lacking", Side: event.Buy, Price: dec("1"), Qty: dec("1")}, "USD")
	for i := range 3 {
		s.order(&event.OrderEvent{ClientOrderID: fmt.Sprint("later", i), State: event.OrderExpired})
		s.trim()
	}
	if s.orders.of("lacking") != nil || !s.orders.has("lacking") {
		t.Error("an order that is settled is kept whole, or is not known to have been begun")
	}
	// Orders that a limit refused push none out that were sent.
	for i := range 10 {
		s.order(&event.OrderEvent{ClientOrderID: fmt.Sprint("refused", i), State: event.OrderRiskRejected})
		s.trim()
	}
	if s.orders.of("later2") == nil || !s.orders.has("refused9") || len(s.orders.whole) != 1 {
		t.Errorf("%d orders are kept whole, the last that was sent among them: %v", len(s.orders.whole), s.orders.of("later2") != nil)
	}
}

// An account acts on a signal by one entry, whatever the arm of the decision, also after
// a restart.
func TestOneEntryForEachSignal(t *testing.T) {
	w := newWorld(t)
	r := w.startWithQuote()
	first := w.decide(w.decision(event.Buy, "0.01", "50000.5"))
	w.wantStates(first, "submitting accepted filled")
	again := func(arm string) *event.Decision {
		d := *first
		d.Arm, d.ID = arm, event.DecisionID(first.SignalID, first.Account, arm)
		return w.decide(&d)
	}
	w.wantStates(again("challenger"), "risk_rejected:children")
	r.drain()
	r = w.startWithQuote()
	second := again("shadow")
	w.wantStates(second, "risk_rejected:children")
	if e := w.history(second)[0]; !strings.Contains(e.Detail, event.ClientOrderID(first.ID, 0)) {
		t.Errorf("detail is %q", e.Detail)
	}
	flat := *first
	flat.Arm, flat.ID = "reducer", event.DecisionID(first.SignalID, first.Account, "reducer")
	flat.Action, flat.Side, flat.Time = event.ActionFlat, event.Sell, time.Now().UnixNano()
	w.wantStates(w.decide(&flat), "submitting accepted filled")
	r.drain()
	w.audit()
}

func TestRecordsDamaged(t *testing.T) {
	h := newHistory(3)
	for range 50 {
		h.step()
	}
	s := newRecords()
	h.give(t, s, h.lengths())
	good := string(encoded(t, s))
	twice := s.orders.begun[0]
	for name, c := range map[string]struct{ old, new, want string }{
		"cut":        {good[len(good)-20:], "", "unexpected end"},
		"no offset":  {`"fills":` + fmt.Sprint(s.next[event.TopicFills]) + ",", "", "no offset of fills"},
		"negative":   {`"fills":` + fmt.Sprint(s.next[event.TopicFills]) + ",", `"fills":-1,`, "no offset of fills"},
		"twice":      {`"begun":[`, `"begun":["` + twice + `",`, "order " + twice + " is there twice"},
		"never":      {`"` + twice + `"`, `"x"`, "order " + twice + " is there twice or was never begun"},
		"no entry":   {`"orders":["`, `"orders":["AAAA","`, "order 0:"},
		"no side":    {`"mark_side":`, `"mark_side":9`, "no side of a quote"},
		"no decimal": {`"cash":"`, `"cash":"x`, "decoding the records"},
	} {
		bad := strings.Replace(good, c.old, c.new, 1)
		if bad == good {
			t.Errorf("%s: nothing was damaged", name)
		}
		if _, err := decodeRecords([]byte(bad), sameLife); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if _, err := decodeRecords([]byte(good), func(topic string) event.ID { return event.ID{byte(len(topic))} }); err == nil || !strings.Contains(err.Error(), errOtherLife.Error()) {
		t.Errorf("of another life: %v", err)
	}
}

// BenchmarkRecords encodes and decodes what a partition remembers once it is full.
func BenchmarkRecords(b *testing.B) {
	h := newHistory(1)
	for h.n < keepKnown+keepWhole {
		h.step()
	}
	s := newRecords()
	for _, topic := range sources {
		for _, m := range h.logs[topic] {
			switch m := m.(type) {
			case *event.OrderEvent:
				s.order(m)
			case *event.Fill:
				s.fill(m, m.FeeCurrency)
			case *event.Position:
				s.book.Restore(m)
			}
		}
		s.next[topic] = int64(len(h.logs[topic]))
	}
	s.trim()
	size := 0
	for b.Loop() {
		state, err := s.encode(sameLife)
		if err != nil {
			b.Fatal(err)
		}
		size = len(state)
		if _, err := decodeRecords(state, sameLife); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(size), "bytes")
}

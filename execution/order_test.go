package execution

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/execution/risk"
	"github.com/autohedge/autohedge/stream/event"
)

var update = flag.Bool("update", false, "write the expected output into testdata")

// TestOrderScripts runs testdata/orders/*.txt: lines that begin with "> " are
// what happens to one order, the lines under them what is appended to its log.
//
//	> submit QTY
//	> report STATE[:REASON] [QTY@PRICE ...] [=QTY]   the broker's report, all fills so far, and their sum
//	> unknown REASON
//	> not_placed REASON
//	> restart                                 continue from the last entry
func TestOrderScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/orders/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got := runOrderScript(t, string(text))
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if got != string(text) {
			t.Errorf("%s: got\n%s\nwant\n%s", file, got, text)
		}
	}
}

func runOrderScript(t *testing.T, text string) string {
	t.Helper()
	var out strings.Builder
	var o *order
	now := int64(0)
	seqs := 0
	show := func(events ...event.OrderEvent) {
		if len(events) == 0 {
			out.WriteString("nothing\n")
		}
		for _, e := range events {
			if int(e.Seq) != seqs || e.ID != event.OrderEventID(e.ClientOrderID, e.Seq) || e.Lineage.K != e.Seq {
				t.Errorf("entry %d has sequence %d, id %s, lineage %+v", seqs, e.Seq, e.ID, e.Lineage)
			}
			seqs++
			fmt.Fprintf(&out, "%d %s", e.Seq, e.State)
			if e.BrokerOrderID != "" {
				fmt.Fprintf(&out, " %s", e.BrokerOrderID)
			}
			fmt.Fprintf(&out, " %s/%s worth %s", e.FilledQty, e.Qty, e.FilledNotional)
			if e.ClaimedQty.Valid {
				fmt.Fprintf(&out, " of claimed %s", e.ClaimedQty)
			}
			if e.Reason != "" || e.Detail != "" {
				fmt.Fprintf(&out, " (%s: %s)", e.Reason, e.Detail)
			}
			out.WriteByte('\n')
		}
	}
	s := bufio.NewScanner(strings.NewReader(text))
	for s.Scan() {
		line := s.Text()
		if strings.HasPrefix(line, "#") || line == "" {
			out.WriteString(line + "\n")
			continue
		}
		command, ok := strings.CutPrefix(line, "> ")
		if !ok {
			continue
		}
		out.WriteString(line + "\n")
		now++
		at := stamp{now: now, epoch: 7}
		words := strings.Fields(command)
		var one event.OrderEvent
		ok = true
		switch words[0] {
		case "submit":
			d := &event.Decision{ID: event.ID{1}, Account: "a", Side: event.Buy, Type: event.Limit, TIF: event.GTC}
			o, one = newOrder(d, "paper", risk.Order{Qty: event.MustDecimal(words[1])}, now, 7, event.Lineage{Topic: "decisions", Offset: 9})
		case "unknown":
			one, ok = o.unknown(words[1], "", at)
		case "not_placed":
			one, ok = o.notPlaced(words[1], "", at)
		case "restart":
			o = restored(&o.last)
			continue
		case "report":
			state, reason, _ := strings.Cut(words[1], ":")
			r := broker.Report{BrokerOrderID: "P1", Reason: reason, Time: 100 + now}
			if err := r.State.UnmarshalText([]byte(state)); err != nil {
				t.Fatal(err)
			}
			for i, f := range words[2:] {
				if claim, ok := strings.CutPrefix(f, "="); ok {
					r.FilledQty = event.Some(event.MustDecimal(claim))
					continue
				}
				qty, price, _ := strings.Cut(f, "@")
				r.Fills = append(r.Fills, broker.Execution{ExecID: strconv.Itoa(i), Qty: event.MustDecimal(qty), Price: event.MustDecimal(price)})
			}
			events, err := o.adopt(&r, at)
			if err != nil {
				fmt.Fprintf(&out, "error: %v\n", err)
			}
			show(events...)
			continue
		default:
			t.Fatalf("unknown command %q", command)
		}
		if ok {
			show(one)
		} else {
			show()
		}
	}
	return out.String()
}

func TestLeft(t *testing.T) {
	o := restored(&event.OrderEvent{State: event.OrderPartiallyFilled, Qty: event.MustDecimal("3"), FilledQty: event.MustDecimal("1")})
	for _, c := range []struct {
		state           event.OrderState
		claimed, proven string
		want            string
	}{
		{event.OrderPartiallyFilled, "", "1", "2"},
		{event.OrderPartiallyFilled, "2", "1", "2"},
		{event.OrderPartiallyFilled, "4", "1", "3"}, // filled beyond what was ordered
		{event.OrderCanceled, "", "1", "0"},
		{event.OrderCanceled, "", "0.5", "0.5"}, // the order log knows of a fill that is not recorded
		{event.OrderCanceled, "2", "1", "1"},
		{event.OrderCanceled, "", "3", "0"},
	} {
		o.last.State, o.last.ClaimedQty = c.state, event.NullDecimal{}
		if c.claimed != "" {
			o.last.ClaimedQty = event.Some(event.MustDecimal(c.claimed))
		}
		if got := o.left(event.MustDecimal(c.proven)); got.Cmp(event.MustDecimal(c.want)) != 0 {
			t.Errorf("%+v: %s is left", c, got)
		}
	}
}

// However reports on an order come, doubled, overtaken or with a sum that is ahead of
// the fills, the order ends as the last one says, its fills counted once, and is never
// said to be done while fills are missing.
func TestReportsInAnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(rt, "fills")
		d := &event.Decision{ID: event.ID{1}, Account: "a", Side: event.Buy, Type: event.Limit, TIF: event.GTC}
		whole := rapid.Bool().Draw(rt, "filled to the end")
		qty := int64(n)
		if !whole {
			qty++
		}
		o, _ := newOrder(d, "paper", risk.Order{Qty: event.NewDecimal(qty, 0)}, 1, 7, event.Lineage{})
		book, role := ledger.NewBook(), &owner{orders: newOrders()}
		role.book = book
		var all []broker.Report
		last := broker.Report{ClientOrderID: o.id(), BrokerOrderID: "P1", State: event.OrderAccepted}
		say := func() {
			last.Seq++
			all = append(all, last)
		}
		say()
		for i := range n {
			if rapid.Bool().Draw(rt, "the sum comes first") {
				last.FilledQty = event.Some(event.NewDecimal(int64(i+1), 0))
				if i == n-1 { // it calls the order done before it tells the last fill
					last.State = event.OrderCanceled
				}
				say()
			}
			last.Fills = append(slices.Clip(last.Fills), broker.Execution{ExecID: strconv.Itoa(i), Qty: event.NewDecimal(1, 0), Price: event.NewDecimal(int64(100+i), 0)})
			last.State = event.OrderPartiallyFilled
			say()
		}
		last.State = event.OrderCanceled
		if whole {
			last.State = event.OrderFilled
		}
		say()
		w := &working{order: o}
		deliver := func(r *broker.Report) {
			if role.stale(w, r) {
				return
			}
			var fills []*event.Fill
			for i := range r.Fills {
				fills = append(fills, fillOf(o, r, i))
			}
			for _, f := range fills {
				if _, err := book.Apply(f, "USD"); err != nil {
					rt.Fatal(err)
				}
			}
			if _, err := o.adopt(r, stamp{now: 2, epoch: 7}); err != nil {
				rt.Fatal(err)
			}
			proven := book.Proven(o.id())
			if o.last.FilledQty.Cmp(proven) != 0 {
				rt.Fatalf("filled %s, proven %s", o.last.FilledQty, proven)
			}
			claimed, err := r.Claimed(o.last.Qty)
			if missing := claimed.Cmp(proven) > 0; err != nil || missing != o.last.ClaimedQty.Valid || (missing && o.state().Terminal()) {
				rt.Fatalf("%s, claimed %v, while fills prove %s and the broker claims %s", o.state(), o.last.ClaimedQty, proven, claimed)
			}
		}
		for range rapid.IntRange(0, 20).Draw(rt, "reports") {
			deliver(&all[rapid.IntRange(0, len(all)-1).Draw(rt, "report")])
			if rapid.IntRange(0, 4).Draw(rt, "restart") == 0 {
				o = restored(&o.last)
				reported := w.reported
				w = &working{order: o}
				w.reported = reported
			}
		}
		deliver(&all[len(all)-1])
		if o.state() != last.State || o.last.FilledQty.Cmp(event.NewDecimal(int64(n), 0)) != 0 || o.last.ClaimedQty.Valid {
			rt.Fatalf("the order is %s, filled %s (claimed %v), want %s and %d", o.state(), o.last.FilledQty, o.last.ClaimedQty, last.State, n)
		}
	})
}

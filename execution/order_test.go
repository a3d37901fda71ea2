package execution

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/autohedge/autohedge/execution/broker"
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

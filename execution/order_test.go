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
//	> report STATE[:REASON] [QTY@PRICE ...]   the broker's report, all fills so far
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
	if got := o.left(); got.Cmp(event.MustDecimal("2")) != 0 {
		t.Errorf("left %s of a working order", got)
	}
	o.last.State = event.OrderCanceled
	if got := o.left(); !got.IsZero() {
		t.Errorf("left %s of a canceled order", got)
	}
}

package broker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

var (
	dec         = event.MustDecimal
	decimalsCmp = cmp.Comparer(func(a, b event.Decimal) bool { return a.Cmp(b) == 0 })
)

// fixedClock stands still, so that a ledger read back equals the one written.
type fixedClock struct{}

func (fixedClock) Now() time.Time { return time.Unix(1_800_000_000, 0) }

func testEnv() component.Env {
	env := component.Discard()
	env.Clock = fixedClock{}
	return env
}

// open opens an account that may take whole quotes.
func open(t *testing.T, dir string) *Paper {
	t.Helper()
	return openSharing(t, dir, "1")
}

func openSharing(t *testing.T, dir, participation string) *Paper {
	t.Helper()
	cfg := DefaultPaperConfig()
	cfg.Participation = dec(participation)
	p, err := OpenPaper(cfg, dir, testEnv())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func quote(bid, bidQty, ask, askQty, id string) *Quote {
	q := &Quote{Venue: "v", Symbol: "X", ID: func() string { return id }}
	q.Bid, q.Ask = dec(bid), dec(ask)
	if bidQty != "" {
		q.BidQty, q.AskQty = event.Some(dec(bidQty)), event.Some(dec(askQty))
	}
	return q
}

func order(id string, s event.Side, qty string, tif event.TimeInForce, limit string) Order {
	o := Order{ClientOrderID: id, Venue: "v", Symbol: "X", QuoteCurrency: "USD", Side: s, Type: event.Market, TIF: tif, Qty: dec(qty), PriceTick: dec("0.01")}
	if limit != "" {
		o.Type, o.LimitPrice = event.Limit, event.Some(dec(limit))
	}
	return o
}

// describe prints a report as the table below writes it.
func describe(r Report) string {
	parts := []string{r.State.String()}
	if r.Reason != "" {
		parts[0] += "(" + r.Reason + ")"
	}
	for _, f := range r.Fills {
		parts = append(parts, fmt.Sprintf("%s@%s %s fee %s %s", f.Qty, f.Price, f.Liquidity, f.Fee, f.QuoteID))
	}
	return strings.Join(parts, "; ")
}

func TestPaperFills(t *testing.T) {
	q := quote("99.00", "2", "101.00", "3", "q1") // half a basis point of 101 is 0.00505: one tick
	for _, c := range []struct {
		name string
		do   func(p *Paper) error
		want string // of order "a"
	}{
		{"market, no quote", func(p *Paper) error { return p.Submit(t.Context(), order("a", event.Buy, "1", event.IOC, "")) }, "rejected(no_quote)"},
		{"market buy", func(p *Paper) error {
			p.Quote(q)
			return p.Submit(t.Context(), order("a", event.Buy, "1", event.IOC, ""))
		}, "filled; 1@101.01 taker fee 0.05050500 q1"},
		{"market sell", func(p *Paper) error {
			p.Quote(q)
			return p.Submit(t.Context(), order("a", event.Sell, "1", event.IOC, ""))
		}, "filled; 1@98.99 taker fee 0.04949500 q1"},
		{"more than is shown", func(p *Paper) error {
			p.Quote(q)
			return p.Submit(t.Context(), order("a", event.Buy, "5", event.IOC, ""))
		}, "expired(ioc); 3@101.01 taker fee 0.15151500 q1"},
		{"market till cancelled is as immediate", func(p *Paper) error {
			p.Quote(q)
			return p.Submit(t.Context(), order("a", event.Buy, "5", event.GTC, ""))
		}, "expired(ioc); 3@101.01 taker fee 0.15151500 q1"},
		{"what another order took is gone", func(p *Paper) error {
			p.Quote(q)
			if err := p.Submit(t.Context(), order("b", event.Buy, "2.5", event.IOC, "")); err != nil {
				return err
			}
			return p.Submit(t.Context(), order("a", event.Buy, "1", event.IOC, ""))
		}, "expired(ioc); 0.5@101.01 taker fee 0.02525250 q1"},
		{"all or nothing, nothing", func(p *Paper) error {
			p.Quote(q)
			return p.Submit(t.Context(), order("a", event.Buy, "3.1", event.FOK, ""))
		}, "expired(fok)"},
		{"all or nothing, all", func(p *Paper) error {
			p.Quote(q)
			return p.Submit(t.Context(), order("a", event.Buy, "3", event.FOK, ""))
		}, "filled; 3@101.01 taker fee 0.15151500 q1"},
		{"limit caps slippage", func(p *Paper) error {
			p.Quote(q)
			return p.Submit(t.Context(), order("a", event.Buy, "1", event.IOC, "101"))
		}, "filled; 1@101 taker fee 0.05050000 q1"},
		{"limit away from the market, immediate", func(p *Paper) error {
			p.Quote(q)
			return p.Submit(t.Context(), order("a", event.Buy, "1", event.IOC, "100"))
		}, "expired(ioc)"},
		{"limit rests", func(p *Paper) error {
			p.Quote(q)
			return p.Submit(t.Context(), order("a", event.Buy, "1", event.GTC, "100"))
		}, "accepted"},
		{"limit rests, before any quote", func(p *Paper) error {
			return p.Submit(t.Context(), order("a", event.Sell, "1", event.GTC, "100"))
		}, "accepted"},
		{"part at once, rest later at its own price", func(p *Paper) error {
			p.Quote(q)
			if err := p.Submit(t.Context(), order("a", event.Buy, "5", event.GTC, "101")); err != nil {
				return err
			}
			p.Quote(quote("99", "1", "101.5", "9", "q2"))
			p.Quote(quote("99", "1", "100.5", "1.5", "q3"))
			p.Quote(quote("99", "1", "100.5", "1.5", "q4")) // the same again shows nothing more to take
			p.Quote(quote("99", "1", "100.6", "1.5", "q5"))
			return nil
		}, "filled; 3@101 taker fee 0.15150000 q1; 1.5@101 maker fee 0.03030000 q3; 0.5@101 maker fee 0.01010000 q5"},
		{"the rest of an order that crosses takes, at the quote's price", func(p *Paper) error {
			p.Quote(quote("99.00", "2", "100.00", "5", "q1"))
			if err := p.Submit(t.Context(), order("a", event.Buy, "8", event.GTC, "101")); err != nil {
				return err
			}
			p.Quote(quote("99.00", "2", "100.10", "2", "q2"))
			p.Quote(quote("99.00", "2", "101.50", "2", "q3")) // from here on it rests
			p.Quote(quote("99.00", "2", "100.20", "2", "q4"))
			return nil
		}, "filled; 5@100.01 taker fee 0.25002500 q1; 2@100.11 taker fee 0.10011000 q2; 1@101 maker fee 0.02020000 q4"},
		{"an order that crosses and finds nothing left takes later", func(p *Paper) error {
			p.Quote(quote("99.00", "2", "100.00", "1", "q1"))
			if err := p.Submit(t.Context(), order("b", event.Buy, "1", event.IOC, "")); err != nil {
				return err
			}
			if err := p.Submit(t.Context(), order("a", event.Buy, "1", event.GTC, "101")); err != nil {
				return err
			}
			p.Quote(quote("99.00", "2", "100.10", "2", "q2"))
			return nil
		}, "filled; 1@100.11 taker fee 0.05005500 q2"},
		{"a level shown again and again fills once", func(p *Paper) error {
			p.Quote(quote("98.00", "2", "100.00", "1.0", "q1"))
			if err := p.Submit(t.Context(), order("a", event.Buy, "10", event.GTC, "99")); err != nil {
				return err
			}
			for i := range 20 {
				p.Quote(quote("98.00", "2", "99.00", []string{"1.0", "0.9"}[i%2], "q"))
				if _, err := p.Query(t.Context(), "a"); err != nil { // which fills what crosses
					return err
				}
			}
			p.Quote(quote("98.00", "2", "99.00", "1.5", "q2")) // half a unit came
			return nil
		}, "partially_filled; 1.0@99 maker fee 0.01980000 q; 0.5@99 maker fee 0.00990000 q2"},
		{"older resting orders first", func(p *Paper) error {
			p.Quote(q)
			if err := p.Submit(t.Context(), order("b", event.Buy, "1", event.GTC, "100")); err != nil {
				return err
			}
			if err := p.Submit(t.Context(), order("a", event.Buy, "1", event.GTC, "100")); err != nil {
				return err
			}
			p.Quote(quote("99", "1", "100", "1.25", "q2"))
			return nil
		}, "partially_filled; 0.25@100 maker fee 0.00500000 q2"},
		{"cancelled", func(p *Paper) error {
			if err := p.Submit(t.Context(), order("a", event.Sell, "1", event.GTC, "100")); err != nil {
				return err
			}
			if err := p.Cancel(t.Context(), "a"); err != nil {
				return err
			}
			p.Quote(quote("101", "1", "102", "1", "q2"))
			return p.Cancel(t.Context(), "a")
		}, "canceled(requested)"},
		{"no size sent: the configured one", func(p *Paper) error {
			p.Quote(quote("99.00", "", "101.00", "", "q1"))
			return p.Submit(t.Context(), order("a", event.Buy, "200", event.IOC, ""))
		}, "expired(ioc); 99.00990099@101.01 taker fee 5.00049505 q1"},
		{"empty side", func(p *Paper) error {
			p.Quote(quote("99.00", "1", "0", "0", "q1"))
			return p.Submit(t.Context(), order("a", event.Buy, "1", event.IOC, ""))
		}, "rejected(no_quote)"},
		{"nothing", func(p *Paper) error { return p.Submit(t.Context(), order("a", event.Buy, "0", event.IOC, "")) }, "rejected(invalid)"},
	} {
		dir := t.TempDir()
		p := open(t, dir)
		if err := c.do(p); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		r, err := p.Query(t.Context(), "a")
		if got := describe(r); err != nil || got != c.want {
			t.Errorf("%s: %v\n got %s\nwant %s", c.name, err, got, c.want)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		// The ledger answers the same after a restart, and refuses the id for ever.
		p = open(t, dir)
		again, err := p.Query(t.Context(), "a")
		if d := cmp.Diff(r, again, decimalsCmp); err != nil || d != "" {
			t.Errorf("%s: after a restart: %v %s", c.name, err, d)
		}
		if err := p.Submit(t.Context(), order("a", event.Buy, "1", event.IOC, "")); err == nil {
			t.Errorf("%s: a client order id was accepted twice", c.name)
		}
		if _, err := p.Query(t.Context(), "z"); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: an order that never was: %v", c.name, err)
		}
	}
}

// TestParticipation: fills take no more than a share of each quote, in whole steps
// of quantity, however many orders there are.
func TestParticipation(t *testing.T) {
	for _, c := range []struct{ share, size, step, want string }{
		{"0.5", "3", "0", "1.5"}, // that a size has no decimals says nothing of the step
		{"0.5", "1", "0", "0.5"},
		{"0.5", "3.00", "0", "1.5"},
		{"0.5", "3", "0.4", "1.2"},
		{"0.3333", "0.5877", "0.0001", "0.1958"},
		{"1", "3.7", "0.5", "3.5"},
		{"1", "3.7", "0", "3.7"},
		{"0.5", "0.0001", "0.0001", "0"},
		{"0.5", "0", "0.0001", "0"},
		{"0.0001", "1000000000000", "0.00000001", "100000000"},
	} {
		if got := shareOf(dec(c.size), dec(c.share), dec(c.step)); got.Cmp(dec(c.want)) != 0 {
			t.Errorf("%s of %s in steps of %s: got %s, want %s", c.share, c.size, c.step, got, c.want)
		}
	}
	p := openSharing(t, t.TempDir(), "0.5")
	submit := func(id, qty string, tif event.TimeInForce, limit string) {
		t.Helper()
		o := order(id, event.Buy, qty, tif, limit)
		o.QtyStep = dec("0.1")
		if err := p.Submit(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	want := func(id, want string) {
		t.Helper()
		r, err := p.Query(t.Context(), id)
		if got := describe(r); err != nil || got != want {
			t.Errorf("%s: got %s (%v), want %s", id, got, err, want)
		}
	}
	p.Quote(quote("99.00", "2", "101.00", "3.33", "q1"))
	submit("a", "1", event.IOC, "")
	want("a", "filled; 1@101.01 taker fee 0.05050500 q1")
	submit("b", "1", event.FOK, "")
	want("b", "expired(fok)")
	submit("c", "1", event.IOC, "")
	want("c", "expired(ioc); 0.6@101.01 taker fee 0.03030300 q1")
	submit("d", "2", event.GTC, "100")
	p.Quote(quote("99.00", "2", "100.00", "1.25", "q2"))
	want("d", "partially_filled; 0.6@100 maker fee 0.01200000 q2")
}

func TestRestingOrdersSurvive(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	if err := p.Submit(t.Context(), order("a", event.Buy, "1", event.GTC, "100")); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = open(t, dir)
	p.Quote(quote("99", "1", "99.5", "1", "q"))
	r, err := p.Query(t.Context(), "a")
	if got := describe(r); err != nil || got != "filled; 1@100 maker fee 0.02000000 q" {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestNext(t *testing.T) {
	p := open(t, t.TempDir())
	for _, id := range []string{"a", "b"} {
		if err := p.Submit(t.Context(), order(id, event.Buy, "1", event.GTC, "100")); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Cancel(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	rs, err := p.Next(t.Context(), 0)
	if err != nil || len(rs) != 2 || rs[0].ClientOrderID != "b" || rs[1].State != event.OrderCanceled || rs[1].Seq != 3 {
		t.Fatalf("got %+v, %v", rs, err)
	}
	got := make(chan []Report)
	go func() {
		rs, _ := p.Next(context.WithoutCancel(t.Context()), 3)
		got <- rs
	}()
	p.Quote(quote("99", "1", "99.5", "1", "q"))
	if rs := <-got; len(rs) != 1 || rs[0].State != event.OrderFilled {
		t.Errorf("got %+v", rs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Next(ctx, 4); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestTornTail cuts the file at every byte of its last entry: the order is there
// whole or not at all, and what came before is untouched.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ledger")
	p := open(t, dir)
	p.Quote(quote("99", "2", "101", "3", "q1"))
	if err := p.Submit(t.Context(), order("a", event.Buy, "1", event.IOC, "")); err != nil {
		t.Fatal(err)
	}
	before := p.file.size
	if err := p.Submit(t.Context(), order("b", event.Buy, "5", event.IOC, "")); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := before; cut <= int64(len(whole)); cut++ {
		for _, garbage := range []string{"", "\x00\x00\x00"} {
			if err := os.WriteFile(path, append(append([]byte{}, whole[:cut]...), garbage...), 0o600); err != nil {
				t.Fatal(err)
			}
			p := open(t, dir)
			a, err := p.Query(t.Context(), "a")
			if err != nil || a.State != event.OrderFilled {
				t.Fatalf("cut at %d: order a is %+v, %v", cut, a, err)
			}
			b, err := p.Query(t.Context(), "b")
			there := cut == int64(len(whole))
			if there != (err == nil) || (!there && !errors.Is(err, ErrNotFound)) || (there && len(b.Fills) != 1) {
				t.Fatalf("cut at %d of %d: order b is %+v, %v", cut, len(whole), b, err)
			}
			// The repaired file takes new entries.
			if err := p.Submit(t.Context(), order("c", event.Buy, "1", event.GTC, "1")); err != nil {
				t.Fatal(err)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			p = open(t, dir)
			if c, err := p.Query(t.Context(), "c"); err != nil || c.State != event.OrderAccepted {
				t.Fatalf("cut at %d: order c is %+v, %v", cut, c, err)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestDamageIsNotRepaired(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ledger")
	p := open(t, dir)
	for _, id := range []string{"a", "b"} {
		if err := p.Submit(t.Context(), order(id, event.Buy, "1", event.GTC, "100")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenPaper(DefaultPaperConfig(), dir, testEnv()); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a ledger was opened twice: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(ledgerHeader)+40] ^= 1
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPaper(DefaultPaperConfig(), dir, testEnv()); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a flipped bit went unseen: %v", err)
	}
}

// TestDiskFailure: once a write failed nobody knows what is on the disk, so
// nothing is answered, least of all "not found".
func TestDiskFailure(t *testing.T) {
	p := open(t, t.TempDir())
	if err := p.Submit(t.Context(), order("a", event.Buy, "1", event.GTC, "100")); err != nil {
		t.Fatal(err)
	}
	good := p.file.f
	bad, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	p.file.f = bad
	if err := p.Submit(t.Context(), order("b", event.Buy, "1", event.GTC, "100")); err == nil {
		t.Error("a write failed unseen")
	}
	p.file.f = good
	if err := bad.Close(); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b", "c"} {
		if _, err := p.Query(t.Context(), id); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("query of %s after a failed write: %v", id, err)
		}
	}
	if err := p.Submit(t.Context(), order("c", event.Buy, "1", event.GTC, "100")); err == nil {
		t.Error("an order was taken after a failed write")
	}
}

// TestMain lets the test binary stand in for a process that is killed while it
// places orders.
func TestMain(m *testing.M) {
	if os.Getenv("AUTOHEDGE_TEST_PAPER") != "" { // in the folder it was started in
		p, err := OpenPaper(DefaultPaperConfig(), ".", testEnv())
		if err != nil {
			panic(err)
		}
		p.Quote(quote("99", "1000000", "101", "1000000", "q"))
		for i := len(p.orders); ; i++ {
			id := fmt.Sprint("o", i)
			if err := p.Submit(context.Background(), order(id, event.Buy, "1", event.IOC, "")); err != nil {
				panic(err)
			}
			fmt.Println(id)
		}
	}
	os.Exit(m.Run())
}

func TestKilled(t *testing.T) {
	dir := t.TempDir()
	acked := 0
	for range 3 {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "AUTOHEDGE_TEST_PAPER=1")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		last := ""
		for n := 0; n < 20 && lines.Scan(); n++ {
			last = lines.Text()
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			last = lines.Text()
		}
		_ = cmd.Wait() // killed: always an error
		if _, err := fmt.Sscanf(last, "o%d", &acked); err != nil {
			t.Fatalf("last line %q: %v", last, err)
		}
		p := open(t, dir)
		for i := range acked + 1 {
			if r, err := p.Query(t.Context(), fmt.Sprint("o", i)); err != nil || r.State != event.OrderFilled || len(r.Fills) != 1 {
				t.Fatalf("acknowledged order o%d is %+v, %v", i, r, err)
			}
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPaperMath compares fees and slippage with rational numbers.
func TestPaperMath(t *testing.T) {
	rat := func(d event.Decimal) *big.Rat {
		r, ok := new(big.Rat).SetString(d.String())
		if !ok {
			t.Fatalf("not a number: %s", d)
		}
		return r
	}
	rapid.Check(t, func(t *rapid.T) {
		price := event.NewDecimal(rapid.Int64Range(1, 1e13).Draw(t, "price"), uint8(rapid.IntRange(0, 8).Draw(t, "scale")))
		qty := event.NewDecimal(rapid.Int64Range(1, 1e9).Draw(t, "qty"), 8)
		bps := event.NewDecimal(rapid.Int64Range(0, 1e6).Draw(t, "bps"), 4)
		tick := event.NewDecimal(rapid.Int64Range(1, 50).Draw(t, "tick"), uint8(rapid.IntRange(0, 8).Draw(t, "tick scale")))
		notional, err := ledger.Mul(price, qty)
		if err != nil {
			t.Fatal(err)
		}
		fee, err := feeOf(notional, bps)
		if err != nil {
			t.Fatal(err)
		}
		exact := new(big.Rat).Mul(rat(notional), rat(bps))
		exact.Quo(exact, big.NewRat(10000, 1))
		over := new(big.Rat).Sub(rat(fee), exact)
		if over.Sign() < 0 || over.Cmp(big.NewRat(1, 1e8)) >= 0 {
			t.Fatalf("fee of %s at %s bps is %s, exactly %s", notional, bps, fee, exact.FloatString(12))
		}
		for _, s := range []event.Side{event.Buy, event.Sell} {
			got, err := slip(price, bps, tick, s)
			if err != nil {
				t.Fatal(err)
			}
			if bps.IsZero() {
				if got.Cmp(price) != 0 {
					t.Fatalf("no slippage moved %s to %s", price, got)
				}
				continue
			}
			factor := big.NewRat(1, 1)
			if s == event.Buy {
				factor.Add(factor, new(big.Rat).Quo(rat(bps), big.NewRat(10000, 1)))
			} else {
				factor.Sub(factor, new(big.Rat).Quo(rat(bps), big.NewRat(10000, 1)))
			}
			want := new(big.Rat).Mul(rat(price), factor)
			diff := new(big.Rat).Sub(rat(got), want)
			if s == event.Sell {
				diff.Neg(diff)
			}
			steps := new(big.Rat).Quo(rat(got), rat(tick))
			if !steps.IsInt() {
				t.Fatalf("%s is no multiple of %s", got, tick)
			}
			if s == event.Sell && got.Cmp(tick) == 0 {
				continue // there is nothing below the first step
			}
			if diff.Sign() < 0 || diff.Cmp(rat(tick)) >= 0 {
				t.Fatalf("%s of %s slipped by %s bps to %s, exactly %s", s, price, bps, got, want.FloatString(12))
			}
		}
	})
}

func TestRegistry(t *testing.T) {
	for _, s := range Registry.All() {
		settings := DefaultSettings()
		if p := s.New.Validate(&settings); len(p) != 0 {
			t.Errorf("%s: default settings: %v", s.Name, p)
		}
		b, err := s.New.Open(t.Context(), Account{Name: "a", Settings: settings, Dir: t.TempDir(), Env: testEnv()})
		if err != nil {
			t.Fatalf("%s: %v", s.Name, err)
		}
		if _, err := b.Query(t.Context(), "never"); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: an order that never was: %v", s.Name, err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
		if err := b.Submit(t.Context(), Order{}); err == nil {
			t.Errorf("%s: a closed broker took an order", s.Name)
		}
	}
	bad := PaperConfig{TakerBps: dec("-1"), MakerBps: dec("1001"), SlippageBps: dec("0.00001")}
	if p := bad.Validate(); len(p) != 5 {
		t.Errorf("got %v", p)
	}
	for share, good := range map[string]bool{"0.0001": true, "1": true, "0": false, "-0.5": false, "1.0001": false, "0.00001": false} {
		c := DefaultPaperConfig()
		c.Participation = dec(share)
		if p := c.Validate(); (len(p) == 0) != good {
			t.Errorf("participation %s: %v", share, p)
		}
	}
}

// A quote that fills a resting order does not wait for the disk, and whoever asks
// about the order afterwards hears of the fill.
func TestQuoteDoesNotWaitForTheDisk(t *testing.T) {
	p := open(t, t.TempDir())
	if err := p.Submit(t.Context(), order("a", event.Buy, "1", event.GTC, "100")); err != nil {
		t.Fatal(err)
	}
	p.writing.Lock() // a sync that takes long
	p.Quote(quote("98", "1", "99", "1", "q1"))
	p.Quote(quote("98", "1", "101", "1", "q2")) // the market has left by the time the disk is free
	p.writing.Unlock()
	r, err := p.Query(t.Context(), "a")
	if got := describe(r); err != nil || got != "filled; 1@100 maker fee 0.02000000 q1" {
		t.Errorf("got %s (%v)", got, err)
	}
}

// A ledger has a random life that its fills name; one of before has none and goes on
// without; adopting begins another.
func TestLives(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	p.Quote(quote("99", "9", "101", "9", "q1"))
	if err := p.Submit(t.Context(), order("a", event.Buy, "1", event.IOC, "")); err != nil {
		t.Fatal(err)
	}
	life := p.Ledger().Life
	if r, err := p.Query(t.Context(), "a"); err != nil || life == "" || r.Fills[0].Life != life {
		t.Errorf("life %q, fill %+v, %v", life, r.Fills, err)
	}
	if _, err := AdoptPaper(dir, Adoption{Who: "w", Why: "y"}); err == nil {
		t.Error("a ledger that trades was adopted")
	}
	if other := open(t, t.TempDir()).Ledger().Life; other == life {
		t.Error("two ledgers have one life")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := AdoptPaper(dir, Adoption{Who: "w", Why: "y", Time: 7})
	if err != nil {
		t.Fatal(err)
	}
	p = open(t, dir)
	if s := p.Ledger(); s.Life != next || next == life || s.Adopted == nil || *s.Adopted != (Adoption{"w", "y", 7}) {
		t.Errorf("after it was adopted: %+v", s)
	}
	p.Quote(quote("99", "9", "101", "9", "q2"))
	if err := p.Submit(t.Context(), order("b", event.Buy, "1", event.IOC, "")); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"a": life, "b": next} {
		if r, err := p.Query(t.Context(), id); err != nil || r.Fills[0].Life != want {
			t.Errorf("order %s: %+v, %v, want life %s", id, r.Fills, err, want)
		}
	}

	old := t.TempDir()
	if err := os.WriteFile(filepath.Join(old, "ledger"), []byte(ledgerHeader1), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := open(t, old).Ledger(); s.Life != "" || s.Adopted != nil {
		t.Errorf("a ledger of before: %+v", s)
	}
}

package sim

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/component"
)

// ledgerOf reads the whole ledger and checks that ids have no holes and times
// never go back.
func ledgerOf(t *testing.T, dir string) map[string][]LedgerTrade {
	t.Helper()
	all := make(map[string][]LedgerTrade)
	var last int64
	if err := ReadLedger(dir, func(tr LedgerTrade) error {
		key := tr.Venue + "|" + tr.Symbol
		if l := all[key]; len(l) > 0 && l[len(l)-1].ID+1 != tr.ID {
			return fmt.Errorf("trade %d after %d of %s", tr.ID, l[len(l)-1].ID, key)
		}
		if tr.Time < last {
			return fmt.Errorf("time went back to %d from %d", tr.Time, last)
		}
		last = tr.Time
		all[key] = append(all[key], tr)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// clock stands where it is set.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	cfg := DefaultConfig()
	cfg.Dir, cfg.Rate = dir, 6000
	ck := &clock{time.Unix(1_800_000_000, 0)}
	env := component.Discard()
	env.Clock = ck
	var lastID, lastUpdate uint64
	var seq uint64
	for round := range 4 {
		if round > 0 {
			// The clock is set back: event time must not follow.
			ck.now = ck.now.Add(-time.Hour)
		}
		if round == 2 { // a kill in the middle of a line
			appendTo(t, dir, "binance\tBTCUSDT\t12")
		}
		if round == 3 { // a kill in the middle of a checkpoint
			appendTo(t, dir, checkMark+"2\n"+"#state\tbinance\tBTC")
		}
		s, err := Start(t.Context(), cfg, env)
		if err != nil {
			t.Fatal(err)
		}
		c := dial(t, s.BinanceURL()+"/ws/btcusdt@trade/btcusdt@bookTicker")
		seen := 0
		for seen < 200 {
			f := c.next()
			if strings.HasPrefix(f, `{"u"`) {
				u := decode[struct {
					U uint64 `json:"u"`
				}](t, f).U
				if u <= lastUpdate {
					t.Fatalf("round %d: update id %d after %d", round, u, lastUpdate)
				}
				lastUpdate = u
				continue
			}
			m := decode[binanceTradeMsg](t, f)
			if m.Time < 1_800_000_000_000 {
				t.Fatalf("round %d: event time %d went back", round, m.Time)
			}
			// At the start of a round the ledger may be ahead: what was made
			// when the client had gone.
			if seen > 0 && m.ID != lastID+1 || seen == 0 && m.ID <= lastID {
				t.Fatalf("round %d: trade %d after %d", round, m.ID, lastID)
			}
			lastID = m.ID
			seen++
		}
		cb := dial(t, s.CoinbaseURL())
		cb.say(`{"type":"subscribe","product_ids":["BTC-USD"],"channels":["matches"]}`)
		first := cb.next()
		if isLast := strings.Contains(first, "last_match"); isLast != (round > 0) {
			t.Errorf("round %d: first message %s", round, first)
		}
		for range 50 {
			m := decode[struct {
				Seq uint64 `json:"sequence"`
			}](t, cb.until(`"type":"match"`))
			if m.Seq <= seq {
				t.Fatalf("round %d: sequence %d after %d", round, m.Seq, seq)
			}
			seq = m.Seq
		}
		_ = c.Close()
		_ = cb.Close()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		ledgerOf(t, dir)
	}
}

func appendTo(t *testing.T, dir, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, ledgerName), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// A simulator killed with SIGKILL has every trade that anyone heard in its
// ledger, and its successor goes on with the next id.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	var heard, last uint64
	for round := range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childVar+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		url, err := bufio.NewReader(out).ReadString('\n')
		if err != nil || !strings.HasPrefix(url, "ws://") {
			t.Fatalf("child said %q: %v", url, err)
		}
		c := dial(t, strings.TrimSpace(url)+"/ws/btcusdt@trade")
		var first, n uint64
		for n = range 3000 {
			m := decode[binanceTradeMsg](t, c.next())
			if first == 0 {
				first = m.ID
			}
			if m.ID != first+n {
				t.Fatalf("round %d: trade %d, want %d", round, m.ID, first+n)
			}
			heard = m.ID
		}
		if round > 0 && first != last+1 {
			t.Errorf("round %d: began with %d, the ledger ended with %d", round, first, last)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		trades := ledgerOf(t, dir)["binance|BTCUSDT"]
		if last = trades[len(trades)-1].ID; last < heard {
			t.Fatalf("round %d: trade %d was heard, the ledger ends with %d", round, heard, last)
		}
	}
}

func TestLedgerLock(t *testing.T) {
	s := start(t, nil)
	cfg := DefaultConfig()
	cfg.Dir = s.cfg.Dir
	if _, err := Start(context.Background(), cfg, component.Discard()); err == nil || !strings.Contains(err.Error(), "another simulator") {
		t.Errorf("second simulator on the folder: %v", err)
	}
}

func TestLedgerForeignFile(t *testing.T) {
	for _, text := range []string{"hello\n", strings.Repeat("x\n", 5<<20), "#checkpoint\t0\nbinance\tBTCUSDT\t5\t1\t1\tbuy\t1\n"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, ledgerName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := DefaultConfig()
		cfg.Dir = dir
		if s, err := Start(context.Background(), cfg, component.Discard()); err == nil {
			_ = s.Close()
			t.Errorf("%.20q was taken as a ledger", text)
		}
	}
}

// The state is found behind many checkpoints and over a change of files.
func TestLedgerTurns(t *testing.T) {
	dir := t.TempDir()
	cfg := DefaultConfig()
	cfg.Dir, cfg.MaxLedgerBytes = dir, 4*checkpointBytes
	s, err := Start(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.halted = true // the test turns the crank
	y := s.binance.symbols["ETHUSDT"]
	s.opened(y)
	s.stamp()
	for range 9000 {
		for range 60 {
			s.step(y)
		}
		if err := s.commit(); err != nil {
			t.Fatal(err)
		}
	}
	next := y.next
	s.mu.Unlock()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{ledgerName, olderName} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Size() > 6*checkpointBytes {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	trades := ledgerOf(t, dir)["binance|ETHUSDT"]
	if got := trades[len(trades)-1].ID; got != next-1 {
		t.Errorf("the ledger ends with %d, want %d", got, next-1)
	}
	// As after a kill between rename and the new file's first write.
	if err := os.Truncate(filepath.Join(dir, ledgerName), 0); err != nil {
		t.Fatal(err)
	}
	_, states, err := openAndClose(dir)
	if err != nil {
		t.Fatal(err)
	}
	old := lastID(t, filepath.Join(dir, olderName))
	if got := states["binance|ETHUSDT"].next; got != old+1 {
		t.Errorf("after the older file's trade %d comes %d", old, got)
	}
}

func openAndClose(dir string) (*ledger, map[string]ledgerState, error) {
	l, states, err := openLedger(dir, 0)
	if err != nil {
		return nil, nil, err
	}
	return l, states, l.close()
}

func lastID(t *testing.T, path string) uint64 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var last LedgerTrade
	if err := readTrades(bytes.NewReader(b), func(tr LedgerTrade) error { last = tr; return nil }); err != nil {
		t.Fatal(err)
	}
	return last.ID
}

func TestReadLedgerErrors(t *testing.T) {
	dir := t.TempDir()
	if err := ReadLedger(dir, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no ledger: %v", err)
	}
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, ledgerName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good := "binance\tBTCUSDT\t5\t64000.12\t0.00100\tsell\t17\n"
	write(good + "binance\tBTC")
	var got []string
	if err := ReadLedger(dir, func(tr LedgerTrade) error {
		got = append(got, fmt.Sprintf("%s %s %d %s %s %s %d", tr.Venue, tr.Symbol, tr.ID, tr.Price, tr.Qty, tr.Aggressor, tr.Time))
		return nil
	}); err != nil || len(got) != 1 || got[0] != "binance BTCUSDT 5 64000.12 0.00100 sell 17" {
		t.Errorf("read %q: %v", got, err)
	}
	for _, bad := range []string{"a\tb\n", strings.Replace(good, "sell", "hold", 1), strings.Replace(good, "64000.12", "x", 1), strings.Replace(good, "5\t", "-5\t", 1), good[:len(good)-1] + "\tmore\n"} {
		write(good + bad)
		if err := ReadLedger(dir, func(LedgerTrade) error { return nil }); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	stop := errors.New("enough")
	write(good)
	if err := ReadLedger(dir, func(LedgerTrade) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}

// A full disk stops the simulator; it sends nothing that the ledger lacks.
func TestLedgerWriteFails(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Dir = t.TempDir()
	s, err := Start(context.Background(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, s.BinanceURL()+"/ws/btcusdt@trade")
	c.next()
	s.mu.Lock()
	_ = s.ledger.f.Close()
	s.mu.Unlock()
	c.wantClose(closeGoingAway)
	<-s.Done()
	if s.Err() == nil || s.Close() == nil {
		t.Error("the simulator does not say why it stopped")
	}
}

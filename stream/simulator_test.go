package stream

import (
	"context"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/sim"
)

// TestSimulatorLedgerIsAccountedFor runs both wire formats through every fault
// of the exchange simulator and holds the log against its ledger: each trade is
// there once with its values, or within a stated gap.
func TestSimulatorLedgerIsAccountedFor(t *testing.T) {
	client := broker(t)
	cfg := sim.DefaultConfig()
	cfg.Dir, cfg.Rate = t.TempDir(), 3000
	s, err := sim.Start(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	b, c := DefaultFeed(), DefaultFeed()
	b.Name, b.Venue, b.URL, b.REST, b.Symbols = "binance", "binance", s.BinanceURL()+"/stream", s.BinanceREST(), cfg.Binance
	c.Name, c.Venue, c.URL, c.REST, c.Symbols = "coinbase", "coinbase", s.CoinbaseURL(), s.CoinbaseREST(), cfg.Coinbase
	b.Stall, c.Stall = time.Second, time.Second
	r := start(t, client, component.Discard(), b, c)
	<-r.Ready()
	for _, f := range []sim.Fault{{Kind: sim.Drop}, {Kind: sim.Duplicate, Duration: 300 * time.Millisecond}, {Kind: sim.Garbage}, {Kind: sim.Mute, Duration: 200 * time.Millisecond},
		{Kind: sim.Shutdown}, {Kind: sim.Stall, Duration: 3 * time.Second}, {Kind: sim.CloseConn}} {
		before := r.Feeds()
		if _, err := s.Inject(f); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() (bool, string) { // the fault is over and data flows again
			for i, now := range r.Feeds() {
				if now.Trades < before[i].Trades+500 || now.Connections != 1 {
					return false, "no trades after " + f.Kind.String()
				}
			}
			return true, ""
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	drainRole(t, r)
	t.Logf("feeds: %+v", r.Feeds())
	checkLedger(t, client, cfg.Dir)
	for _, f := range r.Feeds() {
		if f.Gaps == 0 || f.Duplicates == 0 || f.Reconnects < 2 || f.Refused == 0 {
			t.Errorf("the faults do not show: %+v", f)
		}
	}
	inst, _ := logged(t, client, event.TopicInstruments)
	for key, lines := range inst {
		if len(lines) != 1 || lines[0][len(lines[0])-7:] != "(venue)" {
			t.Errorf("instrument %s: %q", key, lines)
		}
	}
	if len(inst) != len(cfg.Binance)+len(cfg.Coinbase) {
		t.Errorf("%d instruments", len(inst))
	}
}

func checkLedger(t *testing.T, client *bus.Client, dir string) {
	t.Helper()
	type id struct {
		key string
		id  uint64
	}
	got := map[id]event.Trade{}
	lost := map[string][][2]uint64{}
	first := map[string]uint64{}
	for p := range client.Partitions(event.TopicMarket) {
		if _, err := client.ReadAll(t.Context(), event.TopicMarket, p, bus.FromStart, func(rec bus.Record) error {
			key := string(rec.Key)
			switch event.TypeOf(rec.Value) {
			case event.TypeTrade:
				var tr event.Trade
				if err := event.DecodeTrade(rec.Value, &tr); err != nil {
					return err
				}
				if _, dup := got[id{key, tr.TradeID}]; dup {
					t.Errorf("%s %d occurs twice", key, tr.TradeID)
				}
				got[id{key, tr.TradeID}] = tr
				if first[key] == 0 {
					first[key] = tr.TradeID
				}
			case event.TypeCoverage:
				cov, err := event.DecodeAs[*event.Coverage](rec.Value)
				if err != nil {
					return err
				}
				if cov.Kind == event.CoverageLost && cov.ToID != 0 {
					lost[key] = append(lost[key], [2]uint64{cov.FromID, cov.ToID})
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	made, found, inGaps := 0, 0, 0
	if err := sim.ReadLedger(dir, func(want sim.LedgerTrade) error {
		key := string(event.Key(want.Venue, want.Symbol))
		if want.ID < first[key] || first[key] == 0 {
			return nil // before we listened
		}
		made++
		tr, ok := got[id{key, want.ID}]
		if ok {
			found++
			if tr.Price.Cmp(want.Price) != 0 || tr.Qty.Decimal.Cmp(want.Qty) != 0 || tr.Aggressor != want.Aggressor {
				t.Errorf("%s %d differs: %+v, the ledger has %+v", key, want.ID, tr, want)
			}
			return nil
		}
		for _, gap := range lost[key] {
			if want.ID >= gap[0] && want.ID <= gap[1] {
				inGaps++
				return nil
			}
		}
		t.Errorf("%s %d is lost without a word", key, want.ID)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if found != len(got) || found == 0 {
		t.Errorf("%d trades in the log, %d of them in the ledger", len(got), found)
	}
	t.Logf("%d trades made, %d in the log, %d within stated gaps", made, found, inGaps)
}

// TestABadSymbolAtTheSimulator: beside a symbol that neither venue has, all others trade
// on, through a drop and a planned rotation, and keep the venue's steps.
func TestABadSymbolAtTheSimulator(t *testing.T) {
	client := broker(t)
	cfg := sim.DefaultConfig()
	cfg.Dir, cfg.Rate = t.TempDir(), 1000
	s, err := sim.Start(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	b, c := DefaultFeed(), DefaultFeed()
	b.Name, b.Venue, b.URL, b.REST, b.Symbols = "binance", "binance", s.BinanceURL()+"/stream", s.BinanceREST(), append([]string{"NOSUCHUSDT"}, cfg.Binance...)
	c.Name, c.Venue, c.URL, c.REST, c.Symbols = "coinbase", "coinbase", s.CoinbaseURL(), s.CoinbaseREST(), append([]string{"NO-SUCH"}, cfg.Coinbase...)
	r := start(t, client, component.Discard(), b, c)
	<-r.Ready()
	for _, kind := range []sim.FaultKind{sim.Drop, sim.Shutdown, sim.CloseConn} {
		before := r.Feeds()
		if _, err := s.Inject(sim.Fault{Kind: kind}); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() (bool, string) {
			for i, now := range r.Feeds() {
				if now.Trades < before[i].Trades+300 || now.Connections != 1 || len(now.RefusedSymbols)+len(now.UnlistedSymbols) == 0 {
					return false, kind.String()
				}
			}
			return true, ""
		})
	}
	feeds := r.Feeds()
	drainRole(t, r)
	for i, bad := range []string{"NOSUCHUSDT", "NO-SUCH"} {
		if got := feeds[i].UnlistedSymbols; len(got) != 1 || got[0] != bad {
			t.Errorf("%s: unlisted are %q", feeds[i].Name, got)
		}
		if feeds[i].Reconnects > 3 { // those that were asked for, and no loop
			t.Errorf("%s: %d reconnects", feeds[i].Name, feeds[i].Reconnects)
		}
	}
	if got := feeds[1].RefusedSymbols; len(got) != 1 || got[0] != "NO-SUCH" {
		t.Errorf("coinbase: refused are %q", got)
	}
	market, _ := logged(t, client, event.TopicMarket)
	inst, _ := logged(t, client, event.TopicInstruments)
	for _, symbols := range []struct {
		venue string
		list  []string
	}{{"binance", cfg.Binance}, {"coinbase", cfg.Coinbase}} {
		for _, symbol := range symbols.list {
			key := symbols.venue + "|" + symbol
			if len(only(market[key], "trade ")) == 0 {
				t.Errorf("%s has no trades", key)
			}
			if lines := inst[key]; len(lines) != 1 || lines[0][len(lines[0])-7:] != "(venue)" {
				t.Errorf("instrument %s: %q", key, lines)
			}
		}
	}
}

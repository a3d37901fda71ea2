package sim

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/component"
)

// Half a minute of the default market carries the usual indicators over their
// usual thresholds again and again, for any seed, whether they follow trades or
// short bars.
func TestShapeFiresIndicators(t *testing.T) {
	for seed := uint64(1); seed <= 4; seed++ {
		total := make(map[string]int)
		for _, venue := range []string{VenueBinance, VenueCoinbase} {
			names := DefaultConfig().Binance
			if venue == VenueCoinbase {
				names = DefaultConfig().Coinbase
			}
			for _, name := range names {
				shapeOf(t, newSpec(venue, name), seed, total)
			}
		}
		for name, n := range total {
			if n < 8 {
				t.Errorf("seed %d: %s crossed %d times in 30 s over all symbols", seed, name, n)
			}
		}
		t.Log(seed, total)
	}
}

// shapeOf runs 30 s of one symbol and adds up the crossings.
func shapeOf(t *testing.T, sp spec, seed uint64, total map[string]int) {
	h := newShape(&sp, seed, 1e9, 0)
	const rate = 1100.0 / 6 // trades a second of one symbol; 46 are a quarter of a second
	var prices, vols, bars []float64
	calm := true
	for i := range 5500 {
		h.advance(&sp, 1/rate)
		if h.bid >= h.ask || h.bidQty <= 0 || h.askQty <= 0 {
			t.Fatalf("%s: book %d x %d, %d x %d", sp.name, h.bid, h.bidQty, h.ask, h.askQty)
		}
		sell, price := h.order()
		if price < h.bid || price > h.ask || sell != (2*price < h.bid+h.ask) {
			t.Fatalf("%s: sell %v at %d in %d..%d", sp.name, sell, price, h.bid, h.ask)
		}
		spread := float64(h.ask-h.bid) / float64(h.bid) * 1e4
		if spread > 5 && calm {
			total["spread"]++
		}
		calm = spread < 3
		prices = append(prices, float64(price))
		vols = append(vols, float64(h.tradeSize(&sp)))
		if i%46 == 0 {
			bars = append(bars, float64(price))
		}
	}
	if off := prices[len(prices)-1]/h.level - 1; math.Abs(off) > 0.045 {
		t.Errorf("%s: the price ran off by %v", sp.name, off)
	}
	total["ema on trades"] += emaCrosses(prices, 20, 100)
	total["ema on bars"] += emaCrosses(bars, 4, 12)
	total["rsi on bars"] += rsiCrosses(bars, 14, 30, 70)
	total["z-score on trades"] += zCrosses(prices, 100, 2)
	total["z-score on bars"] += zCrosses(bars, 20, 2)
	total["vwap deviation"] += vwapCrosses(prices, vols, 6)
}

func emaCrosses(p []float64, fast, slow float64) (n int) {
	f, s := p[0], p[0]
	above := false
	for i, x := range p {
		f += (x - f) * 2 / (fast + 1)
		s += (x - s) * 2 / (slow + 1)
		if a := f > s; i > 0 && a != above {
			n++
			above = a
		}
	}
	return n
}

func rsiCrosses(p []float64, period, lo, hi float64) (n int) {
	var up, down float64
	in := true
	for i := 1; i < len(p); i++ {
		d := p[i] - p[i-1]
		up += (max(d, 0) - up) / period
		down += (max(-d, 0) - down) / period
		rsi := 100 * up / (up + down)
		if out := rsi < lo || rsi > hi; i > int(period) && out && in {
			n++
			in = false
		} else if !out {
			in = true
		}
	}
	return n
}

func zCrosses(p []float64, window int, z float64) (n int) {
	in := true
	for i := window; i < len(p); i++ {
		var sum, sq float64
		for _, x := range p[i-window : i] {
			sum += x
			sq += (x - p[0]) * (x - p[0])
		}
		mean := sum / float64(window)
		sd := math.Sqrt(max(0, sq/float64(window)-(mean-p[0])*(mean-p[0])))
		if out := sd > 0 && math.Abs(p[i]-mean) > z*sd; out && in {
			n++
			in = false
		} else if !out {
			in = true
		}
	}
	return n
}

func vwapCrosses(p, v []float64, bps float64) (n int) {
	var pv, vol float64
	in := true
	for i := range p {
		pv += p[i] * v[i]
		vol += v[i]
		if out := math.Abs(p[i]/(pv/vol)-1)*1e4 > bps; out && in {
			n++
			in = false
		} else if !out {
			in = true
		}
	}
	return n
}

// made collects one run's trades per symbol, without ids and times.
func made(t *testing.T, seed uint64) map[string][][3]string {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Dir, cfg.Seed, cfg.Rate = t.TempDir(), seed, 20000
	s, err := Start(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	b := dial(t, s.BinanceURL()+"/ws/btcusdt@bookTicker")
	c := dial(t, s.CoinbaseURL())
	c.say(`{"type":"subscribe","product_ids":["ETH-USD"],"channels":["matches"]}`)
	for range 1000 {
		b.next()
		c.next()
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	all := make(map[string][][3]string)
	if err := ReadLedger(cfg.Dir, func(tr LedgerTrade) error {
		if len(all[tr.Symbol]) < 800 {
			all[tr.Symbol] = append(all[tr.Symbol], [3]string{tr.Price.String(), tr.Qty.String(), tr.Aggressor.String()})
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestSeed(t *testing.T) {
	one, two, other := made(t, 7), made(t, 7), made(t, 8)
	if len(one["BTCUSDT"]) < 800 || len(one["ETH-USD"]) < 800 || len(one) != 2 {
		t.Fatalf("made %d and %d trades of %d symbols", len(one["BTCUSDT"]), len(one["ETH-USD"]), len(one))
	}
	if diff := cmp.Diff(one, two); diff != "" {
		t.Errorf("the same seed made another market:\n%s", diff)
	}
	if cmp.Equal(one, other) {
		t.Error("another seed made the same market")
	}
}

func TestSpec(t *testing.T) {
	for _, tt := range []struct {
		venue, name, base, quote string
		priceScale, qtyScale     uint8
	}{
		{VenueBinance, "BTCUSDT", "BTC", "USDT", 2, 5}, {VenueBinance, "ETHBTC", "ETH", "BTC", 6, 4}, {VenueBinance, "DOGEUSDT", "DOGE", "USDT", 5, 0},
		{VenueCoinbase, "BTC-USD", "BTC", "USD", 2, 8}, {VenueCoinbase, "SOL-EUR", "SOL", "EUR", 2, 8}, {VenueBinance, "S042USDT", "S042", "USDT", 2, 3},
	} {
		s := newSpec(tt.venue, tt.name)
		if s.base != tt.base || s.quote != tt.quote || s.level < 1000 {
			t.Errorf("%s: %+v", tt.name, s)
		}
		if tt.name[0] != 'S' && (s.priceScale != tt.priceScale || s.qtyScale != tt.qtyScale) {
			t.Errorf("%s: scales %d and %d, want %d and %d", tt.name, s.priceScale, s.qtyScale, tt.priceScale, tt.qtyScale)
		}
	}
}

func TestValidate(t *testing.T) {
	good := DefaultConfig()
	good.Dir = "x"
	if p := good.Validate(); len(p) != 0 {
		t.Errorf("the defaults have problems: %v", p)
	}
	bad := Config{
		Listen: "here", Rate: -1, QuotesPerTrade: 1000, Binance: []string{"BTC-USDT", "A", "A"}, Coinbase: []string{"BTCUSD"}, Schedule: "x",
		Faults: []FaultPlan{{Venue: "kraken", After: -1}}, Ledger: true, MaxLedgerBytes: 1, SlowClients: "x",
	}
	var paths []string
	for _, p := range bad.Validate() {
		paths = append(paths, p.Path)
	}
	want := []string{"dir", "listen", "rate", "quotes_per_trade", "binance[0]", "binance[2]", "coinbase[0]", "schedule", "faults[0].kind", "faults[0].venue",
		"faults[0]", "max_ledger_bytes", "queue_bytes", "slow_clients", "ping_interval", "pong_timeout", "subscribe_grace", "max_age"}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Error(diff)
	}
}

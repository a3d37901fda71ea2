package signals

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

// record is one record of md as the tests make them.
type record struct{ key, value []byte }

// market makes records of a made-up market: trades and quotes of a few
// instruments, now and then a hole, a clock record, a late trade and a record
// that is none. Times advance by a fraction of a millisecond.
type market struct {
	r      *rand.Rand
	now    int64
	keys   []string
	price  []float64
	id     []uint64
	damage bool
	source event.TimeSource // of trades
}

func newMarket(seed uint64, damage bool, keys ...string) *market {
	m := &market{r: rand.New(rand.NewPCG(seed, 7)), now: 1_787_000_000_000_000_000, keys: keys, damage: damage, source: event.TimeEvent}
	for range keys {
		m.price = append(m.price, 64000)
		m.id = append(m.id, 1)
	}
	return m
}

func (m *market) next() record {
	i := m.r.IntN(len(m.keys))
	key := []byte(m.keys[i])
	m.now += m.r.Int64N(int64(time.Millisecond))
	m.price[i] *= 1 + 0.0004*m.r.NormFloat64()
	if m.r.IntN(400) == 0 {
		m.price[i] *= 1 + 0.004*m.r.NormFloat64()
	}
	m.price[i] += (64000 - m.price[i]) * 0.001
	cents := int64(m.price[i] * 100)
	m.id[i]++
	if m.damage {
		switch m.r.IntN(2000) {
		case 0:
			return record{key, []byte{0x0a, byte(m.r.IntN(5)), 0xff, byte(m.id[i])}}
		case 1:
			return record{key, event.Marshal(&event.Coverage{Kind: event.CoverageLost, Channel: event.ChannelTrade, RecvTime: m.now, Connection: 1, Ordinal: m.id[i]})}
		case 2:
			return record{key, event.Marshal(&event.Clock{Feed: m.keys[i], Connections: 1, Time: m.now})}
		case 3:
			t := event.Trade{Channel: event.ChannelTrade, TradeID: m.id[i], Price: event.NewDecimal(100, 0), TimeSource: event.TimeEvent, EventTime: 5, RecvTime: m.now}
			return record{key, t.AppendWire(nil)}
		}
	}
	if m.r.IntN(2) == 0 {
		half := int64(1 + m.r.IntN(30))
		if m.r.IntN(300) == 0 {
			half += 5000
		}
		q := event.Quote{Channel: event.ChannelBookTicker, TimeSource: event.TimeReceive, Sequence: m.id[i],
			Bid: event.NewDecimal(cents-half, 2), Ask: event.NewDecimal(cents+half, 2), RecvTime: m.now}
		return record{key, q.AppendWire(nil)}
	}
	t := event.Trade{Channel: event.ChannelTrade, TradeID: m.id[i], Price: event.NewDecimal(cents, 2), Qty: event.Some(event.NewDecimal(m.r.Int64N(5000)+1, 4)),
		Aggressor: event.Buy, TimeSource: m.source, EventTime: m.now - 1000, RecvTime: m.now}
	return record{key, t.AppendWire(nil)}
}

var demoKeys = []string{"binance|BTCUSDT", "binance|ETHUSDT", "binance|SOLUSDT", "coinbase|BTC-USD", "coinbase|ETH-USD", "coinbase|SOL-USD"}

// TestDefaultRulesFire: on a lively market every default rule fires, and not
// hundreds of times a second.
func TestDefaultRulesFire(t *testing.T) {
	cfg := DefaultConfig()
	if p := cfg.Validate(); len(p) > 0 {
		t.Fatalf("the default configuration has problems: %v", p)
	}
	set, err := CompileRules(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := newMarket(1, false, demoKeys...)
	e := NewEngine(0)
	if err := e.Apply(set); err != nil {
		t.Fatal(err)
	}
	fired := map[string]int{}
	start := m.now
	var offset int64
	for ; m.now < start+int64(time.Minute); offset++ {
		rec := m.next()
		out, err := e.Step(offset, rec.key, rec.value)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range out {
			fired[s.Rule]++
			if s.Account != "paper" || s.Deadline <= s.Time || s.Horizon <= 0 || s.RefPrice.Sign() <= 0 || len(s.Values) == 0 || len(s.Triggers) == 0 || s.ID.IsZero() {
				t.Fatalf("incomplete signal %+v", s)
			}
		}
	}
	total := 0
	for _, r := range cfg.Rules {
		if fired[r.Name] == 0 {
			t.Errorf("rule %s never fired", r.Name)
		}
		total += fired[r.Name]
	}
	t.Logf("%d records in 60 s: %d signals %v", offset, total, fired)
	if total > 60*50 {
		t.Errorf("%d signals in a minute: too many", total)
	}
}

// tenRules are ten rules over every symbol, six indicators.
func tenRules(t testing.TB) *RuleSet {
	cfg := DefaultConfig()
	cfg.Rules = cfg.Rules[:10]
	for i := range cfg.Rules {
		cfg.Rules[i].Venues, cfg.Rules[i].Symbols = nil, nil
	}
	set, err := CompileRules(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// A step allocates nothing while nothing fires.
func TestStepDoesNotAllocate(t *testing.T) {
	cfg := DefaultConfig()
	for i := range cfg.Rules {
		cfg.Rules[i].Threshold *= 1e6 // out of reach
	}
	set, err := CompileRules(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e := NewEngine(0)
	if err := e.Apply(set); err != nil {
		t.Fatal(err)
	}
	m := newMarket(3, false, demoKeys...)
	m.source = event.TimeReceive
	records := make([]record, 4096)
	for i := range records {
		records[i] = m.next()
	}
	var offset int64
	step := func() {
		rec := &records[offset%4096]
		if _, err := e.Step(offset, rec.key, rec.value); err != nil {
			t.Fatal(err)
		}
		offset++
	}
	for range 4096 {
		step() // every instrument appears, every indicator warms up
	}
	if n := testing.AllocsPerRun(20_000, step); n != 0 || e.Stats().Signals > 0 || e.Stats().Unusable > 0 {
		t.Fatalf("a quiet step allocates %v times; %+v", n, e.Stats())
	}
}

func benchmarkEngine(b *testing.B, trades bool) {
	e := NewEngine(0)
	if err := e.Apply(tenRules(b)); err != nil {
		b.Fatal(err)
	}
	m := newMarket(5, false, demoKeys...)
	m.source = event.TimeReceive // the records come again and again: none is late
	var records []record
	for len(records) < 1<<15 {
		if rec := m.next(); !trades || event.TypeOf(rec.value) == event.TypeTrade {
			records = append(records, rec)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		rec := &records[i&(1<<15-1)]
		if _, err := e.Step(int64(i), rec.key, rec.value); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ticks/s")
	b.ReportMetric(float64(e.Stats().Signals)/float64(b.N)*1e6, "signals/Mtick")
}

// BenchmarkEngine10Rules takes trades from their wire form through ten rules a
// symbol, on one core.
func BenchmarkEngine10Rules(b *testing.B) { benchmarkEngine(b, true) }

// BenchmarkEngine10RulesMixed has as many quotes as trades.
func BenchmarkEngine10RulesMixed(b *testing.B) { benchmarkEngine(b, false) }

package clickhouse

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"sync"
	"testing"

	"github.com/autohedge/autohedge/stream/event"
)

// values are prices and quantities, the smallest and the largest that there can be among
// them.
var values = []string{
	"0.000000000000000001", "0.00001234", "0.1", "1", "3", "36.0432", "170.14", "615.89", "3411.07", "64089.96", "123456789.987654321", "18446744073709551616",
	"12345678901234567890.123456789012345678", "99999999999999999999.999999999999999999",
}

func rat(t testing.TB, text string) *big.Rat {
	t.Helper()
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		t.Fatalf("%q is no number", text)
	}
	return r
}

// near compares a float of ClickHouse with what it should be.
func near(t testing.TB, what, got string, want *big.Rat) {
	t.Helper()
	f, err := strconv.ParseFloat(got, 64)
	w, _ := want.Float64()
	if err != nil || math.Abs(f-w) > 1e-12*math.Abs(w) {
		t.Errorf("%s is %s, want %v", what, got, w)
	}
}

// TestArithmeticOnMarketData: the expressions that people write on prices and quantities
// of trades and quotes are right, for usual values and for extreme ones.
func TestArithmeticOnMarketData(t *testing.T) {
	c := testClient(t, sharedEngine(t))
	b := NewBatch("md", testIncarnation, 0)
	n := int64(0)
	for _, p := range values {
		for _, q := range values {
			tr := &event.Trade{Channel: event.ChannelTrade, TradeID: uint64(n + 1), Price: event.MustDecimal(p), Qty: event.Some(event.MustDecimal(q)), EventTime: testTime + n, RecvTime: testTime}
			if _, err := b.AddEvent(n, event.Key("binance", "BTCUSDT"), tr); err != nil {
				t.Fatal(err)
			}
			qt := &event.Quote{Channel: event.ChannelBookTicker, Sequence: uint64(n + 1), Bid: tr.Price, Ask: tr.Qty.Decimal, BidQty: tr.Qty, AskQty: event.Some(tr.Price), EventTime: testTime + n, RecvTime: testTime}
			if _, err := b.AddEvent(n, event.Key("binance", "BTCUSDT"), qt); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	insertAll(t, c, b, "safe")
	rows := ask(t, c, `SELECT price * qty, price / qty, price / lagInFrame(price, 1, 1) OVER (ORDER BY trade_id), price * price * qty * qty, px * sz, qty / price,
		price * 2.5, price * 3, (price + qty) / 2, toString(price_exact), toString(qty_exact), price > 0 AND qty > 0 FROM ticks ORDER BY trade_id`)
	quotes := ask(t, c, "SELECT bid * bid_qty, ask / bid, (bid * ask_qty + ask * bid_qty) / (bid_qty + ask_qty), mid, bid * ask_qty * 2 FROM quotes ORDER BY sequence")
	var notional, volume big.Rat
	last := big.NewRat(1, 1)
	for i, row := range rows {
		ps, qs := values[i/len(values)], values[i%len(values)]
		p, q := rat(t, ps), rat(t, qs)
		at := fmt.Sprintf("of %s and %s", ps, qs)
		mul := func(xs ...*big.Rat) *big.Rat {
			out := big.NewRat(1, 1)
			for _, x := range xs {
				out.Mul(out, x)
			}
			return out
		}
		quo := func(a, b *big.Rat) *big.Rat { return new(big.Rat).Quo(a, b) }
		sum := new(big.Rat).Add(p, q)
		near(t, "the notional "+at, row[0], mul(p, q))
		near(t, "the ratio "+at, row[1], quo(p, q))
		near(t, "the return "+at, row[2], quo(p, last))
		near(t, "the product of four "+at, row[3], mul(p, p, q, q))
		near(t, "px * sz "+at, row[4], mul(p, q))
		near(t, "the other ratio "+at, row[5], quo(q, p))
		near(t, "2.5 prices "+at, row[6], mul(p, big.NewRat(5, 2)))
		near(t, "3 prices "+at, row[7], mul(p, big.NewRat(3, 1)))
		near(t, "the mean "+at, row[8], mul(sum, big.NewRat(1, 2)))
		if rat(t, row[9]).Cmp(p) != 0 || rat(t, row[10]).Cmp(q) != 0 || row[11] != "1" && row[11] != "true" {
			t.Errorf("the exact values %s came back as %s and %s, above 0: %s", at, row[9], row[10], row[11])
		}
		quote := quotes[i]
		near(t, "bid * bid_qty "+at, quote[0], mul(p, q))
		near(t, "ask / bid "+at, quote[1], quo(q, p))
		near(t, "the microprice "+at, quote[2], quo(new(big.Rat).Add(mul(p, p), mul(q, q)), sum))
		near(t, "mid "+at, quote[3], mul(sum, big.NewRat(1, 2)))
		near(t, "bid * ask_qty * 2 "+at, quote[4], mul(p, p, big.NewRat(2, 1)))
		notional.Add(&notional, mul(p, q))
		volume.Add(&volume, q)
		last = p
	}
	sums := ask(t, c, "SELECT sum(price * qty), sum(price * qty) / sum(qty), sum(qty), avg(price * qty) FROM ticks")[0]
	near(t, "the turnover", sums[0], &notional)
	near(t, "the VWAP", sums[1], new(big.Rat).Quo(&notional, &volume))
	near(t, "the volume", sums[2], &volume)
	near(t, "the mean notional", sums[3], new(big.Rat).Quo(&notional, big.NewRat(int64(len(rows)), 1)))
}

// TestArithmeticOnMoney: products and sums of fills and positions are exact, quotients
// are so to 18 decimals.
func TestArithmeticOnMoney(t *testing.T) {
	c := testClient(t, sharedEngine(t))
	b := NewBatch("fills", testIncarnation, 0)
	n := int64(0)
	for _, p := range values {
		for _, q := range values {
			f := &event.Fill{ID: event.HashStrings("fill", fmt.Sprint(n)), Account: "a", Strategy: "s", Venue: "v", Symbol: "X", Side: event.Buy, Price: event.MustDecimal(p), Qty: event.MustDecimal(q), Time: testTime + n}
			pos := &event.Position{ID: event.HashStrings("position", fmt.Sprint(n)), Account: "a", Strategy: "s", Qty: event.MustDecimal("-" + q), Mark: event.Some(event.MustDecimal(p)), Version: uint64(n), Time: testTime}
			for _, m := range []event.Message{f, pos} {
				if _, err := b.AddEvent(n, event.Key("v", "X"), m); err != nil {
					t.Fatal(err)
				}
			}
			n++
		}
	}
	insertAll(t, c, b, "money")
	rows := ask(t, c, "SELECT toString(price * qty), toString(price / qty), toString(price / lagInFrame(price, 1, price) OVER (ORDER BY time)), toFloat64(price) * toFloat64(qty) FROM fills ORDER BY time")
	marks := ask(t, c, "SELECT toString(qty * mark) FROM positions ORDER BY version")
	var turnover big.Rat
	for i, row := range rows {
		p, q := rat(t, values[i/len(values)]), rat(t, values[i%len(values)])
		product := new(big.Rat).Mul(p, q)
		turnover.Add(&turnover, product)
		if rat(t, row[0]).Cmp(product) != 0 {
			t.Errorf("%s x %s is %s", values[i/len(values)], values[i%len(values)], row[0])
		}
		if got := rat(t, marks[i][0]); got.Cmp(new(big.Rat).Neg(product)) != 0 {
			t.Errorf("-%s x %s is %s", values[i%len(values)], values[i/len(values)], marks[i][0])
		}
		for k, want := range []*big.Rat{new(big.Rat).Quo(p, q), new(big.Rat).Quo(p, rat(t, values[max(i-1, 0)/len(values)]))} {
			off := new(big.Rat).Sub(rat(t, row[1+k]), want)
			if off.Abs(off).Cmp(big.NewRat(1, 1e18)) >= 0 {
				t.Errorf("a quotient of %s is %s, want %s", values[i/len(values)], row[1+k], want.FloatString(18))
			}
		}
		near(t, "the notional in floats", row[3], product)
	}
	if got := rat(t, askOne(t, c, "SELECT toString(sum(price * qty)) FROM fills")); got.Cmp(&turnover) != 0 {
		t.Errorf("the turnover is %s, want %s", got, &turnover)
	}
}

// TestTwoCurrenciesAreNotAdded: profit is told for each currency, and a flat position has
// none but what was made.
func TestTwoCurrenciesAreNotAdded(t *testing.T) {
	c := testClient(t, sharedEngine(t))
	b := NewBatch("fills", testIncarnation, 0)
	for i, x := range []struct{ symbol, currency, price string }{{"BTC-USD", "USD", "0.1"}, {"BTCUSDT", "USDT", "0.3"}} {
		for k, side := range []event.Side{event.Buy, event.Sell} {
			n := int64(2*i + k)
			f := &event.Fill{ID: event.HashStrings("fill", fmt.Sprint(n)), Account: "a", Strategy: "s", Venue: "v", Symbol: x.symbol, Side: side, Price: event.MustDecimal(x.price), Qty: event.MustDecimal("0.7"), FeeQuote: event.MustDecimal("0.01"), Time: testTime + n}
			pos := &event.Position{ID: event.HashStrings("position", fmt.Sprint(n)), Account: "a", Strategy: "s", Venue: "v", Symbol: x.symbol, QuoteCurrency: x.currency, Version: uint64(k), Time: testTime}
			for _, m := range []event.Message{f, pos} {
				if _, err := b.AddEvent(n, event.Key("v", x.symbol), m); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	insertAll(t, c, b, "currencies")
	got := fmt.Sprint(ask(t, c, "SELECT quote_currency, position, pnl, fees FROM v_pnl ORDER BY quote_currency"), ask(t, c, "SELECT account, strategy, quote_currency, fills, pnl, fees FROM v_pnl_by_strategy"))
	if want := "[[USD 0 -0.02 0.02] [USDT 0 -0.02 0.02]] [[a s USD 2 -0.02 0.02] [a s USDT 2 -0.02 0.02]]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestProofWhileLanding: the proof is right at every moment while batches land.
func TestProofWhileLanding(t *testing.T) {
	c := testClient(t, sharedEngine(t))
	const batches, size = 60, 50
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for n := range int64(batches) {
			b := NewBatch("md", testIncarnation, 0)
			for i := range int64(size) {
				offset := n*size + i
				tr := &event.Trade{Channel: event.ChannelTrade, TradeID: uint64(offset + 1), Price: event.MustDecimal("1"), EventTime: testTime, RecvTime: testTime}
				if _, err := b.AddEvent(offset, event.Key("binance", "BTCUSDT"), tr); err != nil {
					t.Error(err)
					return
				}
			}
			token := fmt.Sprint("proof", n)
			for _, x := range b.Blocks() {
				if err := c.Insert(t.Context(), x, token+x.Table()); err != nil {
					t.Error(err)
					return
				}
			}
			l := Landed{Topic: "md", Incarnation: testIncarnation, First: n * size, Last: (n+1)*size - 1, Token: token, Rows: map[string]uint64{"ticks": size}}
			if err := c.Land(t.Context(), l); err != nil {
				t.Error(err)
				return
			}
		}
	})
	looks, inFlight := 0, 0
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		for _, row := range ask(t, c, "SELECT missing, rows, end_offset - start_offset, in_flight FROM v_landed_proof") {
			looks++
			if row[0] != "0" || row[1] != row[2] {
				t.Fatalf("missing %s, %s rows of %s", row[0], row[1], row[2])
			}
			if row[3] != "0" {
				inFlight++
			}
		}
	}
	wg.Wait()
	t.Logf("%d looks, %d of them while rows were in flight", looks, inFlight)
	if got := askOne(t, c, "SELECT missing, rows, in_flight FROM v_landed_proof"); got != fmt.Sprintf("0 %d 0", batches*size) {
		t.Errorf("in the end: %s", got)
	}
}

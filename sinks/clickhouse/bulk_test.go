package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

var testTime = time.Date(2026, 11, 23, 7, 0, 0, 123456789, time.UTC).UnixNano()

// testClient is a client with a database of the test's own, migrated.
func testClient(t testing.TB, e *Engine) *Client {
	t.Helper()
	cfg := DefaultConfig()
	cfg.URL = e.URL()
	cfg.Database = "t_" + strings.ToLower(strings.NewReplacer("/", "_", "-", "_").Replace(t.Name()))
	c, err := Connect(t.Context(), cfg, testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := c.Exec(t.Context(), "DROP DATABASE IF EXISTS "+cfg.Database); err != nil {
		t.Fatal(err)
	}
	if err := c.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func ask(t testing.TB, c *Client, sql string) [][]string {
	t.Helper()
	res, err := c.Query(t.Context(), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return res.Rows
}

func askOne(t testing.TB, c *Client, sql string) string {
	t.Helper()
	rows := ask(t, c, sql)
	if len(rows) != 1 {
		t.Fatalf("%s: %d rows", sql, len(rows))
	}
	return strings.Join(rows[0], " ")
}

func insertAll(t testing.TB, c *Client, b *Batch, token string) {
	t.Helper()
	for _, x := range b.Blocks() {
		if err := c.Insert(t.Context(), x, token+"/"+x.Table()+"/"+x.Partition()); err != nil {
			t.Fatal(err)
		}
	}
}

var testIncarnation = event.HashStrings("incarnation")

func TestDecimalsAreExact(t *testing.T) {
	c := testClient(t, sharedEngine(t))
	texts := []string{
		"0", "1", "-1", "0.000000000000000001", "-0.000000000000000001", "99999999999999999999.999999999999999999", "-99999999999999999999.999999999999999999",
		"64123.45", "0.00001234", "18446744073709551616", "-9223372036854775809.5", "12345678901234567890.123456789012345678",
	}
	b := NewBatch("md", testIncarnation, 3)
	key := event.Key("binance", "BTCUSDT")
	for i, text := range texts {
		tr := &event.Trade{Channel: event.ChannelTrade, TradeID: uint64(i + 1), Price: event.MustDecimal(text), EventTime: testTime + int64(i), RecvTime: testTime}
		if i%2 == 0 {
			tr.Qty = event.Some(event.MustDecimal(text))
		}
		if n, err := b.Add(int64(i), key, event.Marshal(tr)); err != nil || n != 0 {
			t.Fatal(n, err)
		}
	}
	insertAll(t, c, b, "exact")
	for i, row := range ask(t, c, "SELECT toString(price_exact), toString(qty_exact) FROM ticks ORDER BY trade_id") {
		got, err := event.ParseDecimal([]byte(row[0]))
		if err != nil || got.Cmp(event.MustDecimal(texts[i])) != 0 {
			t.Errorf("price %s came back as %s", texts[i], row[0])
		}
		if i%2 == 0 {
			if got, err := event.ParseDecimal([]byte(row[1])); err != nil || got.Cmp(event.MustDecimal(texts[i])) != 0 {
				t.Errorf("quantity %s came back as %q", texts[i], row[1])
			}
		} else if row[1] != "" {
			t.Errorf("a quantity that was not sent came back as %q", row[1])
		}
	}
}

// sampleEvents has every type that makes a row, with every field set.
func sampleEvents() []event.Message {
	id := event.HashStrings("id")
	lin := event.Lineage{Topic: "md", Partition: 2, Offset: 77, K: 1}
	d := event.MustDecimal
	some := func(s string) event.NullDecimal { return event.Some(d(s)) }
	decision := event.Decision{
		ID: event.HashStrings("decision"), SignalID: id, Arm: "champion", Account: "paper", Strategy: "s", Venue: "binance", Symbol: "BTCUSDT", Lineage: lin, Desk: "deterministic",
		Model: "m", Action: event.ActionLong, Reason: "ok", Rationale: "because\nit's so", Conviction: 4, Side: event.Buy, Qty: some("0.5"), Type: event.Limit, TIF: event.IOC,
		LimitPrice: some("64000.01"), StopBps: 50, TargetBps: 100, Horizon: 5e9, RefPrice: d("64000"), Bid: some("63999"), Ask: some("64001"), SignalTime: testTime, Deadline: testTime + 1e9,
		MaxDriftBps: d("12.5"), StartedAt: testTime, Time: testTime + 5, InputTokens: 1, OutputTokens: 2,
	}
	return []event.Message{
		&event.Trade{Channel: event.ChannelAggTrade, Aggressor: event.Sell, TradeID: 5, Sequence: 6, Price: d("64123.45"), Qty: some("0.001"), EventTime: testTime, PublishTime: testTime + 1,
			RecvTime: testTime + 2, TimeSource: event.TimeEvent, Connection: 3, Ordinal: 4, FirstTradeID: 7, LastTradeID: 9},
		&event.Quote{Channel: event.ChannelBookTicker, TimeSource: event.TimeReceive, Sequence: 10, Bid: d("1.5"), BidQty: some("2"), Ask: d("1.6"), EventTime: testTime, RecvTime: testTime, Connection: 3, Ordinal: 4},
		&event.Coverage{Kind: event.CoverageLost, Channel: event.ChannelTrade, Contiguous: true, FromID: 11, ToID: 20, FromTime: testTime, RecvTime: testTime + 3, Connection: 3, Ordinal: 4, Reason: "feed dropped"},
		&event.Clock{Feed: "f", Connections: 1, Time: testTime},
		&event.Signal{ID: id, RuleHash: event.HashStrings("rule"), RuleSet: event.HashStrings("set"), Rule: "r", Kind: "threshold", Strategy: "s", Account: "paper", Venue: "binance", Symbol: "BTCUSDT",
			Side: event.Buy, Lineage: lin, Time: testTime, EventTime: testTime, Indicator: "rsi", Value: 29.5, Threshold: 30, Values: []event.Value{{Name: "rsi", Value: 29.5}, {Name: "n", Value: 14}},
			Triggers: []string{"binance|trade|BTCUSDT|5", "q"}, RefPrice: d("64123.45"), Bid: some("64123"), Ask: some("64124"), Horizon: 60e9, Deadline: testTime + 2e9, MaxDriftBps: d("10")},
		&event.Signal{ID: event.HashStrings("bare"), Time: testTime},
		&event.ModelCall{ID: event.HashStrings("call"), DecisionID: decision.ID, SignalID: id, Role: "quant", Prompt: event.HashStrings("prompt"), Endpoint: "http://localhost", Model: "m", ModelReturned: "m-1",
			Attempt: 1, Request: []byte("{\"a\":1}\x00\xff"), Response: []byte("no json"), Status: 200, Outcome: event.OutcomeSchema, Error: "e", InputTokens: 3, OutputTokens: 4, CachedTokens: 5, Time: testTime, Latency: 1e9, Lineage: lin},
		&event.Verdict{ID: decision.ID, Desk: "deterministic", Roles: []event.RoleVerdict{{Role: "quant", Verdict: "support", Detail: "{}"}, {Role: "risk", Verdict: "approve"}}, Decision: decision, Lineage: lin},
		&decision,
		&event.OrderEvent{ID: event.HashStrings("order"), ClientOrderID: "ah1", Seq: 2, State: event.OrderPartiallyFilled, Broker: "paper", BrokerOrderID: "b1", DecisionID: decision.ID, SignalID: id, Account: "paper",
			Strategy: "s", Venue: "binance", Symbol: "BTCUSDT", Side: event.Buy, Type: event.Limit, TIF: event.GTC, Qty: d("0.5"), LimitPrice: some("64000"), FilledQty: d("0.2"), FilledNotional: d("12800"),
			Reason: "max_notional", Detail: "100 > 50", Time: testTime, BrokerTime: testTime + 1, SignalTime: testTime - 1, RefPrice: d("64000"), Epoch: 3, Lineage: lin,
			Leg: event.LegTime, Attempt: 2, Cause: "5s after its first fill", Lot: "ah0", StopBps: 7, TargetBps: 8, Horizon: 9},
		&event.Fill{ID: event.HashStrings("fill"), ExecID: "x1", ClientOrderID: "ah1", BrokerOrderID: "b1", Broker: "paper", DecisionID: decision.ID, Account: "paper", Strategy: "s", Venue: "binance", Symbol: "BTCUSDT",
			Side: event.Buy, Price: d("64000.01"), Qty: d("0.2"), Liquidity: event.Taker, Fee: d("12.8"), FeeCurrency: "USDT", FeeQuote: d("12.8"), QuoteID: "q", Time: testTime, Lineage: lin},
		&event.Position{ID: event.HashStrings("position"), Account: "paper", Strategy: "s", Venue: "binance", Symbol: "BTCUSDT", QuoteCurrency: "USDT", Qty: d("0.2"), Cash: d("-12800.002"), Fees: d("12.8"),
			Mark: some("64010"), MarkID: "m", Total: some("-10.802"), Fills: 1, Version: 2, Time: testTime, Lineage: lin},
		&event.Control{ID: event.HashStrings("control"), Kind: event.ControlHalt, Scope: "all", Who: "ops", Why: "drill", Time: testTime, Hash: id, Body: []byte("b")},
		&event.Dead{ID: event.HashStrings("dead"), Role: "signals", Reason: "garbage", Key: []byte("k"), Value: []byte{0, 255}, Time: testTime, Lineage: lin},
		&event.Instrument{Venue: "binance", Symbol: "BTCUSDT"},
	}
}

func TestEveryTableHoldsItsEvents(t *testing.T) {
	c := testClient(t, sharedEngine(t))
	b := NewBatch("topic", testIncarnation, 3)
	key := event.Key("binance", "BTCUSDT")
	rows := 0
	for i, m := range sampleEvents() {
		block, err := b.Add(int64(100+i), key, event.Marshal(m))
		if err != nil {
			t.Fatalf("%T: %v", m, err)
		}
		if block != NoRow {
			rows++
		}
	}
	if rows != len(sampleEvents())-2 {
		t.Errorf("%d rows of %d events, of which two make none", rows, len(sampleEvents()))
	}
	if _, err := b.Add(1, key, []byte("garbage")); err == nil {
		t.Error("garbage was taken")
	}
	insertAll(t, c, b, "every")
	for _, q := range []struct{ sql, want string }{
		{"SELECT venue, symbol, channel, toUnixTimestamp64Nano(event_time) - {t}, toUnixTimestamp64Nano(recv_time) - {t}, toUnixTimestamp64Nano(assumeNotNull(publish_time)) - {t}, time_source, trade_id, trade_id_text, sequence, toString(price), toString(qty), side, connection, ordinal, first_trade_id, last_trade_id, topic, incarnation, kafka_partition, kafka_offset, event_id, px, sz FROM ticks",
			"binance BTCUSDT aggTrade 0 2 1 event 5  6 64123.45 0.001 sell 3 4 7 9 topic " + testIncarnation.String() + " 3 100 binance|aggTrade|BTCUSDT|5 64123.45 0.001"},
		{"SELECT channel, sequence, toString(bid), toString(bid_qty), toString(ask), ask_qty, publish_time, time_source, event_id, round(mid, 6), round(spread_bps, 4) FROM quotes", "bookTicker 10 1.5 2 1.6   receive binance|bookTicker|BTCUSDT|10 1.55 645.1613"},
		{"SELECT kind, channel, contiguous, from_id, to_id, toUnixTimestamp64Nano(assumeNotNull(from_time)) - {t}, to_time, reason, event_id FROM coverage", "lost trade true 11 20 0  feed dropped coverage|lost|binance|trade|BTCUSDT|#3.4"},
		{"SELECT rule, kind, strategy, account, side, indicator, value, threshold, values, triggers, toString(ref_price), toString(bid), horizon_ns, toUnixTimestamp64Nano(deadline) - {t}, toString(max_drift_bps), source_topic, source_partition, source_offset, source_k, kafka_offset FROM signals WHERE rule != ''",
			"r threshold s paper buy rsi 29.5 30 {'rsi':29.5,'n':14} ['binance|trade|BTCUSDT|5','q'] 64123.45 64123 60000000000 2000000000 10 md 2 77 1 104"},
		{"SELECT event_id, values, triggers, bid FROM signals WHERE rule = ''", event.HashStrings("bare").String() + " {} [] "},
		{"SELECT role, model_returned, hex(request), response, status, outcome, error, input_tokens, cached_tokens, latency_ns, decision FROM journal WHERE kind = 'model_call'", "quant m-1 7B2261223A317D00FF no json 200 schema e 3 5 1000000000 "},
		{"SELECT event_id = decision_id, desk, action, reason, roles, verdicts, details, JSONExtractString(decision, 'limit_price') FROM journal WHERE kind = 'verdict'", "1 deterministic long ok ['quant','risk'] ['support','approve'] ['{}',''] 64000.01"},
		{"SELECT arm, desk, model, action, rationale, conviction, side, toString(qty), type, tif, toString(limit_price), stop_bps, target_bps, horizon_ns, output_tokens FROM decisions", "champion deterministic m long because\nit's so 4 buy 0.5 limit ioc 64000.01 50 100 5000000000 2"},
		{"SELECT client_order_id, seq, state, broker_order_id, side, type, tif, toString(filled_qty), toString(filled_notional), reason, detail, toUnixTimestamp64Nano(assumeNotNull(broker_time)) - {t}, epoch, leg, attempt, cause, lot, stop_bps, target_bps, horizon_ns FROM order_events", "ah1 2 partially_filled b1 buy limit gtc 0.2 12800 max_notional 100 > 50 1 3 time 2 5s after its first fill ah0 7 8 9"},
		{"SELECT exec_id, side, toString(price), toString(qty), liquidity, toString(fee), fee_currency, toString(fee_quote), quote_id FROM fills", "x1 buy 64000.01 0.2 taker 12.8 USDT 12.8 q"},
		{"SELECT quote_currency, toString(qty), toString(cash), toString(fees), toString(mark), mark_id, toString(total), fills, version FROM positions", "USDT 0.2 -12800.002 12.8 64010 m -10.802 1 2"},
		{"SELECT kind, scope, who, why, body FROM control", "halt all ops drill b"},
		{"SELECT role, reason, key, hex(value), source_offset FROM dead", "signals garbage k 00FF 77"},
		{"SELECT state, entries, toString(filled_qty) FROM v_orders", "partially_filled 3 0.2"},
		{"SELECT event_id, px, sz, dir FROM v_ticks", "binance|aggTrade|BTCUSDT|5 64123.45 0.001 -1"},
		{"SELECT kind, ids FROM v_coverage", "lost 10"},
		{"SELECT fills, position, round(fees, 6) FROM v_pnl", "1 0.2 12.8"},
		{"SELECT round(tick_to_order_ms, 6) FROM v_tick_to_order", "0.000001"},
	} {
		if got := askOne(t, c, strings.ReplaceAll(q.sql, "{t}", fmt.Sprint(testTime))); got != q.want {
			t.Errorf("%s\n got %q\nwant %q", q.sql, got, q.want)
		}
	}
	counts, err := c.TableCounts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{"ticks": 1, "quotes": 1, "coverage": 1, "signals": 2, "journal": 2, "decisions": 1, "order_events": 1, "fills": 1, "positions": 1, "control": 1, "dead": 1, "landed": 0}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Error(diff)
	}
	// Decoded ids agree with the event room's own, for every form they take.
	for i, tr := range []event.Trade{
		{Channel: event.ChannelTrade, TradeID: 42}, {Channel: event.ChannelMatches, TradeIDText: "a-b", TradeID: 7}, {Channel: event.ChannelJSON, Connection: 9, Ordinal: 12},
		{Channel: event.ChannelTrade, TradeID: 42, Epoch: 1, Late: true}, {Channel: event.ChannelJSON, TradeIDText: "a", Epoch: 4_294_967_295},
	} {
		tr.EventTime, tr.RecvTime = testTime, testTime
		single := NewBatch("ids", testIncarnation, 0)
		if _, err := single.AddEvent(int64(i), key, &tr); err != nil {
			t.Fatal(err)
		}
		insertAll(t, c, single, fmt.Sprint("id", i))
		if got, want := askOne(t, c, fmt.Sprintf("SELECT event_id FROM ticks WHERE topic = 'ids' AND kafka_offset = %d", i)), string(tr.AppendID(nil, key)); got != want {
			t.Errorf("event id %q, want %q", got, want)
		}
		if got, want := askOne(t, c, fmt.Sprintf("SELECT epoch, late FROM ticks WHERE topic = 'ids' AND kafka_offset = %d", i)), fmt.Sprint(tr.Epoch, tr.Late); got != want {
			t.Errorf("epoch and late are %q, want %q", got, want)
		}
	}
	q := &event.Quote{Channel: event.ChannelBookTicker, Sequence: 10, Epoch: 2, EventTime: testTime, RecvTime: testTime}
	cov := &event.Coverage{Kind: event.CoverageKindUnknown, Channel: event.ChannelBookTicker, Epoch: 2, Connection: 3, Ordinal: 4, RecvTime: testTime}
	b = NewBatch("epochs", testIncarnation, 0)
	for i, m := range []event.Message{q, cov} {
		if _, err := b.AddEvent(int64(i), key, m); err != nil {
			t.Fatal(err)
		}
	}
	insertAll(t, c, b, "epochs")
	if got, want := askOne(t, c, "SELECT event_id, epoch FROM quotes WHERE topic = 'epochs'"), string(q.AppendID(nil, key))+" 2"; got != want {
		t.Errorf("quote %q, want %q", got, want)
	}
	if got, want := askOne(t, c, "SELECT event_id, epoch FROM coverage WHERE topic = 'epochs'"), string(cov.AppendID(nil, key))+" 2"; got != want {
		t.Errorf("coverage %q, want %q", got, want)
	}
}

// TestSchemaAgrees catches a DDL enum that differs from the events' names, a second
// Migrate, and a table of another version.
func TestSchemaAgrees(t *testing.T) {
	c := testClient(t, sharedEngine(t))
	if err := c.Migrate(t.Context()); err != nil {
		t.Fatal("a second time:", err)
	}
	if err := c.Exec(t.Context(), "ALTER TABLE "+c.Database()+".fills MODIFY COLUMN side Enum8('unknown' = 0, 'buy' = 1)"); err != nil {
		t.Fatal(err)
	}
	if err := c.Migrate(t.Context()); !errors.Is(err, ErrSetup) || !strings.Contains(err.Error(), "column side of") {
		t.Errorf("another version's table: %v", err)
	}
}

func tickBatch(partition int32, from, to int64) *Batch {
	b := NewBatch("md", testIncarnation, partition)
	fillTicks(b, from, to)
	return b
}

func fillTicks(b *Batch, from, to int64) {
	keys := make([][]byte, 10)
	for i := range keys {
		keys[i] = event.Key("binance", fmt.Sprintf("SYM%dUSDT", i))
	}
	tr := event.Trade{Channel: event.ChannelTrade, Aggressor: event.Buy, TimeSource: event.TimeEvent, Qty: event.Some(event.NewDecimal(123456, 5)), Connection: 1}
	for o := from; o < to; o++ {
		tr.TradeID = uint64(o + 1)
		tr.Price = event.NewDecimal(6412345+o%1000, 2)
		tr.EventTime = testTime + o*1e6
		tr.RecvTime = tr.EventTime + 250_000
		if _, err := b.AddEvent(o, keys[o%10], &tr); err != nil {
			panic(err)
		}
	}
}

func TestInsertsAreIdempotent(t *testing.T) {
	c := testClient(t, sharedEngine(t))
	for range 3 {
		insertAll(t, c, tickBatch(0, 0, 5000), "p0")
	}
	if got := askOne(t, c, "SELECT count(), uniqExact(event_id) FROM ticks"); got != "5000 5000" {
		t.Errorf("rows after three times the same: %s", got)
	}
	insertAll(t, c, tickBatch(0, 0, 5000), "other")
	if n, err := c.Duplicates(t.Context()); err != nil || n != 5000 {
		t.Errorf("duplicates under another token: %d, %v", n, err)
	}
}

func TestBlocksFollowTablePartitions(t *testing.T) {
	b := NewBatch("md", testIncarnation, 0)
	key := event.Key("binance", "BTCUSDT")
	midnight := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC).UnixNano()
	var got []string
	for i, at := range []int64{midnight - 1, midnight, midnight - 2, midnight + 1} {
		n, err := b.AddEvent(int64(i), key, &event.Trade{EventTime: at, RecvTime: at, TradeID: uint64(i + 1)})
		if err != nil {
			t.Fatal(err)
		}
		x := b.Blocks()[n]
		got = append(got, fmt.Sprint(n, x.Table(), x.Partition(), x.Rows()))
	}
	want := []string{"0ticks202611231", "1ticks202611241", "0ticks202611232", "1ticks202611242"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	c := testClient(t, sharedEngine(t))
	insertAll(t, c, b, "midnight")
	if got := askOne(t, c, "SELECT groupArray(p) FROM (SELECT concat(_partition_id, ':', toString(count())) AS p FROM ticks GROUP BY _partition_id ORDER BY p)"); got != "['20261123:2','20261124:2']" {
		t.Errorf("parts %s", got)
	}
	b.Reset()
	if len(b.Blocks()) != 0 {
		t.Error("blocks after Reset")
	}
	for i, at := range []int64{math.MaxInt64, math.MaxInt64 - 1, math.MinInt64, math.MinInt64 + 1} {
		if n, err := b.AddEvent(int64(i), key, &event.Trade{EventTime: at, RecvTime: at}); err != nil || n != i/2 {
			t.Errorf("time %d: block %d, %v", at, n, err)
		}
	}
	b.Reset()
	if n, err := b.AddEvent(9, key, &event.Quote{RecvTime: midnight}); err != nil || n != 0 || b.Blocks()[0].Table() != "quotes" || b.Blocks()[0].Partition() != "20261124" {
		t.Errorf("after Reset: %d, %v", n, err)
	}
}

func TestErrorsAreTyped(t *testing.T) {
	c := testClient(t, sharedEngine(t))
	b := tickBatch(0, 0, 10)
	if err := c.Exec(t.Context(), "ALTER TABLE "+c.Database()+".ticks ADD CONSTRAINT dear CHECK price_exact < 64123.5"); err != nil {
		t.Fatal(err)
	}
	if err := c.Insert(t.Context(), b.Blocks()[0], "x"); !errors.Is(err, ErrRefused) {
		t.Errorf("rows that violate a constraint: %v", err)
	}
	if got := askOne(t, c, "SELECT count() FROM ticks"); got != "0" {
		t.Errorf("rows of a refused block: %s", got)
	}
	if err := c.Exec(t.Context(), "DROP TABLE "+c.Database()+".ticks"); err != nil {
		t.Fatal(err)
	}
	err := c.Insert(t.Context(), b.Blocks()[0], "x")
	if !errors.Is(err, ErrSetup) || errors.Is(err, ErrRefused) {
		t.Errorf("no table: %v", err)
	}
	var ex *Exception
	if !errors.As(err, &ex) || ex.Code != 60 {
		t.Errorf("no table: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Insert(ctx, b.Blocks()[0], "x"); !errors.Is(err, context.Canceled) || errors.Is(err, ErrRefused) || errors.Is(err, ErrSetup) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestKilledEngineLosesNothing kills the engine at arbitrary moments while blocks
// are inserted, and sends each block again under its token until it is
// acknowledged: every row is there once.
func TestKilledEngineLosesNothing(t *testing.T) {
	e := startEngine(t, filepath.Join(t.TempDir(), "db"))
	c := testClient(t, e)
	var retries, acked atomic.Int64
	stop := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		for _, at := range []int64{9, 30, 47, 80} { // acknowledged blocks before each kill
			for acked.Load() < at || e.PID() == 0 {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
			}
			time.Sleep(time.Duration(rand.IntN(15)) * time.Millisecond)
			if pid := e.PID(); pid != 0 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	const writers, each = 3, 2000
	blocks := 0
	var writing sync.WaitGroup
	deadline := time.Now().Add(90 * time.Second)
	for w := range writers {
		blocks += 40
		writing.Go(func() {
			b := NewBatch("md", testIncarnation, int32(w))
			for i := range int64(40) {
				b.Reset()
				fillTicks(b, i*each, (i+1)*each)
				for _, x := range b.Blocks() {
					token := fmt.Sprintf("md/%d/%d-%d/%s/%s", w, i*each, (i+1)*each-1, x.Table(), x.Partition())
					for {
						ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
						err := c.Insert(ctx, x, token)
						cancel()
						if err == nil {
							acked.Add(1)
							break
						}
						if retries.Add(1); errors.Is(err, ErrRefused) || time.Now().After(deadline) {
							t.Errorf("%s: %v", token, err)
							return
						}
						time.Sleep(10 * time.Millisecond)
					}
				}
			}
		})
	}
	writing.Wait()
	close(stop)
	killer.Wait()
	waitFor(t, "the engine", func() bool { return c.Ping(t.Context()) == nil })
	want := fmt.Sprintf("%d %d", blocks*each, blocks*each)
	if got := askOne(t, c, "SELECT count(), uniqExact(kafka_partition, kafka_offset) FROM ticks"); got != want {
		t.Errorf("rows and distinct rows: %s, want %s", got, want)
	}
	t.Logf("%d blocks, %d restarts, %d attempts failed", blocks, e.Restarts(), retries.Load())
	if e.Restarts() < 4 {
		t.Error("the engine was not killed four times")
	}
}

func TestLandedProof(t *testing.T) {
	c := testClient(t, sharedEngine(t))
	insertAll(t, c, tickBatch(1, 10, 60), "plan1")
	row := Landed{Topic: "md", Incarnation: testIncarnation, Partition: 1, First: 10, Last: 62, Rows: map[string]uint64{"ticks": 50}, Control: 2, SecondCopies: 1, Token: "plan1"}
	for range 2 {
		if err := c.Land(t.Context(), row); err != nil {
			t.Fatal(err)
		}
	}
	row.First, row.Last, row.Rows, row.Control, row.SecondCopies, row.Token = 63, 65, nil, 3, 0, "plan2"
	if err := c.Land(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	proofs, err := c.LandedProof(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []Proof{{Topic: "md", Incarnation: testIncarnation, Partition: 1, Start: 10, End: 66, Plans: 2, Rows: 50, Claimed: 50, Control: 5, SecondCopies: 1}}
	if diff := cmp.Diff(want, proofs); diff != "" {
		t.Error(diff)
	}
	if end, err := c.Settle(t.Context(), event.SinkPlan{Topic: "md", Partition: 1, Incarnation: testIncarnation, Token: "plan2\n/ticks"}); err != nil || end != 66 {
		t.Errorf("settled at %d, %v", end, err)
	}
	if end, err := c.Settle(t.Context(), event.SinkPlan{Topic: "md", Partition: 2, Incarnation: testIncarnation, Token: "plan3"}); err != nil || end != 0 {
		t.Errorf("a partition without rows: %d, %v", end, err)
	}
	// A row that is not there is missing.
	if err := c.Exec(t.Context(), "DELETE FROM "+c.Database()+".ticks WHERE kafka_offset = 30"); err != nil {
		t.Fatal(err)
	}
	if proofs, err = c.LandedProof(t.Context()); err != nil || proofs[0].Missing != 1 {
		t.Errorf("after deleting a row: %+v, %v", proofs, err)
	}
}

// TestTokenWithoutRows makes the state that a crash between noting a token and
// showing the rows leaves, and sees Insert repair it.
func TestTokenWithoutRows(t *testing.T) {
	c := testClient(t, sharedEngine(t))
	b := tickBatch(0, 0, 100)
	x := b.Blocks()[0]
	const token = "md/plan/ticks/20261123"
	if err := c.Insert(t.Context(), x, token); err != nil {
		t.Fatal(err)
	}
	if err := c.Exec(t.Context(), "ALTER TABLE "+c.Database()+".ticks DELETE WHERE 1 SETTINGS mutations_sync = 2"); err != nil {
		t.Fatal(err)
	}
	if err := c.Insert(t.Context(), x, token); err != nil {
		t.Fatal(err)
	}
	if got := askOne(t, c, "SELECT count() FROM ticks"); got != "0" {
		t.Fatalf("the token was forgotten: %s rows", got)
	}
	if _, err := c.Settle(t.Context(), event.SinkPlan{Topic: "md", Incarnation: testIncarnation, Token: "md/plan"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Insert(t.Context(), x, token); err != nil {
			t.Fatal(err)
		}
		if got := askOne(t, c, "SELECT count() FROM ticks"); got != "100" {
			t.Fatalf("rows: %s", got)
		}
	}
}

func TestSettleEndsRunningInserts(t *testing.T) {
	e := sharedEngine(t)
	c := testClient(t, e)
	post(t, e, "CREATE TABLE slow (a UInt64) ENGINE = MergeTree ORDER BY a", "database", c.Database())
	done := make(chan answer, 1)
	go func() {
		done <- post(t, e, "INSERT INTO slow SELECT sleepEachRow(0.1) FROM numbers(100000) SETTINGS max_block_size = 1", "database", c.Database(), "insert_deduplication_token", "md/7/ticks")
	}()
	running := "SELECT count() FROM system.processes WHERE Settings['insert_deduplication_token'] = 'md/7/ticks'"
	waitFor(t, "the insert to run", func() bool { return askOne(t, c, running) == "1" })
	if _, err := c.Settle(t.Context(), event.SinkPlan{Topic: "md", Incarnation: testIncarnation, Token: "md/7"}); err != nil {
		t.Fatal(err)
	}
	if got := askOne(t, c, running); got != "0" {
		t.Errorf("still running: %s", got)
	}
	if a := <-done; a.status == 200 {
		t.Error("the killed insert was acknowledged")
	}
}

func TestPnLCheck(t *testing.T) {
	c := testClient(t, sharedEngine(t))
	d := event.MustDecimal
	fill := func(n int, side event.Side, price, qty, fee string) *event.Fill {
		return &event.Fill{ID: event.HashStrings(fmt.Sprint(n)), ExecID: fmt.Sprint(n), ClientOrderID: fmt.Sprint("o", n), Life: "L", Account: "paper", Strategy: "s", Venue: "binance", Symbol: "BTCUSDT", Side: side, Price: d(price), Qty: d(qty), FeeQuote: d(fee), Time: testTime}
	}
	add := func(b *Batch, offset int64, m event.Message) {
		t.Helper()
		if _, err := b.AddEvent(offset, event.Key("binance", "BTCUSDT"), m); err != nil {
			t.Fatal(err)
		}
	}
	b := NewBatch("x", testIncarnation, 0)
	add(b, 0, fill(1, event.Buy, "64123.45000001", "0.12345678", "7.9"))
	add(b, 1, fill(2, event.Sell, "64200.1", "0.2", "12.84"))
	add(b, 2, &event.Quote{Channel: event.ChannelBookTicker, Sequence: 5, Bid: d("64000"), Ask: d("64000.5"), RecvTime: testTime})
	// qty = 0.12345678 - 0.2; cash = -64123.45000001*0.12345678 + 64200.1*0.2
	cash, qty := event.MustDecimal("4923.5453405077654322"), d("-0.07654322")
	position := &event.Position{ID: event.HashStrings("p"), Account: "paper", Strategy: "s", Venue: "binance", Symbol: "BTCUSDT", Qty: qty, Cash: cash, Fees: d("20.74"),
		Mark: event.Some(d("64000.5")), MarkID: "binance|bookTicker|BTCUSDT|5", Fills: 2, Version: 2, Time: testTime}
	// total = cash + qty * mark - fees
	total, err := event.FromMoney(position.Cash.Money().Add(position.Qty.Money().Mul(d("64000.5").Money())).Sub(position.Fees.Money()))
	if err != nil {
		t.Fatal(err)
	}
	position.Total = event.Some(total)
	filled := func(n int, account, qty, claimed string) *event.OrderEvent {
		e := &event.OrderEvent{ID: event.HashStrings("order", account, fmt.Sprint(n), qty), ClientOrderID: fmt.Sprint("o", n), State: event.OrderFilled, Account: account,
			Strategy: "s", Venue: "binance", Symbol: "BTCUSDT", FilledQty: d(qty), Time: testTime}
		if claimed != "" {
			e.ClaimedQty = event.Some(d(claimed))
		}
		return e
	}
	add(b, 7, filled(1, "paper", "0.12345678", ""))
	add(b, 8, filled(2, "paper", "0.2", ""))
	add(b, 9, filled(4, "paper", "0", ""))
	add(b, 10, filled(1, "other", "0", "")) // the same client order id in another account
	old := *position
	old.ID, old.Version, old.Qty = event.HashStrings("old"), 1, d("5")
	add(b, 3, &old)
	add(b, 4, position)
	insertAll(t, c, b, "a")
	if got, err := c.PnLCheck(t.Context()); err != nil || got != "0" {
		t.Fatalf("%q, %v", got, err)
	}
	// Another version, wrong in the last place and with a price no quote has.
	wrong := *position
	wrong.ID, wrong.Version, wrong.Mark = event.HashStrings("wrong"), 3, event.Some(d("64000.6"))
	b = NewBatch("x", testIncarnation, 0)
	add(b, 5, &wrong)
	insertAll(t, c, b, "b")
	got, err := c.PnLDifferences(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []PnLDifference{{Account: "paper", Strategy: "s", Venue: "binance", Symbol: "BTCUSDT", Qty: "0", Cash: "0", Fees: "0", Total: "0.007654322", Mark: true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// Orders that claim more or less than their fills prove, and fills of no order.
	b = NewBatch("x", testIncarnation, 0)
	add(b, 11, filled(5, "paper", "0.5", ""))
	claims := filled(2, "paper", "0.2", "0.3")
	claims.Seq = 1
	add(b, 12, claims)
	insertAll(t, c, b, "d")
	n, first, err := c.FillDifferences(t.Context())
	if diff := cmp.Diff([]string{"paper order o2: 0.3 claimed, fills prove 0.2", "paper order o5: 0.5 claimed, fills prove 0"}, first); err != nil || n != 2 || diff != "" {
		t.Errorf("%d differences, %v: %s", n, err, diff)
	}
	if got, err := c.PnLCheck(t.Context()); err != nil || !strings.Contains(got, "order o5: 0.5 claimed") {
		t.Errorf("%q, %v", got, err)
	}
	// A fill without a position row.
	b = NewBatch("x", testIncarnation, 0)
	lone := fill(3, event.Buy, "1", "1", "0")
	lone.Symbol = "ETHUSDT"
	add(b, 6, lone)
	insertAll(t, c, b, "c")
	if got, err := c.PnLDifferences(t.Context()); err != nil || len(got) != 2 || got[1].Symbol != "ETHUSDT" || got[1].Qty != "-1" || got[1].Fills != -1 {
		t.Errorf("a fill without a position: %+v, %v", got, err)
	}
}

func TestQuery(t *testing.T) {
	c := testClient(t, sharedEngine(t))
	res, err := c.Query(t.Context(), "SELECT 1 AS a, toDecimal128('1.50', 18) AS d, NULL AS n, 'x\ty' AS s, [1, 2] AS l")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&Result{Columns: []string{"a", "d", "n", "s", "l"}, Types: []string{"UInt8", "Decimal(38, 18)", "Nullable(Nothing)", "String", "Array(UInt8)"}, Rows: [][]string{{"1", "1.5", "", "x\ty", "[1,2]"}}}, res); diff != "" {
		t.Error(diff)
	}
	if res, err = c.Query(t.Context(), "SELECT 1 AS a FORMAT JSONEachRow"); err != nil || res.Rows[0][0] != "{\"a\":1}\n" {
		t.Errorf("%+v, %v", res, err)
	}
	if res, err = c.Query(t.Context(), "SELECT 1 AS a WHERE 0"); err != nil || len(res.Rows) != 0 || len(res.Columns) != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	if _, err = c.Query(t.Context(), "SELECT nope"); err == nil || !strings.Contains(err.Error(), "Code: 47") {
		t.Error(err)
	}
	if res, err = c.Query(t.Context(), "CREATE TABLE q (a UInt8) ENGINE = Memory"); err != nil || len(res.Rows) != 0 {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestConfig(t *testing.T) {
	good := DefaultConfig()
	if p := good.Validate(); len(p) != 0 {
		t.Errorf("the default has problems: %v", p)
	}
	bad := Config{URL: "clickhouse://u:p@h:9000", Database: "a b", Compression: "snappy", Timeout: time.Millisecond}
	var got []string
	for _, p := range bad.Validate() {
		got = append(got, p.Path)
	}
	if diff := cmp.Diff([]string{"url", "url", "user", "database", "compression", "timeout"}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := Connect(t.Context(), good, component.Discard()); err == nil {
		t.Error("connecting to no URL")
	}
}

// TestCompressedInserts sends blocks as to a distant server.
func TestCompressedInserts(t *testing.T) {
	e := sharedEngine(t)
	c := testClient(t, e)
	for _, method := range []string{"lz4", "zstd"} {
		cfg := c.cfg
		cfg.Compression = method
		x, err := Connect(t.Context(), cfg, testEnv(t))
		if err != nil {
			t.Fatal(err)
		}
		insertAll(t, x, tickBatch(0, 0, 20_000), method)
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := askOne(t, c, "SELECT count(), uniqExact(event_id) FROM ticks"); got != "40000 20000" {
		t.Error(got)
	}
}

func TestMarketIDsOfExtremes(t *testing.T) {
	c := testClient(t, sharedEngine(t))
	b := NewBatch("md", testIncarnation, 0)
	tr := event.Trade{Channel: event.ChannelTrade, TradeID: math.MaxUint64, EventTime: testTime, RecvTime: testTime}
	if _, err := b.AddEvent(math.MaxInt64, event.Key("x", "a|b"), &tr); err != nil {
		t.Fatal(err)
	}
	insertAll(t, c, b, "e")
	if got := askOne(t, c, "SELECT event_id, kafka_offset FROM ticks"); got != fmt.Sprintf("x|trade|a|b|%d %d", uint64(math.MaxUint64), math.MaxInt64) {
		t.Error(got)
	}
}

func BenchmarkBatchAdd(b *testing.B) {
	batch := NewBatch("md", testIncarnation, 0)
	fillTicks(batch, 0, 100_000)
	b.ReportAllocs()
	b.ResetTimer()
	for n := int64(0); n < int64(b.N); n += 100_000 {
		batch.Reset()
		fillTicks(batch, 0, min(100_000, int64(b.N)-n))
	}
}

// BenchmarkInsert sends blocks of 100,000 ticks: into a table that forgets them,
// and into the production table.
func BenchmarkInsert(b *testing.B) {
	const rows = 100_000
	for _, engine := range []string{"null", "ticks"} {
		b.Run(engine, func(b *testing.B) {
			c := testClient(b, sharedEngine(b))
			if engine == "null" {
				for _, s := range []string{"RENAME TABLE {db}.ticks TO {db}.real", "CREATE TABLE {db}.ticks AS {db}.real ENGINE = Null"} {
					if err := c.Exec(b.Context(), strings.ReplaceAll(s, "{db}", c.Database())); err != nil {
						b.Fatal(err)
					}
				}
			}
			batch := NewBatch("md", testIncarnation, 0)
			b.ResetTimer()
			for n := range b.N {
				batch.Reset()
				fillTicks(batch, int64(n)*rows, int64(n+1)*rows)
				for _, x := range batch.Blocks() {
					if err := c.Insert(b.Context(), x, fmt.Sprint(n, x.Partition())); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

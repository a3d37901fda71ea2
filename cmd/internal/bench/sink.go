package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/event"
)

// sinkBlock is how many rows one insert has, as the role makes them under load.
const sinkBlock = 50_000

func sinkMeasurements() []measurement {
	return []measurement{
		{names: []string{"sink.row_ns"}, summary: "event to column, the client's work for a tick row", run: sinkRow},
		{names: []string{"sink.rate.null", "sink.rate.ticks"}, summary: "rows into the embedded engine: an engine=Null copy of ticks, and ticks itself", run: sinkRate},
	}
}

// tickRecords are the records of one block: 100 instruments, real sizes.
func tickRecords() (keys, values [][]byte) {
	for i := range ingestSymbols {
		keys = append(keys, event.Key("binance", fmt.Sprintf("B%03dUSDT", i)))
	}
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).UnixNano()
	for i := range sinkBlock {
		t := event.Trade{
			Channel: event.ChannelTrade, Aggressor: event.Side(1 + i%2), TradeID: 6_580_036_635 + uint64(i/ingestSymbols), Connection: 1,
			Price: event.NewDecimal(6_459_175_000_000+int64(i%997)*1_000_000, 8), Qty: event.Some(event.NewDecimal(24_000+int64(i%89)*1000, 8)),
			EventTime: now + int64(i/8)*1_000_000, TimeSource: event.TimeEvent, RecvTime: now + int64(i)*125_017,
		}
		values = append(values, t.AppendWire(nil))
	}
	return keys, values
}

// fillBatch adds the records as the sinks do.
func fillBatch(b *clickhouse.Batch, keys, values [][]byte, first int64) error {
	b.Reset()
	for i, v := range values {
		if _, err := b.Add(first+int64(i), keys[i%len(keys)], v); err != nil {
			return err
		}
	}
	return nil
}

func sinkRow(_ context.Context, o Options) ([]Result, error) {
	keys, values := tickRecords()
	b := clickhouse.NewBatch(event.TopicMarket, event.HashStrings("bench"), 0)
	op := func(n int) error {
		for ; n > 0; n -= min(n, len(values)) {
			if err := fillBatch(b, keys, values[:min(n, len(values))], 0); err != nil {
				return err
			}
		}
		return nil
	}
	ns, n, err := perOp(o.Length, op)
	if err != nil {
		return nil, err
	}
	allocs, err := allocations(op)
	if err != nil {
		return nil, err
	}
	return []Result{{Name: "sink.row_ns", Value: ns, Unit: "ns/row", N: n, Note: fmt.Sprintf("decoding the record included, %.3f allocations a row, uncompressed", allocs)}}, nil
}

func sinkRate(ctx context.Context, o Options) (results []Result, err error) {
	engine, err := clickhouse.StartEngine(ctx, clickhouse.EngineConfig{Dir: filepath.Join(o.Dir, "sink"), Addr: "127.0.0.1:0", Progress: o.Progress}, env(o))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, engine.Close(context.WithoutCancel(ctx))) }()
	keys, values := tickRecords()
	for _, target := range []struct{ name, database, note string }{
		{"sink.rate.null", "bench_null", "engine=Null copy of the production table"},
		{"sink.rate.ticks", "bench_ticks", "production table, codecs and deduplication window"},
	} {
		cfg := clickhouse.DefaultConfig()
		cfg.URL, cfg.Database = engine.URL(), target.database
		r, err := measureSink(ctx, cfg, target.database == "bench_null", keys, values, o)
		if err != nil {
			return nil, err
		}
		r.Name, r.Note = target.name, fmt.Sprintf("%s; blocks of %d rows, one insert at a time, encoding included", target.note, sinkBlock)
		results = append(results, r)
	}
	return results, nil
}

func measureSink(ctx context.Context, cfg clickhouse.Config, null bool, keys, values [][]byte, o Options) (r Result, err error) {
	client, err := clickhouse.Connect(ctx, cfg, env(o))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	if err := client.Migrate(ctx); err != nil {
		return r, err
	}
	if null {
		db := cfg.Database
		for _, sql := range []string{
			"CREATE TABLE " + db + ".void AS " + db + ".ticks ENGINE = Null",
			"DROP TABLE " + db + ".ticks SYNC",
			"RENAME TABLE " + db + ".void TO " + db + ".ticks",
		} {
			if err := client.Exec(ctx, sql); err != nil {
				return r, err
			}
		}
	}
	b := clickhouse.NewBatch(event.TopicMarket, event.HashStrings("bench"), 0)
	begun := time.Now()
	for n := 0; time.Since(begun) < 2*o.Length; n++ {
		if err := fillBatch(b, keys, values, int64(n)*sinkBlock); err != nil {
			return r, err
		}
		for i, block := range b.Blocks() {
			if err := client.Insert(ctx, block, fmt.Sprintf("bench/%d/%d", n, i)); err != nil {
				return r, err
			}
		}
		r.N += len(values)
	}
	r.Value, r.Unit = float64(r.N)/time.Since(begun).Seconds(), "rows/s"
	return r, nil
}

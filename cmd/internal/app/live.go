package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/quagmt/udecimal"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// live gathers what the screen of a running demo shows: rates and counts from
// the process's metrics, lag from Kafka, positions from their topic.
type live struct {
	e       *engine
	options demoOptions
	begun   time.Time
	last    reading
	at      time.Time
	base    reading // at the start of the run

	cancel context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	newest map[string]*event.Position // by account, strategy, venue, symbol
	lag    map[string]int64           // by role
}

func newLive(e *engine, o demoOptions) *live {
	ctx, cancel := context.WithCancel(context.Background())
	l := &live{e: e, options: o, begun: time.Now(), at: time.Now(), cancel: cancel, newest: make(map[string]*event.Position), lag: make(map[string]int64)}
	l.base = read(e.metrics)
	l.last = l.base
	for p := range e.client.Partitions(event.TopicPositions) {
		l.done.Go(func() { l.follow(ctx, p) })
	}
	l.done.Go(func() { l.measureLag(ctx) })
	return l
}

func (l *live) close() {
	l.cancel()
	l.done.Wait()
}

// follow keeps the newest record of each position.
func (l *live) follow(ctx context.Context, partition int32) {
	env := component.Discard()
	env.Log = l.e.env.Log
	r, err := l.e.client.NewReader(ctx, bus.ReaderConfig{Topic: event.TopicPositions, Partition: partition, Offset: bus.FromStart}, env)
	if err != nil {
		return // the screen shows no positions; the roles report what is wrong
	}
	defer r.Close()
	for {
		records, err := r.Next(ctx)
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				l.e.env.Log.Warn("following positions for the screen ended", "err", err)
			}
			return
		}
		l.mu.Lock()
		for i := range records {
			if p, err := event.DecodeAs[*event.Position](records[i].Value); err == nil {
				k := p.Account + "|" + p.Strategy + "|" + p.Venue + "|" + p.Symbol
				if old := l.newest[k]; old == nil || p.Version >= old.Version {
					l.newest[k] = p
				}
			}
		}
		l.mu.Unlock()
	}
}

func (l *live) measureLag(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		for _, r := range l.e.roles {
			lags, err := l.e.client.Lag(ctx, r.name)
			if err != nil {
				continue
			}
			var sum int64
			for _, x := range lags {
				sum += x.Records
			}
			l.mu.Lock()
			if len(lags) > 0 {
				l.lag[r.name] = sum
			}
			l.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// The metrics that the screen shows.
const (
	metricTrades    = "autohedge_stream_trades_total"
	metricQuotes    = "autohedge_stream_quotes_total"
	metricLast      = "autohedge_stream_last_message_timestamp_seconds"
	metricConnected = "autohedge_stream_connections"
	metricGaps      = "autohedge_stream_gaps_total"
	metricLost      = "autohedge_stream_lost_ids_total"
	metricSignals   = "autohedge_signals_published_total"
	metricDecisions = "autohedge_agents_decisions_total"
	metricOrders    = "autohedge_execution_order_events_total"
	metricRejected  = "autohedge_execution_rejections_total"
	metricFills     = "autohedge_execution_fills_total"
	metricHalted    = "autohedge_execution_kill_switch_active"
	metricRows      = "autohedge_sinks_rows_total"
)

// count is a counter's growth since the run began.
func (l *live) count(now reading, name string, labels ...string) uint64 {
	return uint64(max(0, now.sum(name, labels...)-l.base.sum(name, labels...)))
}

// page draws the present state.
func (l *live) page(context.Context) page {
	now, at := read(l.e.metrics), time.Now()
	seconds := max(at.Sub(l.at).Seconds(), 0.001)
	rate := func(name string, labels ...string) uint64 {
		return uint64(max(0, now.sum(name, labels...)-l.last.sum(name, labels...))/seconds + 0.5)
	}
	feeds := l.feedNames(now)
	age := l.age(now, at, feeds)
	ticks, quotes, signals := l.count(now, metricTrades), l.count(now, metricQuotes), l.count(now, metricSignals)
	decisions, abstained := l.count(now, metricDecisions), l.count(now, metricDecisions, "action=abstain")
	orders := l.count(now, metricOrders, "state=submitting") + l.count(now, metricOrders, "state=risk_rejected")
	rejected, fills := l.count(now, metricOrders, "state=risk_rejected"), l.count(now, metricFills)
	halted := now.sum(metricHalted) > 0
	lag, positions, pnl := l.holdings()
	elapsed := at.Sub(l.begun).Round(time.Second)

	var p page
	p.line = fmt.Sprintf("%s  ticks %s (%s/s)  feed age %s  signals %d  decisions %d (%d abstained)  orders %d  fills %d  position %s  P&L %s  lag %s%s",
		elapsed, thousands(ticks), thousands(rate(metricTrades)), age, signals, decisions, abstained, orders, fills, shortPositions(positions), pnl, lag, haltedText(halted))

	until := ""
	if l.options.length > 0 {
		until = " of " + l.options.length.String()
	}
	add := func(format string, args ...any) { p.screen = append(p.screen, fmt.Sprintf(format, args...)) }
	add("%s  feed %s  %s%s%s", bold("autohedge demo"), l.options.feed, elapsed, until, red(haltedText(halted)))
	add("")
	add("%s", dim(fmt.Sprintf("%-12s %9s %10s %9s %6s %8s", "FEED", "TICKS/S", "QUOTES/S", "AGE", "GAPS", "LOST IDS")))
	for _, f := range feeds {
		label := "feed=" + f
		state := l.ageOf(now, at, f)
		if now.sum(metricConnected, label) == 0 {
			state = red("  DOWN")
		}
		add("%-12s %9s %10s %9s %6d %8d", f, thousands(rate(metricTrades, label)), thousands(rate(metricQuotes, label)), state, l.count(now, metricGaps, label), l.count(now, metricLost, label))
	}
	add("")
	add("%s %s   %s %s   %s %d", dim("TICKS"), thousands(ticks), dim("QUOTES"), thousands(quotes), dim("SIGNALS"), signals)
	add("%s %d (%d abstained)   %s %d (%d rejected by limits)   %s %d   %s %s", dim("DECISIONS"), decisions, abstained, dim("ORDERS"), orders, rejected, dim("FILLS"), fills,
		dim("ROWS LANDED"), thousands(l.count(now, metricRows)))
	add("%s %s", dim("LAG"), lag)
	if u := l.e.budget.meter.Last(); u.Full != "" {
		add("%s %s", dim("DISK"), red(u.Full))
	} else if u.Limit > 0 {
		add("%s %s", dim("DISK"), u.String())
	}
	add("")
	add("%s", dim(fmt.Sprintf("%-10s %-10s %18s %18s %18s", "VENUE", "SYMBOL", "POSITION", "MARK", "P&L")))
	for _, x := range positions {
		add("%-10s %-10s %18s %18s %18s", printable(x.venue), printable(x.symbol), trimZeros(x.qty.String()), trimZeros(x.mark), trimZeros(x.total.String())+" "+x.currency)
	}
	add("%s %s", dim("P&L"), pnl)
	add("")
	add("%s http://%s/metrics   %s %s   %s %s", dim("METRICS"), l.e.http.Addr(), dim("CLICKHOUSE"), l.e.storeURL(), dim("KAFKA"), l.e.kafkaAddr())
	add("%s", dim("Ctrl-C drains and ends; autohedge halt stops trading"))
	l.last, l.at = now, at
	return p
}

func haltedText(halted bool) string {
	if halted {
		return "  HALTED"
	}
	return ""
}

func (l *live) feedNames(now reading) []string {
	names := keys(now.by(metricConnected, "feed"))
	sort.Strings(names)
	return names
}

// age is the age of the newest message of the stalest feed.
func (l *live) age(now reading, at time.Time, feeds []string) string {
	oldest := ""
	var most float64 = -1
	for _, f := range feeds {
		if t := now.sum(metricLast, "feed="+f); t > 0 {
			if a := max(0, float64(at.UnixNano())/1e9-t); a > most {
				most, oldest = a, fmt.Sprintf("%.2fs", a)
			}
		}
	}
	if oldest == "" {
		return "-"
	}
	return oldest
}

func (l *live) ageOf(now reading, at time.Time, feed string) string {
	return l.age(now, at, []string{feed})
}

// holding is one instrument's position over all accounts and strategies.
type holding struct {
	venue, symbol, currency, mark string
	qty, total                    udecimal.Decimal
}

// holdings sums the newest positions and formats lag and P&L.
func (l *live) holdings() (lag string, all []holding, pnl string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	byKey := make(map[string]*holding)
	totals := make(map[string]udecimal.Decimal)
	for _, p := range l.newest {
		k := p.Venue + "|" + p.Symbol
		h := byKey[k]
		if h == nil {
			h = &holding{venue: p.Venue, symbol: p.Symbol, currency: p.QuoteCurrency}
			byKey[k] = h
		}
		h.qty = h.qty.Add(p.Qty.Money())
		h.mark = p.Mark.String()
		if p.Total.Valid {
			h.total = h.total.Add(p.Total.Decimal.Money())
			totals[p.QuoteCurrency] = totals[p.QuoteCurrency].Add(p.Total.Decimal.Money())
		}
	}
	for _, k := range keys(byKey) {
		all = append(all, *byKey[k])
	}
	var parts []string
	for _, c := range keys(totals) {
		parts = append(parts, totals[c].RoundHAZ(4).String()+" "+c)
	}
	pnl = strings.Join(parts, ", ")
	if pnl == "" {
		pnl = "0"
	}
	parts = nil
	for _, r := range keys(l.lag) {
		parts = append(parts, fmt.Sprintf("%s %d", r, l.lag[r]))
	}
	return strings.Join(parts, ", "), all, pnl
}

func shortPositions(all []holding) string {
	var parts []string
	for _, h := range all {
		if !h.qty.IsZero() {
			parts = append(parts, printable(h.symbol)+" "+h.qty.String())
		}
	}
	if len(parts) == 0 {
		return "flat"
	}
	return strings.Join(parts, " ")
}

// storeURL and kafkaAddr say where the servers listen.
func (e *engine) storeURL() string {
	switch {
	case e.server != nil:
		return e.server.URL()
	case e.cfg.ClickHouse.URL != "":
		return e.cfg.ClickHouse.URL
	}
	if a, ok := e.folder.Owner("clickhouse"); ok {
		return a.Addr
	}
	return "not used"
}

func (e *engine) kafkaAddr() string {
	switch {
	case e.broker != nil:
		return e.broker.Addr()
	case len(e.cfg.Kafka.Brokers) > 0:
		return strings.Join(e.cfg.Kafka.Brokers, ",")
	}
	if a, ok := e.folder.Owner("kafka"); ok {
		return a.Addr
	}
	return "unknown"
}

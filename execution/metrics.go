package execution

import (
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/execution/risk"
	"github.com/autohedge/autohedge/stream/event"
)

// metrics are the role's; labels of a fixed set are bound here, once.
type metrics struct {
	orders                      map[event.OrderState]prometheus.Counter
	rejections                  map[string]prometheus.Counter
	fills                       prometheus.Counter
	skipped                     prometheus.Counter
	orphans                     prometheus.Counter
	dead                        prometheus.Counter
	unknown                     prometheus.Gauge
	unproven                    prometheus.Gauge
	refused                     prometheus.Gauge
	contradictions              prometheus.Counter
	killSwitch                  prometheus.Gauge
	stalled                     prometheus.Gauge
	tickToOrder                 prometheus.Histogram
	replayed                    prometheus.Counter
	restores                    *prometheus.CounterVec
	restore                     prometheus.Histogram
	snapshots, snapshotFailures prometheus.Counter
	snapshotBytes               *prometheus.GaugeVec
	snapshot                    prometheus.Histogram
	position                    *prometheus.GaugeVec
	pnl                         *prometheus.GaugeVec
	unshown                     prometheus.Counter
	exits                       map[event.Leg]prometheus.Counter
	lots                        prometheus.Gauge
	waiting                     map[waitKind]prometheus.Gauge

	shownMu sync.Mutex
	shown   map[ledger.Key]struct{} // the positions that have gauges
}

// maxShown bounds the positions that have gauges: names come with decisions.
const maxShown = 1000

// maxLabel bounds the length of a label's value, in bytes.
const maxLabel = 64

// label makes a name that comes with a record into a label's value, which must be
// UTF-8.
func label(name string) string {
	if len(name) > maxLabel {
		name = name[:maxLabel]
	}
	return strings.ToValidUTF8(name, "\uFFFD")
}

// showPosition sets the gauges of a position, unless too many have some.
func (m *metrics) showPosition(p *event.Position) {
	k := ledger.Key{Account: label(p.Account), Strategy: label(p.Strategy), Venue: label(p.Venue), Symbol: label(p.Symbol)}
	m.shownMu.Lock()
	_, known := m.shown[k]
	if !known && len(m.shown) >= maxShown {
		m.shownMu.Unlock()
		m.unshown.Inc()
		return
	}
	m.shown[k] = struct{}{}
	m.shownMu.Unlock()
	m.position.WithLabelValues(k.Account, k.Strategy, k.Venue, k.Symbol).Set(p.Qty.Float64())
	if p.Total.Valid {
		m.pnl.WithLabelValues(k.Account, k.Strategy, k.Venue, k.Symbol, label(p.QuoteCurrency)).Set(p.Total.Decimal.Float64())
	}
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	orders := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "autohedge_execution_order_events_total", Help: "Entries of the order log, by state."}, []string{"state"})
	rejections := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "autohedge_execution_rejections_total", Help: "Decisions refused by a hard limit, by limit."}, []string{"limit"})
	m := &metrics{
		orders:     make(map[event.OrderState]prometheus.Counter),
		rejections: make(map[string]prometheus.Counter),
		fills:      counter("autohedge_execution_fills_total", "Fills recorded."),
		skipped:    counter("autohedge_execution_decisions_skipped_total", "Decisions that have an order already, as after a restart."),
		orphans:    counter("autohedge_execution_orphan_reports_total", "Reports of a broker on orders that the order log does not know."),
		dead:       counter("autohedge_execution_dead_total", "Decisions that could not be used."),
		unknown:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "autohedge_execution_unknown_orders", Help: "Orders whose outcome only the broker can tell; they block new risk."}),
		unproven: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "autohedge_execution_unproven_orders", Help: "Orders of which more is claimed to be filled than the recorded fills prove; they block new risk on their instrument."}),
		refused: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "autohedge_execution_refused_accounts", Help: "Accounts of this process's partitions whose broker is not opened; the log says why."}),
		contradictions: counter("autohedge_execution_contradictions_total", "Records of orders and fills that contradict each other or are not ours; each halts its account."),
		killSwitch:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "autohedge_execution_kill_switch_active", Help: "1 while anything is halted."}),
		stalled:        prometheus.NewGauge(prometheus.GaugeOpts{Name: "autohedge_execution_stalled_order_logs", Help: "Partitions whose order log takes nothing; new risk is halted there until it does."}),
		tickToOrder: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "autohedge_execution_tick_to_order_seconds", Help: "From the receipt of the tick that fired a signal to the acknowledgement of the order in the order log.",
			Buckets: []float64{.0005, .001, .0015, .002, .003, .005, .008, .015, .03, .1, .3, 1, 3, 10},
		}),
		replayed:         counter("autohedge_execution_replayed_records_total", "Records of orders, fills and positions that restarts read, beyond snapshots."),
		snapshots:        counter("autohedge_execution_snapshots_total", "Snapshots of a partition's orders and positions that were saved whole."),
		snapshotFailures: counter("autohedge_execution_snapshot_failures_total", "Snapshots that could not be saved or restored; the log says why."),
		restores: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "autohedge_execution_restores_total", Help: "Partitions taken over, by what the restart began with: snapshot or start (of the logs)."}, []string{"from"}),
		restore: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "autohedge_execution_restore_seconds", Help: "Time that reading a partition's orders, fills and positions took at its takeover.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9)}),
		snapshotBytes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "autohedge_execution_snapshot_bytes", Help: "Size of the last snapshot of each partition."}, []string{"partition"}),
		snapshot: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "autohedge_execution_snapshot_seconds", Help: "Time that a snapshot took, from reading on to its being saved whole.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9)}),
		position: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "autohedge_execution_position_base", Help: "Signed holding, in base currency."}, []string{"account", "strategy", "venue", "symbol"}),
		pnl:      prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "autohedge_execution_pnl_quote", Help: "Total profit at the last mark, in quote currency."}, []string{"account", "strategy", "venue", "symbol", "currency"}),
		unshown:  counter("autohedge_execution_position_records_without_gauge_total", "Records of positions that have no gauge, since 1,000 others have."),
		shown:    make(map[ledger.Key]struct{}),
		exits:    make(map[event.Leg]prometheus.Counter),
		lots:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "autohedge_execution_lots", Help: "Lots that are open: filled quantities of entries with exits of their own."}),
		waiting:  make(map[waitKind]prometheus.Gauge),
	}
	exits := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "autohedge_execution_exits_total", Help: "Exits of lots that were logged, to be sent, by leg: stop, target, time."}, []string{"leg"})
	for _, l := range []event.Leg{event.LegStop, event.LegTarget, event.LegTime} {
		m.exits[l] = exits.WithLabelValues(l.String())
	}
	waiting := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "autohedge_execution_waiting_exits", Help: "Lots that cannot be closed now, by reason: their exit cannot be sent, or no quote can trigger it; the log and /health say more."}, []string{"why"})
	for _, k := range waitKinds {
		m.waiting[k] = waiting.WithLabelValues(string(k))
	}
	for s := event.OrderRiskRejected; s <= event.OrderNotPlaced; s++ {
		m.orders[s] = orders.WithLabelValues(s.String())
	}
	for _, l := range risk.Limits() {
		m.rejections[l] = rejections.WithLabelValues(l)
	}
	reg.MustRegister(orders, rejections, m.fills, m.skipped, m.orphans, m.dead, m.unknown, m.unproven, m.refused, m.contradictions, m.killSwitch, m.stalled, m.tickToOrder, m.position, m.pnl, m.unshown,
		m.replayed, m.restores, m.restore, exits, m.lots, waiting, m.snapshots, m.snapshotFailures, m.snapshotBytes, m.snapshot)
	return m
}

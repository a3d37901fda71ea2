package signals

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/component"
)

// metrics is what the role counts. Everything that is touched per tick is bound
// here; signals by rule are looked up when one is published.
type metrics struct {
	trades, quotes, coverage, clocks, ignored, unusable prometheus.Counter
	ahead, suppressed, resets, dead, replayed           prometheus.Counter
	published                                           *prometheus.CounterVec
	publish                                             prometheus.Histogram
	restore                                             prometheus.Histogram
	partitions                                          prometheus.Gauge
	snapshots, snapshotFailures                         prometheus.Counter
	snapshotBytes                                       *prometheus.GaugeVec
	restores                                            *prometheus.CounterVec
	snapshot                                            prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return component.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "autohedge_signals_" + name, Help: help}))
	}
	records := component.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "autohedge_signals_records_total", Help: "Records of md that the rules were stepped with, replays included, by what they are."}, []string{"kind"}))
	return &metrics{
		trades: records.WithLabelValues("trade"), quotes: records.WithLabelValues("quote"), coverage: records.WithLabelValues("coverage"),
		clocks: records.WithLabelValues("clock"), ignored: records.WithLabelValues("ignored"),
		unusable:   counter("unusable_records_total", "Trades without a price above 0, or older than one before them on their channel; crossed quotes."),
		ahead:      counter("future_event_times_total", "Trades whose event time is more than a second ahead of their receive time: rules see them, but they make no other trade late."),
		suppressed: counter("suppressed_total", "Crossings that fell into the cooldown of their rule."),
		resets:     counter("indicator_resets_total", "Indicators that began anew after a hole in the data."),
		dead:       counter("dead_records_total", "Records of md that were not usable and went to topic dead."),
		replayed:   counter("replayed_records_total", "Records of md that were read again to rebuild the state."),
		published: component.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "autohedge_signals_published_total", Help: "Signals that Kafka acknowledged."}, []string{"rule", "indicator", "side"})),
		publish: component.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "autohedge_signals_publish_seconds", Help: "Time from the receipt of the tick that fired to the acknowledgement of its signal, live.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 14)})),
		restore: component.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "autohedge_signals_restore_seconds", Help: "Time from the assignment of a partition to its state being restored.",
			Buckets: prometheus.ExponentialBuckets(0.01, 3, 10)})),
		snapshots:        counter("snapshots_total", "Snapshots of a partition's state that were saved whole."),
		snapshotFailures: counter("snapshot_failures_total", "Snapshots that could not be saved or restored; the log says why."),
		restores: component.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "autohedge_signals_restores_total", Help: "Partitions taken over, by what the replay began with: snapshot, memory or start (of the log)."}, []string{"from"})),
		snapshotBytes: component.Register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "autohedge_signals_snapshot_bytes", Help: "Size of the last snapshot of each partition of md."}, []string{"partition"})),
		snapshot: component.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "autohedge_signals_snapshot_seconds", Help: "Time from the record at which a snapshot was begun to its being saved whole.",
			Buckets: prometheus.ExponentialBuckets(0.005, 3, 10)})),
		partitions: component.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "autohedge_signals_owned_partitions", Help: "Partitions of md that this process owns."})),
	}
}

// add exports what an engine counted since the last time.
func (m *metrics) add(now, before Stats) {
	m.trades.Add(float64(now.Trades - before.Trades))
	m.quotes.Add(float64(now.Quotes - before.Quotes))
	m.coverage.Add(float64(now.Coverage - before.Coverage))
	m.clocks.Add(float64(now.Clocks - before.Clocks))
	m.ignored.Add(float64(now.Ignored - before.Ignored))
	m.unusable.Add(float64(now.Unusable - before.Unusable))
	m.ahead.Add(float64(now.Ahead - before.Ahead))
	m.suppressed.Add(float64(now.Suppressed - before.Suppressed))
	m.resets.Add(float64(now.Resets - before.Resets))
}

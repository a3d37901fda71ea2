package sinks

import (
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the role's; counters of a table or a partition are bound once.
type metrics struct {
	rows    *prometheus.CounterVec
	insert  *prometheus.HistogramVec
	control prometheus.Counter
	refused prometheus.Counter
	copies  prometheus.Counter
	expired prometheus.Counter
	trimmed prometheus.Counter
	errors  prometheus.Counter
	retries prometheus.Counter
	last    prometheus.Gauge
	held    prometheus.Gauge
	lag     *prometheus.GaugeVec

	mu     sync.Mutex
	tables map[string]*tableMetrics
}

// tableMetrics are one table's.
type tableMetrics struct {
	rows   prometheus.Counter
	insert prometheus.Observer
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		rows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "autohedge_sinks_rows_total", Help: "Rows landed, by table."}, []string{"table"}),
		insert: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "autohedge_sinks_insert_seconds", Help: "Duration of one successful insert, by table.",
			Buckets: prometheus.ExponentialBuckets(0.002, 2, 13)}, []string{"table"}),
		control: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "autohedge_sinks_control_records_total", Help: "Records that make no row, such as clock records."}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "autohedge_sinks_refused_records_total", Help: "Records that could not be used and became dead letters."}),
		copies: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "autohedge_sinks_second_copies_total", Help: "Records that were in the log already and were not landed again."}),
		expired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "autohedge_sinks_expired_records_total", Help: "Records that retention took before they landed and that somebody said may be skipped."}),
		trimmed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "autohedge_sinks_trimmed_records_total", Help: "Records of md that were trimmed after they had landed and everybody had read them."}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "autohedge_sinks_errors_total", Help: "Attempts at the database or the log that did not succeed."}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "autohedge_sinks_retries_total", Help: "Attempts made again after one that did not succeed."}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "autohedge_sinks_last_insert_timestamp_seconds", Help: "When a batch landed last, Unix time."}),
		held: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "autohedge_sinks_held_bytes", Help: "Bytes of records that are in memory and have not landed."}),
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "autohedge_sinks_lag_records", Help: "Records of an owned partition that have not landed."}, []string{"topic", "partition"}),
		tables: make(map[string]*tableMetrics),
	}
	reg.MustRegister(m.rows, m.insert, m.control, m.refused, m.copies, m.expired, m.trimmed, m.errors, m.retries, m.last, m.held, m.lag)
	return m
}

// table returns the metrics of one table, called once an insert.
func (m *metrics) table(name string) *tableMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tables[name]
	if t == nil {
		t = &tableMetrics{rows: m.rows.WithLabelValues(name), insert: m.insert.WithLabelValues(name)}
		m.tables[name] = t
	}
	return t
}

// partition returns the lag gauge of one partition, bound when it is owned, and
// what takes it off the page when it is lost.
func (m *metrics) partition(topic string, partition int32) (gauge prometheus.Gauge, drop func()) {
	n := strconv.Itoa(int(partition))
	return m.lag.WithLabelValues(topic, n), func() { m.lag.DeleteLabelValues(topic, n) }
}

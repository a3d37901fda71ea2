package bus

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/component"
)

// metrics are the bus's metrics, one set a Registerer; labels are bound when a
// producer, reader or consumer is made.
type metrics struct {
	producedRecords *prometheus.CounterVec
	producedBytes   *prometheus.CounterVec
	producedBatches *prometheus.CounterVec
	produceRetries  *prometheus.CounterVec
	ackSeconds      *prometheus.HistogramVec
	queueBytes      *prometheus.GaugeVec
	queueFull       *prometheus.CounterVec
	throttleSeconds *prometheus.CounterVec
	conflated       *prometheus.CounterVec
	spillBytes      *prometheus.GaugeVec
	spillErrors     *prometheus.CounterVec
	spillDamage     *prometheus.CounterVec
	spilledRecords  *prometheus.CounterVec
	spilledBytes    *prometheus.CounterVec
	unspilled       *prometheus.CounterVec
	fetchedRecords  *prometheus.CounterVec
	fetchedBytes    *prometheus.CounterVec
	fetchRetries    *prometheus.CounterVec
	corrupt         *prometheus.CounterVec
	secondCopies    *prometheus.CounterVec
	voids           *prometheus.CounterVec
	unreadables     *prometheus.CounterVec
	prefetchBytes   *prometheus.GaugeVec
	commits         *prometheus.CounterVec
	rebalances      *prometheus.CounterVec
	cutOff          *prometheus.CounterVec
	errors          *prometheus.CounterVec
	loginsRenewed   *prometheus.CounterVec
	lagRecords      *prometheus.GaugeVec
	lagSeconds      *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return component.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "autohedge_bus_" + name, Help: help}, labels))
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return component.Register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "autohedge_bus_" + name, Help: help}, labels))
	}
	return &metrics{
		producedRecords: counter("produced_records_total", "Records acknowledged by all in-sync replicas.", "producer", "topic"),
		producedBytes:   counter("produced_bytes_total", "Bytes of acknowledged batches, as sent.", "producer", "topic"),
		producedBatches: counter("produced_batches_total", "Batches acknowledged.", "producer", "topic"),
		produceRetries:  counter("produce_retries_total", "Batches sent again, identical, after an error or an ambiguous answer.", "producer", "topic"),
		ackSeconds: component.Register(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "autohedge_bus_ack_seconds",
			Help:    "From sending a batch to its acknowledgement, retries included.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 12),
		}, []string{"producer", "topic"})),
		queueBytes: component.Register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "autohedge_bus_queue_bytes",
			Help: "Bytes that wait to be acknowledged.",
		}, []string{"producer"})),
		queueFull:       counter("queue_full_total", "Appends that met a full queue.", "producer"),
		throttleSeconds: counter("throttle_seconds_total", "Waited because a broker asked for it.", "producer", "topic"),
		conflated:       counter("conflated_records_total", "Records that a newer one of their key and channel replaced before they were sent.", "producer", "topic"),
		spillBytes: component.Register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "autohedge_bus_spill_bytes",
			Help: "Bytes of the files that hold what memory does not.",
		}, []string{"producer"})),
		spillErrors:    counter("spill_errors_total", "Writes and removals of spill files that failed.", "producer"),
		spillDamage:    counter("spill_damaged_records_total", "Spilled records that could not be read back, at least.", "producer", "topic"),
		spilledRecords: counter("spilled_records_total", "Records moved or written to files because the queue was full.", "producer", "topic"),
		spilledBytes:   counter("spilled_bytes_total", "Bytes of records written to files because the queue was full.", "producer", "topic"),
		unspilled:      counter("unspilled_records_total", "Records read back from files to be sent.", "producer", "topic"),
		fetchedRecords: counter("fetched_records_total", "Records read.", "topic"),
		fetchedBytes:   counter("fetched_bytes_total", "Bytes of record batches read.", "topic"),
		fetchRetries:   counter("fetch_retries_total", "Fetches repeated after an error.", "topic"),
		corrupt:        counter("corrupt_batches_total", "Fetched batches whose checksum or form was wrong.", "topic"),
		secondCopies:   counter("second_copies_total", "Records that the rule on second copies drops.", "topic"),
		voids:          counter("void_records_total", "Offsets without an event: ends and aborted records of other programs' transactions.", "topic"),
		unreadables:    counter("unreadable_records_total", "Offsets passed over because the batch that holds them cannot be read.", "topic"),
		prefetchBytes:  gauge("prefetch_bytes", "Bytes that the partitions of a consumer hold of what was read ahead.", "group"),
		commits:        counter("commits_total", "Offset commits accepted.", "group"),
		rebalances:     counter("generations_total", "Group generations joined.", "group"),
		cutOff:         counter("handlers_cut_off_total", "Handlers that had not returned 250 ms after their partition was lost.", "group"),
		errors:         counter("errors_total", "Errors by the part of the bus they occurred in.", "part"),
		loginsRenewed:  counter("logins_renewed_total", "Logins that were renewed on their connection before they expired.", "mechanism"),
		lagRecords:     gauge("lag_records", "Records between a group's committed offset and the log's end.", "group", "topic", "partition"),
		lagSeconds:     gauge("lag_seconds", "Age of the oldest record that a group has not committed.", "group", "topic", "partition"),
	}
}

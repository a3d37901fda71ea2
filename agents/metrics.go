package agents

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// metrics are the role's. Decisions come a few a second at most, so their labels
// are looked up as they come.
type metrics struct {
	decisions                             *prometheus.CounterVec // by action, reason
	modelCalls                            *prometheus.CounterVec // by role, outcome
	tokens                                *prometheus.CounterVec // by kind
	callSeconds                           *prometheus.HistogramVec
	judgeSeconds                          prometheus.Histogram
	signalSeconds                         prometheus.Histogram
	republished                           prometheus.Counter
	dead                                  prometheus.Counter
	inFlight                              prometheus.Gauge
	replayed, snapshots, snapshotFailures prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	return &metrics{
		decisions: component.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "autohedge_agents_decisions_total", Help: "Decisions of the desk, by action and reason code.",
		}, []string{"action", "reason"})),
		modelCalls: component.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "autohedge_agents_model_calls_total", Help: "Exchanges with the model, by agent and outcome.",
		}, []string{"role", "outcome"})),
		tokens: component.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "autohedge_agents_model_tokens_total", Help: "Tokens that the endpoint counted: input (cached ones included), cached, output.",
		}, []string{"kind"})),
		callSeconds: component.Register(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "autohedge_agents_model_call_seconds", Help: "Time of one exchange with the model, by agent.",
			Buckets: prometheus.ExponentialBuckets(0.05, 2, 11),
		}, []string{"role"})),
		judgeSeconds: component.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "autohedge_agents_judge_seconds", Help: "Time from taking a signal up to its acknowledged decision.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2.5, 14),
		})),
		signalSeconds: component.Register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "autohedge_agents_signal_age_seconds", Help: "Age of the signal, in session time, when its decision was made.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 14),
		})),
		republished: component.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "autohedge_agents_republished_decisions_total", Help: "Decisions sent again from the journal, for redelivered signals.",
		})),
		dead: component.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "autohedge_agents_dead_records_total", Help: "Signals that could not be decoded.",
		})),
		inFlight: component.Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "autohedge_agents_in_flight_signals", Help: "Signals taken up and not yet decided.",
		})),
		replayed: component.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "autohedge_agents_replayed_records_total", Help: "Records of journal and positions that starts and takeovers read, beyond snapshots.",
		})),
		snapshots: component.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "autohedge_agents_snapshots_total", Help: "Snapshots of a partition that were saved whole.",
		})),
		snapshotFailures: component.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "autohedge_agents_snapshot_failures_total", Help: "Snapshots that could not be saved or restored; the log says why.",
		})),
	}
}

func (m *metrics) call(c *event.ModelCall) {
	m.modelCalls.WithLabelValues(c.Role, c.Outcome.String()).Inc()
	m.callSeconds.WithLabelValues(c.Role).Observe(time.Duration(c.Latency).Seconds())
	m.tokens.WithLabelValues("input").Add(float64(c.InputTokens))
	m.tokens.WithLabelValues("cached").Add(float64(c.CachedTokens))
	m.tokens.WithLabelValues("output").Add(float64(c.OutputTokens))
}

func (m *metrics) decided(d *event.Decision) {
	m.decisions.WithLabelValues(d.Action.String(), d.Reason).Inc()
	m.signalSeconds.Observe(time.Duration(d.Time - d.SignalTime).Seconds())
}

package agents

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/event"
)

// metrics are the role's. Decisions come a few a second at most, so their labels
// are looked up as they come.
type metrics struct {
	decisions     *prometheus.CounterVec // by action, reason
	modelCalls    *prometheus.CounterVec // by role, outcome
	tokens        *prometheus.CounterVec // by kind
	callSeconds   *prometheus.HistogramVec
	judgeSeconds  prometheus.Histogram
	signalSeconds prometheus.Histogram
	republished   prometheus.Counter
	dead          prometheus.Counter
	inFlight      prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	return &metrics{
		decisions: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "autohedge_agents_decisions_total", Help: "Decisions of the desk, by action and reason code.",
		}, []string{"action", "reason"})),
		modelCalls: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "autohedge_agents_model_calls_total", Help: "Exchanges with the model, by agent and outcome.",
		}, []string{"role", "outcome"})),
		tokens: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "autohedge_agents_model_tokens_total", Help: "Tokens that the endpoint counted: input (cached ones included), cached, output.",
		}, []string{"kind"})),
		callSeconds: register(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "autohedge_agents_model_call_seconds", Help: "Time of one exchange with the model, by agent.",
			Buckets: prometheus.ExponentialBuckets(0.05, 2, 11),
		}, []string{"role"})),
		judgeSeconds: register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "autohedge_agents_judge_seconds", Help: "Time from taking a signal up to its acknowledged decision.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2.5, 14),
		})),
		signalSeconds: register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "autohedge_agents_signal_age_seconds", Help: "Age of the signal, in session time, when its decision was made.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 14),
		})),
		republished: register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "autohedge_agents_republished_decisions_total", Help: "Decisions sent again from the journal, for redelivered signals.",
		})),
		dead: register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "autohedge_agents_dead_records_total", Help: "Signals that could not be decoded.",
		})),
		inFlight: register(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "autohedge_agents_in_flight_signals", Help: "Signals taken up and not yet decided.",
		})),
	}
}

// register adds a collector; a role that is made again in the same process goes
// on with the one that is there.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	err := reg.Register(c)
	var twice prometheus.AlreadyRegisteredError
	if errors.As(err, &twice) {
		if had, ok := twice.ExistingCollector.(C); ok {
			return had
		}
	}
	if err != nil {
		panic(err) // two different metrics of one name: a mistake of the programmer
	}
	return c
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

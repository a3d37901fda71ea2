package app

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// reading is one look at the process's metrics. The live summary shows what
// operators see in /metrics, not numbers of its own.
type reading map[string]*dto.MetricFamily

func read(g prometheus.Gatherer) reading {
	families, err := g.Gather()
	r := make(reading, len(families))
	for _, f := range families {
		r[f.GetName()] = f
	}
	if err != nil {
		return r // what was gathered is still right
	}
	return r
}

// sum adds up a metric's values over the series that have all the labels
// ("venue=binance").
func (r reading) sum(name string, labels ...string) float64 {
	total := 0.0
	for _, m := range r[name].GetMetric() {
		if has(m, labels) {
			total += value(m)
		}
	}
	return total
}

// by returns a metric's values by one label.
func (r reading) by(name, label string, labels ...string) map[string]float64 {
	out := make(map[string]float64)
	for _, m := range r[name].GetMetric() {
		if !has(m, labels) {
			continue
		}
		for _, l := range m.GetLabel() {
			if l.GetName() == label {
				out[l.GetValue()] += value(m)
			}
		}
	}
	return out
}

func has(m *dto.Metric, labels []string) bool {
	for _, want := range labels {
		name, value, _ := strings.Cut(want, "=")
		found := false
		for _, l := range m.GetLabel() {
			found = found || (l.GetName() == name && l.GetValue() == value)
		}
		if !found {
			return false
		}
	}
	return true
}

func value(m *dto.Metric) float64 {
	switch {
	case m.GetCounter() != nil:
		return m.GetCounter().GetValue()
	case m.GetGauge() != nil:
		return m.GetGauge().GetValue()
	case m.GetHistogram() != nil:
		return float64(m.GetHistogram().GetSampleCount())
	}
	return m.GetUntyped().GetValue()
}

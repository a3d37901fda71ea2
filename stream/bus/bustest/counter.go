package bustest

import (
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Counter sums counters of these names over their labels.
func Counter(t testing.TB, from prometheus.Gatherer, names ...string) (sum float64) {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if slices.Contains(names, f.GetName()) {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

package bench

import (
	"io"
	"strings"
	"testing"
	"time"
)

// Short runs of the real thing: every picked name comes out once, with a number
// that rests on something.
func TestRun(t *testing.T) {
	o := Options{Dir: t.TempDir(), Length: 100 * time.Millisecond, Progress: io.Discard}
	got := make(map[string]Result)
	if err := Run(t.Context(), []string{"decode", "ingest", "sink.row"}, o, func(r Result) {
		if _, twice := got[r.Name]; twice {
			t.Errorf("%s came twice", r.Name)
		}
		got[r.Name] = r
	}); err != nil {
		t.Fatal(err)
	}
	want := 0
	for _, n := range Names() {
		if strings.HasPrefix(n, "decode") || strings.HasPrefix(n, "ingest") || n == "sink.row_ns" {
			want++
			if r := got[n]; r.Value <= 0 || r.N <= 0 || r.Unit == "" {
				t.Errorf("%s is %+v", n, r)
			}
		}
	}
	if want == 0 || len(got) != want {
		t.Errorf("%d results for %d names", len(got), want)
	}
}

func TestUnknownName(t *testing.T) {
	err := Run(t.Context(), []string{"nothing"}, Options{Progress: io.Discard}, func(Result) {})
	if err == nil || !strings.Contains(err.Error(), "decode.binance.trade_ns") {
		t.Errorf("the error does not say what there is: %v", err)
	}
}

func TestPercentile(t *testing.T) {
	sorted := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	if percentile(sorted, 50) != 6 || percentile(sorted, 99) != 10 || percentile(nil, 50) != 0 {
		t.Error(percentile(sorted, 50), percentile(sorted, 99), percentile(nil, 50))
	}
}

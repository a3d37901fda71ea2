package bench

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/bus/kafkatest"
)

func TestMain(m *testing.M) {
	bus.RunEmbeddedIfAsked()
	os.Exit(m.Run())
}

// Short runs of the real thing: every picked name comes out once, with a number
// that rests on something.
func TestRun(t *testing.T) {
	o := Options{Dir: t.TempDir(), Length: 100 * time.Millisecond, Progress: io.Discard}
	got := make(map[string]Result)
	if err := Run(t.Context(), []string{"decode", "bus", "ingest", "sink.row"}, o, func(r Result) {
		if _, twice := got[r.Name]; twice {
			t.Errorf("%s came twice", r.Name)
		}
		got[r.Name] = r
		t.Logf("%s is %.3f %s: %s", r.Name, r.Value, r.Unit, r.Note)
	}); err != nil {
		t.Fatal(err)
	}
	want := 0
	for _, n := range Names(o) {
		if strings.HasPrefix(n, "decode") || strings.HasPrefix(n, "bus") || strings.HasPrefix(n, "ingest") || n == "sink.row_ns" {
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

func TestUnknownKafka(t *testing.T) {
	err := Run(t.Context(), nil, Options{Progress: io.Discard, Kafka: "redpanda"}, func(Result) {})
	if err == nil || !strings.Contains(err.Error(), `unknown Kafka "redpanda": want embedded, or apache for both`) {
		t.Errorf("the error does not say what there is: %v", err)
	}
}

func TestApacheWithoutJava(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := Run(t.Context(), []string{"bus"}, Options{Progress: io.Discard, Kafka: Apache}, func(r Result) { t.Errorf("%s was measured", r.Name) })
	if !errors.Is(err, kafkatest.ErrUnavailable) {
		t.Errorf("the error does not say what is missing: %v", err)
	}
}

// Apache Kafka's measurements are the embedded broker's with a suffix.
func TestApacheNames(t *testing.T) {
	all := Names(Options{Kafka: Apache})
	for _, n := range Names(Options{}) {
		apache := strings.HasPrefix(n, "bus.") || strings.HasPrefix(n, "ingest.") || n == "signals.recover_s"
		if slices.Contains(all, n+".apache") != apache || !slices.Contains(all, n) {
			t.Errorf("%s and its twin: %v", n, all)
		}
	}
}

func TestPercentile(t *testing.T) {
	sorted := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	if percentile(sorted, 50) != 6 || percentile(sorted, 99) != 10 || percentile(nil, 50) != 0 {
		t.Error(percentile(sorted, 50), percentile(sorted, 99), percentile(nil, 50))
	}
}

// A small recovery is measured like the large one.
func TestRecoverSignals(t *testing.T) {
	o := Options{Dir: t.TempDir(), Length: 100 * time.Millisecond, Progress: io.Discard}
	o.brokers = &brokers{dir: o.Dir}
	defer func() {
		if err := o.brokers.close(); err != nil {
			t.Error(err)
		}
	}()
	got, err := recoverSignals(t.Context(), o, Embedded, recovery{symbols: 20, before: 50, after: 5})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Name != "signals.recover_s" || got[0].Value <= 0 || got[0].N != 20 || !strings.Contains(got[0].Note, "100 trades replayed") {
		t.Errorf("%+v", got)
	}
}

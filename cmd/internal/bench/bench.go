// Package bench measures the engine on the user's machine: decoding, ingest from
// a socket to Kafka, landing in ClickHouse, and the time from a tick to an
// order. Its numbers feed capacity planning.
//
// It drives the real roles and embedded servers; it must not hold a faster copy
// of any of them. Start with Run; one file measures one room.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/autohedge/autohedge/stream/bus/kafkatest"
	"github.com/autohedge/autohedge/stream/component"
)

// Result is one measured number.
type Result struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// N is how many operations, records or samples the number rests on.
	N    int    `json:"n"`
	Note string `json:"note"`
}

// Options bound a run.
type Options struct {
	// Dir is a folder of the run's own for what it writes.
	Dir string
	// Length is how long each rate is measured.
	Length time.Duration
	// Kafka is the broker of the measurements that need one: Embedded, the
	// default, or Apache for both, each in turn, with names that end in ".apache".
	Kafka string
	// Progress gets a line for each measurement that starts.
	Progress io.Writer
	// Library is where the ClickHouse library's progress goes.
	Log *slog.Logger

	brokers *brokers // of Run
}

// measurement is one entry of the catalogue: a group of names measured in one
// run.
type measurement struct {
	names   []string
	summary string
	run     func(ctx context.Context, o Options) ([]Result, error)
}

func catalogue(o Options) []measurement {
	return slices.Concat(decodeMeasurements(), busMeasurements(o), ingestMeasurements(o), signalMeasurements(o), sinkMeasurements(), orderMeasurements())
}

// Names lists what can be measured.
func Names(o Options) []string {
	var names []string
	for _, m := range catalogue(o) {
		names = append(names, m.names...)
	}
	sort.Strings(names)
	return names
}

// Run measures everything whose name starts with one of the prefixes (all
// without any), and hands over each result as it comes.
func Run(ctx context.Context, prefixes []string, o Options, emit func(Result)) (err error) {
	if err := CheckKafka(o.Kafka); err != nil {
		return err
	}
	if o.Kafka == Apache {
		// What is missing shows before minutes were spent.
		if _, err := kafkatest.Fetch(ctx); err != nil {
			return fmt.Errorf("measuring on Apache Kafka: %w", err)
		}
	}
	o.brokers = &brokers{dir: o.Dir}
	defer func() { err = errors.Join(err, o.brokers.close()) }()
	wanted := func(name string) bool {
		return len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
	}
	fmt.Fprintln(o.Progress, surroundings())
	found := false
	for _, m := range catalogue(o) {
		if !slices.ContainsFunc(m.names, wanted) {
			continue
		}
		found = true
		fmt.Fprintf(o.Progress, "measuring %s: %s%s\n", strings.Join(m.names, ", "), m.summary, loadNow())
		runtime.GC()
		results, err := m.run(ctx, o)
		if err != nil {
			return fmt.Errorf("measuring %s: %w", m.names[0], err)
		}
		for _, r := range results {
			if wanted(r.Name) {
				emit(r)
			}
		}
	}
	if !found {
		return fmt.Errorf("nothing to measure is called %s: want a prefix of %s", strings.Join(prefixes, ", "), strings.Join(Names(o), ", "))
	}
	return nil
}

// perOp times op, in nanoseconds a call: the median of seven samples of about a
// seventh of the length each, so that a noisy neighbour does not decide.
func perOp(length time.Duration, op func(n int) error) (ns float64, n int, err error) {
	const samples = 7
	n = 1
	var took time.Duration
	for took < length/samples {
		if took > 0 {
			n = int(float64(n) * min(100, max(1.2, 1.1*float64(length)/samples/float64(took))))
		}
		begun := time.Now()
		if err := op(n); err != nil {
			return 0, 0, err
		}
		took = max(time.Since(begun), 1)
	}
	values := make([]float64, samples)
	for i := range values {
		begun := time.Now()
		if err := op(n); err != nil {
			return 0, 0, err
		}
		values[i] = float64(time.Since(begun)) / float64(n)
	}
	sort.Float64s(values)
	return values[samples/2], n * samples, nil
}

// allocations counts the allocations of one call of op, averaged.
func allocations(op func(n int) error) (float64, error) {
	const n = 10_000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := op(n)
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / n, err
}

// percentile returns the p-th percentile of sorted values.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(p/100*float64(len(sorted))))]
}

// env is what measured components get: no log, metrics of their own.
func env(o Options) component.Env {
	e := component.Discard()
	if o.Log != nil {
		e.Log = o.Log
	}
	return e
}

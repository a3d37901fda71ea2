package app

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/cmd/internal/bench"
	"github.com/autohedge/autohedge/cmd/internal/obs"
)

func (t *tool) benchCommand() *cobra.Command {
	var length time.Duration
	var list bool
	var kafka string
	c := &cobra.Command{
		Use: "bench [PREFIX...]", Short: "Measure the engine on this machine", GroupID: "run",
		Long: `bench measures what the engine does on this machine with its real roles and the
embedded servers, in a folder of its own that it deletes afterwards. Names start
with their subject; a prefix picks some of them. Compare ratios within one run:
machines are noisy.

With --kafka apache, what is measured on a broker (bus, ingest) is measured on
the embedded one and then on an Apache Kafka that is fetched with Maven, started
on loopback and ended with the run; its names end in .apache.`,
		Example: "  autohedge bench\n  autohedge bench decode ingest.rate --output json\n  autohedge bench bus --kafka apache\n  autohedge bench --list",
		RunE: func(cmd *cobra.Command, a []string) error {
			if err := bench.CheckKafka(kafka); err != nil {
				return withCode(exitUsage, fmt.Errorf("--kafka: %w", err))
			}
			names := bench.Names(bench.Options{Kafka: kafka})
			for _, prefix := range a {
				if !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, prefix) }) {
					return withCode(exitUsage, fmt.Errorf("no number begins with %q: `autohedge bench --list` names them", prefix))
				}
			}
			if list && t.output == "json" {
				return t.json(names)
			}
			if list {
				for _, n := range names {
					fmt.Fprintln(t.out, n)
				}
				return nil
			}
			dir, err := os.MkdirTemp("", "autohedge-bench-")
			if err != nil {
				return fmt.Errorf("making the folder of the run: %w", err)
			}
			log, err := obs.NewLogger(obs.LogConfig{Level: "error", Format: "text"}, t.err)
			if err != nil {
				return err
			}
			results := []bench.Result{}
			err = bench.Run(cmd.Context(), a, bench.Options{Dir: dir, Length: length, Kafka: kafka, Progress: t.err, Log: log}, func(r bench.Result) { results = append(results, r) })
			if len(results) > 0 || err == nil { // what was measured before an error is shown all the same
				err = errors.Join(t.printBench(results), err)
			}
			return errors.Join(err, os.RemoveAll(dir))
		},
	}
	c.Flags().DurationVar(&length, "length", 2*time.Second, "how long each number is measured")
	c.Flags().StringVar(&kafka, "kafka", bench.Embedded, "broker to measure on: embedded, or apache for both")
	c.Flags().BoolVar(&list, "list", false, "list the names and end")
	return c
}

func (t *tool) printBench(results []bench.Result) error {
	if t.output == "json" {
		return t.json(results)
	}
	var rows [][]string
	for _, r := range results {
		rows = append(rows, []string{r.Name, number(r.Value), r.Unit, strconv.Itoa(r.N), r.Note})
	}
	return writeTable(t.out, []string{"NAME", "VALUE", "UNIT", "N", "NOTE"}, rows)
}

// number prints a value with as many decimals as it deserves.
func number(v float64) string {
	switch {
	case v >= 1000:
		return thousands(uint64(v + 0.5))
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/sinks"
	"github.com/autohedge/autohedge/stream/component"
)

// sinksCommand groups what is ordered of the sinks.
func (t *tool) sinksCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "sinks", Short: "Order the sinks to land again what a lost ClickHouse had", GroupID: "setup", Args: onlyCommands, RunE: help,
	}
	c.AddCommand(t.relandCommand())
	return c
}

func (t *tool) relandCommand() *cobra.Command {
	session := ""
	d := decision{session: &session}
	var topics []string
	c := &cobra.Command{
		Use: "reland", Short: "Land everything that Kafka still holds again, each record once", Args: args(cobra.NoArgs),
		Long: `reland is for a ClickHouse that was lost, whole or in part, or restored from an old
backup. It orders the sinks to land everything that Kafka still holds of the topics
(default: all) again from the log's start, each record exactly once. Sinks that run
follow the order within seconds, without a restart; else the next start does. It may
be given before or after the sinks find out.

Nothing doubles: the sinks first delete the rows that ClickHouse still has of records
that Kafka still holds. Rows of older records, which Kafka no longer holds, stay.
What has no row of those is gone; it is counted in the table landed as expired (clock
records among them), so that the proof of each partition adds up.

Trading is not touched: the order is one record for each partition in state.sinks,
which the sinks alone read. No group's offset, no snapshot and no other topic changes,
and no role has to stop. Killed on the way, the sinks go on where they were. A running
embedded ClickHouse whose folder was removed has to be started again first.`,
		Example: `  autohedge sinks reland
  autohedge sinks reland --topic md --topic signals --why "the disk was replaced" --yes
  autohedge sinks reland --yes --output json --config autohedge.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, topic := range topics {
				if !slices.Contains(sinks.Topics(), topic) {
					return withCode(exitUsage, fmt.Errorf("topic %q does not land: --topic is one of %s", topic, strings.Join(sinks.Topics(), ", ")))
				}
			}
			if len(topics) == 0 {
				topics = sinks.Topics()
			}
			slices.Sort(topics)
			return t.withState(cmd.Context(), &session, func(ctx context.Context, s *stateTool) error {
				return s.reland(ctx, &d, slices.Compact(topics))
			})
		},
	}
	d.flags(c)
	c.Flags().StringSliceVar(&topics, "topic", nil, "a topic to land again; may be given several times (default: every topic that lands)")
	c.Flags().StringVar(&session, "session", "", "a replay's session instead of the live topics")
	return c
}

// relandReport is what reland prints as JSON.
type relandReport struct {
	Partitions []sinks.Reland `json:"partitions"`
	// Records land again, Expired are gone unless they still have a row.
	Records int64 `json:"records"`
	Expired int64 `json:"expired"`
}

func (s *stateTool) reland(ctx context.Context, d *decision, topics []string) error {
	if err := s.client.EnsureTopics(ctx); err != nil {
		return logCode(err)
	}
	report := relandReport{}
	var err error
	if report.Partitions, err = sinks.PlanReland(ctx, s.client, topics); err != nil {
		return withCode(exitDown, err)
	}
	for _, p := range report.Partitions {
		report.Records, report.Expired = report.Records+p.End-p.Start, report.Expired+p.Expired
	}
	what := fmt.Sprintf("%s of %s land again. Rows that ClickHouse still has of them are deleted first; of %s before them, which Kafka no longer holds, what has no row counts as expired.",
		records(report.Records), strings.Join(topics, ", "), records(report.Expired))
	if err := s.confirm(d, what); err != nil {
		return err
	}
	env := component.Discard()
	if err := sinks.OrderReland(ctx, s.client, env, report.Partitions, whoever(d.who), d.why); err != nil {
		return withCode(exitDown, errors.Join(err, errors.New("some partitions may have the order already: give it again")))
	}
	if s.output == "json" {
		return s.json(report)
	}
	var rows [][]string
	for _, topic := range topics {
		var lands, expired int64
		for _, p := range report.Partitions {
			if p.Topic == topic {
				lands, expired = lands+p.End-p.Start, expired+p.Expired
			}
		}
		rows = append(rows, []string{topic, strconv.FormatInt(lands, 10), strconv.FormatInt(expired, 10)})
	}
	if err := writeTable(s.out, []string{"TOPIC", "LANDS AGAIN", "EXPIRED"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(s.out, "ordered: sinks that run follow within seconds, else the next start does; how far they are: autohedge query \"SELECT topic, partition, end_offset, missing FROM v_landed_proof\"")
	return nil
}

// records counts records for people.
func records(n int64) string {
	if n == 1 {
		return "1 record"
	}
	return thousands(uint64(n)) + " records"
}

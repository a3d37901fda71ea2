package app

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/stream/bus"
)

func (t *tool) lagCommand() *cobra.Command {
	var session string
	c := &cobra.Command{
		Use: "lag", Short: "Show how far each role is behind, in records and seconds, by partition", GroupID: "look", Args: args(cobra.NoArgs),
		Long: `lag shows, for each role's group and each partition it has committed an offset
for, how many records are not committed yet and how old the oldest of them is.

COMMITTED is the offset that the group goes on at; SECONDS is the age of the record
there, by the timestamp of its batch, 0 where nothing is left and "-" where it could
not be read; GONE are records that retention or a trim took before the group had
done them. A running engine has the same as the metrics autohedge_bus_lag_records
and autohedge_bus_lag_seconds. A group that never committed is not listed.`,
		Example: `  autohedge lag
  autohedge lag --config autohedge.yaml --output json
  autohedge lag --session r1`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := t.kafkaClient(cmd.Context(), session)
			if err != nil {
				return err
			}
			all := []bus.Lag{}
			for _, r := range roleTable() {
				lags, err := client.LagSeconds(cmd.Context(), r.name)
				if err != nil {
					return errors.Join(withCode(exitDown, err), client.Close())
				}
				all = append(all, lags...)
			}
			if err := client.Close(); err != nil {
				return err
			}
			if t.output == "json" {
				return t.json(all)
			}
			var rows [][]string
			for _, l := range all {
				seconds := "-"
				if l.Seconds >= 0 {
					seconds = fmt.Sprintf("%.1f", l.Seconds)
				}
				rows = append(rows, []string{
					l.Group, l.Topic, strconv.Itoa(int(l.Partition)), strconv.FormatInt(l.Committed, 10), strconv.FormatInt(l.End, 10),
					strconv.FormatInt(l.Records, 10), seconds, strconv.FormatInt(l.Gone, 10),
				})
			}
			return writeTable(t.out, []string{"GROUP", "TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "SECONDS", "GONE"}, rows)
		},
	}
	c.Flags().StringVar(&session, "session", "", "a replay's session instead of the live groups")
	return c
}

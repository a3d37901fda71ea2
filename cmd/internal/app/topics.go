package app

import (
	"context"
	"errors"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// topicsCommand shows the topics; what changes them are its subcommands.
func (t *tool) topicsCommand() *cobra.Command {
	var session string
	c := &cobra.Command{
		Use: "topics", Short: "Show the topics and what is wrong with them", GroupID: "look", Args: onlyCommands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := t.kafkaClient(cmd.Context(), session)
			if err != nil {
				return err
			}
			return errors.Join(t.showTopics(cmd.Context(), client), client.Close())
		},
	}
	c.PersistentFlags().StringVar(&session, "session", "", "a replay's session instead of the live topics")
	// What changes topics, one constructor each; session is read when they run.
	for _, sub := range []func(*string) *cobra.Command{} {
		c.AddCommand(sub(&session))
	}
	return c
}

func (t *tool) showTopics(ctx context.Context, client *bus.Client) error {
	var rows [][]string
	for _, spec := range event.Topics {
		bounds, err := client.Offsets(ctx, spec.Name)
		if err != nil {
			return withCode(exitDown, err)
		}
		var records int64
		for _, b := range bounds {
			records += b.End - b.Start
		}
		rows = append(rows, []string{spec.Name, strconv.Itoa(len(bounds)), strconv.FormatInt(records, 10)})
	}
	return writeTable(t.out, []string{"TOPIC", "PARTITIONS", "RECORDS"}, rows)
}

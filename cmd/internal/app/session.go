package app

import (
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/execution"
)

// sessionName is what a session may be called: it becomes part of topic, group
// and database names.
var sessionName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

func (t *tool) sessionCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "session", Short: "List and drop the sessions of replays", GroupID: "setup", Args: onlyCommands, RunE: help,
		Long: `A replay is a session: its topics and groups start with the session's name and a
dot, and it lands in database autohedge_NAME.`,
	}
	list := &cobra.Command{
		Use: "list", Short: "List sessions", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := t.connectKafka(cmd.Context(), "")
			if err != nil {
				return err
			}
			names, err := client.Sessions(cmd.Context())
			if err := errors.Join(err, client.Close()); err != nil {
				return err
			}
			if t.output == "json" {
				return t.json(append([]string{}, names...))
			}
			var rows [][]string
			for _, n := range names {
				rows = append(rows, []string{n, sessionDatabase(n)})
			}
			return writeTable(t.out, []string{"SESSION", "DATABASE"}, rows)
		},
	}
	drop := &cobra.Command{
		Use: "drop NAME", Short: "Delete a session's topics, groups, database and paper ledgers", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			name := a[0]
			if !sessionName.MatchString(name) {
				return withCode(exitUsage, fmt.Errorf("%q is no session name: want lower-case letters, digits and _, a letter first", name))
			}
			client, err := t.connectKafka(cmd.Context(), "")
			if err != nil {
				return err
			}
			names, err := client.Sessions(cmd.Context())
			if err == nil && !slices.Contains(names, name) {
				err = fmt.Errorf("there is no session %q: `autohedge session list` shows them", name)
			}
			if err == nil {
				err = client.DropSession(cmd.Context(), name)
			}
			if err := errors.Join(err, client.Close()); err != nil {
				return err
			}
			store, closeAll, err := t.storeClient(cmd.Context(), "")
			if err != nil {
				return err
			}
			_, err = store.Query(cmd.Context(), "DROP DATABASE IF EXISTS "+sessionDatabase(name)+" SYNC")
			if err := errors.Join(err, closeAll()); err != nil {
				return err
			}
			cfg, err := t.loadConfig()
			if err != nil {
				return err
			}
			f, err := t.openFolder(cfg)
			if err != nil {
				return err
			}
			if err := execution.RemoveSessionPaper(f.Paper(), name); err != nil {
				return err
			}
			fmt.Fprintln(t.err, "dropped session", name)
			return nil
		},
	}
	c.AddCommand(list, drop)
	return c
}

package app

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/execution/broker"
)

func (t *tool) paperCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "paper", Short: "Go on with another ledger of the paper broker", GroupID: "setup", Args: onlyCommands, RunE: help,
		Long: `The paper broker keeps a ledger of each account in the data folder. When it is
not the one that took the account's orders (it was lost, restored from a backup,
or is another machine's), the account is refused and the log says which orders
are missing.`,
	}
	var who, why string
	adopt := &cobra.Command{
		Use: "adopt ACCOUNT", Short: "Take the ledger of this data folder as the account's from now on", Args: args(cobra.ExactArgs(1)),
		Long: `adopt begins a new life of the account's ledger in this data folder, or makes a
new one. The next start, or the engine that runs and refuses the account, then
goes on with it: orders that are missing in it end as "written_off" with what
their recorded fills prove, and open orders in it that the order log does not
know are canceled. Positions stay as the recorded fills have them. Restore the
ledger instead where that is possible.`,
		Example: `  autohedge paper adopt paper --why "the disk of host a is lost"`,
		RunE: func(_ *cobra.Command, a []string) error {
			if strings.TrimSpace(why) == "" {
				return withCode(exitUsage, errors.New("--why is required: the reason is recorded"))
			}
			cfg, err := t.loadConfig()
			if err != nil {
				return err
			}
			var names []string
			for i := range cfg.Execution.Accounts {
				if cfg.Execution.Accounts[i].Broker == "paper" {
					names = append(names, cfg.Execution.Accounts[i].Name)
				}
			}
			known := false
			for _, n := range names {
				known = known || n == a[0]
			}
			if !known {
				return withCode(exitUsage, fmt.Errorf("account %q is none of the paper broker's: want one of %s", a[0], strings.Join(names, ", ")))
			}
			f, err := t.openFolder(cfg)
			if err != nil {
				return err
			}
			dir := filepath.Join(f.Paper(), a[0])
			life, err := broker.AdoptPaper(dir, broker.Adoption{Who: whoever(who), Why: why, Time: time.Now().UnixNano()})
			if err != nil {
				return err
			}
			if t.output == "json" {
				return t.json(map[string]string{"account": a[0], "ledger": dir, "life": life})
			}
			fmt.Fprintf(t.out, "account %s goes on with %s, life %s: what is missing in it of orders until now is written off\n", a[0], dir, life)
			return nil
		},
	}
	adopt.Flags().StringVar(&who, "who", "", "who says so (default: the user)")
	adopt.Flags().StringVar(&why, "why", "", "the reason")
	c.AddCommand(adopt)
	return c
}

package app

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/execution"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

func (t *tool) haltCommand() *cobra.Command {
	var scope, who, why string
	var status, stop bool
	c := &cobra.Command{
		Use: "halt", Short: "Stop all new risk at once", GroupID: "run", Args: args(cobra.NoArgs),
		Long: `halt refuses new entries of a scope, everything, one account or one symbol, and
withdraws those that work; what only reduces a position still passes. With --stop
nothing is sent at all, and the answer lists the positions that are left without
protection. An engine halts by itself, where it has to, as without --stop.

A running engine is told through its socket and begins no send that the halt
covers once this returns. The answer says how many orders were on their way to
their brokers at that moment: they are withdrawn as soon as they are known.
Without an engine the halt file is written, and the control topic where Kafka
runs, so that an engine that starts later is halted. A restart never resumes:
only "autohedge resume" does.`,
		Example: `  autohedge halt --why "prices look wrong"
  autohedge halt --stop --why "the broker repeats orders"
  autohedge halt --scope symbol:BTC-USDT --why "listing change"
  autohedge halt --status`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.switchKill(cmd.Context(), func(ctx context.Context, p execution.Paths, connect execution.Connect) (execution.HaltReport, error) {
				switch {
				case status:
					return execution.HaltStatus(ctx, p, connect)
				case why == "":
					return execution.HaltReport{}, withCode(exitUsage, errors.New("why? say it with --why \"...\": it is recorded"))
				}
				if err := t.checkScope(scope); err != nil {
					return execution.HaltReport{}, withCode(exitUsage, err)
				}
				level := event.HaltReduce
				if stop {
					level = event.HaltStop
				}
				return execution.RequestHalt(ctx, p, connect, scope, whoever(who), why, level)
			})
		},
	}
	switchFlags(c, &scope, &who, &why)
	c.Flags().BoolVar(&status, "status", false, "only show what is halted")
	c.Flags().BoolVar(&stop, "stop", false, "send nothing, not even what reduces a position")
	return c
}

func (t *tool) resumeCommand() *cobra.Command {
	var scope, who, why string
	c := &cobra.Command{
		Use: "resume", Short: "Lift a halt", GroupID: "run", Args: args(cobra.NoArgs),
		Long: `resume lifts the halts of a scope; all lifts every one. It needs the running
engine, or Kafka, and a reason, which is recorded.`,
		Example: `  autohedge resume --why "checked with the venue"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if why == "" {
				return withCode(exitUsage, errors.New("why? say it with --why \"...\": it is recorded"))
			}
			return t.switchKill(cmd.Context(), func(ctx context.Context, p execution.Paths, connect execution.Connect) (execution.HaltReport, error) {
				if err := execution.CheckScope(scope); err != nil {
					return execution.HaltReport{}, withCode(exitUsage, err)
				}
				return execution.RequestResume(ctx, p, connect, scope, whoever(who), why)
			})
		},
	}
	switchFlags(c, &scope, &who, &why)
	return c
}

func switchFlags(c *cobra.Command, scope, who, why *string) {
	f := c.Flags()
	f.StringVar(scope, "scope", execution.ScopeAll, "all, account:NAME, symbol:SYMBOL or symbol:VENUE|SYMBOL")
	f.StringVar(who, "who", "", "who says so (default: the user)")
	f.StringVar(why, "why", "", "the reason")
}

// whoever is the name a request is recorded under.
func whoever(name string) string {
	if name != "" {
		return name
	}
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "unknown user"
}

// switchKill runs one request about the kill switch and prints where it holds.
func (t *tool) switchKill(ctx context.Context, request func(context.Context, execution.Paths, execution.Connect) (execution.HaltReport, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	cfg, err := t.loadConfig()
	if err != nil {
		return err
	}
	f, err := t.openFolder(cfg)
	if err != nil {
		return err
	}
	paths := execution.Paths{PaperDir: f.Paper(), HaltFile: f.Halt(), Socket: f.Socket()}
	report, err := request(ctx, paths, func(ctx context.Context) (*bus.Client, error) { return t.connectKafka(ctx, "") })
	for _, w := range report.Warnings {
		fmt.Fprintln(t.err, "warning:", printable(w))
	}
	if err != nil {
		return err
	}
	if t.output == "json" {
		if report.Halts == nil {
			report.Halts = []execution.Halt{}
		}
		return t.json(report)
	}
	if len(report.Halts) == 0 {
		fmt.Fprintln(t.out, "nothing is halted")
	}
	for _, h := range report.Halts {
		since := "unknown since when"
		if h.Time > 0 {
			since = "since " + time.Unix(0, h.Time).UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(t.out, "halted: %s (%s, %s, %s)\n", printable(h.String()), h.Level.Says(), since, h.Source)
	}
	if report.InFlight > 0 {
		fmt.Fprintf(t.out, "orders on their way to their brokers: %d\n", report.InFlight)
	}
	for _, p := range report.Unprotected {
		fmt.Fprintln(t.out, "left without protection:", printable(p))
	}
	return nil
}

// checkScope refuses a scope that makes no sense, and an account that is not configured;
// which symbols there are only a running engine knows.
func (t *tool) checkScope(scope string) error {
	if err := execution.CheckScope(scope); err != nil {
		return err
	}
	account, ok := strings.CutPrefix(scope, "account:")
	if !ok {
		return nil
	}
	cfg, err := t.loadConfig()
	if err != nil {
		return err
	}
	var names []string
	for _, a := range cfg.Execution.Accounts {
		if strings.EqualFold(a.Name, account) {
			return nil
		}
		names = append(names, a.Name)
	}
	return fmt.Errorf("there is no account %q; there is %s", account, strings.Join(names, ", "))
}

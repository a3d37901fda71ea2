package app

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/cmd/internal/config"
	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/signals/indicator"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/venue"
)

// listed is one thing that `autohedge list` names.
type listed struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Summary string `json:"summary"`
	// Config is the commented default configuration, where there is one.
	Config string `json:"config,omitempty"`
}

func specs[F any](r *component.Registry[F]) []listed {
	var out []listed
	for _, s := range r.All() {
		l := listed{Kind: r.Kind(), Name: s.Name, Summary: s.Summary}
		if s.Config != nil {
			l.Config = config.Sample(s.Config())
		}
		out = append(out, l)
	}
	return out
}

// everything lists all that registers itself, the roles and the topics.
func everything() []listed {
	all := specs(venue.Registry)
	all = append(all, specs(indicator.Registry)...)
	all = append(all, specs(broker.Registry)...)
	for _, r := range roleTable() {
		all = append(all, listed{Kind: "role", Name: r.name, Summary: r.summary})
	}
	for _, t := range event.Topics {
		all = append(all, listed{Kind: "topic", Name: t.Name, Summary: "key: " + t.Key})
	}
	return all
}

func (t *tool) listCommand() *cobra.Command {
	var verbose bool
	c := &cobra.Command{
		Use: "list [KIND]", Short: "List venues, indicators, brokers, roles and topics", GroupID: "setup", Args: args(cobra.MaximumNArgs(1)),
		Example: "  autohedge list\n  autohedge list indicators --config-of",
		RunE: func(_ *cobra.Command, a []string) error {
			var picked []listed
			kinds := make(map[string]bool)
			for _, l := range everything() {
				kinds[l.Kind] = true
				if len(a) == 0 || strings.TrimSuffix(a[0], "s") == l.Kind {
					picked = append(picked, l)
				}
			}
			if len(picked) == 0 {
				return withCode(exitUsage, fmt.Errorf("unknown kind %q: want one of %s", a[0], strings.Join(keys(kinds), ", ")))
			}
			if t.output == "json" {
				return t.json(picked)
			}
			if verbose {
				for _, l := range picked {
					fmt.Fprintf(t.out, "%s %s: %s\n", l.Kind, l.Name, l.Summary)
					for _, line := range strings.Split(strings.TrimRight(l.Config, "\n"), "\n") {
						if line != "" {
							fmt.Fprintln(t.out, "    "+line)
						}
					}
				}
				return nil
			}
			var rows [][]string
			for _, l := range picked {
				rows = append(rows, []string{l.Kind, l.Name, l.Summary})
			}
			return writeTable(t.out, []string{"KIND", "NAME", "WHAT IT IS"}, rows)
		},
	}
	c.Flags().BoolVar(&verbose, "config-of", false, "print each one's configuration with its defaults")
	return c
}

package app

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/bus"
)

// Exit codes, as `autohedge --help` documents them.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitConfig = 3
	exitDown   = 4
)

// codeError carries the exit code of an error.
type codeError struct {
	code int
	err  error
}

func (e *codeError) Error() string { return e.err.Error() }
func (e *codeError) Unwrap() error { return e.err }

func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &codeError{code: code, err: err}
}

// tool is what every command gets: the streams and the global flags.
type tool struct {
	in       io.Reader
	out, err io.Writer
	data     string // --data
	config   string // --config
	output   string // --output: table or json
	terminal terminal
}

// Main runs one command and returns the process's exit code. A process that was
// started as an embedded server's child runs that instead.
func Main(args []string, in io.Reader, out, errOut io.Writer) int {
	syscall.Umask(0o077) // what is written holds positions and keys: nobody else reads it
	clickhouse.RunChildIfAsked()
	bus.RunEmbeddedIfAsked()
	t := &tool{in: in, out: out, err: errOut}
	ctx, stop := t.notifyContext()
	defer stop()
	root := t.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var ce *codeError
	if errors.As(err, &ce) {
		if !errors.Is(err, errSaid) {
			fmt.Fprintf(errOut, "autohedge: %v\n", err)
		}
		return ce.code
	}
	fmt.Fprintf(errOut, "autohedge: %v\n", err)
	return exitFailed
}

// errSaid is an error whose message has been printed already.
var errSaid = errors.New("already said")

// root builds the command tree.
func (t *tool) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "autohedge",
		Short: "A market-reactive trading engine",
		Long: `autohedge turns exchange WebSocket feeds into ticks on Kafka, fires signals when
indicators cross thresholds, lets a desk of four agents judge each signal,
places the orders that survive hard limits, and lands everything in ClickHouse.

Exit codes: 0 good, 1 something failed, 2 wrong usage, 3 the configuration is
invalid, 4 a dependency is down.`,
		Example: `  autohedge demo                      everything on this machine, with simulated exchanges
  autohedge demo --for 30s --output json
  autohedge config init               a commented configuration and a .env template
  autohedge run --config autohedge.yaml
  autohedge query "SELECT symbol, count() FROM ticks GROUP BY symbol"`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          onlyCommands,
		RunE:          help,
		Version:       Version(),
	}
	root.SetVersionTemplate("autohedge {{.Version}}\n")
	f := root.PersistentFlags()
	f.StringVar(&t.data, "data", "", "data folder (default $AUTOHEDGE_DATA, $XDG_DATA_HOME/autohedge or ~/.local/share/autohedge)")
	f.StringVar(&t.config, "config", "", "configuration file (YAML)")
	f.StringVarP(&t.output, "output", "o", "table", "what goes to stdout: table or json")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if t.output != "table" && t.output != "json" {
			return withCode(exitUsage, fmt.Errorf("unknown --output %q: want table or json", t.output))
		}
		return nil
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return withCode(exitUsage, fmt.Errorf("%w; see `%s --help`", err, c.CommandPath()))
	})
	root.AddGroup(&cobra.Group{ID: "run", Title: "Running:"}, &cobra.Group{ID: "look", Title: "Looking:"}, &cobra.Group{ID: "setup", Title: "Setting up:"})
	root.AddCommand(
		t.demoCommand(), t.runCommand(), t.kafkaCommand(), t.clickhouseCommand(), t.simulateCommand(), t.haltCommand(), t.resumeCommand(),
		t.tailCommand(), t.queryCommand(), t.topicsCommand(), t.lagCommand(), t.listCommand(), t.sessionCommand(), t.sinksCommand(), t.paperCommand(), t.benchCommand(),
		t.checkCommand(), t.configCommand(), t.schemaCommand(), t.versionCommand(),
	)
	return root
}

// args wraps cobra's check so that a wrong number of arguments is wrong usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, a []string) error {
		if err := check(c, a); err != nil {
			return withCode(exitUsage, fmt.Errorf("%w; see `%s --help`", err, c.CommandPath()))
		}
		return nil
	}
}

// onlyCommands is for a command that only groups others.
func onlyCommands(c *cobra.Command, a []string) error {
	if len(a) == 0 {
		return nil
	}
	c.SuggestionsMinimumDistance = 2
	hint := ""
	if near := c.SuggestionsFor(a[0]); len(near) > 0 {
		hint = ": did you mean " + strings.Join(near, " or ") + "?"
	}
	return withCode(exitUsage, fmt.Errorf("unknown command %q%s; see `%s --help`", a[0], hint, c.CommandPath()))
}

func help(c *cobra.Command, _ []string) error { return c.Help() }

// Version is the version of the binary, from the build information.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

func (t *tool) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", GroupID: "setup", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if t.output == "json" {
				return t.json(map[string]string{"version": Version()})
			}
			fmt.Fprintln(t.out, "autohedge", Version())
			return nil
		},
	}
}

package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/cmd/internal/config"
	"github.com/autohedge/autohedge/cmd/internal/folder"
	"github.com/autohedge/autohedge/cmd/internal/obs"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// loadConfig reads --config over the defaults, or returns the defaults. Warnings
// go to stderr.
func (t *tool) loadConfig() (config.Config, error) {
	if t.config == "" {
		return config.Default(), nil
	}
	lookup, err := config.Environment(t.config)
	if err != nil {
		return config.Config{}, withCode(exitConfig, err)
	}
	cfg, findings, err := config.Load(t.config, lookup)
	if err != nil {
		return cfg, withCode(exitConfig, err)
	}
	if err := findings.Err(); err != nil {
		return cfg, withCode(exitConfig, fmt.Errorf("the configuration is invalid:\n%w", err))
	}
	for _, w := range findings.Warnings() {
		fmt.Fprintln(t.err, w)
	}
	return cfg, nil
}

// openFolder opens --data, else the configuration's folder, else the default.
func (t *tool) openFolder(cfg config.Config) (*folder.Folder, error) {
	dir := t.data
	if dir == "" {
		dir = cfg.Data
	}
	return folder.Open(dir)
}

// kafkaClient connects a tool to the configured Kafka, or to the one that the
// data folder's owner runs. The topics are taken as they are: a tool neither
// creates nor refuses them.
func (t *tool) kafkaClient(ctx context.Context, session string) (*bus.Client, error) {
	client, err := t.connectKafka(ctx, session)
	if err != nil {
		return nil, err
	}
	if err := client.AttachTopics(ctx); err != nil {
		return nil, errors.Join(withCode(exitDown, err), client.Close())
	}
	return client, nil
}

// connectKafka is kafkaClient without a look at the topics.
func (t *tool) connectKafka(ctx context.Context, session string) (*bus.Client, error) {
	cfg, err := t.loadConfig()
	if err != nil {
		return nil, err
	}
	kafka := cfg.Kafka
	if len(kafka.Brokers) == 0 {
		f, err := t.openFolder(cfg)
		if err != nil {
			return nil, err
		}
		owner, ok := f.Owner("kafka")
		if !ok {
			return nil, withCode(exitDown, fmt.Errorf("no Kafka runs on data folder %s: start `autohedge demo`, `run` or `kafka`, or name brokers in --config", f.Root()))
		}
		kafka = kafkaOf(kafka, owner)
	}
	kafka.Session = session
	log, err := obs.NewLogger(obs.LogConfig{Level: "warn", Format: "text"}, t.err)
	if err != nil {
		return nil, err
	}
	client, err := bus.Connect(ctx, kafka, component.Env{Log: log, Metrics: obs.NewRegistry(Version()), Clock: component.SystemClock{}})
	if err != nil {
		return nil, withCode(exitDown, err)
	}
	if session != "" {
		names, err := client.Sessions(ctx)
		if err == nil && !slices.Contains(names, session) {
			err = fmt.Errorf("there is no session %q: `autohedge session list` shows them", session)
		}
		if err != nil {
			return nil, errors.Join(err, client.Close())
		}
	}
	return client, nil
}

func (t *tool) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check [FILE]", Short: "Check a configuration without starting anything", GroupID: "setup", Args: args(cobra.MaximumNArgs(1)),
		Long: `check reads a configuration as the engine would and reports every problem at
once, each with its place and what is legal. Nothing is connected to.
Exit code 3 when there are errors; warnings do not count.`,
		Example: "  autohedge check autohedge.yaml\n  autohedge check --config autohedge.yaml --output json",
		RunE: func(_ *cobra.Command, a []string) error {
			path := t.config
			if len(a) == 1 {
				path = a[0]
			}
			if path == "" {
				return withCode(exitUsage, errors.New("which file? `autohedge check FILE`"))
			}
			lookup, err := config.Environment(path)
			if err != nil {
				return withCode(exitConfig, err)
			}
			_, findings, err := config.Load(path, lookup)
			if err != nil {
				return withCode(exitConfig, err)
			}
			bad := findings.Err() != nil
			if t.output == "json" {
				if findings == nil {
					findings = config.Findings{}
				}
				if err := t.json(findings); err != nil {
					return err
				}
			} else {
				for _, f := range findings {
					fmt.Fprintln(t.err, f)
				}
				if !bad {
					fmt.Fprintf(t.out, "%s is good (%d warnings)\n", path, len(findings))
				}
			}
			if bad {
				return withCode(exitConfig, errSaid)
			}
			return nil
		},
	}
}

func (t *tool) configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Write and print configurations", GroupID: "setup", Args: onlyCommands, RunE: help}
	var force bool
	initialise := &cobra.Command{
		Use: "init [FOLDER]", Short: "Write autohedge.yaml and .env.example, commented", Args: args(cobra.MaximumNArgs(1)),
		Long: `init writes a configuration with every key, its default and what it means, and a
template for the environment variables that it refers to. Existing files are
kept unless --force is given.`,
		RunE: func(_ *cobra.Command, a []string) error {
			dir := "."
			if len(a) == 1 {
				dir = a[0]
			}
			if err := os.MkdirAll(dir, 0o750); err != nil {
				return fmt.Errorf("making %s: %w", dir, err)
			}
			var wrote []string
			for _, f := range []struct{ name, text string }{{"autohedge.yaml", config.SampleFile()}, {".env.example", config.SampleEnv}} {
				path := filepath.Join(dir, f.name)
				flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
				if force {
					flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
				}
				file, err := os.OpenFile(path, flags, 0o600)
				if errors.Is(err, os.ErrExist) {
					return fmt.Errorf("%s is there already: --force replaces it", path)
				}
				if err != nil {
					return fmt.Errorf("writing %s: %w", path, err)
				}
				_, err = file.WriteString(f.text)
				if err = errors.Join(err, file.Close()); err != nil {
					return fmt.Errorf("writing %s: %w", path, err)
				}
				wrote = append(wrote, path)
				if t.output != "json" {
					fmt.Fprintln(t.out, "wrote", path)
				}
			}
			if t.output == "json" {
				return t.json(map[string][]string{"wrote": wrote})
			}
			fmt.Fprintln(t.err, "next: autohedge check --config", filepath.Join(dir, "autohedge.yaml"))
			return nil
		},
	}
	initialise.Flags().BoolVar(&force, "force", false, "replace existing files")
	show := &cobra.Command{
		Use: "print", Short: "Print the configuration in force, secrets hidden", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := t.loadConfig()
			if err != nil {
				return err
			}
			if t.output != "json" {
				fmt.Fprint(t.out, config.Sample(cfg))
				return nil
			}
			text, err := config.SampleJSON(cfg)
			if err != nil {
				return err
			}
			return t.json(text)
		},
	}
	c.AddCommand(initialise, show)
	return c
}

func (t *tool) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the Protobuf schema of the records", GroupID: "setup", Args: args(cobra.NoArgs),
		Example: "  autohedge schema > event.proto && protoc --python_out=. event.proto",
		RunE: func(*cobra.Command, []string) error {
			if t.output == "json" {
				return t.json(map[string]string{"file": "event.proto", "schema": event.Schema})
			}
			fmt.Fprint(t.out, event.Schema)
			return nil
		},
	}
}

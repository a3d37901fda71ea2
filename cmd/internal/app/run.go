package app

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/cmd/internal/obs"
	"github.com/autohedge/autohedge/stream/component"
)

func (t *tool) runCommand() *cobra.Command {
	var roles []string
	var names []string
	for _, r := range roleTable() {
		names = append(names, fmt.Sprintf("  %-10s %s", r.name, r.summary))
	}
	c := &cobra.Command{
		Use: "run", Short: "Run roles against configured servers", GroupID: "run", Args: args(cobra.NoArgs),
		Long: `run starts the roles named by --roles (default all) and serves until Ctrl-C or
SIGTERM, which drains them, upstream first. Several processes may share the work:
each takes its part of the partitions. Without configured brokers or ClickHouse
URL the embedded ones of the data folder are used: those that another process
runs, or else started here.

A role that ends with an error that may be retried is started again, with pauses
of 1 s to 30 s. One that ends more than five times within ten minutes halts new
entries, as "autohedge halt" does, and ends the process.

Roles, downstream first, as they start:
` + strings.Join(names, "\n"),
		Example: `  autohedge run --config autohedge.yaml
  autohedge run --config autohedge.yaml --roles stream,signals`,
		RunE: func(cmd *cobra.Command, _ []string) error { return t.run(cmd.Context(), roles) },
	}
	c.Flags().StringSliceVar(&roles, "roles", []string{"all"}, "roles to run in this process, separated by commas")
	return c
}

func (t *tool) run(ctx context.Context, names []string) error {
	specs, err := pickRoles(names)
	if err != nil {
		return withCode(exitUsage, err)
	}
	cfg, err := t.loadConfig()
	if err != nil {
		return err
	}
	f, err := t.openFolder(cfg)
	if err != nil {
		return err
	}
	market, err := marketOf(cfg.Stream.Feeds)
	if err == nil {
		err = claimMarket(f, market)
	}
	if err != nil {
		return err
	}
	log, err := obs.NewLogger(cfg.Log, t.err)
	if err != nil {
		return err
	}
	t.terminal.serve(log)
	e := newEngine(cfg, f, log, component.SystemClock{}, t.err)
	needStore := false
	for _, s := range specs {
		needStore = needStore || s.store
	}
	begun := time.Now()
	err = e.connect(ctx, needStore)
	if err == nil {
		err = e.start(ctx, specs)
	}
	if err != nil {
		e.abandon()
		return err
	}
	log.Info("ready", "took", time.Since(begun).Round(time.Millisecond), "roles", strings.Join(names, ","),
		"metrics", "http://"+e.http.Addr()+"/metrics", "clickhouse", e.storeURL(), "kafka", e.kafkaAddr())
	if t.output == "json" {
		if err := t.json(map[string]any{"ready": true, "roles": names, "metrics": "http://" + e.http.Addr() + "/metrics", "clickhouse": e.storeURL(), "kafka": e.kafkaAddr()}); err != nil {
			e.fault(err.Error())
		}
	}
	select {
	case <-ctx.Done():
	case <-e.failed:
	}
	log.Info("stopping")
	dctx, cancel := context.WithTimeout(context.Background(), drainBudget)
	defer cancel()
	e.drain(dctx)
	closing, end := context.WithTimeout(context.Background(), drainBudget)
	defer end()
	e.close(closing)
	if faults := e.faultList(); len(faults) > 0 {
		return fmt.Errorf("the run had errors: %s", strings.Join(faults, "; "))
	}
	return nil
}

func (t *tool) kafkaCommand() *cobra.Command {
	c := t.serverCommand("kafka", "Run the embedded Kafka alone",
		`kafka serves the data folder's embedded Kafka until Ctrl-C, for roles in several
processes and for any Kafka client. It keeps what it acknowledged when it is
killed, but has no replicas: for money at risk use Apache Kafka.`,
		func(ctx context.Context, e *engine) (string, error) {
			if err := e.startKafka(ctx); err != nil {
				return "", err
			}
			return e.broker.Addr(), nil
		})
	c.Args = onlyCommands
	c.AddCommand(t.kafkaTrimCommand())
	return c
}

func (t *tool) clickhouseCommand() *cobra.Command {
	return t.serverCommand("clickhouse", "Run the embedded ClickHouse alone",
		`clickhouse serves the data folder's embedded ClickHouse over HTTP until Ctrl-C: the
real engine as a library, in a child process. curl, clickhouse-go (Protocol HTTP)
and Grafana connect to it as to a server.`,
		func(ctx context.Context, e *engine) (string, error) {
			if err := e.startStore(ctx); err != nil {
				return "", err
			}
			return e.server.URL(), nil
		})
}

// serverCommand runs one embedded server alone.
func (t *tool) serverCommand(name, short, long string, start func(context.Context, *engine) (string, error)) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Long: long, GroupID: "run", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := t.loadConfig()
			if err != nil {
				return err
			}
			f, err := t.openFolder(cfg)
			if err != nil {
				return err
			}
			log, err := obs.NewLogger(cfg.Log, t.err)
			if err != nil {
				return err
			}
			t.terminal.serve(log)
			e := newEngine(cfg, f, log, component.SystemClock{}, t.err)
			addr, err := start(cmd.Context(), e)
			if err != nil {
				e.abandon()
				return withCode(exitDown, err)
			}
			if t.output == "json" {
				err = t.json(map[string]string{"address": addr})
			} else {
				_, err = fmt.Fprintf(t.out, "%s listens on %s, data in %s\n", name, addr, f.Root())
			}
			if err == nil {
				<-cmd.Context().Done()
			}
			ctx, cancel := context.WithTimeout(context.Background(), drainBudget)
			defer cancel()
			e.close(ctx)
			if faults := e.faultList(); len(faults) > 0 {
				return fmt.Errorf("stopping: %s", strings.Join(faults, "; "))
			}
			return err
		},
	}
}

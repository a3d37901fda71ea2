package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/cmd/internal/obs"
	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/component"
)

// storeClient connects a tool to the configured ClickHouse, or to the one that
// the data folder's owner runs. Where nothing runs it starts the folder's engine
// for as long as the tool runs.
func (t *tool) storeClient(ctx context.Context, session string) (client *clickhouse.Client, closeAll func() error, err error) {
	cfg, err := t.loadConfig()
	if err != nil {
		return nil, nil, err
	}
	log, err := obs.NewLogger(obs.LogConfig{Level: "warn", Format: "text"}, t.err)
	if err != nil {
		return nil, nil, err
	}
	env := component.Env{Log: log, Metrics: obs.NewRegistry(Version()), Clock: component.SystemClock{}}
	store := cfg.ClickHouse
	store.Reader = true
	if session != "" {
		store.Database = sessionDatabase(session)
	}
	stop := func(context.Context) error { return nil }
	if store.URL == "" {
		f, err := t.openFolder(cfg)
		if err != nil {
			return nil, nil, err
		}
		if owner, ok := f.Owner("clickhouse"); ok {
			store.URL, store.User, store.Password = owner.Addr, owner.User, component.NewSecret(owner.Password)
		} else {
			key, err := f.Key("clickhouse")
			if err != nil {
				return nil, nil, err
			}
			server, err := clickhouse.StartEngine(ctx, clickhouse.EngineConfig{Dir: f.ClickHouse(), Addr: "127.0.0.1:0", Progress: t.err, Key: component.NewSecret(key)}, env)
			if err != nil {
				return nil, nil, withCode(exitDown, err)
			}
			store.URL, store.User, store.Password, stop = server.URL(), clickhouse.KeyUser, component.NewSecret(key), server.Close
		}
	}
	client, err = clickhouse.Connect(ctx, store, env)
	if err == nil && session == "" {
		err = client.Migrate(ctx) // a folder that never ran has its tables, empty
	}
	if err != nil {
		return nil, nil, withCode(exitDown, errors.Join(err, stop(context.WithoutCancel(ctx))))
	}
	return client, func() error { return errors.Join(client.Close(), stop(context.WithoutCancel(ctx))) }, nil
}

// sessionDatabase is where a session lands.
func sessionDatabase(session string) string { return "autohedge_" + session }

func (t *tool) queryCommand() *cobra.Command {
	var session string
	c := &cobra.Command{
		Use: "query SQL", Short: "Ask ClickHouse and print a table", GroupID: "look", Args: args(cobra.ExactArgs(1)),
		Long: `query sends one statement to ClickHouse and prints the answer as a table, or with
--output json as a list of objects. While an engine runs on the data folder it is
asked; otherwise the embedded ClickHouse is started for the question. "-" reads
the statement from stdin.`,
		Example: `  autohedge query "SELECT venue, symbol, count() AS trades, max(event_time) FROM ticks GROUP BY venue, symbol"
  autohedge query "SHOW TABLES" --output json
  autohedge query --session r1 "SELECT count() FROM quotes"`,
		RunE: func(cmd *cobra.Command, a []string) error {
			sql := a[0]
			if sql == "-" {
				text, err := io.ReadAll(io.LimitReader(t.in, 1<<20))
				if err != nil {
					return fmt.Errorf("reading the statement: %w", err)
				}
				sql = string(text)
			}
			client, closeAll, err := t.storeClient(cmd.Context(), session)
			if err != nil {
				return err
			}
			sql = strings.TrimRight(strings.TrimSpace(sql), ";")
			if t.output == "json" {
				columns, rows, err := client.QueryJSON(cmd.Context(), sql)
				if err := errors.Join(err, closeAll()); err != nil {
					return err
				}
				return t.printObjects(columns, rows)
			}
			res, err := client.Query(cmd.Context(), sql)
			if err := errors.Join(err, closeAll()); err != nil || len(res.Columns) == 0 {
				return err
			}
			return writeTable(t.out, res.Columns, res.Rows)
		},
	}
	c.Flags().StringVar(&session, "session", "", "a replay's session instead of the live database")
	return c
}

// printObjects prints rows as a list of objects, the columns in their order.
func (t *tool) printObjects(columns []string, rows [][]json.RawMessage) error {
	names := make([][]byte, len(columns))
	for i, c := range columns {
		var err error
		if names[i], err = json.Marshal(c); err != nil {
			return fmt.Errorf("writing JSON: %w", err)
		}
	}
	var b bytes.Buffer
	b.WriteByte('[')
	for i, row := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n  {")
		for j, v := range row {
			if j > 0 {
				b.WriteString(", ")
			}
			b.Write(names[j])
			b.WriteString(": ")
			b.Write(v)
		}
		b.WriteByte('}')
	}
	if len(rows) > 0 {
		b.WriteByte('\n')
	}
	b.WriteString("]\n")
	if _, err := t.out.Write(b.Bytes()); err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	return nil
}

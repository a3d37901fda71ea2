package clickhouse

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"strings"
)

// schemaFiles are the numbered migrations, each applied once in the order of
// their names, and views.sql, applied at every start.
//
//go:embed schema/*.sql
var schemaFiles embed.FS

const viewsFile = "views.sql"

// migrations returns the names of the numbered files in order.
func migrations() ([]string, error) {
	entries, err := fs.ReadDir(schemaFiles, "schema")
	if err != nil {
		return nil, fmt.Errorf("listing the schema: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != viewsFile {
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	return names, nil
}

// statements returns a schema file's statements for the database.
func statements(file, database string) ([]string, error) {
	text, err := schemaFiles.ReadFile("schema/" + file)
	if err != nil {
		return nil, fmt.Errorf("reading the schema: %w", err)
	}
	var out []string
	for s := range strings.SplitSeq(strings.ReplaceAll(string(text), "{db}", quoteIdent(database)), ";\n") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, strings.TrimSuffix(s, ";"))
		}
	}
	return out, nil
}

// Migrate makes the database, its tables and its views, or brings those of an
// older version up to date. Statements are written so that several processes may
// run them at a time. It then checks that every table has the columns that
// inserts name, with their types.
func (c *Client) Migrate(ctx context.Context) error {
	db := quoteIdent(c.cfg.Database)
	for _, s := range []string{
		"CREATE DATABASE IF NOT EXISTS " + db,
		"CREATE TABLE IF NOT EXISTS " + db + ".schema_migrations (name String, applied_at DateTime('UTC') DEFAULT now()) ENGINE = MergeTree ORDER BY name",
	} {
		if err := c.Exec(ctx, s); err != nil {
			return fmt.Errorf("making database %s: %w", c.cfg.Database, err)
		}
	}
	var applied []string
	if err := c.conn.QueryRow(ctx, "SELECT groupArray(name) FROM "+db+".schema_migrations").Scan(&applied); err != nil {
		return fmt.Errorf("reading the applied migrations: %w", err)
	}
	done := make(map[string]bool)
	for _, n := range applied {
		done[n] = true
	}
	names, err := migrations()
	if err != nil {
		return err
	}
	if err := c.remakeLostTables(ctx, slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !done[n] })); err != nil {
		return err
	}
	for _, name := range names {
		if done[name] {
			continue
		}
		if err := c.apply(ctx, name); err != nil {
			return err
		}
		if err := c.Exec(ctx, "INSERT INTO "+db+".schema_migrations (name) VALUES ("+quote(name)+")"); err != nil {
			return fmt.Errorf("noting migration %s: %w", name, err)
		}
	}
	if err := c.apply(ctx, viewsFile); err != nil {
		return err
	}
	return c.checkSchema(ctx)
}

// Prepare is Migrate under the name that the sinks know.
func (c *Client) Prepare(ctx context.Context) error { return c.Migrate(ctx) }

func (c *Client) apply(ctx context.Context, file string) error {
	list, err := statements(file, c.cfg.Database)
	if err != nil {
		return err
	}
	for _, s := range list {
		if err := c.Exec(ctx, s); err != nil {
			return fmt.Errorf("applying %s: %w", file, err)
		}
	}
	return nil
}

// checkSchema compares the tables with what inserts send.
func (c *Client) checkSchema(ctx context.Context) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	rs, err := c.conn.Query(ctx, "SELECT table, name, type FROM system.columns WHERE database = "+quote(c.cfg.Database))
	if err != nil {
		return fmt.Errorf("reading the tables' columns: %w", err)
	}
	defer rs.Close() //nolint:errcheck // Err below tells
	have := make(map[string]string)
	for rs.Next() {
		var table, name, typ string
		if err := rs.Scan(&table, &name, &typ); err != nil {
			return fmt.Errorf("reading the tables' columns: %w", err)
		}
		have[table+"."+name] = typ
	}
	if err := rs.Err(); err != nil {
		return fmt.Errorf("reading the tables' columns: %w", err)
	}
	for _, table := range append([]string{tableLanded}, Tables...) {
		for _, col := range newRows(table).columns() {
			typ, ok := have[table+"."+col.name]
			want := string(col.col.Type())
			if !ok || typ != want {
				return fmt.Errorf("%w: column %s of %s.%s has type %q, want %q: another version made this database; choose another one in clickhouse.database",
					ErrSetup, col.name, c.cfg.Database, table, typ, want)
			}
		}
	}
	return nil
}

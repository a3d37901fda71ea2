package clickhouse

import (
	"context"
	"crypto/rand"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// remakeLostTables makes the tables again that the applied migrations have made and that
// are gone. Before, landed stops to claim the partitions that had rows in them, so that
// the sinks see that these are lost.
func (c *Client) remakeLostTables(ctx context.Context, applied []string) error {
	made := make(map[string][]string) // by table, what makes it
	for _, file := range applied {
		list, err := statements(file, c.cfg.Database)
		if err != nil {
			return err
		}
		for _, s := range list {
			if m := c.ofTable().FindStringSubmatch(s); m != nil {
				made[m[1]] = append(made[m[1]], s)
			}
		}
	}
	there, err := c.tableNames(ctx)
	if err != nil {
		return err
	}
	for _, table := range append([]string{tableLanded}, Tables...) {
		if len(made[table]) == 0 || slices.Contains(there, table) {
			continue
		}
		if table != tableLanded {
			where := "(topic, incarnation, partition) IN (SELECT topic, incarnation, partition FROM " + c.table(tableLanded) + " WHERE rows[" + quote(table) + "] > 0)"
			if _, err := c.remove(ctx, tableLanded, where); err != nil {
				return err
			}
		}
		if err := c.remakeTable(ctx, table, made[table]); err != nil {
			return err
		}
	}
	return nil
}

// ofTable finds the table that a statement of a migration makes or changes.
func (c *Client) ofTable() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^(?:ALTER TABLE|CREATE TABLE IF NOT EXISTS) ` + regexp.QuoteMeta(quoteIdent(c.cfg.Database)) + `\.(\w+)`)
}

// remakeTable makes a table under another name and renames it when it is whole: a
// migration may not run twice on one table, and this may be killed.
func (c *Client) remakeTable(ctx context.Context, table string, list []string) error {
	draft := table + "_draft_" + strings.ToLower(rand.Text())
	for _, s := range list {
		if err := c.Exec(ctx, strings.Replace(s, c.table(table), c.table(draft), 1)); err != nil {
			return fmt.Errorf("making %s again: %w", table, err)
		}
	}
	err := c.Exec(ctx, "RENAME TABLE "+c.table(draft)+" TO "+c.table(table))
	if err == nil {
		return nil
	}
	if derr := c.Exec(ctx, "DROP TABLE IF EXISTS "+c.table(draft)+" SYNC"); derr != nil {
		return fmt.Errorf("dropping the draft of %s: %w", table, derr)
	}
	there, terr := c.tableNames(ctx)
	if terr == nil && slices.Contains(there, table) {
		return nil // another process was first
	}
	return fmt.Errorf("making %s again: %w", table, err)
}

func (c *Client) tableNames(ctx context.Context) (names []string, err error) {
	if err := c.askOne(ctx, "SELECT groupArray(name) FROM system.tables WHERE database = "+quote(c.cfg.Database), &names); err != nil {
		return nil, fmt.Errorf("listing the tables: %w", err)
	}
	return names, nil
}

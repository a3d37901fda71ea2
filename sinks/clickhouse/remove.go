package clickhouse

import (
	"context"
	"fmt"

	"github.com/autohedge/autohedge/stream/event"
)

// Remove takes out every row of a partition's records from offset first on, in
// every table but landed, and returns when they are gone. Nothing may be inserting
// there.
func (c *Client) Remove(ctx context.Context, topic string, incarnation event.ID, partition int32, first int64) error {
	where := fmt.Sprintf("topic = %s AND incarnation = %s AND kafka_partition = %d AND kafka_offset >= %d", quote(topic), quote(incarnation.String()), partition, first)
	for _, table := range Tables {
		if _, err := c.remove(ctx, table, where); err != nil {
			return err
		}
	}
	return nil
}

// DropIncarnation takes out every row of one life of a topic, landed included, and
// returns how many there were, by table.
func (c *Client) DropIncarnation(ctx context.Context, topic string, incarnation event.ID) (map[string]uint64, error) {
	where := fmt.Sprintf("topic = %s AND incarnation = %s", quote(topic), quote(incarnation.String()))
	removed := make(map[string]uint64)
	// Landed goes last: while it is there the rows are accounted for, and the same
	// again goes on where this was interrupted.
	for _, table := range append(append([]string{}, Tables...), tableLanded) {
		n, err := c.remove(ctx, table, where)
		if err != nil {
			return removed, err
		}
		if n > 0 {
			removed[table] = n
		}
	}
	return removed, nil
}

// remove deletes rows and waits for it; a delete writes the table's parts anew, so
// one that would find nothing is not made.
func (c *Client) remove(ctx context.Context, table, where string) (n uint64, err error) {
	asking, cancel := c.bound(ctx)
	defer cancel()
	if err := c.conn.QueryRow(asking, "SELECT count() FROM "+c.table(table)+" WHERE "+where).Scan(&n); err != nil {
		return 0, fmt.Errorf("counting what is to be removed from %s: %w", table, err)
	}
	if n == 0 {
		return 0, nil
	}
	if err := c.conn.Exec(ctx, "ALTER TABLE "+c.table(table)+" DELETE WHERE "+where+" SETTINGS mutations_sync = 2"); err != nil {
		return 0, fmt.Errorf("removing %d rows from %s: %w", n, table, err)
	}
	return n, nil
}

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
	where := fmt.Sprintf("%s AND kafka_offset >= %d", ofPartition("kafka_partition", topic, incarnation, partition), first)
	for _, table := range Tables {
		if _, err := c.remove(ctx, table, where); err != nil {
			return err
		}
	}
	return nil
}

// ofPartition is the condition that rows lie in one partition of a topic's life.
func ofPartition(column, topic string, incarnation event.ID, partition int32) string {
	return fmt.Sprintf("topic = %s AND incarnation = %s AND %s = %d", quote(topic), quote(incarnation.String()), column, partition)
}

// RowsBelow returns how many rows of a partition's records below the offset each
// table has, and the lowest offset among them, -1 where there are none.
func (c *Client) RowsBelow(ctx context.Context, topic string, incarnation event.ID, partition int32, below int64) (rows map[string]uint64, lowest int64, err error) {
	rows, lowest = make(map[string]uint64), -1
	for _, table := range Tables {
		var n uint64
		var first int64
		if err := c.askOne(ctx, fmt.Sprintf("SELECT count(), toInt64(min(kafka_offset)) FROM %s WHERE %s AND kafka_offset < %d",
			c.table(table), ofPartition("kafka_partition", topic, incarnation, partition), below), &n, &first); err != nil {
			return nil, -1, fmt.Errorf("counting the rows of %s/%d in %s: %w", topic, partition, table, err)
		}
		if n == 0 {
			continue
		}
		if rows[table] = n; lowest < 0 || first < lowest {
			lowest = first
		}
	}
	return rows, lowest, nil
}

// FormerEnd returns one past the last offset of a partition that other lives of the
// topic have landed, 0 where they have landed nothing.
func (c *Client) FormerEnd(ctx context.Context, topic string, incarnation event.ID, partition int32) (end int64, err error) {
	if err := c.askOne(ctx, fmt.Sprintf("SELECT toInt64(if(count() = 0, 0, max(last_offset) + 1)) FROM %s WHERE topic = %s AND incarnation != %s AND partition = %d",
		c.table(tableLanded), quote(topic), quote(incarnation.String()), partition), &end); err != nil {
		return 0, fmt.Errorf("asking what former lives of %s/%d have landed: %w", topic, partition, err)
	}
	return end, nil
}

// ForgetLanded takes every row of a partition but the token's out of landed.
func (c *Client) ForgetLanded(ctx context.Context, topic string, incarnation event.ID, partition int32, except string) error {
	_, err := c.remove(ctx, tableLanded, fmt.Sprintf("%s AND token != %s", ofPartition("partition", topic, incarnation, partition), quote(except)))
	return err
}

// askOne reads the one row of a query.
func (c *Client) askOne(ctx context.Context, sql string, into ...any) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	return c.conn.QueryRow(ctx, sql).Scan(into...)
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

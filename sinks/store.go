package sinks

import (
	"context"
	"fmt"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/event"
)

// Writer turns records into rows and lands them. It is safe for concurrent use.
type Writer interface {
	// NewBatch returns an empty batch for records of one partition of a topic.
	NewBatch(topic string, incarnation event.ID, partition int32) Batch
	// Insert lands one block. Rows and token together make it idempotent: however
	// often the same block is inserted under the same token, and whatever became
	// of the attempts before, its rows are there once when nil is returned. It
	// does not retry by itself and may be called again at once after an error,
	// also while an earlier attempt still runs on the server. It must not keep
	// the block. clickhouse.ErrRefused says that the database refused the rows for
	// what they say: nothing of the block has landed and the same block never will.
	// Every other error is an unknown outcome, or a fault of the installation: the
	// same insert, made again, resolves both.
	Insert(ctx context.Context, block Block, token string) error
}

// Batch gathers the rows of one plan. It is used by one goroutine at a time.
type Batch interface {
	// Add encodes the row of one record and returns the index in Blocks of the
	// block that took it, or clickhouse.NoRow when the record makes none (a clock record). An
	// error means that the record is no event or does not fit its table; the batch
	// is as before. What Add does is a function of the records added and nothing
	// else, so a batch built again from the same records has the same blocks.
	// It keeps neither key nor value.
	Add(offset int64, key, value []byte) (block int, err error)
	// Blocks returns the batch's rows, one block for each table and table
	// partition, in the order of their first rows. They are valid until Reset.
	Blocks() []Block
	// Reset empties the batch and keeps its memory.
	Reset()
}

// Block is the rows of one insert: they lie in one partition of one table.
type Block interface {
	Table() string
	// Partition names the table's partition, "20261123"; empty when the table has
	// none.
	Partition() string
	Rows() int
}

// Ledger is the database's own record of what has landed. It is safe for
// concurrent use.
type Ledger interface {
	// Prepare checks that the database answers and makes the tables that are
	// missing. The role calls it before everything else, again until it succeeds.
	Prepare(ctx context.Context) error
	// Settle ends every insert of the plan that a predecessor left running on the
	// server, waits until it is gone, and returns what `landed` knows of the
	// plan's partition: the end of what has landed, one past the last offset of
	// its newest row, and 0 when it has no row.
	Settle(ctx context.Context, plan event.SinkPlan) (end int64, err error)
	// Land inserts the row that proves a plan, under its token; idempotent like
	// Writer.Insert.
	Land(ctx context.Context, row clickhouse.Landed) error
	// Remove takes out every row of the partition's records from offset first on,
	// in every table but landed. Its caller has settled the plan that made them, and
	// no row of landed accounts for them.
	Remove(ctx context.Context, topic string, incarnation event.ID, partition int32, first int64) error
	// RowsBelow returns how many rows of the partition's records below the offset each
	// table has, and the lowest offset among them, -1 where there are none.
	RowsBelow(ctx context.Context, topic string, incarnation event.ID, partition int32, below int64) (rows map[string]uint64, lowest int64, err error)
	// FormerEnd returns the end of what other lives of the topic have landed of the
	// partition, 0 where they have landed nothing.
	FormerEnd(ctx context.Context, topic string, incarnation event.ID, partition int32) (end int64, err error)
	// ForgetLanded takes every row of the partition but the token's out of landed.
	ForgetLanded(ctx context.Context, topic string, incarnation event.ID, partition int32, except string) error
}

// Store is the database that rows land in.
type Store interface {
	Writer
	Ledger
}

// records is how many records a row of landed accounts for.
func records(l *clickhouse.Landed) int64 {
	n := l.Control + l.Refused + l.SecondCopies + l.Expired
	for _, rows := range l.Rows {
		n += rows
	}
	return int64(n)
}

// clickHouse is Store over the plug-in.
type clickHouse struct{ *clickhouse.Client }

// clickHouseBatch is Batch over the plug-in's.
type clickHouseBatch struct {
	*clickhouse.Batch
	blocks []Block
}

var (
	_ Store = clickHouse{}
	_ Batch = (*clickHouseBatch)(nil)
	_ Block = (*clickhouse.Block)(nil)
)

// ClickHouse lands rows in a ClickHouse.
func ClickHouse(client *clickhouse.Client) Store { return clickHouse{client} }

func (clickHouse) NewBatch(topic string, incarnation event.ID, partition int32) Batch {
	return &clickHouseBatch{Batch: clickhouse.NewBatch(topic, incarnation, partition)}
}

func (b *clickHouseBatch) Blocks() []Block {
	b.blocks = b.blocks[:0]
	for _, x := range b.Batch.Blocks() {
		b.blocks = append(b.blocks, x)
	}
	return b.blocks
}

func (s clickHouse) Insert(ctx context.Context, block Block, token string) error {
	b, ok := block.(*clickhouse.Block)
	if !ok {
		return fmt.Errorf("inserting a %T: it is not from this store", block)
	}
	return s.Client.Insert(ctx, b, token)
}

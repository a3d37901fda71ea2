package sinks

import (
	"context"
	"errors"

	"github.com/autohedge/autohedge/stream/event"
)

// ErrRefused marks an insert that the database refused for what its rows say:
// nothing of the block has landed and the same block never will. Every other
// error of Writer.Insert is an unknown outcome, which the same insert, made
// again, resolves.
var ErrRefused = errors.New("rows are refused")

// NoRow is what Batch.Add returns for a record that makes no row.
const NoRow = -1

// Writer turns records into rows and lands them. It is safe for concurrent use.
type Writer interface {
	// NewBatch returns an empty batch for records of one partition of a topic.
	NewBatch(topic string, incarnation event.ID, partition int32) Batch
	// Insert lands one block. Rows and token together make it idempotent: however
	// often the same block is inserted under the same token, and whatever became
	// of the attempts before, its rows are there once when nil is returned. It
	// does not retry by itself and may be called again at once after an error,
	// also while an earlier attempt still runs on the server. It must not keep
	// the block.
	Insert(ctx context.Context, block Block, token string) error
}

// Batch gathers the rows of one plan. It is used by one goroutine at a time.
type Batch interface {
	// Add encodes the row of one record and returns the index in Blocks of the
	// block that took it, or NoRow when the record makes none (a clock record). An
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
	Land(ctx context.Context, row Landed) error
}

// Store is the database that rows land in.
type Store interface {
	Writer
	Ledger
}

// Landed accounts for every record of one plan. Its sum holds:
//
//	Last - First + 1 = rows + Control + Refused + SecondCopies + Expired
type Landed struct {
	Topic       string
	Incarnation event.ID
	Partition   int32
	First, Last int64 // offsets, both included
	Rows        map[string]uint64
	// Control counts records that make no row, Refused those that could not be
	// used and are dead letters now, SecondCopies those that were in the log
	// already, Expired those that retention took before they landed.
	Control, Refused, SecondCopies, Expired uint64
	Token                                   string
}

// Records is how many records the row accounts for.
func (l Landed) Records() int64 {
	n := l.Control + l.Refused + l.SecondCopies + l.Expired
	for _, rows := range l.Rows {
		n += rows
	}
	return int64(n) //nolint:gosec // a plan holds at most a few million records
}

package clickhouse

import (
	"fmt"
	"strconv"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/autohedge/autohedge/stream/event"
)

// NoRow is what Batch.Add returns for a record that makes no row.
const NoRow = -1

// Batch turns the records of one partition of a topic into rows, one Block for
// each table and table partition. It keeps its memory over Reset and is used by
// one goroutine at a time.
type Batch struct {
	at     place
	blocks []*Block
	free   map[string][]*Block
	// last is one more than the index of the newest block of each event type:
	// records come in the order of time, so it is nearly always the one.
	last  [maxType]int
	trade event.Trade
	quote event.Quote
}

// NewBatch returns an empty batch for records of one partition of a topic.
func NewBatch(topic string, incarnation event.ID, partition int32) *Batch {
	return &Batch{
		at:   place{topic: topic, incarnation: incarnation, partition: partition},
		free: make(map[string][]*Block),
	}
}

// Block is the rows of one insert: they lie in one partition of one table.
type Block struct {
	table string
	span  span // 0: the table has no partitions
	rows  rows
	cols  []named
	input []proto.InputColumn
	// first and final are the lowest and highest offset of its records.
	at           place
	first, final int64
}

// Table is the table's name, without the database.
func (b *Block) Table() string { return b.table }

// Partition names the table's partition, "20261123" or "202611"; empty when the
// table has none.
func (b *Block) Partition() string {
	if b.span.partition == 0 {
		return ""
	}
	return strconv.Itoa(b.span.partition)
}

// Rows is the number of rows.
func (b *Block) Rows() int { return b.rows.len() }

func newBlock(table string) *Block {
	b := &Block{table: table, rows: newRows(table)}
	b.cols = b.rows.columns()
	for _, c := range b.cols {
		b.input = append(b.input, proto.InputColumn{Name: c.name, Data: c.col})
	}
	return b
}

func (b *Block) reset() {
	for _, c := range b.cols {
		c.col.Reset()
	}
}

// encode appends the block in the Native format, as an INSERT over HTTP takes it.
func (b *Block) encode(buf *proto.Buffer) error {
	if err := (proto.Block{Columns: len(b.input), Rows: b.Rows()}).EncodeRawBlock(buf, 0, b.input); err != nil {
		return fmt.Errorf("encoding a block of %s: %w", b.table, err)
	}
	return nil
}

// Add encodes the row of one record and returns the index in Blocks of the block
// that took it, or NoRow when the record makes none (a clock record, or the
// engine's own state). An error means that the record is no event of a known
// type or misses what its table needs; the batch is then as before. What Add does
// is a function of the records added alone, so a batch built again from the same
// records has the same blocks. It keeps neither key nor value.
func (b *Batch) Add(offset int64, key, value []byte) (block int, err error) {
	var m event.Message
	switch event.TypeOf(value) { //nolint:exhaustive // the frequent ones, without allocation
	case event.TypeTrade:
		err, m = event.DecodeTrade(value, &b.trade), &b.trade
	case event.TypeQuote:
		err, m = event.DecodeQuote(value, &b.quote), &b.quote
	default:
		m, err = event.Decode(value)
	}
	if err != nil {
		return NoRow, err
	}
	return b.AddEvent(offset, key, m)
}

// AddEvent is Add for a record that is decoded already. It does not keep m.
func (b *Batch) AddEvent(offset int64, key []byte, m event.Message) (block int, err error) {
	typ, at := m.EventType(), timeOf(m)
	before := len(b.blocks)
	i := b.last[typ%maxType] - 1
	if i < 0 || !b.blocks[i].span.holds(at) {
		table, ok := tableOf(typ)
		if !ok {
			return NoRow, nil
		}
		i = b.block(table, at)
	}
	x := b.blocks[i]
	b.at.offset = offset
	if err := addRow(x.rows, &b.at, key, m); err != nil {
		if len(b.blocks) > before { // it was made for this row
			b.free[x.table] = append(b.free[x.table], x)
			b.blocks = b.blocks[:before]
		}
		return NoRow, err
	}
	b.last[typ%maxType] = i + 1
	if x.Rows() == 1 {
		x.first, x.final = offset, offset
	}
	x.first, x.final = min(x.first, offset), max(x.final, offset)
	return i, nil
}

// maxType is above every event type.
const maxType = 64

// block returns the index of the block for a row of that time, and makes it.
func (b *Batch) block(table string, at int64) int {
	for i, x := range b.blocks {
		if x.table == table && x.span.holds(at) {
			return i
		}
	}
	var x *Block
	if n := len(b.free[table]); n > 0 {
		x = b.free[table][n-1]
		b.free[table] = b.free[table][:n-1]
	} else {
		x = newBlock(table)
	}
	x.span, x.at = spanOf(table, at), b.at
	b.blocks = append(b.blocks, x)
	return len(b.blocks) - 1
}

// Blocks returns the batch's rows in the order of their first rows. They are
// valid until Reset.
func (b *Batch) Blocks() []*Block { return b.blocks }

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() {
	for _, x := range b.blocks {
		x.reset()
		b.free[x.table] = append(b.free[x.table], x)
	}
	b.blocks = b.blocks[:0]
	clear(b.last[:])
}

package clickhouse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/ch-go/proto"

	"github.com/autohedge/autohedge/stream/event"
)

// ErrRefused marks an insert that ClickHouse refused for what its rows say:
// nothing of the block has landed and the same block never will. Every other
// error of Insert is either an unknown outcome, which the same insert made again
// resolves, or a fault of the installation (no such table, no rights), for which
// ErrSetup stands; both are worth trying again once the cause is gone.
var (
	ErrRefused = errors.New("rows are refused")
	ErrSetup   = errors.New("the installation is at fault")
	// ErrLost is ErrSetup where a table, or the whole database, is not there.
	ErrLost = fmt.Errorf("%w: the table is gone", ErrSetup)
)

// refusalCodes are the exceptions that name the rows as the cause.
var refusalCodes = []int{
	6,   // CANNOT_PARSE_TEXT
	26,  // CANNOT_PARSE_QUOTED_STRING
	27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
	38,  // CANNOT_PARSE_DATE
	41,  // CANNOT_PARSE_DATETIME
	53,  // TYPE_MISMATCH
	69,  // ARGUMENT_OUT_OF_BOUND
	70,  // CANNOT_CONVERT_TYPE
	72,  // CANNOT_PARSE_NUMBER
	117, // INCORRECT_DATA
	131, // TOO_LARGE_STRING_SIZE
	321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
	349, // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
	407, // DECIMAL_OVERFLOW
	469, // VIOLATED_CONSTRAINT
	691, // UNKNOWN_ELEMENT_OF_ENUM
}

// setupCodes are the exceptions that a person must see to.
var setupCodes = []int{
	10,  // NOT_FOUND_COLUMN_IN_BLOCK
	16,  // NO_SUCH_COLUMN_IN_TABLE
	20,  // NUMBER_OF_COLUMNS_DOESNT_MATCH
	62,  // SYNTAX_ERROR
	115, // UNKNOWN_SETTING
	164, // READONLY
	192, // UNKNOWN_USER
	193, // WRONG_PASSWORD
	497, // ACCESS_DENIED
	516, // AUTHENTICATION_FAILED
}

// lostCodes are the exceptions that say that there is nothing to insert into.
var lostCodes = []int{
	60, // UNKNOWN_TABLE
	81, // UNKNOWN_DATABASE
}

// classify gives an insert's error its kind.
func classify(err error) error {
	var ex *Exception
	if !errors.As(err, &ex) {
		return err
	}
	switch {
	case slices.Contains(refusalCodes, ex.Code):
		return fmt.Errorf("%w: %w", ErrRefused, err)
	case slices.Contains(lostCodes, ex.Code):
		return fmt.Errorf("%w: %w", ErrLost, err)
	case slices.Contains(setupCodes, ex.Code):
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	return err
}

// Insert lands one block. Rows and token together make it idempotent: however
// often the same block is inserted under the same token, and whatever became of
// the attempts before, its rows are there once when nil is returned. It does not
// retry by itself, may be called again at once after an error, also while an
// earlier attempt still runs on the server, and does not keep the block.
//
// A table keeps the tokens of its newest 10,000 blocks. After an attempt whose
// outcome was not known it also counts the rows: ClickHouse notes a token a moment
// before it shows the rows, and a crash in that moment would make it skip the
// block that is sent again.
func (c *Client) Insert(ctx context.Context, b *Block, token string) error {
	if b.Rows() == 0 {
		return nil
	}
	doubtful := c.inDoubt(token)
	if err := c.insert(ctx, b, token); err != nil {
		err = classify(err)
		if !errors.Is(err, ErrRefused) {
			c.mu.Lock()
			c.doubtful[token] = true
			c.mu.Unlock()
		}
		return fmt.Errorf("inserting %d rows into %s: %w", b.Rows(), b.table, err)
	}
	if doubtful {
		if err := c.ensure(ctx, b, token); err != nil {
			return fmt.Errorf("checking %d rows of %s: %w", b.Rows(), b.table, err)
		}
		c.mu.Lock()
		delete(c.doubtful, token)
		c.mu.Unlock()
	}
	return nil
}

// inDoubt tells whether an attempt under the token may have been made before.
func (c *Client) inDoubt(token string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.doubtful[token] {
		return true
	}
	for plan := range c.settled {
		if token == plan || strings.HasPrefix(token, plan+"/") {
			return true
		}
	}
	return false
}

// ensure counts the block's rows after an acknowledged insert whose token was
// used before, and sends them under another token when the first was noted
// without its rows.
func (c *Client) ensure(ctx context.Context, b *Block, token string) error {
	n, err := c.countRows(ctx, b)
	if err != nil {
		return err
	}
	switch {
	case n == b.Rows():
		return nil
	case n != 0:
		return fmt.Errorf("%w: %d rows are there under token %s, want %d", ErrSetup, n, token, b.Rows())
	}
	c.log.Warn("a token was noted without its rows, sending them again", "table", b.table, "rows", b.Rows(), "token", token)
	if err := c.insert(ctx, b, token+"/again"); err != nil {
		return classify(err)
	}
	if n, err = c.countRows(ctx, b); err != nil {
		return err
	}
	if n != b.Rows() {
		return fmt.Errorf("%w: %d rows are there under token %s, want %d", ErrSetup, n, token, b.Rows())
	}
	return nil
}

// countRows counts what the table holds in the block's offsets and partition.
func (c *Client) countRows(ctx context.Context, b *Block) (int, error) {
	var sql string
	if b.table == tableLanded {
		sql = fmt.Sprintf("SELECT count() FROM %s.%s WHERE topic = %s AND incarnation = %s AND partition = %d AND first_offset = %d AND last_offset = %d",
			quoteIdent(c.cfg.Database), b.table, quote(b.at.topic), quote(b.at.incarnation.String()), b.at.partition, b.first, b.final)
	} else {
		sql = fmt.Sprintf("SELECT count() FROM %s.%s WHERE _partition_id = %s AND topic = %s AND incarnation = %s AND kafka_partition = %d AND kafka_offset BETWEEN %d AND %d",
			quoteIdent(c.cfg.Database), b.table, quote(b.Partition()), quote(b.at.topic), quote(b.at.incarnation.String()), b.at.partition, b.first, b.final)
	}
	var n uint64
	if err := c.conn.QueryRow(ctx, sql).Scan(&n); err != nil {
		return 0, err
	}
	return int(n), nil
}

// insert makes one attempt.
func (c *Client) insert(ctx context.Context, b *Block, token string) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	buf, _ := c.buffers.Get().(*proto.Buffer)
	defer c.buffers.Put(buf)
	buf.Reset()
	if err := b.encode(buf); err != nil {
		return err
	}
	v := url.Values{
		"query":        {"INSERT INTO " + quoteIdent(c.cfg.Database) + "." + b.table + " (" + columnList(b.cols) + ") FORMAT Native"},
		"query_id":     {randomUUID()}, // another one for each attempt: the earlier may still run
		"async_insert": {"0"}, "insert_deduplicate": {"1"}, "insert_deduplication_token": {token},
		"deduplicate_blocks_in_dependent_materialized_views": {"1"},
		// One block stays one block, so that it is stored whole or not at all.
		"max_insert_block_size": {"1000000000"}, "min_insert_block_size_rows": {"0"}, "min_insert_block_size_bytes": {"0"},
	}
	data := buf.Buf
	if c.compress != compress.None {
		v.Set("decompress", "1")
		var err error
		if data, err = compressed(data, c.compress); err != nil {
			return err
		}
	}
	resp, err := c.post(ctx, v, bytes.NewReader(data))
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // a reader
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("reading the acknowledgement: %w", exceptionIn(text, err))
	}
	if bytes.Contains(text, []byte("DB::Exception")) { // after a 200 that was already sent
		return exceptionIn(text, parseException(string(text)))
	}
	return nil
}

func columnList(cols []named) string {
	var b strings.Builder
	for i, c := range cols {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quoteIdent(c.name))
	}
	return b.String()
}

// compressed cuts data into compressed frames of the native protocol.
func compressed(data []byte, method compress.Method) ([]byte, error) {
	w := compress.NewWriter(compress.LevelZero, method)
	out := make([]byte, 0, len(data)/3)
	for len(data) > 0 {
		n := min(len(data), frameBytes)
		if err := w.Compress(data[:n]); err != nil {
			return nil, fmt.Errorf("compressing a block: %w", err)
		}
		out = append(out, w.Data...)
		data = data[n:]
	}
	return out, nil
}

// Land inserts the row that proves a plan, under the plan's token; idempotent
// like Insert.
func (c *Client) Land(ctx context.Context, row Landed) error {
	b := newBlock(tableLanded)
	r, _ := b.rows.(*landedRows)
	r.add(&row)
	b.at = place{topic: row.Topic, incarnation: row.Incarnation, partition: row.Partition}
	b.first, b.final = row.First, row.Last
	return c.Insert(ctx, b, row.Token)
}

// Settle ends every insert of the plan that a predecessor left running on the
// server, waits until it is gone, and returns what `landed` knows of the plan's
// partition: one past the last offset of its newest row, and 0 when it has none.
func (c *Client) Settle(ctx context.Context, plan event.SinkPlan) (end int64, err error) {
	token, _, _ := strings.Cut(plan.Token, "\n")
	c.mu.Lock()
	c.settled[token] = true
	c.mu.Unlock()
	mine := "(Settings['insert_deduplication_token'] = " + quote(token) + " OR startsWith(Settings['insert_deduplication_token'], " + quote(token+"/") + "))"
	running := "SELECT count() FROM system.processes WHERE " + mine
	for {
		var n uint64
		asking, cancel := c.bound(ctx)
		err := c.conn.QueryRow(asking, running).Scan(&n)
		if err == nil && n > 0 {
			err = c.conn.Exec(asking, "KILL QUERY WHERE "+mine+" ASYNC")
		}
		cancel()
		if err != nil {
			return 0, fmt.Errorf("ending inserts under token %s: %w", token, err)
		}
		if n == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("waiting for inserts under token %s to end: %w", token, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	ctx, cancel := c.bound(ctx)
	defer cancel()
	var last uint64
	err = c.conn.QueryRow(ctx, fmt.Sprintf("SELECT if(count() = 0, 0, max(last_offset) + 1) FROM %s.landed WHERE topic = %s AND incarnation = %s AND partition = %d",
		quoteIdent(c.cfg.Database), quote(plan.Topic), quote(plan.Incarnation.String()), plan.Partition)).Scan(&last)
	if err != nil {
		return 0, fmt.Errorf("asking what has landed of %s/%d: %w", plan.Topic, plan.Partition, err)
	}
	return int64(last), nil
}

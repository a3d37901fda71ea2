package clickhouse

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/autohedge/autohedge/stream/event"
)

// TableCounts returns the number of rows of every table, landed included.
func (c *Client) TableCounts(ctx context.Context) (map[string]uint64, error) {
	counts := make(map[string]uint64)
	ctx, cancel := c.bound(ctx)
	defer cancel()
	for _, table := range append([]string{tableLanded}, Tables...) {
		var n uint64
		if err := c.conn.QueryRow(ctx, "SELECT count() FROM "+c.table(table)).Scan(&n); err != nil {
			return nil, fmt.Errorf("counting %s: %w", table, err)
		}
		counts[table] = n
	}
	return counts, nil
}

func (c *Client) table(name string) string { return quoteIdent(c.cfg.Database) + "." + name }

// Proof compares, for one partition of a topic, what the landed plans account
// for with the rows that are there (design.md 4.7).
type Proof struct {
	Topic       string
	Incarnation event.ID
	Partition   int32
	// Start is the first landed offset, End one past the last.
	Start, End int64
	Plans      uint64
	// Rows is what the tables hold; Claimed what the plans say.
	Rows, Claimed                           uint64
	Control, Refused, SecondCopies, Expired uint64
	// Missing is End - Start - Rows - Control - Refused - SecondCopies - Expired:
	// negative when there are rows too many.
	Missing int64
}

// LandedProof returns the proof of every partition that has landed anything. It
// holds once nothing is being inserted.
func (c *Client) LandedProof(ctx context.Context) ([]Proof, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	rs, err := c.conn.Query(ctx, "SELECT topic, toString(incarnation), partition, start_offset, end_offset, plans, rows, claimed_rows, control, refused, second_copies, expired, missing FROM "+c.table("v_landed_proof"))
	if err != nil {
		return nil, fmt.Errorf("asking for the proof: %w", err)
	}
	defer rs.Close() //nolint:errcheck // Err below tells
	var all []Proof
	for rs.Next() {
		var p Proof
		var incarnation string
		var partition uint32
		var start, end uint64
		if err := rs.Scan(&p.Topic, &incarnation, &partition, &start, &end, &p.Plans, &p.Rows, &p.Claimed, &p.Control, &p.Refused, &p.SecondCopies, &p.Expired, &p.Missing); err != nil {
			return nil, fmt.Errorf("reading the proof: %w", err)
		}
		if err := p.Incarnation.UnmarshalText([]byte(incarnation)); err != nil {
			return nil, fmt.Errorf("reading the proof: %w", err)
		}
		p.Partition, p.Start, p.End = int32(partition), int64(start), int64(end)
		all = append(all, p)
	}
	if err := rs.Err(); err != nil {
		return nil, fmt.Errorf("reading the proof: %w", err)
	}
	return all, nil
}

// Duplicates counts the rows whose event id is there already in the same life of
// their topic, over all tables: a topic whose life was begun anew (topics adopt,
// topics discard) may land again what its former life has landed.
func (c *Client) Duplicates(ctx context.Context) (int64, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	var total int64
	for _, table := range append([]string{tableLanded}, Tables...) {
		id, quick := "incarnation, event_id", ""
		switch table {
		case tableTicks:
			quick = "trade_id_text, if(trade_id_text = '', trade_id, 0), if(trade_id_text = '' AND trade_id = 0, (connection, ordinal), (0, 0))"
		case tableQuotes:
			quick = "sequence, if(sequence = 0, (connection, ordinal), (0, 0))"
		case tableLanded:
			id = "token"
		case tableJournal:
			id = "incarnation, kind, event_id" // a verdict has its decision's id
		}
		count := func(of string) (n int64, err error) {
			if err := c.conn.QueryRow(ctx, "SELECT toInt64(count()) - toInt64(uniqExact("+of+")) FROM "+c.table(table)).Scan(&n); err != nil {
				return 0, fmt.Errorf("counting duplicates in %s: %w", table, err)
			}
			return n, nil
		}
		if quick != "" {
			// Hashes of what the id is made of take a quarter of the time and of the memory.
			// No two that are equal, no two ids that are equal.
			if n, err := count("cityHash64(incarnation, venue, symbol, channel, epoch, " + quick + ")"); err != nil || n == 0 {
				if err != nil {
					return 0, err
				}
				continue
			}
		}
		n, err := count(id)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// PnLDifference is one position whose newest row differs from what its fills
// give. All figures are exact decimals; a difference is the row's minus the
// recomputed.
type PnLDifference struct {
	Account, Strategy, Venue, Symbol string
	Qty, Cash, Fees, Total           string
	Fills                            int64
	// Mark tells that the row names a quote that is not there, or whose bid and ask
	// are both another price.
	Mark bool
}

// pnlSQL recomputes each position from its fills in Decimal256: quantity, cash and
// fees are sums, total = cash + quantity x mark - fees at the mark that the
// position's newest row names. Nothing is divided and nothing rounded: products of
// two Decimal(38, 18) have 36 decimals.
const pnlSQL = `
WITH
    p AS
    (
        SELECT account, strategy, venue, symbol, argMax(tuple(qty, cash, fees, mark, total, fills, mark_id), version) AS x
        FROM {positions} GROUP BY account, strategy, venue, symbol
    ),
    f AS
    (
        SELECT account, strategy, venue, symbol, toInt64(count()) AS n,
               sum(if(side = 'buy', 1, -1) * toDecimal256(qty, 36)) AS f_qty,
               -sum(if(side = 'buy', 1, -1) * toDecimal256(price, 18) * toDecimal256(qty, 18)) AS f_cash,
               sum(toDecimal256(fee_quote, 36)) AS f_fees
        FROM {fills} GROUP BY account, strategy, venue, symbol
    ),
    q AS
    (
        SELECT event_id AS id, groupArray(bid_exact) AS bids, groupArray(ask_exact) AS asks
        FROM {quotes}
        WHERE (venue, symbol) IN (SELECT venue, symbol FROM p) AND event_id IN (SELECT x.7 FROM p)
        GROUP BY id
    ),
    d AS
    (
        SELECT if(f.account != '' OR f.symbol != '', f.account, p.account) AS account, if(f.symbol != '', f.strategy, p.strategy) AS strategy,
               if(f.symbol != '', f.venue, p.venue) AS venue, if(f.symbol != '', f.symbol, p.symbol) AS symbol,
               toDecimal256(p.x.1, 36) - f.f_qty AS qty, toDecimal256(p.x.2, 36) - f.f_cash AS cash, toDecimal256(p.x.3, 36) - f.f_fees AS fees,
               if(isNull(p.x.5) OR isNull(p.x.4), toDecimal256(0, 36),
                  toDecimal256(assumeNotNull(p.x.5), 36) - (f.f_cash + toDecimal256(assumeNotNull(p.x.4), 18) * toDecimal256(f.f_qty, 18) - f.f_fees)) AS total,
               toInt64(p.x.6) - f.n AS fills,
               p.x.4 AS mark, p.x.7 AS mark_id
        FROM f FULL OUTER JOIN p ON f.account = p.account AND f.strategy = p.strategy AND f.venue = p.venue AND f.symbol = p.symbol
    )
SELECT d.account, d.strategy, d.venue, d.symbol, toString(d.qty), toString(d.cash), toString(d.fees), toString(d.total), d.fills,
       toBool(isNotNull(d.mark) AND d.mark_id != '' AND NOT has(q.bids, assumeNotNull(d.mark)) AND NOT has(q.asks, assumeNotNull(d.mark))) AS wrong_mark
FROM d LEFT JOIN q ON d.mark_id = q.id
WHERE d.qty != 0 OR d.cash != 0 OR d.fees != 0 OR d.total != 0 OR d.fills != 0 OR wrong_mark
ORDER BY d.account, d.strategy, d.venue, d.symbol`

// PnLDifferences recomputes every position and its total from the fills and the
// marks that the newest position rows name, and returns those that differ.
func (c *Client) PnLDifferences(ctx context.Context) ([]PnLDifference, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	sql := strings.NewReplacer("{positions}", c.table(tablePositions), "{fills}", c.table(tableFills), "{quotes}", c.table(tableQuotes)).Replace(pnlSQL)
	rs, err := c.conn.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("recomputing positions: %w", err)
	}
	defer rs.Close() //nolint:errcheck // Err below tells
	var all []PnLDifference
	for rs.Next() {
		var d PnLDifference
		if err := rs.Scan(&d.Account, &d.Strategy, &d.Venue, &d.Symbol, &d.Qty, &d.Cash, &d.Fees, &d.Total, &d.Fills, &d.Mark); err != nil {
			return nil, fmt.Errorf("reading recomputed positions: %w", err)
		}
		all = append(all, d)
	}
	if err := rs.Err(); err != nil {
		return nil, fmt.Errorf("reading recomputed positions: %w", err)
	}
	return all, nil
}

// maxFillDifferences bounds the orders that a text names.
const maxFillDifferences = 10

// FillDifferences returns how many orders are claimed to be filled with another
// quantity than their fills prove, and says it of the first of them.
func (c *Client) FillDifferences(ctx context.Context) (n uint64, first []string, err error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	rs, err := c.conn.Query(ctx, "SELECT account, client_order_id, toString(claimed_qty), toString(proven_qty), count() OVER () FROM "+
		c.table("v_fill_proof")+" WHERE difference != 0 ORDER BY account, client_order_id LIMIT "+strconv.Itoa(maxFillDifferences))
	if err != nil {
		return 0, nil, fmt.Errorf("comparing orders with fills: %w", err)
	}
	defer rs.Close() //nolint:errcheck // Err below tells
	for rs.Next() {
		var account, order, claimed, proven string
		if err := rs.Scan(&account, &order, &claimed, &proven, &n); err != nil {
			return 0, nil, fmt.Errorf("reading orders and fills: %w", err)
		}
		first = append(first, fmt.Sprintf("%s order %s: %s claimed, fills prove %s", account, order, claimed, proven))
	}
	if err := rs.Err(); err != nil {
		return 0, nil, fmt.Errorf("reading orders and fills: %w", err)
	}
	return n, first, nil
}

// PnLCheck is "0" when every position and total equals what its fills give, and
// every order's filled quantity what its fills prove, else a text that tells the
// differences.
func (c *Client) PnLCheck(ctx context.Context) (string, error) {
	all, err := c.PnLDifferences(ctx)
	if err != nil {
		return "", err
	}
	n, parts, err := c.FillDifferences(ctx)
	if err != nil {
		return "", err
	}
	if more := n - uint64(len(parts)); more > 0 {
		parts = append(parts, fmt.Sprintf("%d orders more", more))
	}
	if len(all)+len(parts) == 0 {
		return "0", nil
	}
	for _, d := range all {
		text := fmt.Sprintf("%s %s %s %s: qty %s, cash %s, fees %s, total %s, fills %d", d.Account, d.Strategy, d.Venue, d.Symbol, d.Qty, d.Cash, d.Fees, d.Total, d.Fills)
		if d.Mark {
			text += ", mark of no quote"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; "), nil
}

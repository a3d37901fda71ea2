-- Views are made anew at every start, so they may change freely.

CREATE OR REPLACE VIEW {db}.v_ticks AS
SELECT event_id, venue, symbol, event_time, recv_time, toFloat64(price) AS px, toFloat64(qty) AS sz, side,
       multiIf(side = 'buy', 1, side = 'sell', -1, 0) AS dir, px * sz AS notional,
       intDiv(reinterpretAsInt64(recv_time) - reinterpretAsInt64(event_time), 1000) AS lag_us
FROM {db}.ticks;

CREATE OR REPLACE VIEW {db}.v_quotes AS
SELECT event_id, venue, symbol, event_time, recv_time, toFloat64(bid) AS bid_px, toFloat64(ask) AS ask_px,
       toFloat64(bid_qty) AS bid_sz, toFloat64(ask_qty) AS ask_sz, mid, spread_bps
FROM {db}.quotes;

CREATE OR REPLACE VIEW {db}.v_coverage AS
SELECT venue, symbol, channel, kind, contiguous, from_id, to_id, if(to_id >= from_id AND to_id > 0, to_id - from_id + 1, 0) AS ids,
       from_time, to_time, (reinterpretAsInt64(assumeNotNull(to_time)) - reinterpretAsInt64(assumeNotNull(from_time))) / 1e9 AS seconds, recv_time, reason
FROM {db}.coverage;

-- The newest entry of each order. One decision id in two accounts makes two orders.
CREATE OR REPLACE VIEW {db}.v_orders AS
SELECT client_order_id, argMax(state, seq) AS state, max(seq) + 1 AS entries, account, any(strategy) AS strategy, any(venue) AS venue, any(symbol) AS symbol,
       any(side) AS side, any(type) AS type, any(tif) AS tif, any(qty) AS qty, argMax(limit_price, seq) AS limit_price, argMax(filled_qty, seq) AS filled_qty,
       argMax(filled_notional, seq) AS filled_notional, argMax(tuple(claimed_qty), seq).1 AS claimed_qty, argMax(reason, seq) AS reason, argMax(detail, seq) AS detail,
       min(time) AS first_time, max(time) AS last_time, any(decision_id) AS decision_id, any(signal_id) AS signal_id,
       any(leg) AS leg, any(attempt) AS attempt, any(lot) AS lot, any(cause) AS cause
FROM {db}.order_events
GROUP BY account, client_order_id;

-- Orders against fills: what the order log claims to be filled, what the fills prove,
-- and the difference, which is 0. Orders without either are left out.
CREATE OR REPLACE VIEW {db}.v_fill_proof AS
SELECT account, client_order_id, any(x.venue) AS venue, any(x.symbol) AS symbol, any(x.state) AS state, sum(x.filled) AS filled_qty, sum(x.claimed) AS claimed_qty,
       sum(x.proven) AS proven_qty, sum(x.fills) AS fills, claimed_qty - proven_qty AS difference
FROM
(
    SELECT account, client_order_id, argMax(venue, seq) AS venue, argMax(symbol, seq) AS symbol, toString(argMax(state, seq)) AS state,
           toDecimal256(argMax(filled_qty, seq), 18) AS filled, greatest(filled, toDecimal256(ifNull(argMax(tuple(claimed_qty), seq).1, 0), 18)) AS claimed,
           toDecimal256(0, 18) AS proven, 0 AS fills
    FROM {db}.order_events
    GROUP BY account, client_order_id
    UNION ALL
    SELECT account, client_order_id, any(venue) AS venue, any(symbol) AS symbol, '' AS state, toDecimal256(0, 18) AS filled, toDecimal256(0, 18) AS claimed,
           sum(toDecimal256(qty, 18)) AS proven, count() AS fills
    FROM {db}.fills
    GROUP BY account, client_order_id
) AS x
GROUP BY account, client_order_id
HAVING claimed_qty != 0 OR proven_qty != 0;

-- Position and profit from the fills alone, at the newest mid. Floats: for people.
-- Exact figures are in positions; PnLCheck compares the two in Decimal256.
CREATE OR REPLACE VIEW {db}.v_pnl AS
SELECT f.account AS account, f.strategy AS strategy, f.venue AS venue, f.symbol AS symbol, f.fills AS fills, f.position AS position, f.cash AS cash, f.fees AS fees,
       m.mark AS mark, f.cash + f.position * m.mark - f.fees AS pnl, f.turnover AS turnover, abs(f.position) * m.mark AS exposure
FROM
(
    SELECT account, strategy, venue, symbol, count() AS fills, sum(if(side = 'buy', 1, -1) * toFloat64(qty)) AS position,
           -sum(if(side = 'buy', 1, -1) * toFloat64(price) * toFloat64(qty)) AS cash, sum(toFloat64(fee_quote)) AS fees, sum(toFloat64(price) * toFloat64(qty)) AS turnover
    FROM {db}.fills
    GROUP BY account, strategy, venue, symbol
) AS f
LEFT JOIN (SELECT venue, symbol, argMaxIf(mid, (event_time, sequence), mid IS NOT NULL) AS mark FROM {db}.quotes GROUP BY venue, symbol) AS m ON f.venue = m.venue AND f.symbol = m.symbol;

-- Where the time goes from the tick to each entry of the order log.
CREATE OR REPLACE VIEW {db}.v_tick_to_order AS
SELECT client_order_id, seq, state, account, strategy, venue, symbol, time, (reinterpretAsInt64(time) - reinterpretAsInt64(signal_time)) / 1e6 AS tick_to_order_ms
FROM {db}.order_events;

-- What the landed ranges account for and what is there, by partition (design.md
-- 4.7). missing counts offsets between the first and the last landed one that
-- neither a row nor a counter accounts for; it is negative when there are too
-- many rows.
CREATE OR REPLACE VIEW {db}.v_landed_proof AS
SELECT l.topic AS topic, l.incarnation AS incarnation, l.partition AS partition, l.start AS start_offset, l.end AS end_offset, l.plans AS plans,
       l.claimed AS claimed_rows, ifNull(r.rows, 0) AS rows, l.control AS control, l.refused AS refused, l.second_copies AS second_copies, l.expired AS expired,
       toInt64(l.end - l.start) - toInt64(ifNull(r.rows, 0)) - toInt64(l.control + l.refused + l.second_copies + l.expired) AS missing
FROM
(
    SELECT topic, incarnation, partition, min(first_offset) AS start, max(last_offset) + 1 AS end, count() AS plans, sum(arraySum(mapValues(rows))) AS claimed,
           sum(control) AS control, sum(refused) AS refused, sum(second_copies) AS second_copies, sum(expired) AS expired
    FROM {db}.landed
    GROUP BY topic, incarnation, partition
) AS l
LEFT JOIN
(
    SELECT topic, incarnation, kafka_partition AS partition, sum(n) AS rows
    FROM
    (
        SELECT topic, incarnation, kafka_partition, count() AS n FROM {db}.ticks GROUP BY ALL
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n FROM {db}.quotes GROUP BY ALL
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n FROM {db}.coverage GROUP BY ALL
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n FROM {db}.signals GROUP BY ALL
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n FROM {db}.journal GROUP BY ALL
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n FROM {db}.decisions GROUP BY ALL
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n FROM {db}.order_events GROUP BY ALL
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n FROM {db}.fills GROUP BY ALL
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n FROM {db}.positions GROUP BY ALL
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n FROM {db}.control GROUP BY ALL
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n FROM {db}.dead GROUP BY ALL
    )
    GROUP BY topic, incarnation, partition
) AS r ON l.topic = r.topic AND l.incarnation = r.incarnation AND l.partition = r.partition
ORDER BY topic, incarnation, partition;

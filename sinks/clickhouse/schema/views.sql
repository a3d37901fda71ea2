-- Views are made anew at every start, so they may change freely.

CREATE OR REPLACE VIEW {db}.v_ticks AS
SELECT event_id, venue, symbol, event_time, recv_time, trade_id, toFloat64(price_exact) AS px, toFloat64(qty_exact) AS sz, side, late,
       multiIf(side = 'buy', 1, side = 'sell', -1, 0) AS dir, px * sz AS notional,
       intDiv(reinterpretAsInt64(recv_time) - reinterpretAsInt64(event_time), 1000) AS lag_us
FROM {db}.ticks;

CREATE OR REPLACE VIEW {db}.v_quotes AS
SELECT event_id, venue, symbol, event_time, recv_time, sequence, toFloat64(bid_exact) AS bid_px, toFloat64(ask_exact) AS ask_px,
       toFloat64(bid_qty_exact) AS bid_sz, toFloat64(ask_qty_exact) AS ask_sz, mid, spread_bps
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

-- Position and profit from the fills alone, at the newest mid, in the instrument's quote
-- currency: computed exactly, shown as floats. Profit of two currencies is not to be
-- added: v_pnl_by_strategy has the sums. Exact figures are in positions.
CREATE OR REPLACE VIEW {db}.v_pnl AS
SELECT f.account AS account, f.strategy AS strategy, f.venue AS venue, f.symbol AS symbol, c.quote_currency AS quote_currency, f.fills AS fills,
       toFloat64(f.position) AS position, toFloat64(CAST(f.cash AS Decimal(76, 18))) AS cash, toFloat64(f.fees) AS fees, toFloat64(m.mark) AS mark,
       toFloat64(CAST(f.cash - f.fees AS Decimal(76, 18))) + if(f.position = 0, 0, toFloat64(f.position) * toFloat64(m.mark)) AS pnl,
       toFloat64(CAST(f.turnover AS Decimal(76, 18))) AS turnover, abs(toFloat64(f.position)) * toFloat64(m.mark) AS exposure
FROM
(
    SELECT account, strategy, venue, symbol, count() AS fills, sum(if(side = 'buy', 1, -1) * qty) AS position,
           -sum(if(side = 'buy', 1, -1) * price * qty) AS cash, sum(fee_quote) AS fees, sum(price * qty) AS turnover
    FROM {db}.fills
    GROUP BY account, strategy, venue, symbol
) AS f
LEFT JOIN (SELECT account, strategy, venue, symbol, argMax(quote_currency, version) AS quote_currency FROM {db}.positions GROUP BY account, strategy, venue, symbol) AS c
    ON f.account = c.account AND f.strategy = c.strategy AND f.venue = c.venue AND f.symbol = c.symbol
LEFT JOIN
(
    SELECT venue, symbol, argMax((toDecimal256(bid_exact, 18) + toDecimal256(ask_exact, 18)) / 2, (event_time, sequence)) AS mark FROM {db}.quotes
    WHERE bid_exact > 0 AND ask_exact > 0 AND (venue, symbol) IN (SELECT DISTINCT venue, symbol FROM {db}.fills)
    GROUP BY venue, symbol
) AS m ON f.venue = m.venue AND f.symbol = m.symbol;

-- The sums of v_pnl, one row a currency.
CREATE OR REPLACE VIEW {db}.v_pnl_by_strategy AS
SELECT account, strategy, quote_currency, sum(fills) AS fills, sum(pnl) AS pnl, sum(fees) AS fees, sum(turnover) AS turnover, sum(exposure) AS exposure
FROM {db}.v_pnl
GROUP BY account, strategy, quote_currency
ORDER BY account, strategy, quote_currency;

-- Where the time goes from the tick to each entry of the order log.
CREATE OR REPLACE VIEW {db}.v_tick_to_order AS
SELECT client_order_id, seq, state, account, strategy, venue, symbol, time, (reinterpretAsInt64(time) - reinterpretAsInt64(signal_time)) / 1e6 AS tick_to_order_ms
FROM {db}.order_events;

-- What the landed ranges account for and what is there, by partition (design.md
-- 4.7). missing counts offsets between the first and the last landed one that
-- neither a row nor a counter accounts for; it is negative when there are too
-- many rows. It holds at every moment: the ranges are read first, so that their rows are
-- there, and rows of a batch whose range is not noted yet are in_flight.
CREATE OR REPLACE VIEW {db}.v_landed_proof AS
WITH
    (
        SELECT groupArray((topic, incarnation, partition, start, end, plans, claimed, control, refused, second_copies, expired))
        FROM
        (
            SELECT toString(topic) AS topic, incarnation, partition, min(first_offset) AS start, max(last_offset) + 1 AS end, count() AS plans, sum(arraySum(mapValues(rows))) AS claimed,
                   sum(control) AS control, sum(refused) AS refused, sum(second_copies) AS second_copies, sum(expired) AS expired
            FROM {db}.landed
            GROUP BY topic, incarnation, partition
        )
    ) AS noted,
    arrayConcat([toUInt64(0)], arrayMap(x -> cityHash64(x.1, x.2, toUInt32(x.3)), noted)) AS keys,
    arrayConcat([toUInt64(0)], arrayMap(x -> toUInt64(x.5), noted)) AS ends
SELECT l.1 AS topic, l.2 AS incarnation, l.3 AS partition, l.4 AS start_offset, l.5 AS end_offset, l.6 AS plans,
       l.7 AS claimed_rows, ifNull(r.rows, 0) AS rows, l.8 AS control, l.9 AS refused, l.10 AS second_copies, l.11 AS expired,
       toInt64(l.5 - l.4) - toInt64(ifNull(r.rows, 0)) - toInt64(l.8 + l.9 + l.10 + l.11) AS missing, ifNull(r.in_flight, 0) AS in_flight
FROM (SELECT arrayJoin(noted) AS l) AS x
LEFT JOIN
(
    SELECT toString(topic) AS topic, incarnation, kafka_partition AS partition, sum(landed) AS rows, sum(n) - rows AS in_flight
    FROM
    (
        SELECT topic, incarnation, kafka_partition, count() AS n, countIf(kafka_offset < transform(cityHash64(toString(topic), incarnation, kafka_partition), keys, ends, toUInt64(0))) AS landed FROM {db}.ticks GROUP BY topic, incarnation, kafka_partition
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n, countIf(kafka_offset < transform(cityHash64(toString(topic), incarnation, kafka_partition), keys, ends, toUInt64(0))) AS landed FROM {db}.quotes GROUP BY topic, incarnation, kafka_partition
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n, countIf(kafka_offset < transform(cityHash64(toString(topic), incarnation, kafka_partition), keys, ends, toUInt64(0))) AS landed FROM {db}.coverage GROUP BY topic, incarnation, kafka_partition
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n, countIf(kafka_offset < transform(cityHash64(toString(topic), incarnation, kafka_partition), keys, ends, toUInt64(0))) AS landed FROM {db}.signals GROUP BY topic, incarnation, kafka_partition
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n, countIf(kafka_offset < transform(cityHash64(toString(topic), incarnation, kafka_partition), keys, ends, toUInt64(0))) AS landed FROM {db}.journal GROUP BY topic, incarnation, kafka_partition
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n, countIf(kafka_offset < transform(cityHash64(toString(topic), incarnation, kafka_partition), keys, ends, toUInt64(0))) AS landed FROM {db}.decisions GROUP BY topic, incarnation, kafka_partition
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n, countIf(kafka_offset < transform(cityHash64(toString(topic), incarnation, kafka_partition), keys, ends, toUInt64(0))) AS landed FROM {db}.order_events GROUP BY topic, incarnation, kafka_partition
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n, countIf(kafka_offset < transform(cityHash64(toString(topic), incarnation, kafka_partition), keys, ends, toUInt64(0))) AS landed FROM {db}.fills GROUP BY topic, incarnation, kafka_partition
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n, countIf(kafka_offset < transform(cityHash64(toString(topic), incarnation, kafka_partition), keys, ends, toUInt64(0))) AS landed FROM {db}.positions GROUP BY topic, incarnation, kafka_partition
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n, countIf(kafka_offset < transform(cityHash64(toString(topic), incarnation, kafka_partition), keys, ends, toUInt64(0))) AS landed FROM {db}.control GROUP BY topic, incarnation, kafka_partition
        UNION ALL SELECT topic, incarnation, kafka_partition, count() AS n, countIf(kafka_offset < transform(cityHash64(toString(topic), incarnation, kafka_partition), keys, ends, toUInt64(0))) AS landed FROM {db}.dead GROUP BY topic, incarnation, kafka_partition
    )
    GROUP BY topic, incarnation, partition
) AS r ON l.1 = r.topic AND l.2 = r.incarnation AND l.3 = r.partition
ORDER BY topic, incarnation, partition;

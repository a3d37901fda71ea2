-- Market data. {db} is replaced by the database's name.
--
-- Every table carries the lineage of its rows (topic, its incarnation, partition,
-- offset) and an event id. For market data the id is an alias computed from what
-- identifies the record at the venue, the same text that event.AppendMarketID
-- writes. No table has a TTL on the event's time: it would eat replays. All are
-- plain MergeTree, so that a row that landed twice stays visible to the proof.

CREATE TABLE IF NOT EXISTS {db}.ticks
(
    venue           LowCardinality(String),
    symbol          LowCardinality(String) COMMENT 'as the venue writes it',
    channel         Enum8('unknown' = 0, 'trade' = 1, 'aggTrade' = 2, 'bookTicker' = 3, 'matches' = 4, 'ticker' = 5, 'json' = 6) CODEC(ZSTD(1)),
    event_time      DateTime64(9, 'UTC') COMMENT 'the venue''s time, see time_source; our receive time where it gave none' CODEC(GCD, Delta, ZSTD(1)),
    recv_time       DateTime64(9, 'UTC') COMMENT 'when our socket read it' CODEC(ZSTD(1)),
    publish_time    Nullable(DateTime64(9, 'UTC')) COMMENT 'when the venue''s gateway sent it, where it says so' CODEC(ZSTD(1)),
    time_source     Enum8('unknown' = 0, 'event' = 1, 'publish' = 2, 'receive' = 3) CODEC(ZSTD(1)),
    trade_id        UInt64 COMMENT '0 where the venue''s ids are text or absent' CODEC(DoubleDelta, ZSTD(1)),
    trade_id_text   String CODEC(ZSTD(1)),
    sequence        UInt64 COMMENT '0 where the venue sends none' CODEC(DoubleDelta, ZSTD(1)),
    price           Decimal(38, 18) COMMENT 'quote currency a unit' CODEC(GCD, ZSTD(1)),
    qty             Nullable(Decimal(38, 18)) COMMENT 'base currency; NULL where it was not sent' CODEC(GCD, ZSTD(1)),
    side            Enum8('unknown' = 0, 'buy' = 1, 'sell' = 2) COMMENT 'the aggressor''s' CODEC(ZSTD(1)),
    connection      UInt32 COMMENT 'counts the feed''s connections for ever' CODEC(T64, ZSTD(1)),
    ordinal         UInt64 COMMENT 'of the record on that connection, where the venue sends no id' CODEC(Delta, ZSTD(1)),
    first_trade_id  UInt64 COMMENT 'of an aggregated trade' CODEC(DoubleDelta, ZSTD(1)),
    last_trade_id   UInt64 CODEC(DoubleDelta, ZSTD(1)),
    topic           LowCardinality(String),
    incarnation     UUID CODEC(ZSTD(1)),
    kafka_partition UInt32 CODEC(ZSTD(1)),
    kafka_offset    UInt64 CODEC(Delta, ZSTD(1)),
    inserted_at     DateTime('UTC') DEFAULT now() CODEC(Delta, ZSTD(1)),
    event_id        String ALIAS concat(toString(venue), '|', toString(channel), '|', toString(symbol), '|', multiIf(trade_id_text != '', trade_id_text, trade_id != 0, toString(trade_id), concat('#', toString(connection), '.', toString(ordinal)))),
    px              Float64 ALIAS toFloat64(price),
    sz              Nullable(Float64) ALIAS toFloat64(qty),
    lag_us          Int64 ALIAS intDiv(reinterpretAsInt64(recv_time) - reinterpretAsInt64(event_time), 1000),
    INDEX ix_recv recv_time TYPE minmax GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(event_time)
ORDER BY (symbol, venue, event_time, trade_id)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS {db}.quotes
(
    venue           LowCardinality(String),
    symbol          LowCardinality(String),
    channel         Enum8('unknown' = 0, 'trade' = 1, 'aggTrade' = 2, 'bookTicker' = 3, 'matches' = 4, 'ticker' = 5, 'json' = 6) CODEC(ZSTD(1)),
    event_time      DateTime64(9, 'UTC') COMMENT 'the venue''s time, see time_source; our receive time where it gave none' CODEC(GCD, Delta, ZSTD(1)),
    recv_time       DateTime64(9, 'UTC') CODEC(ZSTD(1)),
    publish_time    Nullable(DateTime64(9, 'UTC')) CODEC(ZSTD(1)),
    time_source     Enum8('unknown' = 0, 'event' = 1, 'publish' = 2, 'receive' = 3) CODEC(ZSTD(1)),
    sequence        UInt64 COMMENT '0 where the venue sends none' CODEC(Delta, ZSTD(1)),
    bid             Decimal(38, 18) COMMENT '0: that side of the book is empty' CODEC(GCD, ZSTD(1)),
    bid_qty         Nullable(Decimal(38, 18)) COMMENT 'NULL where it was not sent' CODEC(GCD, ZSTD(1)),
    ask             Decimal(38, 18) CODEC(GCD, ZSTD(1)),
    ask_qty         Nullable(Decimal(38, 18)) CODEC(GCD, ZSTD(1)),
    connection      UInt32 CODEC(T64, ZSTD(1)),
    ordinal         UInt64 CODEC(Delta, ZSTD(1)),
    topic           LowCardinality(String),
    incarnation     UUID CODEC(ZSTD(1)),
    kafka_partition UInt32 CODEC(ZSTD(1)),
    kafka_offset    UInt64 CODEC(Delta, ZSTD(1)),
    inserted_at     DateTime('UTC') DEFAULT now() CODEC(Delta, ZSTD(1)),
    event_id        String ALIAS concat(toString(venue), '|', toString(channel), '|', toString(symbol), '|', if(sequence != 0, toString(sequence), concat('#', toString(connection), '.', toString(ordinal)))),
    mid             Nullable(Float64) ALIAS if(bid > 0 AND ask > 0, (toFloat64(bid) + toFloat64(ask)) / 2, NULL),
    spread_bps      Nullable(Float64) ALIAS if(bid > 0 AND ask > 0, 20000 * (toFloat64(ask) - toFloat64(bid)) / (toFloat64(ask) + toFloat64(bid)), NULL)
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(event_time)
ORDER BY (symbol, venue, event_time, sequence)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS {db}.coverage
(
    venue           LowCardinality(String),
    symbol          LowCardinality(String),
    channel         Enum8('unknown' = 0, 'trade' = 1, 'aggTrade' = 2, 'bookTicker' = 3, 'matches' = 4, 'ticker' = 5, 'json' = 6),
    kind            Enum8('unknown' = 0, 'received' = 1, 'lost' = 2, 'backfilled' = 3, 'unrecoverable' = 4),
    contiguous      Bool COMMENT 'the channel''s ids leave no holes, so the interval may be called complete',
    from_id         UInt64 COMMENT 'inclusive; 0 where ids say nothing',
    to_id           UInt64,
    from_time       Nullable(DateTime64(9, 'UTC')) COMMENT 'receive time',
    to_time         Nullable(DateTime64(9, 'UTC')) COMMENT 'NULL: open',
    recv_time       DateTime64(9, 'UTC') COMMENT 'when the statement was made',
    connection      UInt32,
    ordinal         UInt64 COMMENT 'of the statement, within the connection',
    reason          String CODEC(ZSTD(1)),
    topic           LowCardinality(String),
    incarnation     UUID,
    kafka_partition UInt32,
    kafka_offset    UInt64,
    inserted_at     DateTime('UTC') DEFAULT now(),
    event_id        String ALIAS concat('coverage|', toString(kind), '|', toString(venue), '|', toString(channel), '|', toString(symbol), '|#', toString(connection), '.', toString(ordinal))
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(recv_time)
ORDER BY (venue, symbol, channel, recv_time)
SETTINGS non_replicated_deduplication_window = 10000;

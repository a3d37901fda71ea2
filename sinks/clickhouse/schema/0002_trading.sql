-- From signal to position. source_* is the lineage that the event itself carries:
-- the record it was derived from. Enums have the numbers and names of event.proto.

CREATE TABLE IF NOT EXISTS {db}.signals
(
    event_id         UUID,
    rule_hash        UUID,
    rule_set         UUID,
    rule             LowCardinality(String),
    kind             LowCardinality(String) COMMENT 'threshold, timer, task',
    strategy         LowCardinality(String),
    account          LowCardinality(String),
    venue            LowCardinality(String),
    symbol           LowCardinality(String),
    side             Enum8('unknown' = 0, 'buy' = 1, 'sell' = 2),
    time             DateTime64(9, 'UTC') COMMENT 'receive time of the record that fired it' CODEC(Delta, ZSTD(1)),
    event_time       DateTime64(9, 'UTC') COMMENT 'the venue''s time of that record' CODEC(Delta, ZSTD(1)),
    indicator        LowCardinality(String),
    value            Float64 COMMENT 'of the indicator at the crossing',
    threshold        Float64,
    values           Map(LowCardinality(String), Float64) COMMENT 'every value the rule computes' CODEC(ZSTD(3)),
    triggers         Array(String) COMMENT 'event ids of the ticks that fired it, newest first' CODEC(ZSTD(3)),
    ref_price        Decimal(38, 18) CODEC(GCD, ZSTD(1)),
    bid              Nullable(Decimal(38, 18)) CODEC(ZSTD(1)),
    ask              Nullable(Decimal(38, 18)) CODEC(ZSTD(1)),
    horizon_ns       Int64,
    deadline         DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    max_drift_bps    Decimal(38, 18) CODEC(ZSTD(1)),
    source_topic     LowCardinality(String),
    source_partition UInt32,
    source_offset    UInt64,
    source_k         UInt32,
    topic            LowCardinality(String),
    incarnation      UUID,
    kafka_partition  UInt32,
    kafka_offset     UInt64,
    inserted_at      DateTime('UTC') DEFAULT now(),
    INDEX ix_id event_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (strategy, symbol, time, event_id)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS {db}.journal
(
    event_id         UUID COMMENT 'of the call, or of the decision that a verdict is about',
    kind             Enum8('model_call' = 1, 'verdict' = 2),
    decision_id      UUID,
    signal_id        UUID,
    time             DateTime64(9, 'UTC') COMMENT 'when it was sent, or judged' CODEC(Delta, ZSTD(1)),
    role             LowCardinality(String) COMMENT 'of a call: director, quant, risk, execution, decision',
    prompt           UUID COMMENT 'hash of the role''s prompt and schema',
    endpoint         LowCardinality(String),
    model            LowCardinality(String),
    model_returned   LowCardinality(String),
    attempt          UInt32,
    request          String COMMENT 'the HTTP body as sent' CODEC(ZSTD(3)),
    response         String COMMENT 'the HTTP body as received' CODEC(ZSTD(3)),
    status           UInt32 COMMENT 'HTTP status; 0 when none came',
    outcome          Enum8('unknown' = 0, 'ok' = 1, 'schema' = 2, 'refusal' = 3, 'truncated' = 4, 'filtered' = 5, 'timeout' = 6, 'rate_limited' = 7, 'provider_error' = 8),
    error            String CODEC(ZSTD(3)),
    input_tokens     UInt32,
    output_tokens    UInt32,
    cached_tokens    UInt32,
    latency_ns       Int64,
    desk             LowCardinality(String) COMMENT 'of a verdict',
    action           Enum8('unknown' = 0, 'long' = 1, 'short' = 2, 'flat' = 3, 'none' = 4, 'abstain' = 5),
    reason           LowCardinality(String),
    roles            Array(String) COMMENT 'who said something; verdicts and details go with it, place by place',
    verdicts         Array(String),
    details          Array(String) CODEC(ZSTD(3)),
    decision         String COMMENT 'of a verdict: the whole decision as JSON' CODEC(ZSTD(3)),
    source_topic     LowCardinality(String),
    source_partition UInt32,
    source_offset    UInt64,
    source_k         UInt32,
    topic            LowCardinality(String),
    incarnation      UUID,
    kafka_partition  UInt32,
    kafka_offset     UInt64,
    inserted_at      DateTime('UTC') DEFAULT now(),
    INDEX ix_decision decision_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (kind, time, event_id)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS {db}.decisions
(
    event_id         UUID,
    signal_id        UUID,
    arm              LowCardinality(String),
    account          LowCardinality(String),
    strategy         LowCardinality(String),
    venue            LowCardinality(String),
    symbol           LowCardinality(String),
    desk             LowCardinality(String) COMMENT 'deterministic, or the endpoint''s name',
    model            LowCardinality(String),
    action           Enum8('unknown' = 0, 'long' = 1, 'short' = 2, 'flat' = 3, 'none' = 4, 'abstain' = 5),
    reason           LowCardinality(String) COMMENT 'a short code',
    rationale        String COMMENT 'for people' CODEC(ZSTD(3)),
    conviction       UInt8 COMMENT '1 to 5; 0 is none',
    side             Enum8('unknown' = 0, 'buy' = 1, 'sell' = 2) COMMENT 'side, qty, type, tif and limit_price are the order',
    qty              Nullable(Decimal(38, 18)) CODEC(ZSTD(1)),
    type             Enum8('unknown' = 0, 'market' = 1, 'limit' = 2),
    tif              Enum8('unknown' = 0, 'gtc' = 1, 'ioc' = 2, 'fok' = 3),
    limit_price      Nullable(Decimal(38, 18)) CODEC(ZSTD(1)),
    stop_bps         UInt32 COMMENT 'from the entry; 0 is none',
    target_bps       UInt32,
    ref_price        Decimal(38, 18) CODEC(ZSTD(1)),
    bid              Nullable(Decimal(38, 18)) CODEC(ZSTD(1)),
    ask              Nullable(Decimal(38, 18)) CODEC(ZSTD(1)),
    signal_time      DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    deadline         DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    max_drift_bps    Decimal(38, 18) CODEC(ZSTD(1)),
    started_at       DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    time             DateTime64(9, 'UTC') COMMENT 'when it was made' CODEC(Delta, ZSTD(1)),
    input_tokens     UInt32,
    output_tokens    UInt32,
    source_topic     LowCardinality(String),
    source_partition UInt32,
    source_offset    UInt64,
    source_k         UInt32,
    topic            LowCardinality(String),
    incarnation      UUID,
    kafka_partition  UInt32,
    kafka_offset     UInt64,
    inserted_at      DateTime('UTC') DEFAULT now(),
    INDEX ix_id event_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX ix_signal signal_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (account, strategy, symbol, time, event_id)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS {db}.order_events
(
    event_id         UUID,
    client_order_id  String CODEC(ZSTD(1)),
    seq              UInt32 COMMENT 'of the order''s entries, from 0 without holes',
    state            Enum8('unset' = 0, 'risk_rejected' = 1, 'submitting' = 2, 'accepted' = 3, 'partially_filled' = 4, 'filled' = 5, 'rejected' = 6, 'canceled' = 7, 'expired' = 8, 'unknown' = 9, 'not_placed' = 10),
    broker           LowCardinality(String),
    broker_order_id  String CODEC(ZSTD(1)),
    decision_id      UUID,
    signal_id        UUID,
    account          LowCardinality(String),
    strategy         LowCardinality(String),
    venue            LowCardinality(String),
    symbol           LowCardinality(String),
    side             Enum8('unknown' = 0, 'buy' = 1, 'sell' = 2),
    type             Enum8('unknown' = 0, 'market' = 1, 'limit' = 2),
    tif              Enum8('unknown' = 0, 'gtc' = 1, 'ioc' = 2, 'fok' = 3),
    qty              Decimal(38, 18) CODEC(ZSTD(1)),
    limit_price      Nullable(Decimal(38, 18)) CODEC(ZSTD(1)),
    filled_qty       Decimal(38, 18) COMMENT 'cumulative' CODEC(ZSTD(1)),
    filled_notional  Decimal(38, 18) COMMENT 'sum of price x quantity' CODEC(ZSTD(1)),
    reason           LowCardinality(String) COMMENT 'a short code; for a rejection the limit''s name',
    detail           String CODEC(ZSTD(3)),
    time             DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    broker_time      Nullable(DateTime64(9, 'UTC')),
    signal_time      DateTime64(9, 'UTC') COMMENT 'receive time of the tick that fired it all' CODEC(Delta, ZSTD(1)),
    ref_price        Decimal(38, 18) CODEC(ZSTD(1)),
    epoch            UInt32 COMMENT 'of the account''s owner',
    source_topic     LowCardinality(String),
    source_partition UInt32,
    source_offset    UInt64,
    source_k         UInt32,
    topic            LowCardinality(String),
    incarnation      UUID,
    kafka_partition  UInt32,
    kafka_offset     UInt64,
    inserted_at      DateTime('UTC') DEFAULT now(),
    INDEX ix_order client_order_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX ix_decision decision_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (account, symbol, client_order_id, seq)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS {db}.fills
(
    event_id         UUID,
    exec_id          String CODEC(ZSTD(1)),
    client_order_id  String CODEC(ZSTD(1)),
    broker_order_id  String CODEC(ZSTD(1)),
    broker           LowCardinality(String),
    decision_id      UUID,
    account          LowCardinality(String),
    strategy         LowCardinality(String),
    venue            LowCardinality(String),
    symbol           LowCardinality(String),
    side             Enum8('unknown' = 0, 'buy' = 1, 'sell' = 2),
    price            Decimal(38, 18) COMMENT 'quote currency a unit' CODEC(GCD, ZSTD(1)),
    qty              Decimal(38, 18) COMMENT 'base currency' CODEC(GCD, ZSTD(1)),
    liquidity        Enum8('unknown' = 0, 'maker' = 1, 'taker' = 2),
    fee              Decimal(38, 18) COMMENT 'in fee_currency' CODEC(ZSTD(1)),
    fee_currency     LowCardinality(String),
    fee_quote        Decimal(38, 18) COMMENT 'the same in quote currency' CODEC(ZSTD(1)),
    quote_id         String COMMENT 'event id of the quote that a paper fill was made against' CODEC(ZSTD(1)),
    time             DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    source_topic     LowCardinality(String),
    source_partition UInt32,
    source_offset    UInt64,
    source_k         UInt32,
    topic            LowCardinality(String),
    incarnation      UUID,
    kafka_partition  UInt32,
    kafka_offset     UInt64,
    inserted_at      DateTime('UTC') DEFAULT now(),
    INDEX ix_order client_order_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (account, symbol, time, venue, exec_id)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS {db}.positions
(
    event_id         UUID,
    account          LowCardinality(String),
    strategy         LowCardinality(String),
    venue            LowCardinality(String),
    symbol           LowCardinality(String),
    quote_currency   LowCardinality(String),
    qty              Decimal(38, 18) COMMENT 'signed: short is negative' CODEC(ZSTD(1)),
    cash             Decimal(38, 18) COMMENT 'sum of -side x price x quantity' CODEC(ZSTD(1)),
    fees             Decimal(38, 18) COMMENT 'in quote currency' CODEC(ZSTD(1)),
    mark             Nullable(Decimal(38, 18)) COMMENT 'price that values the position' CODEC(ZSTD(1)),
    mark_id          String COMMENT 'event id of the quote that the mark is from' CODEC(ZSTD(1)),
    total            Nullable(Decimal(38, 18)) COMMENT 'cash + qty x mark - fees' CODEC(ZSTD(1)),
    fills            UInt64 COMMENT 'fills in it',
    version          UInt64 COMMENT 'counts the records of this position',
    time             DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    source_topic     LowCardinality(String),
    source_partition UInt32,
    source_offset    UInt64,
    source_k         UInt32,
    topic            LowCardinality(String),
    incarnation      UUID,
    kafka_partition  UInt32,
    kafka_offset     UInt64,
    inserted_at      DateTime('UTC') DEFAULT now()
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (account, strategy, symbol, venue, version)
SETTINGS non_replicated_deduplication_window = 10000;

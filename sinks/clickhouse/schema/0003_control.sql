-- Who told the engine what, what could not be used, and the proof of landing.

CREATE TABLE IF NOT EXISTS {db}.control
(
    event_id        UUID,
    kind            Enum8('unknown' = 0, 'halt' = 1, 'resume' = 2, 'limits' = 3, 'rules' = 4),
    scope           String COMMENT 'all, account:X or symbol:Y',
    who             String,
    why             String CODEC(ZSTD(3)),
    time            DateTime64(9, 'UTC'),
    hash            UUID COMMENT 'of the rule set or the limits',
    body            String COMMENT 'their canonical form' CODEC(ZSTD(3)),
    topic           LowCardinality(String),
    incarnation     UUID,
    kafka_partition UInt32,
    kafka_offset    UInt64,
    inserted_at     DateTime('UTC') DEFAULT now()
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (time, kind, event_id)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS {db}.dead
(
    event_id         UUID,
    role             LowCardinality(String),
    reason           String CODEC(ZSTD(3)),
    key              String CODEC(ZSTD(3)),
    value            String CODEC(ZSTD(3)),
    time             DateTime64(9, 'UTC'),
    source_topic     LowCardinality(String) COMMENT 'where the record lies; empty for a frame that never became one',
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
ORDER BY (role, time, event_id)
SETTINGS non_replicated_deduplication_window = 10000;

-- One row a plan, after its last insert. last_offset - first_offset + 1 = sum of
-- rows + control + refused + second_copies + expired.
CREATE TABLE IF NOT EXISTS {db}.landed
(
    topic         LowCardinality(String),
    incarnation   UUID,
    partition     UInt32,
    first_offset  UInt64,
    last_offset   UInt64,
    rows          Map(LowCardinality(String), UInt64) COMMENT 'by table',
    control       UInt64 COMMENT 'records that make no row',
    refused       UInt64 COMMENT 'records that could not be used: see dead',
    second_copies UInt64 COMMENT 'records that were in the log already',
    expired       UInt64 COMMENT 'records that retention took before they landed',
    token         String CODEC(ZSTD(1)),
    inserted_at   DateTime('UTC') DEFAULT now()
)
ENGINE = MergeTree
ORDER BY (topic, incarnation, partition, first_offset)
SETTINGS non_replicated_deduplication_window = 10000;

-- Which life of a broker's ledger gave a fill, and what brokers claim beyond their
-- fills.

ALTER TABLE {db}.fills ADD COLUMN IF NOT EXISTS life String COMMENT 'of the ledger that gave exec_id; empty where that has no name' CODEC(ZSTD(1)) AFTER exec_id;

ALTER TABLE {db}.order_events ADD COLUMN IF NOT EXISTS claimed_qty Nullable(Decimal(38, 18)) COMMENT 'what the broker claims to be filled, where that is more than its fills prove' CODEC(ZSTD(1)) AFTER filled_notional;

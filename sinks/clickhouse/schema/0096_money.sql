-- Money of signals, decisions, orders, fills and positions, which are few rows: 76 digits,
-- so that the product of two is exact and a quotient has 18 decimals. The values stay.

ALTER TABLE {db}.signals MODIFY COLUMN ref_price Decimal(76, 18) CODEC(ZSTD(1));

ALTER TABLE {db}.signals MODIFY COLUMN bid Nullable(Decimal(76, 18)) CODEC(ZSTD(1));

ALTER TABLE {db}.signals MODIFY COLUMN ask Nullable(Decimal(76, 18)) CODEC(ZSTD(1));

ALTER TABLE {db}.signals MODIFY COLUMN max_drift_bps Decimal(76, 18) CODEC(ZSTD(1));

ALTER TABLE {db}.decisions MODIFY COLUMN qty Nullable(Decimal(76, 18)) CODEC(ZSTD(1));

ALTER TABLE {db}.decisions MODIFY COLUMN limit_price Nullable(Decimal(76, 18)) CODEC(ZSTD(1));

ALTER TABLE {db}.decisions MODIFY COLUMN ref_price Decimal(76, 18) CODEC(ZSTD(1));

ALTER TABLE {db}.decisions MODIFY COLUMN bid Nullable(Decimal(76, 18)) CODEC(ZSTD(1));

ALTER TABLE {db}.decisions MODIFY COLUMN ask Nullable(Decimal(76, 18)) CODEC(ZSTD(1));

ALTER TABLE {db}.decisions MODIFY COLUMN max_drift_bps Decimal(76, 18) CODEC(ZSTD(1));

ALTER TABLE {db}.decisions MODIFY COLUMN max_slippage_bps Nullable(Decimal(76, 18)) CODEC(ZSTD(1));

ALTER TABLE {db}.order_events MODIFY COLUMN qty Decimal(76, 18) CODEC(ZSTD(1));

ALTER TABLE {db}.order_events MODIFY COLUMN limit_price Nullable(Decimal(76, 18)) CODEC(ZSTD(1));

ALTER TABLE {db}.order_events MODIFY COLUMN filled_qty Decimal(76, 18) CODEC(ZSTD(1));

ALTER TABLE {db}.order_events MODIFY COLUMN filled_notional Decimal(76, 18) CODEC(ZSTD(1));

ALTER TABLE {db}.order_events MODIFY COLUMN ref_price Decimal(76, 18) CODEC(ZSTD(1));

ALTER TABLE {db}.order_events MODIFY COLUMN claimed_qty Nullable(Decimal(76, 18)) CODEC(ZSTD(1));

ALTER TABLE {db}.fills MODIFY COLUMN price Decimal(76, 18) CODEC(ZSTD(1));

ALTER TABLE {db}.fills MODIFY COLUMN qty Decimal(76, 18) CODEC(ZSTD(1));

ALTER TABLE {db}.fills MODIFY COLUMN fee Decimal(76, 18) CODEC(ZSTD(1));

ALTER TABLE {db}.fills MODIFY COLUMN fee_quote Decimal(76, 18) CODEC(ZSTD(1));

ALTER TABLE {db}.positions MODIFY COLUMN qty Decimal(76, 18) CODEC(ZSTD(1));

ALTER TABLE {db}.positions MODIFY COLUMN cash Decimal(76, 18) CODEC(ZSTD(1));

ALTER TABLE {db}.positions MODIFY COLUMN fees Decimal(76, 18) CODEC(ZSTD(1));

ALTER TABLE {db}.positions MODIFY COLUMN mark Nullable(Decimal(76, 18)) CODEC(ZSTD(1));

ALTER TABLE {db}.positions MODIFY COLUMN total Nullable(Decimal(76, 18)) CODEC(ZSTD(1));

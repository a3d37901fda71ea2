-- How far beyond the touch a decision lets its order fill.

ALTER TABLE {db}.decisions ADD COLUMN IF NOT EXISTS max_slippage_bps Nullable(Decimal(38, 18)) COMMENT 'how far beyond the touch the order may fill, in basis points; NULL leaves it to the price band' CODEC(ZSTD(1)) AFTER max_drift_bps;

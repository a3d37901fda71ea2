-- Arithmetic on Decimal(38, 18) wraps without an error: a product of two has 36
-- decimals and leaves 2 digits before the point. So the exact columns of market data go
-- under names of their own, and 0064 gives the natural names to floats. Each statement
-- may run again: the names that it takes come back in 0064 only.

ALTER TABLE {db}.ticks DROP COLUMN IF EXISTS px;

ALTER TABLE {db}.ticks DROP COLUMN IF EXISTS sz;

ALTER TABLE {db}.ticks RENAME COLUMN IF EXISTS price TO price_exact;

ALTER TABLE {db}.ticks RENAME COLUMN IF EXISTS qty TO qty_exact;

ALTER TABLE {db}.quotes DROP COLUMN IF EXISTS mid;

ALTER TABLE {db}.quotes DROP COLUMN IF EXISTS spread_bps;

ALTER TABLE {db}.quotes RENAME COLUMN IF EXISTS bid TO bid_exact;

ALTER TABLE {db}.quotes RENAME COLUMN IF EXISTS bid_qty TO bid_qty_exact;

ALTER TABLE {db}.quotes RENAME COLUMN IF EXISTS ask TO ask_exact;

ALTER TABLE {db}.quotes RENAME COLUMN IF EXISTS ask_qty TO ask_qty_exact;

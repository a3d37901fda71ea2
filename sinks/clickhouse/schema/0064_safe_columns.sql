-- The natural names of market data: floats, computed where they are read, with which
-- every expression is right to about 15 digits. The exact values have the same names
-- and _exact.

ALTER TABLE {db}.ticks ADD COLUMN IF NOT EXISTS price Float64 ALIAS toFloat64(price_exact) COMMENT 'quote currency a unit; price_exact is exact, for comparing and summing';

ALTER TABLE {db}.ticks ADD COLUMN IF NOT EXISTS qty Nullable(Float64) ALIAS toFloat64(qty_exact) COMMENT 'base currency; NULL where it was not sent; qty_exact is exact';

ALTER TABLE {db}.ticks ADD COLUMN IF NOT EXISTS px Float64 ALIAS toFloat64(price_exact) COMMENT 'price';

ALTER TABLE {db}.ticks ADD COLUMN IF NOT EXISTS sz Nullable(Float64) ALIAS toFloat64(qty_exact) COMMENT 'qty';

ALTER TABLE {db}.quotes ADD COLUMN IF NOT EXISTS bid Float64 ALIAS toFloat64(bid_exact) COMMENT '0: that side of the book is empty; bid_exact is exact';

ALTER TABLE {db}.quotes ADD COLUMN IF NOT EXISTS bid_qty Nullable(Float64) ALIAS toFloat64(bid_qty_exact) COMMENT 'NULL where it was not sent; bid_qty_exact is exact';

ALTER TABLE {db}.quotes ADD COLUMN IF NOT EXISTS ask Float64 ALIAS toFloat64(ask_exact) COMMENT '0: that side of the book is empty; ask_exact is exact';

ALTER TABLE {db}.quotes ADD COLUMN IF NOT EXISTS ask_qty Nullable(Float64) ALIAS toFloat64(ask_qty_exact) COMMENT 'NULL where it was not sent; ask_qty_exact is exact';

ALTER TABLE {db}.quotes ADD COLUMN IF NOT EXISTS mid Nullable(Float64) ALIAS if(bid_exact > 0 AND ask_exact > 0, (toFloat64(bid_exact) + toFloat64(ask_exact)) / 2, NULL) COMMENT 'NULL where a side is empty';

ALTER TABLE {db}.quotes ADD COLUMN IF NOT EXISTS spread_bps Nullable(Float64) ALIAS if(bid_exact > 0 AND ask_exact > 0, 20000 * (toFloat64(ask_exact) - toFloat64(bid_exact)) / (toFloat64(ask_exact) + toFloat64(bid_exact)), NULL) COMMENT 'basis points of the mid';

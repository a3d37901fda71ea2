-- When a position is closed by itself, and which orders do that.

ALTER TABLE {db}.decisions ADD COLUMN IF NOT EXISTS horizon_ns Int64 COMMENT 'how long after its first fill the position is closed; 0 is never' AFTER target_bps;

ALTER TABLE {db}.order_events MODIFY COLUMN leg Enum8('unset' = 0, 'entry' = 1, 'flatten' = 2, 'stop' = 3, 'target' = 4, 'time' = 5) COMMENT 'the part of the order in its trade; unset in records of builds that did not write it';

ALTER TABLE {db}.order_events ADD COLUMN IF NOT EXISTS attempt UInt32 COMMENT 'of an exit, from 1; 0 elsewhere' AFTER leg;

ALTER TABLE {db}.order_events ADD COLUMN IF NOT EXISTS cause String COMMENT 'what triggered an exit, for people' CODEC(ZSTD(3)) AFTER attempt;

ALTER TABLE {db}.order_events ADD COLUMN IF NOT EXISTS lot String COMMENT 'the client order id of the entry that an exit closes' CODEC(ZSTD(1)) AFTER cause;

ALTER TABLE {db}.order_events ADD COLUMN IF NOT EXISTS stop_bps UInt32 COMMENT 'of an entry, from its average fill; 0 is none' AFTER lot;

ALTER TABLE {db}.order_events ADD COLUMN IF NOT EXISTS target_bps UInt32 COMMENT 'of an entry, from its average fill; 0 is none' AFTER stop_bps;

ALTER TABLE {db}.order_events ADD COLUMN IF NOT EXISTS horizon_ns Int64 COMMENT 'of an entry, from its first fill; 0 is none' AFTER target_bps;

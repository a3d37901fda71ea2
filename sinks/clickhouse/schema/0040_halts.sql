-- How much a halt stops, and the part that an order has in a trade.

ALTER TABLE {db}.control ADD COLUMN IF NOT EXISTS level Enum8('unset' = 0, 'reduce' = 1, 'stop' = 2) COMMENT 'of a halt: reduce refuses entries, stop everything; unset, of builds that did not write it, is stop' AFTER scope;

ALTER TABLE {db}.order_events ADD COLUMN IF NOT EXISTS leg Enum8('unset' = 0, 'entry' = 1, 'flatten' = 2) COMMENT 'the part of the order in its trade; unset in records of builds that did not write it' AFTER tif;

-- Epochs of ids, and trades that came after newer ones.

ALTER TABLE {db}.ticks ADD COLUMN IF NOT EXISTS epoch UInt32 COMMENT 'how often the venue had begun the channel''s ids again' CODEC(T64, ZSTD(1)) AFTER last_trade_id;

ALTER TABLE {db}.ticks ADD COLUMN IF NOT EXISTS late Bool COMMENT 'came after newer trades: no rule, limit or mark saw it' CODEC(ZSTD(1)) AFTER epoch;

ALTER TABLE {db}.ticks MODIFY COLUMN event_id String ALIAS concat(toString(venue), '|', toString(channel), if(epoch = 0, '', concat('#', toString(epoch))), '|', toString(symbol), '|', multiIf(trade_id_text != '', trade_id_text, trade_id != 0, toString(trade_id), concat('#', toString(connection), '.', toString(ordinal))));

ALTER TABLE {db}.quotes ADD COLUMN IF NOT EXISTS epoch UInt32 COMMENT 'how often the venue had begun the channel''s ids again' CODEC(T64, ZSTD(1)) AFTER ordinal;

ALTER TABLE {db}.quotes MODIFY COLUMN event_id String ALIAS concat(toString(venue), '|', toString(channel), if(epoch = 0, '', concat('#', toString(epoch))), '|', toString(symbol), '|', if(sequence != 0, toString(sequence), concat('#', toString(connection), '.', toString(ordinal))));

ALTER TABLE {db}.coverage ADD COLUMN IF NOT EXISTS epoch UInt32 COMMENT 'of the ids' AFTER reason;

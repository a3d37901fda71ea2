-- Quotes of feeds that the configuration describes.

ALTER TABLE {db}.ticks MODIFY COLUMN channel Enum8('unknown' = 0, 'trade' = 1, 'aggTrade' = 2, 'bookTicker' = 3, 'matches' = 4, 'ticker' = 5, 'json' = 6, 'json.quote' = 7);

ALTER TABLE {db}.quotes MODIFY COLUMN channel Enum8('unknown' = 0, 'trade' = 1, 'aggTrade' = 2, 'bookTicker' = 3, 'matches' = 4, 'ticker' = 5, 'json' = 6, 'json.quote' = 7);

ALTER TABLE {db}.coverage MODIFY COLUMN channel Enum8('unknown' = 0, 'trade' = 1, 'aggTrade' = 2, 'bookTicker' = 3, 'matches' = 4, 'ticker' = 5, 'json' = 6, 'json.quote' = 7);

-- Which question a model was asked, and whether its answer came in the signal's time.

ALTER TABLE {db}.journal ADD COLUMN IF NOT EXISTS request_hash UUID COMMENT 'of a call: the whole question, prompt, schema, data and model; 0 in records of builds that did not write it' CODEC(ZSTD(1)) AFTER prompt;

ALTER TABLE {db}.journal ADD COLUMN IF NOT EXISTS late Bool COMMENT 'of a call: true where the signal''s deadline passed while the answer was waited for' CODEC(ZSTD(1)) AFTER request_hash;

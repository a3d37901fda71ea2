package sinks

import (
	"time"

	"github.com/autohedge/autohedge/stream/component"
)

// Config tunes how records are batched; where they land is the plug-in's
// configuration.
type Config struct {
	FlushRows     int           `yaml:"flush_rows" doc:"records of one batch at most; a batch is one insert for each table it has rows of"`
	FlushBytes    int           `yaml:"flush_bytes" doc:"bytes of one batch at most"`
	FlushInterval time.Duration `yaml:"flush_interval" doc:"how long the first record of a batch waits at most before the batch is landed, topic md"`
	QuietInterval time.Duration `yaml:"quiet_interval" doc:"the same for every topic but md: their few rows cost the database an insert each"`
	MaxBytes      int           `yaml:"max_bytes" doc:"bytes of records held in memory at most, over all partitions; when full, fetching stops"`
	MaxInserts    int           `yaml:"max_inserts" doc:"inserts in flight at most, over all partitions"`
	InsertTimeout time.Duration `yaml:"insert_timeout" doc:"how long one insert may take before it is made again under the same token"`
	TrimInterval  time.Duration `yaml:"trim_interval" doc:"how often what has landed and nobody needs is trimmed from topic md; 0s never trims"`
	TrimAfter     time.Duration `yaml:"trim_after" doc:"how old a record of md is at least when it is trimmed; a feed that starts reads the last id of each symbol from what is left"`
	TrimBytes     int64         `yaml:"trim_bytes" doc:"bytes of md beyond which younger records are trimmed too; 0 is 384 MiB on the embedded broker, whose log is read at each start, and no bound on another; -1 sets none"`
	MaxRefused    int           `yaml:"max_refused" doc:"rows of one block that the database may refuse before landing stops with an error instead of writing more dead letters"`
}

// EmbeddedTrimBytes is TrimBytes on the embedded broker unless configured.
const EmbeddedTrimBytes = 384 << 20

// DefaultConfig returns the defaults. An insert costs the engine 12 to 30 ms,
// about as much as 10,000 rows do, so batches are large (storage.md 1.6); what
// must be visible soon are the ticks.
func DefaultConfig() Config {
	return Config{
		FlushRows:     50_000,
		FlushBytes:    32 << 20,
		FlushInterval: time.Second,
		QuietInterval: 2 * time.Second,
		MaxBytes:      256 << 20,
		MaxInserts:    4,
		InsertTimeout: 30 * time.Second,
		TrimInterval:  15 * time.Second,
		TrimAfter:     10 * time.Minute,
		MaxRefused:    100,
	}
}

// Validate reports every value that is not legal.
func (c *Config) Validate() component.Problems {
	var p component.Problems
	if c.FlushRows < 1 || c.FlushRows > 1_000_000 {
		p.Addf("flush_rows", "is %d; want 1 to 1000000", c.FlushRows)
	} else if c.FlushRows < 1000 {
		p.Warnf("flush_rows", "is %d: each insert costs the engine about 12 ms, so batches this small fall behind a fast feed", c.FlushRows)
	}
	if c.FlushBytes < 1<<20 {
		p.Addf("flush_bytes", "is %d; want at least 1048576 (1 MiB), the largest record", c.FlushBytes)
	}
	if c.FlushInterval < 10*time.Millisecond || c.FlushInterval > time.Minute {
		p.Addf("flush_interval", "is %s; want 10ms to 1m", c.FlushInterval)
	}
	if c.QuietInterval < 10*time.Millisecond || c.QuietInterval > time.Minute {
		p.Addf("quiet_interval", "is %s; want 10ms to 1m", c.QuietInterval)
	}
	if c.MaxBytes < 2*c.FlushBytes {
		p.Addf("max_bytes", "is %d; want at least twice flush_bytes (%d)", c.MaxBytes, 2*c.FlushBytes)
	}
	if c.MaxInserts < 1 || c.MaxInserts > 64 {
		p.Addf("max_inserts", "is %d; want 1 to 64", c.MaxInserts)
	}
	if c.InsertTimeout < time.Second {
		p.Addf("insert_timeout", "is %s; want at least 1s", c.InsertTimeout)
	}
	if c.TrimInterval != 0 && (c.TrimInterval < time.Second || c.TrimInterval > time.Hour) {
		p.Addf("trim_interval", "is %s; want 1s to 1h, or 0s to trim nothing", c.TrimInterval)
	}
	if c.TrimAfter < 0 {
		p.Addf("trim_after", "is %s; want 0s or more", c.TrimAfter)
	}
	if c.TrimBytes != 0 && c.TrimBytes != -1 && c.TrimBytes < 64<<20 {
		p.Addf("trim_bytes", "is %d; want 67108864 (64 MiB) or more, 0 for the default or -1 for no bound", c.TrimBytes)
	}
	if c.MaxRefused < 0 {
		p.Addf("max_refused", "is %d; want 0 or more", c.MaxRefused)
	}
	return p
}

var _ component.Validator = (*Config)(nil)

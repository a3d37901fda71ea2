package bus

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

// setting is what one setting of a topic must be on the brokers. One that a
// broker does not know is not checked.
type setting struct {
	name  string
	value string // what it is created with and mended to
	want  string // what is legal, for people
	why   string // what a wrong one does
	ok    func(value string) bool
	given bool // it is given when the topic is created; others are checked alone
	warn  bool // a wrong one is told and does no harm
}

// compactionLag is how long a compacted topic keeps what was replaced, so that
// nobody who is reading it has it compacted away before them.
const compactionLag = time.Hour

// What bounds a state topic on the disk. Apache Kafka compacts all but the newest
// segment, once a tenth of the rest was replaced a minute ago: of a partition lie
// there two slots, a segment, and what was saved in that minute.
const (
	stateSegmentBytes  = 64 << 20
	stateSegment       = 10 * time.Minute
	stateCompactionLag = time.Minute // an owner that loads has it loaded by then
	stateCompacted     = time.Hour   // at the latest, whatever part was replaced
	stateDirty         = "0.1"
)

// maxMessageBytes is Kafka's own default of max.message.bytes; our batches are
// smaller.
const maxMessageBytes = 1_048_588

// settings lists what the settings of a topic with that many replicas must be.
func (c *Client) settings(spec event.TopicSpec, replicas int) []setting {
	var list []setting
	exactly := func(name, value, why string) setting {
		return setting{name: name, value: value, want: value, why: why, ok: func(v string) bool { return v == value }}
	}
	give := func(s setting) { s.given = true; list = append(list, s) }
	switch {
	case spec.State:
		give(exactly("cleanup.policy", "compact", "the newest record of a key must stay for ever"))
		const why = "what was replaced stays until the disk is full"
		give(atMost("segment.bytes", stateSegmentBytes, 4*stateSegmentBytes, why))
		give(atMost("segment.ms", stateSegment.Milliseconds(), (24 * time.Hour).Milliseconds(), why))
		give(atMost("max.compaction.lag.ms", stateCompacted.Milliseconds(), (24 * time.Hour).Milliseconds(), why))
		lag := atMost("min.compaction.lag.ms", stateCompactionLag.Milliseconds(), stateCompacted.Milliseconds(), why)
		lag.warn = true
		give(lag)
		give(setting{
			name: "min.cleanable.dirty.ratio", value: stateDirty, want: "0.5 or less", why: why, warn: true,
			ok: func(v string) bool { n, err := strconv.ParseFloat(v, 64); return err == nil && n <= 0.5 },
		})
	case spec.Compacted:
		give(exactly("cleanup.policy", "compact", "the newest record of a key must stay for ever"))
		lag := atLeast("min.compaction.lag.ms", compactionLag.Milliseconds(), "a record that was replaced may go before a reader has seen it")
		lag.warn = true
		give(lag)
	case spec.Forever:
		give(exactly("cleanup.policy", "delete", "compaction removes records that a role rebuilds its state from"))
		give(exactly("retention.ms", "-1", "a role rebuilds its state from the topic's start"))
		give(exactly("retention.bytes", "-1", "a role rebuilds its state from the topic's start"))
	default:
		give(exactly("cleanup.policy", "delete", "compaction removes all but the newest record of a key"))
		give(retention("retention.ms", c.cfg.Retention.Milliseconds(), "kafka.retention"))
		give(retention("retention.bytes", c.cfg.RetentionBytes, "kafka.retention_bytes"))
	}
	give(insync(replicas))
	list = append(list,
		exactly("unclean.leader.election.enable", "false", "a replica that lags may become leader and drop acknowledged records"))
	size := atLeast("max.message.bytes", maxBatch, "batches are refused as too large")
	size.value = strconv.Itoa(maxMessageBytes)
	list = append(list, size)
	codecs := append([]string{"producer", "uncompressed"}, compressions[1:]...)
	list = append(list, setting{
		name: "compression.type", value: "producer", want: "one of " + strings.Join(codecs, ", "), why: "readers know no other",
		ok: func(v string) bool { return slices.Contains(codecs, v) },
	})
	return list
}

// atLeast is a number with a lower bound.
func atLeast(name string, least int64, why string) setting {
	return setting{
		name: name, value: strconv.FormatInt(least, 10), want: human(name, least) + " or more", why: why,
		ok: func(v string) bool { n, err := strconv.ParseInt(v, 10, 64); return err == nil && n >= least },
	}
}

// atMost is a number with an upper bound, which is created as less.
func atMost(name string, value, most int64, why string) setting {
	return setting{
		name: name, value: strconv.FormatInt(value, 10), want: human(name, most) + " or less", why: why,
		ok: func(v string) bool { n, err := strconv.ParseInt(v, 10, 64); return err == nil && n >= 0 && n <= most },
	}
}

// retention is a bound on what is kept, of which more does no harm; -1 is none.
func retention(name string, least int64, key string) setting {
	s := setting{
		name: name, value: strconv.FormatInt(least, 10), why: "records go before a reader that lags has read them",
		want: fmt.Sprintf("%s (%s) or more", human(name, least), key),
		ok: func(v string) bool {
			n, err := strconv.ParseInt(v, 10, 64)
			return err == nil && (n == -1 || least != -1 && n >= least)
		},
	}
	if least == -1 {
		s.want = fmt.Sprintf("-1 (%s)", key)
	}
	return s
}

// insync says how many replicas must have a record before it is acknowledged.
func insync(replicas int) setting {
	least := 1
	if replicas >= 3 {
		least = 2
	}
	s := setting{
		name: "min.insync.replicas", value: strconv.Itoa(least), want: strconv.Itoa(least),
		why: "a record that one broker alone has is acknowledged, and lost with that broker",
		ok: func(v string) bool {
			n, err := strconv.Atoi(v)
			return err == nil && n >= least && n <= max(replicas, 1)
		},
	}
	if replicas > least {
		s.want = fmt.Sprintf("%d to %d", least, replicas)
	}
	if replicas < 3 {
		s.why = "with fewer replicas than that nothing can be written"
	}
	return s
}

// human writes a setting's number so that its size is seen.
func human(name string, n int64) string {
	switch {
	case n < 0:
		return strconv.FormatInt(n, 10)
	case strings.HasSuffix(name, ".ms"):
		d := time.Duration(n) * time.Millisecond
		text := d.String()
		if d >= 24*time.Hour && d%time.Hour == 0 {
			text = fmt.Sprintf("%dd", d/(24*time.Hour))
			if rest := d % (24 * time.Hour); rest > 0 {
				text += fmt.Sprintf("%dh", rest/time.Hour)
			}
		}
		return fmt.Sprintf("%d (%s)", n, text)
	case (strings.HasSuffix(name, "retention.bytes") || name == "segment.bytes") && n >= 1<<20:
		return fmt.Sprintf("%d (%.3g GiB)", n, float64(n)/(1<<30))
	}
	return strconv.FormatInt(n, 10)
}

// humanValue is human of what a broker answered.
func humanValue(name, value string) string {
	if n, err := strconv.ParseInt(value, 10, 64); err == nil {
		return human(name, n)
	}
	return value
}

// from says where a broker has a value from, as DescribeConfigs codes it.
func from(source int8) string {
	switch source {
	case 1:
		return "set for the topic"
	case 2, 3, 4:
		return "set for the brokers"
	case 5:
		return "Kafka's default"
	}
	return ""
}

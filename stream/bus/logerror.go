package bus

import (
	"errors"
	"fmt"
	"strings"

	"github.com/autohedge/autohedge/stream/event"
)

// LogFault is how what is stored of a log does not fit the log.
type LogFault string

const (
	// Overtaken says that retention took records that were not read yet.
	Overtaken LogFault = "overtaken"
	// Truncated says that the log ends before what was read of it.
	Truncated LogFault = "truncated"
	// Recreated says that what is stored belongs to another incarnation of the topic.
	Recreated LogFault = "recreated"
	// Missing says that the topic is gone although it has an incarnation.
	Missing LogFault = "missing"
)

// LogError says that a log is not the one that somebody stored an offset of, with
// both sides' numbers and the commands that go on. It is the one error for this
// in the whole engine; errors.As finds it.
type LogError struct {
	Fault     LogFault
	Group     string // the role that stored, empty when it is not known
	What      string // what is stored: "the last plan (5-9)"; empty for an offset that is wanted
	Topic     string
	Partition int32 // -1: the topic as a whole
	// Stored is the offset that goes on, Start and End are the log's bounds.
	Stored, Start, End int64
	// StoredIncarnation is zero where what is stored has none.
	StoredIncarnation, Incarnation event.ID
	// StoredTopicID and TopicID are the brokers' own ids of the topic that had the
	// life StoredIncarnation and of the one that bears its name now, where these
	// differ; Bounds are those of its partitions.
	StoredTopicID, TopicID event.ID
	Bounds                 []Bounds
}

func (e *LogError) place() string {
	if e.Partition < 0 {
		return e.Topic
	}
	return fmt.Sprintf("%s/%d", e.Topic, e.Partition)
}

func (e *LogError) Error() string {
	what := e.What
	if what == "" {
		what = fmt.Sprintf("offset %d is wanted", e.Stored)
	} else {
		what = fmt.Sprintf("%s goes on at offset %d", what, e.Stored)
	}
	switch e.Fault {
	case Overtaken:
		return fmt.Sprintf("reading %s: %s, but the log begins at %d and ends at %d: retention took %d records first; "+
			"bring them back from a copy of the log, or go on without them: `%s`", e.place(), what, e.Start, e.End, e.Start-e.Stored, e.SkipCommand())
	case Truncated:
		return fmt.Sprintf("reading %s: %s, but the log (incarnation %s) begins at %d and ends at %d, %d records before: it was cut or is another log; %s",
			e.place(), what, e.Incarnation, e.Start, e.End, e.Stored-e.End, e.ways())
	case Missing:
		return fmt.Sprintf("reading %s: the topic is missing, but it has been there as incarnation %s; %s", e.place(), e.StoredIncarnation, e.ways())
	}
	if e.StoredTopicID != e.TopicID {
		var holds []string
		for p, b := range e.Bounds {
			holds = append(holds, fmt.Sprintf("%d: %d to %d", p, b.Start, b.End))
		}
		now := ""
		if len(holds) > 0 {
			now = " (by partition, its logs go from " + strings.Join(holds, ", ") + ")"
		}
		return fmt.Sprintf("reading %s: incarnation %s is that of the brokers' topic %s, but the topic of this name is %s now%s: somebody deleted it and created it anew, or this is another Kafka; %s",
			e.place(), e.StoredIncarnation, e.StoredTopicID, e.TopicID, now, e.ways())
	}
	return fmt.Sprintf("reading %s: %s of incarnation %s, but the topic is incarnation %s, begins at %d and ends at %d: it is another log; %s",
		e.place(), what, e.StoredIncarnation, e.Incarnation, e.Start, e.End, e.ways())
}

// SkipCommand is the command that passes over what retention took.
func (e *LogError) SkipCommand() string {
	group := e.Group
	if group == "" {
		group = "ROLE"
	}
	return fmt.Sprintf("autohedge topics skip %s --group %s --to %d --why \"...\"", e.place(), group, e.Start)
}

// ways names the commands that go on with a log that is not the stored one.
func (e *LogError) ways() string {
	return fmt.Sprintf("bring the log or the data folder that belongs here back, or accept the log as it is now: `autohedge topics adopt %s --why \"...\"`, "+
		"or forget what is stored of it and begin it anew: `autohedge topics discard %s --why \"...\"`", e.Topic, e.Topic)
}

// forGroup names the role in a LogError that does not know it.
func forGroup(err error, role string) error {
	var e *LogError
	if errors.As(err, &e) && e.Group == "" {
		e.Group = role
	}
	return err
}

// LogErrors are the faults of several topics as one error: the first in full,
// the others by name.
type LogErrors []*LogError

func (e LogErrors) Error() string {
	var others []string
	for _, x := range e {
		if x.Topic != e[0].Topic && (len(others) == 0 || others[len(others)-1] != x.Topic) {
			others = append(others, x.Topic)
		}
	}
	if len(others) == 0 {
		return e[0].Error()
	}
	return fmt.Sprintf("%s; the same holds for %s (--all in place of a topic takes every one)", e[0].Error(), strings.Join(others, ", "))
}

// Unwrap lets errors.As find the first.
func (e LogErrors) Unwrap() error { return e[0] }

package bus

import (
	"errors"
	"fmt"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

// Policy is what Append does with a record that finds the queue full.
type Policy uint8

// The policies. A record that is behind spilled ones of its partition goes to
// the files whatever its policy, so that order is kept.
const (
	// Refuse returns ErrQueueFull.
	Refuse Policy = iota + 1
	// Block waits for room.
	Block
	// Spill waits for SpillConfig.After, then moves what waits to the files, and
	// puts the record behind it. ErrQueueFull when the files are full too.
	Spill
	// Conflate lets a newer record of the same key and channel replace an older
	// one, from the moment that more than half of the bound is queued until less
	// than a quarter is. What nothing can be replaced for does as Spill with a
	// folder, else as Block or Refuse. Only for types that have a channel.
	Conflate
)

// StreamPolicy declares the policy of one stream of records.
type StreamPolicy struct {
	Topic  string
	Type   event.Type // 0 is every type that no other line of the topic names
	Policy Policy
}

// FullError says what is full. It is an ErrQueueFull.
type FullError struct {
	What  string // "memory", "callbacks", "spill" or "disk"
	Path  string // folder or file; empty for memory and callbacks
	Bytes int64  // in use
	Limit int64  // the bound; 0 where the system set it
	Err   error  // the system's word, nil for a bound of ours
}

func (e *FullError) Error() string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("%v: spilling to %s with %d bytes in use: %v; make room or make the folder writable", ErrQueueFull, e.Path, e.Bytes, e.Err)
	case e.Path != "":
		return fmt.Sprintf("%v: %d of %d bytes of spill are used in %s; raise the bound, or bring the brokers back", ErrQueueFull, e.Bytes, e.Limit, e.Path)
	}
	if e.What == "callbacks" {
		return fmt.Sprintf("%v: %d of %d bytes of memory are used by the callbacks of spilled records; give the same one to all, or bring the brokers back", ErrQueueFull, e.Bytes, e.Limit)
	}
	return fmt.Sprintf("%v: %d of %d bytes of memory are used; raise the bound, or bring the brokers back", ErrQueueFull, e.Bytes, e.Limit)
}

// Is makes every FullError an ErrQueueFull.
func (e *FullError) Is(target error) bool { return target == ErrQueueFull }

func (e *FullError) Unwrap() error { return e.Err }

var (
	// ErrConflated is handed to a record that a newer one replaced before it was
	// sent, by the goroutine that appended the newer one.
	ErrConflated = errors.New("record was replaced by a newer one of its key and channel")
	// ErrKept is handed to records that are in the spill when a producer is closed
	// or has failed: they are appended before anything else by the next producer
	// of that name.
	ErrKept = errors.New("record is kept in the spill and will be appended by the next start")
)

// defaultSpillAfter is how long Spill waits for room first.
const defaultSpillAfter = 100 * time.Millisecond

// setPolicies resolves the declared policies to the lanes.
func (p *Producer) setPolicies() error {
	def := Refuse
	switch {
	case p.cfg.Blocking:
		def = Block
	case p.cfg.Spill.Dir != "":
		def = Spill
	}
	p.overflow = def
	for _, l := range p.all {
		l.policy = def
	}
	for _, s := range p.cfg.Policies {
		lanes, ok := p.topics[s.Topic]
		switch {
		case !ok:
			return fmt.Errorf("setting the policy of topic %q: there is no such topic", s.Topic)
		case s.Policy < Refuse || s.Policy > Conflate:
			return fmt.Errorf("setting the policy of topic %q: there is no policy %d", s.Topic, s.Policy)
		case s.Policy == Spill && p.cfg.Spill.Dir == "":
			return fmt.Errorf("setting the policy of topic %q to spill: no folder is given", s.Topic)
		case s.Policy == Conflate && !hasChannel(s.Type):
			return fmt.Errorf("setting the policy of topic %q to conflate: records of type %d have no channel", s.Topic, s.Type)
		}
		for _, l := range lanes {
			if s.Type == 0 {
				l.policy = s.Policy
				continue
			}
			if l.policies == nil {
				l.policies = make(map[event.Type]Policy)
			}
			l.policies[s.Type] = s.Policy
		}
		if s.Policy == Conflate {
			p.pressure = p.limit / 2
			for _, l := range lanes {
				l.conflates = true
			}
		}
	}
	return nil
}

// policyOf returns the policy of a record.
func (l *lane) policyOf(value []byte) Policy {
	if l.policies != nil {
		if policy, ok := l.policies[event.TypeOf(value)]; ok {
			return policy
		}
	}
	return l.policy
}

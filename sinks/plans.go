package sinks

import (
	"context"
	"fmt"
	"sync"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// plans is what is known of topic state.sinks: it is read from its start once,
// then only what is new, for all partitions of the process together.
type plans struct {
	client *bus.Client

	mu         sync.Mutex
	partitions map[int32]*planLog
}

// planLog is what is known of one partition of state.sinks.
type planLog struct {
	mu   sync.Mutex
	end  int64 // offset up to which it was read; FromStart before
	keys map[string]*planned
}

// planned is the newest plan of one key, and the newest that says something else.
type planned struct {
	last, before     event.SinkPlan
	lastAt, beforeAt int64  // offsets; beforeAt is -1 when there is none
	reland           *order // the newest order to land the partition again, nil without one
}

func newPlans(client *bus.Client) *plans {
	return &plans{client: client, partitions: make(map[int32]*planLog)}
}

// read returns what state.sinks holds for the place now, nil when it holds
// nothing, and the end of what was read.
func (s *plans) read(ctx context.Context, at place) (known *planned, end int64, err error) {
	s.mu.Lock()
	l := s.partitions[at.partition]
	if l == nil {
		l = &planLog{end: bus.FromStart, keys: make(map[string]*planned)}
		s.partitions[at.partition] = l
	}
	s.mu.Unlock()

	l.mu.Lock()
	defer l.mu.Unlock()
	end, err = s.client.ReadAll(ctx, event.TopicSinkState, at.partition, l.end, func(rec bus.Record) error {
		if event.TypeOf(rec.Value) == event.TypeEpoch {
			return nil
		}
		x, err := event.DecodeAs[*event.SinkPlan](rec.Value)
		if err != nil {
			return nil //nolint:nilerr // no owner of the partition wrote it: it plans nothing
		}
		l.note(string(rec.Key), *x, rec.Offset)
		return nil
	})
	if err != nil {
		// What was noted before the error is noted again, which changes nothing.
		return nil, 0, fmt.Errorf("reading the plans of %s: %w", at, err)
	}
	l.end = end
	if k := l.keys[at.String()]; k != nil {
		known = &planned{last: k.last, before: k.before, lastAt: k.lastAt, beforeAt: k.beforeAt}
		if o := l.keys[relandKey(at)]; o != nil {
			known.reland = &order{o.last}
		}
		return known, end, nil
	}
	return nil, end, nil
}

func (l *planLog) note(key string, x event.SinkPlan, offset int64) {
	k := l.keys[key]
	switch {
	case k == nil:
		k = &planned{beforeAt: -1}
		l.keys[key] = k
	case offset <= k.lastAt:
		return
	case !samePlan(x, k.last):
		k.before, k.beforeAt = k.last, k.lastAt
	}
	k.last, k.lastAt = x, offset
}

// samePlan tells whether two records announce the same, whoever wrote them.
func samePlan(x, y event.SinkPlan) bool {
	return x.First == y.First && x.Last == y.Last && x.Token == y.Token && x.Incarnation == y.Incarnation && x.Reland == y.Reland && x.Opens == y.Opens
}

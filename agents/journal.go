package agents

import (
	"context"
	"fmt"
	"time"

	"github.com/autohedge/autohedge/agents/desk"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// journal is one signal's view of topic journal.
type journal struct {
	w   *worker
	job *job
}

// Recorded implements desk.Journal: a call that was journalled before a crash,
// before its verdict was, is not paid for twice.
func (j *journal) Recorded(id event.ID) (*event.ModelCall, bool) {
	j.w.mu.Lock()
	defer j.w.mu.Unlock()
	c, ok := j.w.calls[j.job.signal.ID][id]
	return c, ok
}

// Record implements desk.Journal.
func (j *journal) Record(ctx context.Context, c *event.ModelCall) error {
	j.w.role.metrics.call(c)
	j.w.role.health.observe(c)
	if err := j.w.publish(ctx, event.TopicJournal, j.w.a.Partition, j.job.key, c); err != nil {
		return fmt.Errorf("journalling a model call: %w", err)
	}
	return nil
}

var _ desk.Journal = (*journal)(nil)

// watch is the time by which one signal is judged.
//
// Live it is the machine's clock, and a signal that waited past its deadline is
// late. A replay runs faster, or slower, than what it replays, so that the
// session's clock says nothing about how long judging took: there a signal is
// judged at its own time plus what model calls took, live or as recorded. Rules
// in Go then take no time at all, and the same replay gives the same decisions.
func (r *Role) watch(s *event.Signal) desk.Time {
	if r.replay {
		return &recordedTime{now: s.Time}
	}
	return liveTime{r.env.Clock}
}

type liveTime struct{ clock component.Clock }

func (t liveTime) Now() int64        { return t.clock.Now().UnixNano() }
func (liveTime) Spent(time.Duration) {}

type recordedTime struct{ now int64 }

func (t *recordedTime) Now() int64            { return t.now }
func (t *recordedTime) Spent(d time.Duration) { t.now += int64(d) }

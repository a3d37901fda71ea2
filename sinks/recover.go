package sinks

import (
	"context"
	"fmt"
	"time"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// supersededPatience is longer than the group needs to notice a member's death.
const supersededPatience = 15 * time.Second

// open takes the partition's plans over: the process that owned it before cannot
// announce anything in state.sinks any more, so it cannot land anything either
// that this one, which reads the plans after that, does not know of.
func (p *partition) open(ctx context.Context) error {
	err := p.role.retry(ctx, "owning "+p.String(), func(ctx context.Context) (err error) {
		p.plans, err = p.role.client.Own(ctx, bus.OwnConfig{
			Name: roleName + ".state", Blocking: true, QueueBytes: 1 << 20,
			Key: fmt.Sprintf("%s.%s.%d", roleName, p.topic, p.partition), Partitions: []bus.TopicPartition{{Topic: event.TopicSinkState, Partition: p.partition}},
		}, p.role.env)
		return err
	})
	if err != nil {
		return fmt.Errorf("owning %s: %w", p.place, err)
	}
	return nil
}

func (p *partition) close(ctx context.Context) {
	// Every plan is awaited when it is appended, so there is nothing to flush; the
	// partition must be let go within 250 ms.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 100*time.Millisecond)
	defer cancel()
	if err := p.plans.Close(ctx); err != nil {
		p.log.Debug("closing the producer of plans", "err", err)
	}
}

// recover finishes what the last owner announced and moves the assignment behind
// it. A normal start is the same: its last plan has landed.
func (p *partition) recover(ctx context.Context) error {
	plan, err := p.claim(ctx)
	if err != nil {
		return err
	}
	end, err := p.settle(ctx, plan)
	if err != nil {
		return err
	}
	p.relands = plan.Reland
	if p.former(plan) {
		if plan, err = p.succeed(ctx, plan, end); err != nil {
			return err
		}
		end = 0
	}
	if begins, known := p.role.client.Begins(p.topic, p.partition); known && end == 0 && plan.First <= begins {
		end = plan.First // the first landing of a life that was begun by hand
	}
	if err := p.checkLog(plan); err != nil {
		return component.Fatal(err)
	}
	next := plan.Last + 1
	if opened, err := p.reopen(ctx, plan); err != nil {
		return err
	} else if opened != nil {
		next = opened.First
	} else if err := p.checkDatabase(plan, end); err != nil {
		return component.Fatal(err)
	} else if end <= plan.Last {
		if next, err = p.finish(ctx, plan); err != nil {
			return err
		}
	}
	if next < p.assignment.Start {
		if next, err = p.expire(ctx, next); err != nil {
			return err
		}
	}
	p.next = next
	p.landed.Store(p.next)
	p.assignment.Commit(p.next)
	if err := p.assignment.Seek(ctx, p.next); err != nil {
		return fmt.Errorf("going to offset %d of %s: %w", p.next, p.place, err)
	}
	return nil
}

// finish carries out a plan that its owner left undone, and returns the offset
// after it. Where retention took records of it meanwhile, and somebody said that
// they may be skipped, what the plan has landed is taken out again and only the
// records that are gone are accounted for.
func (p *partition) finish(ctx context.Context, plan event.SinkPlan) (next int64, err error) {
	if plan.Expired {
		return plan.Last + 1, p.carryOutExpired(ctx, plan)
	}
	if plan.First < p.assignment.Start {
		return p.expire(ctx, plan.First)
	}
	return plan.Last + 1, p.resend(ctx, plan)
}

// settle ends what still runs of the plan and returns the end of what has landed.
func (p *partition) settle(ctx context.Context, plan event.SinkPlan) (end int64, err error) {
	if err := p.role.retry(ctx, "settling "+p.String(), func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, p.role.cfg.InsertTimeout)
		defer cancel()
		end, err = p.role.store.Settle(ctx, plan)
		return err
	}); err != nil {
		return 0, fmt.Errorf("settling %s: %w", p.place, err)
	}
	return end, nil
}

// former tells whether the plan is of a life that somebody ended.
func (p *partition) former(plan event.SinkPlan) bool {
	return plan.Incarnation != p.assignment.Incarnation && p.role.client.Ended(plan.Incarnation)
}

// succeed announces the first, empty, plan of a life that was begun by hand: from
// where the former one's last landing ended, or where the life begins, whichever
// comes first. Rows that landed before stay under the former incarnation.
func (p *partition) succeed(ctx context.Context, last event.SinkPlan, end int64) (event.SinkPlan, error) {
	first := last.First
	if end == last.Last+1 {
		first = end
	}
	begins, known := p.role.client.Begins(p.topic, p.partition)
	if !known {
		begins = p.assignment.Start
	}
	first = min(first, begins)
	plan := p.plan(first, first-1)
	p.log.Warn("landing a new life of the topic", "incarnation", plan.Incarnation.String(), "former", last.Incarnation.String(), "from", first, "landed", end)
	return plan, p.announce(ctx, &plan)
}

// expire accounts for the records from first to the log's start, which retention
// took before they landed, if somebody said that they may be skipped; it returns
// where landing goes on.
func (p *partition) expire(ctx context.Context, first int64) (next int64, err error) {
	a := p.assignment
	to, ok := p.role.client.Skipped(roleName, p.topic, p.partition, first)
	if !ok || to < a.Start {
		return 0, component.Fatal(fmt.Errorf("landing %s: %w", p.place, &bus.LogError{
			Fault: bus.Overtaken, Group: roleName, What: "landing", Topic: p.topic, Partition: p.partition,
			Stored: max(first, to), Start: a.Start, End: a.End, StoredIncarnation: a.Incarnation, Incarnation: a.Incarnation,
		}))
	}
	plan := p.plan(first, to-1)
	plan.Expired = true
	if err := p.announce(ctx, &plan); err != nil {
		return 0, err
	}
	p.log.Warn("skipping records that retention took before they landed", "from", first, "to", to, "records", to-first)
	return to, p.carryOutExpired(ctx, plan)
}

// carryOutExpired proves an expired plan: its records are counted, and whatever
// an unfinished plan has landed of them or after them is taken out, so that the
// records still in the log land once.
func (p *partition) carryOutExpired(ctx context.Context, plan event.SinkPlan) error {
	if err := p.role.step("after plan"); err != nil {
		return err
	}
	if err := p.role.retry(ctx, "clearing "+p.String(), func(ctx context.Context) error {
		return p.role.store.Remove(ctx, plan.Topic, plan.Incarnation, plan.Partition, plan.First)
	}); err != nil {
		return fmt.Errorf("clearing %s from offset %d: %w", p.place, plan.First, err)
	}
	row := clickhouse.Landed{
		Topic: plan.Topic, Incarnation: plan.Incarnation, Partition: plan.Partition, First: plan.First, Last: plan.Last,
		Rows: make(map[string]uint64), Expired: uint64(plan.Last - plan.First + 1), Token: plan.Token,
	}
	if err := p.prove(ctx, row); err != nil {
		return err
	}
	p.assignment.Commit(plan.Last + 1)
	p.landed.Store(plan.Last + 1)
	p.role.metrics.expired.Add(float64(row.Expired))
	return nil
}

// claim returns the last plan of the partition, after it made sure that no
// predecessor can add another: it appends the plan again as its own. Where there
// never was one it appends an empty plan at the log's start.
func (p *partition) claim(ctx context.Context) (event.SinkPlan, error) {
	known, end, err := p.known(ctx)
	if err != nil {
		return event.SinkPlan{}, err
	}
	plan := p.plan(p.assignment.Start, p.assignment.Start-1)
	if known != nil {
		plan = known.last
	}
	for {
		plan.Epoch = uint32(p.assignment.Generation)
		if err := p.announce(ctx, &plan); err != nil {
			return plan, err
		}
		// What a predecessor appended between the reading and the claim is the true
		// last plan; the claim is repeated with it.
		known, next, err := p.known(ctx)
		if err != nil {
			return plan, err
		}
		if known == nil || !samePlan(known.last, plan) {
			return plan, p.superseded(ctx, fmt.Errorf("claiming %s: another process has taken it over", p.place))
		}
		if known.beforeAt < end {
			return plan, nil
		}
		plan, end = known.before, next
	}
}

// superseded returns err, which says that another process owns the partition,
// once the group has had time to say the same: then the context's error is the
// answer, and the role goes on with what it still owns.
func (p *partition) superseded(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(supersededPatience):
		return err
	}
}

// known reads what state.sinks says of the partition.
func (p *partition) known(ctx context.Context) (known *planned, end int64, err error) {
	err = p.role.retry(ctx, "reading the plans of "+p.String(), func(ctx context.Context) (err error) {
		known, end, err = p.role.plans.read(ctx, p.place)
		return err
	})
	return known, end, err
}

// checkLog compares the last plan with the log.
func (p *partition) checkLog(plan event.SinkPlan) error {
	a := p.assignment
	fault := &bus.LogError{
		Group: roleName, What: describePlan(plan), Topic: p.topic, Partition: p.partition, Stored: plan.Last + 1, Start: a.Start, End: a.End,
		StoredIncarnation: plan.Incarnation, Incarnation: a.Incarnation,
	}
	switch {
	case plan.Incarnation != a.Incarnation:
		fault.Fault = bus.Recreated
	case a.End <= plan.Last:
		fault.Fault = bus.Truncated
	default:
		return nil
	}
	return fmt.Errorf("landing %s: %w", p.place, fault)
}

// checkDatabase compares the last plan with what the database says it has; end is one
// past the last offset that landed, 0 when nothing did.
func (p *partition) checkDatabase(plan event.SinkPlan, end int64) error {
	// The former plan of a partition ends where the last one begins. The log cannot
	// tell which database it landed in.
	if end == plan.Last+1 || end == plan.First || (end == 0 && plan.First <= p.assignment.Start) {
		return nil
	}
	return fmt.Errorf("landing %s: %s says that the database has landed everything below %d or below %d, but its table landed ends at %d (0: it has nothing): "+
		"these records landed in another database, or this one lost them. Name the other one in clickhouse.url, "+
		"or land everything that Kafka still holds again into this one, which changes nothing of trading: `autohedge sinks reland`, "+
		"or go on here without them: `autohedge topics adopt %s --why \"...\"`",
		p.place, describePlan(plan), plan.First, plan.Last+1, end, p.topic)
}

// describePlan names the last plan for people.
func describePlan(plan event.SinkPlan) string {
	if plan.Last < plan.First {
		return "the last plan (none yet)"
	}
	return fmt.Sprintf("the last plan (offsets %d-%d)", plan.First, plan.Last)
}

// resend carries out a plan that the last owner may have carried out in part:
// the same range, the same rows, the same tokens.
func (p *partition) resend(ctx context.Context, plan event.SinkPlan) error {
	b := &batch{rows: p.role.store.NewBatch(p.topic, plan.Incarnation, plan.Partition)}
	b.reset(plan.First)
	p.next = plan.First
	if err := p.replay(ctx, plan.First, plan.Last+1, func(rec *bus.Record) error { return p.add(b, rec) }); err != nil {
		return err
	}
	if b.next != plan.Last+1 {
		return component.Fatal(fmt.Errorf("landing %s: reading %d-%d again ended at %d", p.place, plan.First, plan.Last, b.next))
	}
	return p.carryOut(ctx, plan, b)
}

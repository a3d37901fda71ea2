package sinks

import (
	"context"
	"fmt"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// supersededPatience is longer than the group needs to notice a member's death.
const supersededPatience = 15 * time.Second

// open makes the producer of the partition's plans. Its owner's name fences the
// process that owned the partition before: once this one has appended to
// state.sinks, the other cannot announce anything there, so it cannot land
// anything either that this one does not know of.
func (p *partition) open(ctx context.Context) error {
	err := p.role.retry(ctx, "owning "+p.String(), func(ctx context.Context) (err error) {
		p.plans, err = p.role.client.NewProducer(ctx, bus.ProducerConfig{
			Name: roleName + ".state", Blocking: true, QueueBytes: 1 << 20,
			Owner: fmt.Sprintf("autohedge.%s.%s.%d", roleName, p.topic, p.partition),
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
	var end int64
	if err := p.role.retry(ctx, "settling "+p.String(), func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, p.role.cfg.InsertTimeout)
		defer cancel()
		end, err = p.role.store.Settle(ctx, plan)
		return err
	}); err != nil {
		return fmt.Errorf("settling %s: %w", p.place, err)
	}
	if err := p.check(plan, end); err != nil {
		return component.Fatal(err)
	}
	if end <= plan.Last {
		if err := p.resend(ctx, plan); err != nil {
			return err
		}
	}
	p.next = plan.Last + 1
	p.landed.Store(p.next)
	p.assignment.Commit(p.next)
	if err := p.assignment.Seek(ctx, p.next); err != nil {
		return fmt.Errorf("going to offset %d of %s: %w", p.next, p.place, err)
	}
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
	plan := event.SinkPlan{
		Topic: p.topic, Partition: p.partition, Incarnation: p.assignment.Incarnation,
		First: p.assignment.Start, Last: p.assignment.Start - 1,
	}
	if known != nil {
		plan = known.last
	} else {
		plan.Token = planToken(plan.Topic, plan.Incarnation, plan.Partition, plan.First, plan.Last)
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

// check compares the last plan with the log and with what the database says it
// has; end is one past the last offset that landed, 0 when nothing did.
func (p *partition) check(plan event.SinkPlan, end int64) error {
	const ways = "start with the data that belongs together, or begin anew with `autohedge demo --fresh`, " +
		"or name a database of its own in clickhouse.database"
	a := p.assignment
	from := plan.First
	planned := fmt.Sprintf("offsets %d-%d", plan.First, plan.Last)
	if plan.Last < plan.First {
		planned = fmt.Sprintf("to begin at offset %d", plan.First)
	}
	switch {
	case plan.Incarnation != a.Incarnation:
		return fmt.Errorf("landing %s: topic %s is not the one that was landed: its incarnation is %s, that of the last plan (%s) is %s; %s",
			p.place, p.topic, a.Incarnation, planned, plan.Incarnation, ways)
	case a.End <= plan.Last:
		return fmt.Errorf("landing %s: the log ends at offset %d, but the last plan is %s, so it was cut short; %s",
			p.place, a.End, planned, ways)
	case end == plan.Last+1:
		from = end // all of it has landed
	case end != plan.First && (end != 0 || plan.First > a.Start):
		return fmt.Errorf("landing %s: the last plan is %s, so the database has landed everything below %d or below %d, but its table landed ends at %d (0: it has nothing): "+
			"these records landed in another database; name that one in clickhouse.url, or %s",
			p.place, planned, plan.First, plan.Last+1, end, ways)
	}
	if from < a.Start {
		return fmt.Errorf("landing %s: offset %d lands next, but retention has taken everything below %d, so %d records never landed; "+
			"bring them back from a copy of the log and raise the topic's retention, or %s",
			p.place, from, a.Start, a.Start-from, ways)
	}
	return nil
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

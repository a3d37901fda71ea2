package sinks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// maxDeadValue bounds the copy of a value in its dead letter, so that the letter
// is never larger than the log takes. The whole value stays where it was, and
// the letter's lineage says where.
const maxDeadValue = 256 << 10

// planToken is what names one plan and begins the token of each of its inserts.
// Records that land again need other tokens: the database would take the same ones
// for a retry and skip the rows.
func planToken(plan *event.SinkPlan) string {
	token := fmt.Sprintf("%s/%s/%d/%d-%d", plan.Topic, plan.Incarnation, plan.Partition, plan.First, plan.Last)
	if plan.Reland > 0 {
		token += fmt.Sprintf("~%d", plan.Reland)
	}
	return token
}

// land announces the batch in state.sinks, then carries it out. It is the only
// landing of its partition: a successor knows the last plan, so there may be one
// at a time.
func (p *partition) land(ctx context.Context, b *batch) error {
	plan := p.plan(b.first, b.next-1)
	if err := p.role.step("before plan"); err != nil {
		return err
	}
	if err := p.announce(ctx, &plan); err != nil {
		return err
	}
	return p.carryOut(ctx, plan, b)
}

// plan is a plan of the partition for the offsets first to last.
func (p *partition) plan(first, last int64) event.SinkPlan {
	plan := event.SinkPlan{
		Topic: p.topic, Partition: p.partition, Incarnation: p.assignment.Incarnation, First: first, Last: last,
		Epoch: uint32(p.assignment.Generation), Reland: p.relands,
	}
	plan.Token = planToken(&plan)
	return plan
}

// carryOut inserts what the plan announced, proves it in `landed` and commits.
// Whoever calls it again with the same plan and the same records changes nothing.
func (p *partition) carryOut(ctx context.Context, plan event.SinkPlan, b *batch) error {
	if err := p.role.step("after plan"); err != nil {
		return err
	}
	if err := p.bury(ctx, b.refused); err != nil {
		return err
	}
	token, rejected := splitToken(plan.Token)
	row := clickhouse.Landed{
		Topic: plan.Topic, Incarnation: plan.Incarnation, Partition: plan.Partition, First: plan.First, Last: plan.Last,
		Rows: make(map[string]uint64), Control: b.control, SecondCopies: b.copies, Refused: uint64(len(b.refused)), Token: token,
	}
	for i, block := range b.rows.Blocks() {
		if block.Rows() == 0 {
			continue
		}
		name := token + "/" + block.Table()
		if block.Partition() != "" {
			name += "/" + block.Partition()
		}
		rows, err := block.Rows(), error(nil)
		if !rejected[name] {
			err = p.insert(ctx, block, name)
		}
		if rejected[name] || errors.Is(err, clickhouse.ErrRefused) {
			var refused int
			refused, err = p.isolate(ctx, &plan, i, name)
			row.Refused += uint64(refused)
			rows -= refused
		}
		if err != nil {
			return err
		}
		row.Rows[block.Table()] += uint64(rows)
		if err := p.role.step("between tables"); err != nil {
			return err
		}
	}
	if got, want := records(&row), plan.Last-plan.First+1; got != want {
		return component.Fatal(fmt.Errorf("landing %s %d-%d: accounting for %d of %d records", p.place, plan.First, plan.Last, got, want))
	}
	if err := p.prove(ctx, row); err != nil {
		return err
	}
	p.assignment.Commit(plan.Last + 1)
	p.landed.Store(plan.Last + 1)
	m := p.role.metrics
	for table, n := range row.Rows {
		m.table(table).rows.Add(float64(n))
	}
	m.control.Add(float64(row.Control))
	m.copies.Add(float64(row.SecondCopies))
	m.refused.Add(float64(row.Refused))
	m.last.SetToCurrentTime()
	return nil
}

// prove inserts the row of landed.
func (p *partition) prove(ctx context.Context, row clickhouse.Landed) error {
	if err := p.role.step("before landed"); err != nil {
		return err
	}
	if err := p.role.retry(ctx, "proving "+p.String(), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, p.role.cfg.InsertTimeout)
		defer cancel()
		return p.role.store.Land(ctx, row)
	}); err != nil {
		return fmt.Errorf("proving %s: %w", row.Token, err)
	}
	return p.role.step("after landed")
}

// insert lands one block, trying the same until the database says yes or refuses
// the rows.
func (p *partition) insert(ctx context.Context, block Block, token string) error {
	r := p.role
	seconds := r.metrics.table(block.Table()).insert
	err := r.retry(ctx, "inserting "+p.String(), func(ctx context.Context) error {
		select {
		case r.inserts <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-r.inserts }()
		ctx, cancel := context.WithTimeout(ctx, r.cfg.InsertTimeout)
		defer cancel()
		start := time.Now()
		if err := r.store.Insert(ctx, block, token); err != nil {
			return err
		}
		seconds.Observe(time.Since(start).Seconds())
		return nil
	})
	if err != nil {
		return fmt.Errorf("inserting %s: %w", token, err)
	}
	return nil
}

// announce appends the plan to state.sinks and waits until it is acknowledged.
func (p *partition) announce(ctx context.Context, plan *event.SinkPlan) error {
	plan.Time = p.role.env.Clock.Now().UnixNano()
	value := event.Marshal(plan)
	err := p.role.retry(ctx, "planning "+p.String(), func(ctx context.Context) error {
		if err := p.plans.Err(); err != nil {
			return component.Fatal(err)
		}
		_, err := appendWait(ctx, p.plans.Producer, event.TopicSinkState, p.partition, []byte(p.String()), value)
		return err
	})
	if err != nil && p.plans.Err() != nil {
		err = p.superseded(ctx, err)
	}
	if err != nil {
		return fmt.Errorf("announcing the landing of %s %d-%d: %w", p.place, plan.First, plan.Last, err)
	}
	return nil
}

// appendWait appends one record and waits for its acknowledgement.
func appendWait(ctx context.Context, producer *bus.Producer, topic string, partition int32, key, value []byte) (int64, error) {
	type answer struct {
		offset int64
		err    error
	}
	answered := make(chan answer, 1)
	if err := producer.Append(topic, partition, key, value, func(offset int64, err error) { answered <- answer{offset, err} }); err != nil {
		return 0, err
	}
	select {
	case a := <-answered:
		return a.offset, a.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func refuse(rec *bus.Record, why error) refusal {
	value := rec.Value
	reason := why.Error()
	if len(value) > maxDeadValue {
		reason = fmt.Sprintf("%s (the value's first %d of %d bytes are kept here)", reason, maxDeadValue, len(value))
		value = value[:maxDeadValue]
	}
	return refusal{
		offset: rec.Offset, reason: reason,
		key: append([]byte(nil), rec.Key...), value: append([]byte(nil), value...),
	}
}

// bury appends a dead letter for each refused record and waits until all are
// acknowledged. A refused record of topic dead itself makes no further letter:
// it is counted and logged.
func (p *partition) bury(ctx context.Context, refused []refusal) error {
	if len(refused) == 0 {
		return nil
	}
	if quiet, ok := p.role.warn.allow(); ok {
		p.log.Warn("refusing records", "records", len(refused), "offset", refused[0].offset, "reason", refused[0].reason, "unlogged", quiet)
	}
	if p.topic == event.TopicDead {
		return nil
	}
	err := p.role.retry(ctx, "burying records of "+p.String(), func(ctx context.Context) error {
		if err := p.role.dead.Err(); err != nil {
			return component.Fatal(err)
		}
		return p.buryOnce(ctx, refused)
	})
	if err != nil {
		return fmt.Errorf("burying records of %s: %w", p.place, err)
	}
	return nil
}

func (p *partition) buryOnce(ctx context.Context, refused []refusal) error {
	var (
		wait  sync.WaitGroup
		mu    sync.Mutex
		first error
	)
	note := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if first == nil {
			first = err
		}
	}
	acked := func(_ int64, err error) {
		note(err)
		wait.Done()
	}
	key := []byte(p.String())
	for i := range refused {
		letter := &event.Dead{
			Role: roleName, Reason: refused[i].reason, Key: refused[i].key, Value: refused[i].value,
			Time:    p.role.env.Clock.Now().UnixNano(),
			Lineage: event.Lineage{Topic: p.topic, Partition: p.partition, Offset: refused[i].offset},
		}
		letter.ID = event.DeadID(roleName, letter.Lineage, letter.Value)
		wait.Add(1)
		if err := p.role.dead.Append(event.TopicDead, 0, key, event.Marshal(letter), acked); err != nil {
			acked(0, err)
			break
		}
	}
	all := make(chan struct{})
	go func() { wait.Wait(); close(all) }()
	select {
	case <-all:
	case <-ctx.Done():
		return ctx.Err()
	}
	mu.Lock()
	defer mu.Unlock()
	return first
}

// splitToken separates a plan's own token from the tokens of the inserts that the
// database refused, which follow it line by line (see isolate).
func splitToken(token string) (plan string, rejected map[string]bool) {
	plan, rest, _ := strings.Cut(token, "\n")
	if rest == "" {
		return plan, nil
	}
	rejected = make(map[string]bool)
	for line := range strings.SplitSeq(rest, "\n") {
		rejected[plan+line] = true
	}
	return plan, rejected
}

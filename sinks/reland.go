package sinks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// orderInterval is how often a running role looks for orders to land again.
const orderInterval = 2 * time.Second

// order is an order to land a partition again from the log's start. It lies in
// state.sinks beside the partition's plans, under a key of its own: only the owner
// plans, so whoever gives the order shuts no owner out. A plan carries the number of
// the order that it follows.
type order struct{ event.SinkPlan }

// relandKey is the key of the orders of a partition.
func relandKey(at place) string { return "reland/" + at.String() }

// pending tells whether the plan does not follow the order yet. An order for a former
// life of the topic is void: the life that followed was begun by hand.
func (o *order) pending(plan event.SinkPlan) bool {
	return o != nil && o.Reland > plan.Reland && o.Incarnation == plan.Incarnation
}

// Reland is one partition that is to land again.
type Reland struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	// Start and End are the log's bounds: what Kafka still holds and lands again.
	Start int64 `json:"start"`
	End   int64 `json:"end"`
	// Expired counts the records before Start that belong to this life of the topic:
	// retention took them. Those that still have a row in ClickHouse keep it.
	Expired int64 `json:"expired"`

	reland uint64
}

// PlanReland returns what an order would make of the topics' partitions, and changes
// nothing.
func PlanReland(ctx context.Context, client *bus.Client, topics []string) ([]Reland, error) {
	var all []Reland
	known := newPlans(client)
	for _, topic := range topics {
		bounds, err := client.Offsets(ctx, topic)
		if err != nil {
			return nil, fmt.Errorf("asking what Kafka holds of %s: %w", topic, err)
		}
		for n, b := range bounds {
			at := place{topic, int32(n)}
			r := Reland{Topic: topic, Partition: at.partition, Start: b.Start, End: b.End, reland: 1}
			begins, _ := client.Begins(topic, at.partition)
			r.Expired = max(0, b.Start-max(0, begins))
			plan, _, err := known.read(ctx, at)
			if err != nil {
				return nil, err
			}
			if plan != nil {
				r.reland = plan.last.Reland + 1
				if plan.reland.pending(plan.last) {
					r.reland = plan.reland.Reland // not carried out yet: the same order again
				}
			}
			all = append(all, r)
		}
	}
	return all, nil
}

// OrderReland orders that the partitions land again.
func OrderReland(ctx context.Context, client *bus.Client, env component.Env, partitions []Reland, who, why string) (err error) {
	producer, err := client.NewProducer(ctx, bus.ProducerConfig{Name: roleName + ".reland", Blocking: true, QueueBytes: 1 << 20}, env)
	if err != nil {
		return fmt.Errorf("making the producer of orders: %w", err)
	}
	defer func() { err = errors.Join(err, producer.Close(ctx)) }()
	for _, r := range partitions {
		at := place{r.Topic, r.Partition}
		plan := event.SinkPlan{
			Topic: r.Topic, Partition: r.Partition, Incarnation: client.Incarnation(r.Topic), First: r.Start, Last: r.Start - 1,
			Time: env.Clock.Now().UnixNano(), Reland: r.reland, Who: who, Why: why,
		}
		plan.Token = planToken(&plan)
		if _, err := appendWait(ctx, producer, event.TopicSinkState, r.Partition, []byte(relandKey(at)), event.Marshal(&plan)); err != nil {
			return fmt.Errorf("ordering that %s lands again: %w", at, err)
		}
	}
	return nil
}

// watchOrders tells the owned partitions of orders that were given while they land.
func (r *Role) watchOrders(ctx context.Context) {
	tick := time.NewTicker(orderInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r.mu.Lock()
		owned := make([]*partition, 0, len(r.owned))
		for _, p := range r.owned {
			owned = append(owned, p)
		}
		r.mu.Unlock()
		for _, p := range owned {
			known, _, err := r.plans.read(ctx, p.place)
			if err != nil {
				if ctx.Err() == nil {
					r.metrics.errors.Inc()
					r.env.Log.Debug("looking for orders to land again, will be tried again", "err", err)
				}
				break
			}
			if known != nil && known.reland.pending(known.last) {
				select {
				case p.ordered <- struct{}{}:
				default:
				}
			}
		}
	}
}

// landAll lands what the assignment has until it ends. An order to land again cuts
// the landing off, also one that waits for a table that is not there.
func (p *partition) landAll(ctx context.Context) error {
	var src source = p.assignment
	for {
		ordered, err := p.gatherUntilOrder(ctx, src)
		if reader, ok := src.(*bus.Reader); ok {
			reader.Close()
		} else if err == nil && !ordered {
			return nil
		}
		if err != nil {
			return err
		}
		if ordered {
			if err := p.landAgain(ctx); err != nil {
				return err
			}
		}
		// What the assignment has read already is read again beside it.
		src = p.assignment
		if read := p.assignment.Position(); p.next < read {
			if src, err = p.read(ctx, p.next, read); err != nil {
				return err
			}
		}
	}
}

// gatherUntilOrder is gather until an order comes; ordered tells that it was cut off.
func (p *partition) gatherUntilOrder(ctx context.Context, src source) (ordered bool, err error) {
	if src != source(p.assignment) {
		defer p.assignment.Waiting()() // it makes no progress while older records land
	}
	gathering, cancel := context.WithCancel(ctx)
	stopped := make(chan bool, 1)
	go func() {
		stopped <- p.awaitOrder(gathering)
		cancel()
	}()
	err = p.gather(gathering, src)
	cancel() // not before: awaitOrder ends with it
	if <-stopped && ctx.Err() == nil && errors.Is(err, context.Canceled) {
		return true, nil
	}
	return false, err
}

// awaitOrder waits until there is an order that the plans do not follow yet; it returns
// false when ctx ended first.
func (p *partition) awaitOrder(ctx context.Context) bool {
	for {
		select {
		case <-p.ordered:
		case <-ctx.Done():
			return false
		}
		// Asked again: the order may have been followed since it was seen.
		if known, _, err := p.known(ctx); err == nil && known != nil && known.reland.pending(known.last) {
			return true
		}
	}
}

// landAgain follows an order that came while the partition was landed.
func (p *partition) landAgain(ctx context.Context) error {
	defer p.assignment.Waiting()()
	known, _, err := p.known(ctx)
	if err != nil {
		return err
	}
	if known == nil {
		return p.superseded(ctx, fmt.Errorf("landing %s again: its plans are gone", p.place))
	}
	opened, err := p.reopen(ctx, known.last)
	if err != nil {
		return err
	}
	if opened == nil {
		return p.superseded(ctx, fmt.Errorf("landing %s again: another process follows the order", p.place))
	}
	p.next = opened.First
	p.landed.Store(p.next)
	return nil
}

// reopen begins to land the partition again where it was ordered and the last plan
// does not follow the order yet, or only opens it. It returns the empty plan behind
// which landing goes on, nil where nothing was ordered.
//
// Everything that the database has of records that Kafka still holds goes first, so
// nothing doubles. Rows of records that Kafka no longer holds stay; the opening plan
// counts them, and what has no row of that range as expired.
func (p *partition) reopen(ctx context.Context, last event.SinkPlan) (*event.SinkPlan, error) {
	opening := last
	if !last.Opens {
		known, _, err := p.known(ctx)
		if err != nil || known == nil || !known.reland.pending(last) {
			return nil, err
		}
		// The order may have come because the tables are gone.
		if err := p.role.retry(ctx, "preparing the database", p.role.store.Prepare); err != nil {
			return nil, err
		}
		if _, err := p.settle(ctx, last); err != nil {
			return nil, err
		}
		p.relands = known.reland.Reland
		if opening, err = p.planOpening(ctx); err != nil {
			return nil, err
		}
		p.log.Warn("landing again what Kafka still holds", "from", opening.Last+1, "before", opening.Last+1-opening.First,
			"reland", p.relands, "who", known.reland.Who, "why", known.reland.Why)
		if err := p.announce(ctx, &opening); err != nil {
			return nil, err
		}
	}
	if err := p.carryOutOpening(ctx, opening); err != nil {
		return nil, err
	}
	empty := p.plan(opening.Last+1, opening.Last)
	return &empty, p.announce(ctx, &empty)
}

// planOpening plans the account of what lies before the first record to land again.
func (p *partition) planOpening(ctx context.Context) (plan event.SinkPlan, err error) {
	err = p.role.retry(ctx, "opening "+p.String(), func(ctx context.Context) error {
		bounds, err := p.role.client.Offsets(ctx, p.topic)
		if err != nil {
			return err
		}
		from, first := bounds[p.partition].Start, int64(0)
		begins, byHand := p.role.client.Begins(p.topic, p.partition)
		if byHand && from < begins {
			// Rows of a former life stay, and what they account for does not land twice.
			former, err := p.role.store.FormerEnd(ctx, p.topic, p.assignment.Incarnation, p.partition)
			if err != nil {
				return err
			}
			from = max(from, min(former, begins))
		}
		if byHand {
			first = min(begins, from)
		}
		_, lowest, err := p.role.store.RowsBelow(ctx, p.topic, p.assignment.Incarnation, p.partition, from)
		if err != nil {
			return err
		}
		if lowest >= 0 {
			first = min(first, lowest)
		}
		plan = p.plan(first, from-1)
		plan.Expired, plan.Opens = true, true
		return nil
	})
	if err != nil {
		return plan, fmt.Errorf("planning to land %s again: %w", p.place, err)
	}
	return plan, nil
}

// carryOutOpening empties the database of what lands again and proves what does not.
// The same again changes nothing: only the opening plan's own row of landed stays.
func (p *partition) carryOutOpening(ctx context.Context, plan event.SinkPlan) error {
	if err := p.role.step("after plan"); err != nil {
		return err
	}
	store := p.role.store
	row := clickhouse.Landed{Topic: plan.Topic, Incarnation: plan.Incarnation, Partition: plan.Partition, First: plan.First, Last: plan.Last, Token: plan.Token}
	if err := p.role.retry(ctx, "clearing "+p.String(), func(ctx context.Context) (err error) {
		if err := store.Remove(ctx, plan.Topic, plan.Incarnation, plan.Partition, plan.Last+1); err != nil {
			return err
		}
		if err := p.role.step("between tables"); err != nil {
			return component.Fatal(err)
		}
		if err := store.ForgetLanded(ctx, plan.Topic, plan.Incarnation, plan.Partition, plan.Token); err != nil {
			return err
		}
		row.Rows, _, err = store.RowsBelow(ctx, plan.Topic, plan.Incarnation, plan.Partition, plan.Last+1)
		return err
	}); err != nil {
		return fmt.Errorf("clearing %s from offset %d to land it again: %w", p.place, plan.Last+1, err)
	}
	if plan.Last < plan.First {
		return nil // Kafka holds everything
	}
	want := plan.Last - plan.First + 1
	if row.Expired = uint64(max(0, want-records(&row))); records(&row) != want {
		return component.Fatal(fmt.Errorf("landing %s again: the database has %d rows of the %d records before offset %d: some landed twice; see `autohedge query`",
			p.place, records(&row), want, plan.Last+1))
	}
	if err := p.prove(ctx, row); err != nil {
		return err
	}
	p.role.metrics.expired.Add(float64(row.Expired))
	return nil
}

// explainLost names the command that goes on where a table, or the database, is gone.
func explainLost(err error) error {
	if !errors.Is(err, clickhouse.ErrLost) {
		return err
	}
	return fmt.Errorf("%w; if the database was lost, `autohedge sinks reland` lands everything that Kafka still holds again", err)
}

package agents

import (
	"context"
	"fmt"
	"sync"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// holdings is what topic positions says, as far as it was read. It is behind
// execution by the time a record takes: the hard limits there decide.
type holdings struct {
	mu   sync.RWMutex
	m    map[holding]held
	next map[int32]int64 // by partition: the first offset that is not in it
}

type holding struct{ account, strategy, venue, symbol string }

type held struct {
	*event.Position
	partition int32
}

func newHoldings() *holdings {
	return &holdings{m: make(map[holding]held), next: make(map[int32]int64)}
}

// take applies a record of the topic; what it does not know has no effect.
func (h *holdings) take(partition int32, offset int64, m event.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next[partition] = max(h.next[partition], offset+1)
	p, ok := m.(*event.Position)
	if !ok {
		return
	}
	k := holding{p.Account, p.Strategy, p.Venue, p.Symbol}
	if old := h.m[k]; old.Position == nil || p.Version > old.Version {
		h.m[k] = held{p, partition}
	}
}

// quantity is what the strategy holds of the symbol, signed. A strategy closes
// its own position, never another's.
func (h *holdings) quantity(account, strategy, venue, symbol string) event.Decimal {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if p := h.m[holding{account, strategy, venue, symbol}]; p.Position != nil {
		return p.Qty
	}
	return event.Decimal{}
}

// steps is what topic instruments says of price ticks and quantity steps.
type steps struct {
	mu sync.RWMutex
	m  map[[2]string]*event.Instrument // venue, symbol
}

func newSteps() *steps { return &steps{m: make(map[[2]string]*event.Instrument)} }

func (s *steps) take(_ int32, _ int64, m event.Message) {
	if i, ok := m.(*event.Instrument); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.m[[2]string{i.Venue, i.Symbol}] = i
	}
}

// of returns tick and step, zero where they are not known.
func (s *steps) of(venue, symbol string) (tick, step event.Decimal) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if i := s.m[[2]string{venue, symbol}]; i != nil {
		return i.PriceTick, i.QtyStep
	}
	return tick, step
}

// follow reads positions, from where the workers' snapshots hold them, and
// instruments, then keeps following them in the background; a failure there ends
// the role by fail. stop returns when the followers have ended, after ctx.
func (r *Role) follow(ctx context.Context, fail context.CancelCauseFunc) (stop func(), err error) {
	var wg sync.WaitGroup
	for topic, take := range map[string]func(int32, int64, event.Message){event.TopicPositions: r.holdings.take, event.TopicInstruments: r.steps.take} {
		for p := range r.client.Partitions(topic) {
			from := bus.FromStart
			if topic == event.TopicPositions {
				if from, err = r.recall(ctx, p); err != nil {
					return nil, fmt.Errorf("reading %s/%d: %w", topic, p, err)
				}
			}
			end, err := r.client.ReadAll(ctx, topic, p, from, func(rec bus.Record) error {
				if topic == event.TopicPositions {
					r.metrics.replayed.Inc()
				}
				r.learn(rec, take)
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("reading %s/%d: %w", topic, p, err)
			}
			reader, err := r.client.NewReader(ctx, bus.ReaderConfig{Topic: topic, Partition: p, Offset: end}, r.env)
			if err != nil {
				return nil, fmt.Errorf("following %s/%d: %w", topic, p, err)
			}
			wg.Go(func() {
				defer reader.Close()
				for {
					records, err := reader.Next(ctx)
					if ctx.Err() != nil {
						return
					}
					if err != nil {
						fail(fmt.Errorf("following %s/%d: %w", topic, p, err))
						return
					}
					for _, rec := range records {
						r.learn(rec, take)
					}
				}
			})
		}
	}
	return wg.Wait, nil
}

// recall takes the positions of a partition from the snapshot of the worker of that
// number, and returns from where on they are to be read.
func (r *Role) recall(ctx context.Context, partition int32) (from int64, err error) {
	_, s, err := r.load(ctx, partition)
	if err != nil || s == nil {
		return bus.FromStart, err
	}
	for _, b := range s.Holdings {
		p, err := event.DecodeAs[*event.Position](b)
		if err != nil {
			return 0, err
		}
		r.holdings.take(partition, s.Positions-1, p)
	}
	return s.Positions, nil
}

// learn applies one record. What cannot be decoded is for the sinks to report:
// every record passes them.
func (r *Role) learn(rec bus.Record, take func(int32, int64, event.Message)) {
	m, err := event.Decode(rec.Value)
	if err != nil {
		m = nil
	}
	take(rec.Partition, rec.Offset, m)
}

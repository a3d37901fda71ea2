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
	mu sync.RWMutex
	m  map[holding]*event.Position
}

type holding struct{ account, strategy, venue, symbol string }

func newHoldings() *holdings { return &holdings{m: make(map[holding]*event.Position)} }

func (h *holdings) apply(m event.Message) {
	p, ok := m.(*event.Position)
	if !ok {
		return
	}
	k := holding{p.Account, p.Strategy, p.Venue, p.Symbol}
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.m[k]; old == nil || p.Version > old.Version {
		h.m[k] = p
	}
}

// quantity is what the strategy holds of the symbol, signed. A strategy closes
// its own position, never another's.
func (h *holdings) quantity(account, strategy, venue, symbol string) event.Decimal {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if p := h.m[holding{account, strategy, venue, symbol}]; p != nil {
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

func (s *steps) apply(m event.Message) {
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

// follow reads positions and instruments whole, then keeps following them in the
// background; a failure there ends the role by fail. stop returns when the
// followers have ended, after ctx.
func (r *Role) follow(ctx context.Context, fail context.CancelCauseFunc) (stop func(), err error) {
	var wg sync.WaitGroup
	for topic, apply := range map[string]func(event.Message){event.TopicPositions: r.holdings.apply, event.TopicInstruments: r.steps.apply} {
		for p := range r.client.Partitions(topic) {
			end, err := r.client.ReadAll(ctx, topic, p, bus.FromStart, func(rec bus.Record) error {
				r.learn(rec, apply)
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
						r.learn(rec, apply)
					}
				}
			})
		}
	}
	return wg.Wait, nil
}

// learn applies one record. What cannot be decoded is for the sinks to report:
// every record passes them.
func (r *Role) learn(rec bus.Record, apply func(event.Message)) {
	if m, err := event.Decode(rec.Value); err == nil {
		apply(m)
	}
}

package signals

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// ruleStore knows the rule sets that control carries, by their hash. It is safe
// for concurrent use.
type ruleStore struct {
	client *bus.Client

	mu     sync.Mutex
	bodies map[event.ID][]byte
	sets   map[event.ID]*RuleSet
}

func newRuleStore(client *bus.Client) *ruleStore {
	return &ruleStore{client: client, bodies: make(map[event.ID][]byte), sets: make(map[event.ID]*RuleSet)}
}

// load reads control whole.
func (s *ruleStore) load(ctx context.Context) error {
	_, err := s.client.ReadAll(ctx, event.TopicControl, 0, bus.FromStart, func(rec bus.Record) error {
		if event.TypeOf(rec.Value) != event.TypeControl {
			return nil
		}
		c, err := event.DecodeAs[*event.Control](rec.Value)
		if err != nil {
			return fmt.Errorf("reading control at offset %d: %w", rec.Offset, err)
		}
		if c.Kind == event.ControlRules {
			s.mu.Lock()
			s.bodies[c.Hash] = bytes.Clone(c.Body)
			s.mu.Unlock()
		}
		return nil
	})
	return err
}

// offer publishes the set unless control has it.
func (s *ruleStore) offer(ctx context.Context, p *bus.Producer, set *RuleSet, now int64) error {
	if err := s.load(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	_, known := s.bodies[set.Hash]
	s.sets[set.Hash] = set
	s.mu.Unlock()
	if known {
		return nil
	}
	// The identity follows from the set: two processes that publish it at once
	// write the same record twice.
	c := &event.Control{ID: event.Hash([]byte("rules"), set.Hash[:]), Kind: event.ControlRules, Scope: "all", Who: "signals",
		Why: "rule set of the configuration", Time: now, Hash: set.Hash, Body: set.Body}
	if _, _, err := p.Publish(ctx, event.TopicControl, []byte("all"), c); err != nil {
		return fmt.Errorf("publishing rule set %s: %w", set.Hash, err)
	}
	return nil
}

// get returns the set of that hash; what is not known yet is looked for in
// control once more.
func (s *ruleStore) get(ctx context.Context, hash event.ID) (*RuleSet, error) {
	s.mu.Lock()
	set, body := s.sets[hash], s.bodies[hash]
	s.mu.Unlock()
	if set != nil {
		return set, nil
	}
	if body == nil {
		if err := s.load(ctx); err != nil {
			return nil, err
		}
		s.mu.Lock()
		body = s.bodies[hash]
		s.mu.Unlock()
		if body == nil {
			return nil, component.Fatal(fmt.Errorf("restoring rules: state.signals names rule set %s, which control does not have: restore topic control, or begin anew with empty topics", hash))
		}
	}
	set, err := ParseRuleSet(body)
	if err != nil {
		return nil, component.Fatal(fmt.Errorf("restoring rule set %s from control: %w", hash, err))
	}
	if set.Hash != hash {
		return nil, component.Fatal(fmt.Errorf("restoring rule set %s from control: its body has hash %s", hash, set.Hash))
	}
	s.mu.Lock()
	s.sets[hash] = set
	s.mu.Unlock()
	return set, nil
}

package signals

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// ruleStore knows the rule sets that control carries, by their hash. It is safe
// for concurrent use.
type ruleStore struct {
	client *bus.Client
	log    *slog.Logger

	mu   sync.Mutex
	sets map[event.ID]*RuleSet
	// compared are the pairs of sets whose difference the log has.
	compared map[[2]event.ID]bool
}

func newRuleStore(client *bus.Client, log *slog.Logger) *ruleStore {
	return &ruleStore{client: client, log: log, sets: make(map[event.ID]*RuleSet), compared: make(map[[2]event.ID]bool)}
}

// load reads control whole. A record that is no rule set, or not the one that it is
// named after, is passed over: what it would have been is then missing.
func (s *ruleStore) load(ctx context.Context) error {
	_, err := s.client.ReadAll(ctx, event.TopicControl, 0, bus.FromStart, func(rec bus.Record) error {
		if event.TypeOf(rec.Value) != event.TypeControl {
			return nil
		}
		c, err := event.DecodeAs[*event.Control](rec.Value)
		if err != nil || c.Kind != event.ControlRules {
			return nil //nolint:nilerr // execution halts on a control record that cannot be read
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.sets[c.Hash] != nil {
			return nil
		}
		set, err := ParseRuleSet(bytes.Clone(c.Body))
		switch {
		case err != nil:
			s.log.Warn("a rule set in control cannot be read", "offset", rec.Offset, "rule_set", c.Hash.String(), "err", err)
		case set.Hash != c.Hash:
			s.log.Warn("a rule set in control is not the one that it is named after", "offset", rec.Offset, "rule_set", c.Hash.String(), "body", set.Hash.String())
		default:
			s.sets[c.Hash] = set
			for _, why := range set.Inert() {
				s.log.Warn("a stored rule cannot run in this build: where the log is replayed under it, it fires nothing", "rule_set", c.Hash.String(), "rule", why)
			}
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
	_, known := s.sets[set.Hash]
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

// get returns the set of that hash; what is not known yet is looked for in control
// once more. A set that control does not have is one without rules: what is
// replayed under it fires nothing, and the cooldowns of its rules are those that a
// snapshot names.
func (s *ruleStore) get(ctx context.Context, hash event.ID) (*RuleSet, error) {
	if set := s.lookUp(hash); set != nil {
		return set, nil
	}
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.sets[hash]
	if set == nil {
		s.log.Error("state.signals names a rule set that control does not have: what is replayed under it fires nothing", "rule_set", hash.String())
		set = &RuleSet{Hash: hash}
	}
	return set, nil
}

func (s *ruleStore) lookUp(hash event.ID) *RuleSet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sets[hash]
}

// logEdit logs what differs between the set that was and the one that follows, once
// a process.
func (s *ruleStore) logEdit(before, next *RuleSet) {
	s.mu.Lock()
	pair := [2]event.ID{before.Hash, next.Hash}
	known := s.compared[pair]
	s.compared[pair] = true
	s.mu.Unlock()
	if known {
		return
	}
	e := before.Compare(next)
	s.log.Info("the rules were edited", "from", before.Hash.String(), "to", next.Hash.String(), "unchanged", e.Unchanged,
		"keep_state", e.Kept, "begin_as_after_a_hole", e.Restarted, "added", e.Added, "removed", e.Removed)
}

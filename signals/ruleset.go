package signals

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/autohedge/autohedge/signals/indicator"
	"github.com/autohedge/autohedge/stream/event"
)

// semantics is part of every hash: it changes when the same rule would fire
// otherwise than before, so that a replay never mixes the two.
const semantics = 1

// duration is written as text in the canonical form.
type duration time.Duration

// MarshalText writes the form of time.Duration.
func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads the form of time.Duration.
func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = duration(v)
	return err
}

// canonicalRule is a rule as it is hashed and stored: with its account, with
// every parameter, in this order of fields. A new field must be omitted when it
// is empty, or every rule gets another hash.
type canonicalRule struct {
	Semantics     int            `json:"semantics"`
	Name          string         `json:"name"`
	Strategy      string         `json:"strategy"`
	Account       string         `json:"account"`
	Venues        []string       `json:"venues"`
	Symbols       []string       `json:"symbols"`
	Indicator     string         `json:"indicator"`
	Params        map[string]any `json:"params"` // by name: encoding/json sorts
	Source        string         `json:"source"`
	Threshold     float64        `json:"threshold"`
	Direction     string         `json:"direction"`
	Side          event.Side     `json:"side"`
	Hysteresis    float64        `json:"hysteresis"`
	DebounceTicks int            `json:"debounce_ticks"`
	Debounce      duration       `json:"debounce"`
	Cooldown      duration       `json:"cooldown"`
	Horizon       duration       `json:"horizon"`
	TTL           duration       `json:"ttl"`
	MaxDriftBps   event.Decimal  `json:"max_drift_bps"`
}

// RuleSet is a list of rules, named by its hash. It is not changed after it was
// made and may be shared.
type RuleSet struct {
	// Hash names the set: it covers the bytes of every rule in order.
	Hash event.ID
	// Body is the canonical form, from which ParseRuleSet makes the same set.
	Body []byte
	// rules are all rules in order; those that this build cannot run are inert.
	rules []*rule
}

// Inert describes the rules of a stored set that this build cannot run, one text
// each: they keep their names, hashes and cooldowns, and fire nothing.
func (s *RuleSet) Inert() []string {
	var list []string
	for _, r := range s.rules {
		if r.inert != nil {
			list = append(list, fmt.Sprintf("%s: %v", r.Name, r.inert))
		}
	}
	return list
}

// CompileRules makes the rule set of a valid configuration.
func CompileRules(cfg Config) (*RuleSet, error) {
	if err := cfg.Validate().Err(); err != nil {
		return nil, fmt.Errorf("compiling rules: %w", err)
	}
	accounts := make(map[string]string, len(cfg.Strategies))
	for _, s := range cfg.Strategies {
		accounts[s.Name] = s.Account
	}
	list := make([]canonicalRule, 0, len(cfg.Rules))
	for i := range cfg.Rules {
		c := &cfg.Rules[i]
		params, problems := indicator.Decode(c.Indicator, c.Params)
		if err := problems.Err(); err != nil {
			return nil, fmt.Errorf("compiling rule %s: %w", c.Name, err)
		}
		list = append(list, canonicalRule{
			Semantics: semantics, Name: c.Name, Strategy: c.Strategy, Account: accounts[c.Strategy],
			Venues: noNil(c.Venues), Symbols: noNil(c.Symbols),
			Indicator: c.Indicator, Params: indicator.Encode(params), Source: c.Source,
			Threshold: c.Threshold, Direction: c.Direction, Side: c.Side, Hysteresis: c.Hysteresis,
			DebounceTicks: max(c.DebounceTicks, 1), Debounce: duration(c.Debounce), Cooldown: duration(c.Cooldown),
			Horizon: duration(c.Horizon), TTL: duration(c.TTL), MaxDriftBps: c.MaxDriftBps,
		})
	}
	return compile(list)
}

// noNil keeps an absent list and an empty one from having two hashes.
func noNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// ParseRuleSet makes the rule set whose canonical form is body, as a control
// record carries it. Hashes are those of the stored bytes, whatever this build
// would write: a parameter that the body lacks has this build's default. A rule
// that this build cannot run, because it has another semantics, an indicator or
// a field that is not known here, becomes inert.
func ParseRuleSet(body []byte) (*RuleSet, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	var raws []json.RawMessage
	if err := d.Decode(&raws); err != nil {
		return nil, fmt.Errorf("parsing rule set: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("parsing rule set: something follows it")
	}
	set := &RuleSet{Body: body}
	for _, raw := range raws {
		set.rules = append(set.rules, parseRule(raw))
	}
	set.sum()
	return set, nil
}

// parseRule makes a rule of its stored bytes; it never fails, see ParseRuleSet.
func parseRule(raw json.RawMessage) *rule {
	var c canonicalRule
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	err := d.Decode(&c)
	if err == nil {
		var r *rule
		if r, err = compileRule(c, raw); err == nil {
			return r
		}
	}
	var named struct {
		Name string `json:"name"`
	}
	if json.Unmarshal(raw, &named) != nil || named.Name == "" {
		named.Name = "without a name"
	}
	return &rule{canonicalRule: canonicalRule{Name: named.Name}, hash: event.Hash(raw), inert: err}
}

// compile makes a set of rules in their canonical form; each must be one that
// this build can run.
func compile(list []canonicalRule) (*RuleSet, error) {
	set := &RuleSet{}
	for i := range list {
		raw, err := json.Marshal(list[i])
		if err != nil {
			return nil, fmt.Errorf("encoding rule %s: %w", list[i].Name, err)
		}
		r, err := compileRule(list[i], raw)
		if err != nil {
			return nil, fmt.Errorf("compiling rule %s: %w", list[i].Name, err)
		}
		set.rules = append(set.rules, r)
	}
	body, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("encoding rule set: %w", err)
	}
	set.Body = body
	set.sum()
	return set, nil
}

// sum names the set after its rules' hashes, and tells each rule its place.
func (s *RuleSet) sum() {
	hashes := make([][]byte, 0, len(s.rules))
	for i, r := range s.rules {
		r.place = i
		hashes = append(hashes, r.hash[:])
	}
	s.Hash = event.Hash(hashes...)
}

// compileRule makes a rule that runs; raw is its stored form, which names it.
func compileRule(c canonicalRule, raw []byte) (*rule, error) {
	if c.Semantics != semantics {
		return nil, fmt.Errorf("it was written for rule semantics %d, this build has %d", c.Semantics, semantics)
	}
	spec, err := indicator.Registry.Lookup(c.Indicator)
	if err != nil {
		return nil, err
	}
	params, problems := indicator.Decode(c.Indicator, c.Params)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	c.Params = indicator.Encode(params) // one form, whether from JSON or from a configuration
	watch, err := json.Marshal([]any{c.Indicator, c.Params, c.Source})
	if err != nil {
		return nil, fmt.Errorf("encoding: %w", err)
	}
	r := &rule{
		canonicalRule: c, hash: event.Hash(raw), watch: string(watch), cfg: params, form: spec.New.StateForm,
		source: indicator.Trades, side: c.Side,
		debounce: int64(c.Debounce), cooldown: int64(c.Cooldown), horizon: int64(c.Horizon), ttl: int64(c.TTL),
		drift: c.MaxDriftBps, leastRuns: c.DebounceTicks,
	}
	if c.Source == SourceQuote {
		r.source = indicator.Quotes
	}
	r.up = c.Direction == Above || c.Direction == CrossUp
	r.crossing = c.Direction == CrossUp || c.Direction == CrossDown
	if r.quiet = c.Threshold + c.Hysteresis; r.up {
		r.quiet = c.Threshold - c.Hysteresis
	}
	if _, err := spec.New.New(params); err != nil {
		return nil, err
	}
	return r, nil
}

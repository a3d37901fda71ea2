package agents

import (
	"time"

	"github.com/autohedge/autohedge/agents/desk"
	"github.com/autohedge/autohedge/agents/llm"
	"github.com/autohedge/autohedge/stream/component"
)

// Desks that can be configured.
const (
	DeskAuto          = "auto"
	DeskDeterministic = "deterministic"
	DeskLLM           = "llm"
)

// Config is the role's configuration.
type Config struct {
	Desk        string      `yaml:"desk" doc:"who judges: deterministic (rules in Go), llm, or auto (llm where llm.base_url or llm.api_key is set)"`
	Concurrency int         `yaml:"concurrency" doc:"signals judged at once; those of one symbol always follow one another"`
	LLM         llm.Config  `yaml:"llm" doc:"the model behind the llm desk"`
	Budget      desk.Budget `yaml:"budget" doc:"how much one decision may move"`
	Quote       desk.Quote  `yaml:"quote" doc:"market state in which the desk abstains"`
	Policy      desk.Policy `yaml:"policy" doc:"what the deterministic desk judges by"`
	OnFailure   string      `yaml:"on_failure" doc:"what is done about a signal against a position when the model gives no answer in time: reduce_only (the deterministic rules close the position) or none (abstain)"`
}

// DefaultConfig is the deterministic desk, until an endpoint is configured.
func DefaultConfig() Config {
	d := desk.DefaultConfig()
	return Config{Desk: DeskAuto, Concurrency: 16, LLM: llm.DefaultConfig(), Budget: d.Budget, Quote: d.Quote, Policy: d.Policy, OnFailure: d.OnFailure}
}

// UsesLLM reports whether the configuration asks a model.
func (c *Config) UsesLLM() bool {
	return c.Desk == DeskLLM || (c.Desk == DeskAuto && c.LLM.Enabled())
}

// Validate implements component.Validator.
func (c *Config) Validate() component.Problems {
	var p component.Problems
	switch c.Desk {
	case DeskAuto, DeskDeterministic, DeskLLM:
	default:
		p.Addf("desk", "is %q: want auto, deterministic or llm", c.Desk)
	}
	if c.Desk == DeskLLM && !c.LLM.Enabled() {
		p.Addf("llm.base_url", "is empty: desk llm needs llm.base_url or llm.api_key")
	}
	if c.Desk == DeskDeterministic && c.LLM.Enabled() {
		p.Warnf("desk", "is deterministic: the endpoint in llm is not used")
	}
	if c.OnFailure != desk.OnFailureReduceOnly && c.OnFailure != desk.OnFailureNone {
		p.Addf("on_failure", "is %q: want %s or %s", c.OnFailure, desk.OnFailureReduceOnly, desk.OnFailureNone)
	}
	if c.Concurrency < 1 || c.Concurrency > 1024 {
		p.Addf("concurrency", "is %d: want 1 to 1024", c.Concurrency)
	}
	p.Under("llm", c.LLM.Validate())
	p.Under("budget", c.Budget.Validate())
	p.Under("quote", c.Quote.Validate())
	p.Under("policy", c.Policy.Validate())
	return p
}

// CycleLatency is about how long the desk takes for one signal: 0 for rules in Go.
func (c *Config) CycleLatency() time.Duration {
	if !c.UsesLLM() {
		return 0
	}
	return desk.Calls * c.LLM.UsualLatency
}

func (c *Config) desk() desk.Config {
	return desk.Config{Budget: c.Budget, Quote: c.Quote, Policy: c.Policy, OnFailure: c.OnFailure}
}

var _ component.Validator = (*Config)(nil)

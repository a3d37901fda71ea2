package llm

import (
	"net/url"
	"time"

	"github.com/autohedge/autohedge/stream/component"
)

// DefaultBaseURL is used when only a key is given.
const DefaultBaseURL = "https://api.openai.com/v1"

// TemperatureUnset leaves the sampling temperature to the provider.
const TemperatureUnset = -1

// Config is how to reach a model.
type Config struct {
	BaseURL          string           `yaml:"base_url" doc:"OpenAI-compatible endpoint, up to /v1; empty with a key is OpenAI's own"`
	APIKey           component.Secret `yaml:"api_key" doc:"bearer token of the endpoint; empty sends none"`
	Model            string           `yaml:"model" doc:"model id as the endpoint names it; pin a dated snapshot where there is one"`
	Timeout          time.Duration    `yaml:"timeout" doc:"longest wait for one answer; the signal's deadline may end it earlier"`
	UsualLatency     time.Duration    `yaml:"usual_latency" doc:"how long one answer usually takes; a signal waits for five of them, and check warns where a rule's ttl is shorter"`
	MaxTokens        int              `yaml:"max_tokens" doc:"most tokens of one answer, hidden reasoning included"`
	Temperature      float64          `yaml:"temperature" doc:"sampling temperature 0 to 2; -1 sends none, as reasoning models demand"`
	ReasoningEffort  string           `yaml:"reasoning_effort" doc:"none, minimal, low, medium, high, xhigh or max; empty sends none"`
	MaxResponseBytes int              `yaml:"max_response_bytes" doc:"longest HTTP body that is read; a longer one is no answer"`
}

// DefaultConfig reaches nothing: a base URL or a key turns the model on.
func DefaultConfig() Config {
	return Config{
		Model:            "gpt-4.1-mini",
		Timeout:          8 * time.Second,
		UsualLatency:     800 * time.Millisecond,
		MaxTokens:        600,
		Temperature:      TemperatureUnset,
		MaxResponseBytes: 256 << 10,
	}
}

// Enabled reports whether the configuration names an endpoint at all.
func (c *Config) Enabled() bool { return c.BaseURL != "" || !c.APIKey.IsZero() }

// Validate implements component.Validator.
func (c *Config) Validate() component.Problems {
	var p component.Problems
	if c.BaseURL != "" {
		u, err := url.Parse(c.BaseURL)
		switch {
		case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
			p.Addf("base_url", "want http://HOST[:PORT]/... or https://HOST[:PORT]/...")
		case u.User != nil:
			p.Addf("base_url", "must not carry credentials: use api_key")
		case u.RawQuery != "" || u.Fragment != "":
			p.Addf("base_url", "must not carry a query or a fragment")
		case u.Scheme == "http" && !c.APIKey.IsZero() && !loopback(u.Hostname()):
			p.Warnf("base_url", "sends the api_key unencrypted: use https")
		}
	}
	if c.Enabled() && c.Model == "" {
		p.Addf("model", "is empty: name a model of the endpoint")
	}
	if c.Timeout < 100*time.Millisecond || c.Timeout > 10*time.Minute {
		p.Addf("timeout", "is %s: want 100ms to 10m", c.Timeout)
	}
	if c.MaxTokens < 16 || c.MaxTokens > 100_000 {
		p.Addf("max_tokens", "is %d: want 16 to 100000", c.MaxTokens)
	}
	if c.Temperature != TemperatureUnset && !(c.Temperature >= 0 && c.Temperature <= 2) {
		p.Addf("temperature", "is %v: want 0 to 2, or -1 to send none", c.Temperature)
	}
	switch c.ReasoningEffort {
	case "", "none", "minimal", "low", "medium", "high", "xhigh", "max":
	default:
		p.Addf("reasoning_effort", "is %q: want none, minimal, low, medium, high, xhigh, max, or nothing", c.ReasoningEffort)
	}
	if c.MaxResponseBytes < 4<<10 || c.MaxResponseBytes > 512<<10 {
		p.Addf("max_response_bytes", "is %d: want 4096 to 524288, so that an exchange fits one journal record", c.MaxResponseBytes)
	}
	if c.UsualLatency <= 0 {
		p.Addf("usual_latency", "is %s: want more than 0s", c.UsualLatency)
	}
	return p
}

func loopback(host string) bool {
	return host == "localhost" || host == "127.0.0.1" || host == "::1"
}

var _ component.Validator = (*Config)(nil)

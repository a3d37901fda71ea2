package llm

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/autohedge/autohedge/agents/llm/llmtest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

const testKey = "sk-test-0123456789abcdef"

func testClient(url string) *Client {
	cfg := DefaultConfig()
	cfg.BaseURL, cfg.APIKey, cfg.Model, cfg.Timeout = url, component.NewSecret(testKey), "test-model", 2*time.Second
	return New(cfg)
}

var question = Request{System: "contract", User: "data", SchemaName: "thesis",
	Schema: json.RawMessage(`{"type":"object","properties":{},"required":[],"additionalProperties":false}`)}

func TestComplete(t *testing.T) {
	s := llmtest.Start(t, func(llmtest.Call) llmtest.Reply { return llmtest.Answer(`{"a":1}`) })
	c := testClient(s.URL)
	defer c.Close()
	x := c.Complete(t.Context(), question)
	if x.Outcome != event.OutcomeOK || x.Content != `{"a":1}` || x.Status != 200 || x.Error != "" {
		t.Fatalf("got %+v", x)
	}
	if x.InputTokens != 120 || x.OutputTokens != 30 || x.CachedTokens != 100 || x.ModelReturned != "test-model-2026-01-01" {
		t.Errorf("usage: got %+v", x)
	}
	calls := s.Calls()
	if len(calls) != 1 {
		t.Fatalf("server saw %d calls, want 1", len(calls))
	}
	call := calls[0]
	if !bytes.Equal(call.Body, x.Request) {
		t.Errorf("recorded request differs from what the server read")
	}
	if !call.Strict || call.Model != "test-model" || call.Header.Get("Authorization") != "Bearer "+testKey {
		t.Errorf("request: strict %v, model %q, authorization %q", call.Strict, call.Model, call.Header.Get("Authorization"))
	}
	var body map[string]any
	if err := json.Unmarshal(x.Request, &body); err != nil {
		t.Fatal(err)
	}
	if _, has := body["temperature"]; has {
		t.Errorf("temperature is sent though it is not set")
	}
	if body["max_completion_tokens"] != float64(600) {
		t.Errorf("max_completion_tokens is %v", body["max_completion_tokens"])
	}

	// The same exchange from the record gives the same answer and calls nobody.
	y := c.Replay(t.Context(), question, Recorded{Status: x.Status, Response: x.Response, Outcome: x.Outcome, Latency: x.Latency,
		ModelReturned: x.ModelReturned, InputTokens: x.InputTokens, OutputTokens: x.OutputTokens, CachedTokens: x.CachedTokens})
	if y.Content != x.Content || y.Outcome != x.Outcome || y.InputTokens != x.InputTokens || y.Latency != x.Latency {
		t.Errorf("replay: got %+v, want as %+v", y, x)
	}
	if n := len(s.Calls()); n != 1 {
		t.Errorf("replay called the endpoint: %d calls", n)
	}
}

func TestOutcomes(t *testing.T) {
	good := llmtest.Answer(`{"a":1}`).Body
	tests := []struct {
		name   string
		reply  llmtest.Reply
		want   event.Outcome
		text   string // in Error
		status int
	}{
		{"refusal", llmtest.Refusal("I will not"), event.OutcomeRefusal, "I will not", 200},
		{"truncated", llmtest.Truncated(`{"a":`), event.OutcomeTruncated, "600 tokens", 200},
		{"reasoning ate the cap", llmtest.Truncated(""), event.OutcomeTruncated, "600 tokens", 200},
		{"filter", llmtest.Filtered(`{"a"`), event.OutcomeFiltered, "filter", 200},
		{"filter as 400", llmtest.Error(400, "content_filter", "policy"), event.OutcomeFiltered, "policy", 400},
		{"429", llmtest.Error(429, "rate_limit_exceeded", "slow down"), event.OutcomeRateLimited, "slow down", 429},
		{"quota", llmtest.Error(429, "insufficient_quota", "pay"), event.OutcomeRateLimited, "pay", 429},
		{"500", llmtest.Error(500, "server_error", "oops"), event.OutcomeProviderError, "oops", 500},
		{"500 of a proxy", llmtest.Reply{Status: 502, Body: "<html>bad gateway</html>"}, event.OutcomeProviderError, "bad gateway", 502},
		{"error is a string", llmtest.Reply{Status: 500, Body: `{"error":"text"}`}, event.OutcomeProviderError, "text", 500},
		{"wrong key", llmtest.Error(401, "invalid_api_key", "Incorrect API key: "+testKey), event.OutcomeProviderError, "<secret>", 401},
		{"redirect", llmtest.Reply{Status: 307, Header: map[string]string{"Location": "http://127.0.0.1:1/"}}, event.OutcomeProviderError, "307", 307},
		{"garbage", llmtest.Reply{Body: "\x00\xff garbage"}, event.OutcomeProviderError, "reading", 200},
		{"html", llmtest.Reply{Body: "<html><body>login</body></html>"}, event.OutcomeProviderError, "reading", 200},
		{"empty body", llmtest.Reply{}, event.OutcomeProviderError, "EOF", 200},
		{"cut body", llmtest.Reply{Body: good[:len(good)/2]}, event.OutcomeProviderError, "reading", 200},
		{"trailing body", llmtest.Reply{Body: good + good}, event.OutcomeProviderError, "goes on", 200},
		{"two sets of choices", llmtest.Reply{Body: strings.Replace(good, `"choices"`, `"Choices":[],"choices"`, 1)}, event.OutcomeProviderError, "twice", 200},
		{"200 with an error", llmtest.Reply{Body: `{"error":{"message":"upstream is down","code":502}}`}, event.OutcomeProviderError, "upstream is down", 200},
		{"no choices", llmtest.Reply{Body: `{"choices":[]}`}, event.OutcomeProviderError, "no choices", 200},
		{"two choices", llmtest.Reply{Body: `{"choices":[{"finish_reason":"stop","message":{"content":"a"}},{"finish_reason":"stop","message":{"content":"b"}}]}`}, event.OutcomeSchema, "2 choices", 200},
		{"empty answer", llmtest.Answer(""), event.OutcomeSchema, "empty", 200},
		{"no finish reason", llmtest.Reply{Body: `{"choices":[{"message":{"content":"{}"}}]}`}, event.OutcomeSchema, "finish reason", 200},
		{"tool call", llmtest.Reply{Body: `{"choices":[{"finish_reason":"tool_calls","message":{"tool_calls":[{"id":"1","type":"function","function":{"name":"buy","arguments":"{}"}}]}}]}`}, event.OutcomeSchema, "tool", 200},
		{"too long", llmtest.Reply{Body: `{"choices":[],"x":"` + strings.Repeat("a", 300<<10) + `"}`}, event.OutcomeProviderError, "longer than", 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := llmtest.Start(t, func(llmtest.Call) llmtest.Reply { return tt.reply })
			c := testClient(s.URL)
			defer c.Close()
			x := c.Complete(t.Context(), question)
			if x.Outcome != tt.want || !strings.Contains(x.Error, tt.text) || x.Status != tt.status {
				t.Errorf("got %s, status %d, %q; want %s, status %d, with %q", x.Outcome, x.Status, x.Error, tt.want, tt.status, tt.text)
			}
			if x.Content != "" {
				t.Errorf("content %q came through", x.Content)
			}
			if len(s.Calls()) != 1 {
				t.Errorf("%d calls, want one attempt", len(s.Calls()))
			}
			if len(x.Request) == 0 {
				t.Errorf("request was not recorded")
			}
			want := strings.ReplaceAll(tt.reply.Body, testKey, "<secret>")
			if got := string(x.Response); got != want && tt.name != "too long" {
				t.Errorf("recorded response is %.80q, want %.80q", got, want)
			}
			if bytes.Contains(append(x.Response, x.Error...), []byte(testKey)) {
				t.Errorf("the key is in the record")
			}
			if len(x.Error) > 300 {
				t.Errorf("error has %d bytes", len(x.Error))
			}
		})
	}
}

func TestTimeouts(t *testing.T) {
	s := llmtest.Start(t, func(llmtest.Call) llmtest.Reply { return llmtest.Reply{Delay: time.Minute} })
	t.Run("of the context", func(t *testing.T) {
		c := testClient(s.URL)
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if x := c.Complete(ctx, question); x.Outcome != event.OutcomeTimeout || len(x.Request) == 0 || x.Status != 0 {
			t.Errorf("got %+v", x)
		}
	})
	t.Run("of the client", func(t *testing.T) {
		cfg := DefaultConfig()
		cfg.BaseURL, cfg.Timeout = s.URL, 50*time.Millisecond
		c := New(cfg)
		defer c.Close()
		if x := c.Complete(t.Context(), question); x.Outcome != event.OutcomeTimeout {
			t.Errorf("got %+v", x)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		c := testClient("http://127.0.0.1:1/v1")
		defer c.Close()
		if x := c.Complete(t.Context(), question); x.Outcome != event.OutcomeProviderError || x.Status != 0 {
			t.Errorf("got %+v", x)
		}
	})
}

// An endpoint that asks to be left alone is left alone: the next call waits if
// that fits its deadline, else it is not made.
func TestRetryAfter(t *testing.T) {
	limited := llmtest.Error(http.StatusTooManyRequests, "rate_limit_exceeded", "slow down")
	limited.Header = map[string]string{"Retry-After": "0.4"}
	s := llmtest.Start(t, func(c llmtest.Call) llmtest.Reply {
		if c.N == 0 {
			return limited
		}
		return llmtest.Answer(`{}`)
	})
	c := testClient(s.URL)
	defer c.Close()
	start := time.Now()
	if x := c.Complete(t.Context(), question); x.Outcome != event.OutcomeRateLimited || x.RetryAfter != 400*time.Millisecond {
		t.Fatalf("got %+v", x)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if x := c.Complete(ctx, question); x.Outcome != event.OutcomeRateLimited || !strings.Contains(x.Error, "not called") || len(s.Calls()) != 1 {
		t.Fatalf("got %+v after %d calls, want no second call", x, len(s.Calls()))
	}
	if x := c.Complete(t.Context(), question); x.Outcome != event.OutcomeOK {
		t.Fatalf("got %+v", x)
	}
	if d := time.Since(start); d < 400*time.Millisecond {
		t.Errorf("called again after %s, asked to wait 400ms", d)
	}
}

func TestRetryAfterHeader(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "2": 2 * time.Second, "0": 0, "-5": 0, "NaN": 0, "1e300": maxRetryAfter, "86400": maxRetryAfter, "soon": 0,
		now.Add(3 * time.Second).Format(http.TimeFormat):  3 * time.Second,
		now.Add(-3 * time.Second).Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {text}}, now); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func TestTemperature(t *testing.T) {
	for set, want := range map[float64]any{TemperatureUnset: nil, 0: 1e-45, 0.5: 0.5} {
		s := llmtest.Start(t, func(llmtest.Call) llmtest.Reply { return llmtest.Answer(`{}`) })
		cfg := DefaultConfig()
		cfg.BaseURL, cfg.Temperature = s.URL, set
		c := New(cfg)
		x := c.Complete(t.Context(), question)
		c.Close()
		var body map[string]any
		if err := json.Unmarshal(x.Request, &body); err != nil {
			t.Fatal(err)
		}
		if body["temperature"] != want {
			t.Errorf("temperature %v is sent as %v, want %v", set, body["temperature"], want)
		}
	}
	// A reasoning model takes none: the library refuses, nothing is sent.
	cfg := DefaultConfig()
	cfg.BaseURL, cfg.Model, cfg.Temperature = "http://127.0.0.1:1/v1", "o3-mini", 0.5
	if x := New(cfg).Complete(t.Context(), question); x.Outcome != event.OutcomeProviderError || !strings.Contains(x.Error, "temperature") {
		t.Errorf("got %+v", x)
	}
}

func TestConfigValidate(t *testing.T) {
	good := DefaultConfig()
	if p := good.Validate(); len(p) != 0 {
		t.Errorf("defaults: %v", p)
	}
	if good.Enabled() {
		t.Errorf("defaults reach an endpoint")
	}
	for name, tt := range map[string]struct {
		change func(*Config)
		path   string
	}{
		"no scheme":   {func(c *Config) { c.BaseURL = "api.example.com/v1" }, "base_url"},
		"credentials": {func(c *Config) { c.BaseURL = "https://me:secret@api.example.com/v1" }, "base_url"},
		"query":       {func(c *Config) { c.BaseURL = "https://api.example.com/v1?key=x" }, "base_url"},
		"plain http":  {func(c *Config) { c.BaseURL, c.APIKey = "http://api.example.com/v1", component.NewSecret("x") }, "base_url"},
		"no model":    {func(c *Config) { c.BaseURL, c.Model = "https://api.example.com/v1", "" }, "model"},
		"timeout":     {func(c *Config) { c.Timeout = 0 }, "timeout"},
		"tokens":      {func(c *Config) { c.MaxTokens = 0 }, "max_tokens"},
		"temperature": {func(c *Config) { c.Temperature = 3 }, "temperature"},
		"effort":      {func(c *Config) { c.ReasoningEffort = "much" }, "reasoning_effort"},
		"bytes":       {func(c *Config) { c.MaxResponseBytes = 1 << 30 }, "max_response_bytes"},
	} {
		c := DefaultConfig()
		tt.change(&c)
		p := c.Validate()
		if len(p) != 1 || p[0].Path != tt.path {
			t.Errorf("%s: got %v, want one problem at %s", name, p, tt.path)
		}
		for _, x := range p {
			if strings.Contains(x.Message, "secret@") {
				t.Errorf("%s: message shows credentials", name)
			}
		}
	}
}

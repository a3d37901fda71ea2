package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	openai "github.com/sashabaranov/go-openai"

	"github.com/autohedge/autohedge/stream/event"
)

// Request is one question: the static part first, the data last, so that
// providers can cache the prefix.
type Request struct {
	// System is the agent's contract, User the data it judges.
	System string
	User   string
	// Schema is the strict JSON schema of the answer, SchemaName its name
	// ([a-zA-Z0-9_-], at most 64 characters).
	SchemaName string
	Schema     json.RawMessage
}

// Exchange is what one request came to. It is data, whatever happened: a
// failure is an Outcome other than OutcomeOK and leaves Content empty.
type Exchange struct {
	// Content is the assistant's text, only with OutcomeOK. It has not been
	// decoded: see Decode.
	Content string
	Outcome event.Outcome
	// Error says for people why Outcome is not OutcomeOK, bounded and redacted.
	Error string
	// Request and Response are the HTTP bodies, the API key replaced by <secret> before
	// anything else was done with them, so that no field has it; Status is 0 when no
	// response came.
	Request  []byte
	Response []byte
	Status   int
	// ModelReturned is the model that the endpoint says it used.
	ModelReturned                           string
	InputTokens, OutputTokens, CachedTokens int
	// Latency is from sending to the last byte read, on the machine's clock.
	Latency time.Duration
	// RetryAfter is what a 429 or 503 asked for; 0 when it did not.
	RetryAfter time.Duration
}

// Recorded is an exchange from a journal, answered again without the network.
type Recorded struct {
	Status   int
	Response []byte
	Outcome  event.Outcome
	Error    string
	Latency  time.Duration

	ModelReturned                           string
	InputTokens, OutputTokens, CachedTokens int
}

// Client asks one endpoint. It is safe for concurrent use.
type Client struct {
	cfg      Config
	base     string
	host     string
	api      *openai.Client
	recorder *recorder
	// holdUntil is the machine time (Unix ns) before which the endpoint asked
	// not to be called: nothing that reaches a record depends on it but an
	// abstention.
	holdUntil atomic.Int64
}

// New makes a client; it does no I/O. cfg must be valid.
func New(cfg Config) *Client {
	c := &Client{cfg: cfg, base: cfg.BaseURL}
	if c.base == "" {
		c.base = DefaultBaseURL
	}
	if u, err := url.Parse(c.base); err == nil {
		c.host = u.Host
	}
	c.recorder = &recorder{
		limit: cfg.MaxResponseBytes,
		key:   cfg.APIKey,
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:                 http.ProxyFromEnvironment,
				DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
				TLSHandshakeTimeout:   5 * time.Second,
				ResponseHeaderTimeout: cfg.Timeout,
				MaxIdleConns:          32,
				MaxIdleConnsPerHost:   32,
				IdleConnTimeout:       90 * time.Second,
				ForceAttemptHTTP2:     true,
			},
			// A redirect would send the prompt, and the key, elsewhere.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	oc := openai.DefaultConfig(cfg.APIKey.Reveal())
	oc.BaseURL = c.base
	oc.HTTPClient = c.recorder
	c.api = openai.NewClientWithConfig(oc)
	return c
}

// Endpoint returns the base URL; a valid configuration has no credentials in it.
func (c *Client) Endpoint() string { return c.base }

// Host returns the endpoint's host, the name under which people know it.
func (c *Client) Host() string { return c.host }

// Model returns the model that is asked.
func (c *Client) Model() string { return c.cfg.Model }

// Close drops idle connections.
func (c *Client) Close() { c.recorder.http.CloseIdleConnections() }

// Complete asks once and waits until the answer is read whole, ctx ends or the
// configured timeout passes. It never retries. The Exchange is never nil.
func (c *Client) Complete(ctx context.Context, r Request) *Exchange {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	if x := c.waitHold(ctx); x != nil {
		return x
	}
	return c.exchange(ctx, r, nil)
}

// Replay answers the request from a recorded exchange, without the network. What it
// came to is what was recorded; only the text of an answer that was whole is read
// from its bytes again, through the same code as live.
func (c *Client) Replay(ctx context.Context, r Request, rec Recorded) *Exchange {
	x := &Exchange{Outcome: rec.Outcome, Error: rec.Error, Status: rec.Status, Response: rec.Response}
	if rec.Outcome == event.OutcomeOK {
		x = c.exchange(ctx, r, &rec)
	}
	x.Latency, x.ModelReturned = rec.Latency, rec.ModelReturned
	x.InputTokens, x.OutputTokens, x.CachedTokens = rec.InputTokens, rec.OutputTokens, rec.CachedTokens
	return x
}

func (c *Client) exchange(ctx context.Context, r Request, rec *Recorded) *Exchange {
	t := &tape{replay: rec}
	start := time.Now()
	resp, err := c.api.CreateChatCompletion(context.WithValue(ctx, tapeKey{}, t), c.request(r))
	x := &Exchange{
		Request:  t.request,
		Response: t.response,
		Status:   t.status,
		Latency:  time.Since(start),
	}
	c.classify(ctx, x, t, resp, err)
	// What came was redacted before it was decoded; an error of the transport was not.
	x.Error = bounded(string(redact([]byte(x.Error), c.cfg.APIKey)), 300)
	if x.RetryAfter > 0 && rec == nil {
		c.hold(time.Now().Add(x.RetryAfter))
	}
	return x
}

// request builds the body: no tools, no streaming, nothing but the two messages
// and the schema.
func (c *Client) request(r Request) openai.ChatCompletionRequest {
	req := openai.ChatCompletionRequest{
		Model: c.cfg.Model,
		Messages: []openai.ChatCompletionMessage{
			{Role: openai.ChatMessageRoleSystem, Content: r.System},
			{Role: openai.ChatMessageRoleUser, Content: r.User},
		},
		MaxCompletionTokens: c.cfg.MaxTokens,
		ReasoningEffort:     c.cfg.ReasoningEffort,
		ResponseFormat: &openai.ChatCompletionResponseFormat{
			Type: openai.ChatCompletionResponseFormatTypeJSONSchema,
			JSONSchema: &openai.ChatCompletionResponseFormatJSONSchema{
				Name: r.SchemaName, Schema: r.Schema, Strict: true,
			},
		},
	}
	switch t := c.cfg.Temperature; {
	case t == 0:
		// go-openai drops a zero (omitempty), which would mean the provider's
		// default of 1.
		req.Temperature = math.SmallestNonzeroFloat32
	case t > 0:
		req.Temperature = float32(t)
	}
	return req
}

// waitHold honours an earlier Retry-After where it ends before ctx does;
// otherwise the endpoint is not called and the outcome is OutcomeRateLimited.
func (c *Client) waitHold(ctx context.Context) *Exchange {
	until := c.holdUntil.Load()
	wait := time.Until(time.Unix(0, until))
	if until == 0 || wait <= 0 {
		return nil
	}
	limited := &Exchange{Outcome: event.OutcomeRateLimited, RetryAfter: wait,
		Error: fmt.Sprintf("endpoint asked to wait %s more: not called", wait.Round(time.Millisecond))}
	if d, ok := ctx.Deadline(); ok && time.Until(d) <= wait {
		return limited
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return limited
	}
}

func (c *Client) hold(until time.Time) {
	for ns := until.UnixNano(); ; {
		old := c.holdUntil.Load()
		if ns <= old || c.holdUntil.CompareAndSwap(old, ns) {
			return
		}
	}
}

// classify turns what happened into an outcome. Nothing but a whole, single,
// unrefused answer that ended by itself is OutcomeOK.
func (c *Client) classify(ctx context.Context, x *Exchange, t *tape, resp openai.ChatCompletionResponse, err error) {
	x.ModelReturned = bounded(resp.Model, 100)
	x.InputTokens, x.OutputTokens = tokens(resp.Usage.PromptTokens), tokens(resp.Usage.CompletionTokens)
	if d := resp.Usage.PromptTokensDetails; d != nil {
		x.CachedTokens = tokens(d.CachedTokens)
	}
	fail := func(o event.Outcome, format string, args ...any) {
		x.Outcome, x.Error = o, fmt.Sprintf(format, args...)
	}
	switch {
	case t.overflow:
		fail(event.OutcomeProviderError, "response is longer than %d bytes", c.cfg.MaxResponseBytes)
	case t.err != nil && (ctx.Err() != nil || isTimeout(t.err)):
		fail(event.OutcomeTimeout, "no whole answer in time: %v", t.err)
	case t.err != nil:
		fail(event.OutcomeProviderError, "exchanging with the endpoint: %v", t.err)
	case t.status == 0:
		// The library refused to send it: a model that takes no temperature,
		// for example.
		fail(event.OutcomeProviderError, "making the request: %v", err)
	case t.status == http.StatusTooManyRequests:
		x.RetryAfter = retryAfter(t.header, time.Now())
		fail(event.OutcomeRateLimited, "%s", httpError(t.status, err))
		if x.RetryAfter > 0 {
			x.Error += fmt.Sprintf(" (retry after %s)", x.RetryAfter)
		}
	case t.status != http.StatusOK:
		if t.status == http.StatusServiceUnavailable {
			x.RetryAfter = retryAfter(t.header, time.Now())
		}
		o := event.OutcomeProviderError
		if filtered(err) {
			o = event.OutcomeFiltered
		}
		fail(o, "%s", httpError(t.status, err))
	case err != nil:
		fail(event.OutcomeProviderError, "reading the response: %v", err)
	default:
		c.classifyAnswer(x, t, resp, fail)
	}
}

// maxTokens bounds what an endpoint can book for one call: more is a wrong number,
// and sums of it must not wrap.
const maxTokens = 1 << 24

func tokens(n int) int { return min(max(n, 0), maxTokens) }

func (c *Client) classifyAnswer(x *Exchange, t *tape, resp openai.ChatCompletionResponse, fail func(event.Outcome, string, ...any)) {
	if err := scan(t.response); err != nil {
		fail(event.OutcomeProviderError, "reading the response: %v", err)
		return
	}
	if len(resp.Choices) == 0 {
		// Some proxies answer 200 with an error object.
		var e struct {
			Error *openai.APIError `json:"error"`
		}
		if json.Unmarshal(t.response, &e) == nil && e.Error != nil {
			fail(event.OutcomeProviderError, "endpoint answered 200 with an error: %s", e.Error.Message)
			return
		}
		fail(event.OutcomeProviderError, "response has no choices")
		return
	}
	if n := len(resp.Choices); n > 1 {
		fail(event.OutcomeSchema, "response has %d choices, one was asked for", n)
		return
	}
	choice := resp.Choices[0]
	switch {
	case choice.FinishReason == openai.FinishReasonContentFilter:
		fail(event.OutcomeFiltered, "provider's content filter cut the answer")
	case choice.Message.Refusal != "":
		fail(event.OutcomeRefusal, "model refused: %s", choice.Message.Refusal)
	case choice.FinishReason == openai.FinishReasonLength:
		fail(event.OutcomeTruncated, "answer cut at %d tokens", c.cfg.MaxTokens)
	case len(choice.Message.ToolCalls) > 0 || choice.Message.FunctionCall != nil:
		fail(event.OutcomeSchema, "model called a tool that it was not given")
	case choice.FinishReason != openai.FinishReasonStop:
		fail(event.OutcomeSchema, "finish reason is %.40q, want \"stop\"", string(choice.FinishReason))
	case choice.Message.Content == "":
		fail(event.OutcomeSchema, "answer is empty")
	default:
		x.Outcome, x.Content = event.OutcomeOK, choice.Message.Content
	}
}

// httpError words an error status. RequestError is looked for first: for a body
// like {"error":"text"} errors.As finds both kinds, and the other has status 0.
func httpError(status int, err error) string {
	var re *openai.RequestError
	if errors.As(err, &re) {
		return fmt.Sprintf("endpoint answered %d: %.160q", status, re.Body)
	}
	var ae *openai.APIError
	if errors.As(err, &ae) {
		if code := fmt.Sprint(ae.Code); ae.Code != nil && code != "0" {
			return fmt.Sprintf("endpoint answered %d: %s %s", status, code, ae.Message)
		}
		return fmt.Sprintf("endpoint answered %d: %s", status, ae.Message)
	}
	return fmt.Sprintf("endpoint answered %d", status)
}

// filtered reports whether a provider's content filter refused the prompt.
func filtered(err error) bool {
	var ae *openai.APIError
	if !errors.As(err, &ae) {
		return false
	}
	code, _ := ae.Code.(string)
	return code == "content_filter" || code == "content_policy_violation"
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, context.DeadlineExceeded) || (errors.As(err, &ne) && ne.Timeout())
}

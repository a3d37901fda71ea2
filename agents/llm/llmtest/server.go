// Package llmtest is an endpoint for tests: a local HTTP server that speaks the
// chat completions wire, scripted per question, with everything that a real one
// answers on its bad days. It owns no judgement and must not be imported by
// anything but tests. Start with Start.
package llmtest

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Call is one request as the server saw it.
type Call struct {
	N      int    // counts from 0
	Name   string // the schema's name: thesis, review, sizing, order, ruling
	Model  string
	Strict bool
	User   string // the user message
	Body   []byte
	Header http.Header
}

// Reply is what the server answers.
type Reply struct {
	Status int // 0 is 200
	Header map[string]string
	Body   string
	// Delay holds the answer back, or until the client goes away.
	Delay time.Duration
}

// Server answers by script and keeps what it was asked.
type Server struct {
	URL string // base URL for the configuration, ends in /v1

	mu    sync.Mutex
	calls []Call
}

// Start serves until the test ends. script must be safe for concurrent use.
func Start(t testing.TB, script func(Call) Reply) *Server {
	t.Helper()
	s := new(Server)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/chat/completions" {
			http.Error(w, "want POST /v1/chat/completions", http.StatusNotFound)
			return
		}
		var req struct {
			Model    string
			Messages []struct{ Role, Content string }
			Format   struct {
				JSONSchema struct {
					Name   string
					Strict bool
				} `json:"json_schema"`
			} `json:"response_format"`
		}
		if err := json.Unmarshal(body, &req); err != nil || len(req.Messages) != 2 {
			http.Error(w, "want a completion request of two messages", http.StatusBadRequest)
			return
		}
		c := Call{Name: req.Format.JSONSchema.Name, Strict: req.Format.JSONSchema.Strict, Model: req.Model,
			User: req.Messages[1].Content, Body: body, Header: r.Header.Clone()}
		s.mu.Lock()
		c.N = len(s.calls)
		s.calls = append(s.calls, c)
		s.mu.Unlock()
		reply := script(c)
		if reply.Delay > 0 {
			timer := time.NewTimer(reply.Delay)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-r.Context().Done():
				return
			}
		}
		w.Header().Set("Content-Type", "application/json")
		for k, v := range reply.Header {
			w.Header().Set(k, v)
		}
		if reply.Status != 0 {
			w.WriteHeader(reply.Status)
		}
		_, _ = io.WriteString(w, reply.Body) // the client may be gone: the test's matter
	}))
	t.Cleanup(h.Close)
	s.URL = h.URL + "/v1"
	return s
}

// Calls returns what was asked so far.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call(nil), s.calls...)
}

// Answer is a whole, well-formed completion with the content.
func Answer(content string) Reply { return completion(content, "", "stop") }

// Refusal is a completion in which the model refuses.
func Refusal(text string) Reply { return completion("", text, "stop") }

// Truncated is a completion that was cut at the token limit.
func Truncated(content string) Reply { return completion(content, "", "length") }

// Filtered is a completion that the provider's content filter cut.
func Filtered(content string) Reply { return completion(content, "", "content_filter") }

// Error is an HTTP error with the endpoint's usual body.
func Error(status int, code, message string) Reply {
	b, err := json.Marshal(map[string]any{"error": map[string]any{"code": code, "message": message, "type": code}})
	if err != nil {
		b = nil
	}
	return Reply{Status: status, Body: string(b)}
}

func completion(content, refusal, finish string) Reply {
	message := map[string]any{"role": "assistant", "content": content}
	if refusal != "" {
		message["content"], message["refusal"] = nil, refusal
	}
	b, err := json.Marshal(map[string]any{
		"id": "chatcmpl-test", "object": "chat.completion", "created": 1, "model": "test-model-2026-01-01",
		"choices": []any{map[string]any{"index": 0, "message": message, "finish_reason": finish}},
		"usage": map[string]any{
			"prompt_tokens": 120, "completion_tokens": 30, "total_tokens": 150,
			"prompt_tokens_details": map[string]any{"cached_tokens": 100},
		},
	})
	if err != nil {
		b = nil
	}
	return Reply{Body: string(b)}
}

// Desk answers every agent's question with agreement on a long trade; override
// replaces an agent's answer by its schema's name.
func Desk(override map[string]Reply) func(Call) Reply {
	good := map[string]string{
		"thesis": `{"direction":"long","conviction":4,"horizon":"5m","stop_bps":40,"target_bps":90,"rationale":"oversold"}`,
		"review": `{"verdict":"support","confidence":4,"rationale":"edge beats cost"}`,
		"sizing": `{"verdict":"approve","size":3,"rationale":"room"}`,
		"order":  `{"order_type":"limit","time_in_force":"ioc","max_slippage_bps":3,"rationale":"cross"}`,
		"ruling": `{"decision":"execute","rationale":"as planned"}`,
	}
	return func(c Call) Reply {
		if r, ok := override[c.Name]; ok {
			return r
		}
		if strings.TrimSpace(good[c.Name]) == "" {
			return Error(http.StatusBadRequest, "invalid_request_error", "unknown schema "+c.Name)
		}
		return Answer(good[c.Name])
	}
}

package agents

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// handClock is moved by hand.
type handClock struct{ now time.Time }

func (c *handClock) Now() time.Time { return c.now }

// The first failure of each kind is logged, then at most one line a minute with how
// many there were; three in a row are a condition until the model answers again.
func TestModelHealth(t *testing.T) {
	log, clock := new(bustest.Log), &handClock{now: time.Unix(1000, 0)}
	h := newModelHealth(component.Env{Log: slog.New(slog.NewTextHandler(log, nil)), Clock: clock})
	call := func(outcome event.Outcome, status uint32, text string) {
		h.observe(&event.ModelCall{Role: "director", Outcome: outcome, Status: status, Error: text})
	}
	lines := func() int { return strings.Count(log.String(), "the model failed") }
	for range 84 {
		call(event.OutcomeProviderError, 401, "invalid_api_key")
	}
	if n := lines(); n != 1 {
		t.Errorf("%d lines for 84 failures of a kind within a minute", n)
	}
	if w := h.wrong(); w != "failed 84 of the last 84 calls, the last 84 in a row: provider_error: invalid_api_key" {
		t.Errorf("wrong: %q", w)
	}
	call(event.OutcomeTimeout, 0, "late")
	if n := lines(); n != 2 {
		t.Errorf("%d lines, the first of another kind is one more", n)
	}
	clock.now = clock.now.Add(failureEvery)
	call(event.OutcomeProviderError, 401, "invalid_api_key")
	if !log.Contains("since_last_line=84") {
		t.Errorf("the next line does not say how many there were:\n%s", log)
	}
	call(event.OutcomeOK, 200, "")
	if w := h.wrong(); w != "" || !log.Contains("the model answers again") {
		t.Errorf("after an answer: %q", w)
	}
	for range 2 * modelWindow {
		call(event.OutcomeOK, 200, "")
	}
	if h.failed != 0 {
		t.Errorf("%d failures are left in a window of answers", h.failed)
	}
}

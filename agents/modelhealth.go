package agents

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// modelHealth watches what calls of the model come to: a desk whose every call fails
// abstains in order, and somebody must see that. It is safe for concurrent use.
type modelHealth struct {
	log   *slog.Logger
	clock component.Clock

	mu     sync.Mutex
	last   [modelWindow]bool // whether it failed, a ring
	calls  int               // of all time
	failed int               // among last
	row    int               // failures in a row
	why    string            // of the newest failure
	kinds  map[string]*failureKind
}

// failureKind is what one kind of failure was logged with.
type failureKind struct {
	logged time.Time
	since  int // failures since then
}

const (
	// modelWindow is how many calls a share of failures is told of.
	modelWindow = 100
	// modelDown is how many failures in a row make the model count as down.
	modelDown = 3
	// failureEvery is how often a kind of failure is logged at most.
	failureEvery = time.Minute
	// maxKinds bounds the kinds that are told apart.
	maxKinds = 32
)

func newModelHealth(env component.Env) *modelHealth {
	return &modelHealth{log: env.Log, clock: env.Clock, kinds: make(map[string]*failureKind)}
}

// observe takes the outcome of one call that was made.
func (h *modelHealth) observe(c *event.ModelCall) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.calls % modelWindow
	if h.calls >= modelWindow && h.last[at] {
		h.failed--
	}
	h.calls++
	if h.last[at] = c.Outcome != event.OutcomeOK; !h.last[at] {
		if h.row >= modelDown {
			h.log.Info("the model answers again", "failed_in_a_row", h.row)
		}
		h.row = 0
		return
	}
	h.failed++
	h.row++
	h.why = fmt.Sprintf("%s: %s", c.Outcome, c.Error)
	kind := fmt.Sprintf("%s %d", c.Outcome, c.Status)
	k := h.kinds[kind]
	if k == nil {
		if len(h.kinds) == maxKinds {
			return
		}
		k = &failureKind{}
		h.kinds[kind] = k
	}
	k.since++
	if now := h.clock.Now(); k.logged.IsZero() || now.Sub(k.logged) >= failureEvery {
		h.log.Warn("the model failed", "role", c.Role, "model", c.Model, "endpoint", c.Endpoint, "status", c.Status, "outcome", c.Outcome.String(),
			"since_last_line", k.since, "failed", h.failed, "of_the_last", min(h.calls, modelWindow), "err", c.Error)
		k.logged, k.since = now, 0
	}
}

// wrong says what is wrong with the model, empty while it answers.
func (h *modelHealth) wrong() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.row < modelDown {
		return ""
	}
	return fmt.Sprintf("failed %d of the last %d calls, the last %d in a row: %s", h.failed, min(h.calls, modelWindow), h.row, h.why)
}

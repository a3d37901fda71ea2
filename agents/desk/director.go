package desk

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"time"
)

// Directions of a thesis. Flat closes the position, None is no trade.
const (
	Long  = "long"
	Short = "short"
	Flat  = "flat"
	None  = "none"
)

// Rulings of the Director on a written order.
const (
	Execute  = "execute"
	Withhold = "withhold"
)

// conviction is the highest conviction and size; a size of n is n fifths of the
// budget.
const conviction = 5

// Ranges of what a thesis may ask for, in basis points from the entry.
const (
	maxStopBps   = 2_000
	maxTargetBps = 5_000
)

// horizons are the horizons that a thesis may name; lengths are theirs.
var (
	horizons = []string{"10s", "1m", "5m", "15m", "1h", "4h", "1d"}
	lengths  = []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 4 * time.Hour, 24 * time.Hour}
)

// lengthOf is how long a named horizon is, in nanoseconds; 0 where there is none of that
// name.
func lengthOf(horizon string) int64 {
	if i := slices.Index(horizons, horizon); i >= 0 {
		return int64(lengths[i])
	}
	return 0
}

// Thesis is the Director's answer: a direction and how sure, no symbol, no price
// and no size.
type Thesis struct {
	Direction  string `json:"direction"`
	Conviction int    `json:"conviction"` // 1 to 5
	Horizon    string `json:"horizon"`
	StopBps    int    `json:"stop_bps"`   // 0 is none
	TargetBps  int    `json:"target_bps"` // 0 is none
	Rationale  string `json:"rationale"`  // for people; no agent is given it
	// hold is Horizon, or the signal's own, as nanoseconds; 0 is none.
	hold int64
}

// Check implements llm.Checker.
func (t *Thesis) Check() error {
	return firstOf(
		oneOf("direction", t.Direction, Long, Short, Flat, None),
		within("conviction", t.Conviction, 1, conviction),
		oneOf("horizon", t.Horizon, horizons...),
		within("stop_bps", t.StopBps, 0, maxStopBps),
		within("target_bps", t.TargetBps, 0, maxTargetBps),
		text("rationale", t.Rationale),
	)
}

// Ruling is the Director's last word.
type Ruling struct {
	Decision  string `json:"decision"`
	Rationale string `json:"rationale"`
}

// Check implements llm.Checker.
func (r *Ruling) Check() error {
	return firstOf(oneOf("decision", r.Decision, Execute, Withhold), text("rationale", r.Rationale))
}

var (
	//go:embed prompts/director.md
	directorPrompt string
	//go:embed schemas/thesis.json
	thesisSchema []byte
	//go:embed prompts/decision.md
	decisionPrompt string
	//go:embed schemas/ruling.json
	rulingSchema []byte
)

// Thesis asks the model for the Director's view.
func (m *modelAgents) Thesis(ctx context.Context, c *Case, after *Rejection) (Thesis, error) {
	data := struct {
		market
		Position  position   `json:"position"`
		Rejection *Rejection `json:"risk_rejected_before,omitempty"`
	}{c.market(), c.positionData(), after}
	var t Thesis
	err := m.ask(ctx, c, question{role: roleDirector, system: directorPrompt, name: "thesis", schema: thesisSchema, data: data}, &t)
	t.hold = lengthOf(t.Horizon)
	return t, err
}

// Rule asks the model whether the written order fits the thesis.
func (m *modelAgents) Rule(ctx context.Context, c *Case, t Thesis, o *Order) (Ruling, error) {
	data := struct {
		market
		Position position `json:"position"`
		Thesis   thesis   `json:"thesis"`
		Order    any      `json:"order"`
	}{c.market(), c.positionData(), t.data(), o.data(c)}
	var r Ruling
	err := m.ask(ctx, c, question{role: roleDecision, system: decisionPrompt, name: "ruling", schema: rulingSchema, data: data}, &r)
	return r, err
}

// thesis is what other agents are told of it: neither the conviction, so that
// they judge for themselves, nor the rationale, which is free text.
type thesis struct {
	Direction string `json:"direction"`
	Horizon   string `json:"horizon"`
	StopBps   int    `json:"stop_bps"`
	TargetBps int    `json:"target_bps"`
}

func (t Thesis) data() thesis { return thesis{t.Direction, t.Horizon, t.StopBps, t.TargetBps} }

// maxText bounds a rationale, in bytes.
const maxText = 4_000

func oneOf(field, v string, legal ...string) error {
	if slices.Contains(legal, v) {
		return nil
	}
	return fmt.Errorf("field %q is %.40q, want one of %v", field, v, legal)
}

func within(field string, v, lo, hi int) error {
	if v >= lo && v <= hi {
		return nil
	}
	return fmt.Errorf("field %q is %d, want %d to %d", field, v, lo, hi)
}

func text(field, v string) error {
	if len(v) <= maxText {
		return nil
	}
	return fmt.Errorf("field %q has %d bytes, want at most %d", field, len(v), maxText)
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

package desk

import (
	"context"
	_ "embed"
)

// Verdicts of the Quant.
const (
	Support   = "support"
	Challenge = "challenge"
)

// Review is the Quant's answer.
type Review struct {
	Verdict    string `json:"verdict"`
	Confidence int    `json:"confidence"` // 1 to 5
	Rationale  string `json:"rationale"`

	// reason is the reason code of a challenge that is not the Quant's own; no model
	// gives one.
	reason string
}

// Check implements llm.Checker.
func (r *Review) Check() error {
	return firstOf(
		oneOf("verdict", r.Verdict, Support, Challenge),
		within("confidence", r.Confidence, 1, conviction),
		text("rationale", r.Rationale),
	)
}

var (
	//go:embed prompts/quant.md
	quantPrompt string
	//go:embed schemas/review.json
	reviewSchema []byte
)

// Review asks the model. The Quant is given numbers that Go computed and the
// thesis' direction, not how sure the Director is.
func (m *modelAgents) Review(ctx context.Context, c *Case, t Thesis) (Review, error) {
	data := struct {
		market
		Thesis   thesis  `json:"thesis"`
		CostBps  float64 `json:"round_trip_cost_bps"`
		Strength float64 `json:"signal_strength"`
		// EdgeBps is absent where nobody has measured an edge.
		EdgeBps *float64 `json:"measured_edge_bps,omitempty"`
	}{c.market(), t.data(), round(c.costBps), round(c.strength), nil}
	if c.cfg.Policy.EdgeBps > 0 {
		edge := round(c.edgeBps)
		data.EdgeBps = &edge
	}
	var r Review
	err := m.ask(ctx, c, question{role: roleQuant, system: quantPrompt, name: "review", schema: reviewSchema, data: data}, &r)
	return r, err
}

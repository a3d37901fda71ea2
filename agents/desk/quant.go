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
		EdgeBps  float64 `json:"edge_estimate_bps"`
	}{c.market(), t.data(), round(c.costBps), round(c.strength), round(c.edgeBps)}
	var r Review
	err := m.ask(ctx, c, question{role: roleQuant, system: quantPrompt, name: "review", schema: reviewSchema, data: data}, &r)
	return r, err
}

package desk

import (
	"context"
	_ "embed"

	"github.com/quagmt/udecimal"
)

// Verdicts of Risk.
const (
	Approve = "approve"
	Reject  = "reject"
)

// Sizing is Risk's answer. Size counts only with Approve, and never above the
// thesis' conviction.
type Sizing struct {
	Verdict   string `json:"verdict"`
	Size      int    `json:"size"` // 1 to 5: fifths of the budget
	Rationale string `json:"rationale"`
}

// Check implements llm.Checker.
func (s *Sizing) Check() error {
	return firstOf(
		oneOf("verdict", s.Verdict, Approve, Reject),
		within("size", s.Size, 1, conviction),
		text("rationale", s.Rationale),
	)
}

var (
	//go:embed prompts/risk.md
	riskPrompt string
	//go:embed schemas/sizing.json
	sizingSchema []byte
)

// Size asks the model.
func (m *modelAgents) Size(ctx context.Context, c *Case, t Thesis, r Review) (Sizing, error) {
	data := struct {
		market
		Position   position `json:"position"`
		Thesis     thesis   `json:"thesis"`
		MaxSize    int      `json:"max_size"`
		Confidence int      `json:"quant_confidence"`
		CostBps    float64  `json:"round_trip_cost_bps"`
	}{c.market(), c.positionData(), t.data(), t.Conviction, r.Confidence, round(c.costBps)}
	var s Sizing
	err := m.ask(ctx, c, question{role: roleRisk, system: riskPrompt, name: "sizing", schema: sizingSchema, data: data}, &s)
	return s, err
}

// notional is the budget of a size, exact: n fifths.
func (c *Case) notional(size int) udecimal.Decimal {
	n, err := c.cfg.Budget.Notional.Money().Mul64(uint64(max(size, 0))).Div64(conviction)
	if err != nil {
		return udecimal.Zero // cannot happen: five is not zero
	}
	return n
}

// room checks a size against the desk's own limits, for a model and for rules
// alike. It returns nil when the size fits.
func (c *Case) room(direction string, size int) *Rejection {
	if direction == Short && !c.cfg.Budget.AllowShort {
		return &Rejection{Reason: ReasonShort}
	}
	fits := 0
	for n := 1; n <= conviction; n++ {
		if c.fits(direction, n) {
			fits = n
		}
	}
	if size <= fits {
		return nil
	}
	return &Rejection{Reason: ReasonPositionCap, Fits: fits}
}

// exits checks that a position could be held between the thesis' stop and target at
// all: both are acted on.
func (c *Case) exits(t Thesis) *Rejection {
	switch {
	case t.Direction == Flat:
	case t.StopBps > 0 && float64(t.StopBps) <= c.spreadBps:
		return &Rejection{Reason: ReasonStopTooClose}
	case t.TargetBps > 0 && float64(t.TargetBps) <= c.costBps:
		return &Rejection{Reason: ReasonTargetTooClose}
	}
	return nil
}

// fits reports whether |position after the trade| stays within the soft cap.
// An order against the position may not turn it beyond the cap either.
func (c *Case) fits(direction string, size int) bool {
	after := c.exposure
	add := c.notional(size)
	against := (direction == Long && c.position.IsNeg()) || (direction == Short && c.position.IsPos())
	if against {
		after = after.Sub(add).Abs()
	} else {
		after = after.Add(add)
	}
	return after.LessThanOrEqual(c.cfg.Budget.PositionCap.Money())
}

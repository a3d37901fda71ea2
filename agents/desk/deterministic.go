package desk

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

// rules are the agents of the deterministic desk. They look at the same Case as
// a model does and never fail.
type rules struct{ cfg Config }

// Thesis follows the signal's side, closes an opposite position before opening
// anything, and after a rejection takes what still fits.
func (r *rules) Thesis(_ context.Context, c *Case, after *Rejection) (Thesis, error) {
	t := Thesis{
		Direction:  Long,
		Conviction: int(math.Ceil(c.strength * conviction)),
		Horizon:    horizonOf(c.sig.Horizon),
		hold:       max(c.sig.Horizon, 0),
		StopBps:    int(r.cfg.Policy.StopBps),
		TargetBps:  int(r.cfg.Policy.TargetBps),
		Rationale:  fmt.Sprintf("%s %s: %s %.6g against %.6g", c.sig.Side, c.sig.Rule, c.sig.Indicator, c.sig.Value, c.sig.Threshold),
	}
	opposite := c.position.IsNeg()
	if c.sig.Side == event.Sell {
		t.Direction, opposite = Short, c.position.IsPos()
	}
	switch {
	case opposite:
		t.Direction = Flat
		t.Rationale += "; the position is on the other side: close it"
	case t.Direction == Short && !r.cfg.Budget.AllowShort:
		t.Direction = None
		t.Rationale += "; nothing to sell, and short is not allowed"
	}
	if after != nil {
		r.revise(c, &t, after)
	}
	return t, nil
}

// revise is the second thesis: the size that fits; nothing when none does; and
// closing when the market has carried the position a whole step past the cap.
func (r *rules) revise(c *Case, t *Thesis, after *Rejection) {
	switch {
	case after.Reason == ReasonStopTooClose, after.Reason == ReasonTargetTooClose:
		t.Direction = None
		t.Rationale += "; the stop is within the spread, or the target does not pay for the round trip"
	case after.Fits > 0:
		t.Conviction = after.Fits
		t.Rationale += fmt.Sprintf("; smaller, as only %d of %d fits", after.Fits, conviction)
	case c.exposure.GreaterThan(c.cfg.Budget.PositionCap.Money().Add(c.notional(1))):
		t.Direction = Flat
		t.Rationale += "; the position outgrew its cap: close it"
	default:
		t.Direction = None
		t.Rationale += "; no room under the position cap"
	}
}

// Review supports what is expected to earn more than a round trip costs, and
// whatever reduces exposure. An edge that nobody has measured is unknown: then a few
// signals are traded with the smallest size, so that something can be measured.
func (r *rules) Review(_ context.Context, c *Case, t Thesis) (Review, error) {
	if t.Direction == Flat {
		return Review{Verdict: Support, Confidence: conviction, Rationale: "closing reduces exposure"}, nil
	}
	if r.cfg.Policy.EdgeBps == 0 {
		return r.probe(c), nil
	}
	why := fmt.Sprintf("edge %.1f bps against spread %.1f and fees %.1f bps", c.edgeBps, c.spreadBps, c.costBps-c.spreadBps)
	if c.edgeBps < c.costBps {
		return Review{Verdict: Challenge, Confidence: conviction, Rationale: why}, nil
	}
	confidence := conviction
	if ratio := c.edgeBps / c.costBps; ratio < 3 { // twice the edge over cost is half way
		confidence = int(ratio*2) - 1
	}
	return Review{Verdict: Support, Confidence: max(confidence, 1), Rationale: why}, nil
}

// probe supports every so many signals with the least confidence. Which ones follows
// from their ids: the same signal is judged the same by everybody, in every replay.
func (r *rules) probe(c *Case) Review {
	every := uint64(r.cfg.Policy.ProbeEvery)
	if every > 0 && binary.BigEndian.Uint64(c.sig.ID[:8])%every == 0 {
		return Review{Verdict: Support, Confidence: 1, Rationale: fmt.Sprintf("the edge is unknown: a probe of the smallest size, one signal in %d", every)}
	}
	return Review{Verdict: Challenge, Confidence: conviction, Rationale: "the edge is unknown, and this signal is no probe", reason: ReasonNoEdge}
}

// Size is the smaller of the Director's conviction and the Quant's confidence.
func (r *rules) Size(_ context.Context, _ *Case, t Thesis, q Review) (Sizing, error) {
	size := min(t.Conviction, q.Confidence)
	return Sizing{Approve, size, fmt.Sprintf("%d of %d of the budget", size, conviction)}, nil
}

// Order crosses the spread and cancels what does not fill at once.
func (r *rules) Order(_ context.Context, _ *Case, _ Thesis, _ Sizing) (OrderPlan, error) {
	return OrderPlan{r.cfg.Policy.Order, "ioc", int(r.cfg.Policy.MaxSlippageBps), "take the quote that the signal was judged at"}, nil
}

// Rule executes: the cycle checks the deadline after every step.
func (r *rules) Rule(_ context.Context, _ *Case, _ Thesis, _ *Order) (Ruling, error) {
	return Ruling{Execute, "all agents agree"}, nil
}

// horizonOf is the shortest named horizon that covers the signal's.
func horizonOf(ns int64) string {
	for i, limit := range lengths {
		if time.Duration(ns) <= limit {
			return horizons[i]
		}
	}
	return horizons[len(horizons)-1]
}

var _ Agents = (*rules)(nil)

package desk

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

// What is done about a signal against a position when the model fails.
const (
	OnFailureReduceOnly = "reduce_only" // the rules close the position
	OnFailureNone       = "none"        // the desk abstains
)

// roleFallback names, among the roles of a verdict, that the rules judged in place of
// the model.
const roleFallback = "fallback"

// Time that is kept for the rules out of what a signal against a position leaves a
// model: a fifth, at most reserveMost.
const (
	reserveShare = 5
	reserveMost  = time.Second
)

// modelFailures are the abstentions that say that a model gave no answer to be used. A
// deadline is one where judging had begun.
var modelFailures = []string{
	ReasonTimeout, ReasonSchema, ReasonRefusal, ReasonTruncated, ReasonFiltered, ReasonRateLimited, ReasonProviderError, ReasonDeadline, ReasonModelBusy,
}

// Opposes reports whether a signal is against a position: closing is what it asks for.
func Opposes(s *event.Signal, position event.Decimal) bool {
	return s.Side == event.Sell && position.Sign() > 0 || s.Side == event.Buy && position.Sign() < 0
}

// reserve is what is kept of the time until a deadline for the rules.
func reserve(now, deadline int64) int64 {
	return min(max(deadline-now, 0)/reserveShare, int64(reserveMost))
}

// reduce has the rules judge a signal against a position of which the model failed to
// judge. They only ever close; whatever else they come to, the abstention stands.
func (d *Desk) reduce(ctx context.Context, in Input, v *event.Verdict, abst *Abstention) (closed bool, err error) {
	c, none := newCase(&d.cfg, in, v.ID)
	if none != nil || ctx.Err() != nil {
		return false, ctx.Err()
	}
	was, roles := v.Decision, slices.Clone(v.Roles)
	note(v, roleFallback, OnFailureReduceOnly, struct {
		Reason string `json:"reason"`
		Detail string `json:"detail"`
	}{abst.Reason, abst.Detail})
	var again *Abstention
	err = d.fallback.cycle(ctx, c, v)
	if errors.As(err, &again) {
		err = nil // the abstention there is says why
	}
	if err != nil || again != nil || v.Decision.Action != event.ActionFlat {
		v.Decision, v.Roles = was, roles
		return false, err
	}
	v.Desk, v.Decision.Desk = d.fallback.name, d.fallback.name
	v.Decision.Reason = ReasonModelFailed
	v.Decision.Rationale = "the model gave no answer (" + abst.Reason + "): " + v.Decision.Rationale
	return true, nil
}

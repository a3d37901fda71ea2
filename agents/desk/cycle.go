package desk

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"github.com/autohedge/autohedge/stream/event"
)

// Role names, as in the journal.
const (
	roleDirector  = "director"
	roleQuant     = "quant"
	roleRisk      = "risk"
	roleExecution = "execution"
	roleDecision  = "decision"
)

// Calls is how many questions, one after another, a signal takes that ends in an
// order at the first thesis.
const Calls = 5

// Rejection is why Risk refused a thesis, in terms that a second thesis can use.
type Rejection struct {
	Reason string `json:"reason"`
	// Fits is the largest size (1 to 5) in the thesis' direction that the soft
	// cap leaves room for; 0 is none.
	Fits int `json:"fits"`
}

// cycle runs the agents and fills the verdict's decision. It leaves the verdict
// without an order unless every step agreed.
func (d *Desk) cycle(ctx context.Context, c *Case, v *event.Verdict) error {
	var after *Rejection
	for {
		t, err := d.agents.Thesis(ctx, c, after)
		if err != nil {
			return err
		}
		note(v, roleDirector, t.Direction, t)
		if err := c.expired(); err != nil {
			return err
		}
		v.Decision.Conviction = uint32(t.Conviction)
		if t.Direction == None {
			d.none(v, ReasonNoThesis, t.Rationale, after)
			return nil
		}
		if t.Direction == Flat && c.position.IsZero() {
			d.none(v, ReasonNoPosition, "nothing to close", after)
			return nil
		}
		if rej := c.exits(t); rej != nil {
			note(v, roleRisk, Reject, rej)
			if after == nil {
				after = rej
				continue
			}
			d.none(v, rej.Reason, t.Rationale, nil)
			return nil
		}

		r, err := d.agents.Review(ctx, c, t)
		if err != nil {
			return err
		}
		note(v, roleQuant, r.Verdict, r)
		if err := c.expired(); err != nil {
			return err
		}
		if r.Verdict != Support {
			d.none(v, cmp.Or(r.reason, ReasonQuantChallenge), r.Rationale, nil)
			return nil
		}

		s, rej, err := d.size(ctx, c, t, r)
		if err != nil {
			return err
		}
		note(v, roleRisk, s.Verdict, s)
		if err := c.expired(); err != nil {
			return err
		}
		if rej != nil {
			if after == nil {
				after = rej
				continue
			}
			d.none(v, rej.Reason, s.Rationale, nil)
			return nil
		}
		return d.execute(ctx, c, v, t, s, after != nil)
	}
}

// size asks Go's own limits first, then Risk, and lets neither enlarge.
func (d *Desk) size(ctx context.Context, c *Case, t Thesis, r Review) (Sizing, *Rejection, error) {
	if t.Direction == Flat { // closing takes no room and needs no approval of its size
		return Sizing{Verdict: Approve, Size: conviction, Rationale: "closing reduces exposure"}, nil, nil
	}
	if rej := c.room(t.Direction, t.Conviction); rej != nil {
		return Sizing{Verdict: Reject, Size: 1, Rationale: fmt.Sprintf("soft limit %s: size %d of %d fits", rej.Reason, rej.Fits, conviction)}, rej, nil
	}
	s, err := d.agents.Size(ctx, c, t, r)
	if err != nil {
		return s, nil, err
	}
	if s.Verdict != Approve {
		return s, &Rejection{Reason: ReasonRiskReject}, nil
	}
	s.Size = min(s.Size, t.Conviction)
	return s, nil, nil
}

// execute writes the order and asks the Director.
func (d *Desk) execute(ctx context.Context, c *Case, v *event.Verdict, t Thesis, s Sizing, revised bool) error {
	plan, err := d.agents.Order(ctx, c, t, s)
	if err != nil {
		return err
	}
	o, reason := c.write(t, s, plan)
	if reason != "" {
		note(v, roleExecution, "no_order", plan)
		d.none(v, reason, "no order can be written within the signal's terms", nil)
		return nil
	}
	note(v, roleExecution, "order", o)
	if err := c.expired(); err != nil {
		return err
	}

	rule, err := d.agents.Rule(ctx, c, t, o)
	if err != nil {
		return err
	}
	note(v, roleDecision, rule.Decision, rule)
	if err := c.expired(); err != nil {
		return err
	}
	if rule.Decision != Execute {
		d.none(v, ReasonWithheld, rule.Rationale, nil)
		return nil
	}
	dec := &v.Decision
	dec.Action = map[string]event.Action{Long: event.ActionLong, Short: event.ActionShort, Flat: event.ActionFlat}[t.Direction]
	dec.Reason = ReasonAgreed
	if revised {
		dec.Reason = ReasonAgreedRevised
	}
	dec.Rationale = t.Rationale
	dec.Conviction = uint32(s.Size)
	if t.Direction == Flat {
		dec.Conviction = uint32(t.Conviction)
	} else {
		dec.StopBps, dec.TargetBps, dec.Horizon = uint32(t.StopBps), uint32(t.TargetBps), t.hold
	}
	dec.Side, dec.Qty, dec.Type, dec.TIF, dec.LimitPrice = o.Side, event.Some(o.Qty), o.Type, o.TIF, o.LimitPrice
	dec.MaxSlippageBps = event.Some(event.NewDecimal(int64(o.SlippageBps), 0))
	return nil
}

// none is a considered "no trade". After a rejection its reason is the
// rejection's, which led there.
func (d *Desk) none(v *event.Verdict, reason, rationale string, after *Rejection) {
	v.Decision.Action, v.Decision.Reason, v.Decision.Rationale = event.ActionNone, reason, rationale
	if after != nil {
		v.Decision.Reason = after.Reason
	}
}

// note keeps what an agent said; a typed answer always marshals.
func note(v *event.Verdict, role, verdict string, answer any) {
	detail, err := json.Marshal(answer)
	if err != nil {
		detail = []byte(`{}`)
	}
	v.Roles = append(v.Roles, event.RoleVerdict{Role: role, Verdict: verdict, Detail: string(detail)})
}

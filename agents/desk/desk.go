package desk

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

// Arm is the only arm there is as yet; challengers and shadows get their own.
const Arm = "champion"

// Deterministic is the name under which the rules in Go sign.
const Deterministic = "deterministic"

// Reason codes of abstentions: judging was not possible.
const (
	ReasonDeadline      = "deadline"          // the signal's deadline passed
	ReasonNoQuote       = "no_quote"          // no two-sided quote at the signal
	ReasonCrossedQuote  = "crossed_quote"     // bid above ask, or a price of zero
	ReasonSpread        = "spread_unreliable" // spread beyond quote.max_spread_bps
	ReasonStaleQuote    = "stale_quote"       // quote older than quote.max_age, or far from the reference price
	ReasonStaleData     = "stale_data"        // the record was old when it arrived
	ReasonBadSignal     = "bad_signal"        // no side, no price, or not a number
	ReasonTimeout       = "timeout"           // no answer within llm.timeout
	ReasonSchema        = "schema"            // an answer that the contract does not allow
	ReasonRefusal       = "refusal"           // the model refused
	ReasonTruncated     = "truncated"         // the answer was cut at the token limit
	ReasonFiltered      = "filtered"          // the provider's content filter
	ReasonRateLimited   = "rate_limited"      // 429
	ReasonProviderError = "provider_error"    // any other failure of the endpoint
	ReasonModelBusy     = "model_busy"        // other signals had the model until too late
	ReasonDiverged      = "journal_differs"   // a replay asks another question than was journalled
)

// Reason codes of what was judged.
const (
	ReasonAgreed         = "agreed"            // all agents agreed at once
	ReasonAgreedRevised  = "agreed_revised"    // agreed on the thesis after a rejection
	ReasonNoThesis       = "no_thesis"         // the Director sees no trade
	ReasonQuantChallenge = "quant_challenge"   // the Quant challenged the thesis
	ReasonNoEdge         = "no_edge"           // nobody has measured an edge, and the signal is no probe
	ReasonRiskReject     = "risk_reject"       // Risk rejected the second thesis too
	ReasonPositionCap    = "position_cap"      // no room under the desk's soft cap
	ReasonStopTooClose   = "stop_too_close"    // a stop within the spread closes at once
	ReasonTargetTooClose = "target_too_close"  // a target that does not pay for the round trip
	ReasonShort          = "short_not_allowed" // would go below zero
	ReasonNoPosition     = "no_position"       // nothing to close
	ReasonBeyondDrift    = "beyond_drift"      // the price already left the signal's drift
	ReasonBelowMinimum   = "below_minimum"     // the quantity rounds to nothing
	ReasonWithheld       = "director_withheld" // the Director decided against the order
	ReasonModelFailed    = "model_failed"      // the model gave no answer, and the rules closed the position
)

// Journal is where a model's answers are kept.
type Journal interface {
	// Recorded returns the journalled exchange of a call, from before a restart.
	Recorded(id event.ID) (*event.ModelCall, bool)
	// Record appends the exchange and returns when the log has acknowledged it;
	// its answer is used only then. The desk keeps no reference to call.
	Record(ctx context.Context, call *event.ModelCall) error
}

// Time is the session's time as one judgement sees it.
type Time interface {
	// Now is Unix nanoseconds.
	Now() int64
	// Spent tells how long a model took, live or as recorded.
	Spent(d time.Duration)
}

// Input is one signal and what the desk knows beside it.
type Input struct {
	Signal *event.Signal
	// Lineage is where the signal lies.
	Lineage event.Lineage
	// Position is the strategy's signed quantity of the symbol.
	Position event.Decimal
	// PriceTick and QtyStep are the venue's steps; zero when not known.
	PriceTick, QtyStep event.Decimal
	// Busy says that other signals had the model for too long: it is not asked.
	Busy bool
	// Replay says that the journal is replayed: a question that it has no answer to is
	// reported where live it would be asked.
	Replay bool
	Time   Time
	// Journal is not used by the deterministic desk.
	Journal Journal
}

// Abstention is the error by which an agent says that it could not judge.
type Abstention struct {
	Reason string // one of the reason codes
	Detail string // for people
}

func (a *Abstention) Error() string { return a.Reason + ": " + a.Detail }

// Agents are the four roles as the cycle asks them; the Director speaks twice.
// An *Abstention ends the judgement with an abstention, any other error without
// a verdict. Implementations are safe for concurrent use.
type Agents interface {
	// Thesis is the Director's view of the signal; after is what Risk rejected
	// before, or nil.
	Thesis(ctx context.Context, c *Case, after *Rejection) (Thesis, error)
	// Review is the Quant's: it supports or challenges.
	Review(ctx context.Context, c *Case, t Thesis) (Review, error)
	// Size is Risk's: it approves a size, at most the thesis', or rejects.
	Size(ctx context.Context, c *Case, t Thesis, r Review) (Sizing, error)
	// Order is Execution's.
	Order(ctx context.Context, c *Case, t Thesis, s Sizing) (OrderPlan, error)
	// Rule is the Director's last word on the written order.
	Rule(ctx context.Context, c *Case, t Thesis, o *Order) (Ruling, error)
}

// Desk judges signals. It keeps no state between them and is safe for
// concurrent use.
type Desk struct {
	cfg    Config
	name   string
	model  string
	agents Agents
	// fallback judges signals against a position when the model fails; nil: nobody does.
	fallback *Desk
}

// NewDeterministic makes the desk whose agents are rules in Go.
func NewDeterministic(cfg Config) *Desk {
	return &Desk{cfg: cfg, name: Deterministic, agents: &rules{cfg: cfg}}
}

// NewModel makes the desk whose agents ask a model. Go still computes every
// number, and its own limits only ever narrow what the model wants.
func NewModel(cfg Config, m Model) *Desk {
	d := &Desk{cfg: cfg, name: m.Host(), model: m.Model(), agents: &modelAgents{cfg: cfg, model: m}}
	if cfg.OnFailure == OnFailureReduceOnly {
		d.fallback = NewDeterministic(cfg)
	}
	return d
}

// Name is what the desk's decisions carry as their desk.
func (d *Desk) Name() string { return d.name }

// Judge answers one signal. An error means that there is no verdict (the context
// ended, the journal failed): the signal must be judged again. Everything else,
// a failing model included, is a verdict.
func (d *Desk) Judge(ctx context.Context, in Input) (*event.Verdict, error) {
	v := d.blank(in)
	c, abst := newCase(&d.cfg, in, v.ID)
	reducible := abst == nil && d.fallback != nil && Opposes(in.Signal, in.Position)
	if reducible {
		c.deadline -= reserve(in.Time.Now(), c.deadline)
	}
	switch {
	case abst != nil:
	case in.Busy:
		abst = &Abstention{ReasonModelBusy, "other signals had the model for too long"}
	default:
		err := d.cycle(ctx, c, v)
		if err != nil && !errors.As(err, &abst) {
			return nil, err
		}
		v.Decision.InputTokens, v.Decision.OutputTokens = c.inputTokens, c.outputTokens
	}
	if abst != nil && reducible && slices.Contains(modelFailures, abst.Reason) {
		closed, err := d.reduce(ctx, in, v, abst)
		if err != nil {
			return nil, err
		}
		if closed {
			abst = nil
		}
	}
	if abst != nil {
		abstain(&v.Decision, abst)
	}
	v.Decision.Time = in.Time.Now()
	return v, nil
}

// blank is a verdict that has everything but the judgement.
func (d *Desk) blank(in Input) *event.Verdict {
	s := in.Signal
	id := event.DecisionID(s.ID, s.Account, Arm)
	return &event.Verdict{
		ID:      id,
		Desk:    d.name,
		Lineage: in.Lineage,
		Decision: event.Decision{
			ID: id, SignalID: s.ID, Arm: Arm,
			Account: s.Account, Strategy: s.Strategy, Venue: s.Venue, Symbol: s.Symbol,
			Lineage: in.Lineage,
			Desk:    d.name, Model: d.model,
			RefPrice: s.RefPrice, Bid: s.Bid, Ask: s.Ask,
			SignalTime: s.Time, Deadline: s.Deadline, MaxDriftBps: s.MaxDriftBps,
			StartedAt: in.Time.Now(),
		},
	}
}

// abstain strips whatever had been filled in: an abstention has no order.
func abstain(d *event.Decision, a *Abstention) {
	d.Action, d.Reason, d.Rationale = event.ActionAbstain, a.Reason, a.Detail
	d.Conviction, d.Side, d.Type, d.TIF = 0, event.SideUnknown, event.OrderTypeUnknown, event.TIFUnknown
	d.Qty, d.LimitPrice, d.MaxSlippageBps = event.NullDecimal{}, event.NullDecimal{}, event.NullDecimal{}
	d.StopBps, d.TargetBps, d.Horizon = 0, 0, 0
}

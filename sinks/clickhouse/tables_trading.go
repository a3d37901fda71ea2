package clickhouse

import (
	"encoding/json"
	"fmt"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/autohedge/autohedge/stream/event"
)

// signalRows are rows of signals.
type signalRows struct {
	lineage
	source
	id, ruleHash, ruleSet                                   ids
	rule, kind, strategy, account, venue, symbol, indicator lowCard
	side                                                    enums[event.Side]
	time, eventTime, deadline                               times
	value, threshold                                        proto.ColFloat64
	values                                                  maps[*proto.ColFloat64]
	triggers                                                arrays
	refPrice, maxDrift                                      money
	bid, ask                                                nullMoney
	horizon                                                 proto.ColInt64
}

func newSignalRows() *signalRows {
	return &signalRows{values: maps[*proto.ColFloat64]{values: new(proto.ColFloat64)}}
}

func (r *signalRows) columns() []named {
	return r.lineage.with(r.source.with(
		named{"event_id", &r.id}, named{"rule_hash", &r.ruleHash}, named{"rule_set", &r.ruleSet}, named{"rule", &r.rule}, named{"kind", &r.kind},
		named{"strategy", &r.strategy}, named{"account", &r.account}, named{"venue", &r.venue}, named{"symbol", &r.symbol}, named{"side", &r.side},
		named{"time", &r.time}, named{"event_time", &r.eventTime}, named{"indicator", &r.indicator}, named{"value", &r.value}, named{"threshold", &r.threshold},
		named{"values", &r.values}, named{"triggers", &r.triggers}, named{"ref_price", &r.refPrice}, named{"bid", &r.bid}, named{"ask", &r.ask},
		named{"horizon_ns", &r.horizon}, named{"deadline", &r.deadline}, named{"max_drift_bps", &r.maxDrift})...)
}

func (r *signalRows) add(p *place, s *event.Signal) {
	r.id.add(s.ID)
	r.ruleHash.add(s.RuleHash)
	r.ruleSet.add(s.RuleSet)
	r.rule.add(s.Rule)
	r.kind.add(s.Kind)
	r.strategy.add(s.Strategy)
	r.account.add(s.Account)
	r.venue.add(s.Venue)
	r.symbol.add(s.Symbol)
	r.side.add(s.Side)
	r.time.Append(s.Time)
	r.eventTime.Append(s.EventTime)
	r.indicator.add(s.Indicator)
	r.value.Append(s.Value)
	r.threshold.Append(s.Threshold)
	for _, v := range s.Values {
		r.values.keys.add(v.Name)
		r.values.values.Append(v.Value)
	}
	r.values.end()
	for _, id := range s.Triggers {
		r.triggers.values.Append(id)
	}
	r.triggers.end()
	r.refPrice.add(s.RefPrice)
	r.bid.add(s.Bid)
	r.ask.add(s.Ask)
	r.horizon.Append(s.Horizon)
	r.deadline.Append(s.Deadline)
	r.maxDrift.add(s.MaxDriftBps)
	r.source.add(s.Lineage)
	r.lineage.add(p)
}

// journalKind tells the two kinds of journal entries apart.
type journalKind uint8

const (
	journalCall    journalKind = 1
	journalVerdict journalKind = 2
)

// journalKinds is the Enum8 of journalKind, which starts at 1.
type journalKinds struct{ proto.ColInt8 }

func (journalKinds) Type() proto.ColumnType { return "Enum8('model_call' = 1, 'verdict' = 2)" }

// journalRows are rows of journal: model calls and verdicts.
type journalRows struct {
	lineage
	source
	id, decisionID, signalID, prompt, requestHash            ids
	late                                                     proto.ColBool
	kind                                                     journalKinds
	time                                                     times
	role, endpoint, model, modelReturned, desk, reason       lowCard
	attempt, status, inputTokens, outputTokens, cachedTokens proto.ColUInt32
	request, response, errText, decision                     strs
	outcome                                                  enums[event.Outcome]
	latency                                                  proto.ColInt64
	action                                                   enums[event.Action]
	roles, verdicts, details                                 arrays
}

func (r *journalRows) columns() []named {
	return r.lineage.with(r.source.with(
		named{"event_id", &r.id}, named{"kind", &r.kind}, named{"decision_id", &r.decisionID}, named{"signal_id", &r.signalID}, named{"time", &r.time},
		named{"role", &r.role}, named{"prompt", &r.prompt}, named{"request_hash", &r.requestHash}, named{"late", &r.late}, named{"endpoint", &r.endpoint}, named{"model", &r.model}, named{"model_returned", &r.modelReturned},
		named{"attempt", &r.attempt}, named{"request", &r.request}, named{"response", &r.response}, named{"status", &r.status}, named{"outcome", &r.outcome},
		named{"error", &r.errText}, named{"input_tokens", &r.inputTokens}, named{"output_tokens", &r.outputTokens}, named{"cached_tokens", &r.cachedTokens},
		named{"latency_ns", &r.latency}, named{"desk", &r.desk}, named{"action", &r.action}, named{"reason", &r.reason},
		named{"roles", &r.roles}, named{"verdicts", &r.verdicts}, named{"details", &r.details}, named{"decision", &r.decision})...)
}

// common appends what both kinds have, and leaves the rest to the caller.
func (r *journalRows) common(p *place, kind journalKind, c *event.ModelCall, v *event.Verdict, decision []byte) {
	r.kind.Append(int8(kind))
	r.id.add(c.ID)
	r.decisionID.add(c.DecisionID)
	r.signalID.add(c.SignalID)
	r.time.Append(c.Time)
	r.role.add(c.Role)
	r.prompt.add(c.Prompt)
	r.requestHash.add(c.RequestHash)
	r.late.Append(c.Late)
	r.endpoint.add(c.Endpoint)
	r.model.add(c.Model)
	r.modelReturned.add(c.ModelReturned)
	r.attempt.Append(c.Attempt)
	r.request.AppendBytes(c.Request)
	r.response.AppendBytes(c.Response)
	r.status.Append(c.Status)
	r.outcome.add(c.Outcome)
	r.errText.add(c.Error)
	r.inputTokens.Append(c.InputTokens)
	r.outputTokens.Append(c.OutputTokens)
	r.cachedTokens.Append(c.CachedTokens)
	r.latency.Append(c.Latency)
	r.desk.add(v.Desk)
	r.action.add(v.Decision.Action)
	r.reason.add(v.Decision.Reason)
	for _, x := range v.Roles {
		r.roles.values.Append(x.Role)
		r.verdicts.values.Append(x.Verdict)
		r.details.values.Append(x.Detail)
	}
	r.roles.end()
	r.verdicts.end()
	r.details.end()
	r.decision.AppendBytes(decision)
	r.source.add(c.Lineage)
	r.lineage.add(p)
}

func (r *journalRows) addCall(p *place, c *event.ModelCall) {
	r.common(p, journalCall, c, &event.Verdict{}, nil)
}

func (r *journalRows) addVerdict(p *place, v *event.Verdict) error {
	d := &v.Decision
	text, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encoding the verdict's decision: %w", err)
	}
	r.common(p, journalVerdict, &event.ModelCall{
		ID: v.ID, DecisionID: d.ID, SignalID: d.SignalID, Time: d.Time, Model: d.Model, InputTokens: d.InputTokens, OutputTokens: d.OutputTokens,
		Latency: d.Time - d.StartedAt, Lineage: v.Lineage,
	}, v, text)
	return nil
}

// decisionRows are rows of decisions.
type decisionRows struct {
	lineage
	source
	id, signalID                                               ids
	arm, account, strategy, venue, symbol, desk, model, reason lowCard
	action                                                     enums[event.Action]
	rationale                                                  strs
	conviction                                                 proto.ColUInt8
	side                                                       enums[event.Side]
	qty, limitPrice, bid, ask                                  nullMoney
	typ                                                        enums[event.OrderType]
	tif                                                        enums[event.TimeInForce]
	stop, target, inputTokens, outputTokens                    proto.ColUInt32
	refPrice, maxDrift                                         money
	maxSlippage                                                nullMoney
	signalTime, deadline, startedAt, time                      times
	horizon                                                    proto.ColInt64
}

func (r *decisionRows) columns() []named {
	return r.lineage.with(r.source.with(
		named{"event_id", &r.id}, named{"signal_id", &r.signalID}, named{"arm", &r.arm}, named{"account", &r.account}, named{"strategy", &r.strategy},
		named{"venue", &r.venue}, named{"symbol", &r.symbol}, named{"desk", &r.desk}, named{"model", &r.model}, named{"action", &r.action},
		named{"reason", &r.reason}, named{"rationale", &r.rationale}, named{"conviction", &r.conviction}, named{"side", &r.side}, named{"qty", &r.qty},
		named{"type", &r.typ}, named{"tif", &r.tif}, named{"limit_price", &r.limitPrice}, named{"stop_bps", &r.stop}, named{"target_bps", &r.target}, named{"horizon_ns", &r.horizon},
		named{"ref_price", &r.refPrice}, named{"bid", &r.bid}, named{"ask", &r.ask}, named{"signal_time", &r.signalTime}, named{"deadline", &r.deadline},
		named{"max_drift_bps", &r.maxDrift}, named{"max_slippage_bps", &r.maxSlippage}, named{"started_at", &r.startedAt}, named{"time", &r.time},
		named{"input_tokens", &r.inputTokens}, named{"output_tokens", &r.outputTokens})...)
}

func (r *decisionRows) add(p *place, d *event.Decision) {
	r.id.add(d.ID)
	r.signalID.add(d.SignalID)
	r.arm.add(d.Arm)
	r.account.add(d.Account)
	r.strategy.add(d.Strategy)
	r.venue.add(d.Venue)
	r.symbol.add(d.Symbol)
	r.desk.add(d.Desk)
	r.model.add(d.Model)
	r.action.add(d.Action)
	r.reason.add(d.Reason)
	r.rationale.add(d.Rationale)
	r.conviction.Append(uint8(min(d.Conviction, 255)))
	r.side.add(d.Side)
	r.qty.add(d.Qty)
	r.typ.add(d.Type)
	r.tif.add(d.TIF)
	r.limitPrice.add(d.LimitPrice)
	r.stop.Append(d.StopBps)
	r.target.Append(d.TargetBps)
	r.horizon.Append(d.Horizon)
	r.refPrice.add(d.RefPrice)
	r.bid.add(d.Bid)
	r.ask.add(d.Ask)
	r.signalTime.Append(d.SignalTime)
	r.deadline.Append(d.Deadline)
	r.maxDrift.add(d.MaxDriftBps)
	r.maxSlippage.add(d.MaxSlippageBps)
	r.startedAt.Append(d.StartedAt)
	r.time.Append(d.Time)
	r.inputTokens.Append(d.InputTokens)
	r.outputTokens.Append(d.OutputTokens)
	r.source.add(d.Lineage)
	r.lineage.add(p)
}

// orderRows are rows of order_events.
type orderRows struct {
	lineage
	source
	id, decisionID, signalID                         ids
	clientOrderID, brokerOrderID, detail, cause, lot strs
	seq, epoch, attempt, stop, target                proto.ColUInt32
	horizon                                          proto.ColInt64
	state                                            enums[event.OrderState]
	broker, account, strategy, venue, symbol, reason lowCard
	side                                             enums[event.Side]
	typ                                              enums[event.OrderType]
	tif                                              enums[event.TimeInForce]
	leg                                              enums[event.Leg]
	qty, filledQty, filledNotional, refPrice         money
	limitPrice, claimedQty                           nullMoney
	time, signalTime                                 times
	brokerTime                                       nullTimes
}

func (r *orderRows) columns() []named {
	return r.lineage.with(r.source.with(
		named{"event_id", &r.id}, named{"client_order_id", &r.clientOrderID}, named{"seq", &r.seq}, named{"state", &r.state}, named{"broker", &r.broker},
		named{"broker_order_id", &r.brokerOrderID}, named{"decision_id", &r.decisionID}, named{"signal_id", &r.signalID}, named{"account", &r.account},
		named{"strategy", &r.strategy}, named{"venue", &r.venue}, named{"symbol", &r.symbol}, named{"side", &r.side}, named{"type", &r.typ}, named{"tif", &r.tif},
		named{"qty", &r.qty}, named{"limit_price", &r.limitPrice}, named{"filled_qty", &r.filledQty}, named{"filled_notional", &r.filledNotional},
		named{"claimed_qty", &r.claimedQty},
		named{"reason", &r.reason}, named{"detail", &r.detail}, named{"time", &r.time}, named{"broker_time", &r.brokerTime}, named{"signal_time", &r.signalTime},
		named{"ref_price", &r.refPrice}, named{"epoch", &r.epoch}, named{"leg", &r.leg}, named{"attempt", &r.attempt}, named{"cause", &r.cause}, named{"lot", &r.lot},
		named{"stop_bps", &r.stop}, named{"target_bps", &r.target}, named{"horizon_ns", &r.horizon})...)
}

func (r *orderRows) add(p *place, o *event.OrderEvent) {
	r.id.add(o.ID)
	r.clientOrderID.add(o.ClientOrderID)
	r.seq.Append(o.Seq)
	r.state.add(o.State)
	r.broker.add(o.Broker)
	r.brokerOrderID.add(o.BrokerOrderID)
	r.decisionID.add(o.DecisionID)
	r.signalID.add(o.SignalID)
	r.account.add(o.Account)
	r.strategy.add(o.Strategy)
	r.venue.add(o.Venue)
	r.symbol.add(o.Symbol)
	r.side.add(o.Side)
	r.typ.add(o.Type)
	r.tif.add(o.TIF)
	r.qty.add(o.Qty)
	r.limitPrice.add(o.LimitPrice)
	r.filledQty.add(o.FilledQty)
	r.filledNotional.add(o.FilledNotional)
	r.claimedQty.add(o.ClaimedQty)
	r.reason.add(o.Reason)
	r.detail.add(o.Detail)
	r.time.Append(o.Time)
	r.brokerTime.add(o.BrokerTime)
	r.signalTime.Append(o.SignalTime)
	r.refPrice.add(o.RefPrice)
	r.epoch.Append(o.Epoch)
	r.leg.add(o.Leg)
	r.attempt.Append(o.Attempt)
	r.cause.add(o.Cause)
	r.lot.add(o.Lot)
	r.stop.Append(o.StopBps)
	r.target.Append(o.TargetBps)
	r.horizon.Append(o.Horizon)
	r.source.add(o.Lineage)
	r.lineage.add(p)
}

// fillRows are rows of fills.
type fillRows struct {
	lineage
	source
	id, decisionID                                        ids
	execID, life, clientOrderID, brokerOrderID, quoteID   strs
	broker, account, strategy, venue, symbol, feeCurrency lowCard
	side                                                  enums[event.Side]
	price, qty, fee, feeQuote                             money
	liquidity                                             enums[event.Liquidity]
	time                                                  times
}

func (r *fillRows) columns() []named {
	return r.lineage.with(r.source.with(
		named{"event_id", &r.id}, named{"exec_id", &r.execID}, named{"life", &r.life}, named{"client_order_id", &r.clientOrderID}, named{"broker_order_id", &r.brokerOrderID},
		named{"broker", &r.broker}, named{"decision_id", &r.decisionID}, named{"account", &r.account}, named{"strategy", &r.strategy}, named{"venue", &r.venue},
		named{"symbol", &r.symbol}, named{"side", &r.side}, named{"price", &r.price}, named{"qty", &r.qty}, named{"liquidity", &r.liquidity}, named{"fee", &r.fee},
		named{"fee_currency", &r.feeCurrency}, named{"fee_quote", &r.feeQuote}, named{"quote_id", &r.quoteID}, named{"time", &r.time})...)
}

func (r *fillRows) add(p *place, f *event.Fill) {
	r.id.add(f.ID)
	r.execID.add(f.ExecID)
	r.life.add(f.Life)
	r.clientOrderID.add(f.ClientOrderID)
	r.brokerOrderID.add(f.BrokerOrderID)
	r.broker.add(f.Broker)
	r.decisionID.add(f.DecisionID)
	r.account.add(f.Account)
	r.strategy.add(f.Strategy)
	r.venue.add(f.Venue)
	r.symbol.add(f.Symbol)
	r.side.add(f.Side)
	r.price.add(f.Price)
	r.qty.add(f.Qty)
	r.liquidity.add(f.Liquidity)
	r.fee.add(f.Fee)
	r.feeCurrency.add(f.FeeCurrency)
	r.feeQuote.add(f.FeeQuote)
	r.quoteID.add(f.QuoteID)
	r.time.Append(f.Time)
	r.source.add(f.Lineage)
	r.lineage.add(p)
}

// positionRows are rows of positions.
type positionRows struct {
	lineage
	source
	id                                              ids
	account, strategy, venue, symbol, quoteCurrency lowCard
	qty, cash, fees                                 money
	mark, total                                     nullMoney
	markID                                          strs
	fills, version                                  proto.ColUInt64
	time                                            times
}

func (r *positionRows) columns() []named {
	return r.lineage.with(r.source.with(
		named{"event_id", &r.id}, named{"account", &r.account}, named{"strategy", &r.strategy}, named{"venue", &r.venue}, named{"symbol", &r.symbol},
		named{"quote_currency", &r.quoteCurrency}, named{"qty", &r.qty}, named{"cash", &r.cash}, named{"fees", &r.fees}, named{"mark", &r.mark},
		named{"mark_id", &r.markID}, named{"total", &r.total}, named{"fills", &r.fills}, named{"version", &r.version}, named{"time", &r.time})...)
}

func (r *positionRows) add(p *place, x *event.Position) {
	r.id.add(x.ID)
	r.account.add(x.Account)
	r.strategy.add(x.Strategy)
	r.venue.add(x.Venue)
	r.symbol.add(x.Symbol)
	r.quoteCurrency.add(x.QuoteCurrency)
	r.qty.add(x.Qty)
	r.cash.add(x.Cash)
	r.fees.add(x.Fees)
	r.mark.add(x.Mark)
	r.markID.add(x.MarkID)
	r.total.add(x.Total)
	r.fills.Append(x.Fills)
	r.version.Append(x.Version)
	r.time.Append(x.Time)
	r.source.add(x.Lineage)
	r.lineage.add(p)
}

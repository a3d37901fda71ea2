package event

// One method a type: its field numbers, in the order of event.proto.

// EventType returns TypeTrade.
func (t *Trade) EventType() Type { return TypeTrade }

func (t *Trade) fields(c *coder) {
	enum(c, 1, &t.Channel, channelNames)
	c.uint(2, &t.TradeID)
	c.string(3, &t.TradeIDText)
	c.decimal(4, &t.Price)
	c.nullDecimal(5, &t.Qty)
	enum(c, 6, &t.Aggressor, sideNames)
	c.time(7, &t.EventTime)
	enum(c, 8, &t.TimeSource, timeSourceNames)
	c.time(9, &t.RecvTime)
	c.uint(10, &t.Sequence)
	c.uint32(11, &t.Connection)
	c.uint(12, &t.Ordinal)
	c.time(13, &t.PublishTime)
	c.uint(14, &t.FirstTradeID)
	c.uint(15, &t.LastTradeID)
	c.uint32(16, &t.Epoch)
	c.bool(17, &t.Late)
}

// EventType returns TypeQuote.
func (q *Quote) EventType() Type { return TypeQuote }

func (q *Quote) fields(c *coder) {
	enum(c, 1, &q.Channel, channelNames)
	c.uint(2, &q.Sequence)
	c.decimal(3, &q.Bid)
	c.nullDecimal(4, &q.BidQty)
	c.decimal(5, &q.Ask)
	c.nullDecimal(6, &q.AskQty)
	c.time(7, &q.EventTime)
	enum(c, 8, &q.TimeSource, timeSourceNames)
	c.time(9, &q.RecvTime)
	c.time(10, &q.PublishTime)
	c.uint32(11, &q.Connection)
	c.uint(12, &q.Ordinal)
	c.uint32(13, &q.Epoch)
}

// EventType returns TypeCoverage.
func (m *Coverage) EventType() Type { return TypeCoverage }

func (m *Coverage) fields(c *coder) {
	enum(c, 1, &m.Kind, coverageKindNames)
	enum(c, 2, &m.Channel, channelNames)
	c.bool(3, &m.Contiguous)
	c.uint(4, &m.FromID)
	c.uint(5, &m.ToID)
	c.time(6, &m.FromTime)
	c.time(7, &m.ToTime)
	c.time(8, &m.RecvTime)
	c.uint32(9, &m.Connection)
	c.uint(10, &m.Ordinal)
	c.string(11, &m.Reason)
	c.uint32(12, &m.Epoch)
}

// EventType returns TypeClock.
func (m *Clock) EventType() Type { return TypeClock }

func (m *Clock) fields(c *coder) {
	c.name(1, &m.Feed)
	c.uint32(2, &m.Connections)
	c.time(3, &m.Time)
	c.bool(4, &m.Closing)
}

func (l *Lineage) fields(c *coder) {
	c.name(1, &l.Topic)
	c.int32(2, &l.Partition)
	c.int(3, &l.Offset)
	c.uint32(4, &l.K)
}

func (v *Value) fields(c *coder) {
	c.name(1, &v.Name)
	c.float(2, &v.Value)
}

// EventType returns TypeSignal.
func (s *Signal) EventType() Type { return TypeSignal }

func (s *Signal) fields(c *coder) {
	c.id(1, &s.ID)
	c.id(2, &s.RuleHash)
	c.id(3, &s.RuleSet)
	c.name(4, &s.Rule)
	c.name(5, &s.Kind)
	c.name(6, &s.Strategy)
	c.name(7, &s.Account)
	c.name(8, &s.Venue)
	c.name(9, &s.Symbol)
	enum(c, 10, &s.Side, sideNames)
	c.message(11, s.Lineage.fields)
	c.time(12, &s.Time)
	c.time(13, &s.EventTime)
	c.name(14, &s.Indicator)
	c.float(15, &s.Value)
	c.float(16, &s.Threshold)
	repeated(c, 17, &s.Values, (*Value).fields)
	c.strings(18, &s.Triggers)
	c.decimal(19, &s.RefPrice)
	c.nullDecimal(20, &s.Bid)
	c.nullDecimal(21, &s.Ask)
	c.int(22, &s.Horizon)
	c.time(23, &s.Deadline)
	c.decimal(24, &s.MaxDriftBps)
}

// EventType returns TypeModelCall.
func (m *ModelCall) EventType() Type { return TypeModelCall }

func (m *ModelCall) fields(c *coder) {
	c.id(1, &m.ID)
	c.id(2, &m.DecisionID)
	c.id(3, &m.SignalID)
	c.name(4, &m.Role)
	c.id(5, &m.Prompt)
	c.string(6, &m.Endpoint)
	c.name(7, &m.Model)
	c.string(8, &m.ModelReturned)
	c.uint32(9, &m.Attempt)
	c.bytes(10, &m.Request)
	c.bytes(11, &m.Response)
	c.uint32(12, &m.Status)
	enum(c, 13, &m.Outcome, outcomeNames)
	c.string(14, &m.Error)
	c.uint32(15, &m.InputTokens)
	c.uint32(16, &m.OutputTokens)
	c.uint32(17, &m.CachedTokens)
	c.time(18, &m.Time)
	c.int(19, &m.Latency)
	c.message(20, m.Lineage.fields)
	c.id(21, &m.RequestHash)
	c.bool(22, &m.Late)
}

func (r *RoleVerdict) fields(c *coder) {
	c.name(1, &r.Role)
	c.string(2, &r.Verdict)
	c.string(3, &r.Detail)
}

// EventType returns TypeVerdict.
func (v *Verdict) EventType() Type { return TypeVerdict }

func (v *Verdict) fields(c *coder) {
	c.id(1, &v.ID)
	c.name(2, &v.Desk)
	repeated(c, 3, &v.Roles, (*RoleVerdict).fields)
	c.message(4, v.Decision.fields)
	c.message(5, v.Lineage.fields)
}

// EventType returns TypeDecision.
func (d *Decision) EventType() Type { return TypeDecision }

func (d *Decision) fields(c *coder) {
	c.id(1, &d.ID)
	c.id(2, &d.SignalID)
	c.name(3, &d.Arm)
	c.name(4, &d.Account)
	c.name(5, &d.Strategy)
	c.name(6, &d.Venue)
	c.name(7, &d.Symbol)
	c.message(8, d.Lineage.fields)
	c.name(9, &d.Desk)
	c.name(10, &d.Model)
	enum(c, 11, &d.Action, actionNames)
	c.string(12, &d.Reason)
	c.string(13, &d.Rationale)
	c.uint32(14, &d.Conviction)
	enum(c, 15, &d.Side, sideNames)
	c.nullDecimal(16, &d.Qty)
	enum(c, 17, &d.Type, orderTypeNames)
	enum(c, 18, &d.TIF, tifNames)
	c.nullDecimal(19, &d.LimitPrice)
	c.uint32(20, &d.StopBps)
	c.uint32(21, &d.TargetBps)
	c.decimal(22, &d.RefPrice)
	c.nullDecimal(23, &d.Bid)
	c.nullDecimal(24, &d.Ask)
	c.time(25, &d.SignalTime)
	c.time(26, &d.Deadline)
	c.decimal(27, &d.MaxDriftBps)
	c.time(28, &d.StartedAt)
	c.time(29, &d.Time)
	c.uint32(30, &d.InputTokens)
	c.uint32(31, &d.OutputTokens)
	c.int(32, &d.Horizon)
	c.nullDecimal(33, &d.MaxSlippageBps)
}

// EventType returns TypeOrder.
func (o *OrderEvent) EventType() Type { return TypeOrder }

func (o *OrderEvent) fields(c *coder) {
	c.id(1, &o.ID)
	c.name(2, &o.ClientOrderID)
	c.uint32(3, &o.Seq)
	enum(c, 4, &o.State, orderStateNames)
	c.name(5, &o.Broker)
	c.name(6, &o.BrokerOrderID)
	c.id(7, &o.DecisionID)
	c.id(8, &o.SignalID)
	c.name(9, &o.Account)
	c.name(10, &o.Strategy)
	c.name(11, &o.Venue)
	c.name(12, &o.Symbol)
	enum(c, 13, &o.Side, sideNames)
	enum(c, 14, &o.Type, orderTypeNames)
	enum(c, 15, &o.TIF, tifNames)
	c.decimal(16, &o.Qty)
	c.nullDecimal(17, &o.LimitPrice)
	c.decimal(18, &o.FilledQty)
	c.decimal(19, &o.FilledNotional)
	c.string(20, &o.Reason)
	c.string(21, &o.Detail)
	c.time(22, &o.Time)
	c.time(23, &o.BrokerTime)
	c.time(24, &o.SignalTime)
	c.decimal(25, &o.RefPrice)
	c.uint32(26, &o.Epoch)
	c.message(27, o.Lineage.fields)
	enum(c, 28, &o.Leg, legNames)
	c.uint32(29, &o.Attempt)
	c.string(30, &o.Cause)
	c.name(31, &o.Lot)
	c.uint32(32, &o.StopBps)
	c.uint32(33, &o.TargetBps)
	c.int(34, &o.Horizon)
	c.nullDecimal(40, &o.ClaimedQty)
}

// EventType returns TypeFill.
func (f *Fill) EventType() Type { return TypeFill }

func (f *Fill) fields(c *coder) {
	c.id(1, &f.ID)
	c.name(2, &f.ExecID)
	c.name(3, &f.ClientOrderID)
	c.name(4, &f.BrokerOrderID)
	c.name(5, &f.Broker)
	c.id(6, &f.DecisionID)
	c.name(7, &f.Account)
	c.name(8, &f.Strategy)
	c.name(9, &f.Venue)
	c.name(10, &f.Symbol)
	enum(c, 11, &f.Side, sideNames)
	c.decimal(12, &f.Price)
	c.decimal(13, &f.Qty)
	enum(c, 14, &f.Liquidity, liquidityNames)
	c.decimal(15, &f.Fee)
	c.name(16, &f.FeeCurrency)
	c.decimal(17, &f.FeeQuote)
	c.string(18, &f.QuoteID)
	c.time(19, &f.Time)
	c.message(20, f.Lineage.fields)
	c.name(21, &f.Life)
}

// EventType returns TypePosition.
func (p *Position) EventType() Type { return TypePosition }

func (p *Position) fields(c *coder) {
	c.id(1, &p.ID)
	c.name(2, &p.Account)
	c.name(3, &p.Strategy)
	c.name(4, &p.Venue)
	c.name(5, &p.Symbol)
	c.name(6, &p.QuoteCurrency)
	c.decimal(7, &p.Qty)
	c.decimal(8, &p.Cash)
	c.decimal(9, &p.Fees)
	c.nullDecimal(10, &p.Mark)
	c.string(11, &p.MarkID)
	c.nullDecimal(12, &p.Total)
	c.uint(13, &p.Fills)
	c.uint(14, &p.Version)
	c.time(15, &p.Time)
	c.message(16, p.Lineage.fields)
}

// EventType returns TypeControl.
func (m *Control) EventType() Type { return TypeControl }

func (m *Control) fields(c *coder) {
	c.id(1, &m.ID)
	enum(c, 2, &m.Kind, controlKindNames)
	c.name(3, &m.Scope)
	c.string(4, &m.Who)
	c.string(5, &m.Why)
	c.time(6, &m.Time)
	c.id(7, &m.Hash)
	c.bytes(8, &m.Body)
	enum(c, 9, &m.Level, haltLevelNames)
}

// EventType returns TypeDead.
func (d *Dead) EventType() Type { return TypeDead }

func (d *Dead) fields(c *coder) {
	c.id(1, &d.ID)
	c.name(2, &d.Role)
	c.string(3, &d.Reason)
	c.bytes(4, &d.Key)
	c.bytes(5, &d.Value)
	c.time(6, &d.Time)
	c.message(7, d.Lineage.fields)
}

// EventType returns TypeInstrument.
func (i *Instrument) EventType() Type { return TypeInstrument }

func (i *Instrument) fields(c *coder) {
	c.name(1, &i.Venue)
	c.name(2, &i.Symbol)
	c.name(3, &i.Name)
	c.name(4, &i.Base)
	c.name(5, &i.Quote)
	c.decimal(6, &i.PriceTick)
	c.decimal(7, &i.QtyStep)
	c.nullDecimal(8, &i.MinQty)
	c.nullDecimal(9, &i.MinNotional)
	c.string(10, &i.Source)
	c.time(11, &i.Time)
}

// EventType returns TypeIncarnation.
func (i *Incarnation) EventType() Type { return TypeIncarnation }

func (i *Incarnation) fields(c *coder) {
	c.name(1, &i.Topic)
	c.id(2, &i.ID)
	c.uint32(3, &i.Partitions)
	c.time(4, &i.Time)
	repeated(c, 5, &i.Begins, func(p *PartitionOffset, c *coder) {
		c.int32(1, &p.Partition)
		c.int(2, &p.Offset)
	})
	c.string(6, &i.Who)
	c.string(7, &i.Why)
	c.id(8, &i.TopicID)
}

// EventType returns TypeSkip.
func (s *Skip) EventType() Type { return TypeSkip }

func (s *Skip) fields(c *coder) {
	c.id(1, &s.ID)
	c.name(2, &s.Group)
	c.name(3, &s.Topic)
	c.int32(4, &s.Partition)
	c.id(5, &s.Incarnation)
	c.int(6, &s.From)
	c.int(7, &s.To)
	c.string(8, &s.Who)
	c.string(9, &s.Why)
	c.time(10, &s.Time)
}

// EventType returns TypeSinkPlan.
func (s *SinkPlan) EventType() Type { return TypeSinkPlan }

func (s *SinkPlan) fields(c *coder) {
	c.name(1, &s.Topic)
	c.int32(2, &s.Partition)
	c.id(3, &s.Incarnation)
	c.int(4, &s.First)
	c.int(5, &s.Last)
	c.string(6, &s.Token)
	c.uint32(7, &s.Epoch)
	c.time(8, &s.Time)
	c.bool(9, &s.Expired)
	c.uint(10, &s.Reland)
	c.bool(11, &s.Opens)
	c.string(12, &s.Who)
	c.string(13, &s.Why)
}

// EventType returns TypeRuleStart.
func (r *RuleStart) EventType() Type { return TypeRuleStart }

func (r *RuleStart) fields(c *coder) {
	c.id(1, &r.RuleSet)
	c.int32(2, &r.Partition)
	c.id(3, &r.Incarnation)
	c.int(4, &r.First)
	c.uint32(5, &r.Epoch)
	c.time(6, &r.Time)
	c.int(7, &r.Output)
}

// EventType returns TypeEpoch.
func (m *Epoch) EventType() Type { return TypeEpoch }

func (m *Epoch) fields(c *coder) {
	c.string(1, &m.Key)
	c.uint(2, &m.Number)
	c.id(3, &m.Instance)
	c.string(4, &m.Who)
	c.int(5, &m.ProducerID)
	c.uint32(6, &m.ProducerEpoch)
	c.time(7, &m.Time)
}

// EventType returns TypeChunk.
func (m *SnapshotChunk) EventType() Type { return TypeChunk }

func (m *SnapshotChunk) fields(c *coder) {
	c.name(1, &m.Name)
	c.id(2, &m.Save)
	c.uint32(3, &m.Index)
	c.bytes(4, &m.Data)
}

func (o *SnapshotOutput) fields(c *coder) {
	c.name(1, &o.Topic)
	c.int32(2, &o.Partition)
	c.int(3, &o.End)
}

// EventType returns TypeManifest.
func (m *SnapshotManifest) EventType() Type { return TypeManifest }

func (m *SnapshotManifest) fields(c *coder) {
	c.name(1, &m.Name)
	c.uint(2, &m.Epoch)
	c.id(3, &m.Save)
	c.uint32(4, &m.Slot)
	c.name(5, &m.InputTopic)
	c.id(6, &m.Incarnation)
	c.int(7, &m.Input)
	repeated(c, 8, &m.Outputs, (*SnapshotOutput).fields)
	c.uint32(9, &m.Form)
	c.uint32(10, &m.Chunks)
	c.uint(11, &m.Size)
	c.int(12, &m.First)
	c.time(13, &m.Time)
	c.uint32(14, &m.StateChecksum)
	c.uint32(15, &m.Checksum)
}

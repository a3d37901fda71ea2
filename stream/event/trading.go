package event

// Lineage tells which record an event was derived from: the K-th output of the
// record at Offset of Partition of Topic. It is not part of any identity.
type Lineage struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	K         uint32 `json:"k,omitempty"`
}

// Less orders outputs of one partition: by source offset, then K.
func (l Lineage) Less(m Lineage) bool {
	return l.Offset < m.Offset || (l.Offset == m.Offset && l.K < m.K)
}

// Value is a named number that a rule computed, for judging, never for money.
type Value struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

// Signal is a threshold crossing. It carries all that the desk judges.
type Signal struct {
	ID       ID      `json:"id"` // SignalID(RuleHash, id of the triggering record, k)
	RuleHash ID      `json:"rule_hash"`
	RuleSet  ID      `json:"rule_set"`
	Rule     string  `json:"rule"`
	Kind     string  `json:"kind"` // "threshold"; timers and tasks have their own
	Strategy string  `json:"strategy"`
	Account  string  `json:"account"`
	Venue    string  `json:"venue"`
	Symbol   string  `json:"symbol"`
	Side     Side    `json:"side"`
	Lineage  Lineage `json:"lineage"`
	// Time is the receive time of the triggering record, EventTime the venue's.
	Time      int64 `json:"time"`
	EventTime int64 `json:"event_time"`
	// Indicator is the rule's indicator; Value its value at the crossing,
	// Threshold what it crossed. Values has every value the rule computes.
	Indicator string  `json:"indicator"`
	Value     float64 `json:"value"`
	Threshold float64 `json:"threshold"`
	Values    []Value `json:"values,omitempty"`
	// Triggers are the ids of the ticks that fired it (Trade.AppendID), newest
	// first: the record that crossed, and the quote it is judged against.
	Triggers []string    `json:"triggers"`
	RefPrice Decimal     `json:"ref_price"`
	Bid      NullDecimal `json:"bid"`
	Ask      NullDecimal `json:"ask"`
	// Horizon is how long the effect is expected to last, in nanoseconds;
	// Deadline is when a decision is too late, Unix nanoseconds.
	Horizon  int64 `json:"horizon"`
	Deadline int64 `json:"deadline"`
	// MaxDriftBps is how far the price may have moved against the signal when
	// the order is written, in basis points of RefPrice.
	MaxDriftBps Decimal `json:"max_drift_bps"`
}

// ModelCall is one exchange with a model, as bytes, in the journal.
type ModelCall struct {
	ID         ID     `json:"id"` // CallID
	DecisionID ID     `json:"decision_id"`
	SignalID   ID     `json:"signal_id"`
	Role       string `json:"role"` // director, quant, risk, execution, decision
	// Prompt is the hash of the role's prompt and schema, its version.
	Prompt        ID      `json:"prompt"`
	Endpoint      string  `json:"endpoint"` // base URL without credentials
	Model         string  `json:"model"`
	ModelReturned string  `json:"model_returned,omitempty"`
	Attempt       uint32  `json:"attempt"`
	Request       []byte  `json:"request"`  // the HTTP body as sent
	Response      []byte  `json:"response"` // the HTTP body as received
	Status        uint32  `json:"status"`   // HTTP status; 0 when none came
	Outcome       Outcome `json:"outcome"`
	Error         string  `json:"error,omitempty"`
	InputTokens   uint32  `json:"input_tokens,omitempty"`
	OutputTokens  uint32  `json:"output_tokens,omitempty"`
	CachedTokens  uint32  `json:"cached_tokens,omitempty"`
	Time          int64   `json:"time"`    // when it was sent
	Latency       int64   `json:"latency"` // nanoseconds
	Lineage       Lineage `json:"lineage"`
	// RequestHash names the whole question: prompt, schema, data and model. Zero in
	// records of builds that did not write it.
	RequestHash ID `json:"request_hash"`
	// Late says that the signal's deadline passed while the answer was waited for.
	Late bool `json:"late,omitempty"`
}

// RoleVerdict is what one agent of the desk said.
type RoleVerdict struct {
	Role    string `json:"role"`
	Verdict string `json:"verdict"` // long, short, support, challenge, approve, reject, order, ...
	Detail  string `json:"detail"`  // the agent's typed answer as JSON
}

// Verdict is the desk's answer to one signal, in the journal: a redelivered
// signal is answered from it and never judged again.
type Verdict struct {
	ID       ID            `json:"id"` // the decision's id
	Desk     string        `json:"desk"`
	Roles    []RoleVerdict `json:"roles,omitempty"`
	Decision Decision      `json:"decision"`
	Lineage  Lineage       `json:"lineage"`
}

// Decision is what the desk wants done about one signal. Execution checks it
// against hard limits; a model's answer can only narrow what those allow.
type Decision struct {
	ID       ID      `json:"id"` // DecisionID(SignalID, Account, Arm)
	SignalID ID      `json:"signal_id"`
	Arm      string  `json:"arm"` // "champion"
	Account  string  `json:"account"`
	Strategy string  `json:"strategy"`
	Venue    string  `json:"venue"`
	Symbol   string  `json:"symbol"`
	Lineage  Lineage `json:"lineage"`
	Desk     string  `json:"desk"` // "deterministic", or the endpoint's name
	Model    string  `json:"model,omitempty"`
	Action   Action  `json:"action"`
	// Reason is a short code (deadline, schema, quant_challenge, ...), Rationale
	// is for people.
	Reason     string `json:"reason"`
	Rationale  string `json:"rationale,omitempty"`
	Conviction uint32 `json:"conviction,omitempty"` // 1 to 5
	// Side, Qty, Type, LimitPrice and TIF are the order, for long, short and
	// flat only.
	Side       Side        `json:"side"`
	Qty        NullDecimal `json:"qty"`
	Type       OrderType   `json:"type"`
	TIF        TimeInForce `json:"tif"`
	LimitPrice NullDecimal `json:"limit_price"`
	// StopBps and TargetBps are protective distances from the entry, in basis
	// points; 0 is none.
	StopBps   uint32 `json:"stop_bps,omitempty"`
	TargetBps uint32 `json:"target_bps,omitempty"`
	// Horizon is how long after its first fill the position is closed, in
	// nanoseconds; 0 is never.
	Horizon int64 `json:"horizon,omitempty"`
	// RefPrice, Bid, Ask, SignalTime, Deadline and MaxDriftBps are the signal's.
	RefPrice    Decimal     `json:"ref_price"`
	Bid         NullDecimal `json:"bid"`
	Ask         NullDecimal `json:"ask"`
	SignalTime  int64       `json:"signal_time"`
	Deadline    int64       `json:"deadline"`
	MaxDriftBps Decimal     `json:"max_drift_bps"`
	// MaxSlippageBps is how far beyond the touch the order may fill, in basis points;
	// absent leaves it to the account's price band.
	MaxSlippageBps NullDecimal `json:"max_slippage_bps"`
	// StartedAt and Time bound the judging.
	StartedAt    int64  `json:"started_at"`
	Time         int64  `json:"time"`
	InputTokens  uint32 `json:"input_tokens,omitempty"`
	OutputTokens uint32 `json:"output_tokens,omitempty"`
}

// OrderEvent is one entry of the order log. The state of an order is its last
// entry; Seq counts from 0 without holes.
type OrderEvent struct {
	ID            ID         `json:"id"` // OrderEventID
	ClientOrderID string     `json:"client_order_id"`
	Seq           uint32     `json:"seq"`
	State         OrderState `json:"state"`
	Broker        string     `json:"broker"`
	// BrokerOrderID is the broker's own id once it gave one.
	BrokerOrderID string      `json:"broker_order_id,omitempty"`
	DecisionID    ID          `json:"decision_id"`
	SignalID      ID          `json:"signal_id"`
	Account       string      `json:"account"`
	Strategy      string      `json:"strategy"`
	Venue         string      `json:"venue"`
	Symbol        string      `json:"symbol"`
	Side          Side        `json:"side"`
	Type          OrderType   `json:"type"`
	TIF           TimeInForce `json:"tif"`
	Qty           Decimal     `json:"qty"`
	LimitPrice    NullDecimal `json:"limit_price"`
	// FilledQty and FilledNotional (sum of price x quantity) are cumulative.
	FilledQty      Decimal `json:"filled_qty"`
	FilledNotional Decimal `json:"filled_notional"`
	// Reason is a short code, for a rejection the limit's name; Detail says it
	// to people, with both numbers.
	Reason string `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Time is the session's, BrokerTime the broker's.
	Time       int64 `json:"time"`
	BrokerTime int64 `json:"broker_time,omitempty"`
	// SignalTime is the receive time of the tick that fired it all.
	SignalTime int64   `json:"signal_time"`
	RefPrice   Decimal `json:"ref_price"`
	// Epoch is the owner's, which fences a predecessor.
	Epoch   uint32  `json:"epoch,omitempty"`
	Lineage Lineage `json:"lineage"`
	// ClaimedQty is the cumulative quantity that the broker says was filled, where
	// that is more than its fills prove (FilledQty); else absent.
	ClaimedQty NullDecimal `json:"claimed_qty"`
	// Leg is the part that the order has in a trade.
	Leg Leg `json:"leg,omitempty"`
	// Lot is the client order id of the entry that an exit closes; Attempt counts the
	// exits of a lot from 1, and Cause says to people what triggered them.
	Lot     string `json:"lot,omitempty"`
	Attempt uint32 `json:"attempt,omitempty"`
	Cause   string `json:"cause,omitempty"`
	// StopBps, TargetBps and Horizon are the decision's, of an entry only: what its
	// lot is closed at. 0 is none.
	StopBps   uint32 `json:"stop_bps,omitempty"`
	TargetBps uint32 `json:"target_bps,omitempty"`
	Horizon   int64  `json:"horizon,omitempty"`
}

// Fill is one execution of an order at the broker.
type Fill struct {
	// ID is FillID; records of before that was so keep the id that they have. Within
	// an order a fill is recognised by ClientOrderID and ExecID.
	ID            ID     `json:"id"`
	ExecID        string `json:"exec_id"`
	ClientOrderID string `json:"client_order_id"`
	BrokerOrderID string `json:"broker_order_id,omitempty"`
	Broker        string `json:"broker"`
	DecisionID    ID     `json:"decision_id"`
	Account       string `json:"account"`
	Strategy      string `json:"strategy"`
	Venue         string `json:"venue"`
	Symbol        string `json:"symbol"`
	Side          Side   `json:"side"`
	// Price in quote currency a unit, Qty in base currency.
	Price     Decimal   `json:"price"`
	Qty       Decimal   `json:"qty"`
	Liquidity Liquidity `json:"liquidity"`
	// Fee is what was paid, in FeeCurrency; FeeQuote the same in quote currency.
	Fee         Decimal `json:"fee"`
	FeeCurrency string  `json:"fee_currency"`
	FeeQuote    Decimal `json:"fee_quote"`
	// QuoteID is the id of the quote that a paper fill was made against.
	QuoteID string  `json:"quote_id,omitempty"`
	Time    int64   `json:"time"`
	Lineage Lineage `json:"lineage"`
	// Life names the ledger that gave ExecID; empty where that has no name.
	Life string `json:"life,omitempty"`
}

// Position is an account's holding of one instrument after a fill or at a mark.
// Total = Cash + Qty x Mark - Fees, without division.
type Position struct {
	ID            ID      `json:"id"` // PositionID
	Account       string  `json:"account"`
	Strategy      string  `json:"strategy"`
	Venue         string  `json:"venue"`
	Symbol        string  `json:"symbol"`
	QuoteCurrency string  `json:"quote_currency"`
	Qty           Decimal `json:"qty"`  // signed: short is negative
	Cash          Decimal `json:"cash"` // sum of -side x price x quantity
	Fees          Decimal `json:"fees"` // in quote currency
	// Mark is the price that values the position (the side of the quote at which
	// it could be closed), MarkID the id of that quote; absent before any quote.
	Mark   NullDecimal `json:"mark"`
	MarkID string      `json:"mark_id,omitempty"`
	Total  NullDecimal `json:"total"`
	// Fills counts the fills in it; Version counts the records of this
	// position.
	Fills   uint64  `json:"fills"`
	Version uint64  `json:"version"`
	Time    int64   `json:"time"`
	Lineage Lineage `json:"lineage"`
}

// OrderEventID is the identity of an entry of the order log.
func OrderEventID(clientOrderID string, seq uint32) ID {
	return Hash([]byte(clientOrderID), []byte{byte(seq >> 24), byte(seq >> 16), byte(seq >> 8), byte(seq)})
}

// FillID is the identity of a fill: execution ids are unique within one life of a
// broker's ledger only, some venues' within a symbol only.
func FillID(venue, symbol, clientOrderID, execID, life string) ID {
	return HashStrings("fill", venue, symbol, clientOrderID, execID, life)
}

// PositionID is the identity of a position record.
func PositionID(account, strategy, venue, symbol string, version uint64) ID {
	v := [8]byte{byte(version >> 56), byte(version >> 48), byte(version >> 40), byte(version >> 32), byte(version >> 24), byte(version >> 16), byte(version >> 8), byte(version)}
	return Hash([]byte("position"), []byte(account), []byte(strategy), []byte(venue), []byte(symbol), v[:])
}

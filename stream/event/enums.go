package event

import (
	"fmt"
	"strings"
)

// The enums below have the numbers of event.proto and the names that people
// see: in JSON, in logs and as Enum8 in ClickHouse.

// Side is the direction of a trade's aggressor, an order, a fill or a signal.
type Side uint8

// Sides. Unknown is legal only for a trade's aggressor.
const (
	SideUnknown Side = iota
	Buy
	Sell
)

var sideNames = []string{"unknown", "buy", "sell"}

// Opposite returns the other side.
func (s Side) Opposite() Side {
	switch s {
	case Buy:
		return Sell
	case Sell:
		return Buy
	}
	return SideUnknown
}

// TimeSource tells who gave an event's time.
type TimeSource uint8

// Time sources: the venue's matching engine, the venue's gateway when it
// published, or our socket when it received.
const (
	TimeUnknown TimeSource = iota
	TimeEvent
	TimePublish
	TimeReceive
)

var timeSourceNames = []string{"unknown", "event", "publish", "receive"}

// Channel is the venue's stream that carried a record; part of its identity.
type Channel uint8

// Channels.
const (
	ChannelUnknown    Channel = iota
	ChannelTrade              // Binance <symbol>@trade
	ChannelAggTrade           // Binance <symbol>@aggTrade
	ChannelBookTicker         // Binance <symbol>@bookTicker
	ChannelMatches            // Coinbase Exchange matches
	ChannelTicker             // Coinbase Exchange ticker
	ChannelJSON               // trades of a feed described in the configuration
	ChannelJSONQuote          // quotes of one
)

var channelNames = []string{"unknown", "trade", "aggTrade", "bookTicker", "matches", "ticker", "json", "json.quote"}

// CoverageKind says what is known of an interval of one channel.
type CoverageKind uint8

// Coverage kinds.
const (
	CoverageKindUnknown   CoverageKind = iota // nothing is known of the interval
	CoverageReceived                          // from here on records are received
	CoverageLost                              // ids or a time span that were not received
	CoverageBackfilled                        // a lost interval that was fetched afterwards
	CoverageUnrecoverable                     // a lost interval that the venue no longer has
)

var coverageKindNames = []string{"unknown", "received", "lost", "backfilled", "unrecoverable"}

// Action is what a decision does.
type Action uint8

// Actions. Abstain is produced by Go only, with a reason: a model that fails,
// refuses or answers badly makes no trade and is not a hold.
const (
	ActionUnknown Action = iota
	ActionLong           // open or add to a long position
	ActionShort          // open or add to a short position
	ActionFlat           // close the position
	ActionNone           // considered, no trade
	ActionAbstain        // not considered: the reason says why
)

var actionNames = []string{"unknown", "long", "short", "flat", "none", "abstain"}

// OrderType is the kind of an order.
type OrderType uint8

// Order types.
const (
	OrderTypeUnknown OrderType = iota
	Market
	Limit
)

var orderTypeNames = []string{"unknown", "market", "limit"}

// TimeInForce says how long an order works.
type TimeInForce uint8

// Times in force: good till cancelled, immediate or cancel, fill or kill.
const (
	TIFUnknown TimeInForce = iota
	GTC
	IOC
	FOK
)

var tifNames = []string{"unknown", "gtc", "ioc", "fok"}

// OrderState is the state of an order after an event of the order log.
type OrderState uint8

// Order states (protocols.md B0.1). Submitting is written and acknowledged
// before the order is sent; Unknown is an outcome that only the broker can tell.
const (
	OrderStateUnset      OrderState = iota
	OrderRiskRejected               // terminal: a hard limit refused it, nothing was sent
	OrderSubmitting                 // about to be sent
	OrderAccepted                   // working at the broker
	OrderPartiallyFilled            // working, with fills
	OrderFilled                     // terminal
	OrderRejected                   // terminal: the broker refused it
	OrderCanceled                   // terminal, may carry fills
	OrderExpired                    // terminal, may carry fills
	OrderUnknown                    // sent or not, outcome not known: ask the broker
	OrderNotPlaced                  // terminal: the broker says it never had it
)

var orderStateNames = []string{"unset", "risk_rejected", "submitting", "accepted", "partially_filled", "filled", "rejected", "canceled", "expired", "unknown", "not_placed"}

// Terminal reports whether the state never changes again.
func (s OrderState) Terminal() bool {
	switch s {
	case OrderRiskRejected, OrderFilled, OrderRejected, OrderCanceled, OrderExpired, OrderNotPlaced:
		return true
	}
	return false
}

// Liquidity says which side of the book a fill was.
type Liquidity uint8

// Liquidity kinds.
const (
	LiquidityUnknown Liquidity = iota
	Maker
	Taker
)

var liquidityNames = []string{"unknown", "maker", "taker"}

// ControlKind is the kind of a control record.
type ControlKind uint8

// Control kinds.
const (
	ControlUnknown ControlKind = iota
	ControlHalt
	ControlResume
	ControlLimits
	ControlRules
)

var controlKindNames = []string{"unknown", "halt", "resume", "limits", "rules"}

// HaltLevel is how much a halt stops.
type HaltLevel uint8

// Halt levels. An unset one is of a build that had one level, which stopped everything.
const (
	HaltUnset  HaltLevel = iota
	HaltReduce           // entries are refused, what only reduces passes
	HaltStop             // nothing is sent
)

var haltLevelNames = []string{"unset", "reduce", "stop"}

// Leg is the part that an order has in a trade.
type Leg uint8

// Legs. Orders of builds that did not write it have none.
const (
	LegUnset   Leg = iota
	LegEntry       // opens or adds to a position
	LegFlatten     // closes one because a decision says flat
	LegStop        // closes a lot at its stop
	LegTarget      // closes a lot at its target
	LegTime        // closes a lot whose horizon has passed
)

var legNames = []string{"unset", "entry", "flatten", "stop", "target", "time"}

// Exits reports whether an order of that leg closes a lot that triggered it.
func (l Leg) Exits() bool { return l == LegStop || l == LegTarget || l == LegTime }

// Reduces reports whether an order of that leg only ever reduces a position.
func (l Leg) Reduces() bool { return l == LegFlatten || l.Exits() }

// Outcome is how a model call ended.
type Outcome uint8

// Outcomes of a model call.
const (
	OutcomeUnknown Outcome = iota
	OutcomeOK
	OutcomeSchema        // an answer that the contract does not allow
	OutcomeRefusal       // the model refused
	OutcomeTruncated     // cut at the token limit
	OutcomeFiltered      // the provider's content filter
	OutcomeTimeout       // the deadline passed
	OutcomeRateLimited   // 429
	OutcomeProviderError // other HTTP errors, or no connection
)

var outcomeNames = []string{"unknown", "ok", "schema", "refusal", "truncated", "filtered", "timeout", "rate_limited", "provider_error"}

func name(names []string, v uint8) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("unknown(%d)", v)
}

func parseName(what string, names []string, text []byte) (uint8, error) {
	for i, n := range names {
		if n == string(text) {
			return uint8(i), nil
		}
	}
	return 0, fmt.Errorf("parsing %s %.40q: want one of %s", what, text, strings.Join(names[1:], ", "))
}

func (s Side) String() string { return name(sideNames, uint8(s)) }

// MarshalText writes the name.
func (s Side) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the name.
func (s *Side) UnmarshalText(text []byte) (err error) {
	*(*uint8)(s), err = parseName("side", sideNames, text)
	return err
}

func (t TimeSource) String() string { return name(timeSourceNames, uint8(t)) }

// MarshalText writes the name.
func (t TimeSource) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads the name.
func (t *TimeSource) UnmarshalText(text []byte) (err error) {
	*(*uint8)(t), err = parseName("time source", timeSourceNames, text)
	return err
}

func (c Channel) String() string { return name(channelNames, uint8(c)) }

// MarshalText writes the name.
func (c Channel) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads the name.
func (c *Channel) UnmarshalText(text []byte) (err error) {
	*(*uint8)(c), err = parseName("channel", channelNames, text)
	return err
}

func (c CoverageKind) String() string { return name(coverageKindNames, uint8(c)) }

// MarshalText writes the name.
func (c CoverageKind) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads the name.
func (c *CoverageKind) UnmarshalText(text []byte) (err error) {
	*(*uint8)(c), err = parseName("coverage kind", coverageKindNames, text)
	return err
}

func (a Action) String() string { return name(actionNames, uint8(a)) }

// MarshalText writes the name.
func (a Action) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads the name.
func (a *Action) UnmarshalText(text []byte) (err error) {
	*(*uint8)(a), err = parseName("action", actionNames, text)
	return err
}

func (o OrderType) String() string { return name(orderTypeNames, uint8(o)) }

// MarshalText writes the name.
func (o OrderType) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads the name.
func (o *OrderType) UnmarshalText(text []byte) (err error) {
	*(*uint8)(o), err = parseName("order type", orderTypeNames, text)
	return err
}

func (t TimeInForce) String() string { return name(tifNames, uint8(t)) }

// MarshalText writes the name.
func (t TimeInForce) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads the name.
func (t *TimeInForce) UnmarshalText(text []byte) (err error) {
	*(*uint8)(t), err = parseName("time in force", tifNames, text)
	return err
}

func (o OrderState) String() string { return name(orderStateNames, uint8(o)) }

// MarshalText writes the name.
func (o OrderState) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads the name.
func (o *OrderState) UnmarshalText(text []byte) (err error) {
	*(*uint8)(o), err = parseName("order state", orderStateNames, text)
	return err
}

func (l Liquidity) String() string { return name(liquidityNames, uint8(l)) }

// MarshalText writes the name.
func (l Liquidity) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads the name.
func (l *Liquidity) UnmarshalText(text []byte) (err error) {
	*(*uint8)(l), err = parseName("liquidity", liquidityNames, text)
	return err
}

func (c ControlKind) String() string { return name(controlKindNames, uint8(c)) }

// MarshalText writes the name.
func (c ControlKind) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads the name.
func (c *ControlKind) UnmarshalText(text []byte) (err error) {
	*(*uint8)(c), err = parseName("control kind", controlKindNames, text)
	return err
}

// Says is the level in words.
func (h HaltLevel) Says() string {
	if h == HaltReduce {
		return "reducing still passes"
	}
	return "nothing is sent"
}

func (h HaltLevel) String() string { return name(haltLevelNames, uint8(h)) }

// MarshalText writes the name.
func (h HaltLevel) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads the name.
func (h *HaltLevel) UnmarshalText(text []byte) (err error) {
	*(*uint8)(h), err = parseName("halt level", haltLevelNames, text)
	return err
}

func (l Leg) String() string { return name(legNames, uint8(l)) }

// MarshalText writes the name.
func (l Leg) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads the name.
func (l *Leg) UnmarshalText(text []byte) (err error) {
	*(*uint8)(l), err = parseName("leg", legNames, text)
	return err
}

func (o Outcome) String() string { return name(outcomeNames, uint8(o)) }

// MarshalText writes the name.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads the name.
func (o *Outcome) UnmarshalText(text []byte) (err error) {
	*(*uint8)(o), err = parseName("outcome", outcomeNames, text)
	return err
}

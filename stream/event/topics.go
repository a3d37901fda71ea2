package event

import "bytes"

// Topic names, as the contract between roles; a session prefixes them.
const (
	TopicMarket      = "md"
	TopicSignals     = "signals"
	TopicJournal     = "journal"
	TopicDecisions   = "decisions"
	TopicOrders      = "orders"
	TopicFills       = "fills"
	TopicPositions   = "positions"
	TopicControl     = "control"
	TopicDead        = "dead"
	TopicInstruments = "instruments"
	TopicMeta        = "meta"

	TopicSignalState    = "state.signals"
	TopicAgentState     = "state.agents"
	TopicExecutionState = "state.execution"
	TopicSinkState      = "state.sinks"
)

// TopicSpec is what a topic must be like.
type TopicSpec struct {
	Name string
	// Single topics have one partition; all others have bus.partitions.
	Single bool
	// Compacted topics keep the newest record of each key; their offsets have
	// holes.
	Compacted bool
	// Forever topics are never trimmed: they are the books, and where a snapshot is
	// lost a role rebuilds its state from their start.
	Forever bool
	// State topics are compacted ones in which roles save their state over and over:
	// what was replaced goes soon.
	State bool
	// Key says what the record keys are, for people.
	Key string
}

// Topics lists every topic.
var Topics = []TopicSpec{
	{Name: TopicMarket, Key: "venue|symbol"},
	{Name: TopicSignals, Key: "venue|symbol"},
	{Name: TopicJournal, Key: "as the signal", Forever: true},
	{Name: TopicDecisions, Key: "account"},
	{Name: TopicOrders, Key: "account", Forever: true},
	{Name: TopicFills, Key: "account", Forever: true},
	{Name: TopicPositions, Key: "account", Forever: true},
	{Name: TopicControl, Key: "scope", Single: true, Forever: true},
	{Name: TopicDead, Key: "source topic and partition", Single: true},
	{Name: TopicInstruments, Key: "venue|symbol", Single: true, Compacted: true},
	{Name: TopicMeta, Key: "topic|incarnation", Single: true, Compacted: true},
	{Name: TopicSignalState, Key: "owner's partition", Compacted: true, State: true},
	{Name: TopicAgentState, Key: "owner's partition", Compacted: true, State: true},
	{Name: TopicExecutionState, Key: "owner's partition", Compacted: true, State: true},
	{Name: TopicSinkState, Key: "owner's topic and partition", Compacted: true, State: true},
}

// Topic returns the spec of a topic.
func Topic(name string) (TopicSpec, bool) {
	for _, t := range Topics {
		if t.Name == name {
			return t, true
		}
	}
	return TopicSpec{}, false
}

// AppendKey appends the key of an instrument: venue|symbol, the symbol as the
// venue writes it.
func AppendKey(dst []byte, venue, symbol string) []byte {
	dst = append(dst, venue...)
	dst = append(dst, '|')
	return append(dst, symbol...)
}

// Key returns the key of an instrument.
func Key(venue, symbol string) []byte { return AppendKey(nil, venue, symbol) }

// SplitKey returns the two parts of an instrument's key, as parts of it.
func SplitKey(key []byte) (venue, symbol []byte) {
	venue, symbol, _ = bytes.Cut(key, []byte{'|'})
	return venue, symbol
}

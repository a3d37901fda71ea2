package event

import "strconv"

// Control is an instruction to the running engine: who, when, why.
type Control struct {
	ID    ID          `json:"id"`
	Kind  ControlKind `json:"kind"`
	Scope string      `json:"scope"` // all, account:X or symbol:Y
	Who   string      `json:"who"`
	Why   string      `json:"why"`
	Time  int64       `json:"time"`
	// Hash and Body carry a rule set or limits: its identity and its canonical
	// form.
	Hash ID     `json:"hash,omitzero"`
	Body []byte `json:"body,omitempty"`
	// Level is that of a halt.
	Level HaltLevel `json:"level,omitempty"`
}

// Dead is a record that could not be used, with the reason.
type Dead struct {
	ID     ID     `json:"id"` // DeadID
	Role   string `json:"role"`
	Reason string `json:"reason"`
	Key    []byte `json:"key"`
	Value  []byte `json:"value"`
	Time   int64  `json:"time"`
	// Lineage is where the record lies; its topic is empty for a frame that
	// never became a record.
	Lineage Lineage `json:"lineage"`
}

// Incarnation names one life of a topic: a topic that is deleted and created
// again has another. The first record of a topic in `meta` counts.
type Incarnation struct {
	Topic      string `json:"topic"`
	ID         ID     `json:"id"`
	Partitions uint32 `json:"partitions"`
	Time       int64  `json:"time"`
	// Begins is where the life begins in each partition, when it was begun by
	// hand (topics adopt, topics discard) on a log that has records; Who and Why
	// say by whom.
	Begins []PartitionOffset `json:"begins,omitempty"`
	Who    string            `json:"who,omitempty"`
	Why    string            `json:"why,omitempty"`
	// TopicID is the brokers' own id of the topic that has this life; zero where
	// they have none. A second record of a life may add it to the first.
	TopicID ID `json:"topic_id,omitzero"`
}

// PartitionOffset is an offset in one partition.
type PartitionOffset struct {
	Partition int32 `json:"partition"`
	Offset    int64 `json:"offset"`
}

// Skip states that a group goes on at To although it has not read everything
// before: retention took those records. It stands in `meta`.
type Skip struct {
	ID          ID     `json:"id"` // SkipID
	Group       string `json:"group"`
	Topic       string `json:"topic"`
	Partition   int32  `json:"partition"`
	Incarnation ID     `json:"incarnation"`
	// From is where the group stood, To where it goes on.
	From int64  `json:"from"`
	To   int64  `json:"to"`
	Who  string `json:"who"`
	Why  string `json:"why"`
	Time int64  `json:"time"`
}

// SkipID is the identity of a skip: the same range skipped twice is the same.
func SkipID(s *Skip) ID {
	return HashStrings("skip", s.Group, s.Topic, strconv.Itoa(int(s.Partition)), s.Incarnation.String(), strconv.FormatInt(s.From, 10), strconv.FormatInt(s.To, 10))
}

// SinkPlan announces one landing before its first insert: the records First to
// Last (inclusive) of a partition, whose inserts carry tokens made from Token.
type SinkPlan struct {
	Topic       string `json:"topic"`
	Partition   int32  `json:"partition"`
	Incarnation ID     `json:"incarnation"`
	First       int64  `json:"first"`
	Last        int64  `json:"last"`
	Token       string `json:"token"`
	Epoch       uint32 `json:"epoch,omitempty"`
	Time        int64  `json:"time"`
	// Expired says that retention took the records before they landed: the plan
	// only accounts for them.
	Expired bool `json:"expired,omitempty"`
	// Reland counts how often the partition was ordered to land again from the log's
	// start. A plan carries the number of the order that it follows.
	Reland uint64 `json:"reland,omitempty"`
	// Opens says that the plan is the first one after such an order: rows that the
	// database still has of its range are counted, the rest is expired.
	Opens bool `json:"opens,omitempty"`
	// Who and Why are those of an order.
	Who string `json:"who,omitempty"`
	Why string `json:"why,omitempty"`
}

// RuleStart states from which offset of a partition of md a rule set applies.
type RuleStart struct {
	RuleSet     ID     `json:"rule_set"`
	Partition   int32  `json:"partition"`
	Incarnation ID     `json:"incarnation"`
	First       int64  `json:"first"`
	Epoch       uint32 `json:"epoch,omitempty"`
	Time        int64  `json:"time"`
	// Output is where the output partition ended when the first rules of this
	// incarnation were stored: what lies before was made from another log.
	Output int64 `json:"output,omitempty"`
}

// DeadID is the identity of a dead letter.
func DeadID(role string, l Lineage, value []byte) ID {
	return Hash([]byte("dead"), []byte(role), []byte(l.Topic), []byte{byte(l.Partition >> 24), byte(l.Partition >> 16), byte(l.Partition >> 8), byte(l.Partition)},
		[]byte{byte(l.Offset >> 56), byte(l.Offset >> 48), byte(l.Offset >> 40), byte(l.Offset >> 32), byte(l.Offset >> 24), byte(l.Offset >> 16), byte(l.Offset >> 8), byte(l.Offset)}, value)
}

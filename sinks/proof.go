package sinks

import (
	"context"
	"fmt"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// Proof accounts for one partition of a topic, from the log and the database
// (design.md section 4.7).
type Proof struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	// Start is the first offset that had to land, End the log's end.
	Start int64 `json:"start"`
	End   int64 `json:"end"`
	// Landed is one past the last offset that landed.
	Landed int64 `json:"landed"`
	// Rows is what the tables hold; the others are what the landed plans count.
	Rows         uint64 `json:"rows"`
	Control      uint64 `json:"control"`
	Refused      uint64 `json:"refused"`
	SecondCopies uint64 `json:"second_copies"`
	Expired      uint64 `json:"expired"`
	// Missing is End - Start less all of these: records that have not landed, or
	// below 0 rows too many.
	Missing int64 `json:"missing"`
}

// logBounds is what Prove asks of Kafka.
type logBounds interface {
	Offsets(ctx context.Context, topic string) ([]bus.Bounds, error)
	Incarnation(topic string) event.ID
	// Begins returns where a life that was begun by hand begins.
	Begins(topic string, partition int32) (offset int64, known bool)
}

// landedRows is what Prove asks of the database.
type landedRows interface {
	// LandedProof returns what is landed, by partition.
	LandedProof(ctx context.Context) ([]clickhouse.Proof, error)
}

// Prove returns the proof of every partition of every topic that lands. It holds
// once nothing is written to the log any more and the role has been drained.
func Prove(ctx context.Context, log logBounds, db landedRows) ([]Proof, error) {
	landed, err := db.LandedProof(ctx)
	if err != nil {
		return nil, fmt.Errorf("proving what has landed: %w", err)
	}
	type key struct {
		topic       string
		incarnation event.ID
		partition   int32
	}
	known := make(map[key]clickhouse.Proof, len(landed))
	for _, l := range landed {
		known[key{l.Topic, l.Incarnation, l.Partition}] = l
	}
	var all []Proof
	for _, topic := range topics {
		bounds, err := log.Offsets(ctx, topic)
		if err != nil {
			return nil, fmt.Errorf("proving what has landed of %s: %w", topic, err)
		}
		for n, b := range bounds {
			p := Proof{Topic: topic, Partition: int32(n), Start: b.Start, End: b.End}
			// What lies before a life that was begun by hand belongs to a former one,
			// which may have left some for this one to land.
			begins, byHand := log.Begins(topic, p.Partition)
			if byHand {
				p.Start = max(b.Start, begins)
			}
			p.Landed = p.Start
			if l, ok := known[key{topic, log.Incarnation(topic), p.Partition}]; ok {
				// Retention, or trimming, may have moved the log's start; what it has
				// not moved must have landed.
				p.Start, p.Landed = min(p.Start, l.Start), l.End
				p.Rows, p.Control, p.Refused, p.SecondCopies, p.Expired = l.Rows, l.Control, l.Refused, l.SecondCopies, l.Expired
			}
			p.Missing = p.End - p.Start - int64(p.Rows+p.Control+p.Refused+p.SecondCopies+p.Expired)
			all = append(all, p)
		}
	}
	return all, nil
}

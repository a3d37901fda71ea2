package sinks

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// fixedLog has the same bounds for one topic and nothing in the others.
type fixedLog struct {
	topic  string
	bounds []bus.Bounds
}

func (l fixedLog) Offsets(_ context.Context, topic string) ([]bus.Bounds, error) {
	if topic == l.topic {
		return l.bounds, nil
	}
	return []bus.Bounds{{}}, nil
}

func (fixedLog) Incarnation(topic string) event.ID { return event.HashStrings(topic) }

func (fixedLog) Begins(string, int32) (int64, bool) { return 0, false }

type fixedProof []clickhouse.Proof

func (p fixedProof) LandedProof(context.Context) ([]clickhouse.Proof, error) { return p, nil }

func TestProve(t *testing.T) {
	now, before := event.HashStrings(event.TopicMarket), event.HashStrings("an earlier life")
	log := fixedLog{topic: event.TopicMarket, bounds: []bus.Bounds{{Start: 0, End: 100}, {Start: 40, End: 100}, {Start: 0, End: 100}, {Start: 0, End: 100}}}
	landed := func(partition int32, incarnation event.ID, start int64, rows uint64) clickhouse.Proof {
		return clickhouse.Proof{
			Topic: event.TopicMarket, Incarnation: incarnation, Partition: partition, Start: start, End: 100, Rows: rows,
			Control: 4, Refused: 3, SecondCopies: 2, Expired: 1,
		}
	}
	proofs, err := Prove(t.Context(), log, fixedProof{
		landed(0, now, 0, 90),
		landed(1, now, 0, 90),     // retention took 0-39 after they had landed
		landed(2, now, 50, 40),    // the rows of landed for 0-49 are gone
		landed(3, before, 0, 100), // of another topic with this name
	})
	if err != nil {
		t.Fatal(err)
	}
	missing := make(map[int32]int64)
	for _, p := range proofs {
		if p.Topic == event.TopicMarket {
			missing[p.Partition] = p.Missing
		} else if p.Missing != 0 {
			t.Errorf("an empty topic: %+v", p)
		}
	}
	if diff := cmp.Diff(map[int32]int64{0: 0, 1: 0, 2: 50, 3: 100}, missing); diff != "" {
		t.Errorf("missing differs (-want +got):\n%s", diff)
	}
	if len(proofs) != 4+len(Topics())-1 {
		t.Errorf("got %d proofs", len(proofs))
	}
}

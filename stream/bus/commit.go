package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/autohedge/autohedge/stream/component"
)

// commitWhile commits what moved once a second until ctx ends.
func (k *Consumer) commitWhile(ctx context.Context, gen *kafka.Generation, mine []*Assignment, failed chan<- error) {
	ticker := time.NewTicker(commitEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := k.commit(gen, mine...); err != nil {
			failed <- err
			return
		}
	}
}

// commit sends the offsets that moved, through the generation that owns their
// partitions; a broker refuses what comes after it, and then the offset stays
// where the next owner expects it. What was cut off is left out. A commit that
// fails is made again with the next one: a role's state, and not the offset, says
// what is done. An error is returned only for what no later commit can mend.
func (k *Consumer) commit(gen *kafka.Generation, from ...*Assignment) error {
	k.committing.Lock() // they do not overtake one another: an older one would take the offset back
	defer k.committing.Unlock()
	offsets := make(map[string]map[int]int64)
	sent := make(map[*Assignment]int64)
	for _, a := range from {
		next, moved := a.uncommitted()
		if !moved {
			continue
		}
		name := k.client.prefix() + a.Topic
		if offsets[name] == nil {
			offsets[name] = make(map[int]int64)
		}
		offsets[name][int(a.Partition)] = next
		sent[a] = next
	}
	if len(offsets) == 0 {
		return nil
	}
	if err := gen.CommitOffsets(offsets); err != nil {
		k.client.metrics.errors.WithLabelValues("commit").Inc()
		code, _ := errorCode(err)
		if judgeCommit(code) == fatal {
			return component.Fatal(fmt.Errorf("committing %v of group %s in generation %d: %w%s", offsets, k.group, gen.ID, code, k.client.grant(code, k.whose(code))))
		}
		if k.refused++; k.refused%commitWarnAfter == 0 {
			k.env.Log.Warn("commits are refused; what is not committed would be read again after a restart",
				"group", k.group, "generation", gen.ID, "in_a_row", k.refused, "offsets", offsets, "error", err)
		}
		return nil
	}
	k.refused = 0
	k.commits.Inc()
	for a, next := range sent {
		a.committed(next)
		k.known[TopicPartition{a.Topic, a.Partition}] = next
	}
	return nil
}

// stands returns the group's offsets in partitions of a topic, -1 where it has none.
// kafka-go gives the same for an offset that is not there and one that the answer
// leaves out: so what is not there is asked for again, until an answer says so.
// An offset before what this process has committed is fatal: it was set back, deleted
// or lost, and whoever goes on there must know.
func (k *Consumer) stands(ctx context.Context, topic string, owned []kafka.PartitionAssignment, bounds []Bounds) ([]int64, error) {
	at := make([]int64, len(owned))
	var missing []int
	for i, p := range owned {
		if at[i] = max(p.Offset, -1); at[i] < 0 {
			missing = append(missing, p.ID)
		}
	}
	for attempt := 0; len(missing) > 0; attempt++ {
		// That there is no such group is no answer to one of its members.
		committed, err := k.client.offsetsOf(ctx, k.group, topic, missing)
		if code, answered := errorCode(err); answered && permanent(code) {
			return nil, component.Fatal(fmt.Errorf("%w%s", err, remedy(code, k.whose(code))))
		}
		if err == nil {
			for i, p := range owned {
				if found, ok := committed[int32(p.ID)]; ok {
					at[i] = found
				}
			}
			break
		}
		if attempt == commitWarnAfter {
			k.env.Log.Warn("asking for the group's offsets is being retried", "group", k.group, "topic", topic, "error", err)
		}
		if err := sleep(ctx, backoff(attempt)); err != nil {
			return nil, err
		}
	}
	k.committing.Lock()
	defer k.committing.Unlock()
	for i, p := range owned {
		known, ok := k.known[TopicPartition{topic, int32(p.ID)}]
		if !ok || at[i] >= known {
			continue
		}
		now, from := "is gone", bounds[i].Start
		if at[i] >= 0 {
			now, from = fmt.Sprintf("is %d", at[i]), at[i]
		}
		return nil, component.Fatal(fmt.Errorf("joining group %s: its offset in %s/%d, which this process committed at %d, %s: "+
			"it was set back, deleted or lost, and %d records that were done lie between; start this process again to go on from offset %d, "+
			"or first set it forward: kafka-consumer-groups.sh --bootstrap-server BROKER --group %s --reset-offsets --topic %s:%d --to-offset %d --execute",
			k.group, topic, p.ID, known, now, known-from, from, k.group, k.client.prefix()+topic, p.ID, known))
	}
	return at, nil
}

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
			return component.Fatal(fmt.Errorf("committing %v of group %s in generation %d: %w%s", offsets, k.group, gen.ID, code, remedy(code, k.whose(code))))
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
	}
	return nil
}

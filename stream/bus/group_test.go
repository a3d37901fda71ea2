package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// deleteGroup deletes a group and returns the broker's answer.
func (b *broker) deleteGroup(t testing.TB, group string) error {
	t.Helper()
	req := kmsg.NewPtrDeleteGroupsRequest()
	req.Groups = []string{group}
	res, err := req.RequestWith(t.Context(), b.admin.Client)
	return kerr.ErrorForCode(bustest.Ask(t, res, err).Groups[0].ErrorCode)
}

// throwOut makes the group's members no members any more, as if their sessions had
// run out.
func (b *broker) throwOut(t testing.TB, group string) {
	t.Helper()
	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Groups = []string{group}
	res, err := describe.RequestWith(t.Context(), b.admin.Client)
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group = group
	for _, m := range bustest.Ask(t, res, err).Groups[0].Members {
		member := kmsg.NewLeaveGroupRequestMember()
		member.MemberID = m.MemberID
		leave.Members = append(leave.Members, member)
	}
	if _, err := leave.RequestWith(t.Context(), b.admin.Client); err != nil {
		t.Fatal(err)
	}
}

// A group cannot be deleted under its members. One that lost its members and then its
// offsets is not begun anew in silence by a member that comes back.
func TestGroupDeletedUnderAMember(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 400)
	group := c.Group("test")
	k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
	seen := newHandledLog()
	done := make(chan error, 1)
	go func() { done <- k.Run(t.Context(), seen.handle) }()
	committed := func(want int64) {
		t.Helper()
		eventually(t, "everything is committed", 20*time.Second, func() bool {
			for part := range int32(4) {
				if b.committed(t, group, event.TopicMarket, part) != want {
					return false
				}
			}
			return true
		})
	}
	committed(100)
	if err := b.deleteGroup(t, group); !errors.Is(err, kerr.NonEmptyGroup) {
		t.Errorf("deleting a group that has members gave %v", err)
	}
	produce(t, p, event.TopicMarket, 400, 400)
	committed(200)

	eventually(t, "the group is empty and deleted", 20*time.Second, func() bool {
		b.throwOut(t, group)
		return b.deleteGroup(t, group) == nil
	})
	err := <-done
	part := "0"
	if m := regexp.MustCompile(`offset in md/([0-3]),`).FindStringSubmatch(fmt.Sprint(err)); m != nil {
		part = m[1] // whichever was looked at first
	}
	want := "joining group autohedge.test: its offset in md/" + part + ", which this process committed at 200, is gone: " +
		"it was set back, deleted or lost, and 200 records that were done lie between; start this process again to go on from offset 0, " +
		"or first set it forward: kafka-consumer-groups.sh --bootstrap-server BROKER --group autohedge.test --reset-offsets --topic md:" + part + " --to-offset 200 --execute"
	if !component.IsFatal(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("a member whose group was deleted ended with %v", err)
	}
	if n := seen.count(); n != 800 {
		t.Errorf("%d records handled of 800", n)
	}
}

// Offsets that are gone (deleted, or expired while the role was off) change nothing
// for a role that keeps its own; one that does not begins at the log's start and says
// so, with how much that is.
func TestOffsetsThatAreGone(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 400)
	group := c.Group("test")
	var logged bustest.Log
	env := component.Discard()
	env.Log = slog.New(slog.NewTextHandler(&logged, nil))
	// run handles what there is from where the role's state, if it has one, says.
	run := func(state map[int32]int64) map[int32][2]int64 {
		t.Helper()
		k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, env)
		if err := k.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		handled := make(map[int32][2]int64) // first offset and how many
		if err := k.Run(t.Context(), func(ctx context.Context, a *Assignment) error {
			if at, ok := state[a.Partition]; ok {
				if err := a.Seek(ctx, at); err != nil {
					return err
				}
			}
			a.Ready()
			defer func() { a.Commit(a.Position()) }()
			for {
				records, err := a.Next(ctx)
				if err != nil {
					return err
				}
				mu.Lock()
				h, begun := handled[a.Partition]
				if !begun {
					h[0] = records[0].Offset
				}
				h[1] += int64(len(records))
				handled[a.Partition] = h
				mu.Unlock()
			}
		}); err != nil {
			t.Fatal(err)
		}
		return handled
	}
	want := func(what string, got map[int32][2]int64, first, n int64) {
		t.Helper()
		for part := range int32(4) {
			if got[part] != [2]int64{first, n} {
				t.Errorf("%s: partition %d was handled from %d on, %d records; want from %d on, %d", what, part, got[part][0], got[part][1], first, n)
			}
			if at := b.committed(t, group, event.TopicMarket, part); at != first+n {
				t.Errorf("%s: committed is %d, want %d", what, at, first+n)
			}
		}
	}
	want("at first", run(nil), 0, 100)
	if !logged.Contains("it begins at the log's start") || !logged.Contains("partition=1 start=0 end=100 records=100") {
		t.Error("that the group has no offset is not logged")
	}
	produce(t, p, event.TopicMarket, 400, 80)
	forget := func() {
		t.Helper()
		eventually(t, "the group is deleted", 20*time.Second, func() bool { return b.deleteGroup(t, group) == nil })
	}
	forget()
	want("of a role with state", run(map[int32]int64{0: 100, 1: 100, 2: 100, 3: 100}), 100, 20)
	produce(t, p, event.TopicMarket, 480, 40)
	forget()
	want("of a role without", run(nil), 0, 130)
	if !logged.Contains("partition=3 start=0 end=130 records=130") {
		t.Error("how much is read again is not logged")
	}
	forget()
	// State that is older than the log, and beyond it: the numbers, and nothing read.
	b.admin.DeleteRecords(t, event.TopicMarket, 2, 50)
	for at, text := range map[int64]string{
		20:  "offset 20 is wanted, but the log begins at 50 and ends at 130: retention took 30 records first",
		150: "begins at 50 and ends at 130, 20 records before",
	} {
		k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
		err := k.Run(t.Context(), func(ctx context.Context, a *Assignment) error {
			if a.Partition == 2 {
				return a.Seek(ctx, at)
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if !component.IsFatal(err) || !strings.Contains(err.Error(), text) {
			t.Errorf("a state at %d gave %v", at, err)
		}
	}
}

// Commits that are refused for long hold nothing up and lose nothing: they are made
// again until they are taken.
func TestCommitsThatAreRefusedForLongOnKfake(t *testing.T) {
	b := asBroker(t, startKfake(t, ""))
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 400)
	seen := newHandledLog()
	k, leave := member(t, c, seen.handle)
	defer leave()
	<-k.Ready()
	committed := func() (least int64) {
		least = 1 << 60
		for part := range int32(4) {
			least = min(least, b.committed(t, c.Group("test"), event.TopicMarket, part))
		}
		return least
	}
	eventually(t, "the first commits arrive", 20*time.Second, func() bool { return committed() == 100 })
	h := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.CoordinatorNotAvailable, Count: -1})
	n := 400
	refused := func() float64 {
		return counterValue(t, c, "commit")
	}
	eventually(t, "commits are refused", 40*time.Second, func() bool {
		produce(t, p, event.TopicMarket, n, 40)
		n += 40
		return refused() >= 4
	})
	eventually(t, "what comes meanwhile is handled", 20*time.Second, func() bool { return seen.count() == n })
	if at := committed(); at >= int64(n/4) {
		t.Errorf("%d is committed although commits are refused", at)
	}
	h.Remove()
	eventually(t, "the commits arrive", 40*time.Second, func() bool { return committed() == int64(n/4) })
	t.Logf("%v commits were refused, %d records handled meanwhile, all committed after", refused(), n-400)
}

// counterValue is the client's count of errors of that part.
func counterValue(t *testing.T, c *Client, part string) float64 {
	t.Helper()
	return total(t, c.metrics.errors.MustCurryWith(map[string]string{"part": part}))
}

// An answer to the question where the group stands that is an error, of any code, for
// one partition or for all, or that leaves a partition out, is never taken for "it
// has no offset".
func TestOffsetFetchErrorsNeverMoveTheStartOnKfake(t *testing.T) {
	inBubble(t, func(t *testing.T, v *virtual) {
		c := v.connect(t)
		p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
		produce(t, p, event.TopicMarket, 0, 400)
		k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
		if err := k.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := k.Run(t.Context(), newHandledLog().handle); err != nil {
			t.Fatal(err)
		}
		stops, goesOn := 0, 0
		try := func(what string, install func() *kfake.FaultHandle) {
			h := install()
			defer h.Remove()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
			var began atomic.Int32
			err := k.Run(ctx, func(ctx context.Context, a *Assignment) error {
				if a.Committed != 100 {
					t.Errorf("%s: partition %d begins at %d, and 100 is committed", what, a.Partition, a.Committed)
				}
				if began.Add(1) == 4 {
					cancel()
				}
				<-ctx.Done()
				return ctx.Err()
			})
			switch {
			case component.IsFatal(err):
				stops++
			case err != nil || began.Load() != 4:
				t.Errorf("%s: %v, %d partitions begun", what, err, began.Load())
			default:
				goesOn++
			}
			if h.Hits() == 0 {
				t.Errorf("%s: the fault was not met", what)
			}
		}
		for code := int16(-1); code < 140; code++ {
			kind := kerr.TypedErrorForCode(code)
			if kind == nil || kind.Code != code || (raced && code%9 != 0) {
				continue
			}
			for name, f := range map[string]kfake.Fault{
				"one partition":     {Topic: event.TopicMarket, Partitions: []int32{2}},
				"all partitions":    {Topic: event.TopicMarket},
				"the whole request": {TopLevel: true},
			} {
				f.Keys, f.Err, f.Count = []kmsg.Key{kmsg.OffsetFetch}, kind, 3
				try(fmt.Sprintf("code %d for %s", code, name), func() *kfake.FaultHandle { return v.cluster.Fault(f) })
			}
		}
		t.Logf("%d faults: %d ended the run, after %d it went on where the group stood", stops+goesOn, stops, goesOn)
	})
}

// A transaction of another program that has moved the group's offsets and has not
// ended (UNSTABLE_OFFSET_COMMIT) changes nothing.
func TestOffsetsInAnOpenTransaction(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 400)
	run := func(from int64) {
		t.Helper()
		k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
		if err := k.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := k.Run(t.Context(), func(ctx context.Context, a *Assignment) error {
			if a.Committed != from {
				t.Errorf("partition %d begins at %d, want %d", a.Partition, a.Committed, from)
			}
			a.Commit(60)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	run(-1)
	id := kmsg.StringPtr("foreign.offsets")
	init := kmsg.NewPtrInitProducerIDRequest()
	init.TransactionalID, init.TransactionTimeoutMillis = id, 60_000
	res, err := init.RequestWith(t.Context(), b.admin.Client)
	producer := bustest.Ask(t, res, err)
	bustest.Check(t, "a producer id", producer.ErrorCode)
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = *id, producer.ProducerID, producer.ProducerEpoch, c.Group("test")
	added, err := add.RequestWith(t.Context(), b.admin.Client)
	bustest.Check(t, "adding offsets to a transaction", bustest.Ask(t, added, err).ErrorCode)
	commit := kmsg.NewPtrTxnOffsetCommitRequest()
	commit.TransactionalID, commit.ProducerID, commit.ProducerEpoch, commit.Group = *id, producer.ProducerID, producer.ProducerEpoch, c.Group("test")
	commit.Generation = -1
	topic := kmsg.NewTxnOffsetCommitRequestTopic()
	topic.Topic, topic.TopicID = event.TopicMarket, b.topicID(t, event.TopicMarket)
	for part := range int32(4) {
		at := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		at.Partition, at.Offset = part, 90
		topic.Partitions = append(topic.Partitions, at)
	}
	commit.Topics = append(commit.Topics, topic)
	done, err := commit.RequestWith(t.Context(), b.admin.Client)
	for _, p := range bustest.Ask(t, done, err).Topics[0].Partitions {
		bustest.Check(t, "moving an offset in a transaction", p.ErrorCode)
	}
	run(60)
	if code := kafka.Error(kerr.UnstableOffsetCommit.Code); permanent(code) {
		t.Errorf("%v counts as permanent", code)
	}
	end := kmsg.NewPtrEndTxnRequest()
	end.TransactionalID, end.ProducerID, end.ProducerEpoch, end.Commit = *id, producer.ProducerID, producer.ProducerEpoch, false
	ended, err := end.RequestWith(t.Context(), b.admin.Client)
	bustest.Check(t, "ending the transaction", bustest.Ask(t, ended, err).ErrorCode)
	run(60)
}

package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// stubborn is a handler that does not heed that its partition is lost, until let
// go; it hands out its first assignment of partition 3, and a producer bound to it.
type stubborn struct {
	c        *Client
	got      chan *Assignment
	producer chan *Producer
	letGo    chan struct{}
	once     sync.Once
	then     func(context.Context, *Assignment) error // of all other assignments
}

func newStubborn(c *Client, then func(context.Context, *Assignment) error) *stubborn {
	return &stubborn{c: c, then: then, got: make(chan *Assignment, 1), producer: make(chan *Producer, 1), letGo: make(chan struct{})}
}

func (s *stubborn) handle(ctx context.Context, a *Assignment) error {
	mine := false
	if a.Partition == 3 {
		s.once.Do(func() { mine = true })
	}
	if !mine {
		return s.then(ctx, a)
	}
	a.Ready()
	p, err := s.c.NewProducer(ctx, ProducerConfig{Name: "bound"}, component.Discard())
	if err != nil {
		return err
	}
	a.Bind(p)
	if _, err := a.Next(ctx); err != nil {
		return err
	}
	s.got <- a
	s.producer <- p
	<-s.letGo
	closing, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = p.Close(closing)
	return nil
}

// A handler that outstays its partition is cut off after 250 ms: it gets no more
// records, its commits are not sent, its bound producer appends nothing.
func TestLateHandlerIsCutOff(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 400)
	seen := newHandledLog()
	s := newStubborn(c, seen.handle)
	first, leaveFirst := member(t, c, s.handle)
	defer leaveFirst()
	<-first.Ready()
	a, bound := <-s.got, <-s.producer
	a.Commit(7)
	eventually(t, "the owner's commit arrives", 5*time.Second, func() bool { return b.committed(t, c.Group("test"), event.TopicMarket, 3) == 7 })
	// A second member makes the group share its partitions out anew.
	second, leaveSecond := member(t, c, seen.handle)
	defer leaveSecond()
	eventually(t, "the handler is cut off", 5*time.Second, func() bool { return bound.Err() != nil })
	if err := bound.Err(); !errors.Is(err, ErrLost) {
		t.Errorf("the bound producer stopped with %v", err)
	}
	if err := bound.Append(event.TopicMarket, 3, nil, []byte("late"), nil); !errors.Is(err, ErrLost) {
		t.Errorf("an append through the bound producer gave %v", err)
	}
	// Also with a context of its own.
	if records, err := a.Next(context.Background()); !errors.Is(err, ErrLost) || len(records) > 0 {
		t.Errorf("Next gave %d records and %v", len(records), err)
	}
	if err := a.Seek(context.Background(), 0); !errors.Is(err, ErrLost) {
		t.Errorf("Seek gave %v", err)
	}
	a.Commit(50)
	close(s.letGo)
	<-second.Ready()
	eventually(t, "the partition goes on in the next generation", 10*time.Second, func() bool {
		return b.committed(t, c.Group("test"), event.TopicMarket, 3) == 100
	})
	// What the former owner says now reaches nobody: neither does its member
	// commit it in the generation that follows, nor would the broker take it.
	a.Commit(60)
	if next, moved := a.uncommitted(); moved {
		t.Errorf("a lost assignment would commit %d", next)
	}
	if n := total(t, c.metrics.cutOff); n != 1 {
		t.Errorf("%v handlers were counted as cut off, want 1", n)
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	if len(seen.got[3]) != 93 || seen.got[3][0] != fmt.Sprint(7*4+3) {
		t.Errorf("the next owner read %d records of partition 3 from %q, want 93 from the committed offset", len(seen.got[3]), seen.got[3][:1])
	}
}

// A handler that does not return at all ends the run: its partition may be another
// member's.
func TestHandlerThatNeverReturnsEndsTheRunOnKfake(t *testing.T) {
	inBubble(t, func(t *testing.T, v *virtual) {
		c := v.connect(t)
		p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
		produce(t, p, event.TopicMarket, 0, 400)
		seen := newHandledLog()
		s := newStubborn(c, seen.handle)
		k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
		done := make(chan error, 1)
		go func() { done <- k.Run(t.Context(), s.handle) }()
		<-s.got
		joined := time.Now()
		second, leaveSecond := member(t, c, seen.handle)
		err := <-done
		if took := time.Since(joined); took > heartbeatEvery+abandonPatience+time.Second {
			t.Errorf("ended %s after another member joined", took)
		}
		if !component.IsFatal(err) || !strings.Contains(err.Error(), "handling md/3: the handler has not returned 2s after generation ") {
			t.Errorf("ended with %v", err)
		}
		<-second.Ready()
		eventually(t, "the other member has everything", time.Minute, func() bool { return seen.count() == 400 })
		close(s.letGo)
		leaveSecond()
	})
}

// A handler may take its time when its member is stopped: the partition stays its
// own until it returns.
func TestStoppingConsumerWaitsForItsHandlersOnKfake(t *testing.T) {
	inBubble(t, func(t *testing.T, v *virtual) {
		c := v.connect(t)
		p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
		produce(t, p, event.TopicMarket, 0, 400)
		k, leave := member(t, c, func(ctx context.Context, a *Assignment) error {
			a.Ready()
			records, err := a.Next(ctx)
			if err != nil {
				return err
			}
			<-ctx.Done()
			time.Sleep(20 * time.Second)
			a.Commit(records[len(records)-1].Offset + 1)
			return nil
		})
		<-k.Ready()
		time.Sleep(time.Second)
		leave()
		lags, err := c.Lag(t.Context(), "test")
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lags {
			if l.Committed < 1 {
				t.Errorf("%s/%d: committed %d after a slow stop", l.Topic, l.Partition, l.Committed)
			}
		}
	})
}

// A commit of a former generation, sent with that generation's own handle after
// another member took over, moves nothing.
func TestCommitOfAFormerGenerationIsRefused(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 400)
	var old formerGeneration
	first, leaveFirst := member(t, c, func(ctx context.Context, a *Assignment) error {
		old.note(b, t, a)
		a.Ready()
		<-ctx.Done()
		return nil
	})
	defer leaveFirst()
	<-first.Ready()
	seen := newHandledLog()
	second, leaveSecond := member(t, c, seen.handle)
	defer leaveSecond()
	<-second.Ready()
	var part int32 = -1
	eventually(t, "the second member commits what it owns", 10*time.Second, func() bool {
		for q := range int32(4) {
			if b.committed(t, c.Group("test"), event.TopicMarket, q) == 100 {
				part = q
				return true
			}
		}
		return false
	})
	if code := old.commit(t, b, c.Group("test"), event.TopicMarket, part, 3); code != 22 && code != 25 {
		t.Errorf("the broker answered %d to a commit of generation %d, want 22 or 25", code, old.generation)
	}
	if got := b.committed(t, c.Group("test"), event.TopicMarket, part); got != 100 {
		t.Errorf("the offset is %d after a late commit, want 100", got)
	}
}

// formerGeneration is a member's identity in a generation that is over.
type formerGeneration struct {
	once       sync.Once
	generation int32
	member     string
}

func (f *formerGeneration) note(b *broker, t *testing.T, a *Assignment) {
	f.once.Do(func() {
		req := kmsg.NewPtrDescribeGroupsRequest()
		req.Groups = []string{a.consumer.group}
		res, err := req.RequestWith(t.Context(), b.admin)
		if err != nil || len(res.Groups) != 1 || len(res.Groups[0].Members) != 1 {
			t.Errorf("describing the group: %v", err)
			return
		}
		f.generation, f.member = a.Generation, res.Groups[0].Members[0].MemberID
	})
}

// commit sends an offset as that member and returns the broker's answer.
func (f *formerGeneration) commit(t *testing.T, b *broker, group, topic string, partition int32, offset int64) int16 {
	t.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation, req.MemberID = group, f.generation, f.member
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset = partition, offset
	of := kmsg.NewOffsetCommitRequestTopic()
	of.Topic, of.Partitions = topic, append(of.Partitions, p)
	id := b.topicID(t, topic)
	of.TopicID = id
	req.Topics = append(req.Topics, of)
	res, err := req.RequestWith(t.Context(), b.admin)
	return bustest.Ask(t, res, err).Topics[0].Partitions[0].ErrorCode
}

// topicID returns the id that newer requests name a topic by.
func (b *broker) topicID(t testing.TB, name string) [16]byte {
	t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = kmsg.StringPtr(name)
	req.Topics = append(req.Topics, topic)
	res, err := req.RequestWith(t.Context(), b.admin)
	return bustest.Ask(t, res, err).Topics[0].TopicID
}

// committed returns the group's offset, -1 where there is none.
func (b *broker) committed(t testing.TB, group, topic string, partition int32) int64 {
	t.Helper()
	id := b.topicID(t, topic)
	req := kmsg.NewPtrOffsetFetchRequest()
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = group
	of := kmsg.NewOffsetFetchRequestGroupTopic()
	of.Topic, of.TopicID, of.Partitions = topic, id, []int32{partition}
	g.Topics = append(g.Topics, of)
	req.Groups = append(req.Groups, g)
	old := kmsg.NewOffsetFetchRequestTopic()
	old.Topic, old.Partitions = topic, []int32{partition}
	req.Group, req.Topics = group, append(req.Topics, old)
	res, err := req.RequestWith(t.Context(), b.admin)
	for _, g := range bustest.Ask(t, res, err).Groups {
		for _, topic := range g.Topics {
			return topic.Partitions[0].Offset
		}
	}
	for _, topic := range res.Topics {
		return topic.Partitions[0].Offset
	}
	return -1
}

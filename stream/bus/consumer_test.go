package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// handle notes every record once: what another member had handled but not
// committed is known by its offset, as a role knows it by its state.
func (l *handledLog) handle(ctx context.Context, a *Assignment) error {
	a.Ready()
	for {
		records, err := a.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		l.mu.Lock()
		for _, r := range records {
			if r.Offset < l.next[a.Partition] {
				continue
			}
			l.got[a.Partition] = append(l.got[a.Partition], string(r.Value))
			l.next[a.Partition] = r.Offset + 1
		}
		l.mu.Unlock()
		a.Commit(a.Position())
	}
}

func (l *handledLog) count() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range l.got {
		n += len(v)
	}
	return n
}

// eventually polls until ok or the deadline.
func eventually(t testing.TB, what string, within time.Duration, ok func() bool) {
	t.Helper()
	bustest.Eventually(t, what, within, ok)
}

// produce appends n numbered records round robin and waits.
func produce(t testing.TB, p *Producer, topic string, from, n int) {
	t.Helper()
	for i := from; i < from+n; i++ {
		if err := p.Append(topic, int32(i%4), []byte("k"), fmt.Appendf(nil, "%d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestConsumerHandsOutCommitsAndDrains(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicSignals, 0, 1000)

	seen := newHandledLog()
	k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicSignals}}, component.Discard())
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- k.Run(t.Context(), seen.handle) }()
	<-k.Ready()
	if took := time.Since(began); took > time.Second {
		t.Errorf("joining took %s, want under 1s", took)
	}
	eventually(t, "1000 records handled", 5*time.Second, func() bool { return seen.count() == 1000 })
	produce(t, p, event.TopicSignals, 1000, 1000)
	if err := k.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	want := make(map[int32][]string)
	for i := range 2000 {
		want[int32(i%4)] = append(want[int32(i%4)], fmt.Sprint(i))
	}
	if diff := cmp.Diff(want, seen.got); diff != "" {
		t.Error(diff)
	}
	lags, err := c.Lag(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	if len(lags) != 4 {
		t.Errorf("lag of %d partitions, want 4: %+v", len(lags), lags)
	}
	for _, l := range lags {
		if l.Records != 0 || l.Committed != 500 || l.Topic != event.TopicSignals {
			t.Errorf("lag after the drain: %+v", l)
		}
	}
}

// member runs a consumer of the group and returns how to make it leave, which
// waits until it is gone.
func member(t *testing.T, c *Client, handle func(context.Context, *Assignment) error) (k *Consumer, leave func()) {
	t.Helper()
	k = c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx, handle) }()
	return k, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Members join and leave under load: every record is handled, each partition in
// order, and by one member at a time.
func TestRebalanceUnderLoadLosesNothing(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	seen := newHandledLog()
	var owners [4]atomic.Int32
	handle := func(ctx context.Context, a *Assignment) error {
		if owners[a.Partition].Add(1) != 1 {
			t.Errorf("partition %d has two owners", a.Partition)
		}
		defer owners[a.Partition].Add(-1)
		return seen.handle(ctx, a)
	}
	stop := make(chan struct{})
	produced := make(chan int, 1)
	go func() {
		n := 0
		defer func() { produced <- n }()
		for ; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := p.Append(event.TopicMarket, int32(n%4), []byte("k"), fmt.Appendf(nil, "%d", n), nil); err != nil {
				t.Error(err)
				return
			}
			if n%100 == 0 {
				time.Sleep(time.Millisecond) // a rate that a loaded machine can follow
			}
		}
	}()
	first, leaveFirst := member(t, c, handle)
	<-first.Ready()
	var joins []time.Duration
	for range 3 {
		began := time.Now()
		second, leaveSecond := member(t, c, handle)
		<-second.Ready()
		joins = append(joins, time.Since(began).Round(time.Millisecond))
		before := seen.count()
		eventually(t, "records flow with two members", 5*time.Second, func() bool { return seen.count() > before+2000 })
		leaveSecond()
		before = seen.count()
		eventually(t, "records flow after a member left", 5*time.Second, func() bool { return seen.count() > before+2000 })
	}
	last, leaveLast := member(t, c, handle)
	<-last.Ready()
	leaveFirst()
	close(stop)
	n := <-produced
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "everything handled", 10*time.Second, func() bool { return seen.count() == n })
	leaveLast()
	for part, got := range seen.got {
		for j, v := range got {
			if want := j*4 + int(part); v != fmt.Sprint(want) {
				t.Fatalf("partition %d: record %d is %s, want %d", part, j, v, want)
			}
		}
	}
	t.Logf("%d records, 7 rebalances, joins took %v", n, joins)
}

func TestHandlersStopWhenTheirPartitionIsLost(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	var mu sync.Mutex
	owned := make(map[int32]int)
	handle := func(ctx context.Context, a *Assignment) error {
		mu.Lock()
		owned[a.Partition]++
		mu.Unlock()
		a.Ready()
		_, err := a.Next(ctx) // nothing comes
		mu.Lock()
		owned[a.Partition]--
		mu.Unlock()
		return err
	}
	first, leaveFirst := member(t, c, handle)
	defer leaveFirst()
	<-first.Ready()
	second, leaveSecond := member(t, c, handle)
	defer leaveSecond()
	<-second.Ready()
	eventually(t, "four partitions with one owner each", 3*time.Second, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return cmp.Equal(owned, map[int32]int{0: 1, 1: 1, 2: 1, 3: 1})
	})
}

func TestHandlerErrorEndsRun(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	boom := errors.New("boom")
	for i := range 30 { // what may not be is a matter of chance
		k := c.NewConsumer(ConsumerConfig{Role: fmt.Sprint("test", i), Topics: []string{event.TopicMarket}}, component.Discard())
		var others sync.WaitGroup
		others.Add(3)
		err := k.Run(t.Context(), func(ctx context.Context, a *Assignment) error {
			if a.Partition == 2 {
				others.Wait()
				a.Commit(0)
				return boom
			}
			a.Ready()
			others.Done()
			<-ctx.Done()
			time.Sleep(10 * time.Millisecond)
			return ctx.Err()
		})
		if !errors.Is(err, boom) || err.Error() != "handling md/2: boom" {
			t.Error(err)
		}
		select {
		case <-k.Ready():
			t.Fatal("it calls itself ready, and a handler failed before it was")
		default:
		}
	}
}

func TestCommitsGoForwardOnly(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 400)
	run := func(commits ...int64) (committed int64) {
		k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
		if err := k.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := k.Run(t.Context(), func(ctx context.Context, a *Assignment) error {
			if a.Partition == 1 {
				committed = a.Committed
				for _, o := range commits {
					a.Commit(o)
				}
			}
			if a.Start != 0 || a.End != 100 || a.Incarnation != c.Incarnation(event.TopicMarket) {
				t.Errorf("assignment %+v", a)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return committed
	}
	if got := run(5, 50, 20); got != -1 {
		t.Errorf("committed %d at first, want -1", got)
	}
	if got := run(30); got != 50 {
		t.Errorf("committed %d, want 50", got)
	}
	if got := run(); got != 50 {
		t.Errorf("committed %d after a lower commit, want 50", got)
	}
}

func TestSeekAndStoredOffsetBeyondTheEnd(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 40)
	k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
	if err := k.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	got := make(map[int32]string)
	var others sync.WaitGroup
	others.Add(3)
	err := k.Run(t.Context(), func(ctx context.Context, a *Assignment) error {
		from := []int64{FromStart, FromEnd, 7, 11}[a.Partition]
		if a.Partition == 3 {
			others.Wait() // its error ends them
		} else {
			defer others.Done()
		}
		if err := a.Seek(ctx, from); err != nil {
			return err
		}
		var values []string
		for {
			records, err := a.Next(ctx)
			if err != nil {
				mu.Lock()
				got[a.Partition] = fmt.Sprint(values)
				mu.Unlock()
				return err
			}
			for _, r := range records {
				values = append(values, string(r.Value))
			}
		}
	})
	if !component.IsFatal(err) || err.Error() == "" {
		t.Errorf("an offset beyond the end gave %v", err)
	}
	if diff := cmp.Diff(map[int32]string{0: "[0 4 8 12 16 20 24 28 32 36]", 1: "[]", 2: "[30 34 38]"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestDrainBeforeAndDuringARun(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 400)
	a, b := newHandledLog(), newHandledLog()
	one := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
	two := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
	done := make(chan error, 2)
	go func() { done <- one.Run(t.Context(), a.handle) }()
	<-one.Ready()
	go func() { done <- two.Run(t.Context(), b.handle) }()
	<-two.Ready()
	if err := one.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := two.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(15 * time.Second):
			t.Fatal("a drained member does not end")
		}
	}
	if n := a.count() + b.count(); n < 400 {
		t.Errorf("%d records handled, want 400", n)
	}
	lags, err := c.Lag(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lags {
		if l.Records != 0 {
			t.Errorf("lag after both drained: %+v", l)
		}
	}
}

// A member that vanishes without a word holds its partitions only until another
// one joins and the rebalance timeout has passed.
func TestKilledMemberIsPassedOver(t *testing.T) {
	b, l := startFaulty(t)
	c, doomed := connect(t, testConfig(b.Addr())), connect(t, testConfig(b.proxied))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 400)
	seen := newHandledLog()
	dead, leave := member(t, doomed, func(ctx context.Context, a *Assignment) error {
		a.Ready()
		<-ctx.Done()
		return nil
	})
	<-dead.Ready()
	// Its requests stop arriving, as if the process had been killed.
	alive := silence(b, l)
	leave()
	alive()
	began := time.Now()
	k, leaveNew := member(t, c, seen.handle)
	<-k.Ready()
	took := time.Since(began)
	eventually(t, "everything handled", 5*time.Second, func() bool { return seen.count() == 400 })
	leaveNew()
	if took > rebalanceTimeout+2*time.Second {
		t.Errorf("took over after %s", took)
	}
	t.Logf("took over after %s", took.Round(time.Millisecond))
}

// silence keeps what members of groups send from the broker, until alive is
// called: on Apache Kafka of those behind the proxy.
func silence(b *broker, l *faultyListener) (alive func()) {
	if b.cluster == nil {
		l.setDead(true)
		return func() { l.setDead(false) }
	}
	h := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat, kmsg.JoinGroup, kmsg.LeaveGroup}, TopLevel: true, Err: kerr.CoordinatorNotAvailable, Count: -1,
		When: func(r kmsg.Request) bool {
			switch r := r.(type) {
			case *kmsg.JoinGroupRequest:
				return r.MemberID != ""
			case *kmsg.HeartbeatRequest, *kmsg.LeaveGroupRequest:
				return true
			}
			return false
		}})
	return func() { h.Remove() }
}

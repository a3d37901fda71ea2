package bus

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/autohedge/autohedge/stream/event"
)

// A process that runs asks at the beginning alone; one that stood still asks until it
// is answered, once for all its handlers, and gives nothing meanwhile.
func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, lose := context.WithCancel(t.Context())
		var asked, warned atomic.Int64
		var answer atomic.Pointer[error]
		answers := func(err error) { answer.Store(&err) }
		answers(nil)
		p := newPulse(ctx, func(context.Context) error { asked.Add(1); return *answer.Load() }, func(time.Duration) { warned.Add(1) })
		if err := p.sure(ctx); err != nil || asked.Load() != 1 || warned.Load() > 0 {
			t.Fatalf("the beginning gives %v, asked %d times and warned %d times", err, asked.Load(), warned.Load())
		}
		over := make(chan struct{})
		go func() { p.run(); close(over) }()
		time.Sleep(time.Hour)
		if err := p.sure(ctx); err != nil || asked.Load() != 1 {
			t.Fatalf("a process that ran gives %v and asked %d times", err, asked.Load())
		}
		answers(errors.New("broken connection"))
		sleepWell := func() { p.beat.Store(int64(time.Since(p.began) - asleepAfter)) }
		sleepWell()
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		if err := p.sure(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("gives %v while the group does not answer, want the context's error", err)
		}
		sured := make(chan error, 3)
		for range cap(sured) {
			go func() { sured <- p.sure(ctx) }()
		}
		time.Sleep(10 * time.Second)
		select {
		case err := <-sured:
			t.Fatalf("gives %v while the group does not answer", err)
		default:
		}
		if n := warned.Load(); n < 1 || n > 2 || asked.Load() < 10 {
			t.Errorf("warned %d times (want 1 or 2: one asks for all), asked %d", n, asked.Load())
		}
		answers(nil)
		asked.Store(0)
		for range cap(sured) {
			if err := <-sured; err != nil {
				t.Errorf("gives %v once the group has answered", err)
			}
		}
		if asked.Load() != 1 {
			t.Errorf("asked %d times once there was an answer, want 1", asked.Load())
		}
		answers(kafka.UnknownMemberId)
		sleepWell()
		go func() { sured <- p.sure(context.Background()) }()
		time.Sleep(time.Minute)
		lose()
		if err := <-sured; !errors.Is(err, context.Canceled) {
			t.Errorf("a member that is out gives %v", err)
		}
		<-over
	})
}

// What a member that stood still finds read is kept until the group says that it
// still owns it; the position stays before it.
func TestMemberThatStoodStillKeepsWhatItRead(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 400)
	type result struct{ before, held, after, n int64 }
	got := make(chan result, 1)
	k, leave := member(t, c, func(ctx context.Context, a *Assignment) error {
		a.Ready()
		if a.Partition != 0 {
			<-ctx.Done()
			return nil
		}
		var r result
		r.before = a.Position()
		asleep := func() { a.pulse.beat.Store(int64(time.Since(a.pulse.began) - time.Minute)) }
		gone, cancel := context.WithTimeout(ctx, 5*time.Second)
		group := a.pulse
		a.pulse = newPulse(ctx, func(context.Context) error { cancel(); return kafka.RequestTimedOut }, func(time.Duration) {})
		asleep()
		records, err := a.Next(gone)
		cancel()
		if len(records) > 0 || !errors.Is(err, context.Canceled) {
			t.Errorf("Next gave %d records and %v while nobody knew whose they are", len(records), err)
		}
		r.held = a.Position()
		a.pulse = group
		asleep()
		for r.n < 100 {
			records, err := a.Next(ctx)
			if err != nil {
				t.Error(err)
				break
			}
			for _, rec := range records {
				if rec.Offset != r.n {
					t.Errorf("offset %d where %d is next", rec.Offset, r.n)
				}
				r.n++
			}
		}
		r.after = a.Position()
		got <- r
		<-ctx.Done()
		return nil
	})
	defer leave()
	<-k.Ready()
	if r, want := <-got, (result{0, 0, 100, 100}); r != want {
		t.Errorf("position before, while held, after, and records: %v, want %v", r, want)
	}
}

// The group's coordinator tells who is a member, who is none any more and who never
// was one.
func TestGroupTellsWhoIsMember(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	asks := make(chan func(context.Context) error, c.Partitions(event.TopicMarket))
	k, leave := member(t, c, func(ctx context.Context, a *Assignment) error {
		a.Ready()
		asks <- a.pulse.ask
		<-ctx.Done()
		return nil
	})
	defer leave()
	<-k.Ready()
	ask := <-asks
	if err := ask(t.Context()); err != nil {
		t.Errorf("a member is told %v", err)
	}
	if err := c.stillMember(t.Context(), &kafka.Generation{ID: 1, GroupID: c.Group("test"), MemberID: "nobody"}); !errors.Is(err, kafka.UnknownMemberId) {
		t.Errorf("who never was a member is told %v", err)
	}
	leave()
	if err := ask(t.Context()); !errors.Is(err, kafka.UnknownMemberId) {
		t.Errorf("a member that left is told %v", err)
	}
}

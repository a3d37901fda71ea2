package bus

import (
	"context"
	"errors"
	"regexp"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// What counts as a stall, and what does not, over ten virtual minutes on the
// embedded broker.
func TestStalledPartitionEndsTheRunOnKfake(t *testing.T) {
	starve := []kfake.Fault{{Keys: []kmsg.Key{kmsg.Fetch}, Topic: event.TopicMarket, Partitions: []int32{1}, Err: kerr.ReplicaNotAvailable, Count: -1}}
	read := func(ctx context.Context, a *Assignment) error {
		a.Ready()
		for {
			if _, err := a.Next(ctx); err != nil {
				return err
			}
			a.Commit(a.Position())
		}
	}
	hang := func(wait func(ctx context.Context, a *Assignment)) func(context.Context, *Assignment) error {
		return func(ctx context.Context, a *Assignment) error {
			if a.Partition != 2 {
				return read(ctx, a)
			}
			a.Ready()
			if _, err := a.Next(ctx); err != nil {
				return err
			}
			wait(ctx, a)
			<-ctx.Done()
			return ctx.Err()
		}
	}
	for _, tt := range []struct {
		name   string
		stall  time.Duration
		faults []kfake.Fault
		handle func(context.Context, *Assignment) error
		want   string        // of the error; empty is none
		within time.Duration // of the fault
	}{
		{name: "nothing is wrong", handle: read},
		{
			name: "records do not come", faults: starve, handle: read,
			want: `^handling md/1: no progress for 1m[0-9]s: the handler waits for records that do not come; it is at offset 0, has committed up to -1 and the log ends at 10: 10 records behind; start`, within: 75 * time.Second,
		},
		{
			name: "records do not come, for the time that is configured", stall: 5 * time.Minute, faults: starve, handle: read,
			want: `^handling md/1: no progress for 5m[0-9]s`, within: 5*time.Minute + 15*time.Second,
		},
		{
			name:   "the handler hangs",
			handle: hang(func(context.Context, *Assignment) {}),
			want:   `^handling md/2: no progress for 1m[0-9]s: the handler works on the records it has; it is at offset 0, has committed up to -1 and the log ends at 10: 10 records behind; start`, within: 75 * time.Second,
		},
		{
			name:   "the handler hangs after a part of its records",
			handle: hang(func(_ context.Context, a *Assignment) { a.Commit(7) }),
			want:   `^handling md/2: no progress for 1m[0-9]s: the handler works on the records it has; it is at offset 7, has committed up to 7 and the log ends at 10: 3 records behind; start`, within: 75 * time.Second,
		},
		{name: "the handler has done everything", handle: hang(func(_ context.Context, a *Assignment) { a.Commit(10) })},
		{name: "a wait is declared", handle: hang(func(_ context.Context, a *Assignment) { a.Waiting() })},
		{
			name: "a declared wait is over", handle: hang(func(_ context.Context, a *Assignment) {
				done := a.Waiting()
				time.AfterFunc(5*time.Minute, done)
			}),
			want: `^handling md/2: no progress for 1m`, within: 6*time.Minute + 15*time.Second,
		},
		{
			name: "state is being restored", handle: func(ctx context.Context, _ *Assignment) error {
				<-ctx.Done()
				return ctx.Err()
			},
		},
		{
			name: "the brokers do not tell the end", handle: read,
			faults: append([]kfake.Fault{{Keys: []kmsg.Key{kmsg.ListOffsets}, Err: kerr.LeaderNotAvailable, Count: -1}}, starve...),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, v *virtual) {
				c := v.connect(t)
				p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
				produce(t, p, event.TopicMarket, 0, 40)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}, Stall: tt.stall}, component.Discard())
				began := time.Now()
				installed := make(chan struct{})
				handle := func(ctx context.Context, a *Assignment) error {
					<-installed
					return tt.handle(ctx, a)
				}
				go func() {
					defer close(installed)
					time.Sleep(2 * time.Second)
					v.cluster.Fault(tt.faults...)
				}()
				err := k.Run(ctx, handle)
				took := time.Since(began)
				switch {
				case tt.want == "":
					if err != nil || took < 10*time.Minute {
						t.Errorf("ended after %s: %v", took, err)
					}
				case !component.IsFatal(err) || !regexp.MustCompile(tt.want).MatchString(err.Error()):
					t.Errorf("ended after %s: %v, want a fatal error like %s", took, err, tt.want)
				case took > tt.within:
					t.Errorf("took %s, want at most %s", took, tt.within)
				}
			})
		})
	}
}

// A handler whose own producer is held up by the brokers is not stalled.
func TestBackpressureIsNoStallOnKfake(t *testing.T) {
	inBubble(t, func(t *testing.T, v *virtual) {
		c := v.connect(t)
		p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
		produce(t, p, event.TopicMarket, 0, 40)
		out := newProducer(t, c, ProducerConfig{Name: "out", Blocking: true, QueueBytes: 1000})
		h := v.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: event.TopicSignals, Err: kerr.NotEnoughReplicas, Count: -1})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
		time.AfterFunc(30*time.Minute, h.Remove)
		time.AfterFunc(31*time.Minute, cancel)
		err := k.Run(ctx, func(ctx context.Context, a *Assignment) error {
			a.Ready()
			for {
				records, err := a.Next(ctx)
				if err != nil {
					return err
				}
				for range records {
					if err := out.Append(event.TopicSignals, a.Partition, nil, make([]byte, 300), nil); err != nil {
						return err
					}
				}
			}
		})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if err := out.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		n := 0
		for part := range int32(4) {
			n += len(readAll(t, c, event.TopicSignals, part))
		}
		if n != 40 {
			t.Errorf("%d records came through after the brokers took them again, want 40", n)
		}
	})
}

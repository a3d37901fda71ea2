package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
	for deadline := time.Now().Add(within); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, within)
		}
	}
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
	c := connect(t, testConfig(startBroker(t, "").Addr()))
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

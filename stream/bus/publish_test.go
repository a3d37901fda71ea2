package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/event"
)

var publishAt = TopicPartition{Topic: event.TopicMarket}

// lending is a producer that has published one record, so that its lane is idle,
// and whose broker holds its answers back until release.
func lending(t *testing.T) (c *Client, p *Producer, d *dials, release func()) {
	t.Helper()
	b, faults := startFaulty(t)
	c = connect(t, testConfig(b.proxied))
	d = new(dials)
	c.leaders.dial = d.dial
	c.leaders.closeAll()
	p = newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	if o, err := p.publish(t.Context(), publishAt, []byte("k"), []byte("first")); err != nil || o != 0 {
		t.Fatal(o, err)
	}
	l := p.topics[event.TopicMarket][0]
	eventually(t, "the sender is idle", 10*time.Second, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.idle
	})
	return c, p, d, faults.hold(t)
}

// lent waits until a publisher has the sender's place.
func lent(t *testing.T, p *Producer) {
	t.Helper()
	l := p.topics[event.TopicMarket][0]
	eventually(t, "a publisher sends", 10*time.Second, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.lent && l.flying != nil
	})
}

// Who publishes to an idle partition sends the record itself; what comes meanwhile
// waits its turn, and all are in the log in the order of their appends.
func TestPublishersSendOneAfterTheOther(t *testing.T) {
	c, p, d, release := lending(t)
	var all sync.WaitGroup
	publish := func(value string, want int64) {
		all.Go(func() {
			if o, err := p.publish(t.Context(), publishAt, []byte("k"), []byte(value)); err != nil || o != want {
				t.Errorf("%s: offset %d, %v, want %d", value, o, err, want)
			}
		})
		l := p.topics[event.TopicMarket][0]
		eventually(t, "the record is appended", 10*time.Second, func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.appended == uint64(want)+1
		})
	}
	want := []string{"first", "lent"}
	publish("lent", 1)
	lent(t, p)
	for i := range 3 {
		publish(fmt.Sprintf("p%d", i), int64(2+2*i))
		if err := p.Append(event.TopicMarket, 0, []byte("k"), fmt.Appendf(nil, "a%d", i), nil); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("p%d", i), fmt.Sprintf("a%d", i))
	}
	flushed := make(chan error, 1)
	go func() { flushed <- p.Flush(t.Context()) }()
	lent(t, p)
	select {
	case err := <-flushed:
		t.Errorf("flushed before anything was answered: %v", err)
	default:
	}
	release()
	all.Wait()
	if err := <-flushed; err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, readAll(t, c, event.TopicMarket, 0)); diff != "" {
		t.Errorf("the log is not what was appended (- want, + got):\n%s", diff)
	}
	if n := d.made(); n != 1 {
		t.Errorf("%d connections for one partition: there was more than one request in flight", n)
	}
}

// Flush waits for what a publisher sends, and no longer.
func TestFlushWaitsForAPublisher(t *testing.T) {
	_, p, _, release := lending(t)
	published, flushed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := p.publish(t.Context(), publishAt, []byte("k"), []byte("v"))
		published <- err
	}()
	lent(t, p)
	ctx, cancel := contextWithTimeout(t, 20*time.Second)
	defer cancel()
	go func() { flushed <- p.Flush(ctx) }()
	l := p.topics[event.TopicMarket][0]
	eventually(t, "flush waits", 10*time.Second, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.flushing == 1
	})
	began := time.Now()
	release()
	if err := <-flushed; err != nil {
		t.Errorf("flushing: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("flushing took %s more: nobody woke it", took)
	}
	if err := <-published; err != nil {
		t.Errorf("publishing: %v", err)
	}
}

// A publisher that goes away leaves its record to the sender.
func TestAbandonedPublishIsSentOnce(t *testing.T) {
	c, p, _, release := lending(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := p.publish(ctx, publishAt, []byte("k"), []byte("abandoned"))
		done <- err
	}()
	lent(t, p)
	began := time.Now()
	cancel()
	if err := <-done; !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, context.Canceled) {
		t.Errorf("it was told %v", err)
	}
	if took := time.Since(began); took > requestTimeout/2 {
		t.Errorf("it went away after %s", took)
	}
	release()
	if o, err := p.publish(t.Context(), publishAt, []byte("k"), []byte("next")); err != nil || o != 2 {
		t.Errorf("the next record: offset %d, %v", o, err)
	}
	if diff := cmp.Diff([]string{"first", "abandoned", "next"}, readAll(t, c, event.TopicMarket, 0)); diff != "" {
		t.Errorf("the log is not what was appended (- want, + got):\n%s", diff)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if q := p.Queued(); q != 0 {
		t.Errorf("%d bytes are still queued", q)
	}
}

// Closing a producer ends a publisher that sends, and tells it that its record may
// be in the log.
func TestClosingEndsAPublisher(t *testing.T) {
	_, p, _, _ := lending(t)
	done := make(chan error, 1)
	go func() {
		_, err := p.publish(t.Context(), publishAt, []byte("k"), []byte("v"))
		done <- err
	}()
	lent(t, p)
	began := time.Now()
	p.abandon()
	if took := time.Since(began); took > requestTimeout/2 {
		t.Errorf("closing took %s", took)
	}
	if err := <-done; !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("it was told %v", err)
	}
}

// Publishers and appenders of one partition, answers of every ambiguous kind: each
// record is in the log once, at the offset that its publisher was told.
func TestPublishersAmidAmbiguityOnKfake(t *testing.T) {
	b := startKfake(t, "")
	c := connect(t, testConfig(b.Addr()))
	h := ambiguity(b.cluster)
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	const publishers, each = 3, 200
	var mu sync.Mutex
	told := make(map[int64]string)
	var all sync.WaitGroup
	for who := range publishers {
		all.Go(func() {
			for n := range each {
				value := fmt.Sprintf("%d.%d", who, n)
				if n%7 == 0 {
					if err := p.Append(event.TopicMarket, 0, []byte("k"), []byte(value+"a"), nil); err != nil {
						t.Error(err)
					}
				}
				o, err := p.publish(t.Context(), publishAt, []byte("k"), []byte(value))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				told[o] = value
				mu.Unlock()
				if n%50 == who {
					time.Sleep(3 * time.Millisecond) // lets the lane become idle
				}
			}
		})
	}
	all.Wait()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h.Hits() == 0 {
		t.Error("no answer was ambiguous")
	}
	h.Remove()
	last := make(map[string]int)
	var published int
	for o, value := range readAll(t, c, event.TopicMarket, 0) {
		var who, n int
		if _, err := fmt.Sscanf(value, "%d.%d", &who, &n); err != nil {
			t.Fatal(err)
		}
		kind := fmt.Sprint(who, strings.HasSuffix(value, "a"))
		if before, ok := last[kind]; ok && n <= before {
			t.Errorf("offset %d holds %s after %d", o, value, before)
		}
		last[kind] = n
		if !strings.HasSuffix(value, "a") {
			if published++; told[int64(o)] != value {
				t.Errorf("offset %d holds %s, and its publisher was told so of %q", o, value, told[int64(o)])
			}
		}
	}
	if published != publishers*each || len(told) != published {
		t.Errorf("%d published records in the log, %d offsets told, want %d", published, len(told), publishers*each)
	}
}

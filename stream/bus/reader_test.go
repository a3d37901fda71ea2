package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

func newReader(t testing.TB, c *Client, cfg ReaderConfig) *Reader {
	t.Helper()
	r, err := c.NewReader(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// next reads until n records came or an error did.
func next(t testing.TB, r *Reader, n int) (values []string, err error) {
	t.Helper()
	for len(values) < n {
		ctx, cancel := contextWithTimeout(t, 10*time.Second)
		records, err := r.Next(ctx)
		cancel()
		if err != nil {
			return values, err
		}
		for _, rec := range records {
			values = append(values, string(rec.Value))
		}
	}
	return values, nil
}

func TestReaderFollows(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	follow(t, c, func(time.Duration) {})
}

// A reader waits at the broker: what is appended is read in no time, also after
// answers that held nothing.
func TestReaderFollowsWithoutDelayOnKfake(t *testing.T) {
	inBubble(t, func(t *testing.T, v *virtual) {
		follow(t, v.connect(t), func(took time.Duration) {
			if took != 0 {
				t.Errorf("read %s after it was appended: the reader does not wait at the broker", took)
			}
		})
	})
}

// follow appends records one by one to a partition that is being read at its end.
func follow(t *testing.T, c *Client, read func(after time.Duration)) {
	t.Helper()
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 40)
	r := newReader(t, c, ReaderConfig{Topic: event.TopicMarket, Offset: FromEnd})
	if r.Position() != 10 {
		t.Errorf("position %d at the end of 10 records", r.Position())
	}
	for i := range 20 {
		if i == 5 { // empty answers in between change nothing
			wait, cancel := context.WithTimeout(t.Context(), 2*fetchWait)
			if records, err := r.Next(wait); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(records, err)
			}
			cancel()
		}
		began := time.Now()
		if err := p.Append(event.TopicMarket, 0, nil, fmt.Appendf(nil, "new %d", i), nil); err != nil {
			t.Fatal(err)
		}
		got, err := next(t, r, 1)
		if err != nil || len(got) != 1 || got[0] != fmt.Sprintf("new %d", i) {
			t.Fatal(got, err)
		}
		read(time.Since(began))
	}
}

func TestReaderEndsAtAnOffset(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 400)
	r := newReader(t, c, ReaderConfig{Topic: event.TopicMarket, Offset: 10})
	r.EndAt(10)
	if _, err := r.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Fatalf("at the end: %v", err)
	}
	r.EndAt(33)
	got, err := next(t, r, 100)
	if !errors.Is(err, io.EOF) || len(got) != 23 || got[0] != "40" || got[22] != "128" || r.Position() != 33 {
		t.Fatalf("%d records %v, position %d, %v", len(got), got, r.Position(), err)
	}
	r.EndAt(200) // more than there is
	got, err = next(t, r, 67)
	if err != nil || got[0] != "132" || got[66] != "396" {
		t.Fatal(got, err)
	}
}

func TestEndAtEndsABlockedNextOnKfake(t *testing.T) {
	inBubble(t, func(t *testing.T, v *virtual) {
		c := v.connect(t)
		p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
		produce(t, p, event.TopicMarket, 0, 40)
		r := newReader(t, c, ReaderConfig{Topic: event.TopicMarket, Offset: FromEnd})
		ended := make(chan error, 1)
		go func() {
			_, err := r.Next(t.Context())
			ended <- err
		}()
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("Next at the end of the log gave %v", err)
		default:
		}
		r.EndAt(10)
		if err := <-ended; !errors.Is(err, io.EOF) {
			t.Errorf("a blocked Next gave %v after EndAt", err)
		}
	})
}

func TestReaderOutsideTheLogIsFatal(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 400)
	for _, tt := range []struct {
		offset int64
		want   string
	}{
		{120, fmt.Sprintf("reading md/0: offset 120 is wanted, but the log (incarnation %s) begins at 0 and ends at 100, 20 records before", c.Incarnation(event.TopicMarket))},
		{10, "reading md/0: offset 10 is wanted, but the log begins at 50 and ends at 100: retention took 40 records first"},
	} {
		if tt.offset == 10 {
			b.admin.DeleteRecords(t, event.TopicMarket, 0, 50)
		}
		_, err := c.NewReader(t.Context(), ReaderConfig{Topic: event.TopicMarket, Offset: tt.offset}, component.Discard())
		var fault *LogError
		if !component.IsFatal(err) || !strings.Contains(err.Error(), tt.want) || !errors.As(err, &fault) || fault.Stored != tt.offset {
			t.Errorf("reading from %d gave %v", tt.offset, err)
		}
	}
	if got := readAll(t, c, event.TopicMarket, 0); len(got) != 50 || got[0] != "200" {
		t.Errorf("from the start of the trimmed log: %d records, the first %s", len(got), got[0])
	}
}

func TestRetentionThatOvertakesARunningReaderIsFatal(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	const n, trimmed = 12_000, 11_000 // of 1 kB: more than a reader holds
	for range n {
		if err := p.Append(event.TopicMarket, 0, nil, make([]byte, 1000), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := newReader(t, c, ReaderConfig{Topic: event.TopicMarket, Offset: 0})
	got, err := next(t, r, 1)
	if err != nil {
		t.Fatal(err)
	}
	b.admin.DeleteRecords(t, event.TopicMarket, 0, trimmed)
	rest, err := next(t, r, n)
	read := len(got) + len(rest)
	want := fmt.Sprintf("offset %d is wanted, but the log begins at %d and ends at %d: retention took %d records first", read, trimmed, n, trimmed-read)
	if !component.IsFatal(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("after %d records: %v", read, err)
	}
}

// A compacted log has holes, and readers of compacted topics pass over them; in
// any other topic a hole is a loss.
func TestOffsetGap(t *testing.T) {
	b := startBroker(t)
	for _, topic := range []string{event.TopicMeta, event.TopicControl, event.TopicInstruments} {
		b.admin.CreateTopic(t, topic, 1, compactible)
	}
	c, err := Connect(t.Context(), testConfig(b.Addr()), component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	// EnsureTopics refuses a control topic that is compacted.
	eventually(t, "the topics are there", 10*time.Second, func() bool {
		if err := c.AttachTopics(t.Context()); err != nil {
			t.Fatal(err)
		}
		return c.Partitions(event.TopicMeta)+c.Partitions(event.TopicControl)+c.Partitions(event.TopicInstruments) == 3
	})
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	add := func(topic string, i int) {
		key := []byte{'a' + byte(i%3)}
		if i == 0 {
			key = []byte("z")
		}
		if err := p.Append(topic, 0, key, fmt.Appendf(nil, "%d", i), nil); err != nil {
			t.Fatal(err)
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, topic := range []string{event.TopicInstruments, event.TopicControl} {
		for i := range 9 {
			add(topic, i)
		}
	}
	time.Sleep(250 * time.Millisecond) // segment.ms: the next record is in a segment of its own
	for _, topic := range []string{event.TopicInstruments, event.TopicControl} {
		add(topic, 9)
	}
	if b.cluster != nil {
		b.cluster.Compact()
	}
	// What is not in the newest segment is compacted.
	eventually(t, "the topic reads as [0 6 7 8 9]", 15*time.Second, func() bool {
		return fmt.Sprint(readAll(t, c, event.TopicInstruments, 0)) == "[0 6 7 8 9]"
	})
	gap := func() error {
		r := newReader(t, c, ReaderConfig{Topic: event.TopicControl, Offset: FromStart})
		defer r.Close()
		_, err := next(t, r, 2)
		return err
	}
	eventually(t, "the other one has a gap", 15*time.Second, func() bool { return gap() != nil })
	b.admin.SetConfig(t, event.TopicInstruments, map[string]string{"cleanup.policy": "compact,delete"}) // or Apache Kafka refuses to
	b.admin.DeleteRecords(t, event.TopicInstruments, 0, 7)
	r := newReader(t, c, ReaderConfig{Topic: event.TopicInstruments, Offset: 3})
	if got, err := next(t, r, 3); err != nil || fmt.Sprint(got) != "[7 8 9]" {
		t.Errorf("below the start of a compacted topic: %v, %v", got, err)
	}
	r = newReader(t, c, ReaderConfig{Topic: event.TopicControl, Offset: FromStart})
	_, err = next(t, r, 2)
	if !component.IsFatal(err) || !strings.Contains(err.Error(), "reading control/0: the log goes on at offset 6 where 1 is next: 5 records are missing") {
		t.Errorf("a gap gave %v", err)
	}
	if _, err := r.Next(t.Context()); !component.IsFatal(err) {
		t.Errorf("the next call gave %v", err)
	}
}

func TestFlippedBitsOnTheWireAreFetchedAgain(t *testing.T) {
	b, l := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	// Held back at first, so that nearly everything is one large batch.
	release := l.hold(t)
	const n = 2000
	for i := range n {
		if err := p.Append(event.TopicMarket, 0, nil, fmt.Appendf(nil, "%d", i), nil); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			inFlight(t, p) // alone: the rest is one batch
		}
	}
	release()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	var flips atomic.Int64
	flip := func(b []byte) ([]byte, bool) {
		if len(b) < 5000 || flips.Add(1) > 2 {
			return b, true
		}
		out := append([]byte(nil), b...)
		out[len(out)-100] ^= 4
		return out, true
	}
	l.damage.Store(&flip)
	if got := readAll(t, c, event.TopicMarket, 0); len(got) != n || got[n-1] != fmt.Sprint(n-1) {
		t.Errorf("%d records read, want %d", len(got), n)
	}
	if n := total(t, c.metrics.corrupt); n != 2 {
		t.Errorf("%v corrupt batches counted, 2 bits were flipped", n)
	}
	flips.Store(-1000)
	r := newReader(t, c, ReaderConfig{Topic: event.TopicMarket, Offset: FromStart})
	_, err := next(t, r, n)
	if !component.IsFatal(err) || !strings.Contains(err.Error(), "checksum is") {
		t.Errorf("a log that stays corrupt gave %v", err)
	}
}

// The offset of a batch is not under its checksum.
func TestShiftedBatchIsSeen(t *testing.T) {
	one := sealed(t, nil, [2][]byte{nil, []byte("a")}, [2][]byte{nil, []byte("b")})
	f := &fetcher{next: 10, aligned: true}
	for _, tt := range []struct {
		base int64
		ok   bool
	}{{10, true}, {9, false}, {11, false}, {8, false}} {
		one[7] = byte(tt.base)
		_, next, err := f.check(one)
		if (err == nil) != tt.ok || (tt.ok && next != 12) {
			t.Errorf("a batch at %d where 10 is next: %v, next %d", tt.base, err, next)
		}
	}
	f.aligned = false // in the middle of a batch
	one[7] = 9
	if _, next, err := f.check(one); err != nil || next != 11 {
		t.Errorf("entering a batch in its middle: %v, next %d", err, next)
	}
	f.compacted, f.aligned = true, true
	one[7] = 20
	if _, next, err := f.check(one); err != nil || next != 22 {
		t.Errorf("a hole in a compacted topic: %v, next %d", err, next)
	}
}

func TestReaderWaitsOutTheBrokerOnKfake(t *testing.T) {
	for _, code := range []*kerr.Error{
		kerr.UnknownTopicOrPartition, kerr.LeaderNotAvailable, kerr.NotLeaderForPartition, kerr.ReplicaNotAvailable, kerr.KafkaStorageError,
		kerr.FencedLeaderEpoch, kerr.UnknownLeaderEpoch, kerr.OffsetNotAvailable, kerr.UnknownServerError, kerr.CorruptMessage, kerr.OffsetOutOfRange,
	} {
		t.Run(code.Message, func(t *testing.T) {
			b := startKfake(t, "")
			c := connect(t, testConfig(b.Addr()))
			produce(t, newProducer(t, c, ProducerConfig{Name: "test", Blocking: true}), event.TopicMarket, 0, 4)
			b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: event.TopicMarket, Err: code, Count: 3})
			r := newReader(t, c, ReaderConfig{Topic: event.TopicMarket, Offset: FromStart})
			got, err := next(t, r, 1)
			if err != nil || got[0] != "0" {
				t.Error(got, err)
			}
		})
	}
}

func TestReaderLivesThroughARestartOfTheBroker(t *testing.T) {
	b := startBrokerProcess(t)
	c := connect(t, testConfig(b.addr))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	r := newReader(t, c, ReaderConfig{Topic: event.TopicMarket, Offset: FromStart})
	produce(t, p, event.TopicMarket, 0, 4)
	if _, err := next(t, r, 1); err != nil {
		t.Fatal(err)
	}
	b.kill()
	b.start()
	began := time.Now()
	produce(t, p, event.TopicMarket, 4, 4)
	produced := time.Since(began)
	got, err := next(t, r, 1)
	if err != nil || got[0] != "4" {
		t.Error(got, err)
	}
	t.Logf("after the broker listens again, appending went on within %s, reading within %s", produced.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
}

func TestReaderCloseEndsNext(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	r := newReader(t, c, ReaderConfig{Topic: event.TopicMarket, Offset: FromStart})
	ctx, cancel := contextWithTimeout(t, 20*time.Millisecond)
	defer cancel()
	if _, err := r.Next(ctx); !errors.Is(err, ctx.Err()) {
		t.Error(err)
	}
	r.Close()
	if _, err := r.Next(t.Context()); err == nil {
		t.Error("read after Close")
	}
}

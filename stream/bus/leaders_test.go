package bus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/event"
)

// produceAnswerSize is the size of a whole answer to a batch of md without an
// error, in the newest form that is spoken.
const produceAnswerSize = 60

// Answers that are not to what was asked, and those that break off, are no
// outcome: the batch is sent again and is in the log once.
func TestStrangeAnswersAreNoOutcome(t *testing.T) {
	b, l := startFaulty(t)
	cfg := testConfig(b.proxied)
	c := connect(t, cfg)
	p := newProducer(t, c, ProducerConfig{Name: "test"})
	cut := func(b []byte) ([]byte, bool) {
		binary.BigEndian.PutUint32(b, 30)
		return b[:34], true
	}
	strange := []func(b []byte) ([]byte, bool){
		func(b []byte) ([]byte, bool) { b[7]++; return b, true },       // to another request
		func(b []byte) ([]byte, bool) { b[23]++; return b, true },      // for another partition
		func(b []byte) ([]byte, bool) { b[14] = 'x'; return b, true },  // for another topic
		func(b []byte) ([]byte, bool) { return append(b, b...), true }, // twice
		func(b []byte) ([]byte, bool) { b[0] = 0xff; return b, true },  // of a size that cannot be
		func([]byte) ([]byte, bool) { return nil, false },              // none
		cut,
	}
	var given atomic.Int64
	damage := func(b []byte) ([]byte, bool) {
		if len(b) != produceAnswerSize || binary.BigEndian.Uint32(b) != produceAnswerSize-4 {
			return b, true
		}
		n := given.Add(1) - 1
		if n%2 == 0 && int(n/2) < len(strange) { // what is asked again is answered well
			return strange[n/2](append([]byte(nil), b...))
		}
		return b, true
	}
	l.damage.Store(&damage)
	defer l.damage.Store(nil)
	var want []string
	for i := range 2 * len(strange) {
		value := fmt.Sprintf("%d", i)
		o, err := p.publish(t.Context(), TopicPartition{Topic: event.TopicMarket}, []byte("k"), []byte(value))
		if err != nil || o != int64(i) {
			t.Fatalf("record %d: offset %d, %v", i, o, err)
		}
		want = append(want, value)
	}
	l.damage.Store(nil)
	if diff := cmp.Diff(want, readAll(t, c, event.TopicMarket, 0)); diff != "" {
		t.Errorf("the log is not what was acknowledged (- want, + got):\n%s", diff)
	}
	if got := testutil.ToFloat64(c.metrics.produceRetries.WithLabelValues("test", event.TopicMarket)); got != float64(len(strange)) {
		t.Errorf("%v attempts were made again, want %d", got, len(strange))
	}
}

// dials are the connections of a client that produce requests go over.
type dials struct {
	mu    sync.Mutex
	conns []net.Conn
	err   error // for new ones
}

func (d *dials) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return nil, d.err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	d.conns = append(d.conns, conn)
	return conn, err
}

func (d *dials) made() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

// cut ends all connections.
func (d *dials) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, conn := range d.conns {
		_ = conn.Close()
	}
}

// A connection is used again, and where one has ended the others are not tried
// one after the other.
func TestProduceConnectionsAreReused(t *testing.T) {
	b, l := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	d := new(dials)
	c.leaders.dial = d.dial
	c.leaders.closeAll()
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	all := func() {
		t.Helper()
		for part := range int32(partitions) {
			if err := p.Append(event.TopicMarket, part, []byte("k"), []byte("v"), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	release := l.hold(t)
	all()
	eventually(t, "a connection for each partition", 10*time.Second, func() bool { return d.made() == partitions })
	release()
	for range 50 {
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		all()
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := d.made(); n != partitions {
		t.Errorf("%d connections were made for %d partitions", n, partitions)
	}
	retries := func() float64 {
		return testutil.ToFloat64(c.metrics.produceRetries.WithLabelValues("test", event.TopicMarket))
	}
	before := retries() // Apache Kafka may have a topic's leader a moment after it has the topic
	d.cut()
	for part := range int32(partitions) {
		if o, err := p.publish(t.Context(), TopicPartition{event.TopicMarket, part}, []byte("k"), []byte("v")); err != nil || o != 51 {
			t.Fatalf("partition %d: offset %d, %v", part, o, err)
		}
	}
	if n := d.made(); n != partitions+1 {
		t.Errorf("%d connections, want one more than %d: the others were free", n, partitions)
	}
	if got := retries() - before; got != 1 {
		t.Errorf("%v attempts were made again, want 1: all connections had ended", got)
	}
}

// What is idle for long is closed.
func TestIdleProduceConnectionsEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, v *virtual) {
		c := v.connect(t)
		p := newProducer(t, c, ProducerConfig{Name: "test"})
		idle := func() (n int) {
			c.leaders.mu.Lock()
			defer c.leaders.mu.Unlock()
			for _, conns := range c.leaders.idle {
				n += len(conns)
			}
			return n
		}
		for i := range 3 {
			if o, err := p.publish(t.Context(), TopicPartition{event.TopicMarket, 0}, []byte("k"), []byte("v")); err != nil || o != int64(i) {
				t.Fatal(o, err)
			}
			time.Sleep(idleTimeout / 2)
			if n := idle(); n == 0 {
				t.Errorf("no connection is left after %s", idleTimeout/2)
			}
			time.Sleep(2 * idleTimeout)
			if n := idle(); n != 0 {
				t.Errorf("%d connections are left after %s", n, 5*idleTimeout/2)
			}
		}
	})
}

// A record that no broker could be connected for was not sent, and is told so.
func TestWhatNoBrokerTakesIsNotSent(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	d := &dials{err: syscall.ECONNREFUSED}
	c.leaders.dial = d.dial
	c.leaders.closeAll()
	p := newProducer(t, c, ProducerConfig{Name: "test"})
	told := make(chan error, 1)
	if err := p.Append(event.TopicMarket, 0, nil, []byte("v"), func(_ int64, err error) { told <- err }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the record is tried again", 10*time.Second, func() bool {
		_, why := p.Stalled()
		return errors.Is(why, syscall.ECONNREFUSED)
	})
	p.abandon()
	if err := <-told; !errors.Is(err, ErrClosed) || errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("a record that was never sent was told %v", err)
	}
}

// What a broker answers while it is connected to is no answer to a batch: a
// refused login does not stop a producer.
func TestCodesWhileConnectingAreRetriedOnKfake(t *testing.T) {
	b := startKfake(t, "")
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test"})
	c.leaders.closeAll()
	h := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ApiVersions}, Err: kerr.SaslAuthenticationFailed, Count: 3})
	defer h.Remove()
	o, err := p.publish(t.Context(), TopicPartition{event.TopicMarket, 0}, []byte("k"), []byte("v"))
	if err != nil || o != 0 || h.Hits() != 3 {
		t.Errorf("offset %d, %v after %d refusals", o, err, h.Hits())
	}
}

// Closing does not wait for a request that is not answered.
func TestClosingEndsARequestInFlight(t *testing.T) {
	b, l := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	p := newProducer(t, c, ProducerConfig{Name: "test"})
	l.hold(t)
	told := make(chan error, 1)
	if err := p.Append(event.TopicMarket, 0, nil, []byte("v"), func(_ int64, err error) { told <- err }); err != nil {
		t.Fatal(err)
	}
	inFlight(t, p)
	began := time.Now()
	p.abandon()
	if took := time.Since(began); took > requestTimeout/2 {
		t.Errorf("closing took %s", took)
	}
	if err := <-told; !errors.Is(err, ErrClosed) && !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("the record was told %v", err)
	}
}

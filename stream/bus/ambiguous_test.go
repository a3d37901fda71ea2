package bus

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// ambiguity makes one produce in twenty be appended and answered with an error,
// turn by turn one that says so and one that times out.
func ambiguity(c *kfake.Cluster) *kfake.FaultHandle {
	every := func(which int) func(kmsg.Request) bool {
		requests := which
		var last kmsg.Request
		return func(r kmsg.Request) bool { // kfake asks about one request more than once
			if r != last {
				requests++
				last = r
			}
			return requests%40 == 0
		}
	}
	return c.Fault(
		kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicasAfterAppend, Count: -1, When: every(0)},
		kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: -1, When: every(20)},
	)
}

const (
	appenders  = 4
	partitions = 4
)

// numbered is the value of one appender's n-th record in a partition.
func numbered(appender, n int) []byte {
	return binary.BigEndian.AppendUint32([]byte{byte(appender)}, uint32(n))
}

// appendConcurrently lets every appender append each records to every partition,
// in small batches so that there are many requests to fault, and waits until they
// are acknowledged.
func appendConcurrently(t *testing.T, p *Producer, each, burst int) {
	t.Helper()
	var all sync.WaitGroup
	var acked atomic.Int64
	for a := range appenders {
		all.Go(func() {
			for n := range each {
				for part := range int32(partitions) {
					err := p.Append(event.TopicMarket, part, []byte{byte(a)}, numbered(a, n), func(_ int64, err error) {
						if err == nil {
							acked.Add(1)
						}
					})
					if err != nil {
						t.Errorf("appending: %v", err)
						return
					}
				}
				if n%burst == burst-1 {
					if err := p.Flush(t.Context()); err != nil {
						t.Errorf("flushing: %v", err)
						return
					}
				}
			}
		})
	}
	all.Wait()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if acked.Load() != int64(appenders*partitions*each) {
		t.Errorf("%d of %d records acknowledged", acked.Load(), appenders*partitions*each)
	}
}

// countCopies reads the log and returns what each appender's records are in it
// more than once; a record that is missing or, copies left aside, out of the order
// of its appends fails the test.
func countCopies(t *testing.T, c *Client, each int) (records, copies int) {
	t.Helper()
	for part := range int32(partitions) {
		var next [appenders]int
		err := everyRecord(t, c, event.TopicMarket, part, func(r Record) error {
			a, n := int(r.Value[0]), int(binary.BigEndian.Uint32(r.Value[1:]))
			records++
			switch {
			case n < next[a]:
				copies++
			case n > next[a]:
				return fmt.Errorf("offset %d holds record %d of appender %d where %d is next", r.Offset, n, a, next[a])
			default:
				next[a]++
			}
			return nil
		})
		if err != nil {
			t.Fatalf("partition %d: %v", part, err)
		}
		for a, n := range next {
			if n != each {
				t.Errorf("partition %d: %d records of appender %d, want %d", part, n, a, each)
			}
		}
	}
	return records, copies
}

// The ambiguous-produce run.
func TestAmbiguousAnswersLeaveOneCopyOnKfake(t *testing.T) {
	b := startKfake(t, "")
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	h := ambiguity(b.cluster)
	each := 12_500
	if testing.Short() {
		each = 1_000
	}
	appendConcurrently(t, p, each, 25)
	faults := h.Hits()
	h.Remove()
	records, copies := countCopies(t, c, each)
	retries, batches := total(t, c.metrics.produceRetries), total(t, c.metrics.producedBatches)
	t.Logf("%d events by %d appenders in %v batches: %d requests appended and answered with an error, %v sent again; %d records in the log, %d copies",
		appenders*partitions*each, appenders, batches, faults, retries, records, copies)
	if copies != 0 || records != appenders*partitions*each {
		t.Errorf("%d records with %d copies in the log, want each of %d once", records, copies, appenders*partitions*each)
	}
	if float64(faults) < batches/25 || retries != float64(faults) {
		t.Errorf("%d faults and %v retries in %v batches: want one in twenty", faults, retries, batches)
	}
}

// The same on the wire: the connection is cut after the append, before the answer
// arrives.
func TestConnectionCutAfterAppendLeavesOneCopy(t *testing.T) {
	b, l := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	var writes, cuts atomic.Int64
	cut := func(b []byte) ([]byte, bool) {
		if writes.Add(1)%20 != 0 {
			return b, true
		}
		cuts.Add(1)
		return nil, false
	}
	l.damage.Store(&cut)
	each, burst := 500, 4
	if n, err := strconv.Atoi(os.Getenv("AUTOHEDGE_TEST_EVENTS")); err == nil { // the long run
		each, burst = n/appenders/partitions, 25
	}
	appendConcurrently(t, p, each, burst)
	l.damage.Store(nil)
	records, copies := countCopies(t, c, each)
	retries := total(t, c.metrics.produceRetries)
	t.Logf("%d events, %d answers cut off, %v batches sent again; %d records in the log, %d copies", appenders*partitions*each, cuts.Load(), retries, records, copies)
	if copies != 0 || records != appenders*partitions*each {
		t.Errorf("%d records with %d copies in the log, want each of %d once", records, copies, appenders*partitions*each)
	}
	if retries < 10 {
		t.Errorf("%v retries: the connection was hardly ever cut", retries)
	}
}

// kafka-go's own Writer under the same faults: that the counting above can fail.
func TestStockWriterDoublesOnKfake(t *testing.T) {
	b := startKfake(t, "")
	c := connect(t, testConfig(b.Addr()))
	h := ambiguity(b.cluster)
	w := &kafka.Writer{
		Addr: kafka.TCP(b.Addr()), Topic: event.TopicMarket, RequiredAcks: kafka.RequireAll, Transport: c.transport,
		Balancer:     kafka.BalancerFunc(func(kafka.Message, ...int) int { return 0 }),
		BatchTimeout: time.Millisecond, WriteBackoffMin: time.Millisecond, WriteBackoffMax: 2 * time.Millisecond,
	}
	const each = 400
	for n := range each {
		if err := w.WriteMessages(t.Context(), kafka.Message{Key: []byte{0}, Value: numbered(0, n)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	faults := h.Hits()
	h.Remove()
	copies, next := 0, 0
	err := everyRecord(t, c, event.TopicMarket, 0, func(r Record) error {
		if n := int(binary.BigEndian.Uint32(r.Value[1:])); n < next {
			copies++
		} else {
			next = n + 1
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d events, %d requests appended and answered with an error, %d copies in the log, and no error", each, faults, copies)
	if copies == 0 || copies != faults {
		t.Errorf("%d copies after %d faults: want one for each", copies, faults)
	}
}

// deafConn loses what it is told while its network is deaf.
type deafConn struct {
	net.Conn
	deaf *atomic.Bool
}

func (c *deafConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.deaf.Load() {
			return n, err
		}
	}
}

// The embedded broker forgets its producers' sequences when it is killed: what it
// had appended and not answered is in the log twice, and readers drop it.
func TestCopiesOfAKilledEmbeddedBrokerAreDropped(t *testing.T) {
	dir := t.TempDir()
	b := startChild(t, dir, "127.0.0.1:0")
	var deaf atomic.Bool
	var dialer net.Dialer
	c, err := connectOver(t.Context(), testConfig(b.addr), component.Discard(), func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &deafConn{conn, &deaf}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := connect(t, testConfig(b.addr))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	key := []byte("binance|BTCUSDT")
	end := func() int64 {
		bounds, err := other.Offsets(t.Context(), event.TopicMarket)
		if err != nil {
			t.Fatal(err)
		}
		return bounds[0].End
	}
	const kills = 5
	var appended uint64
	var second int64
	for range kills {
		for range 1000 {
			appended++
			if err := p.Append(event.TopicMarket, 0, key, trade(appended), nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		// One batch is appended whose answer is lost with the broker.
		deaf.Store(true)
		before := end()
		appended++
		if err := p.Append(event.TopicMarket, 0, key, trade(appended), nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the batch is in the log", 10*time.Second, func() bool { return end() > before })
		b.kill()
		deaf.Store(false)
		b = startChild(t, dir, b.addr)
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		second = end() - int64(appended)
	}
	seen, err := drained(t, c, "test", event.TopicMarket)
	if err != nil {
		t.Fatal(err)
	}
	next := uint64(1)
	for i, value := range seen.got[0] {
		var tr event.Trade
		if err := event.DecodeTrade([]byte(value), &tr); err != nil {
			t.Fatal(err)
		}
		if tr.TradeID != next {
			t.Fatalf("record %d handled is trade %d where %d is next", i, tr.TradeID, next)
		}
		next++
	}
	dropped := int64(total(t, c.metrics.secondCopies))
	t.Logf("%d kills: %d events acknowledged, %d records in the log, %d second copies dropped, %d delivered", kills, appended, int64(appended)+second, dropped, next-1)
	if next-1 != appended || dropped != second {
		t.Errorf("delivered %d of %d events and dropped %d of %d second copies", next-1, appended, dropped, second)
	}
	if second != kills {
		t.Errorf("%d second copies after %d kills, want one for each", second, kills)
	}
}

package bus

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/event"
)

// spillLoad appends numbered trades to four partitions, two thousand a second, into
// a queue that holds little of what a broker that is away leaves.
type spillLoad struct {
	t      testing.TB
	c      *Client
	p      *Producer
	n      [4]uint64 // appended, once ended
	told   atomic.Int64
	failed atomic.Int64
	worst  int64 // most bytes that were spilled
	end    func()
}

func startSpillLoad(t testing.TB, addr string) *spillLoad {
	t.Helper()
	l := &spillLoad{t: t, c: connect(t, testConfig(addr))}
	const bound, files = 16 << 10, 64 << 20
	l.p = newProducer(t, l.c, ProducerConfig{Name: "test", QueueBytes: bound, Spill: SpillConfig{Dir: t.TempDir(), MaxBytes: files, After: time.Millisecond}})
	watchQueue(t, l.p, bound, files)
	stop := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			for i := range 20 {
				part := int32(i % 4)
				l.n[part]++
				if err := l.p.Append(event.TopicMarket, part, []byte("binance|BTCUSDT"), trade(l.n[part]), l.done); err != nil {
					t.Errorf("partition %d, trade %d: %v", part, l.n[part], err)
					return
				}
			}
		}
	})
	l.end = sync.OnceFunc(func() {
		close(stop)
		all.Wait()
	})
	t.Cleanup(l.end)
	eventually(t, "records are acknowledged", 60*time.Second, func() bool { return l.told.Load() > 0 })
	return l
}

func (l *spillLoad) done(_ int64, err error) {
	l.told.Add(1)
	if err != nil {
		l.failed.Add(1)
	}
}

// gathers waits until so many bytes are spilled.
func (l *spillLoad) gathers(bytes int64) {
	l.t.Helper()
	eventually(l.t, "records are spilled", 60*time.Second, func() bool { return l.p.Spilled() > bytes })
	l.worst = max(l.worst, l.p.Spilled())
}

// verify ends the load: every record is in the log in its order, and was told once.
// It returns how many were appended and how many second copies are in the log.
func (l *spillLoad) verify() (sent int64, copies int) {
	t := l.t
	t.Helper()
	l.end()
	ctx, cancel := contextWithTimeout(t, 90*time.Second)
	defer cancel()
	if err := l.p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for _, n := range l.n {
		sent += int64(n)
	}
	copies = checkTrades(t, l.c, l.n)
	if copies > 0 && onApache() {
		t.Errorf("%d second copies on Apache Kafka", copies)
	}
	if l.told.Load() != sent || l.failed.Load() != 0 {
		t.Errorf("%d of %d callbacks came, %d of them with an error", l.told.Load(), sent, l.failed.Load())
	}
	if l.p.Queued() != 0 || l.p.Spilled() != 0 {
		t.Errorf("%d bytes are queued and %d spilled after all is acknowledged", l.p.Queued(), l.p.Spilled())
	}
	return sent, copies
}

// The broker is killed while the files gather, started again, and killed while they
// are being read back.
func TestBrokerKilledWhileTheSpillDrains(t *testing.T) {
	b := startBrokerProcess(t)
	l := startSpillLoad(t, b.addr)
	const kills = 2
	for range kills {
		b.kill()
		l.gathers(100 << 10)
		sent := total(t, l.c.metrics.unspilled)
		b.start()
		eventually(t, "the files are read back", 60*time.Second, func() bool { return total(t, l.c.metrics.unspilled) > sent })
	}
	b.kill()
	l.gathers(l.p.Spilled() + 1)
	b.start()
	sent, copies := l.verify()
	t.Logf("%d kills: %d records, %d bytes spilled at the worst, %v records through the files, %v requests sent again, %d second copies",
		kills+1, sent, l.worst, total(t, l.c.metrics.spilledRecords), total(t, l.c.metrics.produceRetries), copies)
}

// A broker that stands still keeps its connections and what was sent to it; awake,
// it appends that, and is sent it again.
func TestBrokerStopsWhileTheQueueSpills(t *testing.T) {
	b := startBrokerProcess(t)
	l := startSpillLoad(t, b.addr)
	b.signal(syscall.SIGSTOP)
	l.gathers(100 << 10)
	// Until the request's deadline is over.
	eventually(t, "requests are given up", 60*time.Second, func() bool { return total(t, l.c.metrics.produceRetries) >= 4 })
	b.signal(syscall.SIGCONT)
	sent, copies := l.verify()
	t.Logf("%d records, %d bytes spilled at the worst, %v records through the files, %v requests sent again, %d second copies",
		sent, l.worst, total(t, l.c.metrics.spilledRecords), total(t, l.c.metrics.produceRetries), copies)
}

// A client that sends more than its quota is told to wait: it does, the queue
// spills, and everything arrives.
func TestQuotaOfApacheKafkaIsKept(t *testing.T) {
	bustest.ApacheOnly(t, "kfake has no quotas")
	b := startBroker(t)
	quota := func(remove bool) {
		req := kmsg.NewPtrAlterClientQuotasRequest()
		entry := kmsg.NewAlterClientQuotasRequestEntry()
		who := kmsg.NewAlterClientQuotasRequestEntryEntity()
		who.Type = "client-id" // without a name: every client
		entry.Entity = append(entry.Entity, who)
		op := kmsg.NewAlterClientQuotasRequestEntryOp()
		op.Key, op.Value, op.Remove = "producer_byte_rate", 50_000, remove
		entry.Ops = append(entry.Ops, op)
		req.Entries = append(req.Entries, entry)
		res, err := req.RequestWith(context.WithoutCancel(t.Context()), b.admin)
		bustest.Check(t, "setting a quota", bustest.Ask(t, res, err).Entries[0].ErrorCode)
	}
	quota(false)
	removed := sync.OnceFunc(func() { quota(true) })
	t.Cleanup(removed)
	l := startSpillLoad(t, b.addr)
	eventually(t, "the client is told to wait", 60*time.Second, func() bool { return total(t, l.c.metrics.throttleSeconds) > 0.5 })
	l.gathers(50 << 10)
	l.end()
	waited, spilled := total(t, l.c.metrics.throttleSeconds), total(t, l.c.metrics.spilledRecords)
	removed()
	sent, _ := l.verify()
	if retries := total(t, l.c.metrics.produceRetries); retries > 0 {
		t.Errorf("%v requests were sent again: a throttled one is settled", retries)
	}
	t.Logf("%d records under a quota of 50,000 B/s: %v s waited before it was lifted, %v records through the files", sent, waited, spilled)
}

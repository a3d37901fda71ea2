package bus

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// watchQueue fails the test when more than the bound is ever queued or spilled.
func watchQueue(t testing.TB, p *Producer, queue, spill int64) {
	t.Helper()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if q, s := p.Queued(), p.Spilled(); q > queue || s > spill {
				t.Errorf("%d bytes are queued, %d spilled; the bounds are %d and %d", q, s, queue, spill)
				return
			}
			time.Sleep(time.Millisecond) // only how often it looks
		}
	})
	t.Cleanup(func() {
		close(stop)
		wg.Wait()
	})
}

// tradeIDs returns the ids of the trades of a partition in the log, less second
// copies, and how many of these there are.
func tradeIDs(t testing.TB, c *Client, partition int32) (ids []uint64, copies int) {
	t.Helper()
	r, err := c.NewReader(t.Context(), ReaderConfig{Topic: event.TopicMarket, Partition: partition, Offset: FromStart, KeepCopies: true}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	bounds, err := c.Offsets(t.Context(), event.TopicMarket)
	if err != nil {
		t.Fatal(err)
	}
	end := bounds[partition].End
	if bounds[partition].Start == end {
		return nil, 0
	}
	r.EndAt(end)
	for {
		records, err := r.Next(t.Context())
		if err != nil {
			return ids, copies
		}
		for _, rec := range records {
			var tr event.Trade
			if err := event.DecodeTrade(rec.Value, &tr); err != nil {
				t.Fatal(err)
			}
			if rec.SecondCopy {
				copies++
			} else {
				ids = append(ids, tr.TradeID)
			}
		}
	}
}

// checkTrades fails unless every partition has the trades 1 to n[partition], in
// order; it returns how many second copies there are beside them.
func checkTrades(t testing.TB, c *Client, n [4]uint64) (copies int) {
	t.Helper()
	for part := range int32(4) {
		ids, more := tradeIDs(t, c, part)
		copies += more
		for i, id := range ids {
			if id != uint64(i+1) {
				t.Fatalf("partition %d: trade %d is where %d belongs (of %d, want %d)", part, id, i+1, len(ids), n[part])
			}
		}
		if uint64(len(ids)) != n[part] {
			t.Fatalf("partition %d holds %d trades, want %d", part, len(ids), n[part])
		}
	}
	return copies
}

func TestBrokerDeadForLongSpills(t *testing.T) {
	b := startBrokerProcess(t)
	c := connect(t, testConfig(b.addr))
	const bound, files = 64 << 10, 16 << 20
	p := newProducer(t, c, ProducerConfig{Name: "test", QueueBytes: bound, Spill: SpillConfig{Dir: t.TempDir(), MaxBytes: files, After: time.Millisecond}})
	watchQueue(t, p, bound, files)
	var n [4]uint64
	var told, failed atomic.Int64
	sent := int64(0)
	done := func(o int64, err error) {
		told.Add(1)
		if err != nil {
			failed.Add(1)
		}
	}
	load := func(count int) {
		for i := range count {
			part := int32(i % 4)
			n[part]++
			if err := p.Append(event.TopicMarket, part, []byte("binance|BTCUSDT"), trade(n[part]), done); err != nil {
				t.Fatalf("record %d: %v", sent, err)
			}
			sent++
		}
	}
	load(1000)
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.kill()
	load(20_000) // 2 MB and more
	spilled := p.Spilled()
	if spilled < 10*bound {
		t.Errorf("%d bytes are spilled while the broker is away", spilled)
	}
	b.start()
	load(20_000)
	ctx, cancel := contextWithTimeout(t, 60*time.Second)
	defer cancel()
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	load(1000)
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	copies := checkTrades(t, c, n)
	if copies > 0 && b.apache {
		t.Errorf("%d second copies on Apache Kafka", copies)
	}
	if told.Load() != sent || failed.Load() != 0 {
		t.Errorf("%d of %d callbacks came, %d of them with an error", told.Load(), sent, failed.Load())
	}
	if p.Queued() != 0 || p.Spilled() != 0 {
		t.Errorf("%d bytes are queued and %d spilled after all is acknowledged", p.Queued(), p.Spilled())
	}
	left, err := filepath.Glob(filepath.Join(p.spill.dir, "*"+spillSuffix))
	if err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
	t.Logf("%d records, %d bytes spilled at the worst, %v records through the files, %d second copies", sent, spilled, total(t, c.metrics.spilledRecords), copies)
}

// spillChild makes the test binary a producer that appends trades for ever, the
// broker being away, and says how many it has appended: "address|folder".
const spillChild = "AUTOHEDGE_TEST_SPILLER"

func runSpiller(spec string) error {
	addr, dir, _ := strings.Cut(spec, "|")
	ctx := context.Background()
	c, err := Connect(ctx, testConfig(addr), component.Discard())
	if err != nil {
		return err
	}
	if err := c.EnsureTopics(ctx); err != nil {
		return err
	}
	p, err := c.NewProducer(ctx, spillerConfig(dir), component.Discard())
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil { // the broker is away now
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	for i := uint64(1); ; i++ {
		for part := range int32(4) {
			if err := p.Append(event.TopicMarket, part, []byte("binance|BTCUSDT"), trade(i), nil); err != nil {
				return err
			}
		}
		fmt.Fprintln(out, i)
		if i%50 == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
}

func spillerConfig(dir string) ProducerConfig {
	return ProducerConfig{Name: "spiller", QueueBytes: 32 << 10, Spill: SpillConfig{Dir: dir, MaxBytes: 64 << 20, After: time.Millisecond}}
}

func TestProcessKilledWhileItSpills(t *testing.T) {
	b := startBrokerProcess(t)
	c := connect(t, testConfig(b.addr))
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), spillChild+"="+b.addr+"|"+dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill := func() {
		if !killed {
			killed = true
			_ = cmd.Process.Signal(syscall.SIGKILL)
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("the child said %q", lines.Text())
	}
	b.kill()
	if _, err := in.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	said := uint64(0)
	for lines.Scan() {
		if said, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
			t.Fatal(err)
		}
		if said >= 5000 {
			break
		}
	}
	kill()
	if said < 5000 {
		t.Fatalf("the child ended after %d", said)
	}
	b.start()
	p := newProducer(t, c, spillerConfig(dir))
	// What comes now goes behind what was left.
	const fresh = 1 << 40
	for part := range int32(4) {
		if err := p.Append(event.TopicMarket, part, []byte("binance|BTCUSDT"), trade(fresh), nil); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := contextWithTimeout(t, 60*time.Second)
	defer cancel()
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if d := p.SpillDamage(); len(d) > 1 || len(d) == 1 && d[0].Records != -1 {
		t.Errorf("the spill is damaged: %v", d)
	}
	all := 0
	for part := range int32(4) {
		ids, _ := tradeIDs(t, c, part)
		if len(ids) == 0 || ids[len(ids)-1] != fresh {
			t.Fatalf("partition %d: the new record is not the last of %d", part, len(ids))
		}
		ids = ids[:len(ids)-1]
		for i, id := range ids {
			if id != uint64(i+1) {
				t.Fatalf("partition %d: trade %d is where %d belongs", part, id, i+1)
			}
		}
		if uint64(len(ids)) < said {
			t.Errorf("partition %d: %d trades in the log, %d were appended", part, len(ids), said)
		}
		all += len(ids)
	}
	if p.Spilled() != 0 {
		t.Errorf("%d bytes are still spilled", p.Spilled())
	}
	t.Logf("killed after %d trades a partition were appended; %d are in the log, each once and in order", said, all)
}

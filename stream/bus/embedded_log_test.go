package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// bulk appends n records of that many bytes to a partition of md.
func bulk(t testing.TB, c *Client, partition int32, n, bytes int) {
	t.Helper()
	p := newProducer(t, c, ProducerConfig{Name: fmt.Sprint("bulk", partition), Blocking: true})
	value := make([]byte, bytes)
	for i := range n {
		for j := range value {
			value[j] = byte(i * (j + 1) >> 3)
		}
		if err := p.Append(event.TopicMarket, partition, []byte("k"), value, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// peakMemory returns the most memory that a process had, in bytes.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skipf("this system does not tell a process's memory: %v", err)
	}
	for l := range strings.Lines(string(text)) {
		var kib int64
		if n, _ := fmt.Sscanf(l, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	t.Fatalf("no VmHWM in %s", text)
	return 0
}

// After a kill a start reads the log a segment at a time: it takes far less memory than
// the log, and every record is there.
func TestEmbeddedBrokerStartsInLessMemoryThanItsLog(t *testing.T) {
	dir := t.TempDir()
	b := startChild(t, dir, "127.0.0.1:0")
	c := connect(t, testConfig(b.addr))
	const records, bytes = 2000, 256 << 10
	bulk(t, c, 0, records, bytes)
	ends, err := c.Offsets(t.Context(), event.TopicMarket)
	if err != nil || ends[0].End != records {
		t.Fatalf("the log ends at %v, %v", ends, err)
	}
	_ = c.Close()
	b.kill()
	again := startChild(t, dir, "127.0.0.1:0")
	most := int64(records * bytes / 2)
	if raced {
		most *= 2 // its shadow memory is as large again
	}
	if peak := peakMemory(t, again.cmd.Process.Pid); peak > most {
		t.Errorf("the start took %s for a log of %s", Size(peak), Size(records*bytes))
	}
	c = connect(t, testConfig(again.addr))
	n := 0
	if err := everyRecord(t, c, event.TopicMarket, 0, func(r Record) error {
		if r.Offset != int64(n) || len(r.Value) != bytes {
			t.Errorf("record %d has offset %d and %d bytes", n, r.Offset, len(r.Value))
		}
		n++
		return nil
	}); err != nil || n != records {
		t.Errorf("%d records are there, want %d: %v", n, records, err)
	}
}

// What was trimmed stays so after a kill, and what is appended then follows the last
// record, also where the newest segment has a torn end.
func TestEmbeddedBrokerGoesOnAfterAKill(t *testing.T) {
	dir := t.TempDir()
	b := startChild(t, dir, "127.0.0.1:0")
	c := connect(t, testConfig(b.addr))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 400)
	if _, err := c.DeleteRecords(t.Context(), event.TopicMarket, map[int32]int64{0: 60, 1: 90}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the starts are written", 30*time.Second, func() bool {
		text, err := os.ReadFile(filepath.Join(dir, startsFile))
		return err == nil && strings.Contains(string(text), `"start":60`) && strings.Contains(string(text), `"start":90`)
	})
	_ = c.Close()
	b.kill()
	torn := filepath.Join(dir, partitionsDir, "md-1", "0.dat")
	f, err := os.OpenFile(torn, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(append([]byte{0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 90}, make([]byte, 70)...)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again := startChild(t, dir, "127.0.0.1:0")
	c = connect(t, testConfig(again.addr))
	bounds, err := c.Offsets(t.Context(), event.TopicMarket)
	if want := []Bounds{{60, 100}, {90, 100}, {0, 100}, {0, 100}}; err != nil || !slices.Equal(bounds, want) {
		t.Errorf("the logs are %v, want %v, %v", bounds, want, err)
	}
	produce(t, newProducer(t, c, ProducerConfig{Name: "more", Blocking: true}), event.TopicMarket, 400, 400)
	for part := range int32(4) {
		want := bounds[part].Start
		if err := everyRecord(t, c, event.TopicMarket, part, func(r Record) error {
			if r.Offset != want {
				t.Errorf("md/%d: offset %d, want %d", part, r.Offset, want)
			}
			want++
			return nil
		}); err != nil || want != 200 {
			t.Errorf("md/%d ends at %d, want 200: %v", part, want, err)
		}
	}
}

// A topic that was deleted and made again does not begin where the former one did.
func TestEmbeddedBrokerForgetsTheStartsOfDeletedTopics(t *testing.T) {
	dir := t.TempDir()
	b := startChild(t, dir, "127.0.0.1:0")
	c := connect(t, testConfig(b.addr))
	produce(t, newProducer(t, c, ProducerConfig{Name: "test", Blocking: true}), event.TopicMarket, 0, 400)
	if _, err := c.DeleteRecords(t.Context(), event.TopicMarket, map[int32]int64{0: 60}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the starts are written", 30*time.Second, func() bool {
		text, err := os.ReadFile(filepath.Join(dir, startsFile))
		return err == nil && strings.Contains(string(text), `"start":60`)
	})
	starts, err := os.ReadFile(filepath.Join(dir, startsFile))
	if err != nil {
		t.Fatal(err)
	}
	admin := bustest.Dial(t, b.addr)
	admin.DeleteTopics(t, "md")
	admin.CreateTopic(t, "md", 4, nil)
	other := bustest.ForeignRecord{Topic: "md", Value: []byte("new")}
	if err := bustest.WriteForeign(t.Context(), b.addr, []bustest.ForeignRecord{other, other}); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	b.kill()
	if err := os.WriteFile(filepath.Join(dir, startsFile), starts, 0o600); err != nil { // as if the keeper had not looked again
		t.Fatal(err)
	}
	again := startChild(t, dir, "127.0.0.1:0")
	tool, err := Connect(t.Context(), testConfig(again.addr), component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tool.Close() }()
	if err := tool.AttachTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	bounds, err := tool.Offsets(t.Context(), event.TopicMarket)
	if err != nil || bounds[0] != (Bounds{0, 2}) {
		t.Errorf("the new topic's log is %v, want 0 to 2: %v", bounds[0], err)
	}
}

// Another program's transaction that was aborted stays so after a kill.
func TestEmbeddedBrokerKeepsAbortedTransactionsOverAKill(t *testing.T) {
	dir := t.TempDir()
	b := startChild(t, dir, "127.0.0.1:0")
	c := connect(t, testConfig(b.addr))
	f := bustest.NewForeigner(t, b.addr, "foreign", event.TopicMarket, 0)
	f.Begin()
	f.Add("k", []byte("aborted"))
	f.Abort()
	f.Begin()
	f.Add("k", []byte("committed"))
	f.Commit()
	_ = c.Close()
	b.kill()
	again := startChild(t, dir, "127.0.0.1:0")
	cl, err := kgo.NewClient(kgo.SeedBrokers(again.addr), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"md": {0: kgo.NewOffset().AtStart()}}))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var values []string
	for len(values) == 0 {
		fetched := cl.PollFetches(ctx)
		if err := fetched.Err(); err != nil {
			t.Fatal(err)
		}
		fetched.EachRecord(func(r *kgo.Record) { values = append(values, string(r.Value)) })
	}
	if !slices.Equal(values, []string{"committed"}) {
		t.Errorf("a reader of committed records reads %q", values)
	}
}

// The log stays within its bound, whatever nobody trims; what states are rebuilt from
// stays whole.
func TestEmbeddedBrokerBoundsItsLog(t *testing.T) {
	dir := t.TempDir()
	const limit = 96 << 20
	b, err := StartEmbedded(t.Context(), EmbeddedConfig{Dir: dir, MaxLogBytes: limit}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	for i := range 100 {
		if err := p.Append(event.TopicOrders, 0, fmt.Append(nil, i), make([]byte, 100<<10), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for part := range int32(2) {
		bulk(t, c, part, 300, 256<<10)
	}
	eventually(t, "the log is within its bound", 60*time.Second, func() bool {
		use, err := c.DiskUse(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n, _ := use.Topic(event.TopicMarket)
		orders, _ := use.Topic(event.TopicOrders)
		return n > 0 && n+orders <= limit
	})
	orders, err := c.Offsets(t.Context(), event.TopicOrders)
	if err != nil || orders[0] != (Bounds{0, 100}) {
		t.Errorf("orders go from %v, %v", orders[0], err)
	}
	md, err := c.Offsets(t.Context(), event.TopicMarket)
	if err != nil || md[0].Start == 0 || md[1].Start == 0 || md[0].End != 300 {
		t.Errorf("md goes from %v, %v", md, err)
	}
	// Files go too: no more than a segment of each partition is left of what was deleted.
	var files int64
	partitions, err := storedPartitions(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range partitions {
		for _, s := range p.segments {
			files += s.size
		}
	}
	if files > limit+4*embeddedSegment {
		t.Errorf("the files hold %s", Size(files))
	}
}

// A log that does not fit memory is refused before it is loaded, with the command that
// shortens it, which works without loading it.
func TestEmbeddedBrokerRefusesALogThatMemoryDoesNotHold(t *testing.T) {
	dir := t.TempDir()
	b, err := StartEmbedded(t.Context(), EmbeddedConfig{Dir: dir}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, testConfig(b.Addr()))
	bulk(t, c, 0, 300, 256<<10)
	produce(t, newProducer(t, c, ProducerConfig{Name: "test", Blocking: true}), event.TopicOrders, 0, 40)
	_ = c.Close()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	small := func() (available, total int64) { return 10 << 20, 64 << 20 }
	_, err = StartEmbedded(t.Context(), EmbeddedConfig{Dir: dir, memory: small}, component.Discard())
	if err == nil || !strings.Contains(err.Error(), "takes about") || !strings.Contains(err.Error(), "10 MiB are available") || !strings.Contains(err.Error(), "`autohedge kafka trim --keep ") {
		t.Fatalf("a start with little memory gave %v", err)
	}
	plan, err := TrimLog(dir, 20<<20, true)
	if err != nil {
		t.Fatal(err)
	}
	done, err := TrimLog(dir, 20<<20, false)
	if err != nil {
		t.Fatal(err)
	}
	one, _ := json.Marshal(plan)
	two, _ := json.Marshal(done)
	if string(one) != string(two) || done.After > 20<<20 || done.Before < 70<<20 || len(done.Partitions) != 1 || done.Partitions[0].Topic != "md" {
		t.Errorf("planned %s, did %s", one, two)
	}
	b, err = StartEmbedded(t.Context(), EmbeddedConfig{Dir: dir}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	c = connect(t, testConfig(b.Addr()))
	md, err := c.Offsets(t.Context(), event.TopicMarket)
	if err != nil || md[0] != (Bounds{done.Partitions[0].To, 300}) {
		t.Errorf("md goes from %v, want %d to 300: %v", md[0], done.Partitions[0].To, err)
	}
	if orders, err := c.Offsets(t.Context(), event.TopicOrders); err != nil || orders[0].End != 10 || orders[0].Start != 0 {
		t.Errorf("orders go from %v, %v", orders, err)
	}
}

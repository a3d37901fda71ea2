package bus

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// leftover is a folder with the spilled trades 1 to n of partition 0 in it, as a
// producer leaves it that was closed while the broker took nothing.
func leftover(t testing.TB, b *broker, c *Client, n uint64) (dir string, files []string) {
	t.Helper()
	release := b.stuck()
	defer release()
	dir = t.TempDir()
	p := newProducer(t, c, leftoverConfig(dir))
	var kept atomic.Int64
	for i := range n {
		if err := p.Append(event.TopicMarket, 0, []byte("binance|BTCUSDT"), trade(i+1), func(_ int64, err error) {
			if errors.Is(err, ErrKept) {
				kept.Add(1)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := contextWithTimeout(t, time.Millisecond)
	defer cancel()
	if err := p.Close(ctx); err == nil {
		t.Fatal("closing left nothing behind")
	}
	if kept.Load() != int64(n) {
		t.Fatalf("%d of %d records were told that they are kept", kept.Load(), n)
	}
	files, err := filepath.Glob(filepath.Join(dir, "live", "test", "*"+spillSuffix))
	if err != nil || len(files) == 0 {
		t.Fatalf("files %v, %v", files, err)
	}
	return dir, files
}

func leftoverConfig(dir string) ProducerConfig {
	return ProducerConfig{Name: "test", QueueBytes: 1000, Spill: SpillConfig{Dir: dir, MaxBytes: 1 << 20, After: 1}}
}

// numbersIn are the numbers of the trades in a block.
func numbersIn(t testing.TB, records []byte) (ids []uint64) {
	t.Helper()
	var r rawRecord
	for len(records) > 0 {
		var err error
		if records, err = parseRecord(records, &r); err != nil {
			t.Fatal(err)
		}
		var tr event.Trade
		if err := event.DecodeTrade(r.value, &tr); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, tr.TradeID)
	}
	return ids
}

// scanAll is what a start would take of the bytes of a single file.
func scanAll(t testing.TB, head []byte, seed uint32, data []byte) (ids []uint64, f *scanned) {
	t.Helper()
	s := scanner{head: head, seed: seed}
	f, err := s.scan(data, true)
	if err != nil {
		t.Fatal(err)
	}
	for at := f.acked; at < f.size; {
		for _, skip := range f.skip {
			if at == skip.from {
				at = skip.to
			}
		}
		if at >= f.size {
			break
		}
		var h block
		records, ok := parseBlock(data[at:], seed, &h)
		if !ok {
			t.Fatalf("the scan took a block at %d that is none", at)
		}
		ids = append(ids, numbersIn(t, records)...)
		at += int64(blockHeadSize + len(records))
	}
	return ids, f
}

// TestSpillFileCutOrFlipped cuts a file at every byte, and flips every bit:
// what comes out is always records as they were written, in order; what is missing
// is reported, with its number where something whole comes after it.
func TestSpillFileCutOrFlipped(t *testing.T) {
	b, _ := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	const n = 40
	_, files := leftover(t, b, c, n)
	if len(files) != 1 {
		t.Fatalf("%d files", len(files))
	}
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	head, seed := spillHead(event.TopicMarket, 0, c.Incarnation(event.TopicMarket))
	if ids, f := scanAll(t, head, seed, whole); len(ids) != n || len(f.bad) != 0 {
		t.Fatalf("the file as it is gives %d records, damage %v", len(ids), f.bad)
	}
	rising := func(ids []uint64) bool {
		for i := 1; i < len(ids); i++ {
			if ids[i] <= ids[i-1] {
				return false
			}
		}
		return len(ids) == 0 || ids[0] >= 1 && ids[len(ids)-1] <= n
	}
	for at := range len(whole) {
		ids, f := scanAll(t, head, seed, whole[:at])
		for i, id := range ids {
			if id != uint64(i+1) {
				t.Fatalf("cut at %d: record %d is %d", at, i, id)
			}
		}
		if at > 0 && f.size < int64(at) && len(f.bad) != 1 {
			t.Fatalf("cut at %d of %d: %d records, and %d reports of what was cut off", at, len(whole), len(ids), len(f.bad))
		}
		for _, d := range f.bad {
			if d.Records != -1 {
				t.Fatalf("cut at %d: %v", at, &d)
			}
		}
	}
	counted := 0
	for bit := range 8 * len(whole) {
		flipped := append([]byte(nil), whole...)
		flipped[bit/8] ^= 1 << (bit % 8)
		ids, f := scanAll(t, head, seed, flipped)
		if !rising(ids) {
			t.Fatalf("bit %d: records %v", bit, ids)
		}
		lost, unknown := int64(0), false
		for _, d := range f.bad {
			lost += max(d.Records, 0)
			unknown = unknown || d.Records < 0
		}
		switch missing := int64(n - len(ids)); {
		case bit/8 < len(head)+spillMarkSize:
			if missing != 0 || bit/8 < len(head) && len(f.bad) == 0 {
				t.Fatalf("bit %d, in the head: %d records are missing, reports %v", bit, missing, f.bad)
			}
		case missing == 0 || len(f.bad) != 1:
			t.Fatalf("bit %d: %d records are missing, reports %v", bit, missing, f.bad)
		case !unknown && lost != missing:
			t.Fatalf("bit %d: %d records are missing, %d reported", bit, missing, lost)
		case !unknown:
			counted++
		}
	}
	t.Logf("%d bytes: %d cuts, %d flips, %d of them counted to the record", len(whole), len(whole), 8*len(whole), counted)
}

// TestSpillDamageIsReportedAndPassedOver starts on damaged files.
func TestSpillDamageIsReportedAndPassedOver(t *testing.T) {
	b, _ := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	const n = 40
	dir, files := leftover(t, b, c, n)
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(data), string(trade(20)))
	data[at]++
	data = append(data, "torn"...)
	if err := os.WriteFile(files[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	p := newProducer(t, c, leftoverConfig(dir))
	if err := p.Append(event.TopicMarket, 0, []byte("binance|BTCUSDT"), trade(n+1), nil); err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	ids, copies := tradeIDs(t, c, 0)
	damage := p.SpillDamage()
	if len(damage) != 2 || damage[0].File != files[0] || damage[0].Records < 1 || damage[0].Offset <= 0 || damage[1].Records != -1 || damage[1].Bytes != 4 {
		t.Fatalf("damage %+v", damage)
	}
	// What was in flight when the former producer was closed may be there twice: no more
	// than its queue took.
	if int64(len(ids)) != n+1-damage[0].Records || ids[len(ids)-1] != n+1 || copies > leftoverConfig(dir).QueueBytes/len(trade(1)) {
		t.Errorf("%d records and %d copies in the log, %d reported lost", len(ids), copies, damage[0].Records)
	}
	for i := 1; i < len(ids); i++ {
		if ids[i] != ids[i-1]+1 && ids[i] != ids[i-1]+1+uint64(damage[0].Records) {
			t.Errorf("trade %d after %d", ids[i], ids[i-1])
		}
	}
	if p.Spilled() != 0 || total(t, c.metrics.spillDamage) < 2 {
		t.Errorf("%d bytes are spilled, %v records counted as damaged", p.Spilled(), total(t, c.metrics.spillDamage))
	}
	t.Logf("%v", &damage[0])
}

// TestSpillThatRotsWhileRunningStopsTheProducer: nothing after the damage
// gets into the log before it is reported, which the next start does; every record
// is told once.
func TestSpillThatRotsWhileRunningStopsTheProducer(t *testing.T) {
	b, _ := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	release := b.stuck()
	dir := t.TempDir()
	p := newProducer(t, c, leftoverConfig(dir))
	const n = 400
	var appended, kept, times [n + 1]atomic.Int32
	for i := uint64(1); i <= n; i++ {
		if err := p.Append(event.TopicMarket, 0, []byte("binance|BTCUSDT"), trade(i), func(_ int64, err error) {
			times[i].Add(1)
			switch {
			case err == nil:
				appended[i].Store(1)
			case errors.Is(err, ErrKept):
				kept[i].Store(1)
			default:
				t.Errorf("trade %d was told %v", i, err)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(p.spill.dir, "*"+spillSuffix))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %v, %v", files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	at := int64(strings.Index(string(data), string(trade(200))))
	f, err := os.OpenFile(files[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{data[at] + 1}, at); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	release()
	if err := p.Flush(t.Context()); !component.IsFatal(err) || !errors.Is(err, errSpillRead) || !strings.Contains(err.Error(), files[0]) {
		t.Fatalf("flushing gave %v", err)
	}
	if err := p.Append(event.TopicMarket, 0, nil, trade(n+1), nil); !component.IsFatal(err) {
		t.Errorf("a stopped producer gave %v", err)
	}
	_ = p.Close(t.Context()) // says why it stopped
	for i := 1; i <= n; i++ {
		if times[i].Load() != 1 || appended[i].Load() == kept[i].Load() {
			t.Fatalf("trade %d was told %d times; appended %d, kept %d", i, times[i].Load(), appended[i].Load(), kept[i].Load())
		}
		if i >= 200 && kept[i].Load() != 1 {
			t.Fatalf("trade %d got past the damage", i)
		}
	}
	next := newProducer(t, c, leftoverConfig(dir))
	if err := next.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := next.SpillDamage(); len(d) != 1 || d[0].Records != 1 {
		t.Errorf("damage %v", d)
	}
	ids, _ := tradeIDs(t, c, 0)
	if len(ids) != n-1 || ids[198] != 199 || ids[199] != 201 {
		t.Errorf("%d trades in the log", len(ids))
	}
}

// TestSpillOfAnotherTopicIsRefused: files are only for the life of the
// topic that they were written for, and for one producer at a time.
func TestSpillOfAnotherTopicIsRefused(t *testing.T) {
	b, _ := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	dir, files := leftover(t, b, c, 40)
	other := connect(t, testConfig(startKfake(t, "").Addr()))
	_, err := other.NewProducer(t.Context(), leftoverConfig(dir), component.Discard())
	if err == nil || !strings.Contains(err.Error(), files[0]) || !strings.Contains(err.Error(), "incarnation") {
		t.Errorf("another life of the topic took the files: %v", err)
	}
	if err := os.Rename(files[0], strings.Replace(files[0], "md-0", "md-9", 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.NewProducer(t.Context(), leftoverConfig(dir), component.Discard()); err == nil || !strings.Contains(err.Error(), "md-9") {
		t.Errorf("the file of a partition that does not exist: %v", err)
	}
	if err := os.Rename(strings.Replace(files[0], "md-0", "md-9", 1), strings.Replace(files[0], "md-0", "md-1", 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.NewProducer(t.Context(), leftoverConfig(dir), component.Discard()); err == nil || !strings.Contains(err.Error(), "md/0") {
		t.Errorf("the file of another partition: %v", err)
	}
	if err := os.Rename(strings.Replace(files[0], "md-0", "md-1", 1), files[0]); err != nil {
		t.Fatal(err)
	}
	p := newProducer(t, c, leftoverConfig(dir))
	if _, err := c.NewProducer(t.Context(), leftoverConfig(dir), component.Discard()); err == nil || !strings.Contains(err.Error(), "in use by another producer") {
		t.Errorf("a second producer of the name: %v", err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ids, _ := tradeIDs(t, c, 0); len(ids) != 40 {
		t.Errorf("%d records in the log, want 40", len(ids))
	}
}

// fullDisk is a device of so many bytes.
type fullDisk struct{ free atomic.Int64 }

type diskFile struct {
	*os.File
	d    *fullDisk
	size int64
}

func (d *fullDisk) open(path string) (spillFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &diskFile{File: f, d: d}, nil
}

// WriteAt writes what there is room for, as a device does.
func (f *diskFile) WriteAt(b []byte, at int64) (int, error) {
	grow := max(at+int64(len(b))-f.size, 0)
	if room := f.d.free.Load(); grow > room {
		n, err := f.File.WriteAt(b[:int64(len(b))-(grow-max(room, 0))], at)
		f.size = max(f.size, at+int64(n))
		f.d.free.Store(0)
		if err == nil {
			err = &fs.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
		}
		return n, err
	}
	f.d.free.Add(-grow)
	f.size += grow
	return f.File.WriteAt(b, at)
}

func (f *diskFile) Truncate(size int64) error {
	f.d.free.Add(f.size - size)
	f.size = size
	return f.File.Truncate(size)
}

// TestFullDiskRefuses fills the device at different places: Append says so
// with the system's error, takes nothing it could not keep, and works again once
// there is room.
func TestFullDiskRefuses(t *testing.T) {
	b, _ := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	id := uint64(0)
	for _, room := range []int64{0, 50, 100, 1000, 1010, 5000, 20_000} {
		release := b.stuck()
		var d fullDisk
		d.free.Store(room)
		cfg := ProducerConfig{Name: "test", QueueBytes: 1000, Spill: SpillConfig{Dir: t.TempDir(), MaxBytes: 1 << 20, After: 1, open: d.open}}
		p := newProducer(t, c, cfg)
		watchQueue(t, p, 1000, 1<<20)
		accepted, told, failed := int64(0), atomic.Int64{}, atomic.Int64{}
		fill := func() (err error) {
			for err == nil && accepted < 2000 {
				if err = p.Append(event.TopicMarket, 0, []byte("binance|BTCUSDT"), trade(id+1), func(_ int64, err error) {
					told.Add(1)
					if err != nil {
						failed.Add(1)
					}
				}); err == nil {
					id++
					accepted++
				}
			}
			return err
		}
		for range 3 {
			err := fill()
			var full *FullError
			if !errors.Is(err, ErrQueueFull) || !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &full) || full.What != "disk" || !strings.Contains(err.Error(), cfg.Spill.Dir) {
				t.Fatalf("room for %d bytes: after %d records %v", room, accepted, err)
			}
		}
		d.free.Add(10_000)
		before := accepted
		if err := fill(); !errors.Is(err, syscall.ENOSPC) || accepted <= before {
			t.Fatalf("room for %d bytes, and 10,000 more: %d records more, %v", room, accepted-before, err)
		}
		release()
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if told.Load() != accepted || failed.Load() != 0 {
			t.Errorf("room for %d bytes: %d of %d records were told, %d of an error", room, told.Load(), accepted, failed.Load())
		}
		if p.Spilled() != 0 || total(t, c.metrics.spillErrors) == 0 {
			t.Errorf("room for %d bytes: %d bytes are spilled", room, p.Spilled())
		}
	}
	ids, copies := tradeIDs(t, c, 0)
	if uint64(len(ids)) != id || copies != 0 {
		t.Errorf("%d records and %d copies in the log, %d were accepted", len(ids), copies, id)
	}
	for i := range ids {
		if ids[i] != uint64(i+1) {
			t.Fatalf("trade %d is where %d belongs", ids[i], i+1)
		}
	}
}

// TestSpillAtItsBoundRefuses: the bound of the files is kept, and room is
// free again as files are acknowledged.
func TestSpillAtItsBoundRefuses(t *testing.T) {
	b, _ := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	release := b.stuck()
	cfg := ProducerConfig{Name: "test", QueueBytes: 1000, Spill: SpillConfig{Dir: t.TempDir(), MaxBytes: 100_000, After: 1}}
	p := newProducer(t, c, cfg)
	watchQueue(t, p, 1000, cfg.Spill.MaxBytes)
	id := uint64(0)
	fill := func() (err error) {
		for err == nil && id < math.MaxInt32 {
			if err = p.Append(event.TopicMarket, 0, []byte("binance|BTCUSDT"), trade(id+1), nil); err == nil {
				id++
			}
		}
		return err
	}
	err := fill()
	var full *FullError
	if !errors.As(err, &full) || full.What != "spill" || full.Limit != cfg.Spill.MaxBytes || full.Bytes < full.Limit-1000 {
		t.Fatalf("after %d records: %v (%+v)", id, err, full)
	}
	size := int64(0)
	files, err := filepath.Glob(filepath.Join(p.spill.dir, "*"+spillSuffix))
	if err != nil || len(files) < 3 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size != p.Spilled() || size > cfg.Spill.MaxBytes {
		t.Errorf("the files have %d bytes, %d are counted, the bound is %d", size, p.Spilled(), cfg.Spill.MaxBytes)
	}
	first := id
	release()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	release = b.stuck()
	if fill() == nil || id < first+500 {
		t.Errorf("only %d records more were taken once all was acknowledged", id-first)
	}
	release()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ids, _ := tradeIDs(t, c, 0); uint64(len(ids)) != id {
		t.Errorf("%d records in the log, want %d", len(ids), id)
	}
}

// TestUnwritableFolder: at start it is an error, later Append says so.
func TestUnwritableFolder(t *testing.T) {
	b, _ := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.NewProducer(t.Context(), leftoverConfig(file), component.Discard()); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file for a folder gave %v", err)
	}
	release := b.stuck()
	dir := t.TempDir()
	p := newProducer(t, c, leftoverConfig(dir))
	if err := os.RemoveAll(dir); err != nil { // root writes to whatever is there
		t.Fatal(err)
	}
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		err = p.Append(event.TopicMarket, 0, nil, trade(uint64(n+1)), nil)
	}
	if !errors.Is(err, ErrQueueFull) || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("after %d records: %v", n, err)
	}
	release()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ids, _ := tradeIDs(t, c, 0); len(ids) != n-1 {
		t.Errorf("%d records in the log, %d were accepted", len(ids), n-1)
	}
}

// TestFullTmpfs is TestFullDiskRefuses on a real device; only root can mount one.
func TestFullTmpfs(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Logf("no tmpfs can be mounted here (%v: %s): TestFullDiskRefuses stands for it", err, out)
		return
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	b, _ := startFaulty(t)
	c := connect(t, testConfig(b.proxied))
	release := b.stuck()
	cfg := leftoverConfig(dir)
	p := newProducer(t, c, cfg)
	var err error
	n := uint64(0)
	for err == nil && n < 1<<20 {
		if err = p.Append(event.TopicMarket, 0, []byte("binance|BTCUSDT"), trade(n+1), nil); err == nil {
			n++
		}
	}
	if !errors.Is(err, ErrQueueFull) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("after %d records: %v", n, err)
	}
	release()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ids, copies := tradeIDs(t, c, 0); uint64(len(ids)) != n || copies != 0 {
		t.Errorf("%d records and %d copies in the log, want %d", len(ids), copies, n)
	}
	t.Logf("%d records, then: %v", n, err)
}

// What a write that found no room left behind is gone before the next one: a start
// would take it for damage.
func TestSpillWritesAfterATornWrite(t *testing.T) {
	var d fullDisk
	s := &spill{
		cfg: SpillConfig{MaxBytes: 1 << 20, open: d.open}, dir: t.TempDir(), segment: 1 << 20,
		gauge: prometheus.NewGauge(prometheus.GaugeOpts{}), errors: prometheus.NewCounter(prometheus.CounterOpts{}),
	}
	g := &spillLog{spill: s, name: "md-0", number: 1, file: 1}
	g.head, g.seed = spillHead(event.TopicMarket, 0, event.ID{1})
	block := func(size int, last uint64) *batch {
		return &batch{buf: make([]byte, sizePrefix+batchHeadSize+size), count: 1, last: last}
	}
	d.free.Store(3000)
	if err := g.write(block(5000, 1)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a block without room: %v", err)
	}
	d.free.Add(1000)
	if err := g.write(block(100, 2)); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(g.segments[0].path)
	if err != nil {
		t.Fatal(err)
	}
	scan := scanner{head: g.head, seed: g.seed}
	f, err := scan.scan(data, true)
	if err != nil || len(f.bad) != 0 || f.records != 1 || f.size != int64(len(data)) || f.size != s.used.Load() {
		t.Errorf("a start finds %+v in %d bytes, %d are counted: %v", f, len(data), s.used.Load(), err)
	}
	closeFile(g.segments[0].file)
}

package bus

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// defaultSpillBytes is the spill's bound where the configuration names none.
	defaultSpillBytes = 1 << 30
	// segmentBytes is the size at which a spill file is followed by the next; its
	// room is free again when all of it is acknowledged.
	segmentBytes = 8 << 20
)

// SpillConfig sets up the files that take what memory does not hold.
//
// They are written without fsync, but when the producer is closed: the death of
// the process loses nothing that is in them, a power cut may lose their end.
type SpillConfig struct {
	// Dir is the folder; the producer's files lie below it under its session and
	// name, and one producer has them at a time. Empty: nothing is spilled.
	Dir string
	// MaxBytes bounds the files of the producer, 0 is the default of 1 GiB.
	MaxBytes int64
	// After is how long Append waits for room in memory before it spills; 0 is the
	// default of 100 ms.
	After time.Duration

	open func(path string) (spillFile, error) // tests break files
}

// spill is a producer's folder.
type spill struct {
	cfg     SpillConfig
	dir     string
	segment int64
	lock    *os.File
	used    atomic.Int64 // bytes of the files
	damage  []SpillDamage

	gauge  prometheus.Gauge
	errors prometheus.Counter
}

// spillPos is a place between two blocks; number is the next record's.
type spillPos struct {
	file   uint64
	off    int64
	number uint64
}

// segment is one file.
type segment struct {
	n    uint64
	path string
	file spillFile
	size int64 // of whole blocks, and of all before them
	skip []span
}

// spillLog is the files of one lane, oldest first. The lane's mu guards it, but
// that what is below the size of a file may be read without.
type spillLog struct {
	spill *spill
	name  string // of the files, without number and ending
	head  []byte
	seed  uint32

	segments []*segment
	read     spillPos // what was taken into memory ends here
	unread   int64    // records after it
	number   uint64   // of the next record to be written
	file     uint64   // number of the next file
	last     uint64   // position of the last record written
	dirty    bool     // the last file has bytes after its size that must go first
	dones    doneQueue
	scratch  []byte
}

const spillSuffix = ".spill"

// openSpill takes the folder and reads what an earlier producer left in it.
func (p *Producer) openSpill(session string) error {
	cfg := p.cfg.Spill
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = defaultSpillBytes
	}
	if cfg.After <= 0 {
		cfg.After = defaultSpillAfter
	}
	if cfg.open == nil {
		cfg.open = func(path string) (spillFile, error) { return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) }
	}
	if session == "" {
		session = "live"
	}
	s := &spill{
		cfg: cfg, dir: filepath.Join(cfg.Dir, session, p.cfg.Name), segment: max(min(segmentBytes, cfg.MaxBytes/16), 4<<10),
		gauge: p.client.metrics.spillBytes.WithLabelValues(p.cfg.Name), errors: p.client.metrics.spillErrors.WithLabelValues(p.cfg.Name),
	}
	if err := os.MkdirAll(s.dir, 0o750); err != nil {
		return fmt.Errorf("opening the spill: %w; make the folder writable or choose another", err)
	}
	var err error
	if s.lock, err = os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return fmt.Errorf("opening the spill: %w; make the folder writable or choose another", err)
	}
	if err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		closeFile(s.lock)
		return fmt.Errorf("opening the spill: %s is in use by another producer %q: stop that one, or give this one a folder of its own: %w", s.dir, p.cfg.Name, err)
	}
	p.spill = s
	if err := p.adopt(); err != nil {
		p.closeSpill()
		return err
	}
	s.gauge.Set(float64(s.used.Load()))
	return nil
}

// adopt gives every lane its files.
func (p *Producer) adopt() error {
	s := p.spill
	files, err := s.list()
	if err != nil {
		return err
	}
	for _, l := range p.all {
		log := &spillLog{spill: s, name: fmt.Sprintf("%s-%d", l.topic, l.partition), number: 1, file: 1}
		log.head, log.seed = spillHead(l.topic, l.partition, p.client.Incarnation(l.topic))
		l.spill = log
		if err := log.open(files[log.name], l); err != nil {
			return err
		}
		delete(files, log.name)
		if log.unread > 0 {
			l.spilling, l.appended = true, log.last
		}
	}
	for name, found := range files {
		return fmt.Errorf("opening the spill: %s is of %s, and there is no such partition: move the file away, or make the topic as it was", found[0].path, name)
	}
	for i := range s.damage {
		d := &s.damage[i]
		p.env.Log.Error("spilled records are damaged", "file", d.File, "offset", d.Offset, "bytes", d.Bytes, "records", d.Records, "topic", d.Topic, "partition", d.Partition)
		p.client.metrics.spillDamage.WithLabelValues(p.cfg.Name, d.Topic).Add(float64(max(d.Records, 1)))
	}
	return nil
}

// list finds the files by lane, in the order of their numbers.
func (s *spill) list() (map[string][]*segment, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("opening the spill: %w", err)
	}
	files := make(map[string][]*segment)
	for _, e := range entries { // sorted by name, and numbers have ten digits
		base, ok := strings.CutSuffix(e.Name(), spillSuffix)
		dot := strings.LastIndexByte(base, '.')
		if !ok || dot < 0 {
			continue
		}
		n, err := strconv.ParseUint(base[dot+1:], 10, 64)
		if err != nil {
			continue
		}
		files[base[:dot]] = append(files[base[:dot]], &segment{n: n, path: filepath.Join(s.dir, e.Name())})
	}
	return files, nil
}

// open reads what was left in the files of one lane.
func (g *spillLog) open(found []*segment, l *lane) error {
	scan := scanner{head: g.head, seed: g.seed}
	s := g.spill
	for i, seg := range found {
		data, err := os.ReadFile(seg.path)
		if err != nil {
			return fmt.Errorf("opening the spill: %w", err)
		}
		f, err := scan.scan(data, i == len(found)-1)
		if err != nil {
			return fmt.Errorf("opening the spill: %s is for %s/%d, incarnation %s, but %w: move the file away if its records are not wanted in this topic",
				seg.path, l.topic, l.partition, l.p.client.Incarnation(l.topic), err)
		}
		for _, d := range f.bad {
			d.File, d.Topic, d.Partition = seg.path, l.topic, l.partition
			s.damage = append(s.damage, d)
		}
		g.file = seg.n + 1
		g.number, g.last = max(g.number, scan.next), scan.last.last
		if f.records == 0 {
			if err := os.Remove(seg.path); err != nil {
				return fmt.Errorf("opening the spill: %w", err)
			}
			continue
		}
		if seg.file, err = s.cfg.open(seg.path); err != nil {
			return fmt.Errorf("opening the spill: %w", err)
		}
		seg.size, seg.skip = f.size, f.skip
		g.segments = append(g.segments, seg)
		if f.size < int64(len(data)) {
			if err := seg.file.Truncate(f.size); err != nil {
				return fmt.Errorf("opening the spill: cutting off the torn end of %s: %w", seg.path, err)
			}
		}
		s.used.Add(f.size)
		if g.unread == 0 {
			g.read = spillPos{file: seg.n, off: f.acked}
		}
		g.unread += f.records
		g.dones.add(nil, f.records)
	}
	if g.unread > 0 {
		l.p.env.Log.Warn("appending what an earlier run spilled", "topic", l.topic, "partition", l.partition, "records", g.unread)
	}
	return nil
}

// write appends the records of a batch as one block; it is all there or nothing.
func (g *spillLog) write(b *batch) error {
	records := b.buf[sizePrefix+batchHeadSize:]
	s, size := g.spill, int64(blockHeadSize+len(records))
	seg, err := g.tail(size)
	if err != nil {
		return err
	}
	if used := s.used.Add(size); used > s.cfg.MaxBytes {
		s.used.Add(-size)
		return &FullError{What: "spill", Path: s.dir, Bytes: used - size, Limit: s.cfg.MaxBytes}
	}
	h := block{length: len(records), number: g.number, count: b.count, last: b.last, time: b.time}
	g.scratch = appendBlock(g.scratch[:0], g.seed, &h, records)
	if _, err := seg.file.WriteAt(g.scratch, seg.size); err != nil {
		s.used.Add(-size)
		g.dirty = true
		return s.disk(seg.path, err)
	}
	seg.size += size
	g.number, g.last = h.end(), b.last
	s.gauge.Set(float64(s.used.Load()))
	return nil
}

// disk is the error of a full or broken disk.
func (s *spill) disk(path string, err error) error {
	s.errors.Inc()
	return &FullError{What: "disk", Path: path, Bytes: s.used.Load(), Err: err}
}

// tail returns the file to write to.
func (g *spillLog) tail(size int64) (*segment, error) {
	s := g.spill
	if n := len(g.segments); n > 0 {
		seg := g.segments[n-1]
		if g.dirty {
			if err := seg.file.Truncate(seg.size); err != nil {
				return nil, s.disk(seg.path, err)
			}
			g.dirty = false
		}
		if seg.size+size <= s.segment || seg.size == g.first() {
			return seg, nil
		}
	}
	first := g.first()
	if used := s.used.Add(first); used+size > s.cfg.MaxBytes {
		s.used.Add(-first)
		return nil, &FullError{What: "spill", Path: s.dir, Bytes: used - first, Limit: s.cfg.MaxBytes}
	}
	seg := &segment{n: g.file, path: filepath.Join(s.dir, fmt.Sprintf("%s.%010d%s", g.name, g.file, spillSuffix)), size: first}
	var err error
	if seg.file, err = s.cfg.open(seg.path); err == nil {
		if _, err = seg.file.WriteAt(appendMark(slices.Clone(g.head), first, g.number), 0); err == nil {
			err = seg.file.Truncate(first)
		}
		if err != nil {
			err = errors.Join(err, seg.file.Close(), os.Remove(seg.path))
		}
	}
	if err != nil {
		s.used.Add(-first)
		return nil, s.disk(seg.path, err)
	}
	g.file++
	g.segments = append(g.segments, seg)
	if len(g.segments) == 1 {
		g.read = spillPos{file: seg.n, off: first, number: g.number}
	}
	return seg, nil
}

// first is where the blocks of a file begin.
func (g *spillLog) first() int64 { return int64(len(g.head) + spillMarkSize) }

// end is where the next block will be written.
func (g *spillLog) end() spillPos {
	if len(g.segments) == 0 {
		return spillPos{number: g.number}
	}
	seg := g.segments[len(g.segments)-1]
	return spillPos{file: seg.n, off: seg.size, number: g.number}
}

// cut takes back what was written after a place that end returned before.
func (g *spillLog) cut(to spillPos, last uint64) {
	g.number, g.last = to.number, last
	for i := len(g.segments) - 1; i >= 0; i-- {
		seg := g.segments[i]
		if seg.n > to.file {
			g.spill.used.Add(-seg.size)
			g.drop(seg)
			g.segments, g.dirty = g.segments[:i], false
			continue
		}
		g.spill.used.Add(to.off - seg.size)
		seg.size = to.off
		g.dirty = seg.file.Truncate(seg.size) != nil // then before the next write
		break
	}
	g.spill.gauge.Set(float64(g.spill.used.Load()))
}

// drop closes and removes a file whose records are not needed any more.
func (g *spillLog) drop(seg *segment) {
	closeFile(seg.file)
	if err := os.Remove(seg.path); err != nil {
		g.spill.errors.Inc() // its mark says that all of it is acknowledged
	}
}

// acked notes that everything before a place is in the log, and removes the
// files that are not needed any more.
func (g *spillLog) acked(to spillPos) {
	for len(g.segments) > 0 {
		seg := g.segments[0]
		done := seg.n < to.file
		off := to.off
		if done {
			off = seg.size
		}
		if _, err := seg.file.WriteAt(appendMark(nil, off, to.number), int64(len(g.head))); err != nil {
			g.spill.errors.Inc() // more second copies after a crash
		}
		if !done && (len(g.segments) > 1 || g.unread > 0 || off < seg.size) {
			break
		}
		g.spill.used.Add(-seg.size)
		g.drop(seg)
		g.segments = g.segments[1:]
		g.dirty = false
	}
	g.spill.gauge.Set(float64(g.spill.used.Load()))
}

// reading returns the file in which reading goes on, and where.
func (g *spillLog) reading() (seg *segment, from, to int64) {
	for i, seg := range g.segments {
		if seg.n < g.read.file {
			continue
		}
		if seg.n > g.read.file {
			g.read.file, g.read.off = seg.n, g.first()
		}
		for _, s := range seg.skip {
			if g.read.off == s.from {
				g.read.off = s.to
			}
		}
		if g.read.off >= seg.size && i < len(g.segments)-1 {
			g.read.file, g.read.off = g.segments[i+1].n, g.first()
			continue
		}
		to = seg.size
		for _, s := range seg.skip {
			if s.from > g.read.off {
				to = min(to, s.from)
			}
		}
		return seg, g.read.off, to
	}
	return nil, 0, 0
}

// closeSpill keeps the files for the next producer of the name.
func (p *Producer) closeSpill() {
	if p.spill == nil {
		return
	}
	for _, l := range p.all {
		if l.spill == nil {
			continue
		}
		for _, seg := range l.spill.segments {
			if err := seg.file.Sync(); err != nil {
				p.spill.errors.Inc()
				p.env.Log.Error("keeping spilled records", "file", seg.path, "err", err)
			}
			closeFile(seg.file)
		}
		l.spill.segments = nil
	}
	closeFile(p.spill.lock) // releases it
}

// closeFile closes what was written before, or is not needed.
func closeFile(f interface{ Close() error }) {
	if f.Close() != nil {
		return
	}
}

// Spilled returns the bytes of the files.
func (p *Producer) Spilled() int64 {
	if p.spill == nil {
		return 0
	}
	return p.spill.used.Load()
}

// SpillDamage returns what could not be read of the files that an earlier
// producer left.
func (p *Producer) SpillDamage() []SpillDamage {
	if p.spill == nil {
		return nil
	}
	return slices.Clone(p.spill.damage)
}

// doneQueue keeps what the spilled records are told through, as runs: an
// appender mostly gives the same function again and again.
type doneQueue struct {
	runs  []doneRun
	first int
}

type doneRun struct {
	done func(int64, error)
	n    int64
}

const (
	// doneRunSize is what a run takes.
	doneRunSize = 16
	// callbackBytes bounds what the callbacks of all spilled records take in
	// memory, or a quarter of the queue's bound where that is more.
	callbackBytes = 16 << 20
)

// growth is by how many bytes adding these, each once, would grow the queue.
func (q *doneQueue) growth(dones []func(int64, error)) (grown int64) {
	var before func(int64, error)
	some := len(q.runs) > q.first
	if some {
		before = q.runs[len(q.runs)-1].done
	}
	for _, done := range dones {
		if !some || !sameFunc(before, done) {
			grown += doneRunSize
		}
		before, some = done, true
	}
	return grown
}

// add appends n records and returns by how many bytes that grew.
func (q *doneQueue) add(done func(int64, error), n int64) (grown int64) {
	if n == 0 {
		return 0
	}
	if last := len(q.runs) - 1; last >= q.first && sameFunc(q.runs[last].done, done) {
		q.runs[last].n += n
		return 0
	}
	q.runs = append(q.runs, doneRun{done, n})
	return doneRunSize
}

// take removes the first record and returns by how many bytes that shrank.
func (q *doneQueue) take() (done func(int64, error), shrunk int64) {
	r := &q.runs[q.first]
	done = r.done
	if r.n--; r.n > 0 {
		return done, 0
	}
	r.done = nil
	if q.first++; 2*q.first >= len(q.runs) {
		n := copy(q.runs, q.runs[q.first:])
		clear(q.runs[n:])
		q.runs, q.first = q.runs[:n], 0
	}
	return done, doneRunSize
}

// sameFunc reports whether two functions are the same value; false may also mean
// that it is not known.
func sameFunc(a, b func(int64, error)) bool {
	return *(*unsafe.Pointer)(unsafe.Pointer(&a)) == *(*unsafe.Pointer)(unsafe.Pointer(&b)) //nolint:gosec // compares, never follows
}

package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Record is one record as read. Key and Value are valid until the next call of
// the Reader's Next; decode or copy what is kept.
type Record struct {
	Topic     string // without the session's prefix
	Partition int32
	Offset    int64
	Time      time.Time // the broker's or producer's timestamp
	Key       []byte
	Value     []byte // nil is a tombstone
	// SecondCopy marks a record that the rule of second copies drops (design.md
	// section 3, Copies). Only readers with ReaderConfig.KeepCopies see such
	// records: the sinks, which count them.
	SecondCopy bool
	// Void marks an offset without an event, Key and Value are nil: the end of a
	// transaction, or a record of one that was aborted. Only another program leaves
	// such, and only readers with ReaderConfig.KeepCopies see them.
	Void bool
	// Unreadable says why the offsets from here to the end of the batch hold nothing
	// that can be read, on the first of them; it is Void, and so are the others.
	Unreadable error
}

// ReaderConfig sets up a Reader.
type ReaderConfig struct {
	Topic     string
	Partition int32
	// Offset is the first offset wanted; FromStart or FromEnd.
	Offset int64
	// KeepCopies delivers every offset: second copies, marked, and what holds no
	// event, as Void.
	KeepCopies bool
	// passDamaged passes over batches of a compacted topic that are damaged in the
	// log, which otherwise are fatal.
	passDamaged bool
	room        *prefetch // shared with other readers; nil makes one of its own
}

// Offsets with a meaning.
const (
	FromStart int64 = -2
	FromEnd   int64 = -1
)

// Reader reads one partition in offset order: CRC checked, prefetching within
// bounded bytes, an offset gap in a topic that is not compacted or an offset
// that retention overtook is fatal and says how much is missing. Second copies
// are dropped and counted. Not safe for concurrent use, except EndAt.
type Reader struct {
	cfg    ReaderConfig
	fetch  *fetcher
	room   *prefetch
	closed bool
	cancel context.CancelFunc

	log                                 *slog.Logger
	records, copied, voids, unreadables prometheus.Counter
	copies                              *copies // nil where no record can be one

	end      atomic.Int64 // of EndAt; noEnd when there is none
	revoked  atomic.Pointer[error]
	endMoved chan struct{}

	position int64 // of the next record to deliver
	from     int64 // records before it only fill the window of copies
	begin    int64 // where that window begins, or the log, if that is later

	// The chunk in hand and where Next stands in it.
	chunk    chunk
	rest     []byte // batches not begun
	batch    batchHead
	left     int32         // records of the batch not read
	body     []byte        // of these records
	unpacked *bytes.Buffer // that the batch was unpacked to, from unpackBuffers; nil: it was not
	held     int64         // taken of the room for it
	out      []Record
	// Offsets of the batch that hold no event and are still to be delivered.
	void, voidEnd int64
	unreadable    error // why, of the first of them

	// Transactions that were aborted: those of the chunk that begin after the batch
	// in hand, and the producers of those that it lies in.
	aborted  []abortedTxn
	aborting map[int64]struct{}
}

const (
	noEnd    = int64(-1)
	noOffset = int64(-1)
)

// maxNext is how many records Next returns at most: as many as stay in a core's
// cache until the caller has seen them.
const maxNext = 512

// NewReader opens a reader; Close ends it. An offset outside the log is fatal.
func (c *Client) NewReader(ctx context.Context, cfg ReaderConfig, env component.Env) (*Reader, error) {
	return c.openReader(ctx, cfg, env, c.bounds)
}

// openReader is NewReader with the bounds taken by that method.
func (c *Client) openReader(ctx context.Context, cfg ReaderConfig, env component.Env, take func(context.Context, string, []int32) ([]Bounds, error)) (*Reader, error) {
	n := c.Partitions(cfg.Topic)
	if n == 0 {
		return nil, component.Fatal(fmt.Errorf("reading %s/%d: %w", cfg.Topic, cfg.Partition, c.unknown(cfg.Topic)))
	}
	if cfg.Partition < 0 || cfg.Partition >= n {
		return nil, component.Fatal(fmt.Errorf("reading %s/%d: the topic has %d partitions", cfg.Topic, cfg.Partition, n))
	}
	all, err := take(ctx, cfg.Topic, []int32{cfg.Partition})
	if err != nil {
		return nil, err
	}
	spec, _ := event.Topic(cfg.Topic)
	bounds, offset := all[0], cfg.Offset
	switch offset {
	case FromStart:
		offset = bounds.Start
	case FromEnd:
		offset = bounds.End
	default:
		if fault := outside(spec, offset, bounds); fault != "" {
			return nil, c.outside(fault, cfg.Topic, cfg.Partition, offset, bounds)
		}
		offset = max(offset, bounds.Start) // what compaction took is no loss
	}
	r := &Reader{
		cfg: cfg, position: offset, from: offset, endMoved: make(chan struct{}, 1),
		records: c.metrics.fetchedRecords.WithLabelValues(cfg.Topic), copied: c.metrics.secondCopies.WithLabelValues(cfg.Topic),
		voids: c.metrics.voids.WithLabelValues(cfg.Topic), unreadables: c.metrics.unreadables.WithLabelValues(cfg.Topic), log: env.Log,
	}
	r.end.Store(noEnd)
	begin := offset
	if !spec.Compacted {
		r.copies = newCopies(copyWindow)
		begin = max(bounds.Start, offset-copyWindow)
	}
	r.begin = begin
	r.room = cfg.room
	if r.room == nil {
		r.room = newPrefetch(readerPrefetch, nil)
	}
	r.fetch = newFetcher(c, cfg.Topic, cfg.Partition, begin, spec.Compacted, r.room, env)
	r.fetch.passDamaged = cfg.passDamaged && spec.Compacted
	var run context.Context
	run, r.cancel = context.WithCancel(context.Background())
	go r.fetch.run(run)
	return r, nil
}

// outside is the error of an offset that the log does not have.
func (c *Client) outside(fault LogFault, topic string, partition int32, offset int64, b Bounds) error {
	return component.Fatal(&LogError{
		Fault: fault, Topic: topic, Partition: partition, Stored: offset, Start: b.Start, End: b.End, Incarnation: c.Incarnation(topic),
	})
}

// Next blocks until there is at least one record and returns what has arrived,
// in order. It returns io.EOF once the position reached the offset of EndAt.
// The records are valid until the next call.
func (r *Reader) Next(ctx context.Context) ([]Record, error) {
	r.out = r.out[:0]
	if r.left == 0 {
		r.pack()
	}
	for {
		if err := r.revoked.Load(); err != nil {
			return nil, *err
		}
		if end := r.end.Load(); end != noEnd && r.position >= end {
			return nil, io.EOF
		}
		if err := r.parse(); err != nil {
			return nil, err
		}
		if len(r.out) > 0 {
			return r.out, nil
		}
		if end := r.end.Load(); len(r.rest) > 0 || r.left > 0 || r.void < r.voidEnd || (end != noEnd && r.position >= end) {
			continue // EndAt was reached within the chunk, or by second copies that were dropped
		}
		r.chunk.release()
		select {
		case chunk, ok := <-r.fetch.chunks:
			if !ok {
				if err := r.revoked.Load(); err != nil {
					return nil, *err
				}
				return nil, r.fetch.err
			}
			r.chunk, r.rest = chunk, chunk.data()
			if chunk.answer != nil {
				r.aborted = chunk.answer.aborted
			}
			r.position = max(r.position, chunk.passed)
		case <-r.endMoved:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// parse turns what is in hand into records, up to EndAt.
func (r *Reader) parse() error {
	end := r.end.Load()
	if end == noEnd {
		end = 1<<63 - 1
	}
	var seen, copied int
	for r.position < end && len(r.out) < maxNext {
		if r.void < r.voidEnd {
			r.out = append(r.out, Record{Topic: r.cfg.Topic, Partition: r.cfg.Partition, Offset: r.void, Time: time.UnixMilli(r.batch.maxTime), Void: true, Unreadable: r.unreadable})
			r.unreadable = nil
			r.void++
			r.position = r.void
			continue
		}
		if r.left == 0 {
			if len(r.rest) == 0 {
				break
			}
			if err := r.nextBatch(); err != nil {
				return err
			}
			continue
		}
		var raw rawRecord
		var err error
		if r.body, err = parseRecord(r.body, &raw); err != nil {
			r.passUnreadable(fmt.Errorf("%d records before the end of the batch at offset %d: %w", r.left, r.batch.base, err))
			continue
		}
		r.left--
		offset := r.batch.base + raw.offsetDelta
		if offset < r.begin || (offset < r.position && offset >= r.from) {
			continue // a batch is served whole, also when it is entered in its middle
		}
		second := r.copies != nil && r.copies.second(offset, raw.key, raw.value)
		if offset >= r.from {
			r.position = offset + 1
			seen++
			if second {
				copied++
			}
			if !second || r.cfg.KeepCopies {
				ms := r.batch.firstTime + raw.timeDelta
				if r.batch.attrs&attrLogAppend != 0 {
					ms = r.batch.maxTime
				}
				r.out = append(r.out, Record{
					Topic: r.cfg.Topic, Partition: r.cfg.Partition, Offset: offset,
					Time: time.UnixMilli(ms), Key: raw.key, Value: raw.value, SecondCopy: second,
				})
			}
		}
		if r.left == 0 {
			r.position = max(r.position, r.endOfBatch())
			if len(r.out) > 0 && r.batch.attrs&attrCompression != 0 {
				break // the records lie in the buffer that the next batch unpacks to
			}
		}
	}
	r.records.Add(float64(seen))
	if copied > 0 {
		r.copied.Add(float64(copied))
	}
	return nil
}

// endOfBatch is the offset after the batch in hand, or where delivery begins if
// that is later.
func (r *Reader) endOfBatch() int64 { return max(r.batch.last+1, r.from) }

// nextBatch begins the next batch of the chunk; the fetcher has checked it.
func (r *Reader) nextBatch() error {
	h, records, err := parseHead(r.rest)
	if err != nil {
		return component.Fatal(fmt.Errorf("reading %s/%d: %w", r.cfg.Topic, r.cfg.Partition, err))
	}
	void := h.attrs&attrTransactional != 0 && r.abortedBatch(h)
	if h.attrs&attrControl != 0 { // the transaction ends
		void = true
		delete(r.aborting, h.producer)
	}
	r.rest = r.rest[h.size:]
	r.batch, r.left = h, h.count
	if void && h.last >= r.position {
		first := max(h.base, r.position)
		r.voids.Add(float64(h.last + 1 - first))
		if r.cfg.KeepCopies {
			r.left, r.void, r.voidEnd = 0, first, h.last+1
			return nil
		}
	}
	if void || h.count == 0 || (h.last < r.position && h.last >= r.from) {
		r.left = 0
		r.position = max(r.position, r.endOfBatch())
		return nil
	}
	if h.attrs&attrCompression == 0 {
		r.body = records
		return nil
	}
	r.pack()
	r.unpacked, _ = unpackBuffers.Get().(*bytes.Buffer)
	if r.body, err = unpack(r.unpacked, h.attrs, records); err != nil {
		r.passUnreadable(err)
		return nil
	}
	r.held = int64(r.unpacked.Cap())
	r.room.force(r.held)
	return nil
}

// passUnreadable passes over what is left of the batch in hand: no program of ours
// writes such a batch, and the next reader would meet it again. It is loud: a line in
// the log, a metric, and where every offset is wanted a Void record that says why.
func (r *Reader) passUnreadable(err error) {
	first := max(r.batch.base, r.position)
	r.left = 0
	if last := r.batch.last; last >= r.position && last >= r.from {
		err = fmt.Errorf("reading %s/%d: offsets %d to %d hold no records that can be read: %w", r.cfg.Topic, r.cfg.Partition, first, last, err)
		r.log.Error("passing over records that cannot be read", "topic", r.cfg.Topic, "partition", r.cfg.Partition, "from", first, "to", last, "err", err)
		r.unreadables.Add(float64(last + 1 - first))
		if r.cfg.KeepCopies {
			r.void, r.voidEnd, r.unreadable = first, last+1, err
			return
		}
	}
	r.position = max(r.position, r.endOfBatch())
}

// abortedBatch reports whether the batch is of a transaction that was aborted.
func (r *Reader) abortedBatch(h batchHead) bool {
	for len(r.aborted) > 0 && r.aborted[0].first <= h.last {
		if r.aborting == nil {
			r.aborting = make(map[int64]struct{})
		}
		r.aborting[r.aborted[0].producer] = struct{}{}
		r.aborted = r.aborted[1:]
	}
	_, yes := r.aborting[h.producer]
	return yes
}

// unpackBuffers recycles what batches are unpacked to among the readers.
var unpackBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// pack gives the buffer of an unpacked batch back, whose records nobody uses.
func (r *Reader) pack() {
	if r.unpacked == nil {
		return
	}
	if r.unpacked.Cap() <= keepUnpacked {
		unpackBuffers.Put(r.unpacked)
	}
	r.unpacked = nil
	r.room.give(r.held)
	r.held = 0
}

// Position is the offset of the next record that Next will return at the
// earliest; after io.EOF it is the end (records dropped as copies are passed).
func (r *Reader) Position() int64 { return r.position }

// heldBackAt returns where the open transaction begins that holds the reader back;
// ok is false where none does. Safe for concurrent use, also of no reader.
func (r *Reader) heldBackAt() (offset int64, ok bool) {
	if r == nil {
		return 0, false
	}
	offset = r.fetch.openAt.Load()
	return offset, offset != noOffset
}

// EndAt makes Next return io.EOF once everything before the offset was returned.
func (r *Reader) EndAt(offset int64) {
	r.end.Store(max(offset, 0))
	select {
	case r.endMoved <- struct{}{}:
	default:
	}
}

// revoke makes Next return the error from now on. Safe for concurrent use.
func (r *Reader) revoke(err error) {
	r.revoked.Store(&err)
	r.cancel()
}

// Close releases the reader.
func (r *Reader) Close() {
	if r.closed {
		return
	}
	r.closed = true
	r.cancel()
	for c := range r.fetch.chunks {
		c.release()
	}
	r.chunk.release()
	r.pack()
	r.rest, r.body, r.left, r.out = nil, nil, 0, nil
}

// ReadAll reads a partition from its start (or the given offset) to its end as
// it is now, and returns that end. Second copies are dropped.
func (c *Client) ReadAll(ctx context.Context, topic string, partition int32, from int64, each func(Record) error) (end int64, err error) {
	bounds, err := c.bounds(ctx, topic, []int32{partition})
	if err != nil {
		return 0, err
	}
	end = bounds[0].End
	if (from == FromStart && bounds[0].Start == end) || from == FromEnd {
		return end, nil
	}
	return end, c.readUntil(ctx, ReaderConfig{Topic: topic, Partition: partition, Offset: from}, end, each)
}

// readUntil reads a partition up to the end given, which must be in the log.
func (c *Client) readUntil(ctx context.Context, cfg ReaderConfig, end int64, each func(Record) error) error {
	r, err := c.NewReader(ctx, cfg, c.env)
	if err != nil {
		return err
	}
	defer r.Close()
	r.EndAt(end)
	for {
		records, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, rec := range records {
			if err := each(rec); err != nil {
				return err
			}
		}
	}
}

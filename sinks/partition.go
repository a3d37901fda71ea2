package sinks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// recordCost is what a record takes beyond its value while it waits: its row in
// the columns and, where it is refused, its copy.
const recordCost = 160

// source is where records come from: the group's assignment, a reader over a
// planned range, or one over the end of topic dead.
type source interface {
	Next(ctx context.Context) ([]bus.Record, error)
}

var (
	_ source = (*bus.Assignment)(nil)
	_ source = (*bus.Reader)(nil)
)

// partition lands one partition of a topic while it is owned. One goroutine
// fetches, one gathers batch B, one lands batch A.
type partition struct {
	place

	role       *Role
	assignment *bus.Assignment
	plans      *bus.Owner // shuts out a predecessor, see recover.go
	log        *slog.Logger
	lag        prometheus.Gauge

	relands uint64        // number of the order to land again that the plans follow
	ordered chan struct{} // gets one value when a newer order was read

	next   int64        // offset of the record to gather next
	landed atomic.Int64 // end of what has landed, for the lag

	batches [2]*batch
}

// refusal is a record that could not be used.
type refusal struct {
	offset     int64
	key, value []byte
	reason     string
}

// run recovers what a predecessor planned, then lands until the partition is
// lost (ctx) or drained.
func (p *partition) run(ctx context.Context) error {
	if err := p.open(ctx); err != nil {
		return err
	}
	defer p.close(ctx)
	p.assignment.Bind(p.plans.Producer)
	if err := p.recover(ctx); err != nil {
		return err
	}
	p.assignment.Ready()
	if err := p.landAll(ctx); err != nil {
		return err
	}
	if p.topic != event.TopicDead || !p.role.draining.Load() {
		return nil
	}
	return p.gatherTail(ctx)
}

// gatherTail lands the dead letters that draining the other partitions made,
// after the end at which this partition was told to stop.
func (p *partition) gatherTail(ctx context.Context) error {
	if err := p.role.tail.wait(ctx); err != nil {
		return err
	}
	var end int64
	if err := p.role.retry(ctx, "asking for the end of "+p.String(), func(ctx context.Context) error {
		bounds, err := p.role.client.Offsets(ctx, p.topic)
		if err != nil {
			return err
		}
		end = bounds[p.partition].End
		return nil
	}); err != nil {
		return err
	}
	if end <= p.next {
		return nil
	}
	reader, err := p.read(ctx, p.next, end)
	if err != nil {
		return err
	}
	defer reader.Close()
	return p.gather(ctx, reader)
}

// read opens a reader over [first, end) of the partition.
func (p *partition) read(ctx context.Context, first, end int64) (*bus.Reader, error) {
	reader, err := p.role.client.NewReader(ctx, bus.ReaderConfig{
		Topic: p.topic, Partition: p.partition, Offset: first, KeepCopies: true,
	}, p.role.env)
	if err != nil {
		return nil, fmt.Errorf("reading %s again from offset %d: %w", p.place, first, err)
	}
	reader.EndAt(end)
	return reader, nil
}

// gather batches what the source has and lands it, batch after batch, until the
// source ends. While one batch is being landed the next is filled; when that is
// full too, or memory is, nothing more is fetched.
func (p *partition) gather(ctx context.Context, src source) error {
	ctx, cancel := context.WithCancel(ctx)
	fetched := startFetch(ctx, src)
	type outcome struct{ err error }
	landing := make(chan outcome, 1)
	inFlight := false
	defer func() {
		cancel()
		fetched.wait()
		if inFlight {
			<-landing
		}
	}()

	var (
		cfg     = &p.role.cfg
		budget  = p.role.budget
		filling = p.batch(0)
		other   = p.batch(1)
		pending []bus.Record // of the last fetch, not yet in a batch
		held    int64        // bytes taken for pending
		ended   bool
		wait    = p.interval()
		flush   = time.NewTimer(wait)
		waited  func() // ends the declared wait for memory
	)
	defer func() { budget.put(held + filling.bytes) }()
	defer func() {
		if waited != nil {
			waited()
		}
	}()
	for {
		// Fill from what is there.
		var freed <-chan struct{}
		if len(pending) > 0 && held == 0 {
			if n := cost(pending); n > 0 {
				var ok bool
				if ok, freed = budget.take(n); ok {
					held, freed = n, nil
				}
			}
		}
		switch { // the landings of other partitions hold the memory
		case freed != nil && waited == nil:
			waited = p.assignment.Waiting()
		case freed == nil && waited != nil:
			waited()
			waited = nil
		}
		for held > 0 && !filling.full(cfg) {
			if filling.records() == 0 {
				filling.since = time.Now()
				flush.Reset(wait)
			}
			n := cost(pending[:1])
			if err := p.add(filling, &pending[0]); err != nil {
				return err
			}
			filling.bytes += n
			held -= n
			if pending = pending[1:]; len(pending) == 0 {
				fetched.more()
			}
		}

		// Land when it is time, one batch at a time.
		due := filling.full(cfg) || ended || freed != nil || time.Since(filling.since) >= wait
		if due && !inFlight && filling.records() > 0 {
			b := filling
			filling, other = other, filling
			filling.reset(p.next)
			inFlight = true
			go func() {
				defer p.assignment.Waiting()() // for ClickHouse, which may be away for hours: Stalled tells
				err := p.land(ctx, b)
				budget.put(b.bytes)
				landing <- outcome{err}
			}()
			continue
		}
		if ended && !inFlight && filling.records() == 0 {
			return nil
		}

		incoming := fetched.records
		if len(pending) > 0 || ended {
			incoming = nil
		}
		select {
		case records, ok := <-incoming:
			if !ok {
				if !errors.Is(fetched.err, io.EOF) {
					return fmt.Errorf("reading %s: %w", p.place, fetched.err)
				}
				ended = true
				continue
			}
			pending = records
		case o := <-landing:
			inFlight = false
			if o.err != nil {
				return o.err
			}
		case <-flush.C:
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// interval is how long the first record of a batch waits.
func (p *partition) interval() time.Duration {
	if p.topic == event.TopicMarket {
		return p.role.cfg.FlushInterval
	}
	return p.role.cfg.QuietInterval
}

// add puts one record into the batch.
func (p *partition) add(b *batch, rec *bus.Record) error {
	if rec.Offset != p.next {
		return component.Fatal(fmt.Errorf("reading %s: offset %d follows %d, %d records are missing",
			p.place, rec.Offset, p.next-1, rec.Offset-p.next))
	}
	p.next++
	b.next = p.next
	switch {
	case rec.SecondCopy:
		b.copies++
		return nil
	case rec.Unreadable != nil: // a letter for the first offset of the range; the others are Void
		b.refused = append(b.refused, refuse(rec, rec.Unreadable))
		return nil //nolint:nilerr // it is data here
	case rec.Void:
		b.control++
		return nil
	}
	block, err := b.rows.Add(rec.Offset, rec.Key, rec.Value)
	switch {
	case err != nil:
		b.refused = append(b.refused, refuse(rec, err))
	case block == clickhouse.NoRow:
		b.control++
	}
	return nil
}

// batch makes the i-th of the two batches that gather and land use in turn.
func (p *partition) batch(i int) *batch {
	if p.batches[i] == nil {
		p.batches[i] = &batch{rows: p.role.store.NewBatch(p.topic, p.assignment.Incarnation, p.partition)}
	}
	p.batches[i].reset(p.next)
	return p.batches[i]
}

// batch is what one plan will land.
type batch struct {
	rows        Batch
	first, next int64 // offsets: next is one past the last
	since       time.Time
	bytes       int64 // taken from the budget
	control     uint64
	copies      uint64
	refused     []refusal
}

func (b *batch) records() int { return int(b.next - b.first) }

func (b *batch) full(cfg *Config) bool {
	return b.records() >= cfg.FlushRows || b.bytes >= int64(cfg.FlushBytes)
}

func (b *batch) reset(first int64) {
	b.rows.Reset()
	*b = batch{rows: b.rows, first: first, next: first}
}

// cost is what records take of the budget.
func cost(records []bus.Record) int64 {
	n := int64(len(records)) * recordCost
	for i := range records {
		n += int64(len(records[i].Value))
	}
	return n
}

// fetcher calls Next in a goroutine of its own, so that a batch can be landed
// while nothing arrives. What it hands over is valid until more is called.
type fetcher struct {
	records chan []bus.Record // closed at the source's end, when err is set
	err     error
	used    chan struct{}
	done    chan struct{}
}

func startFetch(ctx context.Context, src source) *fetcher {
	f := &fetcher{records: make(chan []bus.Record), used: make(chan struct{}, 1), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		defer close(f.records)
		for {
			records, err := src.Next(ctx)
			if err != nil {
				f.err = err
				return
			}
			if len(records) == 0 {
				continue
			}
			select {
			case f.records <- records:
			case <-ctx.Done():
				f.err = ctx.Err()
				return
			}
			select {
			case <-f.used:
			case <-ctx.Done():
				f.err = ctx.Err()
				return
			}
		}
	}()
	return f
}

func (f *fetcher) more() { f.used <- struct{}{} }
func (f *fetcher) wait() { <-f.done }

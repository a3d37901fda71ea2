package bus

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/fetch"

	"github.com/autohedge/autohedge/stream/component"
)

const (
	// fetchBytes is what one fetch asks for at most, see prefetch.ask.
	fetchBytes = 1 << 20
	// waitingFetchBytes is what a fetch asks for that waits at the end of a log: the
	// first records that come are few, and the next fetch takes the rest.
	waitingFetchBytes = 64 << 10
	// fetchWait is how long a broker holds an empty answer back: an idle reader
	// costs four requests a second and adds no delay.
	fetchWait = 250 * time.Millisecond
	// corruptTries is how often bytes that do not fit are fetched again before
	// the log itself, and not the way here, is held to be at fault.
	corruptTries = 3
	// heldBackAfter is how long another program's transaction may hold a reader back
	// before that is logged, and heldBackEvery how often it is from then on.
	heldBackAfter = 5 * time.Second
	heldBackEvery = time.Minute
)

// chunk is the records of one fetch, checked; without any it says up to where
// there are none that can be read.
type chunk struct {
	answer *fetchAnswer
	size   int // of the records that count
	passed int64
}

func (c *chunk) data() []byte {
	if c.answer == nil {
		return nil
	}
	return (*c.answer.buf)[:c.size]
}

func (c *chunk) release() {
	if c.answer != nil {
		c.answer.release()
		c.answer = nil
	}
}

// fetcher reads one partition ahead of its Reader.
type fetcher struct {
	client    *Client
	env       component.Env
	topic     string
	name      string // as the broker knows it
	partition int32
	compacted bool
	room      *prefetch
	chunks    chan chunk
	err       error // why chunks was closed; set before

	bytes, retries, corrupt prometheus.Counter

	next int64 // offset to ask for
	// more says that there were records at the last offset asked for, so that room is
	// taken before the next fetch. One that waits at the log's end holds nothing.
	more bool
	// aligned says that everything before next was seen to the end of a batch,
	// so that the next batch must begin there.
	aligned bool
	// passDamaged says that a batch which is damaged in the log is passed over.
	passDamaged bool

	// openAt is the offset at which a transaction began that has not ended and holds
	// the reader back, noOffset where none does; since and logged are when that was
	// seen first and logged last.
	openAt        atomic.Int64
	since, logged time.Time
}

func newFetcher(c *Client, topic string, partition int32, from int64, compacted bool, room *prefetch, env component.Env) *fetcher {
	m := c.metrics
	f := &fetcher{
		client: c, env: env, topic: topic, name: c.prefix() + topic, partition: partition, compacted: compacted,
		room: room, chunks: make(chan chunk, prefetchDepth-2), next: from, more: true,
		bytes: m.fetchedBytes.WithLabelValues(topic), retries: m.fetchRetries.WithLabelValues(topic), corrupt: m.corrupt.WithLabelValues(topic),
	}
	f.openAt.Store(noOffset)
	return f
}

// run fetches until ctx ends or the log cannot be read on. A broker that is away
// is waited for.
func (f *fetcher) run(ctx context.Context) {
	defer close(f.chunks)
	failures, misfits := 0, 0
	var unknownSince time.Time
	for {
		c, err := f.once(ctx)
		var bad *misfit
		switch {
		case ctx.Err() != nil:
			c.release()
			f.err = ctx.Err()
			return
		case err == nil:
			if failures > 20 {
				f.env.Log.Info("fetch works again", "topic", f.topic, "partition", f.partition)
			}
			if !unknownSince.IsZero() {
				// The topic was gone for a while: this may be another one.
				if f.err = f.client.sameTopic(ctx, f.topic); f.err != nil {
					f.client.metrics.errors.WithLabelValues("reader").Inc()
					c.release()
					return
				}
			}
			failures, misfits, unknownSince = 0, 0, time.Time{}
			if c.answer == nil {
				continue // nothing new
			}
			select {
			case f.chunks <- c:
			case <-ctx.Done():
				c.release()
				f.err = ctx.Err()
				return
			}
			continue
		case errors.As(err, &bad):
			f.corrupt.Inc()
			f.client.metrics.errors.WithLabelValues("reader").Inc()
			misfits++
			if misfits >= corruptTries {
				if f.err = f.client.sameTopic(ctx, f.topic); f.err != nil {
					return
				}
			}
			if misfits >= corruptTries && f.passDamaged {
				f.env.Log.Warn("passing over damaged bytes", "topic", f.topic, "partition", f.partition, "offset", f.next, "error", bad.err)
				// Where they end is not known, as their head cannot be believed: the
				// next offset lies in them or behind.
				f.next, f.aligned, misfits = f.next+1, false, 0
				select {
				case f.chunks <- chunk{passed: f.next}:
				case <-ctx.Done():
					f.err = ctx.Err()
					return
				}
				continue
			}
			if misfits >= corruptTries {
				f.err = component.Fatal(fmt.Errorf("reading %s/%d: %w", f.topic, f.partition, bad.err))
				return
			}
			f.env.Log.Warn("fetched bytes do not fit, fetching them again", "topic", f.topic, "partition", f.partition, "error", bad.err)
		case component.IsFatal(err):
			f.client.metrics.errors.WithLabelValues("reader").Inc()
			f.err = err
			return
		case topicUnknown(err) && !unknownSince.IsZero() && time.Since(unknownSince) > topicGone:
			f.client.metrics.errors.WithLabelValues("reader").Inc()
			f.err = component.Fatal(fmt.Errorf("reading %s/%d: %w", f.topic, f.partition, f.client.gone(ctx, f.topic, err)))
			return
		default:
			switch {
			case !topicUnknown(err):
				unknownSince = time.Time{}
			case unknownSince.IsZero():
				unknownSince = time.Now()
			}
			f.retries.Inc()
			if failures++; failures == 20 {
				f.env.Log.Warn("fetch is being retried", "topic", f.topic, "partition", f.partition, "error", err)
			}
		}
		if sleep(ctx, backoff(max(failures, misfits))) != nil {
			f.err = ctx.Err()
			return
		}
	}
}

// misfit is bytes that cannot be what the log holds, or a log that is damaged;
// fetching again tells which.
type misfit struct{ err error }

func (m *misfit) Error() string { return m.err.Error() }

// once does one fetch and checks what came; a chunk without an answer is an empty
// one. Only what is committed is read: the broker gives nothing from the first open
// transaction on, and says which of the others were aborted.
//
// Fetches that wait take small answers over connections of their own. Each occupies a
// connection for as long as it waits, so there are as many as partitions are read, and a
// broker may keep the memory of a connection's largest answer (kfake does, see write in its
// client_conn.go): large answers on all of them would be hundreds of megabytes. Fetches that
// do not wait share the few connections that are in use at one time.
func (f *fetcher) once(ctx context.Context) (c chunk, err error) {
	ask := f.room.ask()
	if !f.more {
		ask = min(ask, waitingFetchBytes)
	}
	call := &fetchCall{room: f.room, Request: fetch.Request{
		ReplicaID: -1, MaxWaitTime: int32(fetchWait.Milliseconds()), MinBytes: 1, MaxBytes: ask, SessionEpoch: -1, IsolationLevel: int8(kafka.ReadCommitted),
		Topics: []fetch.RequestTopic{{Topic: f.name, Partitions: []fetch.RequestPartition{{
			Partition: f.partition, CurrentLeaderEpoch: -1, FetchOffset: f.next, LogStartOffset: -1, PartitionMaxBytes: ask,
		}}}},
	}}
	if f.more {
		call.MaxWaitTime = 0 // others may want the room
		call.held = bufferSize(int64(ask) + answerHead)
		if err := f.room.take(ctx, call.held); err != nil {
			return c, err
		}
	}
	answer, err := f.client.fetch(ctx, call)
	if err != nil {
		return c, err
	}
	if answer.code != 0 {
		answer.release()
		return c, f.answerError(ctx, answer.code)
	}
	if err := answer.of(f.name, f.partition); err != nil {
		answer.release()
		return c, err
	}
	if answer.partitionCode != 0 {
		answer.release()
		return c, f.answerError(ctx, answer.partitionCode)
	}
	f.heldBack(answer)
	f.more = answer.buf != nil
	if answer.buf == nil {
		return c, nil
	}
	used, next, err := f.check(*answer.buf)
	if err != nil || used == 0 {
		answer.release()
		return c, err
	}
	f.next, f.aligned = next, true
	f.bytes.Add(float64(used))
	return chunk{answer: answer, size: used}, nil
}

// heldBack notes whether there is more in the log that may not be read yet, as a
// transaction is open. None of ours uses any: what another program leaves open is
// logged, for as long as it lasts.
func (f *fetcher) heldBack(a *fetchAnswer) {
	if a.buf != nil || a.stable < 0 || a.stable > f.next || a.highWatermark <= f.next {
		f.openAt.Store(noOffset)
		f.since = time.Time{}
		return
	}
	now := time.Now()
	if f.openAt.Swap(a.stable); f.since.IsZero() {
		f.since, f.logged = now, now.Add(heldBackAfter-heldBackEvery)
	}
	if now.Sub(f.logged) >= heldBackEvery {
		f.logged = now
		f.client.metrics.errors.WithLabelValues("transaction").Inc()
		f.env.Log.Warn("another program's open transaction holds back what is behind it", "topic", f.topic, "partition", f.partition, "offset", a.stable,
			"position", f.next, "end", a.highWatermark, "since", f.since, "remedy", endTransaction(f.name, f.partition, a.stable))
	}
}

// endTransaction is the command that ends a transaction whose producer is gone.
func endTransaction(topic string, partition int32, offset int64) string {
	return fmt.Sprintf("kafka-transactions.sh --bootstrap-server BROKER abort --topic %s --partition %d --start-offset %d", topic, partition, offset)
}

// answerError makes what it can of an error code: an offset outside the log is
// fatal, the rest is tried again.
func (f *fetcher) answerError(ctx context.Context, code kafka.Error) error {
	switch code {
	case kafka.OffsetOutOfRange:
		all, err := f.client.bounds(ctx, f.topic, []int32{f.partition})
		if err != nil {
			return err
		}
		b := all[0]
		if f.next < b.Start || f.next > b.End {
			if err := f.client.sameTopic(ctx, f.topic); err != nil {
				return err
			}
		}
		switch {
		case f.next < b.Start && f.compacted:
			f.next, f.aligned = b.Start, false
		case f.next < b.Start:
			return f.client.outside(Overtaken, f.topic, f.partition, f.next, b)
		case f.next > b.End:
			return f.client.outside(Truncated, f.topic, f.partition, f.next, b)
		}
		return code
	}
	if permanent(code) {
		return component.Fatal(fmt.Errorf("reading %s/%d at offset %d: %w%s", f.topic, f.partition, f.next, code, f.client.grant(code, f.name)))
	}
	return code
}

// check walks over the batches of a fetch: form, CRC and that no offset is
// missing. It returns how many bytes are whole batches in order and the offset
// after them; what does not fit counts only when nothing before it does, since
// the next fetch begins with it.
func (f *fetcher) check(data []byte) (used int, next int64, err error) {
	next, aligned := f.next, f.aligned
	for used < len(data) {
		h, err := f.fits(data[used:], next, aligned)
		if err != nil {
			if used == 0 {
				return 0, 0, &misfit{err}
			}
			if !errors.Is(err, errPartial) {
				f.corrupt.Inc()
			}
			break
		}
		used += h.size
		if h.last >= next {
			next, aligned = h.last+1, true
		}
	}
	return used, next, nil
}

// fits reads the batch that data begins with and holds its offset against the
// one that is next; aligned says that a batch must begin there.
func (f *fetcher) fits(data []byte, next int64, aligned bool) (batchHead, error) {
	h, _, err := parseBatch(data)
	switch {
	case errors.Is(err, errPartial):
		return h, fmt.Errorf("%d bytes at offset %d: %w", len(data), next, err)
	case err != nil:
		return h, err
	case h.base > next && !f.compacted:
		return h, fmt.Errorf("the log goes on at offset %d where %d is next: %d records are missing; bring the log back from a copy, or begin anew in another data folder (--data) or session",
			h.base, next, h.base-next)
	case h.base < next && aligned:
		return h, fmt.Errorf("a batch begins at offset %d where %d is next", h.base, next)
	}
	return h, nil
}

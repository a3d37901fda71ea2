package bus

import (
	"container/list"
	"context"
	"math/bits"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// defaultPrefetch is what all partitions of a Consumer may hold where its
	// configuration says nothing.
	defaultPrefetch = 64 << 20
	// readerPrefetch is the same for a Reader of its own.
	readerPrefetch = prefetchDepth * fetchBytes
	// prefetchDepth is how many answers a reader holds at most: one in hand, two
	// waiting, one arriving.
	prefetchDepth = 4
	// answerHead is what an answer takes besides its records: about 70 bytes and the
	// topic's name.
	answerHead = 512
	// smallFetch is the least that a fetch asks for, however many readers there are.
	smallFetch = 16 << 10
)

// prefetch is a number of bytes that several readers may hold together: record
// batches as they came from the broker, waiting for their handlers or in their
// hands. What a reader asks the broker for is a share of it, the same for each,
// so that one whose handler stands still takes nothing from the others. A broker
// sends a batch whole that is larger than what was asked for: such answers are let
// in in the order in which they came, once there is room, and one that is larger
// than everything once nothing else is held.
//
// The zero value bounds nothing. It is asked once a fetch, not once a record.
type prefetch struct {
	limit int64 // 0: no bound
	gauge prometheus.Gauge

	mu      sync.Mutex
	held    int64
	most    int64 // the highest that held was
	readers int64
	waiting list.List // of *wanting, those who came first in front
}

// wanting is somebody who waits for room.
type wanting struct {
	bytes   int64
	granted chan struct{}
}

func newPrefetch(limit int64, gauge prometheus.Gauge) *prefetch {
	return &prefetch{limit: limit, gauge: gauge}
}

// among says how many readers share it: all there are going to be, or those who come
// first could take what is the others'.
func (p *prefetch) among(readers int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readers = int64(readers)
}

// ask is how many bytes of records a reader asks for: so many that prefetchDepth
// answers of all readers fit.
func (p *prefetch) ask() int32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	each := p.limit / max(p.readers, 1) / prefetchDepth
	// The largest buffer that is not larger than that, answers' heads included.
	each = 1 << (bits.Len64(uint64(min(max(each, smallFetch), fetchBytes))) - 1)
	return int32(each - answerHead)
}

// take waits until there is room for the bytes, which give frees.
func (p *prefetch) take(ctx context.Context, bytes int64) error {
	p.mu.Lock()
	if p.waiting.Len() == 0 && p.fits(bytes) {
		p.hold(bytes)
		p.mu.Unlock()
		return nil
	}
	w := &wanting{bytes: bytes, granted: make(chan struct{})}
	place := p.waiting.PushBack(w)
	p.mu.Unlock()
	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-w.granted: // meanwhile
		p.hold(-bytes)
	default:
		p.waiting.Remove(place)
	}
	p.grant() // those behind it
	return ctx.Err()
}

// force takes the bytes without asking: what is needed to go on with what is held
// already. Nothing else is let in until there is room for it.
func (p *prefetch) force(bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold(bytes)
}

// give frees what was taken.
func (p *prefetch) give(bytes int64) {
	if bytes == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold(-bytes)
	p.grant()
}

func (p *prefetch) fits(bytes int64) bool {
	return p.limit == 0 || p.held == 0 || p.held+bytes <= p.limit
}

func (p *prefetch) hold(bytes int64) {
	p.held += bytes
	p.most = max(p.most, p.held)
	if p.gauge != nil {
		p.gauge.Set(float64(p.held))
	}
}

// grant lets those in who wait, in their order.
func (p *prefetch) grant() {
	for e := p.waiting.Front(); e != nil; e = p.waiting.Front() {
		w, _ := e.Value.(*wanting)
		if !p.fits(w.bytes) {
			return
		}
		p.waiting.Remove(e)
		p.hold(w.bytes)
		close(w.granted)
	}
}

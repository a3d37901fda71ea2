package sinks

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// budget bounds the bytes of records that all partitions hold together.
type budget struct {
	gauge prometheus.Gauge

	mu    sync.Mutex
	max   int64
	used  int64
	freed chan struct{} // closed and replaced when bytes come back
}

func newBudget(limit int64, gauge prometheus.Gauge) *budget {
	return &budget{max: limit, gauge: gauge, freed: make(chan struct{})}
}

// take takes n bytes. When there are not enough it returns the channel that is
// closed when some come back. One that asks for more than there ever is gets it
// once nothing else is held.
func (b *budget) take(n int64) (ok bool, freed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used > 0 && b.used+n > b.max {
		return false, b.freed
	}
	b.used += n
	b.gauge.Set(float64(b.used))
	return true, nil
}

// put gives n bytes back.
func (b *budget) put(n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	b.gauge.Set(float64(b.used))
	close(b.freed)
	b.freed = make(chan struct{})
}

package signals

import (
	"context"
	"sync"
)

// outbox tracks the outputs of one partition that Kafka has not acknowledged,
// and with them how far the input may be committed: up to the first record that
// has one. Its methods are safe for concurrent use and do not block, but wait.
type outbox struct {
	commit func(next int64) // told how far the input is done; must not block
	fail   func(error)      // told that an output is not in the log

	mu      sync.Mutex
	pending []*output // in the order of their source records
	next    int64     // everything before has been processed
	end     int64     // of the output partition, as far as all before it is acknowledged
	changed chan struct{}
}

type output struct {
	source int64 // offset of the input record
	acked  bool
	end    int64 // after it in the output partition; 0 for other topics
	// reached is told end once everything before it is acknowledged: it is no
	// output, but a mark between two.
	reached func(end int64)
}

func newOutbox(commit func(int64), fail func(error)) *outbox {
	return &outbox{commit: commit, fail: fail, changed: make(chan struct{}, 1)}
}

// begin notes where the output partition ends before the first output.
func (b *outbox) begin(end int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end = end
}

// ended returns the end of the output partition, as far as all before it is
// acknowledged.
func (b *outbox) ended() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.end
}

// add notes an output of the input record at the offset and returns what the
// producer must be given as done.
func (b *outbox) add(source int64) func(int64, error) {
	out := &output{source: source}
	b.mu.Lock()
	b.pending = append(b.pending, out)
	b.mu.Unlock()
	return func(_ int64, err error) { b.settle(out, 0, err) }
}

// addSignal is add for an output whose place counts for the end.
func (b *outbox) addSignal(source int64) func(int64, error) {
	out := &output{source: source}
	b.mu.Lock()
	b.pending = append(b.pending, out)
	b.mu.Unlock()
	return func(offset int64, err error) { b.settle(out, offset+1, err) }
}

func (b *outbox) settle(out *output, end int64, err error) {
	if err != nil {
		b.fail(err) // it stays pending: nothing at or after its source is committed
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	out.acked, out.end = true, end
	b.pass()
	b.advance()
}

// pass drops what is acknowledged from the front.
func (b *outbox) pass() {
	n := 0
	for ; n < len(b.pending) && b.pending[n].acked; n++ {
		out := b.pending[n]
		b.end = max(b.end, out.end)
		if out.reached != nil {
			out.reached(b.end)
		}
	}
	b.pending = append(b.pending[:0], b.pending[n:]...)
}

// mark calls reached, which must not block, once every output that was added
// before is acknowledged, with the end of the output partition after them.
func (b *outbox) mark(source int64, reached func(end int64)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending = append(b.pending, &output{source: source, acked: true, reached: reached})
	b.pass()
}

// processed notes that every input record before next has been processed.
func (b *outbox) processed(next int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next = next
	b.advance()
}

func (b *outbox) advance() {
	if len(b.pending) > 0 {
		b.commit(b.pending[0].source)
		return
	}
	b.commit(b.next)
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// empty reports whether everything is acknowledged.
func (b *outbox) empty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.pending) == 0
}

// wait returns once everything is acknowledged.
func (b *outbox) wait(ctx context.Context) error {
	for !b.empty() {
		select {
		case <-b.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

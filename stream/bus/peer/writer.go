package peer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

const (
	// WriterBatch is how many messages a call of the Writer and its batches have.
	WriterBatch = 10_000
	// writerCallers is how many goroutines call the Writer, each of which waits
	// for its acknowledgements.
	writerCallers = 4
)

// Writer produces with kafka-go's own Writer. It is not idempotent: what it
// retries may be in the log twice, and its callers keep no order among them.
type Writer struct{ w *kafka.Writer }

// WriterOptions says how NewWriter sets the Writer up.
const WriterOptions = "RequireAll, murmur2, BatchSize 10,000, BatchBytes 1,000,000, BatchTimeout 1 ms, four callers with 10,000 messages a call; not idempotent"

// NewWriter makes a Writer to the topic whose batches have that many messages,
// WriterBatch for Produce and 1 for One; Close ends it.
func NewWriter(broker, topic string, batch int) *Writer {
	return &Writer{&kafka.Writer{
		Addr: kafka.TCP(broker), Topic: topic, Balancer: kafka.Murmur2Balancer{Consistent: true}, RequiredAcks: kafka.RequireAll,
		BatchSize: batch, BatchBytes: 1_000_000, BatchTimeout: time.Millisecond,
		Transport: &kafka.Transport{},
	}}
}

// Produce takes events from more until it gives none, and returns their number
// once all are acknowledged.
func (w *Writer) Produce(ctx context.Context, more func() []Event) (n int, err error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	next := func(into []kafka.Message) []kafka.Message {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			return into
		}
		for len(into) < WriterBatch {
			events := more()
			if len(events) == 0 {
				break
			}
			for i := range events {
				into = append(into, kafka.Message{Key: events[i].Key, Value: events[i].Value})
			}
		}
		n += len(into)
		return into
	}
	for range writerCallers {
		all.Go(func() {
			var messages []kafka.Message
			for {
				if messages = next(messages[:0]); len(messages) == 0 {
					return
				}
				if werr := w.w.WriteMessages(ctx, messages...); werr != nil {
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						err = fmt.Errorf("producing with kafka-go's Writer: %w", werr)
					}
					return
				}
			}
		})
	}
	all.Wait()
	return n, err
}

// One produces one event and waits until it is acknowledged.
func (w *Writer) One(ctx context.Context, e Event) error {
	if err := w.w.WriteMessages(ctx, kafka.Message{Key: e.Key, Value: e.Value}); err != nil {
		return fmt.Errorf("producing with kafka-go's Writer: %w", err)
	}
	return nil
}

// Close releases the Writer.
func (w *Writer) Close() error {
	err := w.w.Close()
	if t, ok := w.w.Transport.(*kafka.Transport); ok {
		t.CloseIdleConnections()
	}
	return err
}

package execution

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// A process that stands still between the acknowledgement of an order's entry and
// its sending, while another takes the partition over, sends nothing.
func TestTakeoverBetweenLogAndBroker(t *testing.T) {
	w := newWorld(t)
	submitted := 0
	r := w.start(func(r *Role) {
		r.lease = 0
		open := r.openBroker
		r.openBroker = func(ctx context.Context, kind broker.Kind, a broker.Account) (broker.Broker, error) {
			b, err := open(ctx, kind, a)
			return counting{b, &submitted}, err
		}
		r.crash = func(s crashSite) error {
			if s != siteSubmitting {
				return nil
			}
			next, err := w.client.Own(t.Context(), bus.OwnConfig{
				Name: "next", Key: ownerKey(w.client.Partition(event.TopicOrders, []byte("paper"))),
				// Not where the orders are: the append alone must not be what stops it.
				Partitions: []bus.TopicPartition{{Topic: event.TopicDead}},
			}, component.Discard())
			if err != nil {
				return err
			}
			return next.Close(t.Context())
		}
	})
	w.quote("50000.00", "0.5", "50001.00", "0.5")
	w.seesQuote(r)
	w.decide(w.decision(event.Buy, "0.02", "50000.5"))
	select {
	case err := <-r.err:
		if !errors.Is(err, bus.ErrFenced) || !component.IsFatal(err) {
			t.Errorf("it ended with %v, want a fatal ErrFenced", err)
		}
		r.err <- err
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on although another owns the partition")
	}
	if submitted != 0 {
		t.Errorf("%d orders were sent", submitted)
	}
}

// counting counts the orders that are sent.
type counting struct {
	broker.Broker
	submitted *int
}

func (c counting) Submit(ctx context.Context, o broker.Order) error {
	*c.submitted++
	return c.Broker.Submit(ctx, o)
}

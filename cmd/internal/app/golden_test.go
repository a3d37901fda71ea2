package app_test

import (
	"path/filepath"
	"testing"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// goldenFolder unpacks testdata/golden/NAME.tar.gz, a data folder that an earlier
// build left, and returns where it is.
func goldenFolder(t *testing.T, name string) string {
	t.Helper()
	return bustest.UnpackFolder(t, filepath.Join("testdata", "golden", name+".tar.gz"))
}

// tradingLogs are the last entry of each order and all fills of a folder's Kafka,
// which nothing else may have open.
func tradingLogs(t *testing.T, data string) (orders map[string]*event.OrderEvent, fills []*event.Fill) {
	t.Helper()
	b, err := bus.StartEmbedded(t.Context(), bus.EmbeddedConfig{Dir: filepath.Join(data, "kafka")}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	cfg := bus.DefaultConfig()
	cfg.Brokers = []string{b.Addr()}
	client, err := bus.Connect(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	orders = make(map[string]*event.OrderEvent)
	for _, topic := range []string{event.TopicOrders, event.TopicFills} {
		for partition := range client.Partitions(topic) {
			if _, err := client.ReadAll(t.Context(), topic, partition, bus.FromStart, func(rec bus.Record) error {
				m, err := event.Decode(rec.Value)
				switch m := m.(type) {
				case *event.OrderEvent:
					orders[m.ClientOrderID] = m
				case *event.Fill:
					fills = append(fills, m)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return orders, fills
}

// The archive is what its README says.
func TestBrokerGoldenFolder(t *testing.T) {
	t.Parallel()
	orders, fills := tradingLogs(t, goldenFolder(t, "f028329"))
	if len(fills) != 69 {
		t.Errorf("%d fills, want 69", len(fills))
	}
	for id, want := range map[string]string{"ahbwwz6r2hw3yi7iutzn": "0.0358", "ahadhwb6dzle7y73jbb5": "0.05033705"} {
		o := orders[id]
		if o == nil || o.State != event.OrderPartiallyFilled || o.FilledQty.String() != want {
			t.Errorf("order %s is %+v, want it filled in part, %s", id, o, want)
		}
	}
}

package bus

import (
	"errors"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/autohedge/autohedge/stream/event"
)

func TestDiskUseTellsTheBytesOfEachPartition(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	value := make([]byte, 10_000)
	for range 20 {
		if err := p.Append(event.TopicMarket, 2, []byte("k"), value, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A broker may tell of a write a moment later.
	eventually(t, "the bytes are told", 5*time.Second, func() bool {
		use, err := c.DiskUse(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		full, ok := use.Bytes(event.TopicMarket, 2)
		all, known := use.Topic(event.TopicMarket)
		if len(use.Dirs) != 1 || use.Dirs[0].Usable <= 0 || use.Dirs[0].Total <= 0 || use.Dirs[0].Err != nil {
			t.Fatalf("directories %+v", use.Dirs)
		}
		return ok && known && full >= 200_000 && full < 210_000 && all >= full && all < full+10_000
	})
	use, err := c.DiskUse(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := use.Bytes("no.such", 0); ok {
		t.Errorf("a topic that does not exist takes up %d bytes", n)
	}
	if _, err := (&logDirsRequest{broker: 99}).Broker(protocol.Cluster{}); !errors.Is(err, kafka.BrokerNotAvailable) {
		t.Errorf("an unknown broker gave %v", err)
	}
}

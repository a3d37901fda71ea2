package bus

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVar); dir != "" {
		os.Exit(brokerChild(dir))
	}
	goleak.VerifyTestMain(m)
}

// startBroker starts an embedded broker that ends with the test.
func startBroker(t testing.TB, dir string, opts ...kfake.Opt) *Embedded {
	t.Helper()
	b, err := startEmbedded(t.Context(), EmbeddedConfig{Dir: dir}, component.Discard(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func testConfig(addr string) Config {
	cfg := DefaultConfig()
	cfg.Brokers = []string{addr}
	return cfg
}

// connect returns a client of the broker whose topics exist.
func connect(t testing.TB, cfg Config) *Client {
	t.Helper()
	c, err := Connect(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func newProducer(t testing.TB, c *Client, cfg ProducerConfig) *Producer {
	t.Helper()
	p, err := c.NewProducer(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = p.Close(ctx)
	})
	return p
}

// trade is a trade's wire form.
func trade(id uint64) []byte {
	return (&event.Trade{Channel: event.ChannelTrade, TradeID: id, Price: event.MustDecimal("1.5"), RecvTime: 1}).AppendWire(nil)
}

func readAll(t testing.TB, c *Client, topic string, partition int32) (values []string) {
	t.Helper()
	_, err := c.ReadAll(t.Context(), topic, partition, FromStart, func(r Record) error {
		values = append(values, string(r.Value))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func TestProduceThenReadKeepsEveryRecordInOrder(t *testing.T) {
	c := connect(t, testConfig(startBroker(t, "").Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	const n = 20_000
	offsets := make([]int64, n)
	for i := range n {
		part := int32(i % 4)
		err := p.Append(event.TopicMarket, part, []byte("k"), fmt.Appendf(nil, "%d", i), func(o int64, err error) {
			if err != nil {
				t.Error(err)
			}
			offsets[i] = o
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for part := range int32(4) {
		got := readAll(t, c, event.TopicMarket, part)
		if len(got) != n/4 {
			t.Fatalf("partition %d holds %d records, want %d", part, len(got), n/4)
		}
		for j, v := range got {
			i := j*4 + int(part)
			if v != fmt.Sprint(i) || offsets[i] != int64(j) {
				t.Fatalf("partition %d, offset %d: value %s acknowledged at %d, want value %d", part, j, v, offsets[i], i)
			}
		}
	}
}

const childVar = "AUTOHEDGE_TEST_BROKER"

func brokerChild(string) int { return 1 }

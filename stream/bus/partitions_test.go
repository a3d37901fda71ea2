package bus

import (
	"testing"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// The default symbols of the feeds do not share one partition of a new cluster.
func TestDefaultSymbolsAreSpread(t *testing.T) {
	used := make(map[int32]bool)
	for _, key := range []string{"binance|BTCUSDT", "binance|ETHUSDT", "coinbase|BTC-USD", "coinbase|ETH-USD"} {
		used[partitionOf([]byte(key), NewPartitions)] = true
	}
	if len(used) < 3 {
		t.Errorf("the four default symbols are on %d of %d partitions, want 3", len(used), NewPartitions)
	}
}

// Without a configured number new topics get NewPartitions, and existing ones keep
// theirs, also those that are missing beside them; a configured one is compared.
func TestPartitionsStayAsTheyAre(t *testing.T) {
	for _, before := range []int{0, 4, 24} {
		b := startBroker(t)
		cfg := testConfig(b.Addr())
		if before > 0 {
			cfg.Partitions = before
			b.admin.CreateTopic(t, event.TopicMarket, int32(before), nil) // the others are missing
			if before == 24 {
				connect(t, cfg)
			}
		}
		cfg.Partitions = 0
		want := before
		if before == 0 {
			want = NewPartitions
		}
		c, err := Connect(t.Context(), cfg, component.Discard())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if err := c.EnsureTopics(t.Context()); err != nil {
			t.Fatalf("%d partitions are there: %v", before, err)
		}
		for _, spec := range event.Topics {
			n := want
			if spec.Single {
				n = 1
			}
			if got := c.Partitions(spec.Name); int(got) != n {
				t.Errorf("%s has %d partitions, want %d", spec.Name, got, n)
			}
		}
		cfg.Partitions = want + 1
		other, err := Connect(t.Context(), cfg, component.Discard())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = other.Close() })
		if other.EnsureTopics(t.Context()) == nil {
			t.Errorf("%d partitions were accepted where %d are configured", want, want+1)
		}
	}
}

package bus

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/bus/peer"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// What the benchmarks compare is the same work: the peers put the same bytes in
// the same partitions, and read back what bus wrote.
func TestPeersDoTheSame(t *testing.T) {
	addr := startBroker(t).Addr()
	const n = 3000
	logs := make(map[string][][]string)
	write := func(who string, produce func(c *Client, topic string, more func() []peer.Event) (int, error)) *Client {
		cfg := testConfig(addr)
		cfg.Session = who
		c := connect(t, cfg)
		if got, err := produce(c, who+"."+event.TopicMarket, inChunks(benchEvents(c, n), n)); err != nil || got != n {
			t.Fatalf("%s produced %d of %d events: %v", who, got, n, err)
		}
		for p := range c.Partitions(event.TopicMarket) {
			logs[who] = append(logs[who], nil)
			if _, err := c.ReadAll(t.Context(), event.TopicMarket, p, FromStart, func(r Record) error {
				logs[who][p] = append(logs[who][p], string(r.Key)+" "+string(r.Value))
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		return c
	}
	ours := write("bus", func(c *Client, _ string, more func() []peer.Event) (got int, err error) {
		p := newProducer(t, c, ProducerConfig{Name: "test"})
		for chunk := more(); len(chunk) > 0; chunk = more() {
			for _, e := range chunk {
				if err := p.Append(event.TopicMarket, e.Partition, e.Key, e.Value, nil); err != nil {
					return got, err
				}
				got++
			}
		}
		return got, p.Flush(t.Context())
	})
	write("franz", func(_ *Client, topic string, more func() []peer.Event) (int, error) {
		f, err := peer.NewFranz(addr, topic)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		return f.Produce(t.Context(), more)
	})
	// A single call of the Writer, whose calls keep no order among them.
	write("writer", func(_ *Client, topic string, more func() []peer.Event) (int, error) {
		w := peer.NewWriter(addr, topic, peer.WriterBatch)
		defer func() { _ = w.Close() }()
		return w.Produce(t.Context(), more)
	})
	for _, who := range []string{"franz", "writer"} {
		if diff := cmp.Diff(logs["bus"], logs[who]); diff != "" {
			t.Errorf("%s wrote another log (-bus +%s):\n%s", who, who, diff)
		}
	}
	ends := make([]int64, len(logs["bus"]))
	read := make([][]string, len(ends))
	for p := range ends {
		ends[p] = int64(len(logs["bus"][p]))
	}
	got, err := peer.FranzConsume(t.Context(), addr, "bus."+event.TopicMarket, ends, func(p int32, value []byte) error {
		read[p] = append(read[p], string(value))
		return nil
	})
	if err != nil || got != n {
		t.Fatalf("franz-go read %d of %d events: %v", got, n, err)
	}
	for p, end := range ends {
		var values []string
		if _, err := readTo(t.Context(), ours, int32(p), end, func(_ int32, value []byte) error {
			values = append(values, string(value))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(values, read[p]); diff != "" {
			t.Errorf("franz-go read another partition %d (-bus +franz-go):\n%s", p, diff)
		}
	}
}

func TestEmbeddedProcess(t *testing.T) {
	dir := t.TempDir()
	b, err := StartEmbeddedProcess(EmbeddedConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := StartEmbeddedProcess(EmbeddedConfig{Addr: b.Addr()}); err == nil {
		t.Error("a second broker took the same address")
	} else {
		t.Log(err)
	}
	c, err := Connect(t.Context(), testConfig(b.Addr()), component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.EnsureTopics(t.Context()); err != nil {
		t.Error(err)
	}
	_ = c.Close()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Connect(ctx, testConfig(b.Addr()), component.Discard()); err == nil {
		t.Error("the broker answers after its end")
	}
}

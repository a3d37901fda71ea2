package bus

import (
	"context"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// commitAt makes the group stand at the offset on a partition.
func commitAt(t *testing.T, c *Client, role string, topic string, partition int32, offset int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	k := c.NewConsumer(ConsumerConfig{Role: role, Topics: []string{topic}}, component.Discard())
	done := make(chan error, 1)
	go func() {
		done <- k.Run(ctx, func(ctx context.Context, a *Assignment) error {
			if a.Partition == partition {
				a.Commit(offset)
			}
			a.Ready()
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	eventually(t, "the offset is committed", 15*time.Second, func() bool {
		lags, err := c.Lag(t.Context(), role, topic)
		return err == nil && lags[partition].Committed == offset
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestLagInRecordsAndSeconds(t *testing.T) {
	b := startBroker(t)
	env, _, reg := watched()
	c, err := Connect(t.Context(), testConfig(b.Addr()), env)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	const pause = 1200 * time.Millisecond
	first := time.Now()
	produce(t, p, event.TopicMarket, 0, 8) // offsets 0 and 1 of each partition
	time.Sleep(pause)                      // so that the ages differ
	second := time.Now()
	produce(t, p, event.TopicMarket, 8, 8) // offsets 2 and 3
	for part, offset := range []int64{0: 2, 1: 4, 2: 1} {
		commitAt(t, c, "test", event.TopicMarket, int32(part), offset)
	}
	b.admin.DeleteRecords(t, event.TopicMarket, 2, 3)
	lags, err := c.LagSeconds(t.Context(), "test", event.TopicMarket)
	if err != nil || len(lags) != 4 {
		t.Fatal(lags, err)
	}
	for i, want := range []struct {
		committed, records, gone int64
		since                    time.Time // zero: nothing is left
	}{
		{2, 2, 0, second},
		{4, 0, 0, time.Time{}},
		{1, 1, 2, second}, // trimmed below the committed offset
		{-1, 4, 0, first}, // never committed
	} {
		l := lags[i]
		if l.Committed != want.committed || l.Records != want.records || l.Gone != want.gone || l.End != 4 {
			t.Errorf("partition %d: %+v, want %+v", i, l, want)
		}
		least, most := 0.0, 0.0
		if !want.since.IsZero() {
			most = time.Since(want.since).Seconds() + 0.002
			least = most - pause.Seconds()
		}
		if l.Seconds < least || l.Seconds > most {
			t.Errorf("partition %d: %v seconds, want %v to %v", i, l.Seconds, least, most)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		c.WatchLag(ctx, 10*time.Millisecond, "test", "nobody")
	}()
	value := func(name, partition string) float64 {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				at := map[string]string{}
				for _, l := range m.GetLabel() {
					at[l.GetName()] = l.GetValue()
				}
				if f.GetName() == name && at["group"] == "autohedge.test" && at["topic"] == event.TopicMarket && at["partition"] == partition {
					return m.GetGauge().GetValue()
				}
			}
		}
		return -1
	}
	eventually(t, "the gauges show the lag", 10*time.Second, func() bool {
		return value("autohedge_bus_lag_records", "0") == 2 && value("autohedge_bus_lag_records", "1") == 0 && value("autohedge_bus_lag_records", "2") == 1 &&
			value("autohedge_bus_lag_seconds", "0") > 0 && value("autohedge_bus_lag_seconds", "1") == 0
	})
	cancel()
	<-stopped
}

func TestLagOfCompactedAndEmptyTopics(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	lags, err := c.LagSeconds(t.Context(), "test", event.TopicMeta, event.TopicInstruments)
	if err != nil || len(lags) != 2 {
		t.Fatal(lags, err)
	}
	for _, l := range lags {
		switch l.Topic {
		case event.TopicInstruments:
			if l.Records != 0 || l.Seconds != 0 || l.Gone != 0 {
				t.Errorf("an empty topic: %+v", l)
			}
		case event.TopicMeta:
			if l.Records == 0 || l.Seconds < 0 || l.Seconds > 60 || l.Gone != 0 {
				t.Errorf("a compacted topic: %+v", l)
			}
		}
	}
}

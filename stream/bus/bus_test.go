package bus

import (
	"fmt"
	"testing"

	"github.com/autohedge/autohedge/stream/event"
)

func TestProduceThenReadKeepsEveryRecordInOrder(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
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

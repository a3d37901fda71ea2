package bench

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand"
	"sort"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/bus/peer"
	"github.com/autohedge/autohedge/stream/event"
)

// firstTrade is the lowest trade number of the load: with five bytes, like all
// that follow it in a run.
const firstTrade = 1 << 28

// trades makes records of trades, as venues give them, whose numbers rise. It
// changes the number in a finished record, so that making a record takes little
// of the time that is measured.
type trades struct {
	value []byte
	at    int // of the number's five bytes
	next  uint64
}

func newTrades() (*trades, error) {
	encode := func(id uint64) []byte {
		return (&event.Trade{
			Channel: event.ChannelTrade, TradeID: id, Aggressor: event.Buy, Price: event.MustDecimal("64123.45000000"),
			Qty: event.Some(event.MustDecimal("0.00123000")), EventTime: 1_700_000_000_000_000_000, RecvTime: 1_700_000_000_000_100_000, TimeSource: event.TimeEvent,
		}).AppendWire(nil)
	}
	t := &trades{value: encode(firstTrade), next: firstTrade}
	t.at = bytes.Index(t.value, binary.AppendUvarint(nil, firstTrade))
	if t.at < 0 {
		return nil, errors.New("making the load: a trade's number is not where it should be")
	}
	t.value = encode(firstTrade)
	if next := t.record(); !bytes.Equal(next, encode(firstTrade)) || !bytes.Equal(t.record(), encode(firstTrade+1)) {
		return nil, errors.New("making the load: a trade with another number differs in more than that")
	}
	t.next = firstTrade
	return t, nil
}

// record returns the next trade; it is overwritten by the one after it.
func (t *trades) record() []byte {
	binary.PutUvarint(t.value[t.at:], t.next)
	t.next++
	return t.value
}

// loadKeys returns n keys like those of topic md.
func loadKeys(n int) [][]byte {
	keys := make([][]byte, n)
	for i := range keys {
		keys[i] = appendKey(nil, i)
	}
	return keys
}

// appendKey appends the i-th key; i is below 100,000.
func appendKey(dst []byte, i int) []byte {
	dst = append(dst, "binance|B"...)
	for unit := 10_000; unit > 0; unit /= 10 {
		dst = append(dst, byte('0'+i/unit%10))
	}
	return append(dst, "USDT"...)
}

// table returns n events over the keys, each with bytes of its own, for clients
// that keep what they are given.
func table(client *bus.Client, keys [][]byte, n int) ([]peer.Event, error) {
	t, err := newTrades()
	if err != nil {
		return nil, err
	}
	partitions := make([]int32, len(keys))
	for i, k := range keys {
		partitions[i] = client.Partition(event.TopicMarket, k)
	}
	events := make([]peer.Event, n)
	for i := range events {
		k := i % len(keys)
		events[i] = peer.Event{Partition: partitions[k], Key: keys[k], Value: bytes.Clone(t.record())}
	}
	return events, nil
}

// choices returns n indexes below keys, chosen uniformly or by Zipf's law.
func choices(keys, n int, zipf bool) []int32 {
	r := rand.New(rand.NewSource(1))
	z := rand.NewZipf(r, zipfExponent, 1, uint64(keys-1))
	picks := make([]int32, n)
	for i := range picks {
		if zipf {
			picks[i] = int32(z.Uint64())
		} else {
			picks[i] = int32(r.Intn(keys))
		}
	}
	return picks
}

// zipfExponent makes the first of 100,000 keys take a seventh of the events.
const zipfExponent = 1.1

// median returns the median of the values, which it sorts.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sort.Float64s(values)
	return values[len(values)/2]
}

// ratio returns the median of a's values over b's of the same round.
func ratio(a, b []float64) float64 {
	ratios := make([]float64, min(len(a), len(b)))
	for i := range ratios {
		ratios[i] = a[i] / b[i]
	}
	return median(ratios)
}

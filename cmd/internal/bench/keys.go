package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// The numbers of keys whose costs are compared.
const (
	fewKeys  = 10
	manyKeys = 100_000
)

// keyed is a log over a number of keys, and the costs of its events in each
// round, in nanoseconds of this process's CPUs: unlike the time that passes, they
// leave out what the broker and the neighbours take.
type keyed struct {
	c        *connection
	p        *bus.Producer
	picks    []int32 // of each event's key
	trades   *trades
	produced []float64
	consumed []float64
}

// newKeyed makes a log whose rounds have n events each.
func newKeyed(ctx context.Context, o Options, kind string, keys, n int, zipf bool) (k *keyed, err error) {
	k = &keyed{picks: choices(keys, n, zipf)}
	if k.trades, err = newTrades(); err != nil {
		return nil, err
	}
	if k.c, err = o.connect(ctx, kind); err != nil {
		return nil, err
	}
	if k.p, err = k.c.NewProducer(ctx, bus.ProducerConfig{Name: "bench", Blocking: true}, env(o)); err != nil {
		return nil, errors.Join(err, k.c.drop(ctx))
	}
	return k, nil
}

func (k *keyed) close(ctx context.Context) error {
	return errors.Join(k.p.Close(ctx), k.c.drop(ctx))
}

// round appends the round's events and then reads the whole log, its records
// checked, second copies looked for, decoded.
func (k *keyed) round(ctx context.Context, o Options, counts bool) error {
	begun, err := cpuTime()
	if err != nil {
		return err
	}
	var scratch []byte
	for _, i := range k.picks {
		// Written anew for each event, as by what decodes a frame: reading it from
		// a table of all keys would cost more than what is measured.
		key := appendKey(scratch[:0], int(i))
		scratch = key
		if err := k.p.Append(event.TopicMarket, k.c.Partition(event.TopicMarket, key), key, k.trades.record(), nil); err != nil {
			return err
		}
	}
	if err := k.p.Flush(ctx); err != nil {
		return err
	}
	produced, err := cpuTime()
	if err != nil {
		return err
	}
	bounds, err := k.c.Offsets(ctx, event.TopicMarket)
	if err != nil {
		return err
	}
	var want int64
	ends := make([]int64, len(bounds))
	for i, b := range bounds {
		ends[i] = b.End
		want += b.End
	}
	opened, err := cpuTime()
	if err != nil {
		return err
	}
	n, _, err := readPartitions(ctx, k.c.Client, o, ends)
	if err != nil {
		return err
	}
	consumed, err := cpuTime()
	if err != nil {
		return err
	}
	if n != want {
		return fmt.Errorf("%d of %d events were read: some are taken for second copies", n, want)
	}
	if counts {
		k.produced = append(k.produced, float64(produced-begun)/float64(len(k.picks)))
		k.consumed = append(k.consumed, float64(consumed-opened)/float64(n))
	}
	return nil
}

// cpuTime is what this process has used of the CPUs.
func cpuTime() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("reading the CPU time: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// cost is the median cost of an event, appended and read.
func (k *keyed) cost() float64 { return median(k.produced) + median(k.consumed) }

func busKeysRatio(ctx context.Context, o Options, kind string) (results []Result, err error) {
	n := max(int(o.Length.Seconds()*250_000), 20_000)
	logs := make(map[string]*keyed)
	defer func() {
		for _, k := range logs {
			err = errors.Join(err, k.close(ctx))
		}
	}()
	order := []string{"zipf", "uniform"}
	for _, choice := range order {
		for _, keys := range []int{fewKeys, manyKeys} {
			k, err := newKeyed(ctx, o, kind, keys, n, choice == "zipf")
			if err != nil {
				return nil, err
			}
			logs[fmt.Sprint(choice, keys)] = k
		}
	}
	for round := range busRounds + 1 {
		for _, choice := range order {
			for _, keys := range []int{fewKeys, manyKeys} {
				if err := logs[fmt.Sprint(choice, keys)].round(ctx, o, round > 0); err != nil {
					return nil, err
				}
			}
		}
	}
	for _, choice := range order {
		few, many := logs[fmt.Sprint(choice, fewKeys)], logs[fmt.Sprint(choice, manyKeys)]
		how := "uniformly"
		if choice == "zipf" {
			how = fmt.Sprintf("by Zipf's law, exponent %.1f", zipfExponent)
		}
		results = append(results, Result{Name: "bus.keys_ratio." + choice + suffix(kind), Value: many.cost() / few.cost(), Unit: "ratio", N: 2 * n * busRounds, Note: fmt.Sprintf(
			"%.0f+%.0f ns of CPU an event (partitioned and produced + consumed and decoded) at %d keys chosen %s, %.0f+%.0f ns at %d; medians of %d rounds; %s",
			median(many.produced), median(many.consumed), manyKeys, how, median(few.produced), median(few.consumed), fewKeys, busRounds, where(kind))})
	}
	return results, nil
}

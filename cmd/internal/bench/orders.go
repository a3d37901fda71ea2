package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sort"
	"sync"
	"time"

	"github.com/autohedge/autohedge/agents"
	"github.com/autohedge/autohedge/execution"
	"github.com/autohedge/autohedge/signals"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/sim"
)

func orderMeasurements() []measurement {
	return []measurement{{
		names:   []string{"tick_to_order.p50_us", "tick_to_order.p99_us"},
		summary: "socket read to the order log, through signals, desk and limits, at 5,000 ticks a second", run: tickToOrder,
	}}
}

// tickToOrder runs every role but the sinks. A sample is the time from the
// receipt of the tick that fired to the moment a reader of the order log has the
// order's first entry, which is after its acknowledgement: the true number is
// smaller by one fetch.
func tickToOrder(ctx context.Context, o Options) (results []Result, err error) {
	const rate = 5000
	p, err := startPipeline(ctx, o, Embedded, "tick_to_order", []string{"trade", "bookTicker"}, func(c *sim.Config) { c.Rate, c.QuotesPerTrade = rate, 1 })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.close(ctx)) }()
	roles, err := tradingRoles(o, p.client)
	if err != nil {
		return nil, err
	}
	rctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, len(roles))
	for _, r := range roles {
		go func() { ended <- r.Run(rctx) }()
	}
	defer func() {
		cancel()
		for range roles {
			err = errors.Join(err, <-ended)
		}
	}()
	for _, r := range roles {
		select {
		case <-r.Ready():
		case <-time.After(30 * time.Second):
			return nil, errors.New("starting the roles: not ready after 30 s")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err := sleep(ctx, settle); err != nil {
		return nil, err
	}
	samples, err := watchOrders(ctx, p.client, o)
	if err != nil {
		return nil, err
	}
	if len(samples) == 0 {
		return nil, errors.New("measuring: no order was written")
	}
	sort.Float64s(samples)
	note := fmt.Sprintf("at %d ticks/s and as many quotes, deterministic desk, through the embedded broker; risk rejections count, as they too stand in the order log", rate)
	return []Result{
		{Name: "tick_to_order.p50_us", Value: percentile(samples, 50), Unit: "us", N: len(samples), Note: note},
		{Name: "tick_to_order.p99_us", Value: percentile(samples, 99), Unit: "us", N: len(samples), Note: note},
	}, nil
}

// tradingRoles are signals, agents and execution with rules that fire often.
func tradingRoles(o Options, client *bus.Client) ([]component.Role, error) {
	sc := signals.DefaultConfig()
	for i := range sc.Rules {
		sc.Rules[i].Symbols, sc.Rules[i].Cooldown = nil, 500*time.Millisecond
	}
	dir := filepath.Join(o.Dir, "tick_to_order-paper")
	exec, err := execution.New(execution.DefaultConfig(), client, execution.Paths{PaperDir: dir, HaltFile: dir + ".halt", Socket: filepath.Join(o.Dir, "x.sock")}, env(o))
	if err != nil {
		return nil, err
	}
	judging := agents.DefaultConfig()
	judging.Policy.EdgeBps = 60 // every good signal becomes an order
	desk, err := agents.New(judging, client, env(o))
	if err != nil {
		return nil, err
	}
	rules, err := signals.New(sc, client, env(o))
	if err != nil {
		return nil, err
	}
	return []component.Role{exec, desk, rules}, nil
}

// watchOrders reads the order log's end for a while and returns the age, in
// microseconds, of each order's first entry.
func watchOrders(ctx context.Context, client *bus.Client, o Options) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*o.Length)
	defer cancel()
	var mu sync.Mutex
	var samples []float64
	var wg sync.WaitGroup
	errs := make(chan error, client.Partitions(event.TopicOrders))
	for p := range client.Partitions(event.TopicOrders) {
		wg.Go(func() {
			r, err := client.NewReader(ctx, bus.ReaderConfig{Topic: event.TopicOrders, Partition: p, Offset: bus.FromEnd}, env(o))
			if err != nil {
				errs <- err
				return
			}
			defer r.Close()
			for {
				records, err := r.Next(ctx)
				if err != nil {
					if ctx.Err() == nil {
						errs <- err
					}
					return
				}
				now := time.Now().UnixNano()
				mu.Lock()
				for i := range records {
					if x, err := event.DecodeAs[*event.OrderEvent](records[i].Value); err == nil && x.Seq == 0 {
						samples = append(samples, float64(now-x.SignalTime)/1e3)
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
		return samples, nil
	}
}

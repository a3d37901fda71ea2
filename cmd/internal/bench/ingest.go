package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/autohedge/autohedge/stream"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/sim"
)

// ingestSymbols is how many instruments the measured feed has.
const ingestSymbols = 100

func ingestMeasurements(o Options) []measurement {
	var all []measurement
	for _, kind := range o.kinds() {
		s := suffix(kind)
		all = append(all,
			measurement{
				names: []string{"ingest.rate" + s}, summary: "WebSocket to Kafka acknowledged to a checker, as fast as it goes",
				run: func(ctx context.Context, o Options) ([]Result, error) { return ingestRate(ctx, o, kind) },
			},
			measurement{
				names: []string{"ingest.p50_ms" + s, "ingest.p99_ms" + s}, summary: "the same at 20,000 ticks a second, socket to checker",
				run: func(ctx context.Context, o Options) ([]Result, error) { return ingestLatency(ctx, o, kind) },
			},
		)
	}
	return all
}

// pipeline is a simulator, a broker and the stream role.
type pipeline struct {
	broker  *bus.Embedded
	session *connection // where the broker is another process
	client  *bus.Client
	sim     *sim.Sim
	role    *stream.Role
	done    chan error
}

// startPipeline starts them with the channels; feed adapts the simulator. The
// embedded broker is in this process, as in that of `run`.
func startPipeline(ctx context.Context, o Options, kind, name string, channels []string, feed func(*sim.Config)) (p *pipeline, err error) {
	p = &pipeline{done: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close(ctx))
		}
	}()
	if err = p.connect(ctx, o, kind, name); err != nil {
		return p, err
	}
	cfg := sim.DefaultConfig()
	cfg.Binance, cfg.Coinbase, cfg.Ledger, cfg.QuotesPerTrade, cfg.SlowClients = nil, nil, false, 0, sim.SlowWait
	for i := range ingestSymbols {
		cfg.Binance = append(cfg.Binance, fmt.Sprintf("B%03dUSDT", i))
	}
	feed(&cfg)
	if p.sim, err = sim.Start(ctx, cfg, env(o)); err != nil {
		return p, err
	}
	sc := stream.DefaultConfig()
	f := stream.DefaultFeed()
	f.Name, f.Venue, f.URL, f.REST, f.Symbols, f.Channels = "binance", "binance", p.sim.BinanceURL()+"/stream", p.sim.BinanceREST(), cfg.Binance, channels
	sc.Feeds = []stream.FeedConfig{f}
	if p.role, err = stream.New(sc, p.client, env(o)); err != nil {
		return p, err
	}
	go func() { p.done <- p.role.Run(context.WithoutCancel(ctx)) }()
	select {
	case <-p.role.Ready():
		return p, nil
	case err = <-p.done:
		p.role = nil
		return p, err
	case <-ctx.Done():
		return p, ctx.Err()
	}
}

// connect makes the client of the broker of that kind.
func (p *pipeline) connect(ctx context.Context, o Options, kind, name string) (err error) {
	if kind != Embedded {
		p.session, err = o.connect(ctx, kind)
		if err == nil {
			p.client = p.session.Client
		}
		return err
	}
	if p.broker, err = bus.StartEmbedded(ctx, bus.EmbeddedConfig{Dir: filepath.Join(o.Dir, name), Addr: "127.0.0.1:0"}, env(o)); err != nil {
		return err
	}
	cfg := bus.DefaultConfig()
	cfg.Partitions = 4 // as in every run since the first, to compare them
	cfg.Brokers = []string{p.broker.Addr()}
	if p.client, err = bus.Connect(ctx, cfg, env(o)); err != nil {
		return err
	}
	return p.client.EnsureTopics(ctx)
}

func (p *pipeline) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	var errs []error
	if p.role != nil {
		errs = append(errs, p.role.Drain(ctx), <-p.done)
	}
	if p.sim != nil {
		errs = append(errs, p.sim.Close())
	}
	switch {
	case p.session != nil:
		errs = append(errs, p.session.drop(ctx))
	case p.client != nil:
		errs = append(errs, p.client.Close())
	}
	if p.broker != nil {
		errs = append(errs, p.broker.Close())
	}
	return errors.Join(errs...)
}

// checker reads every partition of md, decodes every record and checks that each
// instrument's ids follow one another.
type checker struct {
	count  atomic.Int64
	wrong  atomic.Int64
	cancel context.CancelFunc
	done   sync.WaitGroup

	sampling  atomic.Bool
	mu        sync.Mutex
	latencies []float64 // ms, while sampling
}

func startChecker(ctx context.Context, client *bus.Client, o Options) (*checker, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &checker{cancel: cancel}
	for p := range client.Partitions(event.TopicMarket) {
		r, err := client.NewReader(ctx, bus.ReaderConfig{Topic: event.TopicMarket, Partition: p, Offset: bus.FromStart}, env(o))
		if err != nil {
			cancel()
			c.done.Wait()
			return nil, err
		}
		c.done.Go(func() { c.read(ctx, r) })
	}
	return c, nil
}

func (c *checker) read(ctx context.Context, r *bus.Reader) {
	defer r.Close()
	last := make(map[string]uint64)
	var t event.Trade
	for {
		records, err := r.Next(ctx)
		if err != nil {
			if ctx.Err() == nil {
				c.wrong.Add(1)
			}
			return
		}
		now := time.Now().UnixNano()
		trades := int64(0)
		for i := range records {
			if event.TypeOf(records[i].Value) != event.TypeTrade {
				continue
			}
			if err := event.DecodeTrade(records[i].Value, &t); err != nil {
				c.wrong.Add(1)
				continue
			}
			id, seen := last[string(records[i].Key)]
			if seen && t.TradeID != id+1 {
				c.wrong.Add(1)
			}
			last[string(records[i].Key)] = t.TradeID
			trades++
			if c.sampling.Load() {
				c.mu.Lock()
				c.latencies = append(c.latencies, float64(now-t.RecvTime)/1e6)
				c.mu.Unlock()
			}
		}
		c.count.Add(trades)
	}
}

func (c *checker) close() error {
	c.cancel()
	c.done.Wait()
	if n := c.wrong.Load(); n > 0 {
		return fmt.Errorf("the checker found %d records wrong, lost or out of order", n)
	}
	return nil
}

// flowing waits until ticks arrive, and then a little for the flow to settle.
func (c *checker) flowing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for c.count.Load() == 0 {
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("waiting for the first tick: %w", err)
		}
	}
	return sleep(ctx, settle)
}

// measure counts for at least the length. What Kafka acknowledged and what the
// checker checked are counted apart, and the smaller counts: a checker that
// catches up with a backlog must not look like a faster pipe, nor a pipe that
// runs ahead of it.
func (c *checker) measure(ctx context.Context, client *bus.Client, length time.Duration) (n int64, took time.Duration, err error) {
	acked, err := acknowledged(ctx, client)
	if err != nil {
		return 0, 0, err
	}
	checked, begun := c.count.Load(), time.Now()
	for n == 0 { // a batch may be longer than what is measured
		if err := sleep(ctx, length); err != nil {
			return 0, 0, err
		}
		took = time.Since(begun)
		n = c.count.Load() - checked
		now, err := acknowledged(ctx, client)
		if err != nil {
			return 0, 0, err
		}
		n = min(n, now-acked)
	}
	return n, took, nil
}

// acknowledged is the sum of the ends of md's partitions.
func acknowledged(ctx context.Context, client *bus.Client) (sum int64, err error) {
	bounds, err := client.Offsets(ctx, event.TopicMarket)
	for _, b := range bounds {
		sum += b.End
	}
	return sum, err
}

// settle is how long a pipeline runs before it is measured.
const settle = time.Second

// pipelineBroker says which broker a pipeline had.
func pipelineBroker(kind string) string {
	if kind == Embedded {
		return "embedded broker in the same process"
	}
	return where(kind)
}

func ingestRate(ctx context.Context, o Options, kind string) ([]Result, error) {
	p, err := startPipeline(ctx, o, kind, "ingest.rate", []string{"trade"}, func(c *sim.Config) { c.Rate = 2e6 })
	if err != nil {
		return nil, err
	}
	c, err := startChecker(ctx, p.client, o)
	if err != nil {
		return nil, errors.Join(err, p.close(ctx))
	}
	err = c.flowing(ctx)
	var n int64
	var took time.Duration
	if err == nil {
		n, took, err = c.measure(ctx, p.client, 2*o.Length)
	}
	if err := errors.Join(err, c.close(), p.close(ctx)); err != nil {
		return nil, err
	}
	return []Result{{Name: "ingest.rate" + suffix(kind), Value: float64(n) / took.Seconds(), Unit: "ticks/s", N: int(n),
		Note: fmt.Sprintf("%d symbols, one connection; simulator, %s and checker", ingestSymbols, pipelineBroker(kind))}}, nil
}

func ingestLatency(ctx context.Context, o Options, kind string) ([]Result, error) {
	const rate = 20_000
	p, err := startPipeline(ctx, o, kind, "ingest.latency", []string{"trade"}, func(c *sim.Config) { c.Rate = rate })
	if err != nil {
		return nil, err
	}
	c, err := startChecker(ctx, p.client, o)
	if err != nil {
		return nil, errors.Join(err, p.close(ctx))
	}
	err = c.flowing(ctx)
	c.sampling.Store(true)
	if err == nil {
		err = sleep(ctx, 2*o.Length)
	}
	for before := c.count.Load(); err == nil && c.count.Load() == before; {
		err = sleep(ctx, o.Length)
	}
	if err := errors.Join(err, c.close(), p.close(ctx)); err != nil {
		return nil, err
	}
	sort.Float64s(c.latencies)
	note := fmt.Sprintf("at %d ticks/s, %d symbols, from the socket read to the checker; %s", rate, ingestSymbols, pipelineBroker(kind))
	return []Result{
		{Name: "ingest.p50_ms" + suffix(kind), Value: percentile(c.latencies, 50), Unit: "ms", N: len(c.latencies), Note: note},
		{Name: "ingest.p99_ms" + suffix(kind), Value: percentile(c.latencies, 99), Unit: "ms", N: len(c.latencies), Note: note},
	}, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/autohedge/autohedge/signals"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// recovery is what signals.recover_s recovers: instruments with ten rules each,
// the trades of each that the snapshot has, enough to warm every indicator up, and
// those that came after it.
type recovery struct {
	symbols, before, after int
}

func signalMeasurements(o Options) []measurement {
	// What is replayed is ten seconds at 20,000 ticks a second.
	tenThousand := recovery{symbols: 10_000, before: 220, after: 20}
	var all []measurement
	for _, kind := range o.kinds() {
		all = append(all, measurement{
			names:   []string{"signals.recover_s" + suffix(kind)},
			summary: "10,000 symbols with ten rules each, from a snapshot and a replay of 200,000 trades",
			run: func(ctx context.Context, o Options) ([]Result, error) {
				return recoverSignals(ctx, o, kind, tenThousand)
			},
		})
	}
	return all
}

// recoverSignals times a start of the role: from its first request to the moment
// when every partition is live.
func recoverSignals(ctx context.Context, o Options, kind string, size recovery) (results []Result, err error) {
	c, err := o.connect(ctx, kind)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.drop(ctx)) }()
	cfg := signals.DefaultConfig()
	cfg.Rules = cfg.Rules[:10]
	for i := range cfg.Rules {
		cfg.Rules[i].Venues, cfg.Rules[i].Symbols = nil, nil
	}
	p, err := c.NewProducer(ctx, bus.ProducerConfig{Name: "bench", Blocking: true}, env(o))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close(ctx)) }()
	m := &recorded{symbols: size.symbols, now: time.Now().UnixNano()}
	if err := m.append(ctx, c, p, size.before); err != nil {
		return nil, err
	}
	// A life that reads it all and stops in order leaves a snapshot at its end.
	role, err := startSignals(ctx, o, cfg, c)
	if err != nil {
		return nil, err
	}
	if err := role.drain(ctx); err != nil {
		return nil, err
	}
	var saved int64
	for partition := range c.Partitions(event.TopicMarket) {
		s, err := c.LoadSnapshot(ctx, signals.SnapshotKey(partition))
		if err != nil {
			return nil, err
		}
		if s == nil {
			return nil, fmt.Errorf("partition %d has no snapshot after a stop in order", partition)
		}
		saved += int64(len(s.State))
	}
	if err := m.append(ctx, c, p, size.after); err != nil {
		return nil, err
	}
	begun := time.Now()
	role, err = startSignals(ctx, o, cfg, c)
	if err != nil {
		return nil, err
	}
	took := time.Since(begun)
	if err := role.drain(ctx); err != nil {
		return nil, err
	}
	return []Result{{
		Name: "signals.recover_s" + suffix(kind), Value: took.Seconds(), Unit: "s", N: size.symbols,
		Note: fmt.Sprintf("%d symbols, 10 rules each, snapshots of %.1f MB, %d trades replayed, %d partitions; %s",
			size.symbols, float64(saved)/1e6, size.symbols*size.after, c.Partitions(event.TopicMarket), where(kind)),
	}}, nil
}

// recorded makes trades of symbols in turn.
type recorded struct {
	symbols int
	now     int64
	round   int
}

// append appends so many trades of each symbol.
func (m *recorded) append(ctx context.Context, c *connection, p *bus.Producer, rounds int) error {
	var key, value []byte
	for range rounds {
		m.round++
		for s := range m.symbols {
			m.now += int64(50 * time.Microsecond)
			t := event.Trade{
				Channel: event.ChannelTrade, TradeID: uint64(m.round), Price: event.NewDecimal(int64(6_400_000+(s*7919+m.round*104729)%20_011), 2),
				Qty: event.Some(event.NewDecimal(int64(1+(s+m.round)*31%4999), 4)), TimeSource: event.TimeEvent, EventTime: m.now, RecvTime: m.now,
			}
			key = fmt.Appendf(key[:0], "binance|B%05dUSDT", s)
			value = t.AppendWire(value[:0])
			if err := p.Append(event.TopicMarket, c.Partition(event.TopicMarket, key), key, value, nil); err != nil {
				return err
			}
		}
	}
	return p.Flush(ctx)
}

// life is one run of the role.
type life struct {
	role *signals.Role
	done chan error
}

// startSignals returns once the role is ready.
func startSignals(ctx context.Context, o Options, cfg signals.Config, c *connection) (*life, error) {
	role, err := signals.New(cfg, c.Client, env(o))
	if err != nil {
		return nil, err
	}
	l := &life{role, make(chan error, 1)}
	go func() { l.done <- role.Run(ctx) }()
	select {
	case <-role.Ready():
		return l, nil
	case err := <-l.done:
		return nil, fmt.Errorf("starting signals: it ended: %w", err)
	case <-time.After(2 * time.Minute):
		return nil, errors.New("starting signals: not ready after 2 m")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *life) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := l.role.Drain(ctx); err != nil {
		return err
	}
	return <-l.done
}

package execution

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Role consumes decisions and owns the accounts of its partitions.
type Role struct {
	cfg     Config
	client  *bus.Client
	paths   Paths
	env     component.Env
	metrics *metrics

	accounts map[string]*Account
	board    *board
	market   *market
	consumer *bus.Consumer

	ownersMu sync.Mutex
	owners   map[int32]*owner // those of this process, by partition

	refusedMu sync.Mutex
	refused   map[string]string // by account, why

	ready   chan struct{}
	opened  chan struct{} // closed once market data is open
	done    chan struct{} // closed when Run has returned
	control *bus.Producer
	// logPatience is the constant of that name; tests have less.
	logPatience time.Duration
	// lease is ownerLease; tests have less.
	lease time.Duration
	// saveEvery and saveLeast are the constants of those names; tests have less.
	saveEvery time.Duration
	saveLeast int64

	// crash, in tests, ends the role at a site by returning an error; openBroker
	// opens an account, tests put a broker of their own there.
	crash      func(crashSite) error
	takeOver   func(context.Context, bus.OwnConfig, component.Env) (*bus.Owner, error)
	confirm    func(context.Context) error // in place of the owner's, in tests
	openBroker func(ctx context.Context, kind broker.Kind, a broker.Account) (broker.Broker, error)
	profile    func(broker.Profile) broker.Profile // of an account; changed in tests
}

// New builds the role; Run starts it. The configuration must be valid.
func New(cfg Config, client *bus.Client, paths Paths, env component.Env) (*Role, error) {
	if err := cfg.Validate().Err(); err != nil {
		return nil, fmt.Errorf("configuring execution: %w", err)
	}
	if paths.PaperDir == "" || paths.HaltFile == "" {
		return nil, errors.New("configuring execution: it needs a folder for the paper broker and a halt file")
	}
	if s := client.Session(); s != "" {
		paths.PaperDir = sessionPaper(paths.PaperDir, s, client.Incarnation(event.TopicOrders))
	}
	r := &Role{
		cfg: cfg, client: client, paths: paths, env: env, metrics: newMetrics(env.Metrics),
		accounts: make(map[string]*Account), market: newMarket(client, env),
		consumer: client.NewConsumer(bus.ConsumerConfig{Role: "execution", Topics: []string{event.TopicDecisions}}, env),
		refused:  make(map[string]string), owners: make(map[int32]*owner),
		ready: make(chan struct{}), opened: make(chan struct{}), done: make(chan struct{}),
		logPatience: logPatience, lease: ownerLease, saveEvery: saveEvery, saveLeast: saveLeast,
		openBroker: func(ctx context.Context, kind broker.Kind, a broker.Account) (broker.Broker, error) {
			return kind.Open(ctx, a)
		},
		takeOver: client.Own,
		profile:  func(p broker.Profile) broker.Profile { return p },
	}
	for i := range cfg.Accounts {
		r.accounts[cfg.Accounts[i].Name] = &r.cfg.Accounts[i]
	}
	r.board = newBoard(paths.HaltFile, env, r.metrics.killSwitch)
	r.board.publish, r.board.findScope, r.board.unprotected, r.board.instrumentName = r.publishControl, r.findScope, r.unprotected, r.instrumentName
	return r, nil
}

func (r *Role) publishControl(ctx context.Context, c *event.Control) error {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	_, _, err := r.control.Publish(ctx, event.TopicControl, []byte(c.Scope), c)
	return err
}

// Ready is closed once control and instruments were read whole and the state of
// every owned account is restored.
func (r *Role) Ready() <-chan struct{} { return r.ready }

// Run implements component.Role.
func (r *Role) Run(ctx context.Context) (err error) {
	defer close(r.done)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	if r.control, err = r.client.NewProducer(ctx, bus.ProducerConfig{Name: "execution-control", Blocking: true}, r.env); err != nil {
		return fmt.Errorf("starting execution: %w", err)
	}
	defer func() {
		cctx, ccancel := context.WithTimeout(context.WithoutCancel(ctx), controlTimeout)
		defer ccancel()
		err = errors.Join(err, r.control.Close(cctx))
	}()
	controlEnd, err := r.client.ReadAll(ctx, event.TopicControl, 0, bus.FromStart, func(rec bus.Record) error {
		if !r.client.SkippedRecord(rec.Topic, rec.Partition, rec.Offset) {
			r.board.apply(rec, false)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading control: %w", err)
	}
	instrumentsEnd, err := r.client.ReadAll(ctx, event.TopicInstruments, 0, bus.FromStart, func(rec bus.Record) error { r.market.learn(rec); return nil })
	if err != nil {
		return fmt.Errorf("reading instruments: %w", err)
	}
	r.board.logHalts()
	if err := r.board.file.prepare(); err != nil {
		r.env.Log.Warn("no reserve for the halt file: on a full disk a halt would not hold over a restart", "err", err)
	}
	if err := r.market.open(ctx); err != nil {
		return err
	}
	defer r.market.close()
	close(r.opened)
	if len(r.paths.Socket) > socketMaxPath {
		r.env.Log.Warn("doing without the socket, whose path is too long: halt and resume go through the file and control", "path", r.paths.Socket, "bytes", len(r.paths.Socket), "most", socketMaxPath)
	} else if r.paths.Socket != "" {
		stop, err := r.serveSocket(ctx)
		if err != nil {
			return err
		}
		defer stop()
	}

	var followers sync.WaitGroup
	defer followers.Wait()
	defer cancel(nil)
	followers.Go(func() {
		if err := r.follow(ctx, event.TopicControl, controlEnd, func(rec bus.Record) { r.board.apply(rec, true) }); err != nil && ctx.Err() == nil {
			r.board.fail(err)
			cancel(err)
		}
	})
	followers.Go(func() {
		if err := r.follow(ctx, event.TopicInstruments, instrumentsEnd, r.market.learn); err != nil && ctx.Err() == nil {
			cancel(err)
		}
	})
	followers.Go(func() {
		if err := r.market.follow(ctx); err != nil && ctx.Err() == nil {
			cancel(err)
		}
	})
	followers.Go(func() {
		select {
		case <-r.consumer.Ready():
			close(r.ready)
		case <-ctx.Done():
		}
	})
	if err := r.consumer.Run(ctx, r.own); err != nil {
		return err
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return nil
}

// follow reads a topic of one partition from an offset on, until ctx ends.
func (r *Role) follow(ctx context.Context, topic string, from int64, each func(bus.Record)) error {
	reader, err := r.client.NewReader(ctx, bus.ReaderConfig{Topic: topic, Offset: from}, r.env)
	if err != nil {
		return fmt.Errorf("following %s: %w", topic, err)
	}
	defer reader.Close()
	for {
		records, err := reader.Next(ctx)
		if err != nil {
			return fmt.Errorf("following %s: %w", topic, err)
		}
		for _, rec := range records {
			each(rec)
		}
	}
}

// Halt halts every entry, as `autohedge halt` does: the latch first, which needs
// neither disk nor Kafka, then the file and control. What could not be written is
// among the report's warnings; the latch holds. It may be called once Ready is
// closed.
func (r *Role) Halt(ctx context.Context, who, why string) (HaltReport, error) {
	return r.board.halt(ctx, haltRequest{scope: ScopeAll, who: who, why: why, level: event.HaltReduce, whence: "engine"})
}

// HaltedBy reports whether a halt of everything by that name is in force.
func (r *Role) HaltedBy(who string) bool {
	for _, h := range r.board.list() {
		if h.Scope == ScopeAll && h.Who == who {
			return true
		}
	}
	return false
}

// Drain implements component.Role: market data to its end, decisions to theirs,
// working orders asked for, final marks.
func (r *Role) Drain(ctx context.Context) error {
	select {
	case <-r.opened:
	case <-r.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("draining execution: %w", ctx.Err())
	}
	if err := r.market.drain(ctx); err != nil {
		return err
	}
	if err := r.consumer.Drain(ctx); err != nil {
		return err
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("draining execution: %w", ctx.Err())
	}
}

// own runs one partition of accounts until it is lost or drained.
func (r *Role) own(ctx context.Context, a *bus.Assignment) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	o, err := r.restore(ctx, a.Partition, func(err error) { cancel(err) })
	if err != nil {
		return err
	}
	defer o.close()
	r.setOwner(a.Partition, o)
	defer r.setOwner(a.Partition, nil)
	a.Bind(o.producer.Producer)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel(nil)
	for _, acc := range o.accounts {
		background.Go(func() {
			if err := o.reports(ctx, acc); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
		background.Go(func() {
			if err := o.sends(ctx, acc); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	background.Go(func() { o.watchLog(ctx) })
	background.Go(func() {
		if err := o.closesLots(ctx); err != nil && ctx.Err() == nil {
			cancel(err)
		}
	})
	background.Go(func() {
		if err := o.ticks(ctx); err != nil && ctx.Err() == nil {
			cancel(err)
		}
	})
	background.Go(func() {
		if err := o.saves(ctx); err != nil && ctx.Err() == nil {
			cancel(err)
		}
	})
	a.Ready()
	if err := o.consume(ctx, a); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	return nil
}

var _ component.Role = (*Role)(nil)

// tickEvery is how often an owner looks for what time alone brings: marks,
// orders that stay unconfirmed, orders to cancel after a halt.
const tickEvery = 100 * time.Millisecond

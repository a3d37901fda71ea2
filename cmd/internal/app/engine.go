package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/cmd/internal/config"
	"github.com/autohedge/autohedge/cmd/internal/folder"
	"github.com/autohedge/autohedge/cmd/internal/health"
	"github.com/autohedge/autohedge/cmd/internal/obs"
	"github.com/autohedge/autohedge/execution"
	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
)

const (
	// drainBudget is how long a drain may take in all.
	drainBudget = 20 * time.Second
	// summaryBudget is how long the closing questions may take: in a folder of a hundred
	// million ticks each reads all of them.
	summaryBudget = 5 * time.Minute
)

// engine is one process's share of the whole: the servers it embeds, its
// connections, and the roles it runs.
type engine struct {
	cfg      config.Config
	folder   *folder.Folder
	env      component.Env
	metrics  *prometheus.Registry
	board    *health.Board
	progress io.Writer // where long steps show that they move

	broker *bus.Embedded      // nil: Kafka is elsewhere
	server *clickhouse.Engine // nil: ClickHouse is elsewhere
	// The announcements of broker and server.
	kafkaAnnouncement, storeAnnouncement folder.Announcement
	client                               *bus.Client
	store                                *clickhouse.Client
	http                                 *obs.Server
	locks                                []*folder.Lock
	roles                                []*supervisedRole
	restarts                             *prometheus.CounterVec // by role
	drainSeconds                         *prometheus.GaugeVec   // by role
	requestHalt                          func(ctx context.Context, why string) error
	budget                               *budget // set by connect

	watching sync.WaitGroup
	unwatch  context.CancelFunc

	mu     sync.Mutex
	faults []string
	failed chan struct{} // closed at the first fault of a role
}

func newEngine(cfg config.Config, f *folder.Folder, log *slog.Logger, clock component.Clock, progress io.Writer) *engine {
	metrics := obs.NewRegistry(Version())
	restarts, drainSeconds := newSupervisionMetrics(metrics)
	e := &engine{
		restarts: restarts, drainSeconds: drainSeconds, cfg: cfg, folder: f, metrics: metrics, board: health.NewBoard(f.Root()), progress: progress,
		env: component.Env{Log: log, Metrics: metrics, Clock: clock}, failed: make(chan struct{}),
	}
	e.requestHalt = e.orderHalt
	return e
}

// fault notes what went wrong; it ends up in the summary and in the exit code.
func (e *engine) fault(what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Contains(e.faults, what) {
		e.faults = append(e.faults, what)
	}
}

func (e *engine) faultList() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string{}, e.faults...)
}

func (e *engine) executionPaths() execution.Paths {
	return execution.Paths{PaperDir: e.folder.Paper(), HaltFile: e.folder.Halt(), Socket: e.folder.Socket()}
}

// connect starts or finds Kafka and, where it is needed, ClickHouse, both at the
// same time, and brings topics and tables into shape.
func (e *engine) connect(ctx context.Context, needStore bool) error {
	var err error
	if e.http, err = obs.Serve(e.cfg.HTTP, e.metrics, e.board, e.env.Log.With("component", "http")); err != nil {
		return err
	}
	errs := make(chan error, 2)
	go func() { errs <- e.connectKafka(ctx) }()
	go func() {
		if !needStore {
			errs <- nil
			return
		}
		errs <- e.connectStore(ctx)
	}()
	err = errors.Join(<-errs, <-errs)
	if err != nil {
		return logCode(err)
	}
	e.board.Add("kafka", func(ctx context.Context) error { _, err := e.client.Offsets(ctx, "control"); return err })
	if e.store != nil {
		e.board.Add("clickhouse", e.store.Ping)
	}
	wctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.unwatch = cancel
	e.watching.Go(func() { e.board.Watch(wctx, 5*time.Second) })
	e.watching.Go(func() { e.watchLogs(wctx) })
	e.budget = newBudget(e)
	e.board.AddCondition("disk", func() string { return e.budget.meter.Last().Full })
	e.watching.Go(func() { e.budget.watch(wctx, e) })
	return nil
}

func (e *engine) connectKafka(ctx context.Context) error {
	cfg := e.cfg.Kafka
	own := len(cfg.Brokers) == 0
	if own {
		owner, err := e.embeddedKafka(ctx)
		if err != nil {
			return err
		}
		cfg = kafkaOf(cfg, owner)
		if e.broker == nil { // another process runs it
			cfg.Moved = (&follower{folder: e.folder, part: "kafka", known: []string{owner.Addr}}).moved
		}
	}
	client, err := bus.Connect(ctx, cfg, e.env)
	if err != nil {
		return err
	}
	e.client = client
	if own {
		err = ensureOwnTopics(ctx, client, e.env)
	} else {
		err = client.EnsureTopics(ctx)
	}
	if err != nil {
		return err
	}
	return checkLogs(ctx, e.folder, client)
}

// ownOrJoin returns the address of a part's owner: another process that runs, or
// is just starting, the part, or else this one, which starts it.
func (e *engine) ownOrJoin(ctx context.Context, part string, start func() (string, error)) (string, error) {
	if a, ok := e.folder.Owner(part); ok {
		return a.Addr, nil
	}
	addr, err := start()
	var held *folder.HeldError
	if errors.As(err, &held) {
		if a, ok := e.folder.AwaitOwner(ctx, part, ownerPatience); ok {
			return a.Addr, nil
		}
	}
	return addr, err
}

// ownerPatience is how long the owner of an embedded server may take to start.
const ownerPatience = 15 * time.Second

// own takes a part of the folder for as long as the engine lives.
func (e *engine) own(part string) error {
	lock, err := e.folder.Own(part)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.locks = append(e.locks, lock)
	return nil
}

func (e *engine) connectStore(ctx context.Context) error {
	cfg := e.cfg.ClickHouse
	if cfg.URL == "" {
		owner, err := e.embeddedStore(ctx)
		if err != nil {
			return err
		}
		cfg.URL, cfg.User, cfg.Password = owner.Addr, owner.User, component.NewSecret(owner.Password)
		if e.server == nil { // another process runs it
			cfg.Moved = (&follower{folder: e.folder, part: "clickhouse"}).moved
			cfg.Moved("") // remembers the present address
		}
	}
	store, err := clickhouse.Connect(ctx, cfg, e.env)
	if err != nil {
		return err
	}
	e.store = store
	return store.Migrate(ctx)
}

// embeddedStore returns the address and the credential of the folder's ClickHouse, which
// another process may already run.
func (e *engine) embeddedStore(ctx context.Context) (folder.Announcement, error) {
	_, err := e.ownOrJoin(ctx, "clickhouse", func() (string, error) {
		if err := e.startStore(ctx); err != nil {
			return "", err
		}
		return e.server.URL(), nil
	})
	if err != nil {
		return folder.Announcement{}, err
	}
	owner, ok := e.folder.Owner("clickhouse")
	if !ok && e.server == nil {
		return owner, errors.New("finding the folder's ClickHouse: its process has just ended: start again")
	}
	if e.server != nil {
		owner = e.storeAnnouncement
	}
	return owner, nil
}

// startStore starts the folder's engine as a child of this process.
func (e *engine) startStore(ctx context.Context) error {
	if err := e.own("clickhouse"); err != nil {
		return err
	}
	key, err := e.folder.Key("clickhouse")
	if err != nil {
		return err
	}
	e.server, err = clickhouse.StartEngine(ctx, clickhouse.EngineConfig{
		Dir: e.folder.ClickHouse(), Addr: e.cfg.Embedded.ClickHouse, Progress: e.progress,
		User: e.cfg.ClickHouse.User, Password: e.cfg.ClickHouse.Password, Key: component.NewSecret(key), OpenReads: e.cfg.Embedded.OpenReads,
	}, e.env)
	if err != nil {
		return err
	}
	e.storeAnnouncement = folder.Announcement{Addr: e.server.URL(), User: clickhouse.KeyUser, Password: key}
	return e.folder.Announce("clickhouse", e.storeAnnouncement)
}

// start builds and starts the roles, downstream first, each once the one before
// it is ready.
func (e *engine) start(ctx context.Context, specs []roleSpec) error {
	for _, s := range specs {
		e.board.Wait(s.name)
	}
	for _, s := range specs {
		begun := time.Now()
		r, err := e.startRole(ctx, s)
		if err != nil {
			return err
		}
		select {
		case <-r.ready:
			e.env.Log.Debug("role is ready", "role", s.name, "took", time.Since(begun))
		case <-r.done:
			return fmt.Errorf("starting role %s: %s", s.name, strings.Join(e.faultList(), "; "))
		case <-ctx.Done():
			return fmt.Errorf("starting role %s: %w", s.name, context.Cause(ctx))
		}
	}
	e.board.SetPhase("running")
	e.watchLag(ctx)
	return nil
}

// addHealth gives /health what a role says of itself beyond being ready.
func (e *engine) addHealth(role component.Role) {
	if c, ok := role.(interface {
		Conditions() map[string]func() string
	}); ok {
		for name, f := range c.Conditions() {
			e.board.AddCondition(name, f)
		}
	}
	if d, ok := role.(interface{ Details() map[string]func() any }); ok {
		for name, f := range d.Details() {
			e.board.AddDetail(name, f)
		}
	}
}

// lagEvery is how often the lag of this process's groups is measured.
const lagEvery = 5 * time.Second

// watchLag keeps the lag gauges of the roles that run here, until close.
func (e *engine) watchLag(ctx context.Context) {
	if e.client == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := e.unwatch
	e.unwatch = func() {
		cancel()
		if stop != nil {
			stop()
		}
	}
	var groups []string
	for _, r := range e.roles {
		groups = append(groups, r.name)
	}
	e.watching.Go(func() { e.client.WatchLag(ctx, lagEvery, groups...) })
}

// close ends the connections and the servers this process embeds; what it
// cannot end within ctx becomes a fault.
func (e *engine) close(ctx context.Context) {
	note := func(what string, err error) {
		if err != nil {
			e.fault(what + ": " + err.Error())
		}
	}
	if e.unwatch != nil {
		e.unwatch()
		e.watching.Wait()
	}
	if e.store != nil {
		note("closing the ClickHouse client", e.store.Close())
	}
	if e.server != nil {
		e.folder.Withdraw("clickhouse")
		note("closing the embedded ClickHouse", e.server.Close(ctx))
	}
	if e.client != nil {
		note("closing the Kafka client", e.client.Close())
	}
	if e.broker != nil {
		e.folder.Withdraw("kafka")
		note("closing the embedded Kafka", e.broker.Close())
	}
	note("closing the metrics server", e.http.Close(ctx))
	for _, l := range e.locks {
		l.Unlock()
	}
}

package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/cmd/internal/config"
	"github.com/autohedge/autohedge/cmd/internal/folder"
	"github.com/autohedge/autohedge/cmd/internal/obs"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/sim"
)

// demoOptions are the flags of `autohedge demo`.
type demoOptions struct {
	length  time.Duration
	fresh   bool
	feed    string
	files   []string
	speed   string
	seed    uint64
	rate    float64
	session string
}

func (t *tool) demoCommand() *cobra.Command {
	o := demoOptions{}
	sc := sim.DefaultConfig()
	c := &cobra.Command{
		Use: "demo [FILE...]", Short: "Run everything on this machine", GroupID: "run",
		Long: `demo starts the whole engine in one process, with nothing to set up: the embedded
Kafka and ClickHouse (whose library is fetched once), the exchange simulator, all
roles, the deterministic desk and the paper broker. It shows a live summary and
ends on Ctrl-C, or after --for, with a closing summary taken from ClickHouse.

A second start goes on with the same data; --fresh begins anew.

  --feed sim              the simulator, seeded, with faults (default)
  --feed recording:FILE   recorded frames through the venue code, as a session of
                          its own; further files may follow
  --feed live             the venues' public endpoints
  --feed config           the feeds of --config`,
		Example: `  autohedge demo
  autohedge demo --for 30s --output json
  autohedge demo --feed recording:BINANCE.ws.1.0 --speed max
  autohedge demo --feed live --data /tmp/live`,
		RunE: func(cmd *cobra.Command, a []string) error {
			if kind, file, ok := strings.Cut(o.feed, ":"); ok {
				o.feed, o.files = kind, append(strings.Split(file, ","), a...)
			} else if len(a) > 0 {
				return withCode(exitUsage, fmt.Errorf("unexpected argument %q: files go with --feed recording:FILE", a[0]))
			}
			if o.length < 0 {
				return withCode(exitUsage, fmt.Errorf("--for %s: want a time of 0 or more", o.length))
			}
			return t.demo(cmd.Context(), o)
		},
	}
	f := c.Flags()
	f.DurationVar(&o.length, "for", 0, "end by itself this long after readiness (default: run until Ctrl-C)")
	f.BoolVar(&o.fresh, "fresh", false, "delete the data folder's contents first")
	f.StringVar(&o.feed, "feed", "sim", "sim, live, config or recording:FILE[,FILE...]")
	f.StringVar(&o.speed, "speed", "1", "pace of a recording: a factor, or max")
	f.Uint64Var(&o.seed, "seed", sc.Seed, "the simulated market's shape")
	f.Float64Var(&o.rate, "rate", sc.Rate, "simulated trades a second, over all symbols")
	f.StringVar(&o.session, "session", "", "name of a recording's session (default: the next free r1, r2, ...)")
	return c
}

// market is the kind of market that --feed names; files of a recording must be
// there, before anything is deleted for them.
func (o demoOptions) market(cfg config.Config) (string, error) {
	switch o.feed {
	case "recording":
		for _, name := range o.files {
			if _, err := os.Stat(name); err != nil {
				return "", withCode(exitUsage, fmt.Errorf("opening the recording: %w", err))
			}
		}
		return "", nil // lands in a session of its own
	case "sim":
		return marketSimulated, nil
	case "live":
		return marketReal, nil
	case "config":
		return marketOf(cfg.Stream.Feeds)
	}
	return "", withCode(exitUsage, fmt.Errorf("unknown --feed %q: want sim, live, config or recording:FILE", o.feed))
}

// demo is one run from the lock to the closing summary.
func (t *tool) demo(ctx context.Context, o demoOptions) error {
	cfg, err := t.loadConfig()
	if err != nil {
		return err
	}
	f, err := t.openFolder(cfg)
	if err != nil {
		return err
	}
	market, err := o.market(cfg)
	if err != nil {
		return err
	}
	lock, err := f.Lock("")
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if o.fresh {
		if err := f.Clear(); err != nil {
			return err
		}
	}
	if err := claimMarket(f, market); err != nil {
		return err
	}
	v, err := t.newView(f)
	if err != nil {
		return err
	}
	defer v.close()
	log, err := obs.NewLogger(cfg.Log, v.log)
	if err != nil {
		return err
	}
	t.terminal.serve(log)
	var clock component.Clock = component.SystemClock{}
	if o.feed == "recording" {
		clock = &component.SessionClock{}
	}
	d := &demoRun{tool: t, options: o, view: v, log: log, folder: f, engine: newEngine(cfg, f, log, clock, t.err)}
	defer d.finish()
	if err := d.feeds(ctx); err != nil {
		return err
	}
	d.probeMore()
	return d.run(ctx)
}

// demoProbeEvery is how many signals a probe comes in a demo that configures no other
// number: few enough that something is to be seen in a minute.
const demoProbeEvery = 5

// probeMore lets the desk of a demo probe more often than a desk with an account of
// real money does, and says so.
func (d *demoRun) probeMore() {
	policy := &d.engine.cfg.Agents.Policy
	if policy.EdgeBps == 0 && policy.ProbeEvery == config.Default().Agents.Policy.ProbeEvery {
		policy.ProbeEvery = demoProbeEvery
	}
	if policy.EdgeBps == 0 && !d.engine.cfg.Agents.UsesLLM() {
		d.view.note(fmt.Sprintf("nobody has measured an edge of these rules: the desk probes one signal in %d with the smallest size", policy.ProbeEvery))
	}
}

// demoRun is the state of one demo.
type demoRun struct {
	tool    *tool
	options demoOptions
	view    *view
	log     *slog.Logger
	folder  *folder.Folder
	engine  *engine
	sim     *sim.Sim
	closers []io.Closer
}

// finish ends what the demo started outside the engine.
func (d *demoRun) finish() {
	for _, c := range d.closers {
		if err := c.Close(); err != nil {
			d.log.Warn("closing the feed", "err", err)
		}
	}
	d.closers = nil
}

func (d *demoRun) run(ctx context.Context) error {
	e := d.engine
	begun := time.Now()
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(demoMemory)
	}
	err := d.choose(ctx)
	if err == nil {
		err = e.connect(ctx, true)
	}
	var since mark
	if err == nil {
		since, err = e.mark(ctx)
	}
	if err == nil {
		err = e.start(ctx, roleTable())
	}
	if err != nil {
		e.abandon()
		return err
	}
	d.log.Info("ready", "took", time.Since(begun).Round(time.Millisecond), "metrics", "http://"+e.http.Addr()+"/metrics",
		"clickhouse", e.storeURL(), "kafka", e.kafkaAddr())
	ready := time.Now()
	d.watch(ctx)
	return d.end(ready, since)
}

// watch shows the run until it is to end.
func (d *demoRun) watch(ctx context.Context) {
	if d.options.length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.options.length)
		defer cancel()
	}
	over := make(chan struct{}) // a recording has been played
	if r := d.engine.streamRole(); r != nil && d.options.feed == "recording" {
		go func() {
			select {
			case <-r.Done():
				close(over)
			case <-ctx.Done():
			}
		}()
	}
	var simulated <-chan struct{} // the simulator ended by itself
	if d.sim != nil {
		simulated = d.sim.Done()
	}
	live := newLive(d.engine, d.options)
	defer live.close()
	tick := time.NewTicker(d.view.every())
	defer tick.Stop()
	for {
		d.view.show(live.page(ctx))
		select {
		case <-ctx.Done():
			return
		case <-over:
			return
		case <-d.engine.failed:
			return
		case <-simulated:
			d.engine.fault(fmt.Sprintf("the simulator ended: %v", d.sim.Err()))
			return
		case <-tick.C:
		}
	}
}

// demoMemory is the memory from which on the demo's process collects its garbage more
// often: it shares a laptop with everything else. GOMEMLIMIT says otherwise.
const demoMemory = 768 << 20

// end drains, asks and prints.
func (d *demoRun) end(ready time.Time, since mark) error {
	e := d.engine
	d.view.note("stopping: draining every role, upstream first")
	ctx, cancel := context.WithTimeout(context.Background(), drainBudget)
	defer cancel()
	if d.sim != nil {
		// What the market made last must reach the feeds before they stop.
		if err := d.sim.Pause(ctx); err != nil {
			e.fault(err.Error())
		}
	}
	e.drain(ctx)
	asking, stop := context.WithTimeout(context.Background(), summaryBudget)
	defer stop()
	d.view.note("asking what the run and the folder hold")
	s, err := e.summarize(asking, since)
	if err != nil {
		e.fault("asking for the closing summary: " + err.Error())
		s = &summary{Data: d.folder.Root(), PnLCheck: unknownCheck}
	}
	d.addFeed(asking, s)
	for _, f := range s.failures() {
		e.fault(f)
	}
	closing, end := context.WithTimeout(context.Background(), drainBudget)
	defer end()
	e.close(closing)
	s.Seconds = time.Since(ready).Seconds()
	s.Errors = e.faultList()
	d.view.close()
	if d.tool.output == "json" {
		if err := d.tool.json(s); err != nil {
			return err
		}
	} else {
		s.text(d.tool.out)
	}
	if len(s.Errors) > 0 {
		return withCode(exitFailed, fmt.Errorf("the run had errors: %s", strings.Join(s.Errors, "; ")))
	}
	return nil
}

// addFeed adds what only one kind of feed can tell.
func (d *demoRun) addFeed(ctx context.Context, s *summary) {
	e := d.engine
	switch d.options.feed {
	case "sim":
		n, err := e.simCheck(ctx)
		if err != nil {
			e.fault("comparing with the simulator's ledger: " + err.Error())
			return
		}
		s.SimCheck = &n
	case "recording":
		s.Session = e.cfg.Kafka.Session
		if r := e.streamRole(); r != nil {
			s.Frames = r.Frames()
		}
		var err error
		if s.Hashes, err = e.sessionHashes(ctx); err != nil {
			e.fault("hashing the session: " + err.Error())
		}
	}
}

// feeds points the configuration at the chosen feed.
func (d *demoRun) feeds(ctx context.Context) error {
	cfg, env := &d.engine.cfg, d.engine.env
	switch d.options.feed {
	case "sim":
		sc := sim.DefaultConfig()
		sc.Dir, sc.Seed, sc.Rate, sc.Schedule = d.folder.Sim(), d.options.seed, d.options.rate, sim.ScheduleDemo
		if err := sc.Validate().Err(); err != nil {
			return withCode(exitUsage, err)
		}
		// Ctrl-C ends the roles first: what the market has made must reach them.
		s, err := sim.Start(context.WithoutCancel(ctx), sc, env)
		if err != nil {
			return err
		}
		d.sim, d.closers = s, append(d.closers, s)
		cfg.Stream.Feeds = simFeeds(s, sc)
	case "recording":
		if err := d.play(ctx, cfg, env); err != nil {
			return err
		}
		if reflect.DeepEqual(cfg.Signals.Rules, config.Default().Signals.Rules) {
			// The default rules watch the simulator's symbols.
			for i := range cfg.Signals.Rules {
				cfg.Signals.Rules[i].Venues, cfg.Signals.Rules[i].Symbols = nil, nil
			}
		}
	case "live":
		cfg.Stream.Feeds = config.Default().Stream.Feeds
	}
	return withCode(exitConfig, cfg.Validate().Err())
}

// abandon closes what a start that did not succeed left open.
func (e *engine) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), drainBudget)
	defer cancel()
	e.drain(ctx)
	closing, end := context.WithTimeout(context.Background(), drainBudget)
	defer end()
	e.close(closing)
}

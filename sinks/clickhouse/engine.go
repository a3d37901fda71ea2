package clickhouse

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/component"
)

// DefaultAddr is where the embedded engine listens unless that port is taken.
const DefaultAddr = "127.0.0.1:8223"

// EngineConfig configures the embedded engine.
type EngineConfig struct {
	// Dir is the folder that holds the database and its lock.
	Dir string
	// Addr is the address of the HTTP interface. Empty takes DefaultAddr, or a
	// free port when that is busy; a given address that is busy is an error.
	Addr string
	// Library is the path of libchdb; empty looks for it and fetches it.
	Library string
	// Progress gets the progress of fetching the library; nil is silent.
	Progress io.Writer
	// User and Password are a credential of the operator's, where a password is given.
	User     string
	Password component.Secret
	// Key is the password of user KeyUser, which this process and its tools have. With
	// a credential of either kind others may at most read; with none everybody may do
	// all that the port allows, as tests do.
	Key component.Secret
	// OpenReads lets clients without a credential read the tables, but the guarded
	// ones; without effect where Addr can be reached from other machines.
	OpenReads bool
	// MaxConnections bounds the statements that run at a time for the holders of a
	// credential, MaxReaders those of others; 0 is 16.
	MaxConnections, MaxReaders int
	// ReaderTime and ReaderMemory bound one statement of a client without a credential;
	// 0 is a minute and 2 GiB.
	ReaderTime   time.Duration
	ReaderMemory int64
	// MaxMemory bounds the engine's memory in bytes; 0 leaves the engine's own
	// bound, nine tenths of the machine's.
	MaxMemory int64
}

// KeyUser is the user of EngineConfig.Key.
const KeyUser = "autohedge"

// Engine is the embedded ClickHouse: libchdb in a child process of this binary,
// supervised, with ClickHouse's HTTP interface. It is safe for concurrent use.
type Engine struct {
	cfg      EngineConfig
	log      *slog.Logger
	listener *net.TCPListener
	restarts prometheus.Counter
	count    atomic.Int64
	pid      atomic.Int64

	closing chan struct{}
	closed  sync.Once
	done    chan struct{}

	mu    sync.Mutex
	stdin io.Closer
}

// StartEngine fetches the library where it is missing, starts the child and
// returns when it answers. ctx bounds the start only; Close ends the engine. The
// caller's main must call RunChildIfAsked first.
func StartEngine(ctx context.Context, cfg EngineConfig, env component.Env) (*Engine, error) {
	if cfg.Dir == "" {
		return nil, errors.New("starting ClickHouse: no folder given")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("finding the ClickHouse folder: %w", err)
	}
	cfg.Dir = dir
	if cfg.MaxConnections <= 0 {
		cfg.MaxConnections = 16
	}
	if cfg.MaxReaders <= 0 {
		cfg.MaxReaders = 16
	}
	if cfg.ReaderTime <= 0 {
		cfg.ReaderTime = time.Minute
	}
	if cfg.ReaderMemory <= 0 {
		cfg.ReaderMemory = 2 << 30
	}
	if cfg.Library == "" {
		if cfg.Library, err = FindLibrary(ctx, cfg.Progress); err != nil {
			return nil, err
		}
	}
	e := &Engine{cfg: cfg, log: env.Log.With("component", "clickhouse"), closing: make(chan struct{}), done: make(chan struct{})}
	e.restarts = component.Register(env.Metrics, prometheus.NewCounter(prometheus.CounterOpts{
		Name: "autohedge_clickhouse_engine_restarts_total", Help: "Times the embedded ClickHouse process was started again after it ended by itself.",
	}))
	if e.listener, err = listen(ctx, cfg.Addr, e.log); err != nil {
		return nil, err
	}
	first := make(chan error, 1)
	go e.supervise(first)
	select {
	case err = <-first:
	case <-ctx.Done():
		err = fmt.Errorf("starting ClickHouse: %w", ctx.Err())
	}
	if err != nil {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = e.Close(stop) // the first error counts
		return nil, err
	}
	return e, nil
}

func listen(ctx context.Context, addr string, log *slog.Logger) (*net.TCPListener, error) {
	var lc net.ListenConfig
	want := addr
	if want == "" {
		want = DefaultAddr
	}
	l, err := lc.Listen(ctx, "tcp", want)
	if err != nil && addr == "" && errors.Is(err, syscall.EADDRINUSE) {
		if l, err = lc.Listen(ctx, "tcp", "127.0.0.1:0"); err == nil {
			log.Info("the default ClickHouse port is busy, another one is used", "default", DefaultAddr, "addr", l.Addr().String())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listening for ClickHouse's HTTP interface: %w", err)
	}
	return l.(*net.TCPListener), nil
}

// URL is the address of the HTTP interface; it stays the same across restarts.
func (e *Engine) URL() string { return "http://" + e.listener.Addr().String() }

// PID is the child's process id, or 0 while it is being restarted.
func (e *Engine) PID() int { return int(e.pid.Load()) }

// Restarts counts how often the child was started again after it ended by
// itself.
func (e *Engine) Restarts() int { return int(e.count.Load()) }

// Close stops the child: it finishes what runs within a few seconds and closes
// the database. When ctx ends before it, the child is killed, which loses no
// acknowledged row.
func (e *Engine) Close(ctx context.Context) error {
	e.closed.Do(func() {
		close(e.closing)
		_ = e.listener.Close()
		e.mu.Lock()
		if e.stdin != nil {
			_ = e.stdin.Close()
		}
		e.mu.Unlock()
	})
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
	}
	if pid := e.PID(); pid != 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-e.done
	return fmt.Errorf("stopping ClickHouse: killed after %w", ctx.Err())
}

const (
	restartDelay    = 50 * time.Millisecond
	maxRestartDelay = 5 * time.Second
	// settled is how long a child must live for the next restart to be immediate
	// again.
	settled = 30 * time.Second
)

// supervise runs one child after the other until Close. The first one's outcome
// goes to first; when it does not become ready the engine is given up.
func (e *Engine) supervise(first chan<- error) {
	defer close(e.done)
	delay := restartDelay
	for start := true; ; start = false {
		began := time.Now()
		ready := func() {
			if start {
				first <- nil
				return
			}
			e.log.Info("ClickHouse runs again", "pid", e.PID(), "after_ms", time.Since(began).Milliseconds())
		}
		wasReady, err := e.runOnce(ready)
		if start && !wasReady {
			first <- err
			return
		}
		select {
		case <-e.closing:
			return
		default:
		}
		e.count.Add(1)
		e.restarts.Inc()
		if time.Since(began) > settled {
			delay = restartDelay
		}
		e.log.Error("ClickHouse ended by itself, starting it again", "err", err, "delay", delay)
		select {
		case <-e.closing:
			return
		case <-time.After(delay):
		}
		delay = min(2*delay, maxRestartDelay)
	}
}

// runOnce starts a child and returns when it has ended.
func (e *Engine) runOnce(ready func()) (wasReady bool, err error) {
	self, err := os.Executable()
	if err != nil {
		return false, fmt.Errorf("finding this program: %w", err)
	}
	socket, err := e.listener.File()
	if err != nil {
		return false, fmt.Errorf("handing over the listening socket: %w", err)
	}
	defer socket.Close()      //nolint:errcheck // a duplicate
	cmd := exec.Command(self) //nolint:gosec // G204: this program itself
	cmd.Env = e.childEnvironment()
	cmd.ExtraFiles = []*os.File{socket}
	// Its own process group: Ctrl-C is for the parent, which stops it in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return false, fmt.Errorf("opening a pipe to ClickHouse: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return false, fmt.Errorf("opening a pipe from ClickHouse: %w", err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return false, fmt.Errorf("opening a pipe from ClickHouse: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("starting the ClickHouse process: %w", err)
	}
	e.pid.Store(int64(cmd.Process.Pid))
	defer e.pid.Store(0)
	e.mu.Lock()
	e.stdin = stdin
	select {
	case <-e.closing: // Close came while the child was starting
		_ = stdin.Close()
	default:
	}
	e.mu.Unlock()
	if line, err := json.Marshal(e.childConfig()); err == nil { //nolint:gosec // G117: into a pipe to our own child
		_, _ = stdin.Write(append(line, '\n')) // a child that is gone already shows in Wait
	}
	var readers sync.WaitGroup
	var fatal string
	watched, unwatch := context.WithCancel(context.Background())
	defer unwatch()
	answers := func() {
		ready()
		go e.replaceHung(watched, cmd.Process.Pid)
	}
	readers.Go(func() { wasReady, fatal = e.readReports(stdout, answers) })
	var lastWords string
	readers.Go(func() { lastWords = e.readStderr(stderr) })
	readers.Wait()
	unwatch() // before Wait: its id may be another process's then
	err = cmd.Wait()
	switch {
	case fatal != "":
		return wasReady, fmt.Errorf("running ClickHouse: %s%s", fatal, lastWords)
	case err != nil:
		return wasReady, fmt.Errorf("running ClickHouse: %w%s", err, lastWords)
	}
	return wasReady, errors.New("running ClickHouse: it stopped")
}

const (
	// pingEvery and pingTimeout are how often the child is asked whether it answers at
	// all, and how long it may take; hungAfter failures in a row make it count as hung.
	pingEvery   = 3 * time.Second
	pingTimeout = 5 * time.Second
	hungAfter   = 3
)

// replaceHung kills the child when it answers no more: what waits in it never will, and
// supervise starts another one. A ping needs no connection of the engine.
func (e *Engine) replaceHung(ctx context.Context, pid int) {
	client := &http.Client{Timeout: pingTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for failed := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-e.closing:
			return
		case <-tick.C:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.URL()+"/ping", nil)
		if err != nil {
			return
		}
		resp, err := client.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			failed = 0
			continue
		}
		if failed++; failed < hungAfter || ctx.Err() != nil {
			continue
		}
		e.log.Error("ClickHouse answers no more: its process is ended and started again", "pid", pid, "failures", failed, "err", err)
		_ = syscall.Kill(pid, syscall.SIGKILL)
		return
	}
}

func (e *Engine) childConfig() childConfig {
	options := []string{"--", "--background_pool_size=4", "--background_schedule_pool_size=8"}
	if e.cfg.MaxMemory > 0 {
		options = append(options, fmt.Sprintf("--max_server_memory_usage=%d", e.cfg.MaxMemory))
	}
	c := childConfig{
		Dir: e.cfg.Dir, Library: e.cfg.Library, Parent: os.Getpid(), Connections: e.cfg.MaxConnections, Readers: e.cfg.MaxReaders, Options: options,
		OpenReads:     e.cfg.OpenReads && component.IsLoopback(e.listener.Addr().String()),
		ReaderSeconds: max(1, int64(e.cfg.ReaderTime/time.Second)), ReaderMemory: e.cfg.ReaderMemory,
	}
	if !e.cfg.Key.IsZero() {
		c.Credentials = append(c.Credentials, credential{KeyUser, e.cfg.Key.Reveal()})
	}
	if !e.cfg.Password.IsZero() {
		c.Credentials = append(c.Credentials, credential{e.cfg.User, e.cfg.Password.Reveal()})
	}
	return c
}

// inherited are the variables of the environment that the child gets: none of them
// holds a secret.
var inherited = []string{"TZ", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "GOMAXPROCS", "GOTRACEBACK", "GORACE", "GOCOVERDIR"}

// childEnvironment is what the child gets of this process's environment: whatever can
// read the engine's own files could read the rest, keys included.
func (e *Engine) childEnvironment() []string {
	env := []string{childVariable + "=1", confineVariable + "=" + e.cfg.Dir + "\n" + filepath.Dir(e.cfg.Library)}
	for _, name := range inherited {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// readReports reads the child's standard output: its reports and its log.
func (e *Engine) readReports(r io.Reader, ready func()) (wasReady bool, fatal string) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var line map[string]any
		if json.Unmarshal(sc.Bytes(), &line) != nil {
			e.log.Info("ClickHouse says", "text", sc.Text())
			continue
		}
		if line["ready"] == true {
			wasReady = true
			ready()
			continue
		}
		if text, ok := line["fatal"].(string); ok && text != "" {
			fatal = text
			continue
		}
		if msg, ok := line["msg"].(string); ok {
			var level slog.Level
			if text, ok := line["level"].(string); ok {
				_ = level.UnmarshalText([]byte(text)) // info when unknown
			}
			e.relog(level, msg, line)
		}
	}
	_, _ = io.Copy(io.Discard, r)
	return wasReady, fatal
}

// relog writes a line of the child's log into the parent's.
func (e *Engine) relog(level slog.Level, msg string, line map[string]any) {
	ctx := context.Background()
	if !e.log.Enabled(ctx, level) {
		return
	}
	r := slog.NewRecord(time.Now(), level, msg, 0)
	for k, v := range line {
		if k != "msg" && k != "level" && k != "time" {
			r.AddAttrs(slog.Any(k, v))
		}
	}
	_ = e.log.Handler().Handle(ctx, r) // a log that cannot be written has nowhere to be told
}

// readStderr passes the engine's own words on and returns the last of them.
func (e *Engine) readStderr(r io.Reader) string {
	var last string
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if text := sc.Text(); text != "" {
			e.log.Warn("ClickHouse says", "text", text)
			last = "; its last words: " + text
		}
	}
	_, _ = io.Copy(io.Discard, r)
	return last
}

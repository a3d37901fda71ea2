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
	// User and Password guard the HTTP interface when a password is given.
	User     string
	Password component.Secret
	// MaxConnections bounds the statements that run at a time; 0 is 16.
	MaxConnections int
	// MaxMemory bounds the engine's memory in bytes; 0 leaves the engine's own
	// bound, nine tenths of the machine's.
	MaxMemory int64
}

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
	cmd.Env = append(os.Environ(), childVariable+"=1")
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
	readers.Go(func() { wasReady, fatal = e.readReports(stdout, ready) })
	var lastWords string
	readers.Go(func() { lastWords = e.readStderr(stderr) })
	readers.Wait()
	err = cmd.Wait()
	switch {
	case fatal != "":
		return wasReady, fmt.Errorf("running ClickHouse: %s%s", fatal, lastWords)
	case err != nil:
		return wasReady, fmt.Errorf("running ClickHouse: %w%s", err, lastWords)
	}
	return wasReady, errors.New("running ClickHouse: it stopped")
}

func (e *Engine) childConfig() childConfig {
	options := []string{"--", "--background_pool_size=4", "--background_schedule_pool_size=8"}
	if e.cfg.MaxMemory > 0 {
		options = append(options, fmt.Sprintf("--max_server_memory_usage=%d", e.cfg.MaxMemory))
	}
	return childConfig{
		Dir: e.cfg.Dir, Library: e.cfg.Library, Parent: os.Getpid(), Connections: e.cfg.MaxConnections,
		User: e.cfg.User, Password: e.cfg.Password.Reveal(), Options: options,
	}
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

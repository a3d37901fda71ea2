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
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// childVariable marks a re-exec of this binary as the engine's process.
const childVariable = "AUTOHEDGE_CLICKHOUSE_CHILD"

// listenerFD is where the parent hands over its listening socket.
const listenerFD = 3

// childStop is how long the engine may take to stop after its parent asked for
// it or died.
const childStop = 8 * time.Second

// childConfig is the first line on the child's standard input; the pipe's end
// tells the child to stop.
type childConfig struct {
	Dir         string   `json:"dir"`
	Library     string   `json:"library"`
	Parent      int      `json:"parent"`
	Connections int      `json:"connections"`
	Readers     int      `json:"readers"`
	Options     []string `json:"options"`

	Credentials   []credential `json:"credentials"`
	OpenReads     bool         `json:"open_reads"`
	ReaderSeconds int64        `json:"reader_seconds"`
	ReaderMemory  int64        `json:"reader_memory"`
}

// childReport is a line on the child's standard output that is no log line.
type childReport struct {
	Ready bool   `json:"ready"`
	Fatal string `json:"fatal"`
}

// RunChildIfAsked serves the engine and ends the process when this process is
// the re-exec that Engine starts; otherwise it returns at once. Call it first in
// main and in every TestMain whose tests start an Engine.
func RunChildIfAsked() {
	if os.Getenv(childVariable) == "" {
		return
	}
	// The engine's threads and destructors must not run on: leave here.
	syscall.Exit(runChild(os.Stdin, os.Stdout))
}

func runChild(stdin io.Reader, stdout io.Writer) int {
	report := func(r childReport) {
		if line, err := json.Marshal(r); err == nil { // two plain fields
			_, _ = stdout.Write(append(line, '\n'))
		}
	}
	log := slog.New(slog.NewJSONHandler(stdout, nil))
	if err := confine(); err != nil {
		report(childReport{Fatal: err.Error()})
		return 1
	}
	if why := os.Getenv(notConfined); why != "" {
		log.Warn("the engine's process is not confined to its folder: statements that reach files are refused, and that is the only guard", "why", why)
	}
	if err := serveChild(stdin, log, func() { report(childReport{Ready: true}) }); err != nil {
		report(childReport{Fatal: err.Error()})
		return 1
	}
	return 0
}

func serveChild(stdin io.Reader, log *slog.Logger, ready func()) error {
	// Ctrl-C is the parent's business; a SIGTERM for this process alone is a stop.
	signal.Ignore(os.Interrupt)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)

	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("reading the configuration from the parent: %w", err)
	}
	var cfg childConfig
	if err := json.Unmarshal(line, &cfg); err != nil {
		return fmt.Errorf("decoding the configuration from the parent: %w", err)
	}
	parentGone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(parentGone)
	}()

	lock, err := lockDir(cfg.Dir, cfg.Parent)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // the process ends
	listener, err := net.FileListener(os.NewFile(listenerFD, "listener"))
	if err != nil {
		return fmt.Errorf("taking over the listening socket: %w", err)
	}
	api, err := loadCAPI(cfg.Library)
	if err != nil {
		return err
	}
	p, err := newPool(api, filepath.Join(cfg.Dir, "data"), cfg.Connections, cfg.Readers, cfg.Options)
	if err != nil {
		return fmt.Errorf("opening %s: %w", cfg.Dir, err)
	}
	handler, err := newServer(p, log, &cfg)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 1 << 20,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(listener) }()
	ready()
	select {
	case <-parentGone:
	case <-stop:
		log.Info("stopping the engine on SIGTERM")
	case err := <-served:
		return fmt.Errorf("serving HTTP: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), childStop)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("closing HTTP connections: %w", err)
	}
	if err := p.close(ctx); err != nil {
		return fmt.Errorf("closing the engine: %w", err)
	}
	return nil
}

// lockDir takes the folder for this process. A predecessor whose own parent is
// gone is about to end and is waited for.
func lockDir(dir string, parent int) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("making the ClickHouse folder: %w", err)
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock file: %w", err)
	}
	deadline := time.Now().Add(childStop + 2*time.Second)
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		holder, holderParent := readLock(path)
		if (holder != 0 && alive(holderParent)) || time.Now().After(deadline) {
			_ = f.Close()
			return nil, fmt.Errorf("locking the ClickHouse folder %s: it is in use by process %d (started by process %d); stop that one or choose another folder", dir, holder, holderParent)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%d %d\n", os.Getpid(), parent), 0)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("writing the lock file: %w", err)
	}
	return f, nil
}

func readLock(path string) (holder, parent int) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0
	}
	f := strings.Fields(string(text))
	if len(f) == 2 {
		holder, _ = strconv.Atoi(f[0])
		parent, _ = strconv.Atoi(f[1])
	}
	return holder, parent
}

func alive(pid int) bool {
	if pid <= 0 {
		return false
	}
	err := unix.Kill(pid, 0)
	return err == nil || errors.Is(err, unix.EPERM)
}

package clickhouse

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestPanicsAreRecovered runs the engine inside a process of its own and checks
// after every connect that the Go runtime still owns SIGSEGV.
func TestPanicsAreRecovered(t *testing.T) {
	if os.Getenv("AUTOHEDGE_TEST_IN_PROCESS") == "" {
		sharedEngine(t) // fetches the library
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPanicsAreRecovered$", "-test.v", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), "AUTOHEDGE_TEST_IN_PROCESS=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "recovered 12 times") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	path, err := FindLibrary(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	api, err := loadCAPI(path)
	if err != nil {
		t.Fatal(err)
	}
	recovered := 0
	check := func(after string) {
		t.Helper()
		err := func() (err error) {
			defer func() { err, _ = recover().(error) }()
			return touch(nil)
		}()
		var fault runtime.Error
		if !errors.As(err, &fault) {
			t.Fatalf("after %s: a nil dereference gave %v", after, err)
		}
		recovered++
	}
	check("loading")
	dir := t.TempDir()
	p, err := newPool(api, dir, 4, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	check("opening")
	var conns []*conn
	for range 4 {
		c, err := p.acquire(t.Context(), ownSlots)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		check("connect")
	}
	for _, c := range conns {
		if _, _, err := c.query("SELECT throwIf(1)", "TSV", nil); err == nil {
			t.Fatal("no exception")
		}
		check("an exception")
		p.release(c, true)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	check("closing connections")
	if err := p.close(ctx); err != nil {
		t.Fatal(err)
	}
	check("closing the engine")
	t.Logf("recovered %d times", recovered)
}

// touch writes through a pointer, in a way that no compiler or linter sees is nil.
//
//go:noinline
func touch(p *int) error {
	*p = 1
	return nil
}

// TestSigactionSize guards the buffer that saves a signal's disposition.
func TestSigactionSize(t *testing.T) {
	if got := unsafe.Sizeof(unix.Sigset_t{}); got+32 > sigactionSize {
		t.Errorf("a signal set has %d bytes", got)
	}
}

func TestSecondOwnerIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	e := startEngine(t, dir)
	_, err := StartEngine(t.Context(), EngineConfig{Dir: dir, Addr: "127.0.0.1:0"}, testEnv(t))
	if err == nil || !strings.Contains(err.Error(), "in use by process "+strconv.Itoa(e.PID())) || !strings.Contains(err.Error(), "started by process "+strconv.Itoa(os.Getpid())) {
		t.Fatalf("got %v, want the pids %d and %d", err, e.PID(), os.Getpid())
	}
	if _, err := StartEngine(t.Context(), EngineConfig{Dir: t.TempDir(), Addr: strings.TrimPrefix(e.URL(), "http://")}, testEnv(t)); err == nil || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a busy address: %v", err)
	}
}

func TestCloseAndReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	e := startEngine(t, dir)
	if a := post(t, e, "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a"); a.status != 200 {
		t.Fatal(a.body)
	}
	if a := post(t, e, "INSERT INTO t VALUES (1), (2)"); a.status != 200 {
		t.Fatal(a.body)
	}
	began := time.Now()
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	closed := time.Since(began)
	began = time.Now()
	e = startEngine(t, dir)
	t.Logf("closing took %s, starting again %s", closed, time.Since(began))
	if a := post(t, e, "SELECT count() FROM t"); a.body != "2\n" {
		t.Errorf("after reopening: %s", a.body)
	}
	if e.Restarts() != 0 {
		t.Errorf("restarts %d", e.Restarts())
	}
}

// TestKilledChildComesBack kills the child and finds the same address and data.
func TestKilledChildComesBack(t *testing.T) {
	e := startEngine(t, filepath.Join(t.TempDir(), "db"))
	post(t, e, "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
	post(t, e, "INSERT INTO t VALUES (1), (2)")
	for i := 1; i <= 2; i++ {
		pid := e.PID()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		waitFor(t, "the restart", func() bool { return e.PID() != pid && e.PID() != 0 })
		// The listening socket outlived the child: a request waits instead of failing.
		if a := post(t, e, "SELECT count() FROM t"); a.body != "2\n" {
			t.Fatalf("after the kill: %d %s", a.status, a.body)
		}
		t.Logf("pause %s", time.Since(began))
		if e.Restarts() != i {
			t.Errorf("restarts %d, want %d", e.Restarts(), i)
		}
	}
}

// TestParentDeathEndsTheChild starts a parent, kills it, and sees its child end
// and the folder become free.
func TestParentDeathEndsTheChild(t *testing.T) {
	const variable = "AUTOHEDGE_TEST_PARENT_DIR"
	if dir := os.Getenv(variable); dir != "" {
		e, err := StartEngine(t.Context(), EngineConfig{Dir: dir, Addr: "127.0.0.1:0"}, testEnv(t))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("child %d\n", e.PID())
		select {} // until killed
	}
	sharedEngine(t)
	dir := filepath.Join(t.TempDir(), "db")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestParentDeathEndsTheChild$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var child int
	for sc := bufio.NewScanner(out); child == 0 && sc.Scan(); {
		if text, ok := strings.CutPrefix(sc.Text(), "child "); ok {
			child, _ = strconv.Atoi(text)
		}
	}
	if child == 0 || !alive(child) {
		t.Fatal("the parent started no child")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	startEngine(t, dir)
	waitFor(t, "the orphan to end", func() bool { return !alive(child) })
}

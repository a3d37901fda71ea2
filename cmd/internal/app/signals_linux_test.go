package app_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	enterScreen = "\x1b[?1049h"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
)

// pty is a terminal of 80 columns and what was written to it.
type pty struct {
	control, device *os.File
	mu              sync.Mutex
	text            strings.Builder
}

func openPTY(t *testing.T) *pty {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = control.Close() })
	if err := unix.IoctlSetPointerInt(int(control.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(control.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(control.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	device, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = device.Close() })
	p := &pty{control: control, device: device}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := control.Read(buf)
			p.mu.Lock()
			p.text.Write(buf[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return p
}

func (p *pty) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// startOnTerminal starts a demo with its output on a terminal, and returns once its
// live screen is there.
func startOnTerminal(t *testing.T, p *pty, env ...string) *exec.Cmd {
	t.Helper()
	if err := library(); err != nil {
		t.Logf("there is no ClickHouse library: %v", err)
	}
	data, err := os.MkdirTemp("", "hangup")
	if err != nil {
		t.Fatal(err)
	}
	// The engine's child may outlive a demo that is ended at once by a moment.
	t.Cleanup(func() { until(t, "the data folder is removed", func() bool { return os.RemoveAll(data) == nil }) })
	c := exec.Command("autohedge", "demo", "--data", data, "--for", "10m")
	c.Stdout, c.Stderr, c.Dir = p.device, p.device, t.TempDir()
	c.Env = append(os.Environ(), append([]string{"TERM=xterm"}, env...)...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	until(t, "the live screen", func() bool {
		return strings.Contains(p.String(), enterScreen) && strings.Contains(p.String(), "TICKS/S")
	})
	return c
}

// The second Ctrl-C ends a demo by the signal, and the terminal is as it was.
func TestSecondInterruptRestoresTerminal(t *testing.T) {
	t.Parallel()
	p := openPTY(t)
	c := startOnTerminal(t, p)
	for range 2 {
		if err := c.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // two signals at once are one
	}
	state, err := c.Process.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if status, ok := state.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGINT {
		t.Errorf("the demo ended with %v, want by SIGINT", state)
	}
	until(t, "the terminal is restored", func() bool { return strings.Contains(p.String(), leaveScreen) })
	if text := p.String(); strings.LastIndex(text, enterScreen) > strings.LastIndex(text, leaveScreen) {
		t.Error("the terminal is left in the alternate screen")
	}
}

// A demo whose terminal is closed drains and ends in order; NO_COLOR sends no colours.
func TestHangUpDrainsDemo(t *testing.T) {
	t.Parallel()
	p := openPTY(t)
	c := startOnTerminal(t, p, "NO_COLOR=1")
	if err := c.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("the demo ended with %v\n%s", err, p)
	}
	until(t, "the closing summary", func() bool { return strings.Contains(p.String(), "closing summary") })
	for _, colour := range []string{"\x1b[1m", "\x1b[2m", "\x1b[1;31m"} {
		if strings.Contains(p.String(), colour) {
			t.Errorf("NO_COLOR is set and %q was sent", colour)
		}
	}
}

// What serves ignores a hang-up, and says so.
func TestHangUpIsIgnored(t *testing.T) {
	t.Parallel()
	p := start(t, "kafka", "--data", t.TempDir())
	until(t, "the broker listens", func() bool { return strings.Contains(p.out.String(), "listens on") })
	p.signal(syscall.SIGHUP)
	until(t, "the hang-up is logged", func() bool { return strings.Contains(p.err.String(), "SIGHUP is ignored") })
	p.signal(syscall.SIGTERM)
	<-p.done
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

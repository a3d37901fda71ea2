package app

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
)

// notifyContext returns a context that ends with the first Ctrl-C or SIGTERM, which
// drains; the second ends the process at once, with the terminal as it was before.
// SIGHUP, which a closed terminal sends, is a first Ctrl-C to what is looked at: a
// live screen, a tool. What serves (see serve) logs it and goes on.
func (t *tool) notifyContext() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan os.Signal, 4)
	signal.Notify(got, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		stopping := false
		for {
			select {
			case s := <-got:
				if s == syscall.SIGHUP && t.terminal.ignoresHangUp() {
					continue
				}
				if !stopping {
					stopping = true
					cancel()
					continue
				}
				if s == syscall.SIGHUP {
					continue // the terminal is gone, the drain goes on
				}
				t.terminal.restore()
				signal.Reset(s)
				if p, err := os.FindProcess(os.Getpid()); err == nil {
					_ = p.Signal(s) // ends the process as the signal does by default
				}
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		cancel()
		signal.Stop(got)
		close(done)
	}
}

// terminal is what must be put back when the process is ended from outside. It is
// safe for concurrent use.
type terminal struct {
	mu      sync.Mutex
	screens []*screen    // that are shown
	log     *slog.Logger // of a command that serves, nil of any other
}

func (t *terminal) add(s *screen) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.screens = append(t.screens, s)
}

func (t *terminal) remove(s *screen) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.screens = slices.DeleteFunc(t.screens, func(x *screen) bool { return x == s })
}

// serve says that the command serves until it is stopped, whether or not anybody
// looks, and where it logs.
func (t *terminal) serve(log *slog.Logger) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.log = log
}

// ignoresHangUp reports whether the end of a terminal is none of the command's
// business, and logs that.
func (t *terminal) ignoresHangUp() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.screens) > 0 || t.log == nil {
		return false
	}
	t.log.Warn("SIGHUP is ignored: there is nothing to reload; SIGTERM drains and ends")
	return true
}

// restore gives the terminals back as they were before the screens were shown.
func (t *terminal) restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.screens {
		_, _ = io.WriteString(s.w, leaveScreen)
	}
}

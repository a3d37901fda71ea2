package app_test

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// children returns the processes that a process started.
func children(t *testing.T, pid int) []int {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ps", "-A", "-o", "pid=,ppid=").Output()
	if err != nil {
		t.Fatalf("listing processes: %v", err)
	}
	var pids []int
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) != 2 || f[1] != strconv.Itoa(pid) {
			continue
		}
		// ps itself is a child of this test only.
		if n, err := strconv.Atoi(f[0]); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// SIGKILL of the embedded engine, then of everything: no row is lost and none is
// there twice, by the demo's own proof and by the simulator's ledger.
func TestKilled(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	p := start(t, "demo", "--data", data, "--for", "10m", "--output", "json")
	p.ready()
	atLeast(t, data, 1, "SELECT count() FROM signals")

	engines := children(t, p.pid())
	if len(engines) != 1 {
		t.Fatalf("the demo has the children %v, want the engine alone", engines)
	}
	before := number(t, data, "SELECT count() FROM ticks")
	if err := syscall.Kill(engines[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var engine int
	until(t, "the engine runs again", func() bool {
		c := children(t, p.pid())
		if len(c) == 1 && c[0] != engines[0] {
			engine = c[0]
		}
		return engine != 0
	})
	landed := atLeast(t, data, before+1000, "SELECT count() FROM ticks")

	p.kill()
	until(t, "the engine ends with the demo that was killed", func() bool { return !alive(engine) })
	if text, err := os.ReadFile(data + "/run/clickhouse.json"); err != nil {
		t.Errorf("the killed demo's announcement: %v", err)
	} else if a := owner(t, data, "clickhouse"); a != "" {
		t.Errorf("a dead owner is taken for alive: %s", text)
	}

	p = start(t, "demo", "--data", data, "--for", "3s", "--output", "json")
	c := p.clean()
	if c.SimCheck == nil || c.Ticks == 0 || c.Rows["ticks"] < uint64(landed) {
		t.Errorf("after the kills: %s", p.out.String())
	}

	// And once more, at once: the dead one's engine may still be there.
	p = start(t, "demo", "--data", data, "--for", "10m", "--output", "json")
	p.ready()
	atLeast(t, data, int(c.Rows["ticks"])+1, "SELECT count() FROM ticks") //nolint:gosec // a small count
	p.kill()
	p = start(t, "demo", "--data", data, "--for", "1s", "--output", "json")
	p.clean()
}

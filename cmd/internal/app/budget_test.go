package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/autohedge/autohedge/cmd/internal/config"
)

// A spent budget halts new risk, says which room takes most, and is shown; only a
// human lifts the halt, also after there is room again.
func TestDiskBudget(t *testing.T) {
	t.Parallel()
	const limit = 256 << 20
	conf := write(t, t.TempDir(), "autohedge.yaml", unhurried(func(c *config.Config) {
		c.MaxBytes, c.HTTP.Listen = limit, "127.0.0.1:0"
	}))
	data := t.TempDir()
	p := start(t, "demo", "--config", conf, "--data", data, "--for", "10m", "--output", "json")
	p.ready()
	status := func() string { return succeed(t, "halt", "--status", "--data", data) }
	if s := status(); !strings.Contains(s, "nothing is halted") {
		t.Errorf("with room: %s", s)
	}
	spill := filepath.Join(data, "spill", "ballast")
	if err := os.MkdirAll(filepath.Dir(spill), 0o750); err != nil {
		t.Fatal(err)
	}
	// Elsewhere first, so that it is measured whole or not at all.
	ballast := filepath.Join(t.TempDir(), "ballast")
	if err := os.WriteFile(ballast, make([]byte, limit), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(ballast, spill); err != nil {
		t.Fatal(err)
	}
	var said string
	until(t, "the budget halts", func() bool {
		said = status()
		// The latch is first, then the halt is written down.
		return strings.Contains(said, "halted: all by disk budget: data folder "+data+" takes ") && strings.Contains(said, ", control)")
	})
	for _, want := range []string{"of the 256.0 MiB that data_max_bytes allows, most of it spill with 256.0 MiB", ", latch)", ", file)", ", control)"} {
		if !strings.Contains(said, want) {
			t.Errorf("the halt does not say %q: %s", want, said)
		}
	}
	if err := os.Remove(spill); err != nil {
		t.Fatal(err)
	}
	if s := status(); !strings.Contains(s, "by disk budget") {
		t.Errorf("the halt was lifted by itself: %s", s)
	}
	p.signal(syscall.SIGINT)
	p.clean()
	p = start(t, "demo", "--config", conf, "--data", data, "--for", "10m", "--output", "json")
	p.ready()
	if s := status(); !strings.Contains(s, "by disk budget") {
		t.Errorf("a restart lifted the halt: %s", s)
	}
	succeed(t, "resume", "--data", data, "--why", "there is room again")
	if s := status(); !strings.Contains(s, "nothing is halted") {
		t.Errorf("after the resume: %s", s)
	}
	p.signal(syscall.SIGINT)
	p.clean()
}

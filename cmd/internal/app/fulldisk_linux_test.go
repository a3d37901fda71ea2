package app_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/autohedge/autohedge/cmd/internal/config"
	"github.com/autohedge/autohedge/stream"
)

// A data folder whose disk is full, on a small file system of its own: trading
// halts and says which disk, nothing that was acknowledged is lost, and once there
// is room it goes on without a restart; the halt stays until a human lifts it.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	mount := t.TempDir()
	if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=192m"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("mounting a small file system: %v", err)
		}
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(mount, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	data := filepath.Join(mount, "data")
	sim := start(t, "simulate", "--dir", t.TempDir(), "--output", "json", "--rate", "200").addresses()
	conf := write(t, t.TempDir(), "autohedge.yaml", unhurried(func(c *config.Config) {
		c.Stream.Feeds = []stream.FeedConfig{{Name: "binance", Venue: "binance", URL: sim["binance_ws"] + "/stream", REST: sim["binance_rest"], Symbols: []string{"BTCUSDT", "ETHUSDT"}}}
	}))
	p := start(t, "demo", "--feed", "config", "--config", conf, "--data", data, "--for", "10m", "--output", "json")
	p.ready()
	landed := atLeast(t, data, 200, "SELECT count() FROM ticks")

	// First as much is taken as halts and makes the sinks wait; then, again and again,
	// everything but the last page: what others free in between is taken too.
	ballast, err := os.Create(filepath.Join(mount, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 64<<10)
	fill := func(leave uint64) {
		for {
			var fs syscall.Statfs_t
			if err := syscall.Statfs(mount, &fs); err != nil {
				t.Fatal(err)
			}
			if fs.Bavail*uint64(fs.Bsize) <= leave {
				return
			}
			if _, err := ballast.Write(block); err != nil {
				if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, io.ErrShortWrite) {
					t.Fatal(err)
				}
				return
			}
		}
	}
	until(t, "the full disk halts", func() bool {
		fill(24 << 20)
		return strings.Contains(p.err.String(), "the disk of "+data+" is full: ") && strings.Contains(p.err.String(), "that landing rows needs")
	})
	until(t, "the broker meets the full disk", func() bool {
		fill(0)
		return strings.Contains(p.err.String(), "nothing is appended until there is room")
	})
	if err := errors.Join(ballast.Close(), os.Remove(ballast.Name())); err != nil {
		t.Fatal(err)
	}
	atLeast(t, data, landed+400, "SELECT count() FROM ticks")
	until(t, "the halt is written down", func() bool {
		said := succeed(t, "halt", "--status", "--data", data)
		return strings.Contains(said, "by disk budget: the disk of "+data+" is full") && strings.Contains(said, ", file)") && strings.Contains(said, ", control)")
	})
	p.signal(syscall.SIGINT)
	p.clean()

	p = start(t, "demo", "--feed", "config", "--config", conf, "--data", data, "--for", "3s", "--output", "json")
	p.clean()
}

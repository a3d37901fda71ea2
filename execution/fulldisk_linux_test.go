package execution

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/autohedge/autohedge/stream/event"
)

// TestHaltOnAFullDisk: the reserve holds a halt when nothing more can be written.
func TestHaltOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("autohedge-halt", dir, "tmpfs", 0, "size=128k"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("mounting a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	f := haltFile(filepath.Join(dir, "run", "halt"))
	if err := f.prepare(); err != nil {
		t.Fatal(err)
	}
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := filler.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.add(Halt{Scope: ScopeAll, Who: "ann", Why: "the disk is full", Time: 1, Level: event.HaltReduce}); err != nil {
		t.Fatal(err)
	}
	if halts, err := f.read(); err != nil || halts[ScopeAll].Why != "the disk is full" {
		t.Errorf("after a restart: %+v, %v", halts, err)
	}
}

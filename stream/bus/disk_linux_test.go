package bus

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// disk is a small file system in memory.
type disk struct {
	dir     string
	enlarge func()
}

// mountSmallDisk mounts a tmpfs of that many MiB until the test ends. Only root
// may: outside CI the test is skipped for others.
func mountSmallDisk(t *testing.T, mib int) disk {
	t.Helper()
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib))
	if err != nil {
		err = fmt.Errorf("mounting a small tmpfs at %s: %w: it takes root", dir, err)
		if os.Getenv("CI") != "true" {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return disk{dir, func() {
		t.Helper()
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%dm", 20*mib)); err != nil {
			t.Fatal(err)
		}
	}}
}

//go:build !linux

package bus

import (
	"os"
	"testing"
)

// disk is a small file system in memory.
type disk struct {
	dir     string
	enlarge func()
}

// mountSmallDisk is for Linux.
func mountSmallDisk(t *testing.T, _ int) disk {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("a small tmpfs is mounted on Linux only")
	}
	t.Skip("a small tmpfs is mounted on Linux only")
	return disk{}
}

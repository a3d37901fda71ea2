package clustertest

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mount mounts the disk, which takes root.
func (d disk) mount(mib int) error {
	if err := unix.Mount("tmpfs", d.dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		return fmt.Errorf("mounting a small tmpfs at %s: %w: it takes root", d.dir, err)
	}
	return nil
}

func (d disk) unmount() error { return unix.Unmount(d.dir, unix.MNT_DETACH) }

// fill leaves no room on the disk.
func (d disk) fill() error {
	f, err := os.Create(d.ballast())
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for size := int64(0); ; {
		var fs unix.Statfs_t
		if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
			return err
		}
		if fs.Bavail == 0 {
			return nil
		}
		// Somebody else may have been quicker.
		more := int64(fs.Bavail) * fs.Bsize
		switch err := unix.Fallocate(int(f.Fd()), 0, size, more); {
		case err == nil:
			size += more
		case !errors.Is(err, unix.ENOSPC):
			return fmt.Errorf("filling %s: %w", d.dir, err)
		}
	}
}

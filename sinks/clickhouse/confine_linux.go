package clickhouse

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// confineVariable holds the folders of the engine, one a line: the data, which it may
// write, and that of its library. It is there until the process has confined itself.
const confineVariable = "AUTOHEDGE_CLICKHOUSE_CONFINE"

// notConfined is in the environment of a child whose kernel cannot confine it.
const notConfined = "AUTOHEDGE_CLICKHOUSE_NOT_CONFINED"

// confine limits this process to the folders by Landlock, where the kernel has it: no
// other file can be opened and no connection made, whatever a statement asks for. The
// limits are those of one thread and of what it executes, so that the process then
// executes itself: it returns only where there is nothing to do, or it failed.
func confine() error {
	spec, ok := os.LookupEnv(confineVariable)
	if !ok {
		return nil
	}
	if err := os.Unsetenv(confineVariable); err != nil {
		return fmt.Errorf("confining the engine: %w", err)
	}
	data, library, _ := strings.Cut(spec, "\n")
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("making the ClickHouse folder: %w", err)
	}
	runtime.LockOSThread() // for good: this thread becomes the confined process
	err = restrict(data, []string{library, self, "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime", "/etc/os-release",
		"/usr/share/zoneinfo", "/sys",
		// Of /proc this process, whose number stays, and the machine: not other processes,
		// whose environments a root may read whatever the rules say of tracing.
		"/proc/self", "/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/proc/sys", "/proc/filesystems", "/proc/loadavg", "/proc/uptime", "/proc/version",
		"/proc/vmstat", "/proc/diskstats", "/proc/pressure", "/proc/net"}, []string{"/dev/null", "/dev/urandom", "/dev/random", "/dev/zero"})
	switch {
	case errors.Is(err, errNoLandlock):
		return os.Setenv(notConfined, err.Error())
	case err != nil:
		return fmt.Errorf("confining the engine: %w", err)
	}
	return fmt.Errorf("executing the confined engine: %w", syscall.Exec(self, os.Args, os.Environ())) //nolint:gosec // this program itself
}

var errNoLandlock = errors.New("this kernel has no Landlock")

// Rights of Landlock: on a folder that is written, on files that are read, and all that
// are taken away elsewhere. The kernel's documentation numbers them by ABI.
const (
	landlockRead  = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	landlockWrite = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_DIR |
		unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SYM
	landlockOther = unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK
	landlockFile  = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
)

// restrict takes all rights to files away from this thread but those on data, read and
// devices, and all connections and new listeners where the kernel can (ABI 4).
func restrict(data string, read, devices []string) error {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 || abi < 1 {
		return errNoLandlock
	}
	write := uint64(landlockWrite)
	if abi >= 2 {
		write |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		write |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: landlockRead | write | landlockOther}
	if abi >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0) //nolint:gosec // the system call's argument
	if errno != 0 {
		return fmt.Errorf("making the rules: %w", errno)
	}
	defer unix.Close(int(fd)) //nolint:errcheck // the process goes on, or ends
	if err := allow(int(fd), data, landlockRead|write, attr.Handled_access_fs); err != nil {
		return err
	}
	for _, path := range read {
		if err := allow(int(fd), path, landlockRead, attr.Handled_access_fs); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for _, path := range devices {
		if err := allow(int(fd), path, unix.LANDLOCK_ACCESS_FS_READ_FILE|unix.LANDLOCK_ACCESS_FS_WRITE_FILE, attr.Handled_access_fs); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("giving up new privileges: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("applying the rules: %w", errno)
	}
	return nil
}

// allow adds a rule for a path and what is below it.
func allow(ruleset int, path string, rights, handled uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd) //nolint:errcheck // only named a path
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= landlockFile
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: rights & handled, Parent_fd: int32(fd)} //nolint:gosec // a descriptor
	//nolint:gosec // the system call's argument
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("adding the rule for %s: %w", path, errno)
	}
	return nil
}

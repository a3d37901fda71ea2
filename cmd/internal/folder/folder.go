// Package folder is the data folder of one engine: where everything lies, who
// holds which part of it, and at which addresses its live owners listen.
//
// It must not know what is in the files of the parts. Start with Open, then
// Lock and Announce.
package folder

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Folder is an opened data folder.
type Folder struct{ root string }

// Default returns the folder used when none is named: $AUTOHEDGE_DATA, else
// $XDG_DATA_HOME/autohedge, else ~/.local/share/autohedge.
func Default() (string, error) {
	if dir := os.Getenv("AUTOHEDGE_DATA"); dir != "" {
		return dir, nil
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "autohedge"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("finding the data folder: %w; name one with --data or AUTOHEDGE_DATA", err)
	}
	return filepath.Join(home, ".local", "share", "autohedge"), nil
}

// Open makes the folder if it is not there; an empty path is the default.
func Open(root string) (*Folder, error) {
	if root == "" {
		var err error
		if root, err = Default(); err != nil {
			return nil, err
		}
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("opening data folder %s: %w", root, err)
	}
	f := &Folder{root: root}
	if err := f.closeToOthers(); err != nil {
		return nil, err
	}
	for _, dir := range []string{root, f.Run()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("making data folder: %w; choose another with --data or AUTOHEDGE_DATA", err)
		}
	}
	return f, nil
}

// closeToOthers takes the rights of others from a folder that a former build made:
// its logs hold positions, and its sockets and files move money. A folder that is not
// one of ours yet, or not this user's, stays as it is.
func (f *Folder) closeToOthers() error {
	info, err := os.Stat(f.root)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return nil //nolint:nilerr // it is made, or refused, by Open
	}
	if _, err := os.Stat(f.Run()); err != nil {
		return nil //nolint:nilerr // not one of ours
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != os.Geteuid() {
		return nil
	}
	if err := os.Chmod(f.root, 0o700); err != nil { //nolint:gosec // a folder
		return fmt.Errorf("taking others' rights from data folder %s: %w", f.root, err)
	}
	return nil
}

// Root is the folder itself.
func (f *Folder) Root() string { return f.root }

// The parts of the folder.

// Kafka is the embedded broker's part.
func (f *Folder) Kafka() string { return filepath.Join(f.root, "kafka") }

// ClickHouse is the embedded engine's part.
func (f *Folder) ClickHouse() string { return filepath.Join(f.root, "clickhouse") }

// Paper is the paper broker's part.
func (f *Folder) Paper() string { return filepath.Join(f.root, "paper") }

// Sim is the simulator's part.
func (f *Folder) Sim() string { return filepath.Join(f.root, "sim") }

// Spill is where producers keep what neither Kafka nor their memory takes.
func (f *Folder) Spill() string { return filepath.Join(f.root, "spill") }

// LogFiles is where log files are.
func (f *Folder) LogFiles() string { return filepath.Join(f.root, "log") }

// Logs is the file that says which logs the folder was used with.
func (f *Folder) Logs() string { return filepath.Join(f.root, "logs.json") }

// Halt is the file whose presence halts all trading.
func (f *Folder) Halt() string { return filepath.Join(f.root, "halt") }

// Socket is where execution takes halt and resume.
func (f *Folder) Socket() string { return filepath.Join(f.root, "execution.sock") }

// Run holds the addresses of live owners.
func (f *Folder) Run() string { return filepath.Join(f.root, "run") }

// parts are what Clear removes: all but the locks and the latch that only a
// named human lifts.
var parts = []string{"kafka", "clickhouse", "paper", "sim", "spill", "feed", "logs.json"}

// Clear removes all data; the caller holds the lock of the whole folder. A part
// that another process owns is a *HeldError. The halt file stays: beginning anew
// is no resume.
func (f *Folder) Clear() error {
	for _, p := range []string{"kafka", "clickhouse"} {
		lock, err := f.Own(p)
		if err != nil {
			return fmt.Errorf("clearing data folder: %w", err)
		}
		defer lock.Unlock()
	}
	for _, p := range parts {
		if err := os.RemoveAll(filepath.Join(f.root, p)); err != nil {
			return fmt.Errorf("clearing data folder: %w", err)
		}
	}
	return nil
}

// HeldError says that another process holds a part of the folder.
type HeldError struct {
	What string // "data folder", "kafka"
	Path string
	PID  int // 0 when the holder has not written it yet
}

func (e *HeldError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s %s is in use by another process", e.What, e.Path)
	}
	return fmt.Sprintf("%s %s is in use by process %d: stop it, or choose another folder with --data", e.What, e.Path, e.PID)
}

// Lock is held until Unlock or the end of the process, however that comes.
type Lock struct{ file *os.File }

// Lock takes a part for this process: "" is the whole folder, else "kafka",
// "clickhouse", ... A *HeldError names the process that has it.
func (f *Folder) Lock(part string) (*Lock, error) {
	what, path, name := "data folder", f.root, filepath.Join(f.root, "lock")
	if part != "" {
		// Beside the part, not in it: what lies in the part is its owner's.
		what, path, name = part, filepath.Join(f.root, part), filepath.Join(f.Run(), part+".lock")
	}
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", what, err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		held := &HeldError{What: what, Path: path, PID: readPID(file)}
		closeQuietly(file)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, held
		}
		return nil, fmt.Errorf("locking %s %s: %w", what, path, err)
	}
	err = file.Truncate(0)
	if err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		closeQuietly(file)
		return nil, fmt.Errorf("locking %s: %w", what, err)
	}
	return &Lock{file: file}, nil
}

// Own takes a part for good: its lock, with what a dead owner announced removed.
func (f *Folder) Own(part string) (*Lock, error) {
	lock, err := f.Lock(part)
	var held *HeldError
	for try := 0; errors.As(err, &held) && try < 5; try++ {
		time.Sleep(20 * time.Millisecond) // somebody may only have looked (Owner)
		lock, err = f.Lock(part)
	}
	if err != nil {
		return nil, err
	}
	if err := os.Remove(filepath.Join(f.Run(), part+".json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		lock.Unlock()
		return nil, fmt.Errorf("taking %s over: %w", part, err)
	}
	return lock, nil
}

// Unlock releases the part.
func (l *Lock) Unlock() { closeQuietly(l.file) }

func readPID(file *os.File) int {
	var buf [32]byte
	n, err := file.ReadAt(buf[:], 0)
	if n == 0 && err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(bytes.TrimRight(buf[:n], "\x00"))))
	if err != nil {
		return 0
	}
	return pid
}

func closeQuietly(file *os.File) {
	if err := file.Close(); err != nil {
		return // the kernel releases the lock all the same
	}
}

// Announcement is what a live owner of a part writes to run/<part>.json.
type Announcement struct {
	PID  int    `json:"pid"`
	Addr string `json:"addr"` // host:port, or a URL
	// User and Password are the credential of this folder's owner and the owner's tools.
	User     string `json:"user,omitempty"`
	Password string `json:"password,omitempty"`
}

// Key returns the secret of a part, which only the folder's owner can read. The first
// call makes it; it stays the same, so that clients outlive a restart of the part.
func (f *Folder) Key(part string) (string, error) {
	path := filepath.Join(f.Run(), part+".key")
	for range 2 {
		text, err := os.ReadFile(path) //nolint:gosec // of the data folder
		if key := strings.TrimSpace(string(text)); err == nil && len(key) == 2*keyBytes {
			return key, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("reading the key of %s: %w", part, err)
		}
		var b [keyBytes]byte
		_, _ = rand.Read(b[:]) // never fails
		temp := fmt.Sprintf("%s.%d", path, os.Getpid())
		if err := os.WriteFile(temp, []byte(hex.EncodeToString(b[:])+"\n"), 0o600); err != nil {
			return "", fmt.Errorf("writing the key of %s: %w", part, err)
		}
		// The first of two that make one at once counts.
		err = os.Link(temp, path)
		if errors.Is(err, os.ErrExist) && text != nil {
			err = os.Rename(temp, path) // what was there is no key
		}
		_ = os.Remove(temp)
		if err != nil && !errors.Is(err, os.ErrExist) {
			return "", fmt.Errorf("writing the key of %s: %w", part, err)
		}
	}
	return "", fmt.Errorf("reading the key of %s: %s holds none: remove it", part, path)
}

// keyBytes is how long a key is.
const keyBytes = 24

// Announce writes run/<part>.json, whole or not at all; its process is this one.
func (f *Folder) Announce(part string, a Announcement) error {
	a.PID = os.Getpid()
	text, err := json.Marshal(a) //nolint:gosec // G117: for the folder's owner, mode 0600
	if err != nil {
		return fmt.Errorf("announcing %s: %w", part, err)
	}
	path := filepath.Join(f.Run(), part+".json")
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("announcing %s: %w", part, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("announcing %s: %w", part, err)
	}
	if err := os.WriteFile(filepath.Join(f.Run(), part+".last"), []byte(a.Addr+"\n"), 0o600); err != nil {
		return fmt.Errorf("announcing %s: %w", part, err)
	}
	return nil
}

// LastAddr returns the address at which the part was announced last, by whichever
// process; "" where it never was.
func (f *Folder) LastAddr(part string) string {
	text, err := os.ReadFile(filepath.Join(f.Run(), part+".last"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// Withdraw removes run/<part>.json if it is this process's.
func (f *Folder) Withdraw(part string) {
	if a, ok := f.Owner(part); ok && a.PID == os.Getpid() {
		if err := os.Remove(filepath.Join(f.Run(), part+".json")); err != nil {
			return // a stale one is recognised by the lock that nobody holds
		}
	}
}

// AwaitOwner waits for the announcement of a part that another process is
// starting; false when none comes within the time, or ctx ends.
func (f *Folder) AwaitOwner(ctx context.Context, part string, patience time.Duration) (Announcement, bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if a, ok := f.Owner(part); ok {
			return a, true
		}
		select {
		case <-ctx.Done():
			return Announcement{}, false
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Owner returns the announcement of a part's live owner: the process that holds
// the part's lock.
func (f *Folder) Owner(part string) (Announcement, bool) {
	if lock, err := f.Lock(part); err == nil {
		lock.Unlock() // nobody holds it, so what is announced is stale
		return Announcement{}, false
	}
	text, err := os.ReadFile(filepath.Join(f.Run(), part+".json"))
	if err != nil {
		return Announcement{}, false
	}
	var a Announcement
	if err := json.Unmarshal(text, &a); err != nil || a.PID <= 0 {
		return Announcement{}, false
	}
	return a, true
}

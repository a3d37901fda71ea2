package execution

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// haltFile is the path of the file that keeps a halt over restarts, also when
// Kafka is down. No file means not halted; a file that cannot be read, or that
// makes no sense, means halted.
type haltFile string

// fileStamp tells one version of the file from another.
type fileStamp struct {
	there bool
	inode uint64
	mtime int64
	size  int64
	err   error
}

func (f haltFile) stamp() fileStamp {
	info, err := os.Lstat(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return fileStamp{size: -1}
	}
	if err != nil {
		return fileStamp{err: err}
	}
	st := fileStamp{there: true, mtime: info.ModTime().UnixNano(), size: info.Size()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		st.inode = sys.Ino // each write makes a new file
	}
	return st
}

type haltFileContent struct {
	Halts []Halt `json:"halts"`
}

func (f haltFile) read() (haltSet, error) {
	text, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return haltSet{}, nil
	}
	if err != nil {
		return haltSet{}, err
	}
	var c haltFileContent
	if err := json.Unmarshal(text, &c); err != nil {
		return haltSet{}, fmt.Errorf("reading %s: %w", string(f), err)
	}
	if len(c.Halts) == 0 {
		return haltSet{}, fmt.Errorf("reading %s: it names no halt", string(f))
	}
	s := haltSet{}
	for _, h := range c.Halts {
		if err := CheckScope(h.Scope); err != nil {
			return haltSet{}, fmt.Errorf("reading %s: %w", string(f), err)
		}
		s[h.Scope] = h
	}
	return s, nil
}

// add writes a halt into the file. One that was not readable stays a halt of
// everything.
func (f haltFile) add(h Halt) error {
	s, err := f.read()
	if err != nil {
		s = haltSet{ScopeAll: {Scope: ScopeAll, Who: "engine", Why: fmt.Sprintf("the halt file was not readable: %v", err), Time: h.Time}}
	}
	s[h.Scope] = h
	return f.write(s)
}

// clear removes what a resume lifts; a resume of everything removes a file that
// is not readable as well.
func (f haltFile) clear(scope string, at int64) error {
	s, err := f.read()
	if err != nil {
		if scope != ScopeAll {
			return err
		}
		s = haltSet{}
	}
	before := len(s)
	s.clear(scope, at)
	if err == nil && len(s) == before {
		return nil
	}
	if len(s) > 0 {
		return f.write(s)
	}
	if err := os.Remove(string(f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(filepath.Dir(string(f)))
}

// reserveBytes is the size of the reserve: a few hundred halts.
const reserveBytes = 64 << 10

// reserve is a file whose blocks are taken beforehand, so that a halt can be written
// when the disk is full.
func (f haltFile) reserve() string { return string(f) + ".reserve" }

// prepare makes the reserve if there is none of full size.
func (f haltFile) prepare() error {
	if info, err := os.Stat(f.reserve()); err == nil && info.Size() == reserveBytes {
		return nil
	}
	return f.replace(f.reserve(), make([]byte, reserveBytes))
}

// write replaces the file whole. Where there is no room for that it writes into the
// reserve and makes that the file; a reserve cut short on the way is not readable, and
// so halts everything.
func (f haltFile) write(s haltSet) error {
	var c haltFileContent
	for _, h := range s {
		h.Source = ""
		c.Halts = append(c.Halts, h)
	}
	slices.SortFunc(c.Halts, func(a, b Halt) int { return strings.Compare(a.Scope, b.Scope) })
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if err = f.replace(string(f), text); err == nil {
		return nil
	}
	if rerr := f.spend(text); rerr != nil {
		return errors.Join(err, fmt.Errorf("writing into the reserve: %w", rerr))
	}
	return nil
}

// spend turns the reserve into the file. It writes over blocks that are there already.
func (f haltFile) spend(text []byte) error {
	r, err := os.OpenFile(f.reserve(), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = r.Write(text)
	if err == nil {
		err = errors.Join(r.Truncate(int64(len(text))), r.Sync())
	}
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.reserve(), string(f)); err != nil {
		return err
	}
	return syncDir(filepath.Dir(string(f)))
}

// replace writes a file whole: aside, synced, renamed, the folder synced.
func (f haltFile) replace(path string, text []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".halt-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

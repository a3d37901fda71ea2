package broker

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// ledgerHeader is the first line of a ledger file, its format and version. Files of
// before that begin with ledgerHeader1: they have no life, until somebody adopts them.
const (
	ledgerHeader  = "autohedge.paper.2\n"
	ledgerHeader1 = "autohedge.paper.1\n"
)

// castagnoli is the CRC32C table.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ledgerFile is an append-only file of entries, one a line: eight hexadecimal
// digits of CRC32C, a space, JSON. A line counts once it is synced. Only its end
// can be torn; anything else is damage and is not repaired.
type ledgerFile struct {
	f    *os.File
	size int64
}

// openLedgerFile opens or makes dir/ledger, hands every entry to each and cuts
// off a torn last line, whose length it returns.
func openLedgerFile(dir string, each func(*entry) error) (l *ledgerFile, torn int64, err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, 0, err
	}
	path := filepath.Join(dir, "ledger")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := makeLedgerFile(dir, path); err != nil {
			return nil, 0, err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, 0, fmt.Errorf("locking %s, which another process has open: %w", path, err)
	}
	l = &ledgerFile{f: f}
	end, err := l.load(each)
	if err != nil {
		return nil, 0, fmt.Errorf("reading %s: %w", path, err)
	}
	whole, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, 0, err
	}
	if whole > end {
		if err := f.Truncate(end); err != nil {
			return nil, 0, err
		}
	}
	// What was read may still be in the page cache only, if the writer died
	// between its write and its sync.
	if err := f.Sync(); err != nil {
		return nil, 0, err
	}
	l.size = end
	return l, whole - end, nil
}

// makeLedgerFile makes the file whole or not at all: written aside, synced,
// renamed, the folder synced.
func makeLedgerFile(dir, path string) error {
	tmp := path + ".tmp"
	life, err := encodeEntry(&entry{Life: newLife()})
	if err != nil {
		return err
	}
	if err := os.WriteFile(tmp, append([]byte(ledgerHeader), life...), 0o600); err != nil {
		return err
	}
	if err := syncPath(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncPath(dir)
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// load reads the file and returns the offset after its last whole line.
func (l *ledgerFile) load(each func(*entry) error) (int64, error) {
	r := bufio.NewReaderSize(l.f, 1<<20)
	header, err := r.ReadString('\n')
	if err != nil || (header != ledgerHeader && header != ledgerHeader1) {
		return 0, fmt.Errorf("the file does not begin with %q", ledgerHeader)
	}
	end := int64(len(header))
	for n := 2; ; n++ {
		line, err := r.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if len(line) == 0 {
			return end, nil
		}
		e, bad := decodeEntry(line)
		if bad != nil {
			if rest, err := r.Peek(1); len(rest) > 0 || !errors.Is(err, io.EOF) {
				return 0, fmt.Errorf("line %d, which is not the last, is damaged: %w; restore the folder from a backup", n, bad)
			}
			return end, nil
		}
		if err := each(e); err != nil {
			return 0, fmt.Errorf("line %d: %w", n, err)
		}
		end += int64(len(line))
	}
}

func decodeEntry(line []byte) (*entry, error) {
	body, ok := bytes.CutSuffix(line, []byte("\n"))
	if !ok || len(body) < 9 || body[8] != ' ' {
		return nil, errors.New("the line is not whole")
	}
	var sum [4]byte
	if _, err := hex.Decode(sum[:], body[:8]); err != nil {
		return nil, err
	}
	body, want := body[9:], uint32(sum[0])<<24|uint32(sum[1])<<16|uint32(sum[2])<<8|uint32(sum[3])
	if got := crc32.Checksum(body, castagnoli); got != want {
		return nil, fmt.Errorf("its checksum is %08x, the line says %08x", got, want)
	}
	e := new(entry)
	if err := json.Unmarshal(body, e); err != nil {
		return nil, err
	}
	return e, nil
}

func encodeEntry(e *entry) ([]byte, error) {
	body, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(body, castagnoli), body), nil
}

// newLife is the random name of a ledger.
func newLife() string { return rand.Text() }

// AdoptPaper begins a new life of the paper broker's ledger that lies in dir, or
// makes one: whoever opens it next goes on with it although it is not the one that
// took the account's orders. One that a process trades with is refused.
func AdoptPaper(dir string, a Adoption) (life string, err error) {
	l, _, err := openLedgerFile(dir, func(*entry) error { return nil })
	if err != nil {
		return "", fmt.Errorf("adopting the paper broker's ledger: %w", err)
	}
	life = newLife()
	if err := errors.Join(l.append(&entry{Life: life, Adopted: &a}), l.close()); err != nil {
		return "", fmt.Errorf("adopting %s: %w", l.f.Name(), err)
	}
	return life, nil
}

// append writes one entry and syncs it.
func (l *ledgerFile) append(e *entry) error {
	line, err := encodeEntry(e)
	if err != nil {
		return err
	}
	if _, err := l.f.WriteAt(line, l.size); err != nil {
		return err
	}
	if err := l.f.Sync(); err != nil {
		return err
	}
	l.size += int64(len(line))
	return nil
}

func (l *ledgerFile) close() error { return l.f.Close() }

// RemovePaper deletes the paper broker's account whose ledger lies in dir. One
// that a process has open is refused.
func RemovePaper(dir string) error {
	path := filepath.Join(dir, "ledger")
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return os.RemoveAll(dir)
	}
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("locking %s, which a process has open: %w", path, err), f.Close())
	}
	return errors.Join(os.RemoveAll(dir), f.Close())
}

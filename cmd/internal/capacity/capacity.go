// Package capacity holds what a data folder takes on disk against what it may
// take: one budget for everything embedded.
//
// It must not know what lies in the rooms it measures, nor what is done about a
// full one. Start with Meter.
package capacity

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// haltAt is the share of the budget at which new risk halts.
	haltAt = 0.95
	// defaultShare is what the folder may take of what its file system has free
	// and it has itself, where no budget is configured.
	defaultShare = 0.8
	// minFree is what the file system must have free, whatever the budget says:
	// below, the next segment or part may not be written.
	minFree = 64 << 20
	// rateOver is how long the growth is looked at for the hours that are left.
	rateOver = 5 * time.Minute
)

// Room is one part of the data folder.
type Room struct {
	Name string
	Dir  string
}

// Usage is one measurement.
type Usage struct {
	Dir   string           `json:"dir"`
	Rooms map[string]int64 `json:"rooms"` // bytes on disk, by room
	Used  int64            `json:"used_bytes"`
	Limit int64            `json:"limit_bytes"`
	Free  int64            `json:"free_bytes"` // of the file system, for this user
	// HoursLeft is how long the budget lasts at the present rate; absent while
	// nothing grows, or it is not known yet.
	HoursLeft *float64 `json:"hours_left,omitempty"`
	// Full says why new risk must halt; empty while it need not.
	Full string `json:"full,omitempty"`
}

// Meter measures the rooms of one folder. It is safe for concurrent use.
type Meter struct {
	dir   string
	rooms []Room
	max   int64
	free  func(dir string) (int64, error)

	mu   sync.Mutex
	past []sample
	last Usage
}

type sample struct {
	at   time.Time
	used int64
}

// NewMeter returns a meter of the rooms of folder dir, which may take up to limit
// bytes in all; 0 is four fifths of what they have and the file system has free.
func NewMeter(dir string, limit int64, rooms []Room) *Meter {
	return &Meter{dir: dir, rooms: rooms, max: limit, free: Free}
}

// Last is the newest measurement.
func (m *Meter) Last() Usage {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

// Measure walks over the rooms' files. Files that go away meanwhile are left out.
func (m *Meter) Measure(now time.Time) (Usage, error) {
	u := Usage{Dir: m.dir, Rooms: make(map[string]int64, len(m.rooms))}
	for _, r := range m.rooms {
		n, err := sizeOf(r.Dir)
		if err != nil {
			return u, fmt.Errorf("measuring %s: %w", r.Dir, err)
		}
		u.Rooms[r.Name] = n
		u.Used += n
	}
	var err error
	if u.Free, err = m.free(m.dir); err != nil {
		return u, fmt.Errorf("asking for the free space of %s: %w", m.dir, err)
	}
	if u.Limit = m.max; u.Limit == 0 {
		u.Limit = int64(defaultShare * float64(u.Free+u.Used))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.past = append(slices.DeleteFunc(m.past, func(s sample) bool { return now.Sub(s.at) > rateOver }), sample{now, u.Used})
	if first := m.past[0]; now.Sub(first.at) >= time.Minute && u.Used > first.used {
		hours := float64(max(0, u.Limit-u.Used)) / float64(u.Used-first.used) * now.Sub(first.at).Hours()
		u.HoursLeft = &hours
	}
	switch {
	case u.Free < minFree:
		u.Full = fmt.Sprintf("the disk of %s is full: %s free, %s", m.dir, Bytes(u.Free), u.largest())
	case float64(u.Used) >= haltAt*float64(u.Limit):
		u.Full = fmt.Sprintf("data folder %s takes %s of the %s that data_max_bytes allows, %s", m.dir, Bytes(u.Used), Bytes(u.Limit), u.largest())
	}
	if u.Full != "" {
		u.Full += "; free space there or raise the budget, then resume"
	}
	m.last = u
	return u, nil
}

// largest names the room that takes most.
func (u *Usage) largest() string {
	names := slices.Sorted(maps.Keys(u.Rooms))
	if len(names) == 0 {
		return "nothing of it in the folder"
	}
	top := slices.MaxFunc(names, func(a, b string) int { return int(min(1, max(-1, u.Rooms[a]-u.Rooms[b]))) })
	return fmt.Sprintf("most of it %s with %s", top, Bytes(u.Rooms[top]))
}

// String is the usage in one line, largest room first.
func (u *Usage) String() string {
	names := slices.SortedFunc(maps.Keys(u.Rooms), func(a, b string) int { return int(min(1, max(-1, u.Rooms[b]-u.Rooms[a]))) })
	var parts []string
	for _, n := range names {
		if u.Rooms[n] > 0 {
			parts = append(parts, n+" "+Bytes(u.Rooms[n]))
		}
	}
	text := fmt.Sprintf("%s of %s", Bytes(u.Used), Bytes(u.Limit))
	if len(parts) > 0 {
		text += " (" + strings.Join(parts, ", ") + ")"
	}
	if u.HoursLeft != nil {
		text += fmt.Sprintf(", %.0f h left", *u.HoursLeft)
	}
	return text
}

// sizeOf is what the files below dir take on disk; 0 where there is no such
// folder.
func sizeOf(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			n += st.Blocks * 512
		} else {
			n += info.Size()
		}
		return nil
	})
	return n, err
}

// Free is what an unprivileged user may still write in a folder, in bytes.
func Free(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // it is narrower on other systems
}

// Bytes writes a size for people: 1.5 GiB.
func Bytes(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	size, unit := float64(n)/1024, 0
	for size >= 1024 && unit < len(units)-1 {
		size, unit = size/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", size, units[unit])
}

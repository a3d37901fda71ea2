package bus

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
)

// loadCost is what a start of the embedded broker reads, and what it takes for that.
type loadCost struct {
	bytes  int64 // of the log
	memory int64
}

const (
	// batchCost is what an index entry takes in memory, and while a segment is decoded.
	batchCost = 160
	// segmentCost is how often a segment is in memory while it is decoded.
	segmentCost = 2
)

func (c *loadCost) add(p *storedPartition, whole bool) {
	var total, largest int64
	for _, s := range p.segments {
		total, largest = total+s.size, max(largest, s.size)
		c.memory += batchCost * s.batches
	}
	c.bytes += total
	if whole {
		largest = total
	}
	c.memory += segmentCost * largest
}

// check refuses a log that takes more memory than there is, before it is loaded.
func (c loadCost) check(dir string, available int64) error {
	if c.memory < available-available/5 {
		return nil
	}
	return fmt.Errorf("its log in %s has %s and takes about %s of memory to load, and %s are available: free memory, or shorten the log with `autohedge kafka trim --keep %d`",
		dir, Size(c.bytes), Size(c.memory), Size(available), max(c.bytes/2, MinLogBytes))
}

// MinLogBytes is the least bound of the embedded broker's log.
const MinLogBytes = 256 << 20

// maxLogBytes is the largest bound that is taken by itself: more is read for seconds at
// each start.
const maxLogBytes = 4 << 30

// DefaultLogBytes is the bound of the embedded broker's log that fits this machine: a
// quarter of its memory.
func DefaultLogBytes() int64 {
	_, total := systemMemory()
	return min(max(total/4, MinLogBytes), maxLogBytes)
}

// systemMemory returns what this process may still take and what the machine, or the
// container, has. Where nothing tells, there is plenty.
func systemMemory() (available, total int64) {
	available, total = math.MaxInt64, math.MaxInt64
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
			name, rest, _ := strings.Cut(s.Text(), ":")
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			switch {
			case err != nil:
			case name == "MemTotal":
				total = n << 10
			case name == "MemAvailable":
				available = n << 10
			}
		}
	}
	limit, lok := readNumber("/sys/fs/cgroup/memory.max")
	used, uok := readNumber("/sys/fs/cgroup/memory.current")
	if lok && uok {
		total, available = min(total, limit), min(available, max(0, limit-used))
	}
	return available, total
}

func readNumber(path string) (int64, bool) {
	text, err := os.ReadFile(path) //nolint:gosec // of the system
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}

// Size writes bytes for people.
func Size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}

package app

import (
	"net/url"
	"slices"
	"sync"

	"github.com/autohedge/autohedge/cmd/internal/folder"
)

// follower knows the addresses at which a part of the data folder was announced, and
// so where a client that was given an older one finds it now: its process may have
// been ended, and another one started on another port. It is safe for concurrent use.
type follower struct {
	folder *folder.Folder
	part   string

	mu    sync.Mutex
	known []string // host:port
}

// maxKnown bounds the addresses that are remembered.
const maxKnown = 64

// moved returns the present host:port of the part where addr is one of its former
// ones, and addr where it is another's. While nobody runs the part it returns nothing:
// whoever has its former port now must not be sent its credential.
func (f *follower) moved(addr string) string {
	owner, ok := f.folder.Owner(f.part)
	if !ok {
		f.mu.Lock()
		defer f.mu.Unlock()
		if slices.Contains(f.known, addr) {
			return ""
		}
		return addr
	}
	now := owner.Addr
	if u, err := url.Parse(now); err == nil && u.Host != "" {
		now = u.Host
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.known, now) {
		f.known = append(f.known[max(0, len(f.known)-maxKnown+1):], now)
	}
	if slices.Contains(f.known, addr) {
		return now
	}
	return addr
}

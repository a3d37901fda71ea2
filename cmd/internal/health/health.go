// Package health answers whether the process lives, may be sent work, and what
// each thing it depends on says.
//
// It must not know what it asks: dependencies are functions. Start with Board.
package health

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/mem"
)

// Check asks one dependency; it returns within the context.
type Check func(ctx context.Context) error

// checkTimeout bounds one check; failuresDown failures in a row mark a
// dependency down.
const (
	checkTimeout = 2 * time.Second
	failuresDown = 3
)

// State is what is known of one dependency.
type State struct {
	Status   string `json:"status"` // up, failing (fewer than three failures in a row), down
	Error    string `json:"error,omitempty"`
	Failures int    `json:"failures,omitempty"`
}

// Usage is a share of a resource.
type Usage struct {
	UsedPercent float64 `json:"used_percent"`
	FreeBytes   uint64  `json:"free_bytes"`
}

// Report is the answer of /health.
type Report struct {
	Status       string           `json:"status"` // ok, degraded: why, starting, stopping, unhealthy: why
	Ready        bool             `json:"ready"`
	Dependencies map[string]State `json:"dependencies"`
	// Degraded is what is wrong although the process may be sent work, by name.
	Degraded map[string]string `json:"degraded,omitempty"`
	// Details is what parts of the process say of themselves, by name.
	Details map[string]any `json:"details,omitempty"`
	Disk    *Usage         `json:"disk,omitempty"`
	Memory  *Usage         `json:"memory,omitempty"`
	// Data is what the data folder takes and may take, once it was measured.
	Data any `json:"data,omitempty"`
}

// Board collects the states. It is safe for concurrent use.
type Board struct {
	dir string

	mu      sync.Mutex
	checks  map[string]Check
	states  map[string]State
	phase   string
	waiting map[string]bool // roles that are not ready yet
	data    any

	conditions map[string]func() string
	details    map[string]func() any
}

// NewBoard returns a board of a starting process; dir is the folder whose disk
// it watches.
func NewBoard(dir string) *Board {
	return &Board{dir: dir, checks: make(map[string]Check), states: make(map[string]State), phase: "starting", waiting: make(map[string]bool),
		conditions: make(map[string]func() string), details: make(map[string]func() any)}
}

// AddCondition adds something that can be wrong without making the process unfit for
// work: f returns what is wrong now, or nothing. It returns at once.
func (b *Board) AddCondition(name string, f func() string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conditions[name] = f
}

// AddDetail adds what a part of the process says of itself, as it becomes JSON. f
// returns at once.
func (b *Board) AddDetail(name string, f func() any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.details[name] = f
}

// Add adds a dependency.
func (b *Board) Add(name string, c Check) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.checks[name] = c
}

// Wait notes that readiness waits for a role.
func (b *Board) Wait(role string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting[role] = true
}

// Done notes that a role is ready.
func (b *Board) Done(role string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, role)
}

// SetPhase moves the process to "running" or "stopping".
func (b *Board) SetPhase(phase string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.phase = phase
}

// SetData gives the report what the data folder takes.
func (b *Board) SetData(usage any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = usage
}

// Watch runs the checks every interval until ctx ends.
func (b *Board) Watch(ctx context.Context, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		b.ask(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (b *Board) ask(ctx context.Context) {
	b.mu.Lock()
	checks := make(map[string]Check, len(b.checks))
	for n, c := range b.checks {
		checks[n] = c
	}
	b.mu.Unlock()
	var wg sync.WaitGroup
	for n, c := range checks {
		wg.Go(func() {
			cctx, cancel := context.WithTimeout(ctx, checkTimeout)
			defer cancel()
			err := c(cctx)
			if ctx.Err() != nil {
				return
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			s := b.states[n]
			if err == nil {
				s = State{Status: "up"}
			} else {
				s.Failures++
				s.Error, s.Status = err.Error(), "failing"
				if s.Failures >= failuresDown {
					s.Status = "down"
				}
			}
			b.states[n] = s
		})
	}
	wg.Wait()
}

// Ready reports whether the process may be sent work, and why not.
func (b *Board) Ready() (bool, string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.phase != "running" {
		return false, b.phase
	}
	if len(b.waiting) > 0 {
		var names []string
		for n := range b.waiting {
			names = append(names, n)
		}
		sort.Strings(names)
		return false, fmt.Sprintf("waiting for %v", names)
	}
	for n, s := range b.states {
		if s.Status == "down" {
			return false, n + " is down: " + s.Error
		}
	}
	return true, ""
}

// Report returns all that is known.
func (b *Board) Report() Report {
	ready, why := b.Ready()
	b.mu.Lock()
	r := Report{Status: "ok", Ready: ready, Dependencies: make(map[string]State, len(b.checks))}
	for n := range b.checks {
		s, asked := b.states[n]
		if !asked {
			s = State{Status: "unknown"}
		}
		r.Dependencies[n] = s
	}
	phase := b.phase
	r.Data = b.data
	conditions, details := maps.Clone(b.conditions), maps.Clone(b.details)
	b.mu.Unlock()
	for name, f := range conditions {
		if wrong := f(); wrong != "" {
			if r.Degraded == nil {
				r.Degraded = make(map[string]string)
			}
			r.Degraded[name] = wrong
		}
	}
	for name, f := range details {
		if r.Details == nil {
			r.Details = make(map[string]any, len(details))
		}
		r.Details[name] = f()
	}
	switch {
	case phase != "running":
		r.Status = phase
	case !ready:
		r.Status = "unhealthy: " + why
	case len(r.Degraded) > 0:
		r.Status = "degraded: " + strings.Join(slices.Sorted(maps.Keys(r.Degraded)), ", ")
	}
	if d, err := disk.Usage(b.dir); err == nil {
		r.Disk = &Usage{UsedPercent: d.UsedPercent, FreeBytes: d.Free}
	}
	if m, err := mem.VirtualMemory(); err == nil {
		r.Memory = &Usage{UsedPercent: m.UsedPercent, FreeBytes: m.Available}
	}
	return r
}

// ServeHTTP answers /livez, /readyz and /health.
func (b *Board) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/livez":
		answer(w, http.StatusOK, map[string]string{"status": "alive"})
	case "/readyz":
		if ok, why := b.Ready(); !ok {
			answer(w, http.StatusServiceUnavailable, map[string]string{"status": "not ready", "reason": why})
			return
		}
		answer(w, http.StatusOK, map[string]string{"status": "ready"})
	default:
		rep := b.Report()
		code := http.StatusOK
		if rep.Status != "ok" && !strings.HasPrefix(rep.Status, "degraded: ") {
			code = http.StatusServiceUnavailable
		}
		answer(w, code, rep)
	}
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return // the client went away
	}
}

package stream

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/autohedge/autohedge/stream/venue"
)

const (
	// reportEvery bounds how often one kind of bad frame of a feed is logged.
	reportEvery = time.Minute
	// reportBytes is how much of a frame a log line shows.
	reportBytes = 200
	// silentAfter is how long a symbol may be without a record, from the start of its
	// feed's first connection on, until that is said.
	silentAfter = time.Minute
)

// report is what people are told of a feed; guarded by feed.mu.
type report struct {
	// bad are the frames that came to nothing, by reason.
	bad map[string]*badFrames
	// trouble is why the venue last refused us, until a record comes.
	trouble string
	// since is when the first connection began, nextLook when symbols are looked at.
	since, nextLook time.Time
	silent          []string // symbols without a record, in order
	unlisted        []string // symbols that the venue's REST interface does not list, in order
}

// badFrames counts the frames of one reason since the last log line.
type badFrames struct {
	n      uint64
	total  uint64
	why    string // of the last one
	logged int64  // receive time
}

// sayBad logs that a frame came to nothing, once a minute for each code. mu is held.
func (f *feed) sayBad(code, why string, data []byte, recv int64) {
	if f.report.bad == nil {
		f.report.bad = make(map[string]*badFrames)
	}
	b := f.report.bad[code] // few: codes are ours
	if b == nil {
		b = &badFrames{logged: recv - int64(reportEvery)}
		f.report.bad[code] = b
	}
	b.n++
	b.total++
	b.why = why
	if recv-b.logged < int64(reportEvery) {
		return
	}
	f.log.Warn("a frame of the venue came to nothing", "why", why, "frames", b.n, "frame", strings.ToValidUTF8(string(data[:min(len(data), reportBytes)]), "?"))
	b.n, b.logged = 0, recv
}

// lookForSilent finds the symbols of which nothing has come, and says so once.
func (f *feed) lookForSilent(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &f.report
	if r.since.IsZero() {
		r.since, r.nextLook = now, now.Add(silentAfter)
	}
	if now.Before(r.nextLook) || f.anySymbol() {
		return
	}
	r.nextLook = now.Add(silentAfter)
	var silent []string
	for name, s := range f.symbols {
		if !s.seen && s.refusal == nil {
			silent = append(silent, name)
		}
	}
	slices.Sort(silent)
	if fresh := slices.DeleteFunc(slices.Clone(silent), func(s string) bool { return slices.Contains(r.silent, s) }); len(fresh) > 0 {
		f.log.Warn("nothing has come of symbols: are they written as the venue writes them, and traded?", "symbols", shorten(fresh), "for", now.Sub(r.since).Round(time.Second).String())
	}
	r.silent = silent
}

// describeBad lists the frames that came to nothing. mu is held.
func (f *feed) describeBad() string {
	var parts []string
	for _, code := range slices.Sorted(maps.Keys(f.report.bad)) {
		b := f.report.bad[code]
		frames, why := "frames", b.why
		if b.total == 1 {
			frames = "frame"
		}
		switch code {
		case venue.ReasonNoMatch:
			why = "no price in them, as the paths say"
		case reasonOtherSymbol:
			why = "of symbols that are not configured"
		}
		parts = append(parts, fmt.Sprintf("%d %s %s (%s)", b.total, frames, code, why))
	}
	return strings.Join(parts, "; ")
}

// badTotals are the frames that came to nothing, by code. mu is held.
func (f *feed) badTotals() map[string]uint64 {
	if len(f.report.bad) == 0 {
		return nil
	}
	totals := make(map[string]uint64, len(f.report.bad))
	for code, b := range f.report.bad {
		totals[code] = b.total
	}
	return totals
}

// refusedSymbols are the symbols that the venue refuses, in order. mu is held.
func (f *feed) refusedSymbols() (names []string) {
	for name, s := range f.symbols {
		if s.refusal != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// noteListed takes which of the symbols the venue lists, if it answered at all.
func (f *feed) noteListed(asked []string, listed map[string]bool, answered bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &f.report
	r.unlisted = slices.DeleteFunc(r.unlisted, func(name string) bool { return listed[name] })
	if !answered {
		return
	}
	for _, name := range asked {
		if !listed[name] && !slices.Contains(r.unlisted, name) {
			r.unlisted = append(r.unlisted, name)
			f.log.Warn("the venue does not list a symbol: its steps are inferred", "symbol", name)
		}
	}
	slices.Sort(r.unlisted)
}

// shorten lists at most ten names.
func shorten(names []string) string {
	if more := len(names) - 10; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:10], " "), more)
	}
	return strings.Join(names, " ")
}

// wrong is what a feed lacks, or nothing.
func (f *feed) wrong() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var parts []string
	if f.report.trouble != "" && !f.over {
		parts = append(parts, f.report.trouble)
	}
	if refused := f.refusedSymbols(); len(refused) > 0 {
		parts = append(parts, fmt.Sprintf("the venue refuses %s (%s)", shorten(refused), f.symbols[refused[0]].refusal.why))
	}
	if f.stats.trades+f.stats.quotes == 0 && len(f.report.bad) > 0 {
		parts = append(parts, "no frame has given a record: "+f.describeBad())
	}
	if len(f.report.unlisted) > 0 {
		parts = append(parts, "the venue does not list "+shorten(f.report.unlisted))
	}
	if len(f.report.silent) > 0 {
		parts = append(parts, "nothing has come of "+shorten(f.report.silent))
	}
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf("feed %s: %s", f.cfg.name(), strings.Join(parts, "; "))
}

// setTrouble notes why a connection could not be had or was ended.
func (f *feed) setTrouble(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report.trouble = err.Error()
}

// Conditions are what can be wrong with the feeds although the role works: each returns
// what is wrong now, or nothing, at once.
func (r *Role) Conditions() map[string]func() string {
	if r.replay {
		return nil
	}
	return map[string]func() string{"feeds": func() string {
		var parts []string
		for _, f := range r.feeds {
			if w := f.wrong(); w != "" {
				parts = append(parts, w)
			}
		}
		return strings.Join(parts, "; ")
	}}
}

// Details is the state of each feed, for /health.
func (r *Role) Details() map[string]func() any {
	return map[string]func() any{"feeds": func() any {
		list := make([]FeedStatus, 0, len(r.feeds))
		for _, f := range r.feeds {
			list = append(list, f.status())
		}
		return list
	}}
}

package stream

import (
	"slices"

	"github.com/autohedge/autohedge/stream/venue"
)

// What becomes of a record by its id.
type verdict uint8

const (
	newest    verdict = iota // above all before it
	late                     // not above, and not seen before
	duplicate                // seen before, or too old to tell
	held                     // the venue may have begun its ids again: the next records decide
	restarted                // the venue begins its ids again
)

const (
	// idWindow is how far back ids without holes are told apart.
	idWindow = 65_536
	// maxHoles bounds the holes that are remembered of a channel.
	maxHoles = 64
	// ringSize is how many ids with holes are remembered.
	ringSize = 512
	// quoteWindow is the least number of quotes that a sequence must be behind, or before
	// the first, to be one of a venue that begins its ids again: a server that lags is not so far
	// behind.
	quoteWindow = 4096
	// confirmations are the records that show that a venue begins its ids again: rising ids
	// and times after the last one; restartRecords and restartTime the rising ids that
	// show it without the venue's times.
	confirmations  = 3
	restartRecords = 20
	restartTime    = int64(5e9)
)

// sighting is what is known of one record besides its content.
type sighting struct {
	id   uint64
	time int64 // the venue's, 0 where it has none of its own
	recv int64
	// own says that the time is the record's own for certain, not that of a message
	// which may hold old records.
	own bool
}

// ids tells records that were seen from those that were not, for one channel of one
// instrument (design.md section 3): only what was seen is a duplicate, and that a venue
// begins its ids again is never taken from one lower id. It is pure; its memory is bounded, and
// an id above the last costs O(1).
type ids struct {
	kind   venue.IDs
	trades bool
	// last is the highest id in the log, or stated as lost; first the lowest id of
	// which is known whether it was seen.
	last, first uint64
	// complete says that every id of this epoch was seen by this window, so that an id
	// below first was not.
	complete bool
	lastTime int64 // the latest of the venue's times
	// holes of ids that leave none, lowest first: stated as lost.
	holes []span
	// ring holds the last ids of trades whose ids have holes; next is its oldest once it
	// is full.
	ring []uint64
	next int
	// marks are the sequences that quotes had quoteWindow and more records ago.
	marks [2]uint64
	count int

	run run
}

// newIDs returns the window of a channel of which nothing was seen yet.
func newIDs(spec venue.ChannelSpec) ids {
	return ids{kind: spec.IDs, trades: spec.Trades, complete: true}
}

// restore takes over what the log holds of the epoch.
func (w *ids) restore(r *lastRecord) {
	kind, trades := w.kind, w.trades
	*w = r.ids
	w.kind, w.trades = kind, trades
	if kind == venue.IDsContiguous {
		w.ring = nil
	}
}

// span is an interval of ids, inclusive.
type span struct{ from, to uint64 }

// run is a series of rising ids that speak for a venue that begins its ids again.
type run struct {
	id    uint64
	time  int64
	since int64 // receive time of the first
	n     int
}

// judge says what becomes of a record, without noting it.
func (w *ids) judge(s sighting) verdict {
	if s.id > w.last || w.last == 0 {
		w.run = run{}
		return newest
	}
	below, unseen := s.id < w.oldest(), w.unseen(s.id)
	if unseen && !below {
		return late
	}
	switch {
	case s.time > w.lastTime && s.time != 0 && (below || s.own):
		if w.continues(s); w.run.n >= confirmations {
			return restarted
		}
		return held
	case s.time == 0 && below:
		if w.continues(s); w.run.n >= restartRecords && s.recv-w.run.since >= restartTime {
			return restarted
		}
	}
	if unseen {
		return late
	}
	return duplicate
}

// continues counts a record that speaks for a venue that begins its ids again.
func (w *ids) continues(s sighting) {
	if w.run.n == 0 || s.id <= w.run.id || s.time < w.run.time {
		w.run = run{since: s.recv}
	}
	w.run.id, w.run.time = s.id, s.time
	w.run.n++
}

// oldest is the lowest id of which is known whether it was seen.
func (w *ids) oldest() uint64 {
	switch {
	case w.kind == venue.IDsContiguous:
		if w.last > idWindow {
			return max(w.first, w.last-idWindow+1)
		}
	case !w.trades:
		return max(w.first, w.marks[0])
	case len(w.ring) == ringSize:
		return w.ring[w.next]
	}
	return w.first
}

// seen reports whether an id that is neither above the last nor below the oldest was
// seen. A quote that is not above the last is one that is over.
func (w *ids) seen(id uint64) bool {
	if w.kind == venue.IDsContiguous {
		return !w.missing(id)
	}
	return !w.trades || slices.Contains(w.ring, id)
}

// unseen reports whether an id that is not above the last is known not to have been
// seen.
func (w *ids) unseen(id uint64) bool {
	if id < w.oldest() {
		return w.complete && w.trades
	}
	return !w.seen(id)
}

// missing reports whether an id was stated as lost.
func (w *ids) missing(id uint64) bool {
	return slices.ContainsFunc(w.holes, func(h span) bool { return h.from <= id && id <= h.to })
}

// note takes a record over that is published.
func (w *ids) note(s sighting) {
	w.lastTime = max(w.lastTime, s.time)
	if s.id == 0 {
		return
	}
	if s.id < w.first && w.kind == venue.IDsContiguous && s.id+1 < w.first && len(w.holes) < maxHoles {
		w.holes = slices.Insert(w.holes, 0, span{s.id + 1, w.first - 1})
	}
	if w.first == 0 || s.id < w.first {
		w.first = s.id
	}
	if s.id > w.last {
		w.last = s.id
	} else {
		w.fill(span{s.id, s.id})
	}
	switch {
	case w.kind == venue.IDsContiguous:
		w.complete = w.complete && w.last-w.first < idWindow
	case !w.trades:
		if w.count++; w.count == quoteWindow {
			w.marks[0], w.marks[1], w.count = w.marks[1], s.id, 0
		}
	case len(w.ring) < ringSize:
		w.ring = append(w.ring, s.id)
	default:
		w.ring[w.next] = s.id
		w.next = (w.next + 1) % ringSize
		w.complete = false
	}
}

// lose notes that the ids after the last one up to id were not received.
func (w *ids) lose(id uint64) {
	if len(w.holes) == maxHoles {
		w.holes = slices.Delete(w.holes, 0, 1) // what comes of it later counts as seen
	}
	w.holes = append(w.holes, span{w.last + 1, id})
	w.last = id
}

// fill notes that ids of a hole were received after all.
func (w *ids) fill(s span) {
	for i := 0; i < len(w.holes); i++ {
		h := w.holes[i]
		if s.to < h.from || s.from > h.to {
			continue
		}
		var rest []span
		if h.from < s.from {
			rest = append(rest, span{h.from, s.from - 1})
		}
		if h.to > s.to {
			rest = append(rest, span{s.to + 1, h.to})
		}
		w.holes = slices.Replace(w.holes, i, i+1, rest...)
		i += len(rest) - 1
	}
	for len(w.holes) > maxHoles {
		w.holes = slices.Delete(w.holes, 0, 1)
	}
}

// begin starts a new epoch: of its ids nothing was seen.
func (w *ids) begin() {
	*w = ids{kind: w.kind, trades: w.trades, complete: true, lastTime: w.lastTime, ring: w.ring[:0]}
}

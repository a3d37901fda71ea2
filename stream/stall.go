package stream

import (
	"math"
	"time"
)

// A connection that has sent data is stalled when it is silent for stallGaps times its
// mean gap between frames, measured over about rateSpan, for stallLongest times its
// longest gap, and for FeedConfig.Stall at least; each stall in a row doubles that. A
// venue that sends now and then is only held to its idle limit.
const (
	stallGaps    = 100
	stallLongest = 3
	rateSpan     = 10 * time.Second
	// stallDoubles bounds how often the limit doubles.
	stallDoubles = 6
)

// pace is how a connection's data frames follow one another.
type pace struct {
	least  time.Duration // FeedConfig.Stall; 0 or less never calls a stall
	stalls int           // of the connections before this one, in a row

	data    int64 // frames seen
	first   time.Time
	last    time.Time
	rate    float64       // frames a second, as of the last one
	longest time.Duration // between two looks that saw frames
}

// look takes the frames that came until now. What comes within the first seconds of a
// connection sets no pace: venues open with what they have in hand.
func (p *pace) look(data int64, now time.Time) {
	if data == p.data {
		return
	}
	if p.first.IsZero() {
		p.first, p.last = now, now
	}
	if gap := now.Sub(p.last); now.Sub(p.first) > p.least && gap > 0 {
		p.rate += (float64(data-p.data)/gap.Seconds() - p.rate) * (1 - math.Exp(-gap.Seconds()/rateSpan.Seconds()))
		p.longest = max(p.longest, gap)
	}
	p.data, p.last = data, now
}

// limit is the longest silence; 0 is for ever.
func (p *pace) limit() time.Duration {
	if p.least <= 0 || p.rate <= 0 {
		return 0
	}
	gaps := stallGaps / p.rate
	if gaps > time.Hour.Seconds() {
		return 0
	}
	return max(p.least, time.Duration(gaps*float64(time.Second)), stallLongest*p.longest) << min(p.stalls, stallDoubles)
}

// stalled reports whether the connection has been silent for too long.
func (p *pace) stalled(now time.Time) bool {
	limit := p.limit()
	return limit > 0 && now.Sub(p.last) > limit
}

// steady reports whether the connection has gone on for so long without a stall that
// those before it count no more.
func (p *pace) steady(now time.Time) bool {
	limit := p.limit()
	return limit > 0 && now.Sub(p.first) > 10*limit
}

package risk

import (
	"time"

	"github.com/quagmt/udecimal"

	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/event"
)

// The mean of mids looks back one minute in steps of five seconds. A quote counts for
// as long as it was the last one, at most five seconds, and the mean is known once
// quotes of five seconds are in it: one bad quote can neither move it by much nor be
// all of it.
const (
	meanSpan  = time.Minute
	meanStep  = 5 * time.Second
	heldMost  = 5 * time.Second
	meanLeast = 5 * time.Second
)

// MeanMid is the mean of an instrument's mids over the last minute, weighted by the
// time for which each was the last. It takes no memory beyond its own and O(1) time a
// quote. The zero value has seen nothing. It is not safe for concurrent use.
type MeanMid struct {
	steps [int(meanSpan / meanStep)]meanPart
	// twice is bid + ask of the last quote, absent where that had no two sides; since is
	// when it came, in milliseconds.
	twice event.NullDecimal
	since int64
}

// meanPart is what one step of the span holds: the sum of twice the mid x milliseconds.
type meanPart struct {
	step  int64 // its number since the Unix epoch
	sum   event.Decimal
	milli int64
}

// Add takes a quote that came at time now, in Unix nanoseconds. A time before the last
// one counts as that. A side that is empty is 0; such a quote and a crossed one end the
// quote before and have no mid.
func (m *MeanMid) Add(now int64, bid, ask event.Decimal) {
	at := max(now/int64(time.Millisecond), m.since)
	if m.twice.Valid {
		m.hold(m.since, min(at, m.since+heldMost.Milliseconds()))
	}
	m.since, m.twice = at, event.NullDecimal{}
	if !sane(bid) || !sane(ask) || bid.Cmp(ask) > 0 {
		return
	}
	if sum, err := ledger.Add(bid, ask); err == nil {
		m.twice = event.Some(sum)
	}
}

// hold counts the last quote from one millisecond to another.
func (m *MeanMid) hold(from, until int64) {
	const step = int64(meanStep / time.Millisecond)
	for from < until {
		n := from / step
		end := min(until, (n+1)*step)
		p := &m.steps[n%int64(len(m.steps))]
		if p.step != n {
			*p = meanPart{step: n}
		}
		weighed, err := ledger.Mul(m.twice.Decimal, event.NewDecimal(end-from, 0))
		if err == nil {
			weighed, err = ledger.Add(p.sum, weighed)
		}
		if err != nil {
			return // too large for money; the mean does without it
		}
		p.sum = weighed
		p.milli += end - from
		from = end
	}
}

// Mean returns the mean at time now, in Unix nanoseconds, cut to 18 decimals; absent
// while it is not known. The last quote is not in it: it is what the mean is compared
// with.
func (m *MeanMid) Mean(now int64) event.NullDecimal {
	last := now / int64(meanStep)
	var sum udecimal.Decimal
	var milli int64
	for i := range m.steps {
		if p := &m.steps[i]; p.milli > 0 && p.step > last-int64(len(m.steps)) && p.step <= last {
			sum = sum.Add(p.sum.Money())
			milli += p.milli
		}
	}
	if milli < meanLeast.Milliseconds() {
		return event.NullDecimal{}
	}
	weight, err := udecimal.NewFromInt64(2*milli, 0)
	if err != nil {
		return event.NullDecimal{}
	}
	mean, err := sum.Div(weight)
	if err != nil {
		return event.NullDecimal{}
	}
	d, err := event.FromMoney(mean.Trunc(event.MaxScale))
	if err != nil || !sane(d) {
		return event.NullDecimal{}
	}
	return event.Some(d)
}

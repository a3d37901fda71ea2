package indicator

import "encoding/binary"

// window keeps the last len(ring) values with their mean and variance.
//
// The sums are taken over x - shift, with shift near the values, so that the
// difference of squares does not cancel; they are rebuilt from the ring once
// per lap, which bounds rounding to that of one lap at an amortised cost of one
// addition per tick. Two events that would spoil them sooner rebuild at once:
// an outlier that leaves (its square dwarfed the rest), and a level that moved
// far from shift. (Chan, Golub, LeVeque, "Algorithms for computing the sample
// variance", The American Statistician 37(3), 1983, on shifted data.)
type window struct {
	ring   []float64
	next   int // where the next value goes
	n      int // how many are held
	shift  float64
	s1, s2 float64 // sums of (x-shift) and of its square
	last   float64
	run    int // how many times last occurred in a row
	// inverse is 1/len(ring); the mean and the squares are those of a full window.
	inverse float64
}

func newWindow(n int) window { return window{ring: make([]float64, n), inverse: 1 / float64(n)} }

func (w *window) reset() { *w = window{ring: w.ring, inverse: w.inverse} }

func (w *window) full() bool { return w.n == len(w.ring) }

// add takes the next value, dropping the oldest of a full window.
func (w *window) add(x float64) {
	if x == w.last {
		w.run++
	} else {
		w.last, w.run = x, 1
	}
	rebuild := false
	if w.n < len(w.ring) {
		if w.n == 0 {
			w.shift, w.run = x, 1
		}
		d := x - w.shift
		w.n++
		w.s1 += d
		w.s2 += float64(d * d)
	} else {
		d, o := x-w.shift, w.ring[w.next]-w.shift
		w.s1 += d - o
		w.s2 += float64((d - o) * (d + o))
		rebuild = o*o > 1e8*w.s2
	}
	w.ring[w.next] = x
	if w.next++; w.next == len(w.ring) {
		w.next, rebuild = 0, true
	}
	switch {
	case w.run >= w.n: // all equal: exact, whatever was in the sums
		w.shift, w.s1, w.s2 = x, 0, 0
	case rebuild || w.moved():
		w.rebuild()
	}
}

// moved reports whether the mean lies so far from shift, in deviations, that
// the squares begin to cancel.
func (w *window) moved() bool {
	level := float64(w.s1 * w.s1)
	return level > 1e8*(float64(w.s2*float64(w.n))-level)
}

// rebuild takes the sums anew, around the mean.
func (w *window) rebuild() {
	held := w.ring[:w.n]
	shift, sum := held[0], 0.0
	for _, x := range held {
		sum += x - shift
	}
	w.shift = shift + sum/float64(w.n)
	w.s1, w.s2 = 0, 0
	for _, x := range held {
		d := x - w.shift
		w.s1 += d
		w.s2 += float64(d * d)
	}
}

// mean is that of a full window.
func (w *window) mean() float64 { return w.shift + float64(w.s1*w.inverse) }

// squares returns the sum of squared distances from the mean of a full window;
// it is exactly 0 when all values are equal.
func (w *window) squares() float64 { return max(0, w.s2-float64(w.s1*w.s1*w.inverse)) }

// appendState writes the ring in the order in which it lies: the sums are rebuilt
// at its end, and in that order.
func (w *window) appendState(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(w.n))
	if w.n == 0 {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(w.next))
	dst = appendFloats(dst, w.ring[:w.n])
	for _, x := range [...]float64{w.shift, w.s1, w.s2, w.last} {
		dst = appendFloat(dst, x)
	}
	return binary.AppendUvarint(dst, uint64(w.run))
}

func (w *window) restoreState(r *StateReader) {
	w.reset()
	n := r.Count(len(w.ring))
	if n == 0 {
		return
	}
	next := r.Count(len(w.ring) - 1)
	if n < len(w.ring) && next != n {
		r.Failf("a window of %d with %d values goes on at %d", len(w.ring), n, next)
		return
	}
	w.n, w.next = n, next
	r.floats(w.ring[:n])
	w.shift, w.s1, w.s2, w.last = r.Float(), r.Float(), r.Float(), r.Float()
	w.run = r.Count(1 << 62)
}

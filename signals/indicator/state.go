package indicator

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// The state of an indicator in a snapshot: whole numbers as varints, floats bit
// for bit, windows as columns. What its parameters say is not repeated.

// errState is wrapped by every error of a StateReader.
var errState = errors.New("state is damaged")

// StateReader reads what AppendState wrote. Its first error sticks: whatever is
// read after it is zero, and no read allocates or goes beyond what is there.
type StateReader struct {
	rest []byte
	size int
	err  error
}

// NewStateReader reads b, which it does not change.
func NewStateReader(b []byte) *StateReader { return &StateReader{rest: b, size: len(b)} }

// Err is the first error.
func (r *StateReader) Err() error { return r.err }

// Len is how many bytes are left.
func (r *StateReader) Len() int { return len(r.rest) }

// End returns the first error, or one if anything is left.
func (r *StateReader) End() error {
	if r.err == nil && len(r.rest) > 0 {
		r.Failf("%d bytes are left", len(r.rest))
	}
	return r.err
}

// Failf notes that what was read cannot be.
func (r *StateReader) Failf(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w at byte %d of %d: %s", errState, r.size-len(r.rest), r.size, fmt.Sprintf(format, args...))
		r.rest = nil
	}
}

// Uint reads what binary.AppendUvarint wrote.
func (r *StateReader) Uint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.Failf("want a whole number")
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// Count reads a whole number of 0 to limit.
func (r *StateReader) Count(limit int) int {
	v := r.Uint()
	if v > uint64(limit) {
		r.Failf("%d is more than %d", v, limit)
		return 0
	}
	return int(v)
}

// Int reads what binary.AppendVarint wrote.
func (r *StateReader) Int() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.Failf("want a whole number")
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// Bool reads what appendBool wrote.
func (r *StateReader) Bool() bool { return r.Count(1) == 1 }

// Float reads what appendFloat wrote.
func (r *StateReader) Float() float64 {
	if len(r.rest) < 8 {
		r.Failf("want a number of 8 bytes")
		return 0
	}
	v := math.Float64frombits(binary.LittleEndian.Uint64(r.rest))
	r.rest = r.rest[8:]
	return v
}

// Bytes reads as many bytes as a number before them says. They lie in what the
// reader was given.
func (r *StateReader) Bytes() []byte {
	b := r.rest
	if n := r.Uint(); n > uint64(len(r.rest)) {
		r.Failf("%d bytes are said to follow, %d do", n, len(r.rest))
	} else {
		b, r.rest = r.rest[:n:n], r.rest[n:]
	}
	if r.err != nil {
		return nil
	}
	return b
}

// Take reads n bytes. They lie in what the reader was given.
func (r *StateReader) Take(n int64) []byte {
	if n < 0 || n > int64(len(r.rest)) {
		r.Failf("%d bytes are said to follow, %d do", n, len(r.rest))
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// Raw fills dst.
func (r *StateReader) Raw(dst []byte) {
	if len(r.rest) < len(dst) {
		r.Failf("want %d bytes", len(dst))
		return
	}
	r.rest = r.rest[copy(dst, r.rest):]
}

func appendBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// appendFloat writes every bit.
func appendFloat(dst []byte, x float64) []byte {
	return binary.LittleEndian.AppendUint64(dst, math.Float64bits(x))
}

// column is a run of floats of one kind. Prices and sizes are decimals with few
// digits: where one is k / 10^scale to the last bit, the difference of k to the
// one before is written instead, which takes two or three bytes of eight. One
// that is not is escaped, so that every bit comes back in any case.
type column struct {
	scale uint8
	last  int64 // k of the last
}

// pow10 are the powers that a float64 holds exactly, as far as scales go.
var pow10 = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10}

const (
	rawScale = 0xff // every value as 8 bytes
	escape   = 1    // in the place of a difference: 8 bytes follow
)

// decimal returns x * 10^scale where that is whole and gives x back.
func decimal(x float64, scale uint8) (int64, bool) {
	p := pow10[scale]
	k := math.RoundToEven(x * p)
	if !(math.Abs(k) < 1<<53) {
		return 0, false
	}
	return int64(k), math.Float64bits(float64(int64(k))/p) == math.Float64bits(x)
}

// beginColumn writes the head of a column of which the sample is a part.
func beginColumn(dst []byte, sample []float64) ([]byte, column) {
	c := column{}
	none := 0
	for _, x := range sample {
		s := c.scale
		for ; int(s) < len(pow10); s++ {
			if _, ok := decimal(x, s); ok {
				break
			}
		}
		if int(s) < len(pow10) {
			c.scale = s
		} else {
			none++
		}
	}
	if 2*none > len(sample) {
		c.scale = rawScale
	}
	return append(dst, c.scale), c
}

func (c *column) append(dst []byte, x float64) []byte {
	if c.scale == rawScale {
		return appendFloat(dst, x)
	}
	k, ok := decimal(x, c.scale)
	if !ok {
		return appendFloat(append(dst, escape), x)
	}
	d := k - c.last
	c.last = k
	return binary.AppendUvarint(dst, uint64(d<<1^d>>63)<<1)
}

// column reads the head of one.
func (r *StateReader) column() column {
	if len(r.rest) == 0 || (r.rest[0] != rawScale && int(r.rest[0]) >= len(pow10)) {
		r.Failf("want the scale of a column")
		return column{scale: rawScale}
	}
	c := column{scale: r.rest[0]}
	r.rest = r.rest[1:]
	return c
}

// next reads the next value of the column.
func (r *StateReader) next(c *column) float64 {
	if c.scale == rawScale {
		return r.Float()
	}
	u := r.Uint()
	switch {
	case u == escape:
		return r.Float()
	case u&1 != 0:
		r.Failf("difference %d is none", u)
		return 0
	}
	u >>= 1
	c.last += int64(u>>1) ^ -int64(u&1)
	return float64(c.last) / pow10[c.scale]
}

// appendFloats writes a column of its own; the reader must know how many.
func appendFloats(dst []byte, xs []float64) []byte {
	dst, c := beginColumn(dst, xs[:min(len(xs), sampled)])
	for _, x := range xs {
		dst = c.append(dst, x)
	}
	return dst
}

// sampled is how many values of a column decide how it is written.
const sampled = 8

// floats reads a column of len(dst) values.
func (r *StateReader) floats(dst []float64) {
	c := r.column()
	for i := range dst {
		dst[i] = r.next(&c)
	}
}

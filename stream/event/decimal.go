package event

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strconv"

	"github.com/quagmt/udecimal"
)

// MaxScale is the number of decimals that every stored price, size and amount
// of money can have: they land in ClickHouse as Decimal(38, 18).
const MaxScale = 18

// Decimal is an exact decimal number as a venue sent it: a 128-bit mantissa and
// a scale, so that "0.10" keeps its two decimals. It never passes through a
// float. Every Decimal that Parse accepts fits Decimal(38, 18). The zero value
// is 0.
type Decimal struct {
	hi    int64 // mantissa, two's complement, high half
	lo    uint64
	scale uint8
}

// NullDecimal is a Decimal that may be absent: a size that was not sent is
// absent, not zero.
type NullDecimal struct {
	Decimal Decimal
	Valid   bool
}

// Some returns a present NullDecimal.
func Some(d Decimal) NullDecimal { return NullDecimal{Decimal: d, Valid: true} }

// Errors of ParseDecimal; the caller adds the text, bounded, and the place.
var (
	ErrNotNumber = errors.New("not a decimal number")
	ErrNotExact  = errors.New("does not fit 20 digits before and 18 after the decimal point")
)

// NewDecimal returns mantissa * 10^-scale. It panics when scale exceeds
// MaxScale, a mistake of the programmer; use ParseDecimal for input. Every
// 64-bit mantissa fits: 2^63 * 10^18 is below 10^38.
func NewDecimal(mantissa int64, scale uint8) Decimal {
	if scale > MaxScale {
		panic(ErrNotExact)
	}
	return Decimal{hi: mantissa >> 63, lo: uint64(mantissa), scale: scale}
}

// ParseDecimal reads a JSON number or the text inside a JSON string: digits with
// an optional sign, fraction and exponent. It accepts exactly what fits
// Decimal(38, 18) without rounding; zeros beyond 18 decimals are dropped.
// It does not allocate.
func ParseDecimal(text []byte) (Decimal, error) {
	i, neg := 0, false
	if i < len(text) && (text[i] == '-' || text[i] == '+') {
		neg = text[i] == '-'
		i++
	}
	var hi, lo uint64
	scale, digits, zeros := 0, 0, 0 // zeros: trailing zeros not yet in the mantissa
	point := false
	for ; i < len(text); i++ {
		c := text[i]
		if c == '.' && !point {
			point = true
			continue
		}
		if c < '0' || c > '9' {
			break
		}
		digits++
		if point {
			scale++
		}
		if scale > MaxScale && c == '0' {
			zeros++ // may turn out to be trailing
			continue
		}
		for ; zeros > 0; zeros-- {
			if !mul10add(&hi, &lo, 0) {
				return Decimal{}, ErrNotExact
			}
		}
		if !mul10add(&hi, &lo, uint64(c-'0')) {
			return Decimal{}, ErrNotExact
		}
	}
	if digits == 0 || (point && text[i-1] == '.') {
		return Decimal{}, ErrNotNumber
	}
	scale -= zeros
	if i < len(text) {
		if text[i] != 'e' && text[i] != 'E' {
			return Decimal{}, ErrNotNumber
		}
		exp, ok := parseExponent(text[i+1:])
		if !ok {
			return Decimal{}, ErrNotNumber
		}
		scale -= exp
	}
	return makeDecimal(neg, hi, lo, scale)
}

// makeDecimal brings the scale into 0..MaxScale without losing a digit.
func makeDecimal(neg bool, hi, lo uint64, scale int) (Decimal, error) {
	if hi == 0 && lo == 0 {
		return Decimal{scale: uint8(min(max(scale, 0), MaxScale))}, nil
	}
	for ; scale < 0; scale++ {
		if !mul10add(&hi, &lo, 0) {
			return Decimal{}, ErrNotExact
		}
	}
	for ; scale > MaxScale; scale-- {
		qhi, r := hi/10, hi%10
		qlo, r := bits.Div64(r, lo, 10)
		if r != 0 {
			return Decimal{}, ErrNotExact
		}
		hi, lo = qhi, qlo
	}
	if hi > 1<<63-1 {
		return Decimal{}, ErrNotExact
	}
	d := Decimal{hi: int64(hi), lo: lo, scale: uint8(scale)}
	if !d.fits() {
		return Decimal{}, ErrNotExact
	}
	if neg {
		d.hi, d.lo = negate(d.hi, d.lo)
	}
	return d, nil
}

// mul10add does v = v*10 + digit and reports whether 128 bits sufficed.
func mul10add(hi, lo *uint64, digit uint64) bool {
	if *hi == 0 && *lo < (1<<60) {
		*lo = *lo*10 + digit
		return true
	}
	over, h := bits.Mul64(*hi, 10)
	c, l := bits.Mul64(*lo, 10)
	l, carry := bits.Add64(l, digit, 0)
	h, over2 := bits.Add64(h, c, carry)
	*hi, *lo = h, l
	return over == 0 && over2 == 0
}

func parseExponent(text []byte) (exp int, ok bool) {
	neg := false
	if len(text) > 0 && (text[0] == '-' || text[0] == '+') {
		neg = text[0] == '-'
		text = text[1:]
	}
	if len(text) == 0 {
		return 0, false
	}
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		if exp = exp*10 + int(c-'0'); exp > 1000 {
			exp = 1000 // beyond any exact value, whatever follows
		}
	}
	if neg {
		exp = -exp
	}
	return exp, true
}

func negate(hi int64, lo uint64) (int64, uint64) {
	l, carry := bits.Add64(^lo, 1, 0)
	h, _ := bits.Add64(^uint64(hi), 0, carry)
	return int64(h), l
}

// abs returns the magnitude of the mantissa and the sign.
func (d Decimal) abs() (neg bool, hi, lo uint64) {
	if d.hi < 0 {
		h, l := negate(d.hi, d.lo)
		return true, uint64(h), l
	}
	return false, uint64(d.hi), d.lo
}

// 10^38 as two halves: Decimal(38, 18) holds magnitudes below it at scale 18.
const (
	ten38hi = 0x4b3b4ca85a86c47a
	ten38lo = 0x098a224000000000
)

func (d Decimal) fits() bool {
	if d.scale > MaxScale {
		return false
	}
	_, hi, lo, ok := d.at18()
	return ok && (hi < ten38hi || (hi == ten38hi && lo < ten38lo))
}

// at18 returns the magnitude of the mantissa at scale 18.
func (d Decimal) at18() (neg bool, hi, lo uint64, ok bool) {
	neg, hi, lo = d.abs()
	up := pow10[MaxScale-d.scale]
	over, h := bits.Mul64(hi, up)
	c, l := bits.Mul64(lo, up)
	h, carry := bits.Add64(h, c, 0)
	return neg, h, l, over == 0 && carry == 0
}

var pow10 = [...]uint64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19}

// Int128 returns the value times 10^18 as a 128-bit two's complement integer,
// which is how ClickHouse stores a Decimal(38, 18).
func (d Decimal) Int128() (hi int64, lo uint64) {
	neg, h, l, _ := d.at18()
	if neg {
		return negate(int64(h), l)
	}
	return int64(h), l
}

// Scale returns the number of decimals the value was written with.
func (d Decimal) Scale() uint8 { return d.scale }

// Sign returns -1, 0 or 1.
func (d Decimal) Sign() int {
	switch {
	case d.hi < 0:
		return -1
	case d.hi == 0 && d.lo == 0:
		return 0
	}
	return 1
}

// IsZero reports whether the value is 0, whatever its scale.
func (d Decimal) IsZero() bool { return d.hi == 0 && d.lo == 0 }

// Cmp compares values, whatever their scales.
func (d Decimal) Cmp(e Decimal) int {
	dh, dl := d.Int128()
	eh, el := e.Int128()
	switch {
	case dh < eh || (dh == eh && dl < el):
		return -1
	case dh == eh && dl == el:
		return 0
	}
	return 1
}

// Float64 returns the nearest float64, for indicators only: money and prices in
// records stay decimals.
func (d Decimal) Float64() float64 {
	if d.hi == int64(d.lo)>>63 && d.scale <= 15 {
		if m := int64(d.lo); m > -1<<53 && m < 1<<53 {
			return float64(m) / float64(pow10[d.scale]) // exact operands: correctly rounded
		}
	}
	var buf [48]byte
	f, err := strconv.ParseFloat(string(d.Append(buf[:0])), 64)
	if err != nil {
		return 0 // cannot happen: Append writes a valid number in range
	}
	return f
}

// Money returns the value for arithmetic.
func (d Decimal) Money() udecimal.Decimal {
	neg, hi, lo := d.abs()
	u, err := udecimal.NewFromHiLo(neg, hi, lo, d.scale)
	if err != nil {
		return udecimal.Decimal{} // cannot happen: scale is at most 18
	}
	return u
}

// FromMoney returns the result of arithmetic as a Decimal; ErrNotExact when it
// has more than 18 decimals or 20 digits before the point. It never rounds.
func FromMoney(u udecimal.Decimal) (Decimal, error) {
	neg, hi, lo, prec, ok := u.ToHiLo()
	if !ok {
		return ParseDecimal([]byte(u.String()))
	}
	return makeDecimal(neg, hi, lo, int(prec))
}

// Append appends the plain decimal text, with all decimals of its scale.
func (d Decimal) Append(dst []byte) []byte {
	neg, hi, lo := d.abs()
	if neg {
		dst = append(dst, '-')
	}
	var buf [48]byte
	i := len(buf)
	for n := 0; hi != 0 || lo != 0 || n <= int(d.scale); n++ {
		if n == int(d.scale) && n > 0 {
			i--
			buf[i] = '.'
		}
		var r uint64
		hi, r = hi/10, hi%10
		lo, r = bits.Div64(r, lo, 10)
		i--
		buf[i] = byte('0' + r)
	}
	return append(dst, buf[i:]...)
}

// String returns the plain decimal text.
func (d Decimal) String() string {
	var buf [48]byte
	return string(d.Append(buf[:0]))
}

// MarshalText writes the plain decimal text; in JSON a Decimal is a string.
func (d Decimal) MarshalText() ([]byte, error) { return d.Append(nil), nil }

// UnmarshalText reads plain decimal text, as in a configuration.
func (d *Decimal) UnmarshalText(text []byte) error {
	v, err := ParseDecimal(text)
	if err != nil {
		return fmt.Errorf("parsing %.40q: %w", text, err)
	}
	*d = v
	return nil
}

// MustDecimal parses a constant; it panics on a mistake.
func MustDecimal(text string) Decimal {
	d, err := ParseDecimal([]byte(text))
	if err != nil {
		panic(fmt.Sprintf("parsing %q: %v", text, err))
	}
	return d
}

// String returns the text, or nothing when absent.
func (n NullDecimal) String() string {
	if !n.Valid {
		return ""
	}
	return n.Decimal.String()
}

// MarshalJSON writes null when absent.
func (n NullDecimal) MarshalJSON() ([]byte, error) {
	if !n.Valid {
		return []byte("null"), nil
	}
	return append(n.Decimal.Append([]byte{'"'}), '"'), nil
}

// UnmarshalJSON reads a string, a number or null.
func (n *NullDecimal) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		*n = NullDecimal{}
		return nil
	}
	if len(text) >= 2 && text[0] == '"' {
		text = text[1 : len(text)-1]
	}
	n.Valid = true
	return n.Decimal.UnmarshalText(text)
}

// mantissaBytes returns the mantissa as 16 bytes, big-endian two's complement:
// the wide wire form.
func (d Decimal) mantissaBytes() (b [16]byte) {
	binary.BigEndian.PutUint64(b[:8], uint64(d.hi))
	binary.BigEndian.PutUint64(b[8:], d.lo)
	return b
}

// narrow reports whether the mantissa fits 64 bits.
func (d Decimal) narrow() bool { return d.hi == int64(d.lo)>>63 }

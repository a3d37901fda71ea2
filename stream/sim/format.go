package sim

import (
	"strconv"
	"time"
)

var pow10 = [19]int64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18}

func itoa(n int) string { return strconv.Itoa(n) }

// appendFixed appends m * 10^-scale, m not negative, with exactly width
// decimals (width >= scale). Width 0 has no point.
func appendFixed(dst []byte, m int64, scale, width uint8) []byte {
	p := pow10[scale]
	dst = strconv.AppendInt(dst, m/p, 10)
	if width == 0 {
		return dst
	}
	dst = append(dst, '.')
	at := len(dst)
	for range width {
		dst = append(dst, '0')
	}
	for f, i := m%p, at+int(scale)-1; f > 0; i-- {
		dst[i] = byte('0' + f%10)
		f /= 10
	}
	return dst
}

// appendShort appends m * 10^-scale without trailing zeros.
func appendShort(dst []byte, m int64, scale uint8) []byte {
	for scale > 0 && m%10 == 0 {
		m /= 10
		scale--
	}
	return appendFixed(dst, m, scale, scale)
}

// appendMicros appends a time as Coinbase writes it: RFC 3339, six decimals, Z.
func appendMicros(dst []byte, t time.Time) []byte {
	return t.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000000Z")
}

// mix is splitmix64's finaliser: a bijection that spreads its input over all
// bits. It is used for order ids and sequence holes, which must be the same
// after a restart, not unpredictable.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

const hexDigits = "0123456789abcdef"

// appendUUID appends 128 bits made from x in the form of a version 4 UUID.
func appendUUID(dst []byte, x uint64) []byte {
	hi, lo := mix(x), mix(^x)
	hi = hi&^0xf000 | 0x4000
	lo = lo&^(3<<62) | 2<<62
	for i := range 16 {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			dst = append(dst, '-')
		}
		b := byte(hi >> (56 - 8*(i&7)))
		if i >= 8 {
			b = byte(lo >> (56 - 8*(i&7)))
		}
		dst = append(dst, hexDigits[b>>4], hexDigits[b&15])
	}
	return dst
}

// hash64 is FNV-1a.
func hash64(parts ...string) uint64 {
	h := uint64(14695981039346656037)
	for _, p := range parts {
		for i := range len(p) {
			h = (h ^ uint64(p[i])) * 1099511628211
		}
		h = (h ^ '|') * 1099511628211
	}
	return h
}

// WebSocket opcodes (RFC 6455 section 5.2).
const (
	opText  = 0x1
	opClose = 0x8
	opPing  = 0x9
	opPong  = 0xa
)

// appendFrameHeader appends the header of one whole, unmasked frame of n bytes,
// as a server sends it (RFC 6455 section 5.2).
func appendFrameHeader(dst []byte, op byte, n int) []byte {
	dst = append(dst, 0x80|op)
	switch {
	case n < 126:
		return append(dst, byte(n))
	case n < 1<<16:
		return append(dst, 126, byte(n>>8), byte(n))
	default:
		u := uint64(n)
		return append(dst, 127, byte(u>>56), byte(u>>48), byte(u>>40), byte(u>>32), byte(u>>24), byte(u>>16), byte(u>>8), byte(u))
	}
}

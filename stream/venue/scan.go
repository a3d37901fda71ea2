package venue

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep values may nest; no venue goes beyond six.
const maxDepth = 128

// scanner walks one JSON text (RFC 8259), below 2 GiB, and checks all of it, also what is
// skipped. It accepts and refuses exactly what encoding/json does, but for
// maxDepth. It stops at the first mistake: every method returns false from then
// on, and err tells.
type scanner struct {
	b     []byte
	i     int
	depth int
	msg   string // the mistake
	at    int
	// text holds the strings that had escapes, decoded; it lasts until reset.
	text []byte
}

// tokenKind is the kind of a value.
type tokenKind uint8

const (
	tokenNone tokenKind = iota
	tokenString
	tokenNumber
	tokenTrue
	tokenFalse
	tokenNull
	tokenObject
	tokenArray
)

// token is one value: where its text lies in the frame, for a string what stands
// between the quotes. It holds no pointer, so that storing it costs the garbage
// collector nothing.
type token struct {
	from, to int32
	kind     tokenKind
	escape   bool // a string with escapes in it
}

// raw is the token's text.
func (s *scanner) raw(t *token) []byte { return s.b[t.from:t.to] }

// at is the offset of the value in the frame.
func (t *token) at() int {
	if t.kind == tokenString {
		return int(t.from) - 1
	}
	return int(t.from)
}

func (s *scanner) reset(b []byte) {
	s.b, s.i, s.depth, s.msg, s.text = b, 0, 0, "", s.text[:0]
}

func (s *scanner) fail(msg string) bool {
	if s.msg == "" {
		s.msg, s.at = msg, s.i
	}
	return false
}

func (s *scanner) err() *FrameError {
	return &FrameError{Code: CodeMalformed, Offset: s.at, Detail: s.msg}
}

// peek skips white space and returns the next byte; 0 at the end.
func (s *scanner) peek() byte {
	if s.i < len(s.b) && s.b[s.i] > ' ' {
		return s.b[s.i]
	}
	return s.skipSpace()
}

func (s *scanner) skipSpace() byte {
	for s.i < len(s.b) {
		c := s.b[s.i]
		if c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c
		}
		s.i++
	}
	return 0
}

// end reports whether nothing but white space is left.
func (s *scanner) end() bool {
	if s.peek(); s.i < len(s.b) {
		return s.fail("unexpected text after the value")
	}
	return true
}

// key reads the next key of an object whose brace was read, and its colon, up
// to the value. It returns false at the closing brace, which it reads, or on a
// mistake.
func (s *scanner) key(first bool, k *token) bool {
	if b, i := s.b, s.i; !first && len(b)-i > 4 && b[i] == ',' && b[i+1] == '"' { // the usual case, without white space
		if b[i+3] == '"' && b[i+4] == ':' && !special[b[i+2]] { // ,"x":
			k.from, k.to, k.kind, k.escape = int32(i+2), int32(i+3), tokenString, false
			s.i = i + 5
			return true
		}
		s.i = i + 2
	} else if !s.quote(first) {
		return false
	}
	if !s.str(k) {
		return false
	}
	if s.i < len(s.b) && s.b[s.i] == ':' {
		s.i++
		return true
	}
	if s.peek() != ':' {
		return s.fail("want : after a key")
	}
	s.i++
	return true
}

// quote reads up to the key's opening quote; false at the closing brace, which it
// reads, or on a mistake.
func (s *scanner) quote(first bool) bool {
	c := s.peek()
	if c == '}' {
		s.i++
		return false
	}
	if !first {
		if c != ',' {
			return s.fail("want , or } after a value")
		}
		s.i++
		c = s.peek()
	}
	if c != '"' {
		return s.fail("want a key in quotes")
	}
	s.i++
	return true
}

// element steps to the next element of an array whose bracket was read. It
// returns false at the closing bracket, which it reads, or on a mistake.
func (s *scanner) element(first bool) bool {
	c := s.peek()
	if c == ']' {
		s.i++
		return false
	}
	if first {
		return true
	}
	if c != ',' {
		return s.fail("want , or ] after a value")
	}
	s.i++
	return true
}

// value reads any value.
func (s *scanner) value(t *token) bool {
	c := s.peek()
	switch {
	case c == '"':
		s.i++
		return s.str(t)
	case c == '-' || (c >= '0' && c <= '9'):
		return s.number(t)
	}
	t.escape, t.from = false, int32(s.i)
	switch c {
	case '{':
		t.kind = tokenObject
		if !s.skipObject() {
			return false
		}
	case '[':
		t.kind = tokenArray
		if !s.skipArray() {
			return false
		}
	case 't':
		t.kind = tokenTrue
		if !s.literal("true") {
			return false
		}
	case 'f':
		t.kind = tokenFalse
		if !s.literal("false") {
			return false
		}
	case 'n':
		t.kind = tokenNull
		if !s.literal("null") {
			return false
		}
	default:
		return s.fail("want a value")
	}
	t.to = int32(s.i)
	return true
}

func (s *scanner) literal(word string) bool {
	if len(s.b)-s.i < len(word) || string(s.b[s.i:s.i+len(word)]) != word {
		return s.fail("want a value")
	}
	s.i += len(word)
	return true
}

// enter reads the brace or bracket of a nested value.
func (s *scanner) enter() bool {
	if s.depth++; s.depth > maxDepth {
		return s.fail("nested too deep")
	}
	s.i++
	return true
}

func (s *scanner) skipObject() bool {
	if !s.enter() {
		return false
	}
	var k, v token
	for first := true; s.key(first, &k); first = false {
		if !s.value(&v) {
			return false
		}
	}
	s.depth--
	return s.msg == ""
}

func (s *scanner) skipArray() bool {
	if !s.enter() {
		return false
	}
	var v token
	first := true
	for ; s.element(first); first = false {
		if !s.value(&v) {
			return false
		}
	}
	s.depth--
	return s.msg == ""
}

// special marks the bytes that end a run within a string.
var special = func() (t [256]bool) {
	for c := range 0x20 {
		t[c] = true
	}
	t['"'], t['\\'] = true, true
	return t
}()

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// str reads a string whose opening quote was read. It looks at eight bytes at a
// time: a byte that ends the run is a quote, a backslash or below 0x20. With bit
// 1 flipped, the first and the last of these are the bytes below 0x21. The usual
// tests for a zero byte and for a byte below n may also mark bytes after the
// first true one, but never before it.
func (s *scanner) str(t *token) bool {
	b, i := s.b, s.i
	t.kind, t.escape = tokenString, false
	for {
		if i+8 <= len(b) {
			w := binary.LittleEndian.Uint64(b[i:])
			slash := w ^ (ones * '\\')
			stop := (((w ^ ones*2) - ones*0x21) &^ w) | ((slash - ones) &^ slash)
			if stop &= highs; stop == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(stop) / 8
		} else {
			for i < len(b) && !special[b[i]] {
				i++
			}
			if i >= len(b) {
				s.i = len(b)
				return s.fail("unfinished string")
			}
		}
		if b[i] == '"' {
			t.from, t.to = int32(s.i), int32(i)
			s.i = i + 1
			return true
		}
		if b[i] != '\\' {
			s.i = i
			return s.fail("control character in a string")
		}
		t.escape = true
		n := escapeLen(b[i:])
		if n == 0 {
			s.i = i
			return s.fail("malformed escape in a string")
		}
		i += n
	}
}

// escapeLen returns the length of the escape sequence at the start of b, 0 if
// it is none.
func escapeLen(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if _, ok := hex4(b); ok {
			return 6
		}
	}
	return 0
}

// hex4 reads \uXXXX.
func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	for _, c := range b[2:6] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// string returns what a string token says, escapes decoded. An escaped half of
// a surrogate pair that stands alone becomes U+FFFD, as in encoding/json.
func (s *scanner) string(t *token) []byte {
	if !t.escape {
		return s.b[t.from:t.to]
	}
	return s.unescape(s.b[t.from:t.to])
}

func (s *scanner) unescape(raw []byte) []byte {
	start := len(s.text)
	for len(raw) > 0 {
		if raw[0] != '\\' {
			s.text = append(s.text, raw[0])
			raw = raw[1:]
			continue
		}
		switch c := raw[1]; c {
		case 'u':
			r, _ := hex4(raw)
			raw = raw[6:]
			if utf16.IsSurrogate(r) {
				low, ok := hex4(raw)
				if both := utf16.DecodeRune(r, low); ok && both != utf8.RuneError {
					r = both
					raw = raw[6:]
				} else {
					r = utf8.RuneError
				}
			}
			s.text = utf8.AppendRune(s.text, r)
			continue
		case 'b':
			s.text = append(s.text, '\b')
		case 'f':
			s.text = append(s.text, '\f')
		case 'n':
			s.text = append(s.text, '\n')
		case 'r':
			s.text = append(s.text, '\r')
		case 't':
			s.text = append(s.text, '\t')
		default:
			s.text = append(s.text, c)
		}
		raw = raw[2:]
	}
	return s.text[start:len(s.text):len(s.text)]
}

// number reads a number.
func (s *scanner) number(t *token) bool {
	b, i := s.b, s.i
	t.kind, t.escape = tokenNumber, false
	if b[i] == '-' {
		i++
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	case i < len(b) && b[i] >= '1' && b[i] <= '9':
		i = digits(b, i)
	default:
		s.i = i
		return s.fail("want a digit")
	}
	if i == len(b) || (b[i] != '.' && b[i]|0x20 != 'e') { // a whole number
		t.from, t.to = int32(s.i), int32(i)
		s.i = i
		return true
	}
	if b[i] == '.' {
		from := i + 1
		if i = digits(b, from); i == from {
			s.i = i
			return s.fail("want a digit after the decimal point")
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		from := i
		if i = digits(b, from); i == from {
			s.i = i
			return s.fail("want a digit in the exponent")
		}
	}
	t.from, t.to = int32(s.i), int32(i)
	s.i = i
	return true
}

func digits(b []byte, i int) int {
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	return i
}

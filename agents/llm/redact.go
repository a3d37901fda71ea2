package llm

import (
	"bytes"
	"math"
	"slices"
	"strconv"

	"github.com/autohedge/autohedge/stream/component"
)

// minSecret is the shortest key that redact looks for: local servers are given
// words like "none" as a key, and replacing those would spoil the record.
const minSecret = 8

// minCut is how much of a key must stand at the end of a text that was cut there
// before it is taken for the key's beginning.
const minCut = 6

var replacement = []byte("<secret>")

// maxNesting is how deep JSON within JSON is looked into: a model's text in a body has
// depth 1, and an object that it quotes depth 2.
const maxNesting = 4

// redact replaces the key wherever an endpoint echoes it: plain, or with any of its
// characters in any spelling that JSON has for it (\u002b, \/, \"), also in JSON within
// JSON, and where the text ends in the middle of it. It must see bytes before anything
// decodes, cuts or keeps them. The result is b where there is nothing to replace.
func redact(b []byte, key component.Secret) []byte {
	secret := []byte(key.Reveal())
	if len(secret) < minSecret {
		return b
	}
	text := spelling{chars: b}
	found := text.find(secret, nil)
	for range maxNesting {
		if bytes.IndexByte(text.chars, '\\') < 0 {
			break
		}
		text = text.decode()
		found = text.find(secret, found)
	}
	if len(found) == 0 {
		return b
	}
	slices.SortFunc(found, func(x, y [2]int) int { return x[0] - y[0] })
	out, kept := make([]byte, 0, len(b)), 0
	for _, at := range found {
		if at[0] >= kept {
			out = append(append(out, b[kept:at[0]]...), replacement...)
		}
		kept = max(kept, at[1])
	}
	return append(out, b[min(kept, len(b)):]...)
}

// spelling is a text with the escapes of some depth undone.
type spelling struct {
	chars []byte
	// ends says where in the original what a character was written as ends; nil where
	// nothing has been undone.
	ends []int
}

// at returns where in the original a character begins.
func (s *spelling) at(i int) int {
	switch {
	case s.ends == nil:
		return i
	case i == 0:
		return 0
	}
	return s.ends[i-1]
}

// find appends where in the original the secret is, and a beginning of it of at least
// minCut characters at the end of the text.
func (s *spelling) find(secret []byte, found [][2]int) [][2]int {
	for i := 0; ; {
		n := bytes.Index(s.chars[i:], secret)
		if n < 0 {
			break
		}
		i += n
		found = append(found, [2]int{s.at(i), s.at(i + len(secret))})
		i += len(secret)
	}
	for n := min(len(secret)-1, len(s.chars)); n >= minCut; n-- {
		if bytes.HasSuffix(s.chars, secret[:n]) {
			return append(found, [2]int{s.at(len(s.chars) - n), math.MaxInt})
		}
	}
	return found
}

// decode undoes the escapes of one depth. What is no escape stays; an escape that the
// end of the text cuts is left out.
func (s *spelling) decode() spelling {
	out := spelling{chars: make([]byte, 0, len(s.chars)), ends: make([]int, 0, len(s.chars))}
	for i := 0; i < len(s.chars); {
		c, n := s.chars[i], 1
		if c == '\\' {
			if c, n = unescape(s.chars[i:]); n == 0 {
				break
			}
		}
		i += n
		out.chars = append(out.chars, c)
		out.ends = append(out.ends, s.at(i))
	}
	return out
}

// unescape reads one escape: the character, and how many bytes spell it; 0 where the
// text ends before that.
func unescape(b []byte) (c byte, n int) {
	if len(b) < 2 {
		return 0, 0
	}
	if b[1] != 'u' {
		if i := bytes.IndexByte([]byte("bfnrt"), b[1]); i >= 0 {
			return "\b\f\n\r\t"[i], 2
		}
		return b[1], 2
	}
	if len(b) < 6 {
		return 0, 0
	}
	if code, err := strconv.ParseUint(string(b[2:6]), 16, 16); err == nil && code < 0x80 {
		return byte(code), 6
	}
	return b[0], 1 // no character of a key
}

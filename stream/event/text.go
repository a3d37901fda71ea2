package event

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Bounds of the texts in events.
const (
	// maxText bounds free text, such as a rationale or a reason.
	maxText = 1 << 20
	// maxName bounds what things are called.
	maxName = 1024
)

var (
	errNotUTF8    = errors.New("text is not UTF-8")
	errUnprinted  = errors.New("name has a control character")
	errTextLength = errors.New("text is too long")
)

func checkText(b []byte) error {
	if len(b) > maxText {
		return fmt.Errorf("%w: %d bytes, at most %d", errTextLength, len(b), maxText)
	}
	if !utf8.Valid(b) {
		return errNotUTF8
	}
	return nil
}

// CheckName returns an error for what cannot be the name of an account, a strategy, a
// rule, a venue or a symbol: it must be UTF-8 without control characters, at most 1,024
// bytes.
func CheckName(b []byte) error {
	if len(b) > maxName {
		return fmt.Errorf("%w: a name of %d bytes, at most %d", errTextLength, len(b), maxName)
	}
	for i := 0; i < len(b); {
		if b[i] < utf8.RuneSelf {
			if b[i] < ' ' || b[i] == 0x7f {
				return errUnprinted
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return errNotUTF8
		}
		if r < 0xa0 {
			return errUnprinted
		}
		i += n
	}
	return nil
}

// CheckKey returns an error for a record's key that cannot be an instrument's:
// venue|symbol, both names.
func CheckKey(key []byte) error {
	venue, symbol := SplitKey(key)
	if len(venue) == 0 || len(symbol) == 0 {
		return fmt.Errorf("reading key %.80q: want venue|symbol", key)
	}
	if err := CheckName(key); err != nil {
		return fmt.Errorf("reading key %.80q: %w", key, err)
	}
	return nil
}

// validText is s as checkText takes it: what this program writes, it can read. What is
// not UTF-8 becomes the replacement character.
func validText(s string) string {
	if len(s) <= maxText && utf8.ValidString(s) {
		return s
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > maxText {
		n := maxText
		for !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	return s
}

// validName is s as CheckName takes it; control characters become question marks.
func validName(s string) string {
	if CheckName([]byte(s)) == nil {
		return s
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > maxName {
		n := maxName
		for !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	return s
}

package record

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// The line format, one line each (times are Unix seconds with a fraction):
//
//	URL <-> TIME            connection opened
//	URL <- TIME: FRAME      sent by the client
//	TIME: FRAME             received
//	URL -> TIME: BODY       REST response
//	configuration: JSON     ignored
//
// A file whose first line begins with { or [ holds bare frames instead, one a
// line, without times; they get SyntheticBase and one millisecond more each.

// LineKind says what a line is.
type LineKind uint8

// Line kinds.
const (
	Opened LineKind = iota + 1
	Sent
	Received
	REST
	Configuration
)

// SyntheticBase is the receive time of the first frame of a file without times,
// in Unix nanoseconds: 2020-01-01 00:00 UTC.
const SyntheticBase int64 = 1_577_836_800_000_000_000

// MaxLine is the longest line that is read; book snapshots take a few MB.
const MaxLine = 64 << 20

// Line is one line of a recording.
type Line struct {
	Kind LineKind
	URL  string // of Opened, Sent and REST
	Time int64  // Unix ns
	// Data is the frame or the body, valid until the next call of Next.
	Data []byte
	// Number counts from 1.
	Number int
}

// BadLine is a line that could not be used.
type BadLine struct {
	File   string
	Line   int
	Reason string
	// Torn marks the half-written last line of a recorder that was killed.
	Torn bool
}

func (b BadLine) String() string { return fmt.Sprintf("%s:%d: %s", b.File, b.Line, b.Reason) }

// maxBad bounds how many bad lines are kept; all are counted.
const maxBad = 100

// Reader reads a recording line by line. It skips lines that cannot be read and
// keeps count of them.
type Reader struct {
	name  string
	br    *bufio.Reader
	long  []byte
	n     int
	bare  bool
	begun bool
	count int // bare frames so far
	bad   []BadLine
	bads  int
}

// NewReader reads from r; name is the file's name in messages.
func NewReader(r io.Reader, name string) *Reader {
	return &Reader{name: name, br: bufio.NewReaderSize(r, 1<<20)}
}

// Bad returns the lines that were skipped (the first 100) and how many there were.
func (r *Reader) Bad() (lines []BadLine, count int) { return r.bad, r.bads }

func (r *Reader) skip(torn bool, reason string) {
	r.bads++
	if len(r.bad) < maxBad {
		r.bad = append(r.bad, BadLine{File: r.name, Line: r.n, Reason: reason, Torn: torn})
	}
}

// Next returns the next line; io.EOF at the end.
func (r *Reader) Next() (Line, error) {
	for {
		raw, whole, err := r.line()
		if err != nil {
			return Line{}, err
		}
		if len(raw) == 0 {
			continue
		}
		if !r.begun {
			r.begun = true
			r.bare = raw[0] == '{' || raw[0] == '['
		}
		if r.bare {
			if !json.Valid(raw) {
				r.skip(!whole, unreadable(whole, "not a JSON frame"))
				continue
			}
			t := SyntheticBase + int64(r.count)*int64(time.Millisecond)
			r.count++
			return Line{Kind: Received, Time: t, Data: raw, Number: r.n}, nil
		}
		l, err := parseLine(raw)
		if err == nil && !whole && !complete(l) {
			err = errors.New("the frame ends early")
		}
		if err != nil {
			r.skip(!whole, unreadable(whole, err.Error()))
			continue
		}
		l.Number = r.n
		return l, nil
	}
}

func unreadable(whole bool, reason string) string {
	if whole {
		return reason
	}
	return "half-written last line: " + reason
}

// complete reports whether the last line, which has no newline, may be whole:
// a frame that is JSON must be valid. An unfinished time cannot be told from a
// finished one, so a line without data is not trusted.
func complete(l Line) bool {
	if len(l.Data) == 0 {
		return false
	}
	return l.Data[0] != '{' && l.Data[0] != '[' || json.Valid(l.Data)
}

// line returns the next line without its end; whole tells whether it had one.
func (r *Reader) line() (raw []byte, whole bool, err error) {
	r.n++
	r.long = r.long[:0]
	for {
		part, err := r.br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			if len(r.long)+len(part) > MaxLine {
				return nil, false, fmt.Errorf("reading %s:%d: the line is longer than %d bytes", r.name, r.n, MaxLine)
			}
			r.long = append(r.long, part...)
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, false, fmt.Errorf("reading %s:%d: %w", r.name, r.n, err)
		}
		if len(r.long) > 0 {
			r.long = append(r.long, part...)
			part = r.long
		}
		if err != nil && len(part) == 0 {
			return nil, false, io.EOF
		}
		return bytes.TrimRight(part, "\r\n"), err == nil, nil
	}
}

var (
	markOpen = []byte(" <-> ")
	markSent = []byte(" <- ")
	markREST = []byte(" -> ")
	markData = []byte(": ")
)

func parseLine(raw []byte) (Line, error) {
	if bytes.HasPrefix(raw, []byte("configuration: ")) {
		return Line{Kind: Configuration, Data: raw[len("configuration: "):]}, nil
	}
	if raw[0] >= '0' && raw[0] <= '9' {
		t, data, ok := bytes.Cut(raw, markData)
		if !ok {
			return Line{}, errors.New("no \": \" after the time")
		}
		ns, err := parseSeconds(t)
		return Line{Kind: Received, Time: ns, Data: data}, err
	}
	// The mark that comes first counts: the others may stand inside a frame.
	at, mark, kind := -1, markOpen, Opened
	for _, m := range []struct {
		mark []byte
		kind LineKind
	}{{markOpen, Opened}, {markSent, Sent}, {markREST, REST}} {
		if i := bytes.Index(raw, m.mark); i >= 0 && (at < 0 || i < at) {
			at, mark, kind = i, m.mark, m.kind
		}
	}
	if at < 0 {
		return Line{}, errors.New("neither a time nor a URL with <->, <- or ->")
	}
	l := Line{Kind: kind, URL: string(raw[:at])}
	rest := raw[at+len(mark):]
	if kind != Opened {
		var ok bool
		if rest, l.Data, ok = bytes.Cut(rest, markData); !ok {
			return Line{}, errors.New("no \": \" after the time")
		}
	}
	var err error
	l.Time, err = parseSeconds(rest)
	return l, err
}

// parseSeconds reads Unix seconds with up to nine decimals as nanoseconds,
// exactly.
func parseSeconds(text []byte) (int64, error) {
	sec, frac, _ := bytes.Cut(text, []byte{'.'})
	if len(sec) == 0 || len(sec) > 10 {
		return 0, fmt.Errorf("%.40q is not a time in Unix seconds", text)
	}
	var ns int64
	digits := func(b []byte) bool {
		for _, c := range b {
			if c < '0' || c > '9' {
				return false
			}
			ns = ns*10 + int64(c-'0')
		}
		return true
	}
	if len(frac) > 9 {
		frac = frac[:9] // a float's noise
	}
	if !digits(sec) || !digits(frac) {
		return 0, fmt.Errorf("%.40q is not a time in Unix seconds", text)
	}
	for range 9 - len(frac) {
		ns *= 10
	}
	return ns, nil
}

// appendSeconds is the inverse of parseSeconds.
func appendSeconds(dst []byte, ns int64) []byte {
	text := fmt.Sprintf("%d.%09d", ns/1e9, ns%1e9)
	text = strings.TrimRight(text, "0")
	if text[len(text)-1] == '.' {
		text += "0"
	}
	return append(dst, text...)
}

package venue

import (
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/autohedge/autohedge/stream/event"
)

// The functions below read one value of a frame. They return a *FrameError,
// which callers must not store in an error variable unchecked.

func missing(field string) *FrameError {
	return &FrameError{Code: CodeMissing, Field: field, Offset: -1}
}

func badValue(field string, t *token, detail string) *FrameError {
	return &FrameError{Code: CodeBadValue, Field: field, Offset: t.at(), Detail: detail}
}

// decimal reads a string or a number as an exact decimal.
func (s *scanner) decimal(t *token, field string) (event.Decimal, *FrameError) {
	if t.kind != tokenString && t.kind != tokenNumber {
		return event.Decimal{}, badValue(field, t, "want a number")
	}
	text := s.string(t)
	if d, ok := shortDecimal(text); ok {
		return d, nil
	}
	d, err := event.ParseDecimal(text)
	if err != nil {
		code := CodeBadValue
		if errors.Is(err, event.ErrNotExact) {
			code = CodeNotExact
		}
		return event.Decimal{}, &FrameError{Code: code, Field: field, Offset: t.at(), Detail: strconv.Quote(clip(s.raw(t), 60)) + " " + err.Error()}
	}
	return d, nil
}

// shortDecimal reads what nearly all prices and sizes are: at most 18 digits and
// a decimal point among them. ParseDecimal reads the rest, and refuses.
func shortDecimal(b []byte) (d event.Decimal, ok bool) {
	if len(b) == 0 || len(b) > 19 {
		return d, false
	}
	const dot = 254 // '.' less '0'
	var m int64
	point := -1
	for i, c := range b {
		if c -= '0'; c <= 9 {
			m = m*10 + int64(c)
		} else if c == dot && point < 0 && i > 0 && i < len(b)-1 {
			point = i
		} else {
			return d, false
		}
	}
	scale := 0
	if point > 0 {
		scale = len(b) - 1 - point
	} else if len(b) == 19 {
		return d, false
	}
	return event.NewDecimal(m, uint8(scale)), true
}

// uint reads a number, or a string of digits, as an id.
func (s *scanner) uint(t *token, field string) (uint64, *FrameError) {
	if t.kind == tokenString || t.kind == tokenNumber {
		if n, ok := parseUint(s.string(t)); ok {
			return n, nil
		}
	}
	return 0, badValue(field, t, "want a whole number of 64 bits")
}

// symbol reads a symbol, which becomes part of a record's key.
func (s *scanner) symbol(t *token, field string) ([]byte, *FrameError) {
	if t.kind != tokenString {
		return nil, badValue(field, t, "want a text")
	}
	b := s.string(t)
	if len(b) == 0 || len(b) > maxSymbol || !utf8.Valid(b) {
		return nil, badValue(field, t, "want 1 to "+strconv.Itoa(maxSymbol)+" bytes of UTF-8")
	}
	return b, nil
}

// maxSymbol bounds a symbol's length in bytes.
const maxSymbol = 128

func clip(b []byte, n int) string {
	if len(b) > n {
		return string(b[:n]) + "..."
	}
	return string(b)
}

func parseUint(b []byte) (n uint64, ok bool) {
	if len(b) == 0 || len(b) > 20 {
		return 0, false
	}
	if len(b) > 19 {
		return parseLongUint(b)
	}
	for len(b) >= 8 {
		eight, ok := eightDigits(b)
		if !ok {
			return 0, false
		}
		n, b = n*1e8+eight, b[8:]
	}
	for _, c := range b {
		if c -= '0'; c > 9 {
			return 0, false
		}
		n = n*10 + uint64(c)
	}
	return n, true
}

// eightDigits reads eight digits at once: neighbours are joined to pairs, pairs
// to fours, fours to eight, each step in all lanes of the word.
func eightDigits(b []byte) (n uint64, ok bool) {
	w := binary.LittleEndian.Uint64(b)
	if ((w-ones*'0')|(w+ones*(0x7f-'9')))&highs != 0 { // a byte below 0 or above 9
		return 0, false
	}
	w -= ones * '0'
	w = (w*10 + w>>8) & 0x00ff00ff00ff00ff
	w = (w*100 + w>>16) & 0x0000ffff0000ffff
	w = (w*10000 + w>>32) & 0xffffffff
	return w, true
}

// parseLongUint reads 20 digits, which may exceed 64 bits.
func parseLongUint(b []byte) (n uint64, ok bool) {
	for _, c := range b {
		if c -= '0'; c > 9 {
			return 0, false
		}
		if n > (math.MaxUint64-uint64(c))/10 {
			return 0, false
		}
		n = n*10 + uint64(c)
	}
	return n, true
}

// year2000 is 2000-01-01 in Unix nanoseconds. Venues that have no time send the
// epoch or year 1 instead (protocols.md A3.4): what lies before 2000 is none.
const year2000 = 946684800_000000000

// dateCache keeps the last date read: times of one feed share it for a day.
type dateCache struct {
	text [10]byte
	days int64 // since 1970-01-01
}

// parseRFC3339 reads a time such as 2021-04-17T16:43:37.089723Z, with any number
// of decimals and any offset, as Unix nanoseconds; what is finer is cut off. A
// time that 64 bits cannot hold (before 1678, after 2261) is 0: none. It does not
// allocate.
func (c *dateCache) parseRFC3339(b []byte) (ns int64, ok bool) {
	if len(b) < len("2006-01-02T15:04:05Z") || b[10] != 'T' || b[13] != ':' || b[16] != ':' {
		return 0, false
	}
	inRange := true
	if string(b[:10]) != string(c.text[:]) {
		year, days, ok := parseDate(b[:10])
		if !ok {
			return 0, false
		}
		if inRange = year >= 1678 && year <= 2261; inRange {
			copy(c.text[:], b)
			c.days = int64(days)
		}
	}
	hour, ok1 := number2(b[11:13])
	minute, ok2 := number2(b[14:16])
	second, ok3 := number2(b[17:19])
	if !ok1 || !ok2 || !ok3 || hour > 23 || minute > 59 || second > 59 {
		return 0, false
	}
	rest := b[19:]
	fraction := int64(0)
	if rest[0] == '.' {
		i := 1
		for ; i < len(rest) && rest[i]-'0' <= 9; i++ {
			if i <= 9 {
				fraction = fraction*10 + int64(rest[i]-'0')
			}
		}
		if i == 1 {
			return 0, false
		}
		if i <= 9 {
			fraction *= nanos[i-1]
		}
		rest = rest[i:]
	}
	offset := 0
	if len(rest) != 1 || rest[0] != 'Z' {
		if offset, ok = zoneOffset(rest); !ok {
			return 0, false
		}
	}
	if !inRange {
		return 0, true
	}
	return (c.days*86400+int64(hour*3600+minute*60+second-offset))*1e9 + fraction, true
}

// nanos is the worth of the last of n decimals of a second.
var nanos = [...]int64{1e9, 1e8, 1e7, 1e6, 1e5, 1e4, 1e3, 1e2, 10, 1}

// parseDate reads 2021-04-17.
func parseDate(b []byte) (year, days int, ok bool) {
	century, ok1 := number2(b[0:2])
	year, ok2 := number2(b[2:4])
	month, ok3 := number2(b[5:7])
	day, ok4 := number2(b[8:10])
	year += century * 100
	if !ok1 || !ok2 || !ok3 || !ok4 || b[4] != '-' || b[7] != '-' || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) {
		return 0, 0, false
	}
	return year, daysSinceEpoch(year, month, day), true
}

// zoneOffset reads +hh:mm and returns seconds east of UTC.
func zoneOffset(b []byte) (seconds int, ok bool) {
	if len(b) != 6 || b[3] != ':' || (b[0] != '+' && b[0] != '-') {
		return 0, false
	}
	h, ok1 := number2(b[1:3])
	m, ok2 := number2(b[4:6])
	if !ok1 || !ok2 || h > 23 || m > 59 {
		return 0, false
	}
	seconds = h*3600 + m*60
	if b[0] == '-' {
		seconds = -seconds
	}
	return seconds, true
}

func number2(b []byte) (n int, ok bool) {
	hi, lo := b[0]-'0', b[1]-'0'
	return int(hi)*10 + int(lo), hi <= 9 && lo <= 9
}

func daysIn(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// daysSinceEpoch counts days from 1970-01-01 in the proleptic Gregorian
// calendar, with years that begin in March so that the leap day comes last.
func daysSinceEpoch(year, month, day int) int {
	if month < 3 {
		year--
		month += 12
	}
	yearDays := (153*(month-3)+2)/5 + day - 1
	return year*365 + year/4 - year/100 + year/400 + yearDays - 719468
}

// timeUnit is the unit of a number that is a Unix time.
type timeUnit int64

const (
	unitAuto timeUnit = 0
	unitS    timeUnit = 1e9
	unitMS   timeUnit = 1e6
	unitUS   timeUnit = 1e3
	unitNS   timeUnit = 1
)

// parseUnix reads a Unix time, with or without decimals, as nanoseconds; what is
// finer is cut off. With unitAuto the size of the number tells the unit: the four
// ranges of the years 1973 to 5138 do not overlap. A number beyond 64 bits is 0:
// none.
func parseUnix(b []byte, unit timeUnit) (ns int64, ok bool) {
	i := digits(b, 0)
	if i == 0 || i > 19 {
		return 0, false
	}
	whole, ok := parseUint(b[:i])
	if !ok {
		return 0, false
	}
	if unit == unitAuto {
		switch {
		case whole < 1e11:
			unit = unitS
		case whole < 1e14:
			unit = unitMS
		case whole < 1e17:
			unit = unitUS
		default:
			unit = unitNS
		}
	}
	var fraction int64
	if i < len(b) {
		if b[i] != '.' || digits(b, i+1) != len(b) || i+1 == len(b) {
			return 0, false
		}
		for step := int64(unit) / 10; step > 0 && i+1 < len(b); step /= 10 {
			i++
			fraction += int64(b[i]-'0') * step
		}
	}
	if whole > math.MaxInt64/uint64(unit)-1 {
		return 0, true
	}
	return int64(whole)*int64(unit) + fraction, true
}

// eventTime chooses among the venue's times and ours: the event's, else the
// publication's, else the receive time. 0 is absent, and what lies before 2000 is
// taken as absent.
func eventTime(ev, publish, recv int64) (int64, event.TimeSource) {
	switch {
	case ev >= year2000:
		return ev, event.TimeEvent
	case publish >= year2000:
		return publish, event.TimePublish
	}
	return recv, event.TimeReceive
}

// orZero is a venue's time, or 0 when it has none.
func orZero(t int64) int64 {
	if t < year2000 {
		return 0
	}
	return t
}

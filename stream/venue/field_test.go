package venue

import (
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

func TestParseUnix(t *testing.T) {
	for _, c := range []struct {
		text string
		unit timeUnit
		want int64
		ok   bool
	}{
		{"1700000000", unitAuto, 1700000000_000000000, true},
		{"1700000000123", unitAuto, 1700000000_123000000, true},
		{"1700000000123456", unitAuto, 1700000000_123456000, true},
		{"1700000000123456789", unitAuto, 1700000000_123456789, true},
		{"1700000000.5", unitAuto, 1700000000_500000000, true},
		{"1618678142.557535", unitS, 1618678142_557535000, true},
		{"1618678142.5575351239", unitS, 1618678142_557535123, true},
		{"1618678142557.1234567", unitMS, 1618678142_557123456, true},
		{"5", unitNS, 5, true},
		{"5.9", unitNS, 5, true},
		{"9999999999999999999", unitS, 0, true},
		{"99999999999", unitS, 0, true},
		{"", unitS, 0, false},
		{"-1", unitS, 0, false},
		{"1.", unitS, 0, false},
		{"1.x", unitS, 0, false},
		{".5", unitS, 0, false},
		{"17e8", unitS, 0, false},
		{"99999999999999999999", unitS, 0, false},
	} {
		if got, ok := parseUnix([]byte(c.text), c.unit); got != c.want || ok != c.ok {
			t.Errorf("parseUnix(%q, %d) = %d, %v, want %d, %v", c.text, c.unit, got, ok, c.want, c.ok)
		}
	}
}

func TestEventTime(t *testing.T) {
	for _, c := range []struct {
		ev, publish int64
		want        int64
		source      event.TimeSource
	}{
		{year2000, 1, year2000, event.TimeEvent},
		{year2000 - 1, year2000, year2000, event.TimePublish},
		{0, 0, 77, event.TimeReceive},
		{-62135596800, -1, 77, event.TimeReceive},
	} {
		if got, source := eventTime(c.ev, c.publish, 77); got != c.want || source != c.source {
			t.Errorf("eventTime(%d, %d) = %d, %v", c.ev, c.publish, got, source)
		}
	}
	if year2000 != time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano() {
		t.Error("year2000 is wrong")
	}
}

// FuzzRFC3339 holds the parser to time.Parse.
func FuzzRFC3339(f *testing.F) {
	for _, s := range []string{"2021-04-17T16:43:37.089723Z", "2000-02-29T23:59:59Z", "1900-02-29T00:00:00Z", "0001-01-01T00:00:00.000000Z", "2261-12-31T23:59:59.999999999Z",
		"2262-01-01T00:00:00Z", "2014-11-07T10:19:27.028459123456+02:00", "2014-11-07T10:19:27-23:59", "2014-11-07T10:19:60Z", "2014-13-07T10:19:27Z", "2014-11-07T10:19:27.Z", "1677-09-21T00:12:43Z", "1969-12-31T23:59:59.5Z"} {
		f.Add(s)
	}
	var c dateCache
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := c.parseRFC3339([]byte(s))
		if again, okAgain := c.parseRFC3339([]byte(s)); again != got || okAgain != ok {
			t.Errorf("parseRFC3339(%q) = %d, then %d", s, got, again)
		}
		at, err := time.Parse(time.RFC3339Nano, s)
		if !ok {
			if err == nil && at.Year() > 0 && len(s) >= 20 && !lenient(s) {
				t.Errorf("parseRFC3339(%q) refuses %v", s, at)
			}
			return
		}
		if err != nil {
			t.Fatalf("parseRFC3339(%q) = %d, time.Parse says %v", s, got, err)
		}
		if want := at.UnixNano(); got != want && (got != 0 || (at.Year() > 1678 && at.Year() < 2261)) {
			t.Errorf("parseRFC3339(%q) = %d, want %d", s, got, want)
		}
	})
}

// lenient tells what time.Parse accepts beyond RFC 3339.
func lenient(s string) bool {
	for _, c := range s {
		if c == ',' {
			return true // a comma before the decimals
		}
	}
	return s[10] != 'T' || s[13] != ':' // one-digit hours
}

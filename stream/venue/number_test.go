package venue

import (
	"fmt"
	"math/rand"
	"strconv"
	"testing"

	"github.com/autohedge/autohedge/stream/event"
)

// TestFastNumbers holds the short ways to the long ones.
func TestFastNumbers(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	const letters = "0123456789.0123456789-+e x/:\xff\x00"
	for range 200000 {
		b := make([]byte, rnd.Intn(24))
		alphabet := letters[:10+rnd.Intn(len(letters)-10)]
		for i := range b {
			b[i] = alphabet[rnd.Intn(len(alphabet))]
		}
		want, err := strconv.ParseUint(string(b), 10, 64)
		ok := err == nil && len(b) <= 20 && b[0] != '+'
		if got, gotOK := parseUint(b); gotOK != ok || (ok && got != want) {
			t.Fatalf("parseUint(%q) = %d, %v, want %d, %v", b, got, gotOK, want, ok)
		}
		d, short := shortDecimal(b)
		long, err := event.ParseDecimal(b)
		if short && (err != nil || d != long) {
			t.Fatalf("shortDecimal(%q) = %v, ParseDecimal = %v, %v", b, d, long, err)
		}
	}
	for _, text := range []string{"0.00024000", "64591.75000000", "123456789012345678", "0.12345678901234567"} {
		if _, ok := shortDecimal([]byte(text)); !ok {
			t.Errorf("%s takes the long way", text)
		}
	}
	for i := range 1000 {
		n := rnd.Uint64() >> rnd.Intn(64)
		if got, ok := parseUint(fmt.Appendf(nil, "%d", n)); !ok || got != n {
			t.Fatalf("%d: parseUint(%d) = %d", i, n, got)
		}
	}
}

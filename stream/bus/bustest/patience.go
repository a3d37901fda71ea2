package bustest

import (
	"testing"
	"time"
)

// Eventually polls until ok or the deadline, which fails the test.
func Eventually(t testing.TB, what string, within time.Duration, ok func() bool) {
	t.Helper()
	poll(t, what, within, 2*time.Millisecond, ok)
}

// Settles is Eventually for what brokers are asked for that have other work to do.
func Settles(t testing.TB, what string, within time.Duration, ok func() bool) {
	t.Helper()
	poll(t, what, within, 50*time.Millisecond, ok)
}

func poll(t testing.TB, what string, within, every time.Duration, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(every) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, within)
		}
	}
}

// Package bustest is what the tests of the bus have in common, whichever package they
// are in: the choice of the broker (OnApache), another client than ours to prepare
// and inspect brokers with (Admin), another program's transactions (Foreigner), and
// patience (Eventually), and data folders of earlier builds (UnpackFolder).
//
// It must not know package bus, whose own tests use it, and nothing but tests may
// import it. The brokers themselves are package kafkatest's.
package bustest

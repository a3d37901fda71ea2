// Package indicator holds the technical indicators that rules watch: one file
// each, O(1) per tick, without allocation after construction, and silent until
// they are warmed up.
//
// It owns the formulas, their parameters and the registry. It must not know
// rules, thresholds, topics or the machine's clock: a value is a function of
// the ticks fed in, in their order, and the same on every processor: products
// that are added to something are converted explicitly, which keeps the compiler
// from fusing the two where the processor could. Numbers here are float64 for
// judging, never money. Start with indicator.go (the contract and the registry); ema.go is the
// model of a small indicator.
package indicator

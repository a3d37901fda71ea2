// Package ledger keeps positions, cash, fees and profit in exact decimals. It is
// pure: fills and marks go in, position records come out, in the same numbers
// whatever the batching or the restart point.
//
// It must not know brokers, orders, limits or Kafka, and it never rounds: what
// does not fit Decimal(38, 18) is refused with an error. Start with Book; Mul and
// Add in money.go are the exact arithmetic that the rest of execution uses.
package ledger

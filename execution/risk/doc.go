// Package risk holds the hard limits that every order passes before it is
// written to the order log. It is pure: a decision and a view of the world go in,
// an order or a rejection with both numbers comes out.
//
// It must not know brokers, Kafka, the desk or any model; nothing outside the
// configuration can widen a limit, and what it cannot judge it refuses. Start
// with Gate.Check, whose list of checks is the whole of it.
package risk

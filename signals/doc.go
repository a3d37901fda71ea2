// Package signals is the role that watches market data and fires signals: it
// reads topic md, computes indicators per instrument, checks the configured
// rules against them and writes what fires to topic signals.
//
// It owns rules, their state and their identity. Its state is a function of one
// partition of md in offset order and of the rule sets that state.signals names,
// nothing else: it must not know the machine's clock, a position, a decision or
// another partition. It may not import another role.
//
// Start with engine.go, the pure core, and rule.go, a rule's state machine;
// ruleset.go has the canonical form and the hashes; partition.go is the delivery
// contract (restore, replay, publish, commit) and signals.go the role around it.
package signals

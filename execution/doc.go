// Package execution is the role that turns decisions into orders: hard limits,
// the order log, the broker, fills, positions. It owns the topics orders, fills
// and positions, and the kill switch.
//
// It must not know the desk, indicators, venues' wire formats or ClickHouse. An
// order is in the order log, acknowledged, before its broker hears of it; it is
// sent at most once; an outcome that is not known stays so until the broker tells.
// Start with Role in execution.go, then owner.go (one partition of accounts),
// order.go (the state machine, pure) and halt.go (the kill switch).
package execution

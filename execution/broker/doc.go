// Package broker holds what execution asks of a broker, the registry of brokers,
// and the reference broker: paper, which fills against live quotes and keeps its
// own ledger on disk.
//
// It must not know limits, decisions, positions or Kafka; a broker maps facts
// without loss and decides nothing. Start with Broker in broker.go, then paper.go.
package broker

// Package event holds the types that all roles share: market data, signals,
// journal, decisions, orders, fills, positions and control records, with their
// wire form (event.proto), topic names, keys and identity.
//
// Topics are the only coupling between roles, so this package imports nothing
// of ours and knows no venue, no broker and no Kafka client. Start with
// event.proto, then market.go and trading.go; Append and Decode in wire.go turn
// a Message into a record's value and back.
package event

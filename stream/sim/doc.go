// Package sim is the exchange simulator: one loopback server that speaks the
// wire formats of Binance spot and Coinbase Exchange, WebSocket and REST, over a
// market that it makes up from a seed. It is a product feature (`autohedge
// simulate`, the default feed of `demo`) and the test double of the venues.
//
// It owns the market, the frames, the faults on demand and the ledger: a text
// file that holds every trade before the trade is sent, so that what came out at
// the other end of the engine can be checked against it, and from which ids and
// sequences go on after any stop. It must not know the bus, the stream role or
// anything that consumes it: its clients see sockets only.
//
// Start with Start in sim.go, then loop.go (one tick of the market), market.go
// (the shape of prices), binance.go and coinbase.go (what goes over the wire),
// ledger.go and faults.go.
package sim

// Package stream owns the market data feeds: it keeps the connections to the
// venues alive, stamps and decodes their frames, detects what was lost, states
// it, and publishes everything about an instrument to topic md in socket order,
// with a clock record every second that is the feed's lease.
//
// It must not know what is done with market data, nor what is particular to a
// venue: that is stream/venue. Start with Role in stream.go, then feed.go (state,
// gaps, publishing) and line.go (connecting, watching, rotating).
package stream

// Package venue owns what is particular to one exchange: how to connect and
// subscribe, how its frames read, which ids its channels carry, and how its
// instruments are named and stepped. One file a venue; json.go is the feed that
// the configuration alone describes.
//
// A decoder maps a raw frame to events without losing anything and decides
// nothing: it never rounds, drops or orders. It must not know Kafka, sockets,
// gaps or any other role. Start with venue.go, then coinbase.go, the shortest
// venue; scan.go is the JSON scanner they share.
package venue

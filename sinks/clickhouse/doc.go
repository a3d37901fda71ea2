// Package clickhouse owns everything that speaks to ClickHouse: the schema
// (schema/*.sql, embedded), the bulk writer, the mapping of events to rows, the
// queries that prove that nothing is missing or twice, and the embedded engine,
// which is libchdb in a child process behind ClickHouse's own HTTP interface.
//
// It must not know Kafka, any role, or how batches are planned: it takes events
// with their lineage and writes them under the token it is given; retrying is
// the caller's. It is the only home of clickhouse-go and ch-go.
//
// Start with Connect in client.go and Batch in bulk.go for writing, with
// tables.go for what a row holds, and with StartEngine in engine.go for the
// embedded engine (child.go is the other side of it, server.go its HTTP
// interface, capi.go the library).
package clickhouse

// Package clickhouse x
package clickhouse

const LibraryVersion = "26.7.3-stable.1"

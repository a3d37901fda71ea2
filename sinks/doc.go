// Package sinks is the role that lands every record of every topic in the
// database, exactly once (design.md section 4.7).
//
// It owns the plan of each landing (topic state.sinks), the batches, their
// tokens and the table `landed`. It must not know how a row looks: columns,
// codecs and the database's wire form are those of the plug-in clickhouse behind
// Store, and no other role is known to it.
//
// Start with sinks.go for the role, then partition.go (gather), land.go (plan,
// insert, prove) and recover.go (what a successor does first).
package sinks

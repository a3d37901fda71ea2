// Package kafkatest runs a real Apache Kafka for tests and benchmarks:
// it fetches the jars with Maven into the user's cache, starts one broker, or a
// cluster of three, in KRaft mode on free loopback ports, and ends them with the
// process that started them.
//
// It must not know package bus nor any client: it gives addresses. A user's
// cluster is configured, never started, by autohedge, so nothing but tests and
// benchmarks may import it. Start with Start (broker.go) and StartCluster
// (cluster.go); fetch.go has the jars.
package kafkatest

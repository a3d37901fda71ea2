// Package clustertest has no code but tests: of the bus on three brokers of Apache
// Kafka that are killed, stopped, restarted and filled under load. They run with
// AUTOHEDGE_TEST_KAFKA=apache alone.
//
// Each is a load (load_test.go) and what is done to the brokers meanwhile; the load's
// verify then holds the log against what was acknowledged and what was handled.
package clustertest

// Package bus is Kafka as the roles see it: a producer whose ambiguous answers
// do not duplicate, group consumption through generation handles with own fetch
// loops, whole reads for state, topic administration with incarnations, and the
// embedded broker. It is the only home of kafka-go and kfake.
//
// It must not know what a role does with a record; it decodes only what the
// rule on second copies needs. Start with Client (client.go), then Producer
// (producer.go, lane.go, batch.go), Reader (reader.go, fetch.go, records.go,
// copies.go) and Consumer (consumer.go, assignment.go); README.md has the
// contract.
package bus

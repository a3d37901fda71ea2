// Package exits keeps lots and decides when they are closed: each entry's filled
// quantity is a lot with a stop, a target and a time exit of its own. It is pure: the
// entries of the order log and fills go in, lots come out, the same whatever the
// batching or the restart point; quotes go in, and which lot they trigger comes out.
//
// It must not know brokers, Kafka, clocks or the kill switch: who asks it whether a lot
// is triggered sends the order. Start with Book; Levels and Check say when a lot is
// closed, Limit, Band and Fit at what price and how much of it.
package exits

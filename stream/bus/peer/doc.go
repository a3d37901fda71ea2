// Package peer does package bus's work with other clients, for the benchmarks
// alone: franz-go, and kafka-go's own Writer, each tuned as a user who knows it
// would, with options that print themselves. They produce the same bytes to the
// same partitions, and read them back with the decoder that they are given.
//
// It must not know package bus nor any event: it gets bytes. kafka-go's reading
// side has no place here: package bus replaces the type of its fetch response
// for the whole process. Nothing but tests and benchmarks may import it. Start
// with Franz (franz.go); writer.go has kafka-go's Writer.
package peer

package bus

import (
	"errors"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// verdict is what to do about an error code.
type verdict int

const (
	retry verdict = iota
	tooLarge
	fatal
)

// judge says what a produce answer's code means for the batch. What is not
// listed is tried again: an unknown code may be temporary, and the same bytes
// do no harm.
func judge(code kafka.Error) verdict {
	switch code {
	case kafka.MessageSizeTooLarge, kafka.RecordListTooLarge:
		return tooLarge
	case kafka.OutOfOrderSequenceNumber, kafka.UnknownProducerId,
		kafka.InvalidProducerEpoch, kafka.ProducerFenced,
		kafka.TopicAuthorizationFailed, kafka.ClusterAuthorizationFailed, kafka.TransactionalIDAuthorizationFailed,
		kafka.InvalidTopic, kafka.InvalidRequiredAcks, kafka.InvalidTimestamp, kafka.InvalidRecord,
		kafka.UnsupportedVersion, kafka.UnsupportedForMessageFormat, kafka.UnsupportedCompressionType,
		kafka.InvalidProducerIDMapping, kafka.InvalidTransactionState, kafka.PolicyViolation:
		return fatal
	}
	return retry
}

// ambiguous reports whether the batch may be in the log although the answer was
// an error.
func ambiguous(code kafka.Error) bool {
	switch code {
	case kafka.RequestTimedOut, kafka.NotEnoughReplicasAfterAppend, kafka.NetworkException, kafka.Unknown, kafka.KafkaStorageError:
		return true
	}
	return false
}

// retriableInit reports whether asking for a producer id again may help.
func retriableInit(code kafka.Error) bool {
	return away(code) || code == kafka.ConcurrentTransactions
}

// away reports whether a request for something other than a produce may find its
// broker if it is made again. kafka-go says Unknown where it asked several brokers
// and one of them did not answer.
func away(code kafka.Error) bool {
	return code.Temporary() || code == kafka.BrokerNotAvailable || code == kafka.Unknown
}

// errorCode returns the code of an answer; ok is false for errors that are no
// answer, such as a broken connection.
func errorCode(err error) (code kafka.Error, ok bool) {
	ok = errors.As(err, &code)
	return code, ok
}

// noRoute reports whether a request was not sent because the client's picture
// of the cluster had no place for it.
func noRoute(err error) bool {
	return errors.Is(err, protocol.ErrNoTopic) || errors.Is(err, protocol.ErrNoPartition) || errors.Is(err, protocol.ErrNoLeader) ||
		errors.Is(err, kafka.BrokerNotAvailable)
}

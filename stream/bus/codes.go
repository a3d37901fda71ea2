package bus

import (
	"errors"
	"fmt"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/autohedge/autohedge/stream/component"
)

// verdict is what to do about an error code.
type verdict int

const (
	retry verdict = iota
	tooLarge
	fatal
)

// permanent reports whether a broker that gave this code gives it again whatever
// is waited for: the client is not allowed, not known or asks for what cannot be.
// A code that is not known may be temporary.
func permanent(code kafka.Error) bool {
	switch code {
	case kafka.OffsetOutOfRange, kafka.InvalidMessageSize, kafka.MessageSizeTooLarge, kafka.OffsetMetadataTooLarge, kafka.InvalidTopic,
		kafka.RecordListTooLarge, kafka.InvalidRequiredAcks, kafka.InconsistentGroupProtocol, kafka.InvalidGroupId,
		kafka.InvalidSessionTimeout, kafka.InvalidCommitOffsetSize, kafka.TopicAuthorizationFailed,
		kafka.GroupAuthorizationFailed, kafka.ClusterAuthorizationFailed, kafka.InvalidTimestamp, kafka.UnsupportedSASLMechanism,
		kafka.IllegalSASLState, kafka.UnsupportedVersion, kafka.TopicAlreadyExists, kafka.InvalidPartitionNumber,
		kafka.InvalidReplicationFactor, kafka.InvalidReplicaAssignment, kafka.InvalidConfiguration, kafka.InvalidRequest,
		kafka.UnsupportedForMessageFormat, kafka.PolicyViolation, kafka.OutOfOrderSequenceNumber, kafka.InvalidProducerEpoch,
		kafka.InvalidTransactionState, kafka.InvalidProducerIDMapping, kafka.InvalidTransactionTimeout,
		kafka.TransactionalIDAuthorizationFailed, kafka.SecurityDisabled, kafka.BrokerAuthorizationFailed,
		kafka.SASLAuthenticationFailed, kafka.UnknownProducerId, kafka.DelegationTokenAuthDisabled, kafka.DelegationTokenNotFound,
		kafka.DelegationTokenOwnerMismatch, kafka.DelegationTokenRequestNotAllowed, kafka.DelegationTokenAuthorizationFailed,
		kafka.DelegationTokenExpired, kafka.InvalidPrincipalType, kafka.NonEmptyGroup, kafka.TopicDeletionDisabled,
		kafka.UnsupportedCompressionType, kafka.MemberIDRequired, kafka.GroupMaxSizeReached, kafka.FencedInstanceID,
		kafka.InvalidRecord, kafka.ProducerFenced, kafka.ResourceNotFound, kafka.DuplicateResource, kafka.UnacceptableCredential,
		kafka.InconsistentVoterSet, kafka.InvalidUpdateVersion, kafka.FeatureUpdateFailed, kafka.PrincipalDeserializationFailure,
		kafka.DuplicateBrokerRegistration, kafka.BrokerIDNotRegistered, kafka.InconsistentClusterID, kafka.TransactionalIDNotFound:
		return true
	}
	return false
}

// judge says what a produce answer's code means for the batch. What is not
// permanent is tried again: the same bytes do no harm.
func judge(code kafka.Error) verdict {
	switch {
	case code == kafka.MessageSizeTooLarge, code == kafka.RecordListTooLarge:
		return tooLarge
	case permanent(code):
		return fatal
	}
	return retry
}

// judgeCommit says what the code of a commit's answer means for the generation.
func judgeCommit(code kafka.Error) verdict {
	if permanent(code) {
		return fatal
	}
	return retry // also a generation that is over: whoever heartbeats learns of it
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

// remedy is what to do about a code, to follow it in a message; who is the name of
// the topic, group or owner that the request was for. Empty where there is nothing
// to say beyond the code's own words; Client.grant has what is not allowed.
func remedy(code kafka.Error, who string) string {
	switch code {
	case kafka.SASLAuthenticationFailed, kafka.UnsupportedSASLMechanism, kafka.IllegalSASLState, kafka.SecurityDisabled:
		return "; check bus.sasl, bus.user and bus.password"
	case kafka.UnsupportedVersion:
		return "; the brokers are of a release that this program does not know: want Apache Kafka 2.1 or later"
	case kafka.InconsistentGroupProtocol:
		return "; another program is in this group: end it (kafka-consumer-groups.sh --describe --members --group " + who + " lists the members)"
	case kafka.GroupMaxSizeReached:
		return "; raise group.max.size on the brokers or start fewer processes"
	case kafka.InvalidSessionTimeout:
		return "; the brokers' group.min.session.timeout.ms to group.max.session.timeout.ms must include " + sessionTimeout.String()
	}
	return ""
}

// whose is the name that a code of a group's request is about.
func (k *Consumer) whose(code kafka.Error) string {
	if code == kafka.TopicAuthorizationFailed {
		return k.client.prefix() + k.cfg.Topics[0]
	}
	return k.group
}

// joinError explains why a group cannot be joined.
func (k *Consumer) joinError(code kafka.Error) error {
	return component.Fatal(fmt.Errorf("joining group %s for %v: %w%s", k.group, k.cfg.Topics, code, k.client.grant(code, k.whose(code))))
}

// errorCode returns the code of an answer; ok is false for errors that are no
// answer, such as a broken connection.
func errorCode(err error) (code kafka.Error, ok bool) {
	ok = errors.As(err, &code)
	return code, ok
}

// topicUnknown reports whether the brokers, or what they last told of the
// cluster, do not have the topic.
func topicUnknown(err error) bool {
	code, _ := errorCode(err)
	return code == kafka.UnknownTopicOrPartition || code == kafka.UnknownTopicID ||
		errors.Is(err, protocol.ErrNoTopic) || errors.Is(err, protocol.ErrNoPartition)
}

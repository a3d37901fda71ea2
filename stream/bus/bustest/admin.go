package bustest

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Admin is another client than the one under test, to prepare and inspect brokers
// with. What it cannot do fails the test that it was made for.
type Admin struct{ *kgo.Client }

// NewAdmin connects to brokers until the test ends.
func NewAdmin(t testing.TB, options ...kgo.Opt) *Admin {
	t.Helper()
	c, err := kgo.NewClient(options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &Admin{c}
}

// Dial is NewAdmin for brokers that ask for no login.
func Dial(t testing.TB, brokers ...string) *Admin {
	t.Helper()
	return NewAdmin(t, kgo.SeedBrokers(brokers...))
}

// Ask does one request, or fails the test.
func Ask[T any](t testing.TB, res T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// Check fails the test for an error code.
func Check(t testing.TB, what string, code int16) {
	t.Helper()
	if err := kerr.ErrorForCode(code); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// Wipe removes all topics and groups.
func (a *Admin) Wipe(t testing.TB) {
	t.Helper()
	// A member that a test killed is thrown out, or its group could not be deleted.
	for _, id := range a.Groups(t) {
		describe := kmsg.NewPtrDescribeGroupsRequest()
		describe.Groups = []string{id}
		res, err := describe.RequestWith(t.Context(), a.Client)
		for _, g := range Ask(t, res, err).Groups {
			leave := kmsg.NewPtrLeaveGroupRequest()
			leave.Group = id
			for _, m := range g.Members {
				member := kmsg.NewLeaveGroupRequestMember()
				member.MemberID = m.MemberID
				leave.Members = append(leave.Members, member)
			}
			if len(leave.Members) > 0 {
				if _, err := leave.RequestWith(t.Context(), a.Client); err != nil {
					t.Fatal(err)
				}
			}
		}
		remove := kmsg.NewPtrDeleteGroupsRequest()
		remove.Groups = []string{id}
		gone, err := remove.RequestWith(t.Context(), a.Client)
		Check(t, "deleting group "+id, Ask(t, gone, err).Groups[0].ErrorCode)
	}
	if topics := a.Topics(t); len(topics) > 0 {
		a.DeleteTopics(t, topics...)
	}
}

// Groups lists the groups.
func (a *Admin) Groups(t testing.TB) (ids []string) {
	t.Helper()
	res, err := kmsg.NewPtrListGroupsRequest().RequestWith(t.Context(), a.Client)
	for _, g := range Ask(t, res, err).Groups {
		ids = append(ids, g.Group)
	}
	return ids
}

// Topics lists the topics that are not internal.
func (a *Admin) Topics(t testing.TB) (names []string) {
	t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = nil // all
	res, err := req.RequestWith(t.Context(), a.Client)
	for _, topic := range Ask(t, res, err).Topics {
		if !topic.IsInternal {
			names = append(names, *topic.Topic)
		}
	}
	return names
}

// DeleteTopics deletes topics and waits until they are gone.
func (a *Admin) DeleteTopics(t testing.TB, names ...string) {
	t.Helper()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis = 10_000
	for _, name := range names {
		topic := kmsg.NewDeleteTopicsRequestTopic()
		topic.Topic = kmsg.StringPtr(name)
		req.Topics, req.TopicNames = append(req.Topics, topic), append(req.TopicNames, name)
	}
	res, err := req.RequestWith(t.Context(), a.Client)
	for _, topic := range Ask(t, res, err).Topics {
		Check(t, "deleting a topic", topic.ErrorCode)
	}
	Eventually(t, "the topics are gone", 10*time.Second, func() bool {
		return !slices.ContainsFunc(a.Topics(t), func(name string) bool { return slices.Contains(names, name) })
	})
}

// CreateTopic creates a topic with one replica, and waits until the brokers tell of it:
// Apache Kafka answers before.
func (a *Admin) CreateTopic(t testing.TB, name string, partitions int32, configs map[string]string) {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 10_000
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, partitions, 1
	for k, v := range configs {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = k, kmsg.StringPtr(v)
		topic.Configs = append(topic.Configs, c)
	}
	req.Topics = append(req.Topics, topic)
	res, err := req.RequestWith(t.Context(), a.Client)
	Check(t, "creating "+name, Ask(t, res, err).Topics[0].ErrorCode)
	Eventually(t, "topic "+name+" is there", 10*time.Second, func() bool {
		return slices.Contains(a.Topics(t), name)
	})
}

// SetConfig changes settings of a topic.
func (a *Admin) SetConfig(t testing.TB, topic string, configs map[string]string) {
	t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, topic
	for k, v := range configs {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Value = k, kmsg.StringPtr(v)
		r.Configs = append(r.Configs, c)
	}
	req.Resources = append(req.Resources, r)
	res, err := req.RequestWith(t.Context(), a.Client)
	Check(t, "setting "+topic, Ask(t, res, err).Resources[0].ErrorCode)
}

// Config returns a setting of a topic.
func (a *Admin) Config(t testing.TB, topic, name string) string {
	t.Helper()
	req := kmsg.NewPtrDescribeConfigsRequest()
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeTopic, topic, []string{name}
	req.Resources = append(req.Resources, r)
	res, err := req.RequestWith(t.Context(), a.Client)
	for _, r := range Ask(t, res, err).Resources {
		Check(t, "describing "+topic, r.ErrorCode)
		for _, c := range r.Configs {
			if c.Name == name && c.Value != nil {
				return *c.Value
			}
		}
	}
	return ""
}

// DeleteRecords trims a partition up to the offset.
func (a *Admin) DeleteRecords(t testing.TB, topic string, partition int32, offset int64) {
	t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = 10_000
	p := kmsg.NewDeleteRecordsRequestTopicPartition()
	p.Partition, p.Offset = partition, offset
	of := kmsg.NewDeleteRecordsRequestTopic()
	of.Topic, of.Partitions = topic, append(of.Partitions, p)
	req.Topics = append(req.Topics, of)
	// A setting that allows it may not have reached the partition yet.
	Eventually(t, "trimming "+topic, 10*time.Second, func() bool {
		res, err := req.RequestWith(t.Context(), a.Client)
		return Ask(t, res, err).Topics[0].Partitions[0].ErrorCode == 0
	})
}

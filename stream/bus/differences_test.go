package bus

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/event"
)

// The tests of this file hold rows of the README's table of the two brokers.

// What a kill leaves of records that were trimmed, and of the offsets of a
// partition that was trimmed to its end.
func TestDifferenceTrimmedThenKilled(t *testing.T) {
	b := startBrokerProcess(t)
	c := connect(t, testConfig(b.addr))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 400)
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.DeleteRecords(t.Context(), event.TopicMarket, map[int32]int64{0: 60, 1: 100}); err != nil {
		t.Fatal(err)
	}
	b.kill()
	b.start()
	var got []Bounds
	eventually(t, "the offsets are known again", 60*time.Second, func() (ok bool) {
		var err error
		got, err = c.Offsets(t.Context(), event.TopicMarket)
		return err == nil
	})
	t.Logf("100 records, trimmed to 60 and to 100, killed: %+v and %+v", got[0], got[1])
	if got[2] != (Bounds{0, 100}) {
		t.Errorf("a partition that was not trimmed has %+v", got[2])
	}
	if b.apache {
		// The end never goes back. The start may: it is written down once a minute
		// (log.flush.start.offset.checkpoint.interval.ms), unless whole segments went.
		if got[0].End != 100 || got[1].End != 100 {
			t.Errorf("the end went back: %+v", got)
		}
		return
	}
	// The start is written down every few seconds.
	if got[0] != (Bounds{0, 100}) && got[0] != (Bounds{60, 100}) {
		t.Errorf("trimmed records: %+v, want them back, or not", got[0])
	}
}

func TestDifferenceTrimmingACompactedTopic(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	if err := p.Append(event.TopicInstruments, 0, []byte("k"), []byte("v"), nil); err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = 10_000
	part := kmsg.NewDeleteRecordsRequestTopicPartition()
	part.Offset = 1
	topic := kmsg.NewDeleteRecordsRequestTopic()
	topic.Topic, topic.Partitions = event.TopicInstruments, append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	res, err := req.RequestWith(t.Context(), b.admin)
	want := int16(0)
	if b.cluster == nil {
		want = kerr.PolicyViolation.Code
	}
	if got := bustest.Ask(t, res, err).Topics[0].Partitions[0].ErrorCode; got != want {
		t.Errorf("trimming a compacted topic is answered %d, want %d", got, want)
	}
}

// A batch that is sent again after the broker was killed: Apache Kafka knows it,
// the embedded broker appends it once more.
func TestDifferenceSequencesAfterAKill(t *testing.T) {
	b := startBrokerProcess(t)
	c := connect(t, testConfig(b.addr))
	admin := bustest.NewAdmin(t, kgo.SeedBrokers(b.addr))
	id, epoch, err := c.initProducer(t.Context(), "", c.env)
	if err != nil {
		t.Fatal(err)
	}
	var one batch
	one.reset()
	one.time = time.Now().UnixMilli()
	one.add([]byte("k"), []byte("v"), nil)
	data, err := one.seal(nil, id, epoch, 0)
	if err != nil {
		t.Fatal(err)
	}
	find := kmsg.NewPtrMetadataRequest()
	named := kmsg.NewMetadataRequestTopic()
	named.Topic = kmsg.StringPtr(event.TopicMarket)
	find.Topics = append(find.Topics, named)
	found, err := find.RequestWith(t.Context(), admin)
	topicID := bustest.Ask(t, found, err).Topics[0].TopicID
	send := func() {
		eventually(t, "the batch is acknowledged", 60*time.Second, func() bool {
			req := kmsg.NewPtrProduceRequest()
			req.Acks, req.TimeoutMillis = -1, 10_000
			part := kmsg.NewProduceRequestTopicPartition()
			part.Records = data[sizePrefix:]
			topic := kmsg.NewProduceRequestTopic()
			topic.Topic, topic.TopicID, topic.Partitions = event.TopicMarket, topicID, append(topic.Partitions, part)
			req.Topics = append(req.Topics, topic)
			res, err := req.RequestWith(t.Context(), admin)
			if err != nil || len(res.Topics) == 0 {
				return false
			}
			code := res.Topics[0].Partitions[0].ErrorCode
			return code == 0 || code == kerr.DuplicateSequenceNumber.Code
		})
	}
	send()
	send()
	if n := len(readAll(t, c, event.TopicMarket, 0)); n != 1 {
		t.Fatalf("sent twice, the batch is in the log %d times", n)
	}
	b.kill()
	b.start()
	send()
	want := 2
	if b.apache {
		want = 1
	}
	n := len(readAll(t, c, event.TopicMarket, 0))
	if n != want {
		t.Errorf("sent again after a kill, the batch is in the log %d times, want %d", n, want)
	}
	t.Logf("sent again after a kill, the batch is in the log %d times", n)
}

// The defaults of Apache Kafka that the table names.
func TestDifferenceDefaultsOfApacheKafka(t *testing.T) {
	bustest.ApacheOnly(t, "its defaults are Apache Kafka's")
	b := startBroker(t)
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.IncludeSynonyms = true
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeBroker, "1"
	req.Resources = append(req.Resources, r)
	res, err := req.RequestWith(t.Context(), b.admin)
	defaults := make(map[string]string)
	for _, c := range bustest.Ask(t, res, err).Resources[0].Configs {
		for _, s := range c.ConfigSynonyms {
			if s.Source == kmsg.ConfigSourceDefaultConfig && s.Value != nil {
				defaults[s.Name] = *s.Value
			}
		}
	}
	for name, want := range map[string]string{
		"group.initial.rebalance.delay.ms":              "3000",
		"broker.session.timeout.ms":                     "9000",
		"replica.lag.time.max.ms":                       "30000",
		"log.flush.interval.messages":                   "9223372036854775807", // never by itself
		"log.flush.start.offset.checkpoint.interval.ms": "60000",
		"unclean.leader.election.enable":                "false",
	} {
		if got := defaults[name]; got != want {
			t.Errorf("%s is %q by default, want %s", name, got, want)
		}
	}
}

package bus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

const testKey = "the-key-of-this-start"

// startClosed starts a broker that asks for a login, and returns a configuration that has
// it.
func startClosed(t *testing.T, dir string, openReads bool) (*Embedded, Config) {
	t.Helper()
	b, err := StartEmbedded(t.Context(), EmbeddedConfig{
		Dir: dir, OpenReads: openReads, Logins: []Login{{KeyUser, component.NewSecret(testKey)}, {"trader", component.NewSecret("hunter2")}},
	}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	cfg := testConfig(b.Addr())
	cfg.SASL, cfg.User, cfg.Password = "scram-sha-256", KeyUser, component.NewSecret(testKey)
	return b, cfg
}

// stranger is a client of somebody else.
func stranger(t *testing.T, addr string, more ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(addr), kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequestRetries(0), kgo.RecordRetries(0),
	}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// Who has not logged in reads the topics, but the private ones, and changes nothing.
func TestEmbeddedBrokerAsksWritersForTheirCredential(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		b, cfg := startClosed(t, dir, true)
		c := connect(t, cfg)
		p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
		produce(t, p, event.TopicMarket, 0, 40)
		for _, topic := range privateTopics {
			if err := p.Append(topic, 0, []byte("k"), []byte("private"), nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := endsOf(t, c)

		cl := stranger(t, b.Addr())
		for _, spec := range event.Topics {
			err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: spec.Name, Value: []byte("forged")}).FirstErr()
			if !errors.Is(err, kerr.TopicAuthorizationFailed) {
				t.Errorf("writing %s without a login gave %v, want %v", spec.Name, err, kerr.TopicAuthorizationFailed)
			}
			code := fetchCode(t, b, spec.Name)
			if want := map[bool]int16{true: kerr.TopicAuthorizationFailed.Code}[slices.Contains(privateTopics, spec.Name)]; code != want {
				t.Errorf("reading %s without a login gave code %d, want %d", spec.Name, code, want)
			}
		}
		for what, code := range meddle(t, cl) {
			if code == 0 {
				t.Errorf("%s without a login was done", what)
			}
		}
		if after := endsOf(t, c); after != before {
			t.Errorf("the logs are\n%s, before\n%s", after, before)
		}
		// Both users write, by every mechanism.
		for _, m := range []sasl.Mechanism{
			plain.Auth{User: KeyUser, Pass: testKey}.AsMechanism(), plain.Auth{User: "trader", Pass: "hunter2"}.AsMechanism(),
			scram.Auth{User: KeyUser, Pass: testKey}.AsSha256Mechanism(), scram.Auth{User: "trader", Pass: "hunter2"}.AsSha512Mechanism(),
		} {
			if err := stranger(t, b.Addr(), kgo.SASL(m)).ProduceSync(t.Context(), &kgo.Record{Topic: "md", Value: []byte("x")}).FirstErr(); err != nil {
				t.Errorf("writing with %s gave %v", m.Name(), err)
			}
		}
	}
}

// endsOf prints the topics with their ends and their settings.
func endsOf(t *testing.T, c *Client) string {
	t.Helper()
	states, err := c.DescribeTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var s strings.Builder
	for _, spec := range states {
		fmt.Fprintln(&s, spec.Topic, spec.Partitions, spec.Records, spec.Settings)
	}
	return s.String()
}

// fetchCode reads a partition from its start and returns the code of the answer.
func fetchCode(t *testing.T, b *Embedded, topic string) int16 {
	t.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxBytes, req.SessionEpoch = 10, 1<<20, -1
	p := kmsg.NewFetchRequestTopicPartition()
	p.PartitionMaxBytes = 1 << 20
	of := kmsg.NewFetchRequestTopic()
	of.Topic, of.Partitions = topic, append(of.Partitions, p)
	req.Topics = append(req.Topics, of)
	res := ask(t, b.Addr(), req).(*kmsg.FetchResponse)
	if res.ErrorCode != 0 {
		return res.ErrorCode
	}
	return res.Topics[0].Partitions[0].ErrorCode
}

// meddle tries everything that changes a broker and returns the code of each answer.
func meddle(t *testing.T, cl *kgo.Client) map[string]int16 {
	t.Helper()
	codes := make(map[string]int16)
	try := func(what string, req kmsg.Request, code func(kmsg.Response) int16) {
		res, err := cl.Request(t.Context(), req)
		var ke *kerr.Error
		switch {
		case errors.As(err, &ke):
			codes[what] = ke.Code
		case err != nil:
			codes[what] = -1 // refused by closing the connection
		default:
			codes[what] = code(res)
		}
	}
	create := kmsg.NewPtrCreateTopicsRequest()
	create.Topics = []kmsg.CreateTopicsRequestTopic{{Topic: "mine", NumPartitions: 1, ReplicationFactor: 1}}
	try("CreateTopics", create, func(r kmsg.Response) int16 { return r.(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode })
	drop := kmsg.NewPtrDeleteTopicsRequest()
	drop.TopicNames, drop.Topics = []string{"md"}, []kmsg.DeleteTopicsRequestTopic{{Topic: kmsg.StringPtr("md")}}
	try("DeleteTopics", drop, func(r kmsg.Response) int16 { return r.(*kmsg.DeleteTopicsResponse).Topics[0].ErrorCode })
	trim := kmsg.NewPtrDeleteRecordsRequest()
	trim.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: "md", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: 0, Offset: 5}}}}
	try("DeleteRecords", trim, func(r kmsg.Response) int16 { return r.(*kmsg.DeleteRecordsResponse).Topics[0].Partitions[0].ErrorCode })
	more := kmsg.NewPtrCreatePartitionsRequest()
	more.Topics = []kmsg.CreatePartitionsRequestTopic{{Topic: "md", Count: 40}}
	try("CreatePartitions", more, func(r kmsg.Response) int16 { return r.(*kmsg.CreatePartitionsResponse).Topics[0].ErrorCode })
	set := kmsg.NewPtrIncrementalAlterConfigsRequest()
	set.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{
		ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "md",
		Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "retention.ms", Value: kmsg.StringPtr("1")}},
	}}
	try("IncrementalAlterConfigs", set, func(r kmsg.Response) int16 { return r.(*kmsg.IncrementalAlterConfigsResponse).Resources[0].ErrorCode })
	alter := kmsg.NewPtrAlterConfigsRequest()
	alter.Resources = []kmsg.AlterConfigsRequestResource{{
		ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "md", Configs: []kmsg.AlterConfigsRequestResourceConfig{{Name: "retention.ms", Value: kmsg.StringPtr("1")}},
	}}
	try("AlterConfigs", alter, func(r kmsg.Response) int16 { return r.(*kmsg.AlterConfigsResponse).Resources[0].ErrorCode })
	producer := kmsg.NewPtrInitProducerIDRequest()
	producer.ProducerID, producer.ProducerEpoch = -1, -1
	try("InitProducerID", producer, func(r kmsg.Response) int16 { return r.(*kmsg.InitProducerIDResponse).ErrorCode })
	owner := kmsg.NewPtrInitProducerIDRequest()
	owner.TransactionalID, owner.TransactionTimeoutMillis, owner.ProducerID, owner.ProducerEpoch = kmsg.StringPtr("autohedge.execution.0"), 1000, -1, -1
	try("InitProducerID of an owner", owner, func(r kmsg.Response) int16 { return r.(*kmsg.InitProducerIDResponse).ErrorCode })
	join := kmsg.NewPtrJoinGroupRequest()
	join.Group, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis, join.ProtocolType = "autohedge.execution", 6000, 6000, "consumer"
	join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range"}}
	try("JoinGroup", join, func(r kmsg.Response) int16 { return r.(*kmsg.JoinGroupResponse).ErrorCode })
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Group, commit.Generation = "autohedge.sinks", -1
	commit.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "md", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Partition: 0, Offset: 3}}}}
	try("OffsetCommit", commit, func(r kmsg.Response) int16 { return r.(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode })
	forget := kmsg.NewPtrDeleteGroupsRequest()
	forget.Groups = []string{"autohedge.sinks"}
	try("DeleteGroups", forget, func(r kmsg.Response) int16 { return r.(*kmsg.DeleteGroupsResponse).Groups[0].ErrorCode })
	offsets := kmsg.NewPtrOffsetDeleteRequest()
	offsets.Group = "autohedge.sinks"
	offsets.Topics = []kmsg.OffsetDeleteRequestTopic{{Topic: "md", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{}}}}
	try("OffsetDelete", offsets, func(r kmsg.Response) int16 { return r.(*kmsg.OffsetDeleteResponse).ErrorCode })
	rights := kmsg.NewPtrCreateACLsRequest()
	rights.Creations = []kmsg.CreateACLsRequestCreation{{
		ResourceType: kmsg.ACLResourceTypeTopic, ResourceName: "*", ResourcePatternType: kmsg.ACLResourcePatternTypeLiteral, Principal: anonymous, Host: "*",
		Operation: kmsg.ACLOperationAll, PermissionType: kmsg.ACLPermissionTypeAllow,
	}}
	try("CreateACLs", rights, func(r kmsg.Response) int16 { return r.(*kmsg.CreateACLsResponse).Results[0].ErrorCode })
	user := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
	user.Upsertions = []kmsg.AlterUserSCRAMCredentialsRequestUpsertion{{Name: KeyUser, Mechanism: 1, Iterations: 4096, Salt: []byte("salt"), SaltedPassword: []byte("mine")}}
	try("AlterUserSCRAMCredentials", user, func(r kmsg.Response) int16 { return r.(*kmsg.AlterUserSCRAMCredentialsResponse).Results[0].ErrorCode })
	quota := kmsg.NewPtrAlterClientQuotasRequest()
	quota.Entries = []kmsg.AlterClientQuotasRequestEntry{{
		Entity: []kmsg.AlterClientQuotasRequestEntryEntity{{Type: "user"}}, Ops: []kmsg.AlterClientQuotasRequestEntryOp{{Key: "producer_byte_rate", Value: 1}},
	}}
	try("AlterClientQuotas", quota, func(r kmsg.Response) int16 { return r.(*kmsg.AlterClientQuotasResponse).Entries[0].ErrorCode })
	feature := kmsg.NewPtrUpdateFeaturesRequest()
	feature.FeatureUpdates = []kmsg.UpdateFeaturesRequestFeatureUpdate{{Feature: "metadata.version", MaxVersionLevel: 1, UpgradeType: 3}}
	try("UpdateFeatures", feature, func(r kmsg.Response) int16 { return r.(*kmsg.UpdateFeaturesResponse).ErrorCode })
	return codes
}

// A login that is wrong is told so, whatever mechanism it has, and has no rights.
func TestEmbeddedBrokerRefusesWrongLogins(t *testing.T) {
	b, cfg := startClosed(t, "", true)
	connect(t, cfg)
	for name, m := range map[string]sasl.Mechanism{
		"plain":                    plain.Auth{User: KeyUser, Pass: "wrong"}.AsMechanism(),
		"plain, another's":         plain.Auth{User: KeyUser, Pass: "hunter2"}.AsMechanism(),
		"scram-sha-256":            scram.Auth{User: KeyUser, Pass: "wrong"}.AsSha256Mechanism(),
		"scram-sha-512":            scram.Auth{User: KeyUser, Pass: "wrong"}.AsSha512Mechanism(),
		"scram-sha-256, no user":   scram.Auth{User: "nobody", Pass: testKey}.AsSha256Mechanism(),
		"plain as ANONYMOUS":       plain.Auth{User: "ANONYMOUS", Pass: "x"}.AsMechanism(),
		"scram-sha-256, ANONYMOUS": scram.Auth{User: "ANONYMOUS", Pass: "x"}.AsSha256Mechanism(),
	} {
		err := stranger(t, b.Addr(), kgo.SASL(m)).ProduceSync(t.Context(), &kgo.Record{Topic: "md", Value: []byte("forged")}).FirstErr()
		if !errors.Is(err, kerr.SaslAuthenticationFailed) {
			t.Errorf("%s: writing gave %v, want %v", name, err, kerr.SaslAuthenticationFailed)
		}
	}
	cfg.Password = component.NewSecret("wrong")
	if _, err := Connect(t.Context(), cfg, component.Discard()); err == nil || !strings.Contains(err.Error(), "kafka.password") {
		t.Errorf("our own client with a wrong password said %v", err)
	}
}

// raw sends one request over a connection; there is no answer where the connection ends.
func raw(t *testing.T, conn net.Conn, req kmsg.Request) kmsg.Response {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(kmsg.NewRequestFormatter().AppendRequest(nil, req, 7)); err != nil {
		return nil
	}
	size := make([]byte, 4)
	if _, err := io.ReadFull(conn, size); err != nil {
		return nil
	}
	body := make([]byte, binary.BigEndian.Uint32(size))
	if _, err := io.ReadFull(conn, body); err != nil {
		return nil
	}
	res := req.ResponseKind()
	res.SetVersion(req.GetVersion())
	body = body[4:]
	if res.IsFlexible() && res.Key() != int16(kmsg.ApiVersions) {
		body = body[1:]
	}
	if err := res.ReadFrom(body); err != nil {
		t.Fatal(err)
	}
	return res
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func ask(t *testing.T, addr string, req kmsg.Request) kmsg.Response {
	t.Helper()
	return raw(t, dial(t, addr), req)
}

// A login that has begun gives no rights, and what is no request ends its connection and
// nothing else.
func TestEmbeddedBrokerOutlivesHostileConnections(t *testing.T) {
	b, cfg := startClosed(t, "", true)
	c := connect(t, cfg)
	before := endsOf(t, c)

	conn := dial(t, b.Addr())
	shake := kmsg.NewPtrSASLHandshakeRequest()
	shake.Version, shake.Mechanism = 1, "SCRAM-SHA-256"
	if res := raw(t, conn, shake); res == nil || res.(*kmsg.SASLHandshakeResponse).ErrorCode != 0 {
		t.Fatalf("the handshake gave %v", res)
	}
	first := kmsg.NewPtrSASLAuthenticateRequest()
	first.SASLAuthBytes = []byte("n,,n=" + KeyUser + ",r=nonce")
	if res := raw(t, conn, first); res == nil || res.(*kmsg.SASLAuthenticateResponse).ErrorCode != 0 {
		t.Fatalf("the first step gave %v", res)
	}
	del := kmsg.NewPtrDeleteTopicsRequest()
	del.Version, del.TopicNames = 1, []string{"md"}
	if res := raw(t, conn, del); res != nil {
		t.Errorf("in the middle of a login a topic was deleted: %v", res)
	}

	for name, b3 := range map[string][]byte{
		"an unknown request":       {0, 0, 0, 10, 0x7f, 0x01, 0, 0, 0, 0, 0, 1, 0xff, 0xff},
		"a negative one":           {0, 0, 0, 10, 0xff, 0xff, 0, 0, 0, 0, 0, 1, 0xff, 0xff},
		"one of 2 GiB":             {0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0, 0, 0, 0, 1},
		"one of 2 MiB, no login":   {0, 0x20, 0, 0, 0, 3, 0, 0, 0, 0, 0, 1},
		"an empty one":             {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"HTTP":                     []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"a handshake of 900 bytes": append([]byte{0, 0, 3, 0x8c, 0, 17, 0, 1, 0, 0, 0, 1}, bytes.Repeat([]byte{0xff}, 900)...),
	} {
		conn := dial(t, b.Addr())
		if _, err := conn.Write(b3); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 64)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s was answered with %d bytes, or waited for: %v", name, n, err)
		}
	}
	if after := endsOf(t, c); after != before {
		t.Errorf("the logs are\n%s, before\n%s", after, before)
	}
}

// librdkafka logs in only where version 0 of the handshake is offered.
func TestEmbeddedBrokerOffersTheHandshakeThatLibrdkafkaWants(t *testing.T) {
	b, _ := startClosed(t, "", true)
	for version := range int16(6) {
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = version, "test", "1"
		res, ok := ask(t, b.Addr(), req).(*kmsg.ApiVersionsResponse)
		if !ok || res.ErrorCode != 0 {
			t.Fatalf("version %d: %v", version, res)
		}
		i := slices.IndexFunc(res.ApiKeys, func(k kmsg.ApiVersionsResponseApiKey) bool { return k.ApiKey == int16(kmsg.SASLHandshake) })
		if i < 0 || res.ApiKeys[i].MinVersion != 0 || res.ApiKeys[i].MaxVersion != 1 || len(res.ApiKeys) < 50 {
			t.Errorf("version %d: %d kinds, the handshake at %d", version, len(res.ApiKeys), i)
		}
	}
}

// Closed reads hold after a restart on the folder of an open start, and no password is
// left in the folder.
func TestEmbeddedBrokerClosesReads(t *testing.T) {
	dir := t.TempDir()
	b, cfg := startClosed(t, dir, true)
	c := connect(t, cfg)
	if code := fetchCode(t, b, "md"); code != 0 {
		t.Errorf("reading md gave code %d", code)
	}
	_ = c.Close()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	noPassword := func() {
		t.Helper()
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			if bytes.Contains(text, []byte(testKey)) || bytes.Contains(text, []byte("hunter2")) {
				t.Errorf("%s holds a password", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	noPassword()
	for _, open := range []bool{false, true} {
		b, cfg = startClosed(t, dir, open)
		noPassword()
		c = connect(t, cfg)
		code := fetchCode(t, b, "md")
		if want := map[bool]int16{false: kerr.TopicAuthorizationFailed.Code}[open]; code != want {
			t.Errorf("open reads %t: reading md gave code %d, want %d", open, code, want)
		}
		names, err := kmsg.NewPtrMetadataRequest().RequestWith(context.Background(), stranger(t, b.Addr()))
		if err != nil || !open && len(names.Topics) > 0 {
			t.Errorf("open reads %t: %d topics are told, %v", open, len(names.Topics), err)
		}
		_ = c.Close()
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	noPassword()
}

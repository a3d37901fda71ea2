package bus

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/bus/kafkatest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// guarded is a broker on which one user may do everything and another what the
// test grants.
type guarded struct {
	root, guest Config
	admin       *bustest.Admin
}

// startGuarded starts a broker that checks rights: on Apache Kafka the root is who
// connects without a name, on the embedded broker a user.
func startGuarded(t *testing.T) *guarded {
	t.Helper()
	if onApache() {
		s := startSecured(t, map[string]string{
			"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users": "User:ANONYMOUS",
		})
		return &guarded{root: testConfig(s.Addr()), guest: secured(s, kafkatest.SASLTLS, "scram-sha-256"), admin: bustest.NewAdmin(t, kgo.SeedBrokers(s.Addr()))}
	}
	k := startKfake(t, "", kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "root", "hush"), kfake.User("PLAIN", kafkatest.User, "hush"))
	g := &guarded{root: testConfig(k.Addr())}
	g.root.SASL, g.root.User, g.root.Password = "plain", "root", component.NewSecret("hush")
	g.guest = g.root
	g.guest.User = kafkatest.User
	g.admin = bustest.NewAdmin(t, kgo.SeedBrokers(k.Addr()), kgo.SASL(plain.Auth{User: "root", Pass: "hush"}.AsMechanism()))
	return g
}

// grant allows the guest an operation on topics by name, * for all.
func (g *guarded) grant(t *testing.T, permission kmsg.ACLPermissionType, op kmsg.ACLOperation, kind kmsg.ACLResourceType, names ...string) {
	t.Helper()
	req := kmsg.NewPtrCreateACLsRequest()
	for _, n := range names {
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceType, c.ResourceName, c.ResourcePatternType = kind, n, kmsg.ACLResourcePatternTypeLiteral
		c.Principal, c.Host, c.Operation, c.PermissionType = "User:"+kafkatest.User, "*", op, permission
		req.Creations = append(req.Creations, c)
	}
	res, err := req.RequestWith(t.Context(), g.admin)
	for _, r := range bustest.Ask(t, res, err).Results {
		bustest.Check(t, "granting", r.ErrorCode)
	}
}

// A topic that this user may not see is no missing topic: nothing creates it, ends
// its life or calls for adopting it; each way to it says who lacks which right, and
// what grants it. Once that is done everything works, and the lives are the same.
func TestRefusedTopicIsNotMissing(t *testing.T) {
	g := startGuarded(t)
	root := connect(t, g.root)
	p := newProducer(t, root, ProducerConfig{Name: "test"})
	for i := range 5 {
		if err := p.Append(event.TopicMarket, 0, []byte("k"), trade(uint64(i)), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	lives := root.ids()
	g.grant(t, kmsg.ACLPermissionTypeAllow, kmsg.ACLOperationAll, kmsg.ACLResourceTypeTopic, "*")
	g.grant(t, kmsg.ACLPermissionTypeAllow, kmsg.ACLOperationAll, kmsg.ACLResourceTypeGroup, "*")
	g.grant(t, kmsg.ACLPermissionTypeAllow, kmsg.ACLOperationAll, kmsg.ACLResourceTypeCluster, "kafka-cluster")
	denied := []string{event.TopicMarket, event.TopicFills}
	g.grant(t, kmsg.ACLPermissionTypeDeny, kmsg.ACLOperationDescribe, kmsg.ACLResourceTypeTopic, denied...)

	c, err := Connect(t.Context(), g.guest, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	refusal := func(what string, err error, topics ...string) {
		t.Helper()
		if !errors.Is(err, kafka.TopicAuthorizationFailed) || errors.Is(err, ErrRefused) == (what == "read") {
			t.Fatalf("%s: have %v, want ErrRefused with code 29, or code 29 alone where it was read", what, err)
		}
		for _, text := range append(topics, `user "`+kafkatest.User+`"`, "[29]", "Describe", "--add --allow-principal User:"+kafkatest.User+" --operation All --topic ") {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: the error lacks %q: %v", what, text, err)
			}
		}
		for _, wrong := range []string{"is missing", "adopt", "discard", "no such topic"} {
			if strings.Contains(err.Error(), wrong) {
				t.Errorf("%s: the error says %q: %v", what, wrong, err)
			}
		}
	}
	eventually(t, "the guest is refused", 20*time.Second, func() bool { err = c.EnsureTopics(t.Context()); return err != nil })
	refusal("start", err, denied...)
	if !component.IsFatal(err) {
		t.Error("the refusal is not fatal")
	}
	t.Logf("%v", err)

	states, err := c.DescribeTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range states {
		want := s.Topic == event.TopicMarket || s.Topic == event.TopicFills
		if s.Missing || want != (s.Refused != "") || want == s.Known() || want && !s.bad() {
			t.Errorf("state of %s: %+v", s.Topic, s)
		}
	}
	_, _, err = c.RepairTopics(t.Context(), true)
	refusal("repair", err, event.TopicMarket)
	for what, f := range map[string]func() error{
		"adopt":   func() error { _, err := c.AdoptTopics(t.Context(), []string{event.TopicMarket}, "w", "y"); return err },
		"discard": func() error { _, err := c.DiscardTopics(t.Context(), []string{event.TopicFills}, "w", "y"); return err },
		"attach, then offsets": func() error {
			if err := c.AttachTopics(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err := c.Offsets(t.Context(), event.TopicMarket)
			return err
		},
		"read": func() error {
			_, err := c.ReadAll(t.Context(), event.TopicFills, 0, FromStart, func(Record) error { return nil })
			return err
		},
	} {
		refusal(what, f())
	}
	if n := c.Partitions(event.TopicSignals); n != 4 {
		t.Errorf("attached to %d partitions of a topic that may be seen, want 4", n)
	}

	// A session of which nothing exists: whether it does is not known either.
	g.grant(t, kmsg.ACLPermissionTypeDeny, kmsg.ACLOperationDescribe, kmsg.ACLResourceTypeTopic, "r9.md")
	session := g.guest
	session.Session = "r9"
	eventually(t, "the guest is refused the session's topic", 20*time.Second, func() bool { err = ensure(t, session); return errors.Is(err, ErrRefused) })
	refusal("a topic that does not exist", err, "r9.md")

	remove := kmsg.NewPtrDeleteACLsRequest()
	f := kmsg.NewDeleteACLsRequestFilter()
	f.ResourceType, f.ResourcePatternType, f.Operation, f.PermissionType = kmsg.ACLResourceTypeTopic, kmsg.ACLResourcePatternTypeAny, kmsg.ACLOperationDescribe, kmsg.ACLPermissionTypeDeny
	remove.Filters = append(remove.Filters, f)
	res, err := remove.RequestWith(t.Context(), g.admin)
	if err := kerr.ErrorForCode(bustest.Ask(t, res, err).Results[0].ErrorCode); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the guest is let in", 20*time.Second, func() bool { err = c.EnsureTopics(t.Context()); return err == nil })
	if diff := cmp.Diff(lives, c.ids()); diff != "" {
		t.Errorf("lives before and after (-before +after):\n%s", diff)
	}
	if got := readAll(t, c, event.TopicMarket, 0); len(got) != 5 {
		t.Errorf("%d records are left, want 5", len(got))
	}
}

// While the brokers put off saying whether a topic exists, it is waited for; for
// ever, it is an error that names the code, and never a missing topic.
func TestTopicThatIsPutOffIsNotMissingOnKfake(t *testing.T) {
	inBubble(t, func(t *testing.T, v *virtual) {
		cluster := v.cluster
		for code, name := range map[*kerr.Error]string{kerr.LeaderNotAvailable: "[5]", kerr.CoordinatorLoadInProgress: "[14]", kerr.UnknownServerError: "[-1]"} {
			f := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: event.TopicOrders, Err: code, Count: 4})
			c, err := v.open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := c.EnsureTopics(t.Context()); err != nil {
				t.Errorf("code %s, four times: %v", name, err)
			}
			f.Remove()
			f = cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: event.TopicOrders, Err: code, Count: -1})
			began := time.Now()
			err = c.EnsureTopics(t.Context())
			f.Remove()
			if err == nil || !strings.Contains(err.Error(), "do not say whether topic orders exists") || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "adopt") {
				t.Errorf("code %s for ever: %v", name, err)
			}
			if took := time.Since(began); took < layoutPatience || took > 2*layoutPatience {
				t.Errorf("code %s for ever: given up after %s, want %s", name, took, layoutPatience)
			}
			_ = c.Close()
		}
	})
}

// Brokers that do not know topic ids are asked in the old form.
func TestLayoutOfOldBrokersOnKfake(t *testing.T) {
	k := startKfake(t, "", kfake.MaxVersions(kversion.V2_1_0()))
	c := connect(t, testConfig(k.Addr()))
	l, err := c.layout(t.Context(), []string{event.TopicMarket, "nowhere"})
	if err != nil {
		t.Fatal(err)
	}
	md, ok := l.found(event.TopicMarket)
	if !ok || len(md.Partitions) != 4 || md.id != (event.ID{}) || len(l.brokers) != 1 || l.topic("nowhere").presence() != absent || l.topic("unasked").presence() != untold {
		t.Errorf("layout %+v", l)
	}
	all, err := c.layout(t.Context(), nil)
	if err != nil || len(all.topics) != len(event.Topics) {
		t.Errorf("%d topics, %v; want %d", len(all.topics), err, len(event.Topics))
	}
}

// The brokers' answer in our reading of it and in another client's.
func TestLayout(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	l, err := c.layout(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = nil
	res, err := req.RequestWith(t.Context(), b.admin)
	type part struct{ ID, Leader, Replicas, Isr int }
	type topic struct {
		ID    event.ID
		Parts map[int]part
	}
	want, got := make(map[string]topic), make(map[string]topic)
	for _, x := range bustest.Ask(t, res, err).Topics {
		of := topic{ID: event.ID(x.TopicID), Parts: make(map[int]part)}
		for _, p := range x.Partitions {
			of.Parts[int(p.Partition)] = part{int(p.Partition), int(p.Leader), len(p.Replicas), len(p.ISR)}
		}
		want[*x.Topic] = of
	}
	for _, x := range l.topics {
		of := topic{ID: x.id, Parts: make(map[int]part)}
		for _, p := range x.Partitions {
			of.Parts[p.ID] = part{p.ID, p.Leader.ID, len(p.Replicas), len(p.Isr)}
		}
		got[x.Name] = of
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-franz-go +ours):\n%s", diff)
	}
	if got[event.TopicMarket].ID == (event.ID{}) {
		t.Error("topic md has no id")
	}
}

// FuzzLayout reads any bytes as an answer, within its size.
func FuzzLayout(f *testing.F) {
	for _, version := range []int16{layoutOld, layoutWithIDs} {
		r := kmsg.NewPtrMetadataResponse()
		r.Version = version
		broker := kmsg.NewMetadataResponseBroker()
		broker.Host = "127.0.0.1"
		r.Brokers = append(r.Brokers, broker)
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic = kmsg.StringPtr("md")
		p := kmsg.NewMetadataResponseTopicPartition()
		p.Replicas, p.ISR = []int32{0}, []int32{0}
		topic.Partitions = append(topic.Partitions, p)
		r.Topics = append(r.Topics, topic)
		body := r.AppendTo(nil)
		if version == layoutWithIDs {
			body = append([]byte{0}, body...)
		}
		f.Add(body, version == layoutWithIDs)
	}
	f.Fuzz(func(t *testing.T, data []byte, compact bool) {
		d := layoutDecoder{rest: bytes.Clone(data), compact: compact}
		l := d.decode()
		if n := len(l.topics) + len(l.brokers); n > len(data) {
			t.Errorf("%d topics and brokers of %d bytes", n, len(data))
		}
	})
}

package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/bus/kafkatest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// right is something that a user is allowed to do.
type right struct {
	kind kmsg.ACLResourceType
	name string
	op   kmsg.ACLOperation
}

const roleUser = "role"

// allRights are those of a role that reads, appends, owns a key and commits.
func allRights() (all []right) {
	for _, spec := range event.Topics {
		for _, op := range []kmsg.ACLOperation{kmsg.ACLOperationRead, kmsg.ACLOperationWrite, kmsg.ACLOperationDescribe, kmsg.ACLOperationDescribeConfigs} {
			all = append(all, right{kmsg.ACLResourceTypeTopic, spec.Name, op})
		}
	}
	for _, op := range []kmsg.ACLOperation{kmsg.ACLOperationRead, kmsg.ACLOperationDescribe} {
		all = append(all, right{kmsg.ACLResourceTypeGroup, "autohedge.test", op})
	}
	for _, op := range []kmsg.ACLOperation{kmsg.ACLOperationWrite, kmsg.ACLOperationDescribe} {
		all = append(all, right{kmsg.ACLResourceTypeTransactionalId, "autohedge.role.1", op})
	}
	return all
}

// allow gives the role's user these rights and no others, and waits until that is in
// force.
func allow(t *testing.T, admin *bustest.Admin, rights []right) {
	t.Helper()
	create := kmsg.NewPtrCreateACLsRequest()
	for _, r := range rights {
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceType, c.ResourceName, c.ResourcePatternType = r.kind, r.name, kmsg.ACLResourcePatternTypeLiteral
		c.Principal, c.Host, c.Operation, c.PermissionType = "User:"+roleUser, "*", r.op, kmsg.ACLPermissionTypeAllow
		create.Creations = append(create.Creations, c)
	}
	made, err := create.RequestWith(t.Context(), admin)
	for _, r := range bustest.Ask(t, made, err).Results {
		bustest.Check(t, "giving rights", r.ErrorCode)
	}
	remove := kmsg.NewPtrDeleteACLsRequest()
	for _, r := range allRights() {
		if slices.Contains(rights, r) {
			continue
		}
		filter := kmsg.NewDeleteACLsRequestFilter()
		filter.ResourceType, filter.ResourceName, filter.ResourcePatternType = r.kind, kmsg.StringPtr(r.name), kmsg.ACLResourcePatternTypeLiteral
		filter.Principal, filter.Operation, filter.PermissionType = kmsg.StringPtr("User:"+roleUser), r.op, kmsg.ACLPermissionTypeAllow
		remove.Filters = append(remove.Filters, filter)
	}
	res, err := remove.RequestWith(t.Context(), admin)
	for _, r := range bustest.Ask(t, res, err).Results {
		bustest.Check(t, "removing rights", r.ErrorCode)
	}
	list := kmsg.NewPtrDescribeACLsRequest()
	list.ResourceType, list.ResourcePatternType = kmsg.ACLResourceTypeAny, kmsg.ACLResourcePatternTypeAny
	list.Operation, list.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
	eventually(t, "the rights are in force", 30*time.Second, func() bool {
		res, err := list.RequestWith(t.Context(), admin)
		n := 0
		for _, r := range bustest.Ask(t, res, err).Resources {
			n += len(r.ACLs)
		}
		return n == len(rights)
	})
}

// A user that lacks a right is told at once, fatally, which resource it is that it may
// not use, the code, and what to allow. Nothing hangs, and nothing that is refused is
// taken for missing. Each right is taken away from a client that is at work.
func TestPermissionsOnApache(t *testing.T) {
	s := startSecured(t, map[string]string{
		"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"super.users":           "User:ANONYMOUS;User:" + kafkatest.User, // the brokers themselves, and who prepares them
		"listener.name.sasl.plain.sasl.jaas.config": fmt.Sprintf(`org.apache.kafka.common.security.plain.PlainLoginModule required user_%s="%s" user_%s="%s";`,
			kafkatest.User, kafkatest.Password, roleUser, kafkatest.Password),
	})
	admin := bustest.NewAdmin(t, kgo.SeedBrokers(s.Addr()))
	prepared := connect(t, secured(s, kafkatest.SASL, "plain"))
	produce(t, newProducer(t, prepared, ProducerConfig{Name: "test", Blocking: true}), event.TopicMarket, 0, 40)
	cfg := secured(s, kafkatest.SASL, "plain")
	cfg.User = roleUser

	topic := func(name string, ops ...kmsg.ACLOperation) func(right) bool {
		return func(r right) bool {
			return r.kind == kmsg.ACLResourceTypeTopic && (name == "" || r.name == name) && (len(ops) == 0 || slices.Contains(ops, r.op))
		}
	}
	kind := func(k kmsg.ACLResourceType, ops ...kmsg.ACLOperation) func(right) bool {
		return func(r right) bool { return r.kind == k && (len(ops) == 0 || slices.Contains(ops, r.op)) }
	}
	appends := func(ctx context.Context, c *Client, topic string) error {
		p, err := c.NewProducer(ctx, ProducerConfig{Name: "test", Blocking: true}, component.Discard())
		if err != nil {
			return err
		}
		defer p.abandon()
		_, err = p.publish(ctx, TopicPartition{topic, 0}, []byte("k"), []byte("x"))
		return err
	}
	consumes := func(ctx context.Context, c *Client) error {
		k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
		return k.Run(ctx, newHandledLog().handle)
	}
	owns := func(ctx context.Context, c *Client) error {
		o, err := c.Own(ctx, OwnConfig{Name: "test", Key: "role.1", Partitions: ownedPair}, component.Discard())
		if err == nil {
			o.abandon()
		}
		return err
	}
	ensures := func(ctx context.Context, c *Client) error { return c.EnsureTopics(ctx) }
	for _, tt := range []struct {
		name    string
		without func(right) bool
		do      func(context.Context, *Client) error
		want    []string
		mild    bool // an error, and not a fatal one
	}{
		{"write, to append", topic(event.TopicMarket, kmsg.ACLOperationWrite), func(ctx context.Context, c *Client) error { return appends(ctx, c, event.TopicMarket) },
			[]string{"appending to md/0", "[29]", "--operation All --topic md"}, false},
		{"write to every topic, for a producer id", topic("", kmsg.ACLOperationWrite), func(ctx context.Context, c *Client) error { return appends(ctx, c, event.TopicMarket) },
			[]string{"producer id", "[31]", "--operation IdempotentWrite --cluster"}, false},
		{"everything on a topic, to append", topic(event.TopicMarket), func(ctx context.Context, c *Client) error { return appends(ctx, c, event.TopicMarket) },
			[]string{"appending to md/0", "[29]", "--topic md"}, false},
		{"read, to read", topic(event.TopicMarket, kmsg.ACLOperationRead), func(ctx context.Context, c *Client) error {
			_, err := c.ReadAll(ctx, event.TopicMarket, 0, FromStart, func(Record) error { return nil })
			return err
		}, []string{"reading md/0", "[29]", "--operation All --topic md"}, false},
		{"everything on a topic, to read", topic(event.TopicMarket), func(ctx context.Context, c *Client) error {
			_, err := c.ReadAll(ctx, event.TopicMarket, 0, FromStart, func(Record) error { return nil })
			return err
		}, []string{"md", "[29]", "--topic md"}, false},
		{"everything on a topic, to start", topic(event.TopicMarket), ensures, []string{"md", "[29]", "--topic md"}, false},
		{"everything on meta, to start", topic(event.TopicMeta), ensures, []string{"meta", "[29]", "--topic meta"}, false},
		{"read of meta, to start", topic(event.TopicMeta, kmsg.ACLOperationRead), ensures, []string{"meta/0", "[29]", "--operation All --topic meta"}, false},
		{"the group, to consume", kind(kmsg.ACLResourceTypeGroup), consumes, []string{"group autohedge.test", "[30]", "--operation All --group autohedge.test"}, false},
		{"read, to consume", topic(event.TopicMarket, kmsg.ACLOperationRead), consumes, []string{"md", "[29]", "--operation All --topic md"}, false},
		{"the group, for its lag", kind(kmsg.ACLResourceTypeGroup), func(ctx context.Context, c *Client) error {
			_, err := c.Lag(ctx, "test", event.TopicMarket)
			return err
		}, []string{"reading the lag of autohedge.test", "[30]", "--operation All --group autohedge.test"}, true},
		{"the transactional id, to own", kind(kmsg.ACLResourceTypeTransactionalId), owns, []string{`"autohedge.role.1"`, "[53]", "--operation All --transactional-id autohedge.role.1"}, false},
		{"write of the transactional id, to own", kind(kmsg.ACLResourceTypeTransactionalId, kmsg.ACLOperationWrite), owns, []string{`"autohedge.role.1"`, "[53]", "--operation All --transactional-id autohedge.role.1"}, false},
		{"write of meta, to own", topic(event.TopicMeta, kmsg.ACLOperationWrite), owns, []string{"owning role.1", "meta/0", "[29]", "--operation All --topic meta"}, false},
		{"write of an owned topic, to own", topic(event.TopicFills, kmsg.ACLOperationWrite), owns, []string{"owning role.1", "fills/1", "[29]", "--operation All --topic fills"}, false},
		{"delete, to trim", topic("none"), func(ctx context.Context, c *Client) error {
			_, err := c.DeleteRecords(ctx, event.TopicMarket, map[int32]int64{0: 1})
			return err
		}, []string{"trimming md/0", "[29]", "--operation All --topic md"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			allow(t, admin, allRights())
			c := connect(t, cfg)
			allow(t, admin, slices.DeleteFunc(allRights(), tt.without))
			ctx, cancel := contextWithTimeout(t, 45*time.Second)
			defer cancel()
			began := time.Now()
			err := tt.do(ctx, c)
			if err == nil || ctx.Err() != nil {
				t.Fatalf("after %s: %v", time.Since(began).Round(time.Millisecond), err)
			}
			for _, text := range append(tt.want, "User:"+roleUser, s.On(kafkatest.SASL)) {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("the error lacks %q: %v", text, err)
				}
			}
			if component.IsFatal(err) == tt.mild {
				t.Errorf("fatal: %v, of %v", component.IsFatal(err), err)
			}
			var logs *LogError
			if errors.As(err, &logs) || strings.Contains(err.Error(), "adopt") || strings.Contains(err.Error(), "deleted") {
				t.Errorf("what is refused is told as missing: %v", err)
			}
			t.Logf("%s: %v", time.Since(began).Round(time.Millisecond), err)
		})
	}
	t.Run("taken from those at work", func(t *testing.T) {
		allow(t, admin, allRights())
		c := connect(t, cfg)
		p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
		at := TopicPartition{event.TopicMarket, 0}
		if _, err := p.publish(t.Context(), at, nil, []byte("x")); err != nil {
			t.Fatal(err)
		}
		ran := make(chan error, 1)
		seen := newHandledLog()
		k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
		ctx, cancel := contextWithTimeout(t, 60*time.Second)
		defer cancel()
		go func() { ran <- k.Run(ctx, seen.handle) }()
		eventually(t, "records are handled", 30*time.Second, func() bool { return seen.count() > 0 })
		allow(t, admin, slices.DeleteFunc(allRights(), func(r right) bool {
			return kind(kmsg.ACLResourceTypeGroup)(r) || topic(event.TopicMarket, kmsg.ACLOperationWrite)(r)
		}))
		_, err := p.publish(ctx, at, nil, []byte("x"))
		if !component.IsFatal(err) || !strings.Contains(err.Error(), "--topic md") {
			t.Errorf("the producer: %v", err)
		}
		err = <-ran
		if ctx.Err() != nil || !component.IsFatal(err) || !strings.Contains(err.Error(), "--group autohedge.test") {
			t.Errorf("the consumer: %v", err)
		}
		t.Logf("the consumer: %v", err)
	})
}

package bus

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// ensure runs EnsureTopics on a client of its own.
func ensure(t *testing.T, cfg Config) error {
	t.Helper()
	c, err := Connect(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	return c.EnsureTopics(t.Context())
}

// Every setting that is checked, made wrong: the check lists all of them with
// the value and what is wanted, the repair mends them, and nothing else.
func TestWrongSettingsAreListedAndMended(t *testing.T) {
	b := startBroker(t)
	cfg := testConfig(b.Addr())
	connect(t, cfg)
	wrong := map[string]map[string]string{
		event.TopicMarket: {
			"cleanup.policy": "compact", "retention.ms": "3600000", "retention.bytes": "1048576", "max.message.bytes": "20000", "min.insync.replicas": "3",
		},
		event.TopicOrders:      {"retention.ms": "604800000", "retention.bytes": "1073741824"},
		event.TopicInstruments: {"cleanup.policy": "delete", "min.compaction.lag.ms": "0"},
		event.TopicSignalState: {"segment.bytes": "1073741824", "segment.ms": "604800000"},
	}
	warnings := []string{"min.compaction.lag.ms", "min.cleanable.dirty.ratio"}
	if onApache() {
		wrong[event.TopicSinkState] = map[string]string{
			"max.compaction.lag.ms": "9223372036854775807", "min.compaction.lag.ms": "7200000", "min.cleanable.dirty.ratio": "0.9",
		}
		wrong[event.TopicSignals] = map[string]string{"unclean.leader.election.enable": "true"}
	} else {
		delete(wrong[event.TopicInstruments], "min.compaction.lag.ms") // kfake has no such setting
	}
	before := make(map[string]map[string]string)
	for topic, settings := range wrong {
		before[topic] = make(map[string]string)
		for name := range settings {
			before[topic][name] = b.admin.Config(t, topic, name)
		}
		b.admin.SetConfig(t, topic, settings)
	}
	// What is more than wanted is good.
	b.admin.SetConfig(t, event.TopicDead, map[string]string{"retention.ms": "-1", "retention.bytes": "-1"})

	err := ensure(t, cfg)
	var e *TopicsError
	if !errors.As(err, &e) || !component.IsFatal(err) {
		t.Fatalf("wrong settings gave %v", err)
	}
	for topic, settings := range wrong {
		for name, value := range settings {
			if slices.Contains(warnings, name) {
				continue
			}
			i := slices.IndexFunc(e.Wrong, func(w WrongSetting) bool { return w.Topic == topic && w.Setting == name })
			if i < 0 || e.Wrong[i].Value != value || e.Wrong[i].Source != "set for the topic" || e.Wrong[i].Why == "" {
				t.Errorf("%s of %s = %s is not among %+v", name, topic, value, e.Wrong)
			}
		}
	}
	for _, text := range []string{
		"\n  md: retention.ms is 3600000 (1h0m0s), set for the topic; want 604800000 (7d) (kafka.retention) or more: records go before a reader that lags has read them",
		"\n  orders: retention.ms is 604800000 (7d), set for the topic; want -1: a role rebuilds its state from the topic's start",
		"\n  state.signals: segment.bytes is 1073741824 (1 GiB), set for the topic; want 268435456 (0.25 GiB) or less: what was replaced stays until the disk is full",
		"\n  md: min.insync.replicas is 3, set for the topic; want 1: with fewer replicas than that nothing can be written",
		"\nmend them with `autohedge topics repair --config FILE --yes`, or with Kafka's own tool:",
		"\n  kafka-configs.sh --bootstrap-server " + b.Addr() + " --alter --entity-type topics --entity-name orders --add-config retention.ms=-1,retention.bytes=-1",
	} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error lacks %q:\n%v", text, err)
		}
	}
	if n := strings.Count(err.Error(), event.TopicDead+": "); n > 0 {
		t.Errorf("more than wanted is told as wrong:\n%v", err)
	}

	c, err := Connect(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	plan, left, err := c.RepairTopics(t.Context(), false)
	if err != nil || len(left) > 0 {
		t.Fatalf("the plan: %v, %v", left, err)
	}
	if got := b.admin.Config(t, event.TopicMarket, "retention.ms"); got != "3600000" {
		t.Errorf("planning changed retention.ms to %s", got)
	}
	changes, left, err := c.RepairTopics(t.Context(), true)
	if err != nil || len(left) > 0 {
		t.Fatalf("the repair: %v, %v", left, err)
	}
	if diff := cmp.Diff(plan, changes); diff != "" {
		t.Errorf("the repair is not what was planned: %s", diff)
	}
	total := 0
	for topic, settings := range wrong {
		for name, value := range settings {
			total++
			want := TopicChange{Topic: topic, Setting: name, Before: value, After: before[topic][name]}
			if !slices.Contains(changes, want) {
				t.Errorf("the repair did not do %s, but %v", want, changes)
			}
			if got := b.admin.Config(t, topic, name); got != before[topic][name] {
				t.Errorf("%s of %s is %s after the repair, before %s", name, topic, got, before[topic][name])
			}
		}
	}
	if len(changes) != total {
		t.Errorf("%d changes, want %d: %v", len(changes), total, changes)
	}
	if got := b.admin.Config(t, event.TopicDead, "retention.ms"); got != "-1" {
		t.Errorf("the repair set retention.ms of %s to %s", event.TopicDead, got)
	}
	again, _, err := c.RepairTopics(t.Context(), true)
	if err != nil || len(again) > 0 {
		t.Errorf("the second repair changed %v, %v", again, err)
	}
	if err := ensure(t, cfg); err != nil {
		t.Errorf("after the repair: %v", err)
	}
}

// A topic that exists counts with what the brokers' defaults make of it.
func TestForeignTopicIsCheckedWithItsDefaults(t *testing.T) {
	b := startBroker(t)
	b.admin.CreateTopic(t, event.TopicOrders, 4, nil)
	b.admin.CreateTopic(t, event.TopicControl, 3, map[string]string{"retention.ms": "-1"})
	err := ensure(t, testConfig(b.Addr()))
	for _, text := range []string{
		"checking topics: 2 settings of topics are wrong:",
		"\n  orders: retention.ms is 604800000 (7d), Kafka's default; want -1: a role rebuilds its state from the topic's start",
		"\n  control: partitions is 3; want 1: its records have one order\n    their number cannot be lowered: delete the topic with `kafka-topics.sh",
	} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("the error lacks %q:\n%v", text, err)
		}
	}
	c, err := Connect(t.Context(), testConfig(b.Addr()), component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	changes, left, err := c.RepairTopics(t.Context(), true)
	if err != nil || len(changes) != 1 || len(left) != 1 || left[0].Setting != "partitions" {
		t.Errorf("repaired %v, left %v, %v", changes, left, err)
	}
}

func TestDescribeTopics(t *testing.T) {
	b := startBroker(t)
	cfg := testConfig(b.Addr())
	c, err := Connect(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	states, err := c.DescribeTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range states {
		if !s.Missing || !s.bad() {
			t.Errorf("a topic that does not exist: %+v", s)
		}
	}
	if names := b.admin.Topics(t); len(names) > 0 {
		t.Errorf("describing made topics %v", names)
	}
	if err := c.AttachTopics(t.Context()); err != nil || c.Partitions(event.TopicMarket) != 0 {
		t.Errorf("attached to %d partitions, %v", c.Partitions(event.TopicMarket), err)
	}
	full := connect(t, cfg)
	produce(t, newProducer(t, full, ProducerConfig{Name: "test", Blocking: true}), event.TopicMarket, 0, 40)
	states, err = c.DescribeTopics(t.Context())
	if err != nil || len(states) != len(event.Topics) {
		t.Fatal(states, err)
	}
	for i, s := range states {
		spec := event.Topics[i]
		want := 4
		if spec.Single {
			want = 1
		}
		if s.Topic != spec.Name || s.Name != spec.Name || s.Partitions != want || s.Replicas != 1 || s.InSync != 1 || len(s.Wrong) > 0 || s.Unread != "" || s.bad() {
			t.Errorf("topic %+v", s)
		}
		if spec.Name == event.TopicMarket && (s.Records != 40 || s.Bytes < 100 || s.Settings["retention.ms"] != "604800000") {
			t.Errorf("topic %+v", s)
		}
	}
	if err := c.AttachTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.Partitions(event.TopicMarket) != 4 || c.Incarnation(event.TopicMarket) != full.Incarnation(event.TopicMarket) {
		t.Errorf("attached to %d partitions of incarnation %s", c.Partitions(event.TopicMarket), c.Incarnation(event.TopicMarket))
	}
}

// guestACLs let a user read and write all topics, and neither create nor
// describe the settings of one.
func guestACLs() (list []kfake.ACL) {
	for _, op := range []kmsg.ACLOperation{kmsg.ACLOperationRead, kmsg.ACLOperationWrite, kmsg.ACLOperationDescribe} {
		list = append(list, kfake.ACL{
			Resource: kmsg.ACLResourceTypeTopic, Name: "*", Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true,
		})
	}
	return list
}

// Without the right to read settings they are not taken for good: the log and
// the state say that they were not read.
func TestSettingsThatMayNotBeReadAreToldOnKfake(t *testing.T) {
	k := startKfake(t, "", kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "root", "hush"), kfake.User("PLAIN", "guest", "hush", guestACLs()...))
	cfg := testConfig(k.Addr())
	cfg.SASL, cfg.User, cfg.Password = "plain", "root", component.NewSecret("hush")
	connect(t, cfg)
	cfg.User = "guest"
	var log bytes.Buffer
	env := component.Discard()
	env.Log = slog.New(slog.NewTextHandler(&log, nil))
	c, err := Connect(t.Context(), cfg, env)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text := log.String(); !strings.Contains(text, "the settings of topics are not checked") || !strings.Contains(text, "User:guest --operation DescribeConfigs") {
		t.Errorf("the log says %q", text)
	}
	states, err := c.DescribeTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range states {
		if s.Unread == "" || s.Partitions == 0 {
			t.Errorf("state %+v", s)
		}
	}
}

// A user that may not create topics is told who can do it, and how.
func TestTopicsThatMayNotBeCreatedOnKfake(t *testing.T) {
	k := startKfake(t, "", kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "root", "hush"), kfake.User("PLAIN", "guest", "hush", guestACLs()...))
	cfg := testConfig(k.Addr())
	cfg.SASL, cfg.User, cfg.Password = "plain", "guest", component.NewSecret("hush")
	err := ensure(t, cfg)
	for _, text := range []string{
		"creating topics: topic ", "kafka-topics.sh --bootstrap-server " + k.Addr() + " --create --topic ",
		"--config cleanup.policy=delete", "--add --allow-principal User:guest --operation All --topic ",
	} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("the error lacks %q: %v", text, err)
		}
	}
}

func TestSettingsInWords(t *testing.T) {
	for _, tt := range []struct{ name, value, want string }{
		{"retention.ms", "604800000", "604800000 (7d)"},
		{"retention.ms", "5400000", "5400000 (1h30m0s)"},
		{"retention.ms", "93600000", "93600000 (1d2h)"},
		{"retention.ms", "-1", "-1"},
		{"retention.bytes", "8589934592", "8589934592 (8 GiB)"},
		{"cleanup.policy", "delete", "delete"},
		{"max.message.bytes", "20000", "20000"},
	} {
		if got := humanValue(tt.name, tt.value); got != tt.want {
			t.Errorf("%s=%s reads as %q, want %q", tt.name, tt.value, got, tt.want)
		}
	}
	c := &Client{cfg: DefaultConfig()}
	for _, tt := range []struct {
		replicas int
		good     string
		bad      string
	}{{1, "1", "2"}, {2, "1 2", "3 0"}, {3, "2 3", "1 4"}, {5, "2 5", "1 6"}} {
		for _, s := range c.settings(event.TopicSpec{}, tt.replicas) {
			if s.name != "min.insync.replicas" {
				continue
			}
			for _, v := range strings.Fields(tt.good) {
				if !s.ok(v) {
					t.Errorf("%d replicas: %s in sync is refused", tt.replicas, v)
				}
			}
			for _, v := range strings.Fields(tt.bad) {
				if s.ok(v) {
					t.Errorf("%d replicas: %s in sync passes", tt.replicas, v)
				}
			}
		}
	}
	for _, spec := range event.Topics {
		for replicas := 1; replicas <= 5; replicas++ {
			for _, s := range c.settings(spec, replicas) {
				if !s.ok(s.value) {
					t.Errorf("%s, %d replicas: what %s is created with, %s, is refused", spec.Name, replicas, s.name, s.value)
				}
			}
		}
	}
}

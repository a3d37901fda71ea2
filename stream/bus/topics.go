package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/autohedge/autohedge/stream/event"
)

// TopicState is what a topic is like on the cluster, and what is wrong with it.
type TopicState struct {
	Topic   string `json:"topic"`   // as event.Topics names it
	Name    string `json:"name"`    // as the brokers name it, with the session's prefix
	Missing bool   `json:"missing"` // it does not exist; the rest is empty
	// Deleted says that it is missing and had a life: the engine refuses to start then,
	// where it would create another missing topic. JudgeTopics sets it.
	Deleted bool `json:"deleted,omitempty"`
	// Fault is why a start refuses the topic, FaultText the same as text. JudgeTopics
	// and Refuse set them.
	Fault     *LogError `json:"-"`
	FaultText string    `json:"fault,omitempty"`
	// Refused is why the brokers do not tell whether it exists, with what to do; the
	// rest is empty.
	Refused    string            `json:"refused,omitempty"`
	Partitions int               `json:"partitions"`
	Replicas   int               `json:"replicas"` // of the partition with the fewest
	InSync     int               `json:"in_sync"`  // of the partition with the fewest
	Settings   map[string]string `json:"settings"` // those that are checked, as in force
	// Unread is why the settings are not known: the cluster did not tell.
	Unread string `json:"unread,omitempty"`
	// Records counts from the first to the end offset; a compacted topic holds
	// fewer. -1 where a partition did not answer.
	Records int64 `json:"records"`
	// Bytes are those of the largest replica of each partition; -1 where the
	// cluster did not tell.
	Bytes int64          `json:"bytes"`
	Wrong []WrongSetting `json:"wrong"`
}

// Known reports whether the brokers told what the topic is like.
func (s *TopicState) Known() bool { return !s.Missing && s.Refused == "" }

// WrongSetting is one thing about a topic that is not as it must be.
type WrongSetting struct {
	Topic   string `json:"topic"` // as the brokers name it
	Setting string `json:"setting"`
	Value   string `json:"value"`
	Want    string `json:"want"`
	Source  string `json:"source,omitempty"` // where the value is from
	Why     string `json:"why"`
	// Warning is set where nothing is lost by it.
	Warning bool `json:"warning"`
	// Mend is the value that RepairTopics sets; it is empty where it can not.
	Mend string `json:"mend,omitempty"`
	// Fix is what to do where RepairTopics can not mend it.
	Fix string `json:"fix,omitempty"`
}

// String says what is wrong in one line.
func (w WrongSetting) String() string {
	value := humanValue(w.Setting, w.Value)
	if w.Source != "" {
		value += ", " + w.Source
	}
	return fmt.Sprintf("%s: %s is %s; want %s: %s", w.Topic, w.Setting, value, w.Want, w.Why)
}

// TopicsError says that topics are not as they must be: all that is wrong, and
// the commands that mend it.
type TopicsError struct {
	Wrong   []WrongSetting
	broker  string
	secured string // what Kafka's tools need to connect
	session string
}

// Error lists everything that is wrong.
func (e *TopicsError) Error() string {
	var b strings.Builder
	if len(e.Wrong) > 1 {
		fmt.Fprintf(&b, "%d settings of topics are wrong:", len(e.Wrong))
	} else {
		b.WriteString("a setting of a topic is wrong:")
	}
	mends := make(map[string][]string)
	for _, w := range e.Wrong {
		b.WriteString("\n  " + w.String())
		switch {
		case w.Fix != "":
			b.WriteString("\n    " + w.Fix)
		case w.Mend != "" && w.Setting != settingReplicas:
			value := w.Mend
			if strings.Contains(value, ",") {
				value = "[" + value + "]"
			}
			mends[w.Topic] = append(mends[w.Topic], w.Setting+"="+value)
		}
	}
	if slices.ContainsFunc(e.Wrong, func(w WrongSetting) bool { return w.Mend != "" }) {
		fmt.Fprintf(&b, "\nmend them with `%s`", e.Command())
	}
	if len(mends) > 0 {
		b.WriteString(", or with Kafka's own tool:")
		for _, w := range e.Wrong {
			if list := mends[w.Topic]; list != nil {
				fmt.Fprintf(&b, "\n  kafka-configs.sh --bootstrap-server %s%s --alter --entity-type topics --entity-name %s --add-config %s",
					e.broker, e.secured, w.Topic, strings.Join(list, ","))
				delete(mends, w.Topic)
			}
		}
	}
	return b.String()
}

// Command is what mends the settings.
func (e *TopicsError) Command() string {
	c := "autohedge topics repair --config FILE --yes"
	if e.session != "" {
		c += " --session " + e.session
	}
	return c
}

// What is checked beside the settings that a broker has by name.
const (
	settingPartitions = "partitions"
	settingReplicas   = "replication factor"
)

// errNotAllowed marks settings that the cluster does not tell this user.
var errNotAllowed = errors.New("not allowed to describe the topic's settings")

// DescribeTopics returns the state of every topic, in the order of event.Topics.
// It changes nothing and does not need EnsureTopics.
func (c *Client) DescribeTopics(ctx context.Context) ([]TopicState, error) {
	c.refresh(ctx)
	states, err := c.topicStates(ctx)
	if err != nil {
		return nil, fmt.Errorf("describing the topics: %w", err)
	}
	use, useErr := c.DiskUse(ctx)
	for i := range states {
		s := &states[i]
		if !s.Known() {
			continue
		}
		if useErr == nil {
			if n, ok := use.Topic(s.Topic); ok {
				s.Bytes = n
			}
		}
		s.Records = c.countRecords(ctx, s)
	}
	return states, nil
}

// countRecords sums up the partitions; one without a leader makes it -1.
func (c *Client) countRecords(ctx context.Context, s *TopicState) (n int64) {
	var requests []kafka.OffsetRequest
	ids := make([]int32, s.Partitions)
	for p := range ids {
		ids[p] = int32(p)
		requests = append(requests, kafka.FirstOffsetOf(p), kafka.LastOffsetOf(p))
	}
	bounds, err := c.listOffsets(ctx, s.Name, ids, requests)
	if err != nil {
		return -1
	}
	for _, b := range bounds {
		n += b.End - b.Start
	}
	return n
}

// AttachTopics makes the topics known as they are, for tools that look: nothing
// is created or checked, and a topic that is missing has no partitions. One that
// this user may not see is an error where it is used.
func (c *Client) AttachTopics(ctx context.Context) error {
	c.refresh(ctx)
	l, err := c.settled(ctx, c.named())
	if err != nil {
		return fmt.Errorf("looking for the topics: %w", err)
	}
	found := make(map[string]int32)
	closed := make(map[string]error)
	for _, spec := range event.Topics {
		name := c.prefix() + spec.Name
		switch t := l.topic(name); t.presence() {
		case present:
			found[spec.Name] = int32(len(t.Partitions))
		case refused:
			closed[spec.Name] = c.refusal(l, []string{name})
		}
	}
	c.setPartitions(found)
	c.setClosed(closed)
	if found[event.TopicMeta] == 0 {
		return nil
	}
	view, err := c.readMeta(ctx)
	if err != nil {
		return fmt.Errorf("reading the incarnations of the topics: %w", err)
	}
	c.setView(view)
	return nil
}

// topicStates reads the layout and the settings of all topics and judges them.
func (c *Client) topicStates(ctx context.Context) ([]TopicState, error) {
	l, err := c.settled(ctx, c.named())
	if err != nil {
		return nil, err
	}
	c.countKeyed(l)
	states := make([]TopicState, len(event.Topics))
	var names []string
	for i, spec := range event.Topics {
		s := &states[i]
		*s = TopicState{Topic: spec.Name, Name: c.prefix() + spec.Name, Records: -1, Bytes: -1, Wrong: []WrongSetting{}}
		t := l.topic(s.Name)
		switch t.presence() {
		case absent:
			s.Missing = true
			continue
		case refused:
			s.Refused = fmt.Sprintf("%s%s", t.Error, c.grant(t.Error, s.Name))
			continue
		}
		s.Partitions = len(t.Partitions)
		for j, p := range t.Partitions {
			if j == 0 || len(p.Replicas) < s.Replicas {
				s.Replicas = len(p.Replicas)
			}
			if j == 0 || len(p.Isr) < s.InSync {
				s.InSync = len(p.Isr)
			}
		}
		names = append(names, s.Name)
		c.judgeLayout(s, spec, t.Topic, len(l.brokers))
	}
	settings, err := c.describeSettings(ctx, names)
	if err != nil {
		return nil, err
	}
	for i, spec := range event.Topics {
		if s := &states[i]; s.Known() {
			c.judgeSettings(s, spec, settings[s.Name])
		}
	}
	return states, nil
}

// judgeLayout judges what the cluster's layout tells of a topic.
func (c *Client) judgeLayout(s *TopicState, spec event.TopicSpec, t kafka.Topic, brokers int) {
	add := func(w WrongSetting) {
		w.Topic = s.Name
		s.Wrong = append(s.Wrong, w)
	}
	want := int(c.keyed.Load())
	if spec.Single {
		want = 1
	}
	if s.Partitions != want {
		w := WrongSetting{Setting: settingPartitions, Value: fmt.Sprint(s.Partitions), Want: fmt.Sprint(want), Why: "its records have one order"}
		if spec.Single {
			w.Fix = fmt.Sprintf("their number cannot be lowered: delete the topic with `kafka-topics.sh --bootstrap-server %s --delete --topic %s` and start again; its records are lost",
				c.cfg.Brokers[0], s.Name)
		} else {
			w.Want += " (kafka.partitions)"
			w.Why = "keys would move to other partitions"
			w.Fix = fmt.Sprintf("set kafka.partitions to %d, or to 0: their number cannot be changed", s.Partitions)
		}
		add(w)
	}
	if least := c.replicas(brokers); s.Replicas < least {
		add(WrongSetting{
			Setting: settingReplicas, Value: fmt.Sprint(s.Replicas), Want: fmt.Sprintf("%d (kafka.replication)", least), Mend: fmt.Sprint(least),
			Why: "what a broker's disk loses is gone",
		})
	}
	var leaderless, behind []string
	for _, p := range t.Partitions {
		switch {
		case p.Leader.Host == "":
			leaderless = append(leaderless, fmt.Sprint(p.ID))
		case len(p.Isr) < len(p.Replicas):
			behind = append(behind, fmt.Sprint(p.ID))
		}
	}
	if len(leaderless) > 0 {
		add(WrongSetting{
			Setting: "leader", Value: "missing for partition " + strings.Join(leaderless, ", "), Want: "one for each", Why: "they can be neither written nor read",
			Fix: "start the brokers that hold them",
		})
	}
	if len(behind) > 0 {
		add(WrongSetting{
			Setting: "replicas", Value: "behind for partition " + strings.Join(behind, ", "), Want: "in sync", Warning: true,
			Why: "there are fewer copies of new records", Fix: "look after the brokers that are down or slow",
		})
	}
}

// judgeSettings compares the settings in force with what they must be.
func (c *Client) judgeSettings(s *TopicState, spec event.TopicSpec, answer topicSettings) {
	if answer.err != nil {
		s.Unread = answer.err.Error()
		return
	}
	s.Settings = make(map[string]string)
	for _, want := range c.settings(spec, s.Replicas) {
		got, known := answer.values[want.name]
		if !known {
			continue
		}
		s.Settings[want.name] = got.ConfigValue
		if want.ok(got.ConfigValue) {
			continue
		}
		w := WrongSetting{
			Topic: s.Name, Setting: want.name, Value: got.ConfigValue, Want: want.want, Source: from(got.ConfigSource),
			Why: want.why, Warning: want.warn, Mend: want.value,
		}
		s.Wrong = append(s.Wrong, w)
	}
}

// topicSettings is a broker's answer about one topic.
type topicSettings struct {
	values map[string]kafka.DescribeConfigResponseConfigEntry
	err    error // errNotAllowed
}

// describeSettings asks once for the settings of all topics that are checked,
// and again while the broker that answers does not know all of them yet.
func (c *Client) describeSettings(ctx context.Context, topics []string) (map[string]topicSettings, error) {
	if len(topics) == 0 {
		return map[string]topicSettings{}, nil
	}
	var names []string
	for _, spec := range []event.TopicSpec{{}, {Compacted: true}, {Compacted: true, State: true}} {
		for _, s := range c.settings(spec, 1) {
			if !slices.Contains(names, s.name) {
				names = append(names, s.name)
			}
		}
	}
	req := &kafka.DescribeConfigsRequest{}
	for _, t := range topics {
		req.Resources = append(req.Resources, kafka.DescribeConfigRequestResource{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: t, ConfigNames: names,
		})
	}
	for attempt := 0; ; attempt++ {
		found, err := c.tryDescribe(ctx, req)
		if err == nil || attempt == 6 {
			return found, err
		}
		if code, ok := errorCode(err); ok && !code.Temporary() {
			return nil, err
		}
		if serr := sleep(ctx, backoff(attempt+3)); serr != nil {
			return nil, err
		}
	}
}

func (c *Client) tryDescribe(ctx context.Context, req *kafka.DescribeConfigsRequest) (map[string]topicSettings, error) {
	call, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.kafka.DescribeConfigs(call, req)
	if err != nil {
		return nil, fmt.Errorf("reading the settings: %w", err)
	}
	found := make(map[string]topicSettings)
	for _, r := range res.Resources {
		if code, _ := errorCode(r.Error); code == kafka.TopicAuthorizationFailed || code == kafka.ClusterAuthorizationFailed {
			found[r.ResourceName] = topicSettings{err: errNotAllowed}
			continue
		}
		if r.Error != nil {
			return nil, fmt.Errorf("reading the settings of %s: %w", r.ResourceName, r.Error)
		}
		values := make(map[string]kafka.DescribeConfigResponseConfigEntry, len(r.ConfigEntries))
		for _, e := range r.ConfigEntries {
			values[e.ConfigName] = e
		}
		found[r.ResourceName] = topicSettings{values: values}
	}
	for _, want := range req.Resources {
		if _, ok := found[want.ResourceName]; !ok {
			return nil, fmt.Errorf("reading the settings of %s: %w", want.ResourceName, kafka.UnknownTopicOrPartition)
		}
	}
	return found, nil
}

// verdict turns what is wrong with the topics into an error; what does no harm
// or could not be read is logged.
func (c *Client) verdict(states []TopicState) error {
	e := &TopicsError{broker: c.cfg.Brokers[0], session: c.cfg.Session, secured: c.commandConfig()}
	var unread []string
	for _, s := range states {
		if s.Unread != "" {
			unread = append(unread, s.Name)
		}
		for _, w := range s.Wrong {
			if w.Warning {
				c.env.Log.Warn("a setting of a topic is unusual", "topic", w.Topic, "setting", w.Setting, "value", w.Value, "want", w.Want)
				continue
			}
			e.Wrong = append(e.Wrong, w)
		}
	}
	if len(unread) > 0 {
		c.env.Log.Warn("the settings of topics are not checked: the cluster does not tell them to this user", "topics", unread, "user", c.cfg.User,
			"fix", fmt.Sprintf("kafka-acls.sh --bootstrap-server %s --add --allow-principal User:%s --operation DescribeConfigs --topic '%s'",
				c.cfg.Brokers[0], cmp.Or(c.cfg.User, "NAME"), cmp.Or(c.cfg.Session, "*")))
	}
	if len(e.Wrong) == 0 {
		return nil
	}
	return e
}

// settle reads the states until nothing is wrong, for as long as what was set a
// moment ago may not have reached the broker that answers.
func (c *Client) settle(ctx context.Context) ([]TopicState, error) {
	for attempt := 0; ; attempt++ {
		states, err := c.topicStates(ctx)
		if err != nil || attempt == 4 || !slices.ContainsFunc(states, TopicState.bad) {
			return states, err
		}
		if err := sleep(ctx, min(25*time.Millisecond<<attempt, 200*time.Millisecond)); err != nil {
			return nil, err
		}
		c.refresh(ctx)
	}
}

// bad reports whether something about the topic must be mended.
func (s TopicState) bad() bool {
	return !s.Known() || slices.ContainsFunc(s.Wrong, func(w WrongSetting) bool { return !w.Warning })
}

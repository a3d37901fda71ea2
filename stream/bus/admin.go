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
	"github.com/segmentio/kafka-go/protocol/createtopics"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// EnsureTopics creates what is missing of event.Topics, checks the rest and
// gives each topic its incarnation. It is idempotent and safe to run at once in
// several processes. It must be called before producers and consumers are made.
//
// A *TopicsError says what is not as it must be, in all topics; it is fatal. The
// settings of topics that this call created are mended at once where the
// brokers' defaults are wrong.
func (c *Client) EnsureTopics(ctx context.Context) error {
	created, err := c.createTopics(ctx)
	if err != nil {
		return fmt.Errorf("creating topics: %w", err)
	}
	found, err := c.checkTopics(ctx)
	if err != nil {
		return fmt.Errorf("checking topics: %w", err)
	}
	states, err := c.settle(ctx)
	if err == nil && len(created) > 0 && slices.ContainsFunc(states, TopicState.bad) {
		states, err = c.mendNew(ctx, states, created)
	}
	if err != nil {
		return fmt.Errorf("checking topics: %w", err)
	}
	if err := c.verdict(states); err != nil {
		return component.Fatal(fmt.Errorf("checking topics: %w", err))
	}
	c.setPartitions(found)
	view, err := c.ensureIncarnations(ctx)
	if err != nil {
		return fmt.Errorf("reading the incarnations of the topics: %w", err)
	}
	c.setView(view)
	return nil
}

func (c *Client) setPartitions(found map[string]int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partitions = found
}

// topicConfig is what a topic is created with.
func (c *Client) topicConfig(spec event.TopicSpec, replicas int) kafka.TopicConfig {
	partitions := int(c.keyed.Load())
	if spec.Single {
		partitions = 1
	}
	var entries []kafka.ConfigEntry
	for _, s := range c.settings(spec, replicas) {
		if s.given {
			entries = append(entries, kafka.ConfigEntry{ConfigName: s.name, ConfigValue: s.value})
		}
	}
	return kafka.TopicConfig{Topic: c.prefix() + spec.Name, NumPartitions: partitions, ReplicationFactor: replicas, ConfigEntries: entries}
}

// createTopics creates what is missing. A topic that is missing although meta
// knows its life was deleted: that is refused. The brokers' names of what was
// created are returned.
func (c *Client) createTopics(ctx context.Context) (created []string, err error) {
	exists, replicas, err := c.existing(ctx)
	if err != nil {
		return nil, err
	}
	missing := c.missing(exists)
	if len(missing) > 0 {
		// What is known may be from before a broker came up.
		c.refresh(ctx)
		if exists, replicas, err = c.existing(ctx); err != nil {
			return nil, err
		}
		missing = c.missing(exists)
	}
	if len(missing) > 0 && exists[event.TopicMeta] {
		if err := c.refuseDeleted(ctx, missing); err != nil {
			return nil, err
		}
	}
	return c.create(ctx, missing, replicas)
}

// existing returns which of our topics there are, and how many replicas new ones
// get. A topic that the brokers do not tell of is an error: it may be there.
func (c *Client) existing(ctx context.Context) (exists map[string]bool, replicas int, err error) {
	names := c.named()
	l, err := c.settled(ctx, names)
	if err == nil {
		err = c.refusal(l, names)
	}
	if err != nil {
		return nil, 0, err
	}
	c.countKeyed(l)
	exists = make(map[string]bool, len(event.Topics))
	for _, spec := range event.Topics {
		_, exists[spec.Name] = l.found(c.prefix() + spec.Name)
	}
	return exists, c.replicas(len(l.brokers)), nil
}

// countKeyed notes how many partitions keyed topics have: as configured, else as many as
// the first of them that exists, else as many as new ones get.
func (c *Client) countKeyed(l *layout) {
	n := c.cfg.Partitions
	for _, spec := range event.Topics {
		if n > 0 {
			break
		}
		if t, ok := l.found(c.prefix() + spec.Name); ok && !spec.Single {
			n = len(t.Partitions)
		}
	}
	c.keyed.Store(int32(cmp.Or(n, NewPartitions)))
}

func (c *Client) missing(exists map[string]bool) (specs []event.TopicSpec) {
	for _, spec := range event.Topics {
		if !exists[spec.Name] {
			specs = append(specs, spec)
		}
	}
	return specs
}

// refuseDeleted returns an error when one of the missing topics has a life. What
// another process has created by now is not missing.
func (c *Client) refuseDeleted(ctx context.Context, missing []event.TopicSpec) error {
	c.setPartitions(map[string]int32{event.TopicMeta: 1})
	view, err := c.readMeta(ctx)
	if err != nil {
		return err
	}
	deleted := func(missing []event.TopicSpec) (all LogErrors) {
		for _, spec := range missing {
			if f := view.fault(spec.Name, absent, event.ID{}); f != nil {
				all = append(all, f)
			}
		}
		return all
	}
	for attempt := 0; len(deleted(missing)) > 0; attempt++ {
		if attempt == 3 {
			return component.Fatal(deleted(missing))
		}
		c.refresh(ctx)
		if err := sleep(ctx, backoff(attempt+4)); err != nil {
			return err
		}
		exists, _, err := c.existing(ctx)
		if err != nil {
			return err
		}
		missing = slices.DeleteFunc(slices.Clone(missing), func(s event.TopicSpec) bool { return exists[s.Name] })
	}
	return nil
}

// create creates topics and returns the brokers' names of them; those that are
// there by now are left alone.
func (c *Client) create(ctx context.Context, specs []event.TopicSpec, replicas int) (created []string, err error) {
	missing := make([]kafka.TopicConfig, len(specs))
	for i, spec := range specs {
		missing[i] = c.topicConfig(spec, replicas)
	}
	for attempt := 0; len(missing) > 0; attempt++ {
		var made []string
		if made, missing, err = c.tryCreate(ctx, missing); err != nil && (len(missing) == 0 || ctx.Err() != nil || attempt == 30) {
			return nil, err
		}
		created = append(created, made...)
		if attempt == 3 && len(missing) > 0 {
			c.env.Log.Warn("creating topics is being retried", "error", err)
		}
		if len(missing) > 0 {
			if sleep(ctx, backoff(attempt+3)) != nil {
				return nil, err
			}
		}
	}
	return created, nil
}

// replicas is how many replicas a new topic gets. A broker that is down just now
// is not among those that are up, and for want of it a topic would keep too few
// for good: so those that are configured count. Apache Kafka gives its share also
// to one that is down; one that never was up is waited for.
func (c *Client) replicas(up int) int {
	if c.cfg.Replication > 0 {
		return c.cfg.Replication
	}
	return min(3, max(up, len(c.cfg.Brokers)))
}

// tryCreate asks for the topics and returns those that it made and those to ask
// for again; with the latter, an error is temporary.
func (c *Client) tryCreate(ctx context.Context, missing []kafka.TopicConfig) (made []string, left []kafka.TopicConfig, err error) {
	call, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	res, err := c.kafka.CreateTopics(call, &kafka.CreateTopicsRequest{Topics: missing})
	if err != nil {
		return nil, missing, err
	}
	for _, t := range missing {
		terr := res.Errors[t.Topic]
		code, _ := errorCode(terr)
		switch {
		case terr == nil:
			made = append(made, t.Topic)
		case code == kafka.TopicAlreadyExists:
		case code.Temporary():
			left, err = append(left, t), terr
		case code == kafka.InvalidReplicationFactor:
			left, err = append(left, t), fmt.Errorf("topic %s is to have %d replicas and fewer brokers are up: start the others, or set kafka.replication to how many there are: %w",
				t.Topic, t.ReplicationFactor, terr)
		default:
			return made, nil, fmt.Errorf("topic %s (%d partitions, %d replicas): %w%s", t.Topic, t.NumPartitions, t.ReplicationFactor, terr, c.createHint(code, t))
		}
	}
	return made, left, err
}

// createHint says how somebody else creates a topic that this user may not.
func (c *Client) createHint(code kafka.Error, t kafka.TopicConfig) string {
	if code != kafka.TopicAuthorizationFailed && code != kafka.ClusterAuthorizationFailed && code != kafka.PolicyViolation {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, ": let somebody who may create it: `kafka-topics.sh --bootstrap-server %s --create --topic %s --partitions %d --replication-factor %d",
		c.cfg.Brokers[0], t.Topic, t.NumPartitions, t.ReplicationFactor)
	for _, e := range t.ConfigEntries {
		fmt.Fprintf(&b, " --config %s=%s", e.ConfigName, e.ConfigValue)
	}
	b.WriteString("`")
	if code != kafka.PolicyViolation {
		user := cmp.Or(c.cfg.User, "ANONYMOUS")
		fmt.Fprintf(&b, ", or allow user %q to: `kafka-acls.sh --bootstrap-server %s --add --allow-principal User:%s --operation All --topic %s`",
			user, c.cfg.Brokers[0], user, t.Topic)
	}
	return b.String()
}

// checkTopics waits until every partition of every topic has a leader and
// returns the partition counts.
func (c *Client) checkTopics(ctx context.Context) (map[string]int32, error) {
	names := make([]string, len(event.Topics))
	for i, spec := range event.Topics {
		names[i] = spec.Name
	}
	return c.checkThese(ctx, names)
}

// checkThese is checkTopics for some of them. What it returns is known to kafka-go
// too, which sends requests by its own picture of the cluster.
func (c *Client) checkThese(ctx context.Context, topics []string) (map[string]int32, error) {
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = c.prefix() + t
	}
	for attempt := 0; ; attempt++ {
		l, err := c.settled(ctx, names)
		if err == nil {
			err = c.refusal(l, names)
		}
		if err != nil {
			return nil, err
		}
		picture, err := c.picture(ctx)
		if err != nil {
			return nil, err
		}
		found := make(map[string]int32, len(event.Topics))
		var wrong error
		for i, name := range names {
			t, ok := l.found(name)
			_, pictured := topicIn(picture, name)
			switch {
			case !ok:
				wrong = fmt.Errorf("topic %s does not exist any more: somebody deletes it", name)
			case slices.ContainsFunc(t.Partitions, func(p kafka.Partition) bool { return p.Leader.Host == "" }):
				wrong = fmt.Errorf("topic %s has no leader: start the brokers that hold it; `autohedge topics` shows which partitions", name)
			case !pictured:
				wrong = fmt.Errorf("topic %s is not known to all brokers yet: look at them", name)
			default:
				found[topics[i]] = int32(len(t.Partitions))
			}
		}
		if wrong == nil {
			return found, nil
		}
		if attempt == 100 {
			return nil, wrong
		}
		c.refresh(ctx)
		if err := sleep(ctx, min(20*time.Millisecond<<min(attempt, 5), 300*time.Millisecond)); err != nil {
			return nil, err
		}
	}
}

// picture is what kafka-go last learned of the cluster, up to a few seconds ago.
// What is not in it may exist, see layout.
func (c *Client) picture(ctx context.Context) (*kafka.MetadataResponse, error) {
	call, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.kafka.Metadata(call, &kafka.MetadataRequest{})
}

// topicIn returns a topic of the picture that has a leader for each partition.
func topicIn(picture *kafka.MetadataResponse, name string) (kafka.Topic, bool) {
	i := slices.IndexFunc(picture.Topics, func(t kafka.Topic) bool {
		return t.Name == name && t.Error == nil && !slices.ContainsFunc(t.Partitions, func(p kafka.Partition) bool { return p.Leader.Host == "" })
	})
	if i < 0 {
		return kafka.Topic{}, false
	}
	return picture.Topics[i], true
}

// refresh makes the transport ask for the cluster's layout anew. kafka-go does
// so by itself every second or two, and after it created topics: an empty
// creation is the way to ask for it now.
func (c *Client) refresh(ctx context.Context) {
	call, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, _ = c.transport.RoundTrip(call, c.kafka.Addr, &createtopics.Request{TimeoutMs: 1000})
}

// Bounds are the first offset and the end offset (one past the last) of a partition.
type Bounds struct{ Start, End int64 }

// Offsets returns the bounds of every partition of the topic, by partition.
func (c *Client) Offsets(ctx context.Context, topic string) ([]Bounds, error) {
	n := c.Partitions(topic)
	if n == 0 {
		return nil, fmt.Errorf("reading the offsets of %s: %w", topic, c.unknown(topic))
	}
	want := make([]int32, n)
	for i := range want {
		want[i] = int32(i)
	}
	return c.bounds(ctx, topic, want)
}

// bounds returns the bounds of some partitions, in their order; it waits out
// temporary errors as long as ctx allows, at most 30 s.
func (c *Client) bounds(ctx context.Context, topic string, partitions []int32) ([]Bounds, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*requestTimeout)
	defer cancel()
	return c.awaitBounds(ctx, topic, partitions)
}

// awaitBounds is bounds for those who wait for a broker that is away: as long as
// ctx allows.
func (c *Client) awaitBounds(ctx context.Context, topic string, partitions []int32) ([]Bounds, error) {
	name := c.prefix() + topic
	var requests []kafka.OffsetRequest
	for _, p := range partitions {
		requests = append(requests, kafka.FirstOffsetOf(int(p)), kafka.LastOffsetOf(int(p)))
	}
	for attempt := 0; ; attempt++ {
		bounds, err := c.listOffsets(ctx, name, partitions, requests)
		if err == nil {
			return bounds, nil
		}
		if code, ok := errorCode(err); ok && permanent(code) {
			return nil, component.Fatal(fmt.Errorf("reading the offsets of %s: %w%s", topic, err, c.grant(code, name)))
		}
		if attempt == 20 {
			c.env.Log.Warn("reading the offsets is being retried", "topic", topic, "error", err)
		}
		if serr := sleep(ctx, backoff(attempt)); serr != nil {
			return nil, fmt.Errorf("reading the offsets of %s: %w", topic, err)
		}
	}
}

func (c *Client) listOffsets(ctx context.Context, name string, partitions []int32, requests []kafka.OffsetRequest) ([]Bounds, error) {
	call, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.kafka.ListOffsets(call, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{name: requests}})
	if err != nil {
		return nil, err
	}
	bounds := make([]Bounds, len(partitions))
	for i := range bounds {
		bounds[i] = Bounds{-1, -1}
	}
	for _, p := range res.Topics[name] {
		if p.Error != nil {
			return nil, p.Error
		}
		if i := slices.Index(partitions, int32(p.Partition)); i >= 0 {
			bounds[i] = Bounds{p.FirstOffset, p.LastOffset}
		}
	}
	for i, b := range bounds {
		if b.Start < 0 || b.End < 0 {
			return nil, fmt.Errorf("no answer for partition %d", partitions[i])
		}
	}
	return bounds, nil
}

// Sessions lists the sessions that have topics, in order.
func (c *Client) Sessions(ctx context.Context) ([]string, error) {
	names, err := c.allTopics(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing sessions: %w", err)
	}
	var sessions []string
	for _, name := range names {
		if s := sessionOf(name); s != "" && !slices.Contains(sessions, s) {
			sessions = append(sessions, s)
		}
	}
	slices.Sort(sessions)
	return sessions, nil
}

// sessionOf returns the session a broker's topic belongs to, "" for the live
// one and for what is not ours.
func sessionOf(name string) string {
	if _, live := event.Topic(name); live {
		return ""
	}
	session, topic, ok := strings.Cut(name, ".")
	if _, known := event.Topic(topic); !ok || !known || CheckSession(session) != nil {
		return ""
	}
	return session
}

// allTopics lists the topics that this user may see.
func (c *Client) allTopics(ctx context.Context) ([]string, error) {
	l, err := c.layout(ctx, nil)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, t := range l.topics {
		if t.presence() == present {
			names = append(names, t.Name)
		}
	}
	return names, nil
}

// DropSession deletes all topics and groups of the session (never the live ones).
func (c *Client) DropSession(ctx context.Context, session string) error {
	if session == "" {
		return errors.New("dropping a session: no name is given, and the live topics are never dropped")
	}
	if err := CheckSession(session); err != nil {
		return fmt.Errorf("dropping a session: %w", err)
	}
	names, err := c.allTopics(ctx)
	if err != nil {
		return fmt.Errorf("dropping session %s: %w", session, err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return sessionOf(n) != session })
	if len(names) > 0 {
		call, cancel := context.WithTimeout(ctx, 3*requestTimeout)
		defer cancel()
		res, err := c.kafka.DeleteTopics(call, &kafka.DeleteTopicsRequest{Topics: names})
		if err != nil {
			return fmt.Errorf("dropping session %s: %w", session, err)
		}
		for topic, terr := range res.Errors {
			if terr != nil && !errors.Is(terr, kafka.UnknownTopicOrPartition) {
				return fmt.Errorf("dropping session %s: topic %s: %w", session, topic, terr)
			}
		}
	}
	if err := c.dropGroups(ctx, session+".autohedge."); err != nil {
		return fmt.Errorf("dropping session %s: %w", session, err)
	}
	c.refresh(ctx)
	return nil
}

package bus

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
)

// repairPatience is how long RepairTopics waits until what it set is in force;
// new replicas of a large topic take longer and go on being copied.
const repairPatience = 30 * time.Second

// TopicChange is one setting that RepairTopics changed, or would change.
type TopicChange struct {
	Topic   string `json:"topic"` // as the brokers name it
	Setting string `json:"setting"`
	Before  string `json:"before"`
	After   string `json:"after"`
}

// String is the change in one line.
func (c TopicChange) String() string {
	return fmt.Sprintf("%s: %s: %s -> %s", c.Topic, c.Setting, humanValue(c.Setting, c.Before), humanValue(c.Setting, c.After))
}

// RepairTopics sets what is wrong with the topics' settings and replicas to what
// it must be, and returns what it changed; without apply it changes nothing and
// returns what it would. Left is what it cannot mend, with what to do. It returns
// once the changes are in force; it is idempotent.
func (c *Client) RepairTopics(ctx context.Context, apply bool) (changes []TopicChange, left []WrongSetting, err error) {
	c.refresh(ctx)
	// More replicas make a stricter min.insync.replicas due, hence again.
	for range 3 {
		states, err := c.settle(ctx)
		if err != nil {
			return changes, nil, fmt.Errorf("repairing topics: %w", err)
		}
		if err := c.allTold(ctx, states); err != nil {
			return changes, nil, fmt.Errorf("repairing topics: %w", err)
		}
		due, rest := mendable(states)
		left = rest
		if len(due) == 0 {
			return changes, left, nil
		}
		changes = append(changes, asChanges(due)...)
		if !apply {
			return changes, left, nil
		}
		if err := c.mend(ctx, due); err != nil {
			return changes, left, fmt.Errorf("repairing topics: %w", err)
		}
	}
	return changes, left, nil
}

// allTold returns the refusal of the topics that the brokers refuse to tell of.
func (c *Client) allTold(ctx context.Context, states []TopicState) error {
	if !slices.ContainsFunc(states, func(s TopicState) bool { return s.Refused != "" }) {
		return nil
	}
	l, err := c.layout(ctx, c.named())
	if err != nil {
		return err
	}
	return c.refusal(l, c.named())
}

func asChanges(due []WrongSetting) (changes []TopicChange) {
	for _, w := range due {
		changes = append(changes, TopicChange{Topic: w.Topic, Setting: w.Setting, Before: w.Value, After: w.Mend})
	}
	return changes
}

// mendable divides what is wrong into what can be mended and what cannot.
func mendable(states []TopicState) (due, left []WrongSetting) {
	for _, s := range states {
		for _, w := range s.Wrong {
			if w.Mend != "" {
				due = append(due, w)
			} else {
				left = append(left, w)
			}
		}
	}
	return due, left
}

// mendNew mends the topics that were created just now, and returns the states.
func (c *Client) mendNew(ctx context.Context, states []TopicState, created []string) ([]TopicState, error) {
	due, _ := mendable(states)
	due = slices.DeleteFunc(due, func(w WrongSetting) bool { return !slices.Contains(created, w.Topic) })
	if len(due) == 0 {
		return states, nil
	}
	if err := c.mend(ctx, due); err != nil {
		return nil, err
	}
	return c.settle(ctx)
}

// mend sets the values and waits until they are in force.
func (c *Client) mend(ctx context.Context, due []WrongSetting) error {
	var replicas, values []WrongSetting
	for _, w := range due {
		if w.Setting == settingReplicas {
			replicas = append(replicas, w)
		} else {
			values = append(values, w)
		}
	}
	if err := c.setValues(ctx, values); err != nil {
		return err
	}
	if err := c.addReplicas(ctx, replicas); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, repairPatience)
	defer cancel()
	for attempt := 0; ; attempt++ {
		states, err := c.topicStates(ctx)
		if err == nil {
			open, _ := mendable(states)
			open = slices.DeleteFunc(open, func(w WrongSetting) bool { return !sameSetting(due, w) })
			if len(open) == 0 {
				return nil
			}
			err = fmt.Errorf("%s was set and is not in force after %s: look again with `autohedge topics`", open[0].Setting+" of "+open[0].Topic, repairPatience)
		}
		if serr := sleep(ctx, min(50*time.Millisecond<<min(attempt, 4), 500*time.Millisecond)); serr != nil {
			return err
		}
		c.refresh(ctx)
	}
}

func sameSetting(list []WrongSetting, w WrongSetting) bool {
	return slices.ContainsFunc(list, func(l WrongSetting) bool { return l.Topic == w.Topic && l.Setting == w.Setting })
}

// setValues alters the topics' settings in one request.
func (c *Client) setValues(ctx context.Context, values []WrongSetting) error {
	if len(values) == 0 {
		return nil
	}
	req := &kafka.IncrementalAlterConfigsRequest{}
	for _, w := range values {
		i := slices.IndexFunc(req.Resources, func(r kafka.IncrementalAlterConfigsRequestResource) bool { return r.ResourceName == w.Topic })
		if i < 0 {
			i = len(req.Resources)
			req.Resources = append(req.Resources, kafka.IncrementalAlterConfigsRequestResource{ResourceType: kafka.ResourceTypeTopic, ResourceName: w.Topic})
		}
		req.Resources[i].Configs = append(req.Resources[i].Configs, kafka.IncrementalAlterConfigsRequestConfig{
			Name: w.Setting, Value: w.Mend, ConfigOperation: kafka.ConfigOperationSet,
		})
	}
	call, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	res, err := c.kafka.IncrementalAlterConfigs(call, req)
	if err != nil {
		return fmt.Errorf("setting the topics' settings: %w", err)
	}
	for _, r := range res.Resources {
		code, _ := errorCode(r.Error)
		if code == kafka.TopicAuthorizationFailed || code == kafka.ClusterAuthorizationFailed {
			return fmt.Errorf("setting the settings of %s: %w: user %q needs the right AlterConfigs on it", r.ResourceName, r.Error, c.cfg.User)
		}
		if r.Error != nil {
			return fmt.Errorf("setting the settings of %s: %w", r.ResourceName, r.Error)
		}
	}
	return nil
}

// addReplicas gives each partition that has too few replicas more of them, on
// the brokers that come next by number; those it has stay.
func (c *Client) addReplicas(ctx context.Context, due []WrongSetting) error {
	if len(due) == 0 {
		return nil
	}
	names := make([]string, len(due))
	for i, w := range due {
		names[i] = w.Topic
	}
	l, err := c.settled(ctx, names)
	if err == nil {
		err = c.refusal(l, names)
	}
	if err != nil {
		return fmt.Errorf("adding replicas: %w", err)
	}
	var brokers []int
	for _, b := range l.brokers {
		brokers = append(brokers, b.ID)
	}
	slices.Sort(brokers)
	req := &kafka.AlterPartitionReassignmentsRequest{Timeout: 2 * requestTimeout}
	for _, w := range due {
		want, err := strconv.Atoi(w.Mend)
		if err != nil || want > len(brokers) {
			return fmt.Errorf("giving %s %s replicas: there are %d brokers: start more, or lower kafka.replication", w.Topic, w.Mend, len(brokers))
		}
		t, ok := l.found(w.Topic)
		if !ok {
			return fmt.Errorf("giving %s %d replicas: somebody deleted it meanwhile", w.Topic, want)
		}
		for _, p := range t.Partitions {
			var ids []int
			for _, r := range p.Replicas {
				ids = append(ids, r.ID)
			}
			next := 0
			if len(ids) > 0 {
				next = slices.Index(brokers, ids[len(ids)-1]) + 1
			}
			for i := 0; len(ids) < want && i < len(brokers); i++ {
				if b := brokers[(next+i)%len(brokers)]; !slices.Contains(ids, b) {
					ids = append(ids, b)
				}
			}
			if len(ids) > len(p.Replicas) {
				req.Assignments = append(req.Assignments, kafka.AlterPartitionReassignmentsRequestAssignment{Topic: w.Topic, PartitionID: p.ID, BrokerIDs: ids})
			}
		}
	}
	call, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	res, err := c.kafka.AlterPartitionReassignments(call, req)
	if err == nil {
		err = res.Error
	}
	if err != nil {
		return fmt.Errorf("adding replicas: %w", err)
	}
	for _, r := range res.PartitionResults {
		if r.Error != nil {
			return fmt.Errorf("adding replicas to %s/%d: %w", r.Topic, r.PartitionID, r.Error)
		}
	}
	return nil
}

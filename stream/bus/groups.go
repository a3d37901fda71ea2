package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/listgroups"
)

// groupsPatience is how many times in all a group's coordinator is asked that
// answers with a temporary error.
const groupsPatience = 20

// kafka-go asks every broker for its groups, and passes over the error of one that
// is still loading them or refuses: a list that lacks groups, which would be taken
// for one without members or offsets. Each broker is asked by a request of its own
// here, and its error counts.
func init() {
	protocol.Register(&listGroupsRequest{}, &listgroups.Response{})
}

type listGroupsRequest struct {
	_ struct{} `kafka:"min=v0,max=v2"`

	broker int32
}

// ApiKey tells the protocol table which request this is.
//
//nolint:revive // kafka-go names it
func (*listGroupsRequest) ApiKey() protocol.ApiKey { return protocol.ListGroups }

// Broker says who is asked: each broker knows the groups that it coordinates.
func (r *listGroupsRequest) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	b, ok := cluster.Brokers[r.broker]
	if !ok {
		return protocol.Broker{}, kafka.BrokerNotAvailable
	}
	return b, nil
}

var _ protocol.BrokerMessage = (*listGroupsRequest)(nil)

// patiently does what asks a group's coordinator again while the answer may be
// another one in a moment: it moves, or loads.
func patiently(ctx context.Context, do func() error) error {
	for attempt := 1; ; attempt++ {
		err := do()
		code, answered := errorCode(err)
		if err == nil || attempt == groupsPatience || errors.Is(err, ErrGroupRunning) || (answered && permanent(code)) {
			return err
		}
		if serr := sleep(ctx, backoff(attempt)); serr != nil {
			return err
		}
	}
}

// groups returns the names of all groups that begin with prefix, in order. It is
// an error when one broker does not tell its groups, after temporary errors were
// waited out.
func (c *Client) groups(ctx context.Context, prefix string) (names []string, err error) {
	err = patiently(ctx, func() error {
		names, err = c.tryGroups(ctx, prefix)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing groups: %w", err)
	}
	return names, nil
}

func (c *Client) tryGroups(ctx context.Context, prefix string) ([]string, error) {
	call, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	l, err := c.layout(call, []string{}) // the brokers alone
	if err != nil {
		return nil, err
	}
	var names []string
	for _, b := range l.brokers {
		m, err := c.transport.RoundTrip(call, c.kafka.Addr, &listGroupsRequest{broker: int32(b.ID)})
		if err != nil {
			return nil, fmt.Errorf("of broker %d: %w", b.ID, err)
		}
		res, ok := m.(*listgroups.Response)
		if !ok {
			return nil, fmt.Errorf("of broker %d: answer of type %T", b.ID, m)
		}
		if res.ErrorCode != 0 {
			return nil, fmt.Errorf("of broker %d: %w", b.ID, kafka.Error(res.ErrorCode))
		}
		for _, g := range res.Groups {
			if strings.HasPrefix(g.GroupID, prefix) && !slices.Contains(names, g.GroupID) {
				names = append(names, g.GroupID)
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// dropGroups deletes the groups whose names begin with prefix. Each is deleted by
// a request of its own: kafka-go sends all of one to the first one's coordinator,
// and those of other brokers would be refused.
func (c *Client) dropGroups(ctx context.Context, prefix string) error {
	names, err := c.groups(ctx, prefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := patiently(ctx, func() error { return c.dropGroup(ctx, name) }); err != nil {
			return fmt.Errorf("deleting group %s: %w", name, err)
		}
	}
	return nil
}

func (c *Client) dropGroup(ctx context.Context, name string) error {
	call, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.kafka.DeleteGroups(call, &kafka.DeleteGroupsRequest{GroupIDs: []string{name}})
	if err != nil {
		return err
	}
	if err := res.Errors[name]; !errors.Is(err, kafka.GroupIdNotFound) {
		return err
	}
	return nil
}

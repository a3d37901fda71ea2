package bus

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

func own(t testing.TB, c *Client, key string, at ...TopicPartition) *Owner {
	t.Helper()
	o, err := c.Own(t.Context(), OwnConfig{Name: "test", Key: key, Partitions: at, Blocking: true}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.abandon)
	return o
}

// add appends one order event and waits for its outcome.
func (o *Owner) add(t testing.TB, at TopicPartition, value string) error {
	t.Helper()
	_, err := o.publish(t.Context(), at, []byte("k"), []byte(value))
	return err
}

// From the moment that Own returns, the former owner can append nowhere, and its
// process is told to stop.
func TestOwnShutsOutTheFormerOwner(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	at := []TopicPartition{{event.TopicOrders, 0}, {event.TopicOrders, 2}, {event.TopicFills, 0}}
	former := own(t, c, "role.1", at...)
	for i, p := range at {
		if err := former.add(t, p, fmt.Sprint("former ", i)); err != nil {
			t.Fatal(err)
		}
	}
	next := own(t, c, "role.1", at...)
	if former.Number() != 1 || next.Number() != 2 {
		t.Fatalf("numbers are %d and %d, want 1 and 2", former.Number(), next.Number())
	}
	err := former.add(t, at[1], "too late")
	if !errors.Is(err, ErrFenced) || !component.IsFatal(err) || !strings.Contains(err.Error(), `fenced: another owner of "role.1" took over`) {
		t.Fatalf("the former owner's append gave %v, want a fatal ErrFenced", err)
	}
	own(t, c, "role.2", at[0]) // another key: nobody is shut out
	if err := next.add(t, at[0], "next"); err != nil {
		t.Fatal(err)
	}
	for i, p := range at {
		if err := next.add(t, p, fmt.Sprint("next ", i)); err != nil {
			t.Fatal(err)
		}
		got := readAll(t, c, p.Topic, p.Partition)
		if p == at[0] { // two more, of above
			got = slices.Delete(got, 3, 5)
		}
		if len(got) != 4 || got[1] != fmt.Sprint("former ", i) || got[3] != fmt.Sprint("next ", i) ||
			event.TypeOf([]byte(got[0])) != event.TypeEpoch || event.TypeOf([]byte(got[2])) != event.TypeEpoch {
			t.Fatalf("%s holds %q", p, got)
		}
	}
}

package bus

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

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

func hostname(t testing.TB) string {
	t.Helper()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return name
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
	by := fmt.Sprintf(`fenced: another owner of "role.1" took over: test@%s:%d, with number 2 at offset`, hostname(t), os.Getpid())
	if !errors.Is(err, ErrFenced) || !component.IsFatal(err) || !strings.Contains(err.Error(), by) {
		t.Fatalf("the former owner's append gave %v, want a fatal ErrFenced that names the next one", err)
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

// A coordinator that has forgotten the key gives another producer id, which no
// partition connects with the former owner's: its id is shut out by itself.
func TestOwnShutsOutAnotherProducerIDOnKfake(t *testing.T) {
	inBubble(t, func(t *testing.T, v *virtual) {
		c := v.connect(t)
		former := own(t, c, "role.1", ownedPair...)
		if !canAppend(t, former) {
			t.Fatal("the owner cannot append")
		}
		forget := v.answers.set(func(res kmsg.Response) bool {
			i, ok := res.(*kmsg.InitProducerIDResponse)
			if ok {
				i.ProducerID, i.ProducerEpoch = former.id+1_000, 0
			}
			return ok
		})
		next := own(t, c, "role.1", ownedPair...)
		forget()
		if next.id == former.id || next.number != former.number+1 {
			t.Fatalf("producer %d number %d follows producer %d number %d", next.id, next.number, former.id, former.number)
		}
		if canAppend(t, former) {
			t.Error("the former owner can append")
		}
		if !canAppend(t, next) {
			t.Error("the owner cannot append")
		}
	})
}

package bus

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// starters makes five clients that each wrote a life of every topic, as five processes
// do that first start at the same time.
func starters(t *testing.T, b *broker) *Client {
	t.Helper()
	c := connect(t, testConfig(b.Addr()))
	for range 4 {
		var lives []*event.Incarnation
		for _, spec := range event.Topics {
			same := *c.view().lives[spec.Name]
			same.ID = newID()
			lives = append(lives, &same)
		}
		if err := c.writeIncarnations(t.Context(), "", lives); err != nil {
			t.Fatal(err)
		}
	}
	again := connect(t, testConfig(b.Addr()))
	if diff := cmp.Diff(c.ids(), again.ids()); diff != "" {
		t.Fatalf("the first lives do not count: %s", diff)
	}
	return again
}

// One adopt, or discard, of a topic that was deleted is enough after five processes
// first started together, and its incarnation is the one that counts.
func TestOneAdoptIsEnoughAfterFiveStarters(t *testing.T) {
	for _, discard := range []bool{false, true} {
		for _, deleted := range []bool{false, true} {
			name := map[bool]string{false: "adopt", true: "discard"}[discard] + map[bool]string{false: " a truncated log", true: " a deleted topic"}[deleted]
			t.Run(name, func(t *testing.T) {
				b := startBroker(t)
				c := starters(t, b)
				former := slices.Clone(c.view().begun["signals"])
				if len(former) != 5 {
					t.Fatalf("signals has %d lives, want 5", len(former))
				}
				if deleted {
					b.admin.DeleteTopics(t, event.TopicSignals)
					_, err := reopen(t, b.Addr())
					fault(t, err, Missing, former[0].String())
				}
				tool, err := Connect(t.Context(), testConfig(b.Addr()), component.Discard())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = tool.Close() }()
				begin := tool.AdoptTopics
				if discard {
					begin = tool.DiscardTopics
				}
				var newest event.ID
				for range 2 { // the newest one counts
					lives, err := begin(t.Context(), []string{event.TopicSignals}, "me", "why not")
					if err != nil {
						t.Fatal(err)
					}
					newest = lives[0].Incarnation
					late, err := reopen(t, b.Addr())
					if err != nil {
						t.Fatalf("after one command: %v", err)
					}
					if got := late.Incarnation("signals"); got != newest {
						t.Errorf("incarnation %s, want %s, which the command printed", got, newest)
					}
					if _, known := late.Begins("signals", 0); !known {
						t.Error("the life does not know where it begins")
					}
					if alive := slices.IndexFunc(former, func(id event.ID) bool { return !late.Ended(id) }); alive >= 0 {
						t.Errorf("life %d of %d has not ended", alive, len(former))
					}
					former = append(former, newest)
				}
			})
		}
	}
}

// Every history of meta gives one life of a topic, whatever wrote it.
func TestLivesInOrder(t *testing.T) {
	life := func(n byte, begins ...event.PartitionOffset) *event.Incarnation {
		return &event.Incarnation{Topic: "md", ID: event.ID{n}, Partitions: 4, Begins: begins}
	}
	adopted := func(n byte) *event.Incarnation { return life(n, event.PartitionOffset{Offset: int64(n)}) }
	known := func(m *event.Incarnation, id byte) *event.Incarnation {
		same := *m
		same.TopicID = event.ID{id}
		return &same
	}
	for _, tt := range []struct {
		name    string
		records []*event.Incarnation
		ended   []byte // by a record of its own
		want    byte
		topicID byte
		over    []byte
	}{
		{"none", nil, nil, 0, 0, nil},
		{"the first of two starters", []*event.Incarnation{life(1), life(2)}, nil, 1, 0, nil},
		{"adopted after two starters", []*event.Incarnation{life(1), life(2), adopted(3)}, nil, 3, 0, []byte{1, 2}},
		{"adopted twice", []*event.Incarnation{life(1), adopted(2), adopted(3)}, nil, 3, 0, []byte{1, 2}},
		{"adopted five times by a build that ended one life at a time", []*event.Incarnation{life(1), life(2), adopted(3), adopted(4)}, []byte{1, 2}, 4, 0, []byte{1, 2, 3}},
		{"a starter that was late", []*event.Incarnation{life(1), adopted(2), life(3)}, nil, 2, 0, []byte{1}},
		{"the only life ended", []*event.Incarnation{life(1)}, []byte{1}, 0, 0, []byte{1}},
		{"a starter after the end", []*event.Incarnation{life(1), life(2)}, []byte{1}, 2, 0, []byte{1}},
		{"the brokers' id is learned later", []*event.Incarnation{life(1), known(life(1), 9)}, nil, 1, 9, nil},
		{"the brokers' id of a former life is learned late", []*event.Incarnation{adopted(1), known(adopted(2), 8), known(adopted(1), 9)}, nil, 2, 8, []byte{1}},
		{"a compacted record of a former life", []*event.Incarnation{adopted(2), known(adopted(1), 9)}, []byte{1}, 2, 0, []byte{1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := newMetaView()
			for _, n := range tt.ended {
				v.ended[event.ID{n}] = true
			}
			v.addLives(tt.records)
			var have, topicID byte
			if life := v.lives["md"]; life != nil {
				have, topicID = life.ID[0], life.TopicID[0]
			}
			if have != tt.want || topicID != tt.topicID {
				t.Errorf("life %d of the brokers' topic %d, want %d of %d", have, topicID, tt.want, tt.topicID)
			}
			var over []byte
			for id := range v.ended {
				over = append(over, id[0])
			}
			slices.Sort(over)
			if diff := cmp.Diff(tt.over, over); diff != "" {
				t.Errorf("ended: %s", diff)
			}
		})
	}
}

package bus

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/event"
)

// unsynced is a file whose Sync fails.
type unsynced struct{ *os.File }

func (unsynced) Sync() error { return errors.New("no room") }

// What cannot be acknowledged is kept by Close, again and again, and appended once
// and in order by the producer that can; a torn end is told once.
func TestSpillIsKeptOverRestartsOnKfake(t *testing.T) {
	inBubble(t, func(t *testing.T, v *virtual) {
		c, dir := v.connect(t), t.TempDir()
		fault := v.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotLeaderForPartition, Count: -1})
		const each = 50
		start := func(open func(string) (spillFile, error)) *Producer {
			return newProducer(t, c, ProducerConfig{Name: "kept", Spill: SpillConfig{Dir: dir, open: open}})
		}
		keep := func(p *Producer, from int) {
			kept := 0
			for i := range each {
				if err := p.Append(event.TopicMarket, 0, []byte("k"), []byte(strconv.Itoa(from+i)), func(_ int64, err error) {
					if errors.Is(err, ErrKept) {
						kept++
					}
				}); err != nil {
					t.Fatal(err)
				}
			}
			closing, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := p.Close(closing); err == nil || kept != each {
				t.Errorf("Close gave %v and kept %d of %d records", err, kept, each)
			}
		}
		keep(start(func(path string) (spillFile, error) {
			f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
			return unsynced{f}, err
		}), 0)
		if n := total(t, c.metrics.spillErrors); n != 1 {
			t.Errorf("%v errors counted after a file could not be synced", n)
		}
		files, err := filepath.Glob(filepath.Join(dir, "live", "kept", "md-0.*"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		f, err := os.OpenFile(files[0], os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("AHSB" + strings.Repeat(" and no more", 10_000)); err != nil { // longer than what comes in its place
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		second := start(nil)
		if d := second.SpillDamage(); len(d) != 1 || d[0].Records != -1 {
			t.Errorf("the torn end is told as %v", d)
		}
		keep(second, each)
		third := start(nil)
		if d := third.SpillDamage(); len(d) != 0 {
			t.Errorf("it is told again: %v", d)
		}
		fault.Remove()
		if err := third.Flush(t.Context()); err != nil || third.Spilled() != 0 {
			t.Errorf("flushing gave %v, %d bytes are still spilled", err, third.Spilled())
		}
		next := 0
		if err := everyRecord(t, c, event.TopicMarket, 0, func(r Record) error {
			if string(r.Value) != strconv.Itoa(next) {
				t.Errorf("offset %d holds %s where %d is next", r.Offset, r.Value, next)
			}
			next++
			return nil
		}); err != nil || next != 2*each {
			t.Errorf("%d of %d records are in the log: %v", next, 2*each, err)
		}
	})
}

// A chunk that the broker refuses fails the save, and the snapshot before counts.
func TestSnapshotOfARefusedChunkFailsOnKfake(t *testing.T) {
	inBubble(t, func(t *testing.T, v *virtual) {
		c := v.connect(t)
		o := own(t, c, "signals.1", snapKey.partitions()...)
		save(t, c, o, 100, randomState(1, 5000))
		h := v.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: snapKey.Topic, Err: kerr.MessageTooLarge}) // of one request
		s := &Snapshot{Incarnation: c.Incarnation(event.TopicMarket), Input: 200, State: randomState(2, 900)}
		err := c.SaveSnapshot(t.Context(), o.Producer, snapKey, s)
		if err == nil || h.Hits() != 1 {
			t.Errorf("%d refusals gave %v", h.Hits(), err)
		}
		if got := load(t, c); got == nil || got.Input != 100 {
			t.Errorf("%+v was loaded, want the one of 100", brief(got))
		}
	})
}

// A new life leaves a group where it stands before the end, and what is skipped in
// one life is not in the next.
func TestNewLifeAndGroupsOnKfake(t *testing.T) {
	inBubble(t, func(t *testing.T, v *virtual) {
		c := v.connect(t)
		produce(t, newProducer(t, c, ProducerConfig{Name: "fill", Blocking: true}), event.TopicMarket, 0, 40)
		group := c.Group("test")
		at := func() map[int32]int64 {
			at, err := c.committed(t.Context(), group, event.TopicMarket, []int{0, 1, 2, 3})
			if err != nil {
				t.Fatal(err)
			}
			return at
		}
		if err := c.commitFor(t.Context(), group, event.TopicMarket, map[int32]int64{0: 2, 1: 5}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.DeleteRecords(t.Context(), event.TopicMarket, map[int32]int64{0: 8}); err != nil {
			t.Fatal(err)
		}
		ask := SkipRequest{Role: "test", Topic: event.TopicMarket, To: 8, Who: "me", Why: "to see it"}
		for _, tt := range []struct{ stands, from int64 }{{-1, 2}, {1, 2}, {5, 5}} {
			ask.Stands = tt.stands
			if s, err := c.CheckSkip(t.Context(), ask); err != nil || s.From != tt.from {
				t.Errorf("a role that stands at %d would skip %+v, want from %d: %v", tt.stands, s, tt.from, err)
			}
		}
		if _, err := c.Skip(t.Context(), ask); err != nil {
			t.Fatal(err)
		}
		skipped := func() bool {
			again := v.connect(t)
			_, ok := again.Skipped("test", event.TopicMarket, 0, 2)
			return ok
		}
		if !skipped() {
			t.Error("the skip is not known")
		}
		if _, err := c.AdoptTopics(t.Context(), []string{event.TopicMarket}, "me", "to see it"); err != nil {
			t.Fatal(err)
		}
		if got := at(); got[0] != 8 || got[1] != 5 {
			t.Errorf("after adopting the log the group stands at %v, want 8 and 5", got)
		}
		if skipped() {
			t.Error("a skip of the former life counts in the new one")
		}
	})
}

// A log that ends before what a reader has read was truncated.
func TestReaderStopsAtATruncatedLogOnKfake(t *testing.T) {
	inBubble(t, func(t *testing.T, v *virtual) {
		c := v.connect(t)
		produce(t, newProducer(t, c, ProducerConfig{Name: "fill", Blocking: true}), event.TopicMarket, 0, 40)
		r := newReader(t, c, ReaderConfig{Topic: event.TopicMarket, Offset: FromStart})
		if got, err := next(t, r, 10); err != nil || len(got) != 10 {
			t.Fatal(got, err)
		}
		defer v.answers.set(func(res kmsg.Response) bool {
			l, ok := res.(*kmsg.ListOffsetsResponse)
			for i := 0; ok && i < len(l.Topics); i++ {
				for j := range l.Topics[i].Partitions {
					l.Topics[i].Partitions[j].Offset = min(3, l.Topics[i].Partitions[j].Offset)
				}
			}
			return ok
		})()
		v.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: event.TopicMarket, Err: kerr.OffsetOutOfRange, Count: -1})
		wait, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := r.Next(wait)
		if f := fault(t, err, Truncated); f.Stored != 10 || f.End != 3 {
			t.Errorf("%+v", f)
		}
	})
}

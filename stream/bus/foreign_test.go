package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// valuesOf are n values that begin with the same words.
func valuesOf(words string, n int) (values [][]byte) {
	for i := range n {
		values = append(values, fmt.Appendf(nil, "%s %d", words, i))
	}
	return values
}

// Another program's transactions: what it committed are records like others, what
// it aborted and the marks that end transactions never are, and no offset is taken
// for a gap, wherever a reader begins.
func TestForeignTransactions(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	at := TopicPartition{event.TopicMarket, 1}
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	ours := func(value string, n int) {
		for i := range n {
			if err := p.Append(at.Topic, at.Partition, []byte("k"), fmt.Appendf(nil, "%s %d", value, i), nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	one, two := bustest.NewForeigner(t, b.Addr(), "foreign.1", at.Topic, at.Partition), bustest.NewForeigner(t, b.Addr(), "foreign.2", at.Topic, at.Partition)
	ours("ours first", 10)
	for round := range 3 {
		// Two at once, with ours between their batches: one of them is aborted.
		one.Begin()
		two.Begin()
		one.Add("k", valuesOf(fmt.Sprintf("aborted %d a", round), 4)...)
		two.Add("k", valuesOf(fmt.Sprintf("committed %d a", round), 3)...)
		ours(fmt.Sprintf("ours %d a", round), 2)
		one.Add("k", valuesOf(fmt.Sprintf("aborted %d b", round), 1)...)
		two.Add("k", valuesOf(fmt.Sprintf("committed %d b", round), 2)...)
		one.Abort()
		ours(fmt.Sprintf("ours %d b", round), 1)
		two.Commit()
		// The same producer commits what it does next.
		one.Begin()
		one.Add("k", valuesOf(fmt.Sprintf("committed %d c", round), 2)...)
		one.Commit()
	}
	one.Begin()
	one.Add("k", valuesOf("aborted last", 2)...)
	one.Abort() // the log ends with its mark

	// Apache Kafka writes a mark after it has answered that the transaction is over.
	const events, aborted, marks = 10 + 3*(3+2+2+1+2), 3*(4+1) + 2, 3*3 + 1
	eventually(t, "the last mark is there", 20*time.Second, func() bool { return end(t, c, at) == events+aborted+marks })
	// What another client than ours reads at either level tells what is where.
	end := end(t, c, at)
	all, committed := foreignView(t, b, at, end, kgo.ReadUncommitted()), foreignView(t, b, at, end, kgo.ReadCommitted())
	want := make([]string, end) // empty: no event
	for offset, v := range committed {
		want[offset] = v
	}
	if len(committed) != events || len(all)-len(committed) != aborted || int(end)-len(all) != marks {
		t.Fatalf("the log has %d offsets, %d records, %d of them not aborted", end, len(all), len(committed))
	}
	read := func(from int64, keep bool) {
		r, err := c.NewReader(t.Context(), ReaderConfig{Topic: at.Topic, Partition: at.Partition, Offset: from, KeepCopies: keep}, component.Discard())
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		r.EndAt(end)
		got := make([]string, end)
		next := from
		for {
			records, err := r.Next(t.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("from %d: %v", from, err)
			}
			for _, rec := range records {
				if rec.Offset < next || (keep && rec.Offset != next) {
					t.Errorf("from %d: offset %d where %d is next", from, rec.Offset, next)
				}
				next = rec.Offset + 1
				if rec.Void != (want[rec.Offset] == "") || rec.Void && (rec.Key != nil || rec.Value != nil) {
					t.Errorf("from %d: offset %d holds %q, void %t, want %q", from, rec.Offset, rec.Value, rec.Void, want[rec.Offset])
				}
				got[rec.Offset] = string(rec.Value)
			}
		}
		if diff := cmp.Diff(want[from:], got[from:]); diff != "" || r.Position() != end {
			t.Errorf("from %d, position %d at the end: %s", from, r.Position(), diff)
		}
	}
	for from := range end + 1 {
		read(from, false)
		read(from, true)
	}

	// A group commits past the last mark, and lags by nothing.
	k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{at.Topic}}, component.Discard())
	if err := k.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := newHandledLog()
	if err := k.Run(t.Context(), func(ctx context.Context, a *Assignment) error {
		defer func() { a.Commit(a.Position()) }()
		return seen.handle(ctx, a)
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slices.DeleteFunc(want, func(v string) bool { return v == "" }), seen.got[at.Partition]); diff != "" {
		t.Error(diff)
	}
	lags, err := c.Lag(t.Context(), "test")
	if err != nil || slices.ContainsFunc(lags, func(l Lag) bool { return l.Records != 0 }) {
		t.Errorf("the lag after everything: %+v, %v", lags, err)
	}
	t.Logf("%d offsets: %d events, %d records of aborted transactions, %d marks; read from each of them", end, len(committed), len(all)-len(committed), int(end)-len(all))
}

// foreignView is what franz-go reads of a partition, by offset.
func foreignView(t *testing.T, b *broker, at TopicPartition, end int64, level kgo.IsolationLevel) map[int64]string {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.FetchIsolationLevel(level), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{at.Topic: {at.Partition: kgo.NewOffset().AtStart()}}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make(map[int64]string)
	for next := int64(0); next < end; {
		fetches := c.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			next = r.Offset + 1
			if !r.Attrs.IsControl() {
				got[r.Offset] = string(r.Value)
			}
		})
	}
	return got
}

// A transaction that another program leaves open holds back what is behind it: that
// is logged, ends a consumer whose progress it stops, and goes on once it ends.
func TestOpenForeignTransactionIsToldOf(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	at := TopicPartition{event.TopicMarket, 1}
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, at.Topic, 0, 40)
	f := bustest.NewForeigner(t, b.Addr(), "foreign", at.Topic, at.Partition)
	f.Begin()
	f.Add("k", valuesOf("aborted", 3)...)
	produce(t, p, at.Topic, 40, 40)

	var logged bustest.Log
	env := component.Discard()
	env.Log = slog.New(slog.NewTextHandler(&logged, nil))
	r, err := c.NewReader(t.Context(), ReaderConfig{Topic: at.Topic, Partition: at.Partition, Offset: FromStart}, env)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := next(t, r, 10); err != nil || got[9] != "37" {
		t.Fatal(got, err)
	}
	k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{at.Topic}, Stall: 2 * time.Second}, component.Discard())
	err = k.Run(t.Context(), newHandledLog().handle)
	want := []string{
		"handling md/1: no progress for ", "the handler waits for records that do not come; it is at offset 10, has committed up to 10 and the log ends at 23: 13 records behind; " +
			"another program's transaction has been open since offset 10 and holds back what is behind it: end that program, or its transaction: " +
			"kafka-transactions.sh --bootstrap-server BROKER abort --topic md --partition 1 --start-offset 10",
	}
	if !component.IsFatal(err) || slices.ContainsFunc(want, func(s string) bool { return !strings.Contains(err.Error(), s) }) {
		t.Errorf("a consumer that is held back ended with %v", err)
	}
	// The reader polls for as long as it is not told to stop.
	eventually(t, "the reader logs what holds it back", 30*time.Second, func() bool {
		return logged.Contains("open transaction holds back what is behind it") && logged.Contains("topic=md partition=1 offset=10 position=10 end=23")
	})
	if total(t, c.metrics.errors) == 0 {
		t.Error("it is not counted")
	}
	f.Abort()
	if got, err := next(t, r, 10); err != nil || got[0] != "41" || got[9] != "77" {
		t.Errorf("after its end: %v, %v", got, err)
	}
	if _, held := r.heldBackAt(); held {
		t.Error("it still counts as held back")
	}
	if logged.Contains("aborted") {
		t.Error("records are in the log")
	}
}

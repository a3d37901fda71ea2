package clickhouse

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/event"
)

// landTicks inserts the ticks of a range of a partition and proves them.
func landTicks(t *testing.T, c *Client, partition int32, first, end int64, token string) {
	t.Helper()
	insertAll(t, c, tickBatch(partition, first, end), token)
	row := Landed{
		Topic: "md", Incarnation: testIncarnation, Partition: partition, First: first, Last: end - 1,
		Rows: map[string]uint64{"ticks": uint64(end - first)}, Token: token,
	}
	if err := c.Land(t.Context(), row); err != nil {
		t.Fatal(err)
	}
}

func landedEnd(t *testing.T, c *Client, partition int32) int64 {
	t.Helper()
	end, err := c.Settle(t.Context(), event.SinkPlan{Topic: "md", Partition: partition, Incarnation: testIncarnation, Token: "none"})
	if err != nil {
		t.Fatal(err)
	}
	return end
}

// A table that was dropped is made again, and landed stops to claim the partitions that
// had rows in it, and only those.
func TestLostTableIsNotClaimed(t *testing.T) {
	c := testClient(t, sharedEngine(t))
	landTicks(t, c, 1, 0, 50, "one")
	if err := c.Land(t.Context(), Landed{Topic: "md", Incarnation: testIncarnation, Partition: 1, First: 50, Last: 59, Control: 10, Token: "clocks"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Land(t.Context(), Landed{Topic: "md", Incarnation: testIncarnation, Partition: 2, First: 0, Last: 9, Control: 10, Token: "others"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if one, two := landedEnd(t, c, 1), landedEnd(t, c, 2); one != 60 || two != 10 {
		t.Fatalf("before the loss landed ends at %d and %d", one, two)
	}
	if err := c.Exec(t.Context(), "DROP TABLE "+c.Database()+".ticks SYNC"); err != nil {
		t.Fatal(err)
	}
	if err := c.Insert(t.Context(), tickBatch(1, 60, 70).Blocks()[0], "x"); !errors.Is(err, ErrLost) || !errors.Is(err, ErrSetup) {
		t.Errorf("an insert into a table that is gone: %v", err)
	}
	for range 2 {
		if err := c.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if one, two := landedEnd(t, c, 1), landedEnd(t, c, 2); one != 0 || two != 10 {
		t.Errorf("after the loss landed ends at %d and %d, want 0 and 10", one, two)
	}
	landTicks(t, c, 1, 0, 50, "one~1")
	if got := askOne(t, c, "SELECT count() FROM ticks"); got != "50" {
		t.Errorf("the table that was made again has %s rows", got)
	}
	if err := c.Exec(t.Context(), "DROP TABLE "+c.Database()+".landed SYNC"); err != nil {
		t.Fatal(err)
	}
	if err := c.Migrate(t.Context()); err != nil {
		t.Errorf("without landed: %v", err)
	}
	if got := askOne(t, c, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name LIKE '%draft%'"); got != "0" {
		t.Errorf("%s drafts are left", got)
	}
}

// What is asked of a partition before it lands again.
func TestRowsThatStay(t *testing.T) {
	c := testClient(t, sharedEngine(t))
	landTicks(t, c, 1, 10, 60, "a")
	landTicks(t, c, 1, 60, 100, "b")
	landTicks(t, c, 2, 0, 5, "c")
	for _, want := range []struct {
		below, lowest int64
		rows          map[string]uint64
	}{
		{10, -1, map[string]uint64{}}, {40, 10, map[string]uint64{"ticks": 30}}, {1000, 10, map[string]uint64{"ticks": 90}},
	} {
		rows, lowest, err := c.RowsBelow(t.Context(), "md", testIncarnation, 1, want.below)
		if err != nil || lowest != want.lowest || !cmp.Equal(rows, want.rows) {
			t.Errorf("below %d: %v, the lowest %d, %v", want.below, rows, lowest, err)
		}
	}
	if err := c.ForgetLanded(t.Context(), "md", testIncarnation, 1, "a"); err != nil {
		t.Fatal(err)
	}
	if one, two := landedEnd(t, c, 1), landedEnd(t, c, 2); one != 60 || two != 5 {
		t.Errorf("landed ends at %d and %d, want 60 and 5", one, two)
	}
	if end, err := c.FormerEnd(t.Context(), "md", testIncarnation, 1); err != nil || end != 0 {
		t.Errorf("former lives end at %d, %v", end, err)
	}
	if end, err := c.FormerEnd(t.Context(), "md", event.HashStrings("another life"), 1); err != nil || end != 60 {
		t.Errorf("former lives end at %d, %v", end, err)
	}
}

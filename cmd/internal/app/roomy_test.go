package app

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/autohedge/autohedge/sinks"
	"github.com/autohedge/autohedge/sinks/clickhouse"
)

// landings counts what reaches the database.
type landings struct {
	sinks.Store
	n int
}

func (l *landings) Insert(context.Context, sinks.Block, string) error { l.n++; return nil }

func (l *landings) Land(context.Context, clickhouse.Landed) error { l.n++; return nil }

// With little room nothing is landed and nothing merged, whoever asks; merges go on
// before the next rows land, and not before the database has heard of it.
func TestRoomyStore(t *testing.T) {
	var said []string
	var free int64
	var down error
	db := &landings{}
	s := &roomyStore{
		Store: db, dir: "/data",
		free: func(string) (int64, error) { return free, nil },
		exec: func(_ context.Context, sql string) error { said = append(said, sql); return down },
	}
	ctx := t.Context()
	steps := []struct {
		free   int64
		down   error
		landed bool
		said   []string
	}{
		{landingReserve, nil, true, nil},
		{landingReserve - 1, nil, false, []string{"SYSTEM STOP MERGES", "SYSTEM STOP MERGES"}},
		{0, errors.New("gone"), false, []string{"SYSTEM STOP MERGES", "SYSTEM STOP MERGES"}},
		{landingReserve, errors.New("gone"), false, []string{"SYSTEM START MERGES", "SYSTEM START MERGES"}},
		{landingReserve, nil, true, []string{"SYSTEM START MERGES"}},
		{landingReserve, nil, true, nil},
	}
	for i, step := range steps {
		free, down, said, db.n = step.free, step.down, nil, 0
		insert, land := s.Insert(ctx, nil, "token"), s.Land(ctx, clickhouse.Landed{})
		if step.landed != (insert == nil) || step.landed != (land == nil) || step.landed != (db.n == 2) {
			t.Errorf("step %d: %d rows reached the database: %v, %v", i, db.n, insert, land)
		}
		if !slices.Equal(said, step.said) {
			t.Errorf("step %d: the database was told %q, want %q", i, said, step.said)
		}
		if free < landingReserve && !strings.Contains(insert.Error(), "the disk of /data has ") {
			t.Errorf("step %d: %v", i, insert)
		}
	}
	s.free = func(string) (int64, error) { return 0, errors.New("no such folder") }
	if err := s.Insert(ctx, nil, ""); err == nil || err.Error() != "asking what is free in /data: no such folder" {
		t.Errorf("not knowing what is free gave %v", err)
	}
}

package app

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/autohedge/autohedge/cmd/internal/capacity"
	"github.com/autohedge/autohedge/sinks"
	"github.com/autohedge/autohedge/sinks/clickhouse"
)

// landingReserve is what the embedded ClickHouse's disk must have free before rows
// are handed to it: a part that it finishes writing on a full disk can be left
// broken (seen: an empty marks file), and then its whole table cannot be read. Below,
// rows wait in Kafka and parts are not merged.
const landingReserve = 32 << 20

// roomyStore lands nothing while the disk is nearly full; the sinks try again.
type roomyStore struct {
	sinks.Store
	dir  string
	free func(dir string) (int64, error)
	exec func(ctx context.Context, sql string) error

	mu      sync.Mutex
	stopped bool // merges, as far as is known
}

// Insert implements sinks.Writer.
func (s *roomyStore) Insert(ctx context.Context, block sinks.Block, token string) error {
	if err := s.room(ctx); err != nil {
		return err
	}
	return s.Store.Insert(ctx, block, token)
}

// Land implements sinks.Ledger.
func (s *roomyStore) Land(ctx context.Context, row clickhouse.Landed) error {
	if err := s.room(ctx); err != nil {
		return err
	}
	return s.Store.Land(ctx, row)
}

// room returns an error while there is too little. Whoever finds that also ends the
// merges, those under way included, and whoever finds room again lets them go on.
func (s *roomyStore) room(ctx context.Context) error {
	free, err := s.free(s.dir)
	if err != nil {
		return fmt.Errorf("asking what is free in %s: %w", s.dir, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if free < landingReserve {
		s.stopped = true
		return errors.Join(
			fmt.Errorf("the disk of %s has %s free, less than the %s that landing rows needs; free space there", s.dir, capacity.Bytes(free), capacity.Bytes(landingReserve)),
			s.exec(ctx, "SYSTEM STOP MERGES"), // each time: an engine that was started anew does not know of it
		)
	}
	if s.stopped {
		if err := s.exec(ctx, "SYSTEM START MERGES"); err != nil {
			return err
		}
		s.stopped = false
	}
	return nil
}

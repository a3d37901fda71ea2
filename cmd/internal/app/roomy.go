package app

import (
	"context"
	"fmt"

	"github.com/autohedge/autohedge/cmd/internal/capacity"
	"github.com/autohedge/autohedge/sinks"
	"github.com/autohedge/autohedge/sinks/clickhouse"
)

// landingReserve is what the embedded ClickHouse's disk must have free before rows
// are handed to it: a part that it finishes writing on a full disk can be left
// broken (seen: an empty marks file), and then its whole table cannot be read. Below,
// rows wait in Kafka.
const landingReserve = 32 << 20

// roomyStore lands nothing while the disk is nearly full; the sinks try again.
type roomyStore struct {
	sinks.Store
	dir string
}

// Insert implements sinks.Writer.
func (s *roomyStore) Insert(ctx context.Context, block sinks.Block, token string) error {
	if err := s.room(); err != nil {
		return err
	}
	return s.Store.Insert(ctx, block, token)
}

// Land implements sinks.Ledger.
func (s *roomyStore) Land(ctx context.Context, row clickhouse.Landed) error {
	if err := s.room(); err != nil {
		return err
	}
	return s.Store.Land(ctx, row)
}

func (s *roomyStore) room() error {
	free, err := capacity.Free(s.dir)
	if err == nil && free < landingReserve {
		err = fmt.Errorf("the disk of %s has %s free, less than the %s that landing rows needs; free space there", s.dir, capacity.Bytes(free), capacity.Bytes(landingReserve))
	}
	return err
}

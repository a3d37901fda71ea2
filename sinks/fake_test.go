package sinks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/event"
)

// fakeStore is a database with the deduplication rules of the real one, which
// answers wrongly on demand. Its rows are (topic, partition, offset, id).
type fakeStore struct {
	mu      sync.Mutex
	tokens  map[string]string // token -> the rows it landed
	rows    map[string][]fakeRow
	landed  map[string]clickhouse.Landed // by token
	settled int
	calls   int
	wrong   []string // contract breaches seen

	// before and after are asked around each insert; an error they return is
	// answered, in the second case although the rows have landed.
	before, after func(call int, token string) error
	down          func() bool
	// refuses tells rows that the database does not take.
	refuses func(fakeRow) bool
	slow    time.Duration
}

type fakeRow struct {
	Topic       string
	Incarnation event.ID
	Partition   int32
	Offset      int64
	ID          string
}

func newFakeStore() *fakeStore {
	return &fakeStore{tokens: make(map[string]string), rows: make(map[string][]fakeRow), landed: make(map[string]clickhouse.Landed)}
}

var (
	errFake       = errors.New("connection reset by peer")
	_       Store = (*fakeStore)(nil)
)

type fakeBatch struct {
	topic     string
	life      event.ID
	partition int32
	blocks    []Block
	index     map[string]int
}

type fakeBlock struct {
	table, partition string
	rows             []fakeRow
}

func (b *fakeBlock) Table() string     { return b.table }
func (b *fakeBlock) Partition() string { return b.partition }
func (b *fakeBlock) Rows() int         { return len(b.rows) }

func (s *fakeStore) NewBatch(topic string, incarnation event.ID, partition int32) Batch {
	return &fakeBatch{topic: topic, life: incarnation, partition: partition, index: make(map[string]int)}
}

func (b *fakeBatch) Add(offset int64, key, value []byte) (int, error) {
	m, err := event.Decode(value)
	if err != nil {
		return clickhouse.NoRow, err
	}
	var table, id string
	var at int64
	switch m := m.(type) {
	case *event.Trade:
		table, id, at = "ticks", string(m.AppendID(nil, key)), m.RecvTime
	case *event.Quote:
		table, id, at = "quotes", string(m.AppendID(nil, key)), m.RecvTime
	case *event.Signal:
		table, id, at = "signals", m.ID.String(), m.Time
	case *event.Dead:
		table, id, at = "dead", m.ID.String(), m.Time
	case *event.Clock, *event.Control, *event.Epoch:
		return clickhouse.NoRow, nil
	default:
		return clickhouse.NoRow, fmt.Errorf("no table for %T", m)
	}
	day := time.Unix(0, at).UTC().Format("20060102")
	i, ok := b.index[table+day]
	if !ok {
		i = len(b.blocks)
		b.index[table+day] = i
		b.blocks = append(b.blocks, &fakeBlock{table: table, partition: day})
	}
	block, _ := b.blocks[i].(*fakeBlock)
	block.rows = append(block.rows, fakeRow{b.topic, b.life, b.partition, offset, id})
	return i, nil
}

func (b *fakeBatch) Blocks() []Block { return b.blocks }
func (b *fakeBatch) Reset()          { b.blocks, b.index = nil, make(map[string]int) }

func (s *fakeStore) Prepare(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil && s.down() {
		return errFake
	}
	return nil
}

func (s *fakeStore) Insert(ctx context.Context, block Block, token string) error {
	if s.slow > 0 {
		select {
		case <-time.After(s.slow):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	b, _ := block.(*fakeBlock)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	call := s.calls
	if s.down != nil && s.down() {
		return errFake
	}
	if s.before != nil {
		if err := s.before(call, token); err != nil {
			return err
		}
	}
	if s.refuses != nil {
		for _, r := range b.rows {
			if s.refuses(r) {
				return fmt.Errorf("%w: value of %s is out of range", clickhouse.ErrRefused, r.ID)
			}
		}
	}
	said := fmt.Sprint(b.table, b.partition, b.rows)
	if had, ok := s.tokens[token]; ok {
		if had != said {
			s.wrong = append(s.wrong, "other rows under token "+strconv.Quote(token))
		}
	} else {
		s.tokens[token] = said
		s.rows[b.table] = append(s.rows[b.table], b.rows...)
	}
	if s.after != nil {
		return s.after(call, token)
	}
	return nil
}

func (s *fakeStore) Settle(_ context.Context, plan event.SinkPlan) (end int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil && s.down() {
		return 0, errFake
	}
	s.settled++
	for _, l := range s.landed {
		if l.Topic == plan.Topic && l.Partition == plan.Partition && l.Incarnation == plan.Incarnation {
			end = max(end, l.Last+1)
		}
	}
	return end, nil
}

func (s *fakeStore) Land(_ context.Context, row clickhouse.Landed) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	call := s.calls
	if s.down != nil && s.down() {
		return errFake
	}
	if s.before != nil {
		if err := s.before(call, row.Token); err != nil {
			return err
		}
	}
	if had, ok := s.landed[row.Token]; ok && fmt.Sprint(had) != fmt.Sprint(row) {
		s.wrong = append(s.wrong, fmt.Sprintf("landed says %v, then %v", had, row))
	}
	s.landed[row.Token] = row
	if s.after != nil {
		return s.after(call, row.Token)
	}
	return nil
}

func (s *fakeStore) Remove(_ context.Context, topic string, incarnation event.ID, partition int32, first int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for table, rows := range s.rows {
		s.rows[table] = slices.DeleteFunc(rows, func(r fakeRow) bool {
			return r.Topic == topic && r.Incarnation == incarnation && r.Partition == partition && r.Offset >= first
		})
	}
	return nil
}

func (s *fakeStore) RowsBelow(_ context.Context, topic string, incarnation event.ID, partition int32, below int64) (rows map[string]uint64, lowest int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, lowest = make(map[string]uint64), -1
	for table, all := range s.rows {
		for _, r := range all {
			if r.Topic == topic && r.Incarnation == incarnation && r.Partition == partition && r.Offset < below {
				rows[table]++
				if lowest < 0 || r.Offset < lowest {
					lowest = r.Offset
				}
			}
		}
	}
	return rows, lowest, nil
}

func (s *fakeStore) FormerEnd(_ context.Context, topic string, incarnation event.ID, partition int32) (end int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.landed {
		if l.Topic == topic && l.Partition == partition && l.Incarnation != incarnation {
			end = max(end, l.Last+1)
		}
	}
	return end, nil
}

func (s *fakeStore) ForgetLanded(_ context.Context, topic string, incarnation event.ID, partition int32, except string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.landed, func(token string, l clickhouse.Landed) bool {
		return l.Topic == topic && l.Incarnation == incarnation && l.Partition == partition && token != except
	})
	return nil
}

// flaky makes a store answer wrongly one time in n, half of the time after it
// has done what it was asked.
func (s *fakeStore) flaky(rng *rand.Rand, n int) {
	s.before = func(int, string) error {
		if rng.IntN(2*n) == 0 {
			return errFake
		}
		return nil
	}
	s.after = s.before
}

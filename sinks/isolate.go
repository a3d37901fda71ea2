package sinks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// sift lands what it can of one block that the database refused: halves of it,
// halves of a half that is refused, down to single rows, which become dead
// letters.
//
// A refused insert and its halves must never both be sent: had the first been
// misjudged, or the server's mind changed, its rows would land twice. So each
// refusal is appended to the plan in state.sinks, and acknowledged, before its
// halves are sent; a successor reads there which inserts not to make again.
type sift struct {
	p        *partition
	plan     *event.SinkPlan
	block    int    // index in Blocks
	name     string // token of the whole block
	records  []bus.Record
	scratch  Batch
	rejected map[string]bool
	refused  int
	firstErr error
}

// isolate handles a block of the plan whose insert, named by its token, was
// refused; it returns how many of its rows are refused for good.
func (p *partition) isolate(ctx context.Context, plan *event.SinkPlan, block int, name string) (refused int, err error) {
	s := &sift{p: p, plan: plan, block: block, name: name, scratch: p.role.store.NewBatch(p.topic, plan.Incarnation, plan.Partition)}
	_, s.rejected = splitToken(plan.Token)
	if s.rejected == nil {
		s.rejected = make(map[string]bool)
	}
	if err := s.load(ctx); err != nil {
		return 0, err
	}
	if err := s.split(ctx, 0, len(s.records), name, errors.New("refused by the database before a restart")); err != nil {
		return 0, err
	}
	return s.refused, nil
}

// load reads the planned range again and keeps the records of the block's rows.
func (s *sift) load(ctx context.Context) error {
	return s.p.replay(ctx, s.plan.First, s.plan.Last+1, func(rec *bus.Record) error {
		if rec.SecondCopy {
			return nil
		}
		// A record that does not encode was refused when it was gathered.
		if block, err := s.scratch.Add(rec.Offset, rec.Key, rec.Value); err == nil && block == s.block {
			kept := *rec
			kept.Key, kept.Value = append([]byte(nil), rec.Key...), append([]byte(nil), rec.Value...)
			s.records = append(s.records, kept)
		}
		return nil
	})
}

// split deals with rows i to j, whose insert was refused with why.
func (s *sift) split(ctx context.Context, i, j int, token string, why error) error {
	if !s.rejected[token] {
		plan, _, _ := strings.Cut(s.plan.Token, "\n")
		s.plan.Token += "\n" + strings.TrimPrefix(token, plan)
		if err := s.p.announce(ctx, s.plan); err != nil {
			return err
		}
		s.rejected[token] = true
	}
	if err := s.p.role.step("after refusal"); err != nil {
		return err
	}
	if j-i == 1 {
		if s.refused++; s.firstErr == nil {
			s.firstErr = why
		}
		if s.refused > s.p.role.cfg.MaxRefused {
			return component.Fatal(fmt.Errorf("landing %s %d-%d: the database refuses more than %d rows of %s, which is no matter of single rows (max_refused); the first: %w",
				s.p.place, s.plan.First, s.plan.Last, s.p.role.cfg.MaxRefused, s.name, s.firstErr))
		}
		return s.p.bury(ctx, []refusal{refuse(&s.records[i], why)})
	}
	m := (i + j) / 2
	if err := s.land(ctx, i, m); err != nil {
		return err
	}
	return s.land(ctx, m, j)
}

func (s *sift) land(ctx context.Context, i, j int) error {
	token := fmt.Sprintf("%s[%d-%d]", s.name, i, j)
	if s.rejected[token] {
		return s.split(ctx, i, j, token, errors.New("refused by the database before a restart"))
	}
	s.scratch.Reset()
	for k := i; k < j; k++ {
		rec := &s.records[k]
		if _, err := s.scratch.Add(rec.Offset, rec.Key, rec.Value); err != nil {
			return component.Fatal(fmt.Errorf("encoding %s offset %d again: %w", s.p.place, rec.Offset, err))
		}
	}
	err := s.p.insert(ctx, s.scratch.Blocks()[0], token)
	if errors.Is(err, clickhouse.ErrRefused) {
		return s.split(ctx, i, j, token, err)
	}
	return err
}

// replay reads [first, end) of the partition again and calls each for every
// record, second copies included.
func (p *partition) replay(ctx context.Context, first, end int64, each func(*bus.Record) error) error {
	reader, err := p.read(ctx, first, end)
	if err != nil {
		return err
	}
	defer reader.Close()
	for {
		records, err := reader.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s again: %w", p.place, err)
		}
		for i := range records {
			if records[i].Offset >= end {
				return nil
			}
			if err := each(&records[i]); err != nil {
				return err
			}
		}
	}
}

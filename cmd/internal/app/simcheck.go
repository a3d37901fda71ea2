package app

import (
	"context"
	"fmt"
	"strconv"

	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/sim"
)

// idRange is an interval of trade ids, inclusive.
type idRange struct{ from, to uint64 }

// simCheck compares the simulator's own ledger file with the trades in
// ClickHouse, both ways: it counts trades whose id, price, quantity or side
// differ, trades that only ClickHouse has, and trades that only the ledger has
// and that no stated gap covers.
func (e *engine) simCheck(ctx context.Context) (uint64, error) {
	type instrument struct{ venue, symbol string }
	made := make(map[instrument]map[uint64]sim.LedgerTrade)
	err := sim.ReadLedger(e.folder.Sim(), func(t sim.LedgerTrade) error {
		k := instrument{t.Venue, t.Symbol}
		if made[k] == nil {
			made[k] = make(map[uint64]sim.LedgerTrade)
		}
		made[k][t.ID] = t
		return nil
	})
	if err != nil {
		return 0, err
	}
	a := &asker{ctx: ctx, e: e}
	gaps := make(map[instrument][]idRange)
	for _, r := range a.rows("SELECT venue, symbol, from_id, to_id FROM coverage WHERE kind = 'lost' AND contiguous AND to_id > 0") {
		from, err1 := strconv.ParseUint(r[2], 10, 64)
		to, err2 := strconv.ParseUint(r[3], 10, 64)
		if err1 != nil || err2 != nil {
			return 0, fmt.Errorf("reading stated gaps: %q to %q", r[2], r[3])
		}
		k := instrument{r[0], r[1]}
		gaps[k] = append(gaps[k], idRange{from, to})
	}
	var wrong uint64
	for k, trades := range made {
		rows := a.rows(fmt.Sprintf("SELECT trade_id, toString(price), toString(qty), side FROM ticks WHERE venue = '%s' AND symbol = '%s'", k.venue, k.symbol))
		if a.err != nil {
			return 0, a.err
		}
		for _, r := range rows {
			id, err := strconv.ParseUint(r[0], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("reading landed trades: %w", err)
			}
			t, ok := trades[id]
			if !ok || !sameDecimal(r[1], t.Price) || !sameDecimal(r[2], t.Qty) || r[3] != t.Aggressor.String() {
				wrong++
			}
			delete(trades, id)
		}
		for id := range trades {
			if !covered(gaps[k], id) {
				wrong++
			}
		}
	}
	// Trades of instruments that the ledger never heard of.
	for _, r := range a.rows("SELECT venue, symbol, count() FROM ticks GROUP BY venue, symbol") {
		if _, ok := made[instrument{r[0], r[1]}]; !ok {
			n, err := strconv.ParseUint(r[2], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("counting landed trades: %w", err)
			}
			wrong += n
		}
	}
	return wrong, a.err
}

func covered(gaps []idRange, id uint64) bool {
	for _, g := range gaps {
		if id >= g.from && id <= g.to {
			return true
		}
	}
	return false
}

func sameDecimal(text string, want event.Decimal) bool {
	d, err := event.ParseDecimal([]byte(text))
	return err == nil && d.Cmp(want) == 0
}

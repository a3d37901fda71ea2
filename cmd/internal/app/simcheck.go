package app

import (
	"context"
	"fmt"
	"sort"
	"strconv"

	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/sim"
)

// simWindow is how many trades of an instrument are compared at a time: it
// bounds the memory of the comparison, however long the ledger is.
const simWindow = 50_000

// idRange is an interval of trade ids, inclusive.
type idRange struct{ from, to uint64 }

// simInstrument is the comparison of one instrument.
type simInstrument struct {
	venue, symbol string
	window        []sim.LedgerTrade // not compared yet, ids ascending
	first, last   uint64            // of all that were compared
	gaps          []idRange         // stated, by from
}

// simComparison compares the simulator's own ledger file with the trades in
// ClickHouse, both ways.
type simComparison struct {
	ask         *asker
	instruments map[string]*simInstrument
	gaps        map[string][]idRange
	wrong       uint64
}

// simCheck counts trades whose id, price, quantity or side differ, trades that
// only ClickHouse has, and trades that only the ledger has and that no stated
// gap covers.
func (e *engine) simCheck(ctx context.Context) (uint64, error) {
	c := &simComparison{ask: &asker{ctx: ctx, e: e}, instruments: make(map[string]*simInstrument)}
	if err := c.readGaps(); err != nil {
		return 0, err
	}
	err := sim.ReadLedger(e.folder.Sim(), func(t sim.LedgerTrade) error {
		i := c.instrument(t.Venue, t.Symbol)
		i.window = append(i.window, t)
		if len(i.window) < simWindow {
			return nil
		}
		return c.compare(i)
	})
	if err != nil {
		return 0, err
	}
	for _, i := range c.instruments {
		if err := c.compare(i); err != nil {
			return 0, err
		}
	}
	return c.wrong, c.strangers()
}

func (c *simComparison) instrument(venue, symbol string) *simInstrument {
	k := venue + "|" + symbol
	i := c.instruments[k]
	if i == nil {
		i = &simInstrument{venue: venue, symbol: symbol, gaps: c.gaps[k]}
		c.instruments[k] = i
	}
	return i
}

func (c *simComparison) readGaps() error {
	c.gaps = make(map[string][]idRange)
	for _, r := range c.ask.rows("SELECT venue, symbol, from_id, to_id FROM coverage WHERE kind = 'lost' AND contiguous AND to_id > 0 ORDER BY from_id") {
		from, err1 := strconv.ParseUint(r[2], 10, 64)
		to, err2 := strconv.ParseUint(r[3], 10, 64)
		if err1 != nil || err2 != nil {
			return fmt.Errorf("reading stated gaps: %q to %q", r[2], r[3])
		}
		c.gaps[r[0]+"|"+r[1]] = append(c.gaps[r[0]+"|"+r[1]], idRange{from, to})
	}
	return c.ask.err
}

// compare compares the window with what has landed between its first and last
// id, and between the window before and this one.
func (c *simComparison) compare(i *simInstrument) error {
	if len(i.window) == 0 {
		return nil
	}
	from, to := i.window[0].ID, i.window[len(i.window)-1].ID
	if i.last == 0 {
		i.first = from
	} else {
		from = i.last + 1
	}
	i.last = to
	landed := c.ask.rows(fmt.Sprintf("SELECT trade_id, toString(price_exact), toString(qty_exact), side FROM ticks WHERE venue = '%s' AND symbol = '%s' AND trade_id BETWEEN %d AND %d ORDER BY trade_id",
		i.venue, i.symbol, from, to))
	if c.ask.err != nil {
		return c.ask.err
	}
	made := i.window
	for _, r := range landed {
		id, err := strconv.ParseUint(r[0], 10, 64)
		if err != nil {
			return fmt.Errorf("reading landed trades: %w", err)
		}
		for len(made) > 0 && made[0].ID < id {
			c.lacking(i, made[0].ID)
			made = made[1:]
		}
		if len(made) == 0 || made[0].ID != id {
			c.wrong++ // only ClickHouse has it, or has it twice
			continue
		}
		if t := made[0]; !sameDecimal(r[1], t.Price) || !sameDecimal(r[2], t.Qty) || r[3] != t.Aggressor.String() {
			c.wrong++
		}
		made = made[1:]
	}
	for _, t := range made {
		c.lacking(i, t.ID)
	}
	i.window = i.window[:0]
	return nil
}

// lacking notes a trade that ClickHouse does not have.
func (c *simComparison) lacking(i *simInstrument, id uint64) {
	n := sort.Search(len(i.gaps), func(n int) bool { return i.gaps[n].from > id })
	if n == 0 || i.gaps[n-1].to < id {
		c.wrong++
	}
}

// strangers counts landed trades before the ledger's first and after its last,
// and those of instruments that the ledger never heard of.
func (c *simComparison) strangers() error {
	for _, r := range c.ask.rows("SELECT venue, symbol, count() FROM ticks GROUP BY venue, symbol") {
		i := c.instruments[r[0]+"|"+r[1]]
		if i != nil {
			c.wrong += c.ask.number(fmt.Sprintf("SELECT count() FROM ticks WHERE venue = '%s' AND symbol = '%s' AND (trade_id < %d OR trade_id > %d)", i.venue, i.symbol, i.first, i.last))
			continue
		}
		n, err := strconv.ParseUint(r[2], 10, 64)
		if err != nil {
			return fmt.Errorf("counting landed trades: %w", err)
		}
		c.wrong += n
	}
	return c.ask.err
}

func sameDecimal(text string, want event.Decimal) bool {
	d, err := event.ParseDecimal([]byte(text))
	return err == nil && d.Cmp(want) == 0
}

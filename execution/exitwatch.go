package execution

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/autohedge/autohedge/execution/exits"
	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// exitWatch looks at every quote of the instruments in which an owner has lots and keeps
// which lots a quote triggered. Who reads market data calls it: it waits for nothing. It
// is safe for concurrent use.
type exitWatch struct {
	market *market
	clock  component.Clock
	// work holds a token while a lot was triggered that nobody has looked at yet.
	work chan struct{}

	some atomic.Bool // whether anything is armed
	mu   sync.Mutex
	// armed are the lots by key of the instrument and position, fired what triggered
	// them, by lot.
	armed map[string]map[ledger.Key]*armedLots
	fired map[string]trigger
}

// armedLots are the lots of one position, with the levels that the tick gives.
type armedLots struct {
	acc  *account
	tick event.Decimal
	lots []armedLot
	good top // the last quote that was usable
	// last is the last quote and before the one before it, whether usable or not.
	last, before top
	// sawAt is when the last one came, or the watch began, unusable why the last quote is
	// none.
	sawAt    int64
	unusable string
}

// side is that of the orders that close the lots: those of one position are of one side.
func (g *armedLots) side() event.Side {
	if g.lots[0].long {
		return event.Sell
	}
	return event.Buy
}

type armedLot struct {
	id     string
	long   bool
	levels exits.Levels
}

// trigger is why a lot is closed.
type trigger struct {
	leg   event.Leg
	cause string
	from  event.Lineage // the quote's
	at    int64
}

func newExitWatch(m *market, clock component.Clock) *exitWatch {
	return &exitWatch{market: m, clock: clock, work: make(chan struct{}, 1), armed: make(map[string]map[ledger.Key]*armedLots), fired: make(map[string]trigger)}
}

// arm replaces the lots of a position; none disarms it.
func (w *exitWatch) arm(k ledger.Key, acc *account, lots []*exits.Lot, tick event.Decimal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	instrument := string(event.Key(k.Venue, k.Symbol))
	was := w.armed[instrument][k]
	is := &armedLots{acc: acc, tick: tick, sawAt: w.clock.Now().UnixNano(), unusable: noQuote}
	if was != nil {
		is.good, is.last, is.before, is.sawAt, is.unusable = was.good, was.last, was.before, was.sawAt, was.unusable
	}
	there := make(map[string]bool)
	for _, l := range lots {
		if l.Exits() && acc != nil {
			is.lots = append(is.lots, armedLot{l.ID, l.Long(), l.Levels(tick)})
			there[l.ID] = true
		}
	}
	if was != nil {
		for _, l := range was.lots {
			if !there[l.id] {
				delete(w.fired, l.id)
			}
		}
	}
	if len(is.lots) > 0 {
		if w.armed[instrument] == nil {
			w.armed[instrument] = make(map[ledger.Key]*armedLots)
		}
		w.armed[instrument][k] = is
	} else if delete(w.armed[instrument], k); len(w.armed[instrument]) == 0 {
		delete(w.armed, instrument)
	}
	w.some.Store(len(w.armed) > 0)
}

// see takes a quote.
func (w *exitWatch) see(key []byte, t *top) {
	if !w.some.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range w.armed[string(key)] {
		w.checkLocked(g, t)
	}
}

// look checks the lots of a position against the last quote, if there is one, and the
// time.
func (w *exitWatch) look(k ledger.Key, t *top) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if g := w.armed[string(event.Key(k.Venue, k.Symbol))][k]; g != nil {
		w.checkLocked(g, t)
	}
}

func (w *exitWatch) checkLocked(g *armedLots, t *top) {
	now := w.clock.Now().UnixNano()
	var q *exits.Quote
	var from event.Lineage
	if t != nil {
		from = t.from
		limits := &g.acc.cfg.Limits
		if g.last.from != t.from {
			g.before, g.last = g.last, *t
		}
		usable := t.forExits()
		g.unusable = usable.Unusable(g.side(), now, limits.MaxQuoteAge, limits.MaxClockSkew, limits.CollarBps, w.references(g, t, now))
		if g.unusable == "" {
			q, g.good, g.sawAt = &usable, *t, now
		}
	}
	for _, l := range g.lots {
		if _, is := w.fired[l.id]; is {
			continue
		}
		leg, cause := l.levels.Check(l.long, q, now)
		if leg == event.LegUnset {
			continue
		}
		w.fired[l.id] = trigger{leg, cause, from, now}
		select {
		case w.work <- struct{}{}:
		default:
		}
	}
}

// references are the prices of a quote's instrument that say whether the quote can be
// believed, as limits have them for what only reduces: the last trade, if it is fresh, and
// the mean of mids. Where there is neither, as after a start, it is the quote before it:
// one quote alone closes nothing.
func (w *exitWatch) references(g *armedLots, t *top, now int64) []event.Decimal {
	var out []event.Decimal
	limits := &g.acc.cfg.Limits
	_, trade, mean := w.market.forRisk(t.venue, t.symbol, now)
	if trade != nil {
		if age := time.Duration(now - trade.RecvTime); age <= limits.MaxTradeAge && -age <= limits.MaxClockSkew {
			out = append(out, trade.Price)
		}
	}
	if mean.Valid {
		out = append(out, mean.Decimal)
	}
	if len(out) == 0 && g.before.key != nil && t.from == g.last.from {
		if before := g.before.forExits(); before.Sided() {
			out = append(out, before.Touch(g.side()))
		}
	}
	return out
}

// triggered returns what triggered a lot.
func (w *exitWatch) triggered(lot string) (trigger, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, ok := w.fired[lot]
	return t, ok
}

// priced returns the quote that an exit of a position is priced at: the last one, or
// else the last that was usable, at most so old; why says what is wrong with them.
func (w *exitWatch) priced(k ledger.Key, last *top, now int64) (t *top, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.armed[string(event.Key(k.Venue, k.Symbol))][k]
	if g == nil {
		return nil, "nobody watches the position"
	}
	limits, maxAge := &g.acc.cfg.Limits, g.acc.cfg.Exits.MaxQuoteAge
	why = noQuote
	if last != nil {
		q := last.forExits()
		if why = q.Unusable(g.side(), now, maxAge, limits.MaxClockSkew, limits.CollarBps, w.references(g, last, now)); why == "" {
			return last, ""
		}
	}
	if g.good.key != nil && now-g.good.quote.RecvTime <= int64(maxAge) {
		good := g.good
		return &good, ""
	}
	return nil, why
}

const noQuote = "there is no quote yet"

// blind says why no quote of a position could have triggered anything for longer than an
// exit may be priced without one, or nothing.
func (w *exitWatch) blind(k ledger.Key, now int64) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.armed[string(event.Key(k.Venue, k.Symbol))][k]
	if g == nil || now-g.sawAt <= int64(g.acc.cfg.Exits.MaxQuoteAge) {
		return ""
	}
	return g.unusable
}

// tickOf returns the tick that a position is armed with.
func (w *exitWatch) tickOf(k ledger.Key) (event.Decimal, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.armed[string(event.Key(k.Venue, k.Symbol))][k]
	if g == nil {
		return event.Decimal{}, false
	}
	return g.tick, true
}

func (t *top) forExits() exits.Quote {
	return exits.Quote{Bid: t.quote.Bid, Ask: t.quote.Ask, RecvTime: t.quote.RecvTime}
}

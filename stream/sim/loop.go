package sim

import (
	"fmt"
	"strconv"
	"time"
)

// tickEvery is how often the market moves. What falls due in between is made in
// one go, with one time stamp, one write to the ledger and one hand-over a client.
const tickEvery = time.Millisecond

// maxCatchUp bounds what a late tick makes up for, so that a machine that slept
// does not burst.
const maxCatchUp = 100 * time.Millisecond

// recentTrades is how many trades of a symbol REST can show.
const recentTrades = 1000

// channel is what a client can subscribe to on one symbol.
type channel uint8

const (
	chTrade channel = iota
	chAgg
	chBook
	chMatches
	chTicker
	chHeartbeat
	channels
)

// trade is one fill.
type trade struct {
	id         uint64
	price, qty int64
	ns         int64
	sell       bool // the aggressor sold
}

// symbol is one market. Sim.mu guards it.
type symbol struct {
	spec
	shape shape
	hash  uint64
	venue *venue

	open   bool
	rate   float64 // trades a second
	credit float64 // trades that are due
	moves  float64 // moves of the book that are due

	next    uint64 // next trade id
	updates uint64 // next update id
	bound   uint64 // update ids below this are set aside in the ledger
	last    trade  // ns 0: none yet
	first   uint64 // first id of this run
	trades  int64
	quotes  int64
	recent  []trade // ring, by id

	openPrice, high, low int64 // for the 24 h fields of a ticker
	volume               int64

	subs [channels][]*client
	head [channels]string // combined envelope up to the payload
	// lost is when a listener went away without unsubscribing.
	lost time.Time
}

// run is the market loop.
func (s *Sim) run() {
	defer s.wg.Done()
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		if s.cfg.SlowClients == SlowWait {
			for _, c := range s.all() {
				c.waitRoom()
			}
		}
		now := time.Now() // pacing follows the machine; event times follow Env.Clock
		elapsed := min(now.Sub(last), maxCatchUp)
		last = now
		s.mu.Lock()
		err := s.tick(elapsed)
		s.mu.Unlock()
		if err != nil {
			s.fail(err)
			return
		}
	}
}

// tick makes what has fallen due within elapsed, writes the ledger, then hands
// the frames over. Sim.mu is held.
func (s *Sim) tick(elapsed time.Duration) error {
	if s.halted || len(s.running) == 0 {
		return nil
	}
	s.stamp()
	sec := elapsed.Seconds()
	for _, y := range s.running {
		y.credit += y.rate * sec
	}
	for again := true; again; {
		again = false
		for _, y := range s.running {
			if y.credit < 1 {
				continue
			}
			s.step(y)
			again = again || y.credit >= 1
		}
	}
	if beat := s.now / int64(time.Second); beat != s.beat {
		s.beat = beat
		for _, y := range s.running {
			if len(y.subs[chHeartbeat]) > 0 {
				s.publish(y, chHeartbeat, y.appendHeartbeat(s.scratch[:0], s.nowMicros))
			}
		}
	}
	return s.commit()
}

// stamp takes the time of this tick: the clock's, never before the last one.
func (s *Sim) stamp() {
	s.now = max(s.now, s.env.Clock.Now().UnixNano())
	s.nowMillis = strconv.AppendInt(s.nowMillis[:0], s.now/1e6, 10)
	s.nowMicros = appendMicros(s.nowMicros[:0], time.Unix(0, s.now))
}

// commit writes the ledger and only then gives the frames to the writers.
func (s *Sim) commit() error {
	if l := s.ledger; l != nil {
		if len(l.buf) > 0 {
			s.metrics.ledgerBytes.Add(float64(len(l.buf)))
			if err := l.flush(); err != nil {
				return err
			}
		}
		if l.due() {
			if err := l.turn(); err != nil {
				return err
			}
			l.checkpoint(s.states())
			if err := l.flush(); err != nil {
				return err
			}
		}
	}
	for _, v := range s.venues {
		v.trades.Add(float64(v.newTrades))
		v.quotes.Add(float64(v.newQuotes))
		v.newTrades, v.newQuotes = 0, 0
	}
	for _, c := range s.dirty {
		c.dirty = false
		s.handOver(c)
	}
	s.dirty = s.dirty[:0]
	return nil
}

// step makes one aggressive order of y: first the book moves, then the order
// takes one or more fills at its price.
func (s *Sim) step(y *symbol) {
	n := groupLeft(y.next)
	dt := float64(n) / y.rate
	switch q := y.venue.quotesPerTrade; {
	case q <= 0:
		y.shape.advance(&y.spec, dt)
	default:
		for y.moves += q * float64(n); y.moves >= 1; y.moves-- {
			y.shape.advance(&y.spec, 1/(q*y.rate))
			s.quote(y)
		}
	}
	sell, price := y.shape.order()
	from := y.next
	var qty int64
	for range n {
		t := trade{id: y.next, price: price, qty: y.shape.tradeSize(&y.spec), ns: s.now, sell: sell}
		y.take(t)
		qty += t.qty
		y.venue.newTrades++
		if s.ledger != nil {
			s.ledger.buf = y.appendLedger(s.ledger.buf, t)
		}
		y.venue.trade(s, y, t, from)
	}
	y.credit -= float64(n)
	if len(y.subs[chAgg]) > 0 {
		t := y.last
		t.qty = qty
		s.publish(y, chAgg, appendAggTrade(s.scratch[:0], y, t, from, s.nowMillis))
	}
}

// take enters a trade into the symbol's state.
func (y *symbol) take(t trade) {
	y.next = t.id + 1
	y.last = t
	y.recent[t.id%recentTrades] = t
	y.trades++
	y.volume += t.qty
	y.high = max(y.high, t.price)
	y.low = min(y.low, t.price)
}

// quote sends the top of the book after it has moved.
func (s *Sim) quote(y *symbol) {
	y.quotes++
	y.venue.newQuotes++
	if y.venue.name != VenueBinance {
		return // Coinbase tells the top of the book with each match
	}
	if y.updates += 1 + mix(y.updates^y.hash)&3; y.updates >= y.bound {
		y.bound = y.updates + reserveUpdates
		if s.ledger != nil {
			st := y.state()
			s.ledger.buf = st.append(s.ledger.buf)
		}
	}
	if len(y.subs[chBook]) > 0 {
		s.publish(y, chBook, appendBookTicker(s.scratch[:0], y))
	}
}

// publish stages one payload, which lies in s.scratch, for every subscriber.
func (s *Sim) publish(y *symbol, ch channel, payload []byte) {
	s.scratch = payload
	for _, c := range y.subs[ch] {
		c.stage(y.head[ch], payload)
	}
}

// groupLeft is how many fills the order of trade id has from id on: ids come in
// blocks of eight, which are orders of 1, 1, 2, 1 and 3 fills. That aggregated
// ids follow from trade ids makes them contiguous over any restart.
func groupLeft(id uint64) int { return int("\x01\x01\x02\x01\x01\x03\x02\x01"[id%8]) }

// aggID is the id of the aggregated trade that holds trade id.
func aggID(id uint64) uint64 { return id/8*5 + uint64("\x00\x01\x02\x02\x03\x04\x04\x04"[id%8]) }

func (y *symbol) appendLedger(dst []byte, t trade) []byte {
	dst = append(dst, y.spec.venue...)
	dst = append(dst, '\t')
	dst = append(dst, y.name...)
	dst = append(dst, '\t')
	dst = strconv.AppendUint(dst, t.id, 10)
	dst = append(dst, '\t')
	dst = appendFixed(dst, t.price, y.priceScale, y.priceScale)
	dst = append(dst, '\t')
	dst = appendFixed(dst, t.qty, y.qtyScale, y.qtyScale)
	dst = append(dst, '\t')
	dst = append(dst, sideName(t.sell)...)
	dst = append(dst, '\t')
	dst = strconv.AppendInt(dst, t.ns, 10)
	return append(dst, '\n')
}

// state is what the ledger keeps of the symbol.
func (y *symbol) state() ledgerState {
	return ledgerState{
		venue: y.spec.venue, name: y.name, next: y.next, updates: y.bound,
		price: string(appendFixed(nil, y.last.price, y.priceScale, y.priceScale)),
		qty:   string(appendFixed(nil, y.last.qty, y.qtyScale, y.qtyScale)),
		sell:  y.last.sell, time: y.last.ns,
	}
}

// states are the states of all symbols that have ever been open.
func (s *Sim) states() map[string]ledgerState {
	all := make(map[string]ledgerState, len(s.kept)+len(s.running))
	for k, st := range s.kept {
		all[k] = st
	}
	for _, y := range s.running {
		all[y.spec.venue+"|"+y.name] = y.state()
	}
	return all
}

// opened starts the market of y with its first subscription. Sim.mu is held.
func (s *Sim) opened(y *symbol) {
	if y.open {
		return
	}
	y.open = true
	y.recent = make([]trade, recentTrades)
	y.first = y.next
	y.shape.advance(&y.spec, 1/y.rate)
	y.openPrice = (y.shape.bid + y.shape.ask) / 2
	y.high, y.low = y.openPrice, y.openPrice
	s.running = append(s.running, y)
	if s.ledger != nil {
		st := y.state()
		s.ledger.buf = st.append(s.ledger.buf)
	}
}

// restore sets y to where the ledger left it, or to its first ids.
func (s *Sim) restore(y *symbol, st ledgerState, found bool) error {
	if found {
		y.next, y.updates = st.next, st.updates
		if st.time != 0 {
			price, err := parseSteps(st.price, y.priceScale)
			if err != nil {
				return fmt.Errorf("restoring %s %s: %w", y.spec.venue, y.name, err)
			}
			qty, err := parseSteps(st.qty, y.qtyScale)
			if err != nil {
				return fmt.Errorf("restoring %s %s: %w", y.spec.venue, y.name, err)
			}
			y.last = trade{id: st.next - 1, price: price, qty: qty, sell: st.sell, ns: st.time}
			s.now = max(s.now, st.time)
		}
	} else {
		y.next = 1e9 + y.hash%4e9
		y.updates = 2e10 + mix(y.hash)%7e10
		if s.ledger == nil {
			// Nothing remembers the last ids: the clock keeps them from coming twice.
			y.next = uint64(s.env.Clock.Now().UnixMicro())
			y.updates = y.next * 4
		}
	}
	y.bound = y.updates
	y.shape = newShape(&y.spec, s.cfg.Seed, y.next, y.last.price)
	if s.ledger == nil {
		y.shape = newShape(&y.spec, s.cfg.Seed, 0, 0)
	}
	return nil
}

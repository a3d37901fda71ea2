package signals

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/autohedge/autohedge/signals/indicator"
	"github.com/autohedge/autohedge/stream/event"
)

// Stats counts what an engine did since it was made.
type Stats struct {
	Trades, Quotes, Coverage, Clocks uint64
	// Ignored are records of market types that this build has no use for.
	Ignored uint64
	// Unusable are trades without a price above 0, trades older than one before
	// them on their channel (backfilled ones) and crossed quotes: no rule sees them.
	Unusable uint64
	// Ahead are trades whose event time is ahead of their receive time by more than
	// MaxEventAhead: rules see them, but their event time makes no other trade late.
	Ahead   uint64
	Signals uint64
	// Suppressed are crossings that a cooldown swallowed.
	Suppressed uint64
	// Resets are indicators that began anew after a hole in the data.
	Resets uint64
}

// Engine is the state of one partition of md: pure, one goroutine, no clock. Two
// engines that are given the same rule sets and records at the same offsets
// return the same signals, however the records are batched.
type Engine struct {
	partition   int32
	set         *RuleSet
	now         int64 // latest receive time in the partition
	instruments map[string]*instrument
	order       []*instrument // as they appeared
	stats       Stats

	saving *saving // the state being taken, nil when none is
	saves  uint64  // how many were begun

	notices []Notice // since the last TakeNotices

	trade event.Trade
	quote event.Quote
	tick  indicator.Tick
	out   []event.Signal
}

// MaxEventAhead is how far a trade's event time may be ahead of its receive time
// before it counts as a wrong clock of the venue, or of ours, in nanoseconds.
const MaxEventAhead = int64(time.Second)

// Notice is what an engine has seen of an instrument that a person should know.
// Each kind is given once an instrument.
type Notice struct {
	Instrument string // venue|symbol
	// EventTime and RecvTime are those of the trade, Unix nanoseconds.
	EventTime, RecvTime int64
	// Unusable is 0 for an event time ahead of the receive time, else how many
	// trades in a row no rule could use.
	Unusable int
}

// unusableInARow is how many trades of an instrument must have been unusable, one
// after another, before that is a notice.
const unusableInARow = 100

// instrument is one key of the partition.
type instrument struct {
	key           []byte
	index         int    // in Engine.order
	saved         uint64 // the last of Engine.saves that has it or need not
	venue, symbol string
	watches       []*watch
	onTrade       []*watch // of watches, those fed with trades
	onQuote       []*watch

	quote    event.Quote // latest, for judging; see hasQuote
	hasQuote bool
	// newest is the newest event time of each trade channel, by its number, among
	// those that were not ahead of their receive time; a hole forgets it.
	newest [maxChannels]int64
	// cooldowns are those of rules that do not watch the instrument at present.
	cooldowns []cooldown

	aheadNoticed    bool
	unusableInARow  int
	unusableNoticed bool
}

// maxChannels is how many channels have an order of event times; a trade of a
// channel beyond is never late.
const maxChannels = 32

// watch is one indicator of an instrument and the rules over it.
type watch struct {
	name   string
	source indicator.Source
	ind    indicator.Indicator
	rules  []armed
}

// armed is a rule with its state.
type armed struct {
	rule  *rule
	state ruleState
}

// NewEngine returns the engine of a partition, without rules.
func NewEngine(partition int32) *Engine {
	return &Engine{partition: partition, set: &RuleSet{}, instruments: make(map[string]*instrument)}
}

// Now is the latest receive time that the partition has shown, Unix nanoseconds.
func (e *Engine) Now() int64 { return e.now }

// Stats returns the counts so far.
func (e *Engine) Stats() Stats { return e.stats }

// TakeNotices returns the notices since the last call; the caller owns them.
func (e *Engine) TakeNotices() []Notice {
	n := e.notices
	e.notices = nil
	return n
}

// Apply makes the set rule from the next record on. What each rule keeps is said
// at bindRules; an indicator that is still needed keeps its state.
func (e *Engine) Apply(set *RuleSet) error {
	if e.saving != nil {
		for _, inst := range e.order {
			if inst.saved != e.saves {
				e.saveInstrument(inst)
			}
		}
	}
	e.set = set
	for _, inst := range e.instruments {
		if err := e.bindRules(inst); err != nil {
			return err
		}
	}
	return nil
}

// bindRules gives an instrument the watches of the rules that match it, in the
// order of the set. A rule is known again by its name: one that evaluates as
// before keeps its whole state, any other begins as after a hole. Its cooldown goes
// on either way, also when the rule was gone in between.
func (e *Engine) bindRules(inst *instrument) error {
	had := make(map[string]*watch, len(inst.watches))
	before := make(map[string]armed)
	for _, w := range inst.watches {
		had[w.name] = w
		for _, a := range w.rules {
			before[a.rule.Name] = a
		}
		w.rules = nil
	}
	inst.watches, inst.onTrade, inst.onQuote = nil, nil, nil
	byName := make(map[string]*watch)
	for _, r := range e.set.rules {
		if !r.matches(inst.venue, inst.symbol) {
			continue
		}
		w := byName[r.watch]
		if w == nil {
			if w = had[r.watch]; w == nil {
				var err error
				if w, err = newWatch(r); err != nil {
					return fmt.Errorf("binding rules to %s: %w", inst.key, err)
				}
			}
			byName[r.watch] = w
			inst.watches = append(inst.watches, w)
			if r.source == indicator.Trades {
				inst.onTrade = append(inst.onTrade, w)
			} else {
				inst.onQuote = append(inst.onQuote, w)
			}
		}
		a := armed{rule: r}
		last, fired := inst.takeCooldown(r.Name)
		if prev, ok := before[r.Name]; ok && prev.rule.evaluatesLike(r) {
			a.state = prev.state
		} else {
			if ok {
				last, fired = prev.state.last, prev.state.fired
			}
			a.state.last, a.state.fired = last, fired
			r.begin(&a.state)
		}
		delete(before, r.Name)
		w.rules = append(w.rules, a)
	}
	for name, a := range before {
		if a.state.fired {
			inst.putCooldown(name, a.state.last)
		}
	}
	return nil
}

// newWatch makes the indicator that a rule needs.
func newWatch(r *rule) (*watch, error) {
	spec, err := indicator.Registry.Lookup(r.Indicator)
	if err != nil {
		return nil, err
	}
	ind, err := spec.New.New(r.cfg)
	if err != nil {
		return nil, err
	}
	return &watch{name: r.watch, source: r.source, ind: ind}, nil
}

// errNotMarket is the error of Step for a record that does not belong in md.
var errNotMarket = errors.New("not market data")

// Step takes the record at the offset and returns the signals it fires, in
// their order (Lineage.K); they are valid until the next Step. An error says
// that the record is not usable (a dead letter) and that the state is as before
// it. Nothing is allocated while nothing fires and no new instrument appears.
func (e *Engine) Step(offset int64, key, value []byte) ([]event.Signal, error) {
	e.out = e.out[:0]
	switch t := event.TypeOf(value); t {
	case event.TypeTrade:
		if err := event.DecodeTrade(value, &e.trade); err != nil {
			return nil, err
		}
		inst, err := e.instrument(key)
		if err != nil {
			return nil, err
		}
		e.stats.Trades++
		e.onTrade(inst, offset)
	case event.TypeQuote:
		if err := event.DecodeQuote(value, &e.quote); err != nil {
			return nil, err
		}
		inst, err := e.instrument(key)
		if err != nil {
			return nil, err
		}
		e.stats.Quotes++
		e.onQuote(inst, offset)
	case event.TypeCoverage:
		c, err := event.DecodeAs[*event.Coverage](value)
		if err != nil {
			return nil, err
		}
		inst, err := e.instrument(key)
		if err != nil {
			return nil, err
		}
		e.stats.Coverage++
		e.moveTo(c.RecvTime)
		e.onCoverage(inst, c)
	case event.TypeClock:
		c, err := event.DecodeAs[*event.Clock](value)
		if err != nil {
			return nil, err
		}
		e.stats.Clocks++
		e.moveTo(c.Time)
	default:
		if t > event.TypeClock && t < event.TypeSignal {
			e.stats.Ignored++ // market data that a newer version or a later stage writes
			return nil, nil
		}
		return nil, fmt.Errorf("reading record of type %d: %w", t, errNotMarket)
	}
	return e.out, nil
}

func (e *Engine) moveTo(t int64) { e.now = max(e.now, t) }

// instrument returns the state of a key. The look-up does not allocate.
func (e *Engine) instrument(key []byte) (*instrument, error) {
	if inst := e.instruments[string(key)]; inst != nil {
		if inst.saved != e.saves {
			e.saveInstrument(inst) // before this record changes it
		}
		return inst, nil
	}
	inst, err := e.newInstrument(key)
	if err != nil {
		return nil, err
	}
	inst.index, inst.saved = len(e.order), e.saves
	e.order = append(e.order, inst)
	e.instruments[string(key)] = inst
	return inst, nil
}

// newInstrument makes the state of a key that has shown nothing yet.
func (e *Engine) newInstrument(key []byte) (*instrument, error) {
	venue, symbol := event.SplitKey(key)
	if err := event.CheckKey(key); err != nil {
		return nil, err
	}
	inst := &instrument{key: bytes.Clone(key), venue: string(venue), symbol: string(symbol)}
	if err := e.bindRules(inst); err != nil {
		return nil, err
	}
	return inst, nil
}

func (e *Engine) onTrade(inst *instrument, offset int64) {
	t := &e.trade
	e.moveTo(t.RecvTime)
	if t.Late || t.TimeSource == event.TimeEvent && e.isLate(inst, t) {
		e.countUnusable(inst, t)
		return
	}
	price := t.Price.Float64()
	if price <= 0 {
		e.countUnusable(inst, t)
		return
	}
	inst.unusableInARow = 0
	tick := &e.tick // a local one would be allocated: it goes through an interface
	*tick = indicator.Tick{Time: t.RecvTime, Price: price}
	if t.Qty.Valid {
		tick.Qty = t.Qty.Decimal.Float64()
	}
	for _, w := range inst.onTrade {
		e.feed(inst, w, tick, offset)
	}
}

// isLate reports whether the venue made the trade before one that was seen on its
// channel since the last hole. An event time that is ahead of the receive time by
// more than MaxEventAhead is one of a wrong clock: it is not compared with, or one
// such trade would make every later one of its channel late.
func (e *Engine) isLate(inst *instrument, t *event.Trade) bool {
	if t.EventTime-t.RecvTime > MaxEventAhead {
		e.stats.Ahead++
		if !inst.aheadNoticed {
			inst.aheadNoticed = true
			e.notices = append(e.notices, Notice{Instrument: string(inst.key), EventTime: t.EventTime, RecvTime: t.RecvTime})
		}
		return false
	}
	if int(t.Channel) >= len(inst.newest) {
		return false
	}
	newest := &inst.newest[t.Channel]
	if t.EventTime < *newest {
		return true
	}
	*newest = t.EventTime
	return false
}

// countUnusable counts a trade that no rule sees.
func (e *Engine) countUnusable(inst *instrument, t *event.Trade) {
	e.stats.Unusable++
	if inst.unusableInARow++; inst.unusableInARow == unusableInARow && !inst.unusableNoticed {
		inst.unusableNoticed = true
		e.notices = append(e.notices, Notice{Instrument: string(inst.key), EventTime: t.EventTime, RecvTime: t.RecvTime, Unusable: unusableInARow})
	}
}

func (e *Engine) onQuote(inst *instrument, offset int64) {
	e.moveTo(e.quote.RecvTime)
	inst.quote, inst.hasQuote = e.quote, true
	if len(inst.onQuote) == 0 {
		return
	}
	bid, ask := e.quote.Bid.Float64(), e.quote.Ask.Float64()
	if bid <= 0 || ask <= 0 {
		return // an empty side: no mid, no spread
	}
	if bid > ask {
		e.stats.Unusable++ // a crossed book is one that is wrong: its mid is no price
		return
	}
	tick := &e.tick
	*tick = indicator.Tick{Time: e.quote.RecvTime, Price: bid + (ask-bid)/2, Bid: bid, Ask: ask}
	for _, w := range inst.onQuote {
		e.feed(inst, w, tick, offset)
	}
}

// onCoverage forgets what a hole makes wrong. Windows and averages over a hole
// would mix the prices before and after it, so the indicators fed by that
// channel warm up again and their rules wait for a new crossing; cooldowns go
// on. A hole in a quote channel also takes the quote that signals are judged
// against, until the next one. Backfilled trades come too late to be seen.
func (e *Engine) onCoverage(inst *instrument, c *event.Coverage) {
	switch c.Kind {
	case event.CoverageLost, event.CoverageUnrecoverable, event.CoverageKindUnknown:
	default:
		return
	}
	trades, quotes := carries(c.Channel)
	if int(c.Channel) < len(inst.newest) {
		inst.newest[c.Channel] = 0 // what it was before the hole says nothing of what comes after
	}
	e.reset(inst, trades, quotes)
}

// lose is what a hole in every channel of every instrument does: records of the
// partition are gone.
func (e *Engine) lose() {
	for _, inst := range e.order {
		if inst.saved != e.saves {
			e.saveInstrument(inst)
		}
		inst.newest = [maxChannels]int64{}
		e.reset(inst, true, true)
	}
}

// reset makes the indicators that these channels feed begin anew.
func (e *Engine) reset(inst *instrument, trades, quotes bool) {
	if quotes {
		inst.hasQuote = false
	}
	for _, w := range inst.watches {
		if (w.source == indicator.Trades && !trades) || (w.source == indicator.Quotes && !quotes) {
			continue
		}
		e.stats.Resets++
		w.ind.Reset()
		for i := range w.rules {
			a := &w.rules[i]
			a.rule.begin(&a.state)
		}
	}
}

// carries tells what a channel may bring; one that is not known, both.
func carries(c event.Channel) (trades, quotes bool) {
	switch c {
	case event.ChannelTrade, event.ChannelAggTrade, event.ChannelMatches:
		return true, false
	case event.ChannelBookTicker, event.ChannelTicker:
		return false, true
	}
	return true, true
}

// feed hands a tick to an indicator and its value to the rules.
func (e *Engine) feed(inst *instrument, w *watch, tick *indicator.Tick, offset int64) {
	value, ok := w.ind.Update(tick)
	if !ok || math.IsNaN(value) || math.IsInf(value, 0) {
		return
	}
	for i := range w.rules {
		a := &w.rules[i]
		switch a.rule.step(&a.state, value, tick.Time) {
		case fire:
			e.stats.Signals++
			e.fire(inst, w, a.rule, value, offset)
		case suppressed:
			e.stats.Suppressed++
		}
	}
}

// fire appends the rule's signal on the record in hand.
func (e *Engine) fire(inst *instrument, w *watch, r *rule, value float64, offset int64) {
	s := event.Signal{
		RuleHash: r.hash, RuleSet: e.set.Hash, Rule: r.Name, Kind: KindThreshold,
		Strategy: r.Strategy, Account: r.Account, Venue: inst.venue, Symbol: inst.symbol, Side: r.side,
		Lineage:   event.Lineage{Topic: event.TopicMarket, Partition: e.partition, Offset: offset, K: uint32(len(e.out))},
		Indicator: r.Indicator, Value: value, Threshold: r.Threshold, Values: w.ind.Values(nil),
		Horizon: r.horizon, MaxDriftBps: r.drift,
	}
	if w.source == indicator.Trades {
		s.Time, s.EventTime = e.trade.RecvTime, e.trade.EventTime
		s.RefPrice = e.trade.Price
		s.Triggers = append(s.Triggers, string(e.trade.AppendID(nil, inst.key)))
	} else {
		s.Time, s.EventTime = inst.quote.RecvTime, inst.quote.EventTime
		s.RefPrice = mid(&inst.quote, r.side)
	}
	if inst.hasQuote {
		q := &inst.quote
		s.Bid, s.Ask = side(q.Bid), side(q.Ask)
		s.Triggers = append(s.Triggers, string(q.AppendID(nil, inst.key)))
		s.Values = append(s.Values, event.Value{Name: "quote_age_ms", Value: float64(s.Time-q.RecvTime) / 1e6})
	}
	s.Deadline = s.Time + r.ttl
	// The hash names the rule, so this is the first signal of that rule on the
	// record, whatever other rules fired on it; K of the lineage counts them all.
	s.ID = event.SignalID(r.hash, s.Triggers[0], 0)
	e.out = append(e.out, s)
}

// KindThreshold is the kind of every signal that a rule fires.
const KindThreshold = "threshold"

// side returns a price, absent when that side of the book is empty.
func side(price event.Decimal) event.NullDecimal {
	if price.Sign() <= 0 {
		return event.NullDecimal{}
	}
	return event.Some(price)
}

var half = event.MustDecimal("0.5").Money()

// mid returns the exact middle of a quote that has both sides; where it would
// take more decimals than a price can have, the side that an order would meet.
func mid(q *event.Quote, s event.Side) event.Decimal {
	m, err := event.FromMoney(q.Bid.Money().Add(q.Ask.Money()).Mul(half))
	switch {
	case err == nil && q.Bid.Scale() < event.MaxScale && q.Ask.Scale() < event.MaxScale:
		return m
	case s == event.Sell:
		return q.Bid
	}
	return q.Ask
}

package stream

import (
	"cmp"
	"slices"

	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/venue"
)

// heldMost bounds the trades of a channel that wait for the decision whether the venue
// begins its ids again.
const heldMost = 64

// sortIDs brings trades of one channel and symbol, within a frame, into the order of
// their ids: some venues send the newest first. Nothing else moves.
func sortIDs(items []venue.Item) {
	for i := 1; i < len(items); i++ {
		if !precedes(&items[i], &items[i-1]) {
			continue
		}
		// Out of order: sort each channel's trades into the places that they have.
		places := make(map[string][]int)
		for k := range items {
			if t := &items[k].Trade; items[k].Type == event.TypeTrade && t.TradeID != 0 {
				name := t.Channel.String() + " " + string(items[k].Symbol)
				places[name] = append(places[name], k)
			}
		}
		for _, at := range places {
			sorted := make([]venue.Item, len(at))
			for n, k := range at {
				sorted[n] = items[k]
			}
			slices.SortStableFunc(sorted, func(a, b venue.Item) int { return cmp.Compare(a.Trade.TradeID, b.Trade.TradeID) })
			for n, k := range at {
				items[k] = sorted[n]
			}
		}
		return
	}
}

// precedes reports whether a trade has a lower id than one before it.
func precedes(a, before *venue.Item) bool {
	return a.Type == event.TypeTrade && before.Type == event.TypeTrade && a.Trade.TradeID != 0 && a.Trade.TradeID < before.Trade.TradeID &&
		a.Trade.Channel == before.Trade.Channel && string(a.Symbol) == string(before.Symbol)
}

func (f *feed) trade(c *conn, s *symbol, t *event.Trade) (why string, err error) {
	ch := s.channel(t.Channel)
	if ch == nil {
		return reasonChannel, nil
	}
	if s.trades != t.Channel {
		if s.trades != event.ChannelUnknown {
			return reasonSecondTrade, nil
		}
		s.trades = t.Channel // a replay: the first one seen
	}
	t.Connection = c.number
	v := ch.judge(sightingOf(t))
	switch v {
	case duplicate:
		f.duplicate(s, ch)
		return reasonDuplicate, nil
	case held:
		return reasonHeld, f.hold(c, s, ch, t)
	case restarted:
		if err := f.restart(c, s, ch, t.TradeID, t.RecvTime); err != nil {
			return "", err
		}
		first := ch.takeHeld()
		for i := range first {
			if err := f.publishTrade(c, s, ch, &first[i], newest); err != nil {
				return "", err
			}
		}
		v = newest
	case newest:
		if err := f.settle(c, s, ch); err != nil {
			return "", err
		}
	case late:
	}
	return "", f.publishTrade(c, s, ch, t, v)
}

// sightingOf is what is judged of a trade. The time at which a message was published is
// not that of the trades in it, which may be old ones.
func sightingOf(t *event.Trade) sighting {
	s := sighting{id: t.TradeID, recv: t.RecvTime}
	if t.TimeSource == event.TimeEvent || t.TimeSource == event.TimePublish {
		s.time = t.EventTime
		s.own = t.TimeSource == event.TimeEvent
	}
	return s
}

// sightingOfQuote is the same of a quote.
func sightingOfQuote(q *event.Quote) sighting {
	s := sighting{id: q.Sequence, recv: q.RecvTime}
	if q.TimeSource == event.TimeEvent {
		s.time, s.own = q.EventTime, true
	}
	return s
}

// publishTrade states what was lost before a trade, and publishes it.
func (f *feed) publishTrade(c *conn, s *symbol, ch *channelState, t *event.Trade, v verdict) error {
	if err := f.before(c, s, ch, t.TradeID, v, t.RecvTime); err != nil {
		return err
	}
	t.Epoch, t.Late = ch.epoch, v == late
	if seen := sightingOf(t); ch.spec.IDs == venue.IDsOrdered && seen.own && seen.time >= ch.ids.lastTime {
		t.Late = false // ids of several counters: the time tells
	}
	if t.TradeID == 0 && t.TradeIDText == "" {
		t.Ordinal = ch.ordinal + 1
	}
	f.buf = t.AppendWire(f.buf[:0])
	if err := f.append(s); err != nil {
		return err
	}
	ch.after(sightingOf(t), t.Ordinal)
	f.stats.trades++
	if !t.Late {
		return nil
	}
	f.stats.late++
	if ch.spec.IDs != venue.IDsContiguous {
		return nil
	}
	return f.state(c, s, ch, &event.Coverage{Kind: event.CoverageBackfilled, FromID: t.TradeID, ToID: t.TradeID, FromTime: t.RecvTime, ToTime: t.RecvTime, Reason: whyLate}, t.RecvTime)
}

func (f *feed) quote(c *conn, s *symbol, q *event.Quote) (why string, err error) {
	ch := s.channel(q.Channel)
	if ch == nil {
		return reasonChannel, nil
	}
	seen := sightingOfQuote(q)
	switch ch.judge(seen) {
	case duplicate, held: // the next ones decide; a quote is worth nothing then
		f.duplicate(s, ch)
		return reasonDuplicate, nil
	case restarted:
		if err := f.restart(c, s, ch, q.Sequence, q.RecvTime); err != nil {
			return "", err
		}
	case newest, late:
	}
	if err := f.before(c, s, ch, q.Sequence, newest, q.RecvTime); err != nil {
		return "", err
	}
	q.Connection, q.Epoch = c.number, ch.epoch
	if q.Sequence == 0 {
		q.Ordinal = ch.ordinal + 1
	}
	f.buf = q.AppendWire(f.buf[:0])
	if err := f.append(s); err != nil {
		return "", err
	}
	ch.after(seen, q.Ordinal)
	f.stats.quotes++
	return "", nil
}

// judge says what becomes of a record; one without an id is always the newest.
func (ch *channelState) judge(s sighting) verdict {
	if ch.spec.IDs == venue.IDsAbsent || s.id == 0 {
		return newest
	}
	return ch.ids.judge(s)
}

// after notes a published record.
func (ch *channelState) after(s sighting, ordinal uint64) {
	ch.ids.note(s)
	if ordinal > ch.ordinal {
		ch.ordinal = ordinal
	}
	ch.lastRecv, ch.repeats = max(ch.lastRecv, s.recv), 0
}

// before states what was lost, and that reception began, ahead of a record that is
// published.
func (f *feed) before(c *conn, s *symbol, ch *channelState, id uint64, v verdict, recv int64) error {
	contiguous := ch.spec.IDs == venue.IDsContiguous
	if contiguous && v == newest && id != 0 && ch.ids.last != 0 && id > ch.ids.last+1 {
		why, since := whyJump, ch.lastRecv
		if ch.down.since != 0 {
			why, since = ch.down.why, ch.down.since
		}
		if err := f.lost(c, s, ch, id-1, since, why, recv); err != nil {
			return err
		}
	}
	if ch.conn == c.number {
		return nil
	}
	if !contiguous && ch.down.since != 0 {
		if err := f.state(c, s, ch, &event.Coverage{Kind: event.CoverageLost, FromTime: ch.down.since, ToTime: recv, Reason: ch.down.why}, recv); err != nil {
			return err
		}
		f.stats.gaps++
	}
	received := event.Coverage{Kind: event.CoverageReceived, FromTime: recv}
	if ch.spec.IDs != venue.IDsAbsent {
		received.FromID = id
	}
	if err := f.state(c, s, ch, &received, recv); err != nil {
		return err
	}
	if ch.down.since != 0 && !ch.down.stated {
		f.unstated--
	}
	ch.conn, ch.ordinal = c.number, 0
	ch.down.since, ch.down.why, ch.down.stated = 0, "", false
	return nil
}

// restart begins an epoch: the venue begins its ids again at about id.
func (f *feed) restart(c *conn, s *symbol, ch *channelState, id uint64, recv int64) error {
	last := ch.ids.last
	ch.epoch++
	if err := f.state(c, s, ch, &event.Coverage{Kind: event.CoverageKindUnknown, FromTime: ch.lastRecv, ToTime: recv, Reason: whyRestarted}, recv); err != nil {
		ch.epoch--
		return err
	}
	f.log.Warn("the venue's ids began anew", "key", string(s.key), "channel", ch.spec.Name, "epoch", ch.epoch, "last", last, "now", id)
	ch.ids.begin()
	f.stats.epochs++
	return nil
}

// hold keeps a trade until the next ones show whether the venue begins its ids again, however
// long that takes: a symbol may trade once a minute.
func (f *feed) hold(c *conn, s *symbol, ch *channelState, t *event.Trade) error {
	if slices.ContainsFunc(ch.held, func(h event.Trade) bool { return h.TradeID == t.TradeID }) {
		f.duplicate(s, ch)
		return nil
	}
	if len(ch.held) == heldMost {
		if err := f.settle(c, s, ch); err != nil {
			return err
		}
	}
	ch.held, ch.heldOn = append(ch.held, *t), c
	return nil
}

// takeHeld gives out the trades that a channel holds, in the order of their ids.
func (ch *channelState) takeHeld() []event.Trade {
	if len(ch.held) == 0 {
		return nil
	}
	out := slices.Clone(ch.held)
	ch.held = ch.held[:0]
	slices.SortFunc(out, func(a, b event.Trade) int { return cmp.Compare(a.TradeID, b.TradeID) })
	return out
}

// settle gives up the thought that the venue begins its ids again: what is held was not seen, and
// is late, or it is a duplicate.
func (f *feed) settle(c *conn, s *symbol, ch *channelState) error {
	for _, t := range ch.takeHeld() {
		if !ch.ids.unseen(t.TradeID) {
			f.duplicate(s, ch)
			continue
		}
		if err := f.publishTrade(c, s, ch, &t, late); err != nil {
			return err
		}
	}
	return nil
}

// settleHeld settles what is held in the end; mu is held.
func (f *feed) settleHeld() {
	for _, s := range f.symbols {
		for i := range s.channels {
			ch := &s.channels[i]
			if err := f.settle(ch.heldOn, s, ch); err != nil {
				f.log.Warn("leaving out trades that were held", "key", string(s.key), "channel", ch.spec.Name, "err", err)
			}
		}
	}
}

// lost states that the ids after the last one up to id were not received.
func (f *feed) lost(c *conn, s *symbol, ch *channelState, id uint64, since int64, why string, recv int64) error {
	from := ch.ids.last + 1
	if err := f.state(c, s, ch, &event.Coverage{Kind: event.CoverageLost, FromID: from, ToID: id, FromTime: since, ToTime: recv, Reason: why}, recv); err != nil {
		return err
	}
	f.log.Warn("records were lost", "key", string(s.key), "channel", ch.spec.Name, "from", from, "to", id, "why", why)
	ch.ids.lose(id)
	f.stats.gaps++
	f.stats.lostIDs += id - from + 1
	return nil
}

// mark takes note of the id that a channel had reached before the connection
// listened: what lies between it and our last one was missed.
func (f *feed) mark(c *conn, m *venue.Mark, recv int64) error {
	s, ok := f.symbols[string(m.Symbol)]
	if !ok {
		return nil
	}
	ch := s.channel(m.Channel)
	if ch == nil || ch.spec.IDs != venue.IDsContiguous || ch.ids.last == 0 || m.ID <= ch.ids.last {
		return nil
	}
	why, since := whyHistory, ch.lastRecv
	if ch.down.since != 0 {
		why, since = ch.down.why, ch.down.since
	}
	return f.lost(c, s, ch, m.ID, since, why, recv)
}

// state writes a coverage record.
func (f *feed) state(c *conn, s *symbol, ch *channelState, cov *event.Coverage, recv int64) error {
	c.statements++
	cov.Channel, cov.Contiguous, cov.Epoch = ch.spec.Channel, ch.spec.IDs == venue.IDsContiguous, ch.epoch
	cov.RecvTime, cov.Connection, cov.Ordinal = recv, c.number, c.statements
	f.buf = event.Append(f.buf[:0], cov)
	return f.append(s)
}

// repeatsWarned is the number of duplicates in a row after which the log tells.
const repeatsWarned = 1000

func (f *feed) duplicate(s *symbol, ch *channelState) {
	f.stats.duplicates++
	if ch.repeats++; ch.repeats == repeatsWarned {
		f.log.Warn("nothing but records that were there before", "key", string(s.key), "channel", ch.spec.Name, "last", ch.ids.last)
	}
}

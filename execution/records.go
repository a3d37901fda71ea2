package execution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/autohedge/autohedge/execution/exits"
	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// How many orders of a partition are remembered, beyond those that are not done.
const (
	// keepWhole is of how many a fill that comes late is still taken over.
	keepWhole = 8192
	// keepKnown is of how many it is remembered that they were begun: the window in
	// which second copies of a decision are possible (design.md section 3).
	keepKnown = 65536
)

// orders are those that a partition remembers: each that is not done, the last
// ones whole, and of more that they were begun. It is not safe for concurrent use.
type orders struct {
	whole map[string]*order
	known map[string]struct{} // by client order id
	// recent and begun are the keys of both, oldest first; an order that is not
	// done takes another turn.
	recent, begun []string
	// entries are the entries that are whole, by the signal and account that they are of.
	entries map[signalKey]string
	// keepWhole and keepKnown are the constants of that name; tests have less.
	keepWhole, keepKnown int
}

// signalKey is a signal as one account acts on it.
type signalKey struct {
	signal  event.ID
	account string
}

func newOrders() *orders {
	return &orders{whole: make(map[string]*order), known: make(map[string]struct{}), entries: make(map[signalKey]string), keepWhole: keepWhole, keepKnown: keepKnown}
}

// of returns an order, nil where it is not remembered whole.
func (o *orders) of(id string) *order { return o.whole[id] }

// has reports whether an order of that id was begun.
func (o *orders) has(id string) bool {
	_, ok := o.known[id]
	return ok
}

// put remembers an order. Of one that a limit refused only that it was begun: no
// broker ever tells of it, and many of them must not push those out that were sent.
func (o *orders) put(ord *order) {
	id := ord.id()
	if ord.state() != event.OrderRiskRejected {
		if o.of(id) == nil {
			o.recent = append(o.recent, id)
		}
		o.putWhole(id, ord)
	}
	if !o.has(id) {
		o.known[id] = struct{}{}
		o.begun = append(o.begun, id)
	}
}

func (o *orders) putWhole(id string, ord *order) {
	o.whole[id] = ord
	if e := &ord.last; e.Leg == event.LegEntry && !e.SignalID.IsZero() {
		o.entries[signalKey{e.SignalID, e.Account}] = id
	}
}

// entered returns the order by which an account acted on a signal, if that is whole.
func (o *orders) entered(signal event.ID, account string) string {
	return o.entries[signalKey{signal, account}]
}

// trim lets the oldest orders go of which done is true: it returns the ids of those
// that are not whole any more.
func (o *orders) trim(done func(*order) bool) (gone []string) {
	for range len(o.recent) - o.keepWhole {
		oldest := o.recent[0]
		o.recent = o.recent[1:]
		if !done(o.whole[oldest]) {
			o.recent = append(o.recent, oldest)
			continue
		}
		if k := (signalKey{o.whole[oldest].last.SignalID, o.whole[oldest].last.Account}); o.entries[k] == oldest {
			delete(o.entries, k)
		}
		delete(o.whole, oldest)
		gone = append(gone, oldest)
	}
	for range len(o.begun) - o.keepKnown {
		oldest := o.begun[0]
		o.begun = o.begun[1:]
		if o.of(oldest) != nil {
			o.begun = append(o.begun, oldest)
			continue
		}
		delete(o.known, oldest)
	}
	return gone
}

// sources are the topics that the records of a partition lie in, in the order in
// which they are read: a fill follows the order that it fills.
var sources = []string{event.TopicOrders, event.TopicFills, event.TopicPositions}

// records is what follows from one partition of the order log, fills and positions,
// and from nothing else: what a restart begins with. A snapshot holds it as it was
// up to some offsets; reading on from there comes to the same as reading all.
type records struct {
	next   map[string]int64 // by topic: the first offset that is not in it
	orders *orders
	// charged is when the orders of the last minute began, by account.
	charged map[string][]int64
	book    *ledger.Book
	// lots follow from the orders and the fills, as book does.
	lots *exits.Book
	// conflicts says, by account, that the log of fills contradicts itself.
	conflicts map[string]string
	// unreadable are the records of the logs that hold no event of theirs: what they
	// would have said is not known, so that the partition's accounts are halted.
	unreadable []string
}

func newRecords() *records {
	return &records{
		next: make(map[string]int64), orders: newOrders(), charged: make(map[string][]int64), book: ledger.NewBook(), lots: exits.NewBook(),
		conflicts: make(map[string]string),
	}
}

// settled reports whether nothing more is to be done for an order: it is done and
// the log of fills holds all that it was filled.
func (s *records) settled(ord *order) bool { return ord.settled(s.book.Proven(ord.id())) }

// order takes an entry of the order log over.
func (s *records) order(e *event.OrderEvent) {
	known := s.orders.of(e.ClientOrderID)
	if known != nil && e.Seq <= known.last.Seq {
		return // a second copy
	}
	s.lots.Order(e)
	if e.State == event.OrderSubmitting && !e.Leg.Exits() { // exits have a budget of their own
		lately := slices.DeleteFunc(s.charged[e.Account], func(t int64) bool { return t <= e.Time-int64(time.Minute) })
		s.charged[e.Account] = append(lately, e.Time)
	}
	s.orders.put(restored(e))
}

// trim lets orders go that are long done. It is for a moment at which the logs were
// read up to about the same time.
func (s *records) trim() {
	s.lots.Prune(func(lot string) bool {
		entry := s.orders.of(lot)
		return entry == nil || s.settled(entry)
	})
	for _, id := range s.orders.trim(s.settled) {
		s.book.Forget(id)
	}
}

// fill takes a record of the log of fills over. One that contradicts another, or
// cannot be counted, is noted, which halts the account, and changes nothing.
func (s *records) fill(f *event.Fill, currency string) {
	applied, err := s.book.Apply(f, currency)
	if err == nil && applied {
		err = s.lots.Apply(f, termsOf(s.orders.of(f.ClientOrderID)))
	}
	if err != nil {
		s.conflicts[f.Account] = err.Error()
	}
}

// termsOf is what an order says of lots; of one that is not remembered, nothing.
func termsOf(ord *order) exits.Terms {
	if ord == nil {
		return exits.Terms{}
	}
	return exits.TermsOf(&ord.last)
}

// read reads on to the ends of the logs as they are now and returns how many records
// that were. quoted is the currency an instrument is quoted in, "" where it is not
// known.
func (s *records) read(ctx context.Context, c *bus.Client, partition int32, quoted func(venue, symbol string) string) (n int, err error) {
	// What a fill means is said by its order, so that fills are read no further than they
	// were before the orders are read.
	ends, err := c.Offsets(ctx, event.TopicFills)
	if err != nil {
		return 0, err
	}
	fills := ends[partition].End
	for _, topic := range sources {
		from, known := s.next[topic]
		if !known {
			from = bus.FromStart
		}
		end, err := c.ReadAll(ctx, topic, partition, from, func(rec bus.Record) error {
			if topic == event.TopicFills && rec.Offset >= fills {
				return nil
			}
			n++
			if event.TypeOf(rec.Value) == event.TypeEpoch {
				return nil
			}
			if err := s.take(&rec, quoted); err != nil && !c.SkippedRecord(rec.Topic, rec.Partition, rec.Offset) && len(s.unreadable) < maxUnreadable {
				s.unreadable = append(s.unreadable, fmt.Sprintf("%s/%d holds a record at offset %d that cannot be used: %v; look at it and at the broker's positions, then go on: "+
					"autohedge topics skip %s/%d --at %d --why \"...\", and autohedge resume", rec.Topic, rec.Partition, rec.Offset, err, rec.Topic, rec.Partition, rec.Offset))
			}
			return nil
		})
		if err != nil {
			return n, err
		}
		if topic == event.TopicFills {
			end = max(min(end, fills), s.next[topic])
		}
		s.next[topic] = end
	}
	s.trim()
	return n, nil
}

func (s *records) take(rec *bus.Record, quoted func(venue, symbol string) string) error {
	m, err := event.Decode(rec.Value)
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case *event.OrderEvent:
		s.order(m)
	case *event.Fill:
		currency := quoted(m.Venue, m.Symbol)
		if currency == "" {
			currency = m.FeeCurrency
		}
		s.fill(m, currency)
	case *event.Position:
		s.book.Restore(m)
	default:
		return fmt.Errorf("it is of type %d, which does not belong there", event.TypeOf(rec.Value))
	}
	return nil
}

// maxUnreadable bounds the records that are named; the first says enough.
const maxUnreadable = 16

// recordsForm is the form of what a snapshot holds, savedRecords; it counts up when
// that changes its meaning.
const recordsForm = 2

// savedRecords is records as bytes, in JSON.
type savedRecords struct {
	Next map[string]int64 `json:"next"`
	// Lives are the incarnations of the topics that the offsets belong to.
	Lives   map[string]event.ID `json:"lives"`
	Orders  [][]byte            `json:"orders"` // the last entry of each, oldest order first
	Begun   []string            `json:"begun"`
	Charged map[string][]int64  `json:"charged"`
	Book    ledger.Saved        `json:"book"`
	// Conflicts are those of the log of fills, by account.
	Conflicts map[string]string `json:"conflicts,omitempty"`
	// Lots is absent in snapshots of builds that had none.
	Lots *exits.Saved `json:"lots,omitempty"`
}

func (s *records) encode(life func(topic string) event.ID) ([]byte, error) {
	out := savedRecords{
		Next: s.next, Lives: make(map[string]event.ID), Begun: s.orders.begun, Charged: s.charged, Book: s.book.Save(), Conflicts: s.conflicts,
		Lots: s.lots.Save(),
	}
	for _, topic := range sources {
		out.Lives[topic] = life(topic)
	}
	for _, id := range s.orders.recent {
		out.Orders = append(out.Orders, event.Marshal(&s.orders.of(id).last))
	}
	b, err := json.Marshal(&out)
	if err != nil {
		return nil, fmt.Errorf("encoding the records of a partition: %w", err)
	}
	return b, nil
}

// errOtherLife says that a snapshot holds the records of another life of a topic:
// somebody adopted a log, and what counts is what it holds now.
var errOtherLife = errors.New("it was made from another life of the topic")

func decodeRecords(state []byte, life func(topic string) event.ID) (*records, error) {
	var in savedRecords
	if err := json.Unmarshal(state, &in); err != nil {
		return nil, fmt.Errorf("decoding the records of a partition: %w", err)
	}
	s := newRecords()
	for _, topic := range sources {
		next, ok := in.Next[topic]
		if !ok || next < 0 {
			return nil, fmt.Errorf("decoding the records of a partition: no offset of %s", topic)
		}
		if in.Lives[topic] != life(topic) {
			return nil, fmt.Errorf("decoding the records of a partition: %s: %w", topic, errOtherLife)
		}
		s.next[topic] = next
	}
	for _, id := range in.Begun {
		if s.orders.has(id) {
			return nil, fmt.Errorf("decoding the records of a partition: order %s is there twice", id)
		}
		s.orders.known[id] = struct{}{}
	}
	s.orders.begun = in.Begun
	for i, b := range in.Orders {
		e, err := event.DecodeAs[*event.OrderEvent](b)
		if err != nil {
			return nil, fmt.Errorf("decoding the records of a partition: order %d: %w", i, err)
		}
		if s.orders.of(e.ClientOrderID) != nil || !s.orders.has(e.ClientOrderID) {
			return nil, fmt.Errorf("decoding the records of a partition: order %s is there twice or was never begun", e.ClientOrderID)
		}
		s.orders.putWhole(e.ClientOrderID, restored(e))
		s.orders.recent = append(s.orders.recent, e.ClientOrderID)
	}
	maps.Copy(s.conflicts, in.Conflicts)
	maps.Copy(s.charged, in.Charged)
	var err error
	if s.book, err = ledger.Load(in.Book); err != nil {
		return nil, fmt.Errorf("decoding the records of a partition: %w", err)
	}
	if in.Lots != nil {
		if s.lots, err = exits.Load(in.Lots); err != nil {
			return nil, fmt.Errorf("decoding the records of a partition: %w", err)
		}
		return s, nil
	}
	for _, k := range s.book.Keys(true) {
		s.lots.Adopt(k, s.book.Qty(k))
	}
	return s, nil
}

// checkLots notes accounts whose lots do not add up to a position.
func (s *records) checkLots() {
	for _, k := range slices.Concat(s.book.Keys(true), s.lots.Keys()) {
		if why := lotsDiffer(s.book, s.lots, k); why != "" {
			s.conflicts[k.Account] = why
		}
	}
}

// lotsDiffer says that the lots of a position do not add up to it, or nothing: the two are
// records of the same fact.
func lotsDiffer(book *ledger.Book, lots *exits.Book, k ledger.Key) string {
	sum, err := lots.Sum(k)
	if qty := book.Qty(k); err != nil || sum.Cmp(qty) != 0 {
		return fmt.Sprintf("the lots of strategy %s in %s %s add up to %s, its fills to %s", k.Strategy, k.Venue, k.Symbol, sum, qty)
	}
	return ""
}

// checkLogs refuses logs that are not those that the offsets belong to, or that
// begin behind them.
func (s *records) checkLogs(ctx context.Context, c *bus.Client, partition int32) error {
	for _, topic := range sources {
		all, err := c.Offsets(ctx, topic)
		if err != nil {
			return err
		}
		bounds := all[partition]
		next, known := s.next[topic]
		switch {
		case known && next > bounds.End:
			return component.Fatal(&bus.LogError{
				Fault: bus.Truncated, Group: "execution", What: "the snapshot of orders and positions", Topic: topic, Partition: partition,
				Stored: next, Start: bounds.Start, End: bounds.End, StoredIncarnation: c.Incarnation(topic), Incarnation: c.Incarnation(topic),
			})
		case bounds.Start > next: // next is 0 where nothing is known
			return component.Fatal(fmt.Errorf("%s begins at offset %d: %d records that positions follow from are gone; raise the topic's retention before trading on",
				topic, bounds.Start, bounds.Start-next))
		}
	}
	return nil
}

package stream

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/venue"
)

// producer is what a feed needs of bus.Producer.
type producer interface {
	// Append queues a record, copying it; bus.ErrQueueFull when there is no room
	// and the producer does not block.
	Append(topic string, partition int32, key, value []byte, done func(offset int64, err error)) error
	// Queued is the bytes of memory that wait to be acknowledged, Spilled those of
	// files.
	Queued() int64
	Spilled() int64
}

var _ producer = (*bus.Producer)(nil)

// host is what feeds share.
type host struct {
	env       component.Env
	out       producer
	partition func(key []byte) int32 // of topic md
	queue     int                    // the producer's bound in bytes of memory,
	spill     int64                  // and of files
	insts     *instruments
	session   *component.SessionClock
	// failed stops the role.
	failed func(error)
}

// Reasons for ignoring a frame that the venue's decoder does not know of.
const (
	reasonDuplicate   = "duplicate"
	reasonOtherSymbol = "other_symbol"
	reasonChannel     = "channel_not_taken"
	reasonSecondTrade = "second_trade_channel"
	reasonTooMany     = "too_many_symbols"
)

// Reasons in coverage records.
const (
	whyJump       = "ids jumped"
	whyNotRunning = "not running"
	whyRestarted  = "the venue's ids began anew"
	whyHistory    = "trades before the subscription"
	whyDamaged    = "spilled records were damaged"
)

// maxSymbols bounds what a feed that may send any symbol can make us keep.
const maxSymbols = 10000

// feed is one feed's state. mu is held for the whole of one frame, so that what
// is written about an instrument, clock records included, has the order in which
// it was received.
type feed struct {
	*host
	cfg     FeedConfig
	id      string // the venue's part of the keys
	venue   venue.Venue
	info    venue.Info
	specs   []venue.ChannelSpec // channels taken
	numbers *numbers
	dials   *limiter
	log     *slog.Logger
	started chan struct{} // closed after the first attempt to connect
	once    sync.Once
	acked   func(int64, error)

	mu         sync.Mutex
	symbols    map[string]*symbol
	partitions []int32 // that hold a key of ours
	buf        []byte
	unstated   int   // channels whose loss of connection is not stated yet,
	ended      *conn // of this connection
	nextClock  int64 // replay: receive time of the next clock record
	lastFrame  int64 // receive time
	alive      int
	over       bool
	dead       deadBudget
	stats      feedStats
	report     report
}

// symbol is what is known of one instrument; guarded by feed.mu.
type symbol struct {
	key       []byte
	partition int32
	trades    event.Channel // the channel that makes its trades
	announced bool          // its instrument was published when it was first seen
	seen      bool          // a record of it came from this run
	channels  []channelState
}

// channelState is one channel of one instrument; guarded by feed.mu.
type channelState struct {
	spec venue.ChannelSpec
	// last is the highest id or sequence in the log, or stated as lost.
	last uint64
	// lastEvent and lastRecv are the times of the last record.
	lastEvent, lastRecv int64
	// conn is the connection on which reception was stated; 0 when it is down.
	conn uint32
	// ordinal counts the records on conn that have no id.
	ordinal uint64
	// repeats counts the duplicates since the last record.
	repeats uint64
	// down says since when, in receive time, and why nothing is known; since 0
	// when there is nothing to tell.
	down struct {
		since  int64
		why    string
		stated bool
	}
}

func newFeed(h *host, cfg FeedConfig) (*feed, error) {
	cfg = cfg.withDefaults()
	v, err := cfg.open()
	if err != nil {
		return nil, err
	}
	f := &feed{host: h, cfg: cfg, id: cfg.VenueID(), venue: v, info: v.Info(), started: make(chan struct{}),
		symbols: make(map[string]*symbol), stats: newFeedStats(), log: h.env.Log.With("feed", cfg.name())}
	if f.specs, err = cfg.channels(f.info); err != nil {
		return nil, err
	}
	if f.cfg.URL == "" {
		f.cfg.URL = f.info.URL
		if f.cfg.REST == "" {
			f.cfg.REST = f.info.REST
		}
	}
	if f.cfg.Idle == 0 {
		f.cfg.Idle = f.info.Idle
	}
	f.acked = func(_ int64, err error) {
		switch {
		case err == nil, errors.Is(err, bus.ErrConflated):
		case errors.Is(err, bus.ErrKept): // the next start appends it
		default:
			h.failed(component.Fatal(fmt.Errorf("publishing market data: %w; start again, the hole will be stated", err)))
		}
	}
	return f, nil
}

// restore takes over what an earlier run left in the log and makes the state of
// the configured symbols.
func (f *feed) restore(r *recovered) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range f.cfg.Symbols {
		f.addSymbol([]byte(name), r)
	}
	if f.anySymbol() {
		for _, name := range r.symbols(f.id) {
			f.addSymbol([]byte(name), r)
		}
	}
}

func (f *feed) anySymbol() bool { return len(f.cfg.Symbols) == 0 }

// addSymbol starts the state of a symbol. mu is held.
func (f *feed) addSymbol(name []byte, r *recovered) *symbol {
	if s, ok := f.symbols[string(name)]; ok {
		return s
	}
	key := event.Key(f.id, string(name))
	s := &symbol{key: key, partition: f.partition(key)}
	for _, spec := range f.specs {
		ch := channelState{spec: spec}
		if last, ok := r.channel(key, spec.Channel); ok {
			ch.last, ch.lastEvent, ch.lastRecv = last.id, last.event, last.recv
			ch.down.since = max(last.recv, r.clocks[f.cfg.name()])
			ch.down.why, ch.down.stated = whyNotRunning, true
		}
		s.channels = append(s.channels, ch)
		if spec.Trades && len(f.cfg.Channels)+boolInt(!f.cfg.Replay) > 0 {
			s.trades = spec.Channel
		}
	}
	f.symbols[string(name)] = s
	for _, p := range f.partitions {
		if p == s.partition {
			return s
		}
	}
	f.partitions = append(f.partitions, s.partition)
	return s
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (s *symbol) channel(ch event.Channel) *channelState {
	for i := range s.channels {
		if s.channels[i].spec.Channel == ch {
			return &s.channels[i]
		}
	}
	return nil
}

// receive handles one frame of a connection. mu is held. An error ends the
// connection.
func (f *feed) receive(c *conn, data []byte, recv int64) error {
	f.advance(recv)
	f.lastFrame = recv
	err := c.decoder.Decode(data, recv, &c.frame)
	kind := c.kind()
	kind.Read++
	if err != nil {
		kind.Refused++
		f.refuse(c, data, recv, err)
		return nil
	}
	fr := &c.frame
	if fr.Control != venue.ControlError {
		f.report.trouble = ""
	}
	published, reason := 0, fr.Ignored
	for i := range fr.Items {
		why, err := f.item(c, &fr.Items[i], recv)
		if err != nil {
			return err
		}
		if why == "" {
			published++
		} else {
			reason = why
		}
	}
	if fr.Mark.ID != 0 {
		if err := f.mark(c, &fr.Mark, recv); err != nil {
			return err
		}
	}
	switch {
	case published > 0:
		kind.Published++
	default:
		kind.Ignored[reason]++
		if reason == venue.ReasonNoMatch || reason == reasonOtherSymbol {
			f.sayBad(reason, reason, data, recv)
		}
	}
	switch {
	case fr.Control == venue.ControlNone || f.cfg.Replay:
	case fr.Control == venue.ControlRotate:
		c.wantRotation()
	case fr.Control == venue.ControlError:
		return &endError{why: "the venue refused", detail: fr.Message}
	}
	return nil
}

// item checks and publishes one event; why says for what reason it was not.
func (f *feed) item(c *conn, it *venue.Item, recv int64) (why string, err error) {
	s, ok := f.symbols[string(it.Symbol)]
	if !ok {
		switch {
		case !f.anySymbol():
			return reasonOtherSymbol, nil
		case len(f.symbols) >= maxSymbols:
			return reasonTooMany, nil
		}
		s = f.addSymbol(it.Symbol, nil)
	}
	s.seen = true
	if !s.announced && (f.cfg.Replay || f.anySymbol()) {
		s.announced = true
		f.insts.infer(f, string(it.Symbol), recv)
	}
	if it.Type == event.TypeTrade {
		return f.trade(c, s, &it.Trade)
	}
	return f.quote(c, s, &it.Quote)
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
	known := t.TimeSource == event.TimeEvent || t.TimeSource == event.TimePublish
	if dup, err := f.before(c, s, ch, t.TradeID, t.EventTime, known, t.RecvTime); dup || err != nil {
		return reasonDuplicate, err
	}
	t.Connection = c.number
	if t.TradeID == 0 && t.TradeIDText == "" {
		t.Ordinal = ch.ordinal + 1
	}
	f.buf = t.AppendWire(f.buf[:0])
	if err := f.append(s); err != nil {
		return "", err
	}
	ch.after(t.TradeID, t.EventTime, t.RecvTime, t.Ordinal)
	f.stats.trades++
	return "", nil
}

func (f *feed) quote(c *conn, s *symbol, q *event.Quote) (why string, err error) {
	ch := s.channel(q.Channel)
	if ch == nil {
		return reasonChannel, nil
	}
	if dup, err := f.before(c, s, ch, q.Sequence, q.EventTime, false, q.RecvTime); dup || err != nil {
		return reasonDuplicate, err
	}
	q.Connection = c.number
	if q.Sequence == 0 {
		q.Ordinal = ch.ordinal + 1
	}
	f.buf = q.AppendWire(f.buf[:0])
	if err := f.append(s); err != nil {
		return "", err
	}
	ch.after(q.Sequence, q.EventTime, q.RecvTime, q.Ordinal)
	f.stats.quotes++
	return "", nil
}

func (f *feed) append(s *symbol) error {
	err := f.out.Append(event.TopicMarket, s.partition, s.key, f.buf, f.acked)
	if err == nil || errors.Is(err, bus.ErrQueueFull) {
		return err
	}
	err = fmt.Errorf("publishing market data: %w", err)
	f.failed(err)
	return err
}

// after notes a published record.
func (ch *channelState) after(id uint64, eventTime, recv int64, ordinal uint64) {
	if id > ch.last {
		ch.last = id
	}
	if ordinal > ch.ordinal {
		ch.ordinal = ordinal
	}
	ch.lastEvent, ch.lastRecv, ch.repeats = eventTime, recv, 0
}

// reset by this much later than the last event, an id that was there before is
// not a second copy: the venue counts anew (test networks do).
const restartAfter = int64(10e9)

// before looks at a record's id before the record is published: it tells
// duplicates, and states what was lost, and that reception began, ahead of it.
// venueTime says that eventTime is the venue's.
func (f *feed) before(c *conn, s *symbol, ch *channelState, id uint64, eventTime int64, venueTime bool, recv int64) (duplicate bool, err error) {
	checked := ch.spec.IDs != venue.IDsAbsent && id != 0 && ch.last != 0
	if checked && id <= ch.last {
		if !venueTime || eventTime < ch.lastEvent+restartAfter {
			f.duplicate(s, ch)
			return true, nil
		}
		if err := f.state(c, s, ch, &event.Coverage{Kind: event.CoverageKindUnknown, FromTime: ch.lastRecv, ToTime: recv, Reason: whyRestarted}, recv); err != nil {
			return false, err
		}
		f.log.Warn("the venue's ids began anew", "key", string(s.key), "channel", ch.spec.Name, "last", ch.last, "now", id)
		ch.last, checked = 0, false
	}
	contiguous := ch.spec.IDs == venue.IDsContiguous
	if contiguous && checked && id > ch.last+1 {
		why, since := whyJump, ch.lastRecv
		if ch.down.since != 0 {
			why, since = ch.down.why, ch.down.since
		}
		if err := f.lost(c, s, ch, id-1, since, why, recv); err != nil {
			return false, err
		}
	}
	if ch.conn == c.number {
		return false, nil
	}
	if !contiguous && ch.down.since != 0 {
		if err := f.state(c, s, ch, &event.Coverage{Kind: event.CoverageLost, FromTime: ch.down.since, ToTime: recv, Reason: ch.down.why}, recv); err != nil {
			return false, err
		}
		f.stats.gaps++
	}
	received := event.Coverage{Kind: event.CoverageReceived, FromTime: recv}
	if ch.spec.IDs != venue.IDsAbsent {
		received.FromID = id
	}
	if err := f.state(c, s, ch, &received, recv); err != nil {
		return false, err
	}
	if ch.down.since != 0 && !ch.down.stated {
		f.unstated--
	}
	ch.conn, ch.ordinal = c.number, 0
	ch.down.since, ch.down.why, ch.down.stated = 0, "", false
	return false, nil
}

// lost states that the ids after the last one up to id were not received.
func (f *feed) lost(c *conn, s *symbol, ch *channelState, id uint64, since int64, why string, recv int64) error {
	n := id - ch.last
	if err := f.state(c, s, ch, &event.Coverage{Kind: event.CoverageLost, FromID: ch.last + 1, ToID: id, FromTime: since, ToTime: recv, Reason: why}, recv); err != nil {
		return err
	}
	f.log.Warn("records were lost", "key", string(s.key), "channel", ch.spec.Name, "from", ch.last+1, "to", id, "why", why)
	ch.last = id
	f.stats.gaps++
	f.stats.lostIDs += n
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
	if ch == nil || ch.spec.IDs != venue.IDsContiguous || ch.last == 0 || m.ID <= ch.last {
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
	cov.Channel, cov.Contiguous = ch.spec.Channel, ch.spec.IDs == venue.IDsContiguous
	cov.RecvTime, cov.Connection, cov.Ordinal = recv, c.number, c.statements
	f.buf = event.Append(f.buf[:0], cov)
	return f.append(s)
}

// repeatsWarned is the number of duplicates in a row after which the log tells.
const repeatsWarned = 1000

func (f *feed) duplicate(s *symbol, ch *channelState) {
	f.stats.duplicates++
	if ch.repeats++; ch.repeats == repeatsWarned {
		f.log.Warn("nothing but records that were there before", "key", string(s.key), "channel", ch.spec.Name, "last", ch.last)
	}
}

// up counts a connection that lives.
func (f *feed) up() {
	f.mu.Lock()
	f.alive++
	f.mu.Unlock()
}

// down counts a connection that ended as it should.
func (f *feed) down() {
	f.mu.Lock()
	f.alive--
	f.mu.Unlock()
}

// lose notes that a connection ended: nothing is known of its channels from its
// last frame on. It states so, or leaves it to restate when the queue is full.
func (f *feed) lose(c *conn, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	since := c.lastRecv
	f.stats.reconnects[why]++
	f.alive--
	now := f.now()
	for _, s := range f.symbols {
		for i := range s.channels {
			ch := &s.channels[i]
			if ch.conn != c.number {
				continue
			}
			ch.conn = 0
			ch.down.since, ch.down.why, ch.down.stated = max(since, ch.lastRecv), why, false
			ch.down.stated = f.stateDown(c, s, ch, now)
			f.unstated += boolInt(!ch.down.stated)
		}
	}
	if f.unstated > 0 {
		f.ended = c
	}
}

// takeOver lets a successor publish instead of its predecessor, whose frames
// from here on are not wanted: the successor has them too.
func (f *feed) takeOver(from, to *conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	from.retired = true
	f.hand(from, to)
	f.stats.rotations++
	to.publishHeld()
}

// release lets a successor publish whose predecessor is lost.
func (f *feed) release(c *conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.publishHeld()
}

// hand gives the channels of a connection that is replaced in good time to its
// successor, whose frames overlap: nothing is lost. mu is held.
func (f *feed) hand(from, to *conn) {
	now := f.now()
	for _, s := range f.symbols {
		for i := range s.channels {
			ch := &s.channels[i]
			if ch.conn != from.number {
				continue
			}
			ch.conn, ch.ordinal = to.number, 0
			received := event.Coverage{Kind: event.CoverageReceived, FromTime: now}
			if ch.spec.IDs == venue.IDsContiguous {
				received.FromID = ch.last + 1
			}
			if err := f.state(to, s, ch, &received, now); err != nil {
				to.end(whyQueueFull)
				return
			}
		}
	}
}

// stateDamage states what is missing from the records that an earlier run
// spilled: of which instrument of the partition is not known. What the end of a
// file lost is what the first record after a start states.
func (f *feed) stateDamage(damage []bus.SpillDamage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var c *conn
	for i := range damage {
		d := &damage[i]
		if d.Topic != event.TopicMarket || d.Records == 0 || d.Until == 0 {
			continue
		}
		if c == nil {
			c = &conn{feed: f, number: f.numbers.next()}
		}
		for _, s := range f.symbols {
			for i := range s.channels {
				ch := &s.channels[i]
				if s.partition != d.Partition || ch.lastRecv == 0 {
					continue
				}
				cov := event.Coverage{Kind: event.CoverageKindUnknown, FromTime: d.Since * 1e6, ToTime: d.Until * 1e6, Reason: whyDamaged}
				if err := f.state(c, s, ch, &cov, f.now()); err != nil {
					f.log.Error("stating that spilled records are damaged", "key", string(s.key), "err", err)
				}
			}
		}
	}
}

func (f *feed) stateDown(c *conn, s *symbol, ch *channelState, now int64) bool {
	cov := event.Coverage{Kind: event.CoverageKindUnknown, FromTime: ch.down.since, Reason: ch.down.why}
	if ch.spec.IDs == venue.IDsContiguous {
		cov.FromID = ch.last + 1
	}
	return f.state(c, s, ch, &cov, now) == nil
}

// restate writes what lose could not. mu is held.
func (f *feed) restate() {
	if f.unstated == 0 {
		return
	}
	now := f.now()
	for _, s := range f.symbols {
		for i := range s.channels {
			ch := &s.channels[i]
			if ch.down.since != 0 && !ch.down.stated {
				if !f.stateDown(f.ended, s, ch, now) {
					return
				}
				ch.down.stated = true
				f.unstated--
			}
		}
	}
}

// now is the machine's time when live, the time of the last frame in a replay.
func (f *feed) now() int64 {
	if f.cfg.Replay {
		return f.lastFrame
	}
	return f.env.Clock.Now().UnixNano()
}

// second is the time between clock records.
const second = int64(1e9)

// longPause is the longest hole in a recording that is filled with clock
// records; a longer one is a pause of the recorder.
const longPause = 60 * second

// advance moves a replay's clock up to a frame's receive time. mu is held.
func (f *feed) advance(recv int64) {
	if !f.cfg.Replay {
		return
	}
	if f.session != nil {
		f.session.Advance(recv)
	}
	if f.nextClock == 0 || recv-f.nextClock > longPause {
		if f.nextClock != 0 {
			f.clock(f.nextClock, false)
		}
		f.nextClock = recv - recv%second + second
	}
	for ; f.nextClock <= recv; f.nextClock += second {
		f.clock(f.nextClock, false)
	}
}

// tick writes the clock record of this second.
func (f *feed) tick() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return
	}
	f.restate()
	f.clock(f.now(), false)
}

// clock writes a clock record to every partition with a key of ours. A full
// queue leaves it out: the lease is not renewed then. mu is held.
func (f *feed) clock(now int64, closing bool) {
	rec := event.Clock{Feed: f.cfg.name(), Connections: uint32(max(f.alive, 0)), Time: now, Closing: closing}
	f.buf = event.Append(f.buf[:0], &rec)
	key := event.Key(f.id, "")
	for _, p := range f.partitions {
		if err := f.out.Append(event.TopicMarket, p, key, f.buf, f.acked); err != nil && !errors.Is(err, bus.ErrQueueFull) {
			f.failed(fmt.Errorf("publishing a clock record: %w", err))
			return
		}
	}
}

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
	reasonHeld        = "held" // until it is known whether the venue begins its ids again
)

// Reasons in coverage records.
const (
	whyJump       = "ids jumped"
	whyNotRunning = "not running"
	whyRestarted  = "the venue's ids began anew"
	whyLate       = "came after newer trades"
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
	refusal   *refusal      // nil: the venue does not refuse it
	channels  []channelState
}

// channelState is one channel of one instrument; guarded by feed.mu.
type channelState struct {
	spec venue.ChannelSpec
	// epoch counts how often the venue began the channel's ids again; ids are those of
	// this epoch.
	epoch uint32
	ids   ids
	// lastRecv is the receive time of the last record.
	lastRecv int64
	// held are trades that wait for the decision whether the venue begins its ids again, and
	// came on heldOn.
	held   []event.Trade
	heldOn *conn
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
		ch := channelState{spec: spec, ids: newIDs(spec)}
		if last, ok := r.channel(key, spec.Channel); ok {
			ch.epoch, ch.lastRecv = last.epoch, last.recv
			ch.ids.restore(last)
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
	sortIDs(fr.Items)
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
	case f.cfg.Replay:
	case fr.Control == venue.ControlNone:
		if fr.Answer != 0 {
			c.answered(fr)
		}
	case fr.Control == venue.ControlRotate:
		c.wantRotation()
	case fr.Control == venue.ControlError && !c.answered(fr):
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
	if s.seen = true; s.refusal != nil {
		f.accept(string(it.Symbol))
	}
	if !s.announced && (f.cfg.Replay || f.anySymbol()) {
		s.announced = true
		f.insts.infer(f, string(it.Symbol), recv)
	}
	if it.Type == event.TypeTrade {
		return f.trade(c, s, &it.Trade)
	}
	return f.quote(c, s, &it.Quote)
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
				received.FromID = ch.ids.last + 1
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
		cov.FromID = ch.ids.last + 1
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

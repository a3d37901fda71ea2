package stream

import (
	"errors"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/venue"
)

// FrameCount counts the frames of one kind: Read = Published + Ignored + Refused.
type FrameCount struct {
	Read      uint64 `json:"read"`
	Published uint64 `json:"published"`
	// Ignored is by reason.
	Ignored map[string]uint64 `json:"ignored"`
	Refused uint64            `json:"refused"`
}

// FeedStatus is what people want to know of a feed at a glance.
type FeedStatus struct {
	Name        string    `json:"name"`
	Connections int       `json:"connections"`
	LastFrame   time.Time `json:"last_frame"` // receive time; zero before the first
	Trades      uint64    `json:"trades"`
	Quotes      uint64    `json:"quotes"`
	Duplicates  uint64    `json:"duplicates"`
	Late        uint64    `json:"late"`   // trades published after newer ones
	Epochs      uint64    `json:"epochs"` // how often a venue began its ids again
	Refused     uint64    `json:"refused"`
	Gaps        uint64    `json:"gaps"`
	LostIDs     uint64    `json:"lost_ids"`
	Reconnects  uint64    `json:"reconnects"`
	// BadFrames are the frames that came to nothing, by code or reason.
	BadFrames map[string]uint64 `json:"bad_frames,omitempty"`
	// The symbols that the venue refuses, of which nothing has come, and that its REST
	// interface does not list; at most maxNamed of each.
	RefusedSymbols  []string `json:"refused_symbols,omitempty"`
	SilentSymbols   []string `json:"silent_symbols,omitempty"`
	UnlistedSymbols []string `json:"unlisted_symbols,omitempty"`
}

// feedStats are one feed's counts, guarded by its mu. Prometheus reads them when
// it scrapes, so that a frame costs no more than an addition.
type feedStats struct {
	kinds                    map[string]*FrameCount
	refused                  map[string]uint64 // by code
	reconnects               map[string]uint64 // by reason
	trades, quotes           uint64
	duplicates, late, epochs uint64
	gaps, lostIDs, rotations uint64
	dead, deadDropped        uint64
}

func newFeedStats() feedStats {
	return feedStats{kinds: map[string]*FrameCount{}, refused: map[string]uint64{}, reconnects: map[string]uint64{}}
}

func (s *feedStats) kind(name string) *FrameCount {
	k, ok := s.kinds[name]
	if !ok && len(s.kinds) >= venue.MaxKinds { // venues name kinds as they like
		name = "other"
		k, ok = s.kinds[name]
	}
	if !ok {
		k = &FrameCount{Ignored: map[string]uint64{}}
		s.kinds[name] = k
	}
	return k
}

func total(m map[string]uint64) (n uint64) {
	for _, v := range m {
		n += v
	}
	return n
}

// maxNamed bounds the symbols that /health and the labels of metrics name, for each feed
// and state.
const maxNamed = 100

func named(symbols []string) []string { return slices.Clone(symbols[:min(len(symbols), maxNamed)]) }

// status returns the feed's figures.
func (f *feed) status() FeedStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := FeedStatus{Name: f.cfg.name(), Connections: f.alive, Trades: f.stats.trades, Quotes: f.stats.quotes, Duplicates: f.stats.duplicates, Late: f.stats.late, Epochs: f.stats.epochs,
		Refused: total(f.stats.refused), Gaps: f.stats.gaps, LostIDs: f.stats.lostIDs, Reconnects: total(f.stats.reconnects)}
	s.BadFrames = f.badTotals()
	s.RefusedSymbols, s.SilentSymbols, s.UnlistedSymbols = named(f.refusedSymbols()), named(f.report.silent), named(f.report.unlisted)
	if f.lastFrame != 0 {
		s.LastFrame = time.Unix(0, f.lastFrame)
	}
	return s
}

// Feeds returns the figures of every feed.
func (r *Role) Feeds() []FeedStatus {
	out := make([]FeedStatus, len(r.feeds))
	for i, f := range r.feeds {
		out[i] = f.status()
	}
	return out
}

// Frames returns the frames by kind, over all feeds.
func (r *Role) Frames() map[string]FrameCount {
	out := map[string]FrameCount{}
	for _, f := range r.feeds {
		f.mu.Lock()
		for name, k := range f.stats.kinds {
			if k.Read == 0 {
				continue
			}
			sum := out[name]
			sum.Read += k.Read
			sum.Published += k.Published
			sum.Refused += k.Refused
			if sum.Ignored == nil {
				sum.Ignored = map[string]uint64{}
			}
			for why, n := range k.Ignored {
				sum.Ignored[why] += n
			}
			out[name] = sum
		}
		f.mu.Unlock()
	}
	return out
}

// metrics shows the feeds' counts to Prometheus.
type metrics struct {
	role *Role

	frames, refused, trades, quotes, duplicates, late, epochs, gaps, lost, reconnects, rotations, dead, deadDropped, connections, last, queue, symbols, symbol *prometheus.Desc
}

var _ prometheus.Collector = (*metrics)(nil)

func newMetrics(r *Role) (*metrics, error) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("autohedge_stream_"+name, help, labels, nil)
	}
	m := &metrics{
		role:        r,
		frames:      desc("frames_total", "Frames read, by kind and what became of them.", "feed", "kind", "outcome", "reason"),
		refused:     desc("refused_frames_total", "Frames refused, by the code of the error.", "feed", "code"),
		trades:      desc("trades_total", "Trades published.", "feed"),
		quotes:      desc("quotes_total", "Quotes published.", "feed"),
		duplicates:  desc("duplicates_total", "Records that were there before and were not published again.", "feed"),
		late:        desc("late_trades_total", "Trades published after newer ones of their instrument.", "feed"),
		epochs:      desc("epochs_total", "How often a venue began the ids of a channel again.", "feed"),
		gaps:        desc("gaps_total", "Intervals stated as lost.", "feed"),
		lost:        desc("lost_ids_total", "Ids stated as lost.", "feed"),
		reconnects:  desc("reconnects_total", "Connections that ended unplanned, by reason.", "feed", "reason"),
		rotations:   desc("rotations_total", "Connections replaced in good time.", "feed"),
		dead:        desc("dead_letters_total", "Refused frames written to topic dead.", "feed"),
		deadDropped: desc("dead_letters_dropped_total", "Refused frames left out of topic dead because there were too many.", "feed"),
		connections: desc("connections", "Connections alive.", "feed"),
		last:        desc("last_message_timestamp_seconds", "Receive time of the last frame.", "feed"),
		symbols:     desc("symbols", "Symbols by what is wrong with them: refused by the venue, silent, or not listed by it.", "feed", "state"),
		symbol:      desc("symbol_wrong", "1 for a symbol that is refused, silent or unlisted; the first 100 of each in a feed.", "feed", "symbol", "state"),
		queue:       desc("queue_bytes", "Bytes that wait for Kafka's acknowledgement."),
	}
	if err := r.env.Metrics.Register(m); err != nil {
		return nil, err
	}
	return m, nil
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.frames, m.refused, m.trades, m.quotes, m.duplicates, m.late, m.epochs, m.gaps, m.lost, m.reconnects, m.rotations, m.dead, m.deadDropped, m.connections, m.last, m.queue, m.symbols, m.symbol} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	if out := m.role.output(); out != nil {
		ch <- prometheus.MustNewConstMetric(m.queue, prometheus.GaugeValue, float64(out.Queued()))
	}
	for _, f := range m.role.feeds {
		m.collectFeed(ch, f)
	}
}

func (m *metrics) collectFeed(ch chan<- prometheus.Metric, f *feed) {
	f.mu.Lock()
	s := f.stats
	s.refused, s.reconnects = maps.Clone(s.refused), maps.Clone(s.reconnects)
	kinds := make(map[string]FrameCount, len(s.kinds))
	for name, k := range s.kinds {
		c := *k
		c.Ignored = maps.Clone(k.Ignored)
		kinds[name] = c
	}
	alive, last := f.alive, f.lastFrame
	wrong := map[string][]string{"refused": f.refusedSymbols(), "silent": slices.Clone(f.report.silent), "unlisted": slices.Clone(f.report.unlisted)}
	f.mu.Unlock()

	name := f.cfg.name()
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), append([]string{name}, labels...)...)
	}
	for state, symbols := range wrong {
		ch <- prometheus.MustNewConstMetric(m.symbols, prometheus.GaugeValue, float64(len(symbols)), name, state)
		for _, symbol := range named(symbols) {
			if utf8.ValidString(symbol) { // a label that is not would break the whole answer
				ch <- prometheus.MustNewConstMetric(m.symbol, prometheus.GaugeValue, 1, name, symbol, state)
			}
		}
	}
	for kind, c := range kinds {
		count(m.frames, c.Published, kind, "published", "")
		count(m.frames, c.Refused, kind, "refused", "")
		for why, n := range c.Ignored {
			count(m.frames, n, kind, "ignored", why)
		}
	}
	for code, n := range s.refused {
		count(m.refused, n, code)
	}
	for why, n := range s.reconnects {
		count(m.reconnects, n, why)
	}
	count(m.trades, s.trades)
	count(m.quotes, s.quotes)
	count(m.duplicates, s.duplicates)
	count(m.late, s.late)
	count(m.epochs, s.epochs)
	count(m.gaps, s.gaps)
	count(m.lost, s.lostIDs)
	count(m.rotations, s.rotations)
	count(m.dead, s.dead)
	count(m.deadDropped, s.deadDropped)
	ch <- prometheus.MustNewConstMetric(m.connections, prometheus.GaugeValue, float64(alive), name)
	ch <- prometheus.MustNewConstMetric(m.last, prometheus.GaugeValue, float64(last)/1e9, name)
}

// Bounds of what goes to topic dead: a broken venue must not fill it.
const (
	deadBytes     = 4 << 10
	deadPerSecond = 10
	deadBurst     = 50
)

// deadBudget is a token bucket in receive time.
type deadBudget struct {
	tokens float64
	at     int64
}

func (b *deadBudget) take(recv int64) bool {
	if b.at == 0 {
		b.tokens = deadBurst
	} else if recv > b.at {
		b.tokens = min(deadBurst, b.tokens+float64(recv-b.at)/1e9*deadPerSecond)
	}
	b.at = max(b.at, recv)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// refuse counts a frame that could not be decoded and keeps its beginning in
// topic dead, with the reason. mu is held.
func (f *feed) refuse(c *conn, data []byte, recv int64, err error) {
	code := venue.CodeMalformed
	var fe *venue.FrameError
	if errors.As(err, &fe) {
		code = fe.Code
	}
	f.stats.refused[code]++
	f.sayBad(code, err.Error(), data, recv)
	if !f.dead.take(recv) {
		f.stats.deadDropped++
		return
	}
	// A frame has no place in a topic: connection and position in it tell it from
	// others with the same bytes.
	where := event.Lineage{Partition: int32(c.number & 0x7fffffff), Offset: int64(c.frames)}
	key := event.Key(f.id, "")
	value := data[:min(len(data), deadBytes)]
	letter := event.Dead{ID: event.DeadID("stream", where, append(key[:len(key):len(key)], value...)), Role: "stream", Reason: err.Error(), Key: key, Value: value, Time: recv, Lineage: where}
	f.buf = event.Append(f.buf[:0], &letter)
	if err := f.out.Append(event.TopicDead, 0, key, f.buf, nil); err != nil {
		f.stats.deadDropped++
		return
	}
	f.stats.dead++
}

package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/component"
)

// Venue ids, as in events.
const (
	VenueBinance  = "binance"
	VenueCoinbase = "coinbase"
)

// venue is one wire format and its symbols.
type venue struct {
	name    string
	symbols map[string]*symbol
	order   []*symbol
	// command answers a client's message, trade sends a fill, notice announces a
	// shutdown. command and trade run under Sim.mu.
	command        func(*client, []byte)
	trade          func(*Sim, *symbol, trade, uint64)
	notice         func(*client)
	quotesPerTrade float64

	newTrades, newQuotes int64 // of the running tick, guarded by Sim.mu
	sent                 atomic.Int64
	connects             atomic.Int64

	refuseUntil time.Time // guarded by Sim.clients
	seen        bool      // guarded by Sim.clients: the first client has come

	trades, quotes, frames, bytes, slow prometheus.Counter
	conns                               prometheus.Gauge
	faults                              [faultKinds]prometheus.Counter
}

// Sim is a running simulator. All methods are safe for concurrent use.
type Sim struct {
	cfg     Config
	env     component.Env
	log     *slog.Logger
	metrics *metrics
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	http    *http.Server
	addr    string

	binance, coinbase *venue
	venues            []*venue

	// clients guards the set, the venues' refuseUntil and seen, and faults.
	clients struct {
		sync.Mutex
		set    map[*client]struct{}
		closed bool
	}
	faults []FaultReport
	slow   atomic.Int64
	paused atomic.Bool // no planned faults
	marker atomic.Uint64

	closeOnce sync.Once
	closeErr  error
	done      chan struct{}
	errMu     sync.Mutex
	err       error

	// mu guards the market and everything staged.
	mu                   sync.Mutex
	running              []*symbol // open symbols
	kept                 map[string]ledgerState
	ledger               *ledger
	halted               bool
	now                  int64
	nowMillis, nowMicros []byte
	beat                 int64
	scratch              []byte
	dirty                []*client
}

// Start opens the ledger, begins to listen and runs the market until ctx ends or
// Close is called.
func Start(ctx context.Context, cfg Config, env component.Env) (*Sim, error) {
	if err := cfg.Validate().Err(); err != nil {
		return nil, fmt.Errorf("checking the simulator's configuration: %w", err)
	}
	s := &Sim{cfg: cfg, env: env, log: env.Log.With("component", "sim"), metrics: newMetrics(env.Metrics), done: make(chan struct{})}
	s.clients.set = make(map[*client]struct{})
	states := map[string]ledgerState{}
	if cfg.Ledger {
		var err error
		if s.ledger, states, err = openLedger(cfg.Dir, cfg.MaxLedgerBytes); err != nil {
			return nil, err
		}
		if s.ledger.repaired > 0 {
			s.log.Warn("cutting a half-written line off the ledger", "bytes", s.ledger.repaired)
		}
	}
	s.kept = states
	s.binance = s.newVenue(VenueBinance, cfg.QuotesPerTrade, binanceCommand, binanceTrade, binanceNotice)
	s.coinbase = s.newVenue(VenueCoinbase, 1, coinbaseCommand, coinbaseTrade, coinbaseNotice)
	s.venues = []*venue{s.binance, s.coinbase}
	if err := errors.Join(s.addSymbols(s.binance, cfg.Binance), s.addSymbols(s.coinbase, cfg.Coinbase)); err != nil {
		return nil, s.abandon(err)
	}
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, s.abandon(fmt.Errorf("listening for the simulator's clients: %w", err))
	}
	s.addr = lis.Addr().String()
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.http = &http.Server{Handler: component.RefuseBrowsers(s.routes()), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	s.wg.Add(2)
	go func() {
		defer s.wg.Done()
		if err := s.http.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
			s.fail(fmt.Errorf("serving the simulator: %w", err))
		}
	}()
	go s.run()
	context.AfterFunc(s.ctx, func() { _ = s.Close() })
	return s, nil
}

func (s *Sim) abandon(err error) error {
	if s.ledger != nil {
		return errors.Join(err, s.ledger.close())
	}
	return err
}

func (s *Sim) newVenue(name string, quotes float64, command func(*client, []byte), trade func(*Sim, *symbol, trade, uint64), notice func(*client)) *venue {
	m := s.metrics
	v := &venue{
		name: name, symbols: make(map[string]*symbol), command: command, trade: trade, notice: notice, quotesPerTrade: quotes,
		trades: m.trades.WithLabelValues(name), quotes: m.quotes.WithLabelValues(name), frames: m.frames.WithLabelValues(name),
		bytes: m.bytes.WithLabelValues(name), slow: m.slow.WithLabelValues(name), conns: m.clients.WithLabelValues(name),
	}
	for k := Drop; k < faultKinds; k++ {
		v.faults[k] = m.faults.WithLabelValues(name, k.String())
	}
	return v
}

func (s *Sim) addSymbols(v *venue, names []string) error {
	rate := s.cfg.Rate / float64(len(s.cfg.Binance)+len(s.cfg.Coinbase))
	for _, n := range names {
		y := &symbol{spec: newSpec(v.name, n), hash: hash64(v.name, n), venue: v, rate: rate}
		st, found := s.kept[v.name+"|"+n]
		if err := s.restore(y, st, found); err != nil {
			return err
		}
		if v.name == VenueBinance {
			for kind, ch := range binanceChannels {
				y.head[ch] = `{"stream":"` + strings.ToLower(n) + "@" + kind + `","data":`
			}
		}
		v.symbols[n] = y
		v.order = append(v.order, y)
	}
	return nil
}

// Addr returns host:port of the listener.
func (s *Sim) Addr() string { return s.addr }

// BinanceURL is the base of the Binance WebSocket streams: append /ws,
// /ws/<stream> or /stream?streams=.
func (s *Sim) BinanceURL() string { return "ws://" + s.addr + "/binance" }

// BinanceREST is the base of the Binance REST interface: append /api/v3/....
func (s *Sim) BinanceREST() string { return "http://" + s.addr + "/binance" }

// CoinbaseURL is the Coinbase Exchange WebSocket feed.
func (s *Sim) CoinbaseURL() string { return "ws://" + s.addr + "/coinbase" }

// CoinbaseREST is the base of the Coinbase Exchange REST interface: append
// /products....
func (s *Sim) CoinbaseREST() string { return "http://" + s.addr + "/coinbase" }

// refused returns how long the venue still takes no connections.
func (s *Sim) refused(v *venue) time.Duration {
	s.clients.Lock()
	defer s.clients.Unlock()
	return time.Until(v.refuseUntil)
}

// join enters a connection; false when the simulator is closing. It counts the
// connection's two goroutines.
func (s *Sim) join(c *client) bool {
	s.clients.Lock()
	if s.clients.closed {
		s.clients.Unlock()
		return false
	}
	s.clients.set[c] = struct{}{}
	first := !c.venue.seen
	c.venue.seen = true
	s.wg.Add(2)
	if first {
		s.schedule(c.venue)
	}
	s.clients.Unlock()
	c.venue.connects.Add(1)
	c.venue.conns.Inc()
	return true
}

func (s *Sim) leave(c *client) {
	defer s.wg.Done()
	c.kill()
	now := time.Now()
	s.mu.Lock()
	for _, y := range c.venue.order {
		for ch := range y.subs {
			if y.unsubscribe(c, channel(ch)) {
				y.lost = now
			}
		}
	}
	c.staged, c.stagedFrames = nil, 0
	if c.dirty {
		s.dirty = slices.DeleteFunc(s.dirty, func(d *client) bool { return d == c })
	}
	s.mu.Unlock()
	s.clients.Lock()
	delete(s.clients.set, c)
	s.clients.Unlock()
	c.venue.conns.Dec()
}

// subscribe enters c as a listener and opens the market; false when it was one
// already. Sim.mu is held.
func (s *Sim) subscribe(c *client, y *symbol, ch channel) bool {
	if slices.Contains(y.subs[ch], c) {
		return false
	}
	y.subs[ch] = append(y.subs[ch], c)
	y.lost = time.Time{}
	s.opened(y)
	return true
}

// unsubscribe reports whether c was a listener. Sim.mu is held.
func (y *symbol) unsubscribe(c *client, ch channel) bool {
	i := slices.Index(y.subs[ch], c)
	if i < 0 {
		return false
	}
	y.subs[ch] = slices.Delete(y.subs[ch], i, i+1)
	return true
}

func (s *Sim) all() []*client {
	s.clients.Lock()
	defer s.clients.Unlock()
	list := make([]*client, 0, len(s.clients.set))
	for c := range s.clients.set {
		list = append(list, c)
	}
	return list
}

// reconnectGrace is how long Pause waits for clients that a fault cut off.
const reconnectGrace = 2 * time.Second

// Pause stops the market and returns when every client has read all that was
// made. It ends running faults, waits up to two seconds for clients that lost
// their connection within the last five, makes one last order on every open
// symbol, whose ids show what was missed before it, hands everything to the
// sockets and asks every client for a pong, which it can only send after it has
// read what lies before the ping. It returns ctx's error when that ends first;
// the market stays stopped then too. Connections stay open.
func (s *Sim) Pause(ctx context.Context) error {
	s.paused.Store(true)
	s.clients.Lock()
	for _, v := range s.venues {
		v.refuseUntil = time.Time{}
	}
	s.clients.Unlock()
	for _, c := range s.all() {
		c.lift()
	}
	grace, cancel := context.WithTimeout(ctx, reconnectGrace)
	defer cancel()
	if err := poll(grace, s.heard); err != nil && ctx.Err() != nil {
		return errors.Join(fmt.Errorf("pausing the simulator: waiting for clients to come back: %w", ctx.Err()), s.halt())
	}
	if err := s.halt(); err != nil {
		s.fail(err)
		return err
	}
	clients := s.all()
	marker := s.marker.Add(1)
	for _, c := range clients {
		c.send(opPing, binary.BigEndian.AppendUint64(nil, marker))
	}
	if err := poll(ctx, func() bool {
		return !slices.ContainsFunc(clients, func(c *client) bool { return !c.flushed() || !c.answered(marker) })
	}); err != nil {
		return fmt.Errorf("pausing the simulator: waiting for the clients to read: %w", err)
	}
	return nil
}

// halt makes the last orders and stops the market.
func (s *Sim) halt() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.halted {
		return nil
	}
	s.stamp()
	for _, y := range s.running {
		s.step(y)
		y.credit = 0
	}
	err := s.commit()
	s.halted = true
	return err
}

// heard reports whether every open symbol that recently lost a listener has one
// again.
func (s *Sim) heard() bool {
	if slices.ContainsFunc(s.all(), (*client).closing) {
		return false // it has yet to leave its symbols
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, y := range s.running {
		if !y.lost.IsZero() && time.Since(y.lost) < 5*time.Second {
			return false
		}
	}
	return true
}

// Resume lets the market go on after Pause.
func (s *Sim) Resume() {
	s.mu.Lock()
	s.halted = false
	s.mu.Unlock()
	s.paused.Store(false)
}

// Close stops the market, says goodbye to the clients and closes the ledger. It
// returns the error that ended the simulator, if one did.
func (s *Sim) Close() error {
	s.closeOnce.Do(func() {
		s.cancel()
		s.clients.Lock()
		s.clients.closed = true
		s.clients.Unlock()
		for _, c := range s.all() {
			c.closeWith(closeGoingAway, "")
			c.lift()
		}
		err := s.http.Close()
		// A client that does not read is not waited for.
		impatient := time.AfterFunc(lingerTimeout, func() {
			for _, c := range s.all() {
				c.kill()
			}
		})
		s.wg.Wait()
		impatient.Stop()
		s.mu.Lock()
		s.halted = true
		if s.ledger != nil {
			// The states of an orderly end spare the next start the search.
			s.ledger.checkpoint(s.states())
			err = errors.Join(err, s.ledger.flush(), s.ledger.close())
		}
		s.mu.Unlock()
		s.errMu.Lock()
		s.closeErr = errors.Join(s.err, err)
		s.errMu.Unlock()
		close(s.done)
	})
	<-s.done
	return s.closeErr
}

// Done is closed when the simulator has stopped, by Close, ctx or an error that
// Err tells.
func (s *Sim) Done() <-chan struct{} { return s.done }

// Err returns why the simulator failed, nil when it did not.
func (s *Sim) Err() error {
	s.errMu.Lock()
	defer s.errMu.Unlock()
	return s.err
}

// fail records the first error and stops the simulator.
func (s *Sim) fail(err error) {
	s.errMu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.errMu.Unlock()
	s.log.Error("stopping the simulator", "err", err)
	s.cancel()
}

// Stats counts what happened since Start.
type Stats struct {
	Trades      int64         `json:"trades"`
	Quotes      int64         `json:"quotes"`
	Frames      int64         `json:"frames"` // market data frames handed to sockets, over all clients
	Clients     int           `json:"clients"`
	Connects    int64         `json:"connects"`
	SlowClients int64         `json:"slow_clients"`
	Faults      int           `json:"faults"`
	Paused      bool          `json:"paused"`
	Symbols     []SymbolStats `json:"symbols"`
}

// SymbolStats is what one open symbol made since Start.
type SymbolStats struct {
	Venue     string `json:"venue"`
	Symbol    string `json:"symbol"`
	FirstID   uint64 `json:"first_id"`
	LastID    uint64 `json:"last_id"` // below FirstID when there is no trade yet
	Trades    int64  `json:"trades"`
	Quotes    int64  `json:"quotes"`
	Listeners int    `json:"listeners"` // connections on its trade channels
}

// Stats returns the counters.
func (s *Sim) Stats() Stats {
	var st Stats
	s.clients.Lock()
	st.Clients = len(s.clients.set)
	st.Faults = len(s.faults)
	s.clients.Unlock()
	st.SlowClients = s.slow.Load()
	for _, v := range s.venues {
		st.Frames += v.sent.Load()
		st.Connects += v.connects.Load()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Paused = s.halted
	for _, y := range s.running {
		st.Trades += y.trades
		st.Quotes += y.quotes
		st.Symbols = append(st.Symbols, SymbolStats{
			Venue: y.spec.venue, Symbol: y.name, FirstID: y.first, LastID: y.next - 1, Trades: y.trades, Quotes: y.quotes,
			Listeners: len(y.subs[chTrade]) + len(y.subs[chAgg]) + len(y.subs[chMatches]),
		})
	}
	return st
}

// poll asks once a millisecond until ok or the end of ctx.
func poll(ctx context.Context, ok func() bool) error {
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
	return nil
}

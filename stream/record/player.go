package record

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/autohedge/autohedge/stream/component"
)

// Subprotocol is what a client must offer. Each binary message is eight bytes
// of recorded receive time, Unix nanoseconds big-endian, and the frame. The
// server closes with code 1000 after the last frame.
const Subprotocol = "autohedge.replay.1"

// SpeedMax plays as fast as the clients read.
const SpeedMax = 0

// Config describes one replay.
type Config struct {
	Files  []File        `yaml:"files" doc:"recordings, merged by receive time"`
	Speed  float64       `yaml:"speed" doc:"1 is the recorded pace, 2 twice that, 0 as fast as the clients read"`
	MaxGap time.Duration `yaml:"max_gap" doc:"longest silence of the recording that is waited for, before speed"`
	Listen string        `yaml:"listen" doc:"host:port to serve on; port 0 takes a free one"`
}

// DefaultConfig plays at the recorded pace; files are to be added.
func DefaultConfig() Config {
	return Config{Speed: 1, MaxGap: 2 * time.Second, Listen: "127.0.0.1:0"}
}

// Validate reports every problem; it does no I/O.
func (c *Config) Validate() component.Problems {
	var p component.Problems
	if len(c.Files) == 0 {
		p.Addf("files", "empty: name at least one recording")
	}
	for i, f := range c.Files {
		path := "files[" + strconv.Itoa(i) + "]"
		if f.Path == "" {
			p.Addf(path+".path", "empty")
		}
		if f.Venue != "" && !slices.Contains(venues, f.Venue) {
			p.Addf(path+".venue", "unknown venue %q: want one of %s", f.Venue, strings.Join(venues, ", "))
		}
	}
	if !(c.Speed >= 0 && c.Speed <= 1e6) {
		p.Addf("speed", "%v: want 0 (max) to 1000000", c.Speed)
	}
	if c.MaxGap <= 0 {
		p.Addf("max_gap", "%s: want more than 0", c.MaxGap)
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		p.Addf("listen", "%q is not host:port", c.Listen)
	}
	return p
}

// ParseSpeed reads a speed as on the command line: a number, or max.
func ParseSpeed(text string) (float64, error) {
	if text == "max" {
		return SpeedMax, nil
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n > 0 && n <= 1e6) {
		return 0, fmt.Errorf("speed %q: want max or a number above 0", text)
	}
	return n, nil
}

// Endpoint is where one venue's frames are played.
type Endpoint struct {
	Venue string `json:"venue"`
	// URL is the base of the venue's WebSocket: anything may be appended to it.
	URL      string   `json:"url"`
	Symbols  []string `json:"symbols"`  // as the venue writes them
	Channels []string `json:"channels"` // the venue's names: trade, bookTicker, matches, ticker, ...
	Frames   int      `json:"frames"`
	// First and Last are the receive times of the first and last frame, Unix ns.
	First int64 `json:"first"`
	Last  int64 `json:"last"`
}

// Player serves recordings. Open it, connect one client to each endpoint, Run.
type Player struct {
	cfg       Config
	log       *slog.Logger
	files     []FileInfo
	endpoints []*endpoint
	byVenue   map[string]*endpoint
	http      *http.Server
	addr      string
	wg        sync.WaitGroup
	served    atomic.Int64
	total     int64
	position  atomic.Int64

	mu     sync.Mutex
	counts map[string]map[string]int
	breaks int
}

// Open scans the files and begins to listen. Problems of single lines are no
// error: Files tells them.
func Open(cfg Config, env component.Env) (*Player, error) {
	if err := cfg.Validate().Err(); err != nil {
		return nil, fmt.Errorf("checking the replay's configuration: %w", err)
	}
	p := &Player{cfg: cfg, log: env.Log.With("component", "replay"), byVenue: make(map[string]*endpoint), counts: make(map[string]map[string]int)}
	for _, f := range cfg.Files {
		info, err := Scan(f)
		if err != nil {
			return nil, err
		}
		p.files = append(p.files, info)
		p.add(info)
	}
	lis, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening for the replay's clients: %w", err)
	}
	p.addr = lis.Addr().String()
	mux := http.NewServeMux()
	for _, e := range p.endpoints {
		e.Symbols, e.Channels = slices.Sorted(maps.Keys(e.symbols)), slices.Sorted(maps.Keys(e.channels))
		e.URL = "ws://" + p.addr + "/" + e.Venue
		mux.HandleFunc("GET /"+e.Venue, e.serve)
		mux.HandleFunc("GET /"+e.Venue+"/", e.serve)
	}
	p.http = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)}
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		if err := p.http.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
			p.log.Error("serving the replay", "err", err)
		}
	}()
	return p, nil
}

func (p *Player) add(info FileInfo) {
	e := p.byVenue[info.Venue]
	if e == nil {
		e = &endpoint{player: p, symbols: make(set), channels: make(set), changed: make(chan struct{}, 1)}
		e.Venue, e.First = info.Venue, info.First
		p.byVenue[info.Venue] = e
		p.endpoints = append(p.endpoints, e)
		p.counts[info.Venue] = make(map[string]int)
	}
	for _, s := range info.Symbols {
		e.symbols.add(s)
	}
	for _, c := range info.Channels {
		e.channels.add(c)
	}
	e.Frames += info.Frames
	e.left += info.Frames
	e.First, e.Last = min(e.First, info.First), max(e.Last, info.Last)
	e.acks = e.acks || info.acks
	e.at.Store(e.First)
	p.total += int64(info.Frames)
}

// Endpoints tells what is played where, one entry a venue.
func (p *Player) Endpoints() []Endpoint {
	list := make([]Endpoint, 0, len(p.endpoints))
	for _, e := range p.endpoints {
		list = append(list, e.Endpoint)
	}
	return list
}

// Files tells what was found in each file, bad lines included.
func (p *Player) Files() []FileInfo { return p.files }

// Counts returns the frames given out so far: venue -> kind -> number.
func (p *Player) Counts() map[string]map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[string]map[string]int, len(p.counts))
	for v, m := range p.counts {
		all[v] = maps.Clone(m)
	}
	return all
}

// Progress tells how many frames were given out, of how many, and the receive
// time of the last of them (Unix ns).
func (p *Player) Progress() (done, total, at int64) {
	return p.served.Load(), p.total, p.position.Load()
}

// Interruptions is how often a client went away before the end. What lay in the
// socket then is lost: a replay is exact only with 0.
func (p *Player) Interruptions() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.breaks
}

// Close stops serving.
func (p *Player) Close() error {
	err := p.http.Close()
	for _, e := range p.endpoints {
		e.mu.Lock()
		e.closed = true
		c := e.conn
		e.mu.Unlock()
		if c != nil {
			c.kill()
		}
	}
	p.wg.Wait()
	return err
}

// source is one file being played.
type source struct {
	e    *endpoint
	f    *os.File
	r    *Reader
	line Line
	key  int64 // time of release: never before that of the line before
}

func (s *source) next() (bool, error) {
	for {
		l, err := s.r.Next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if l.Kind == Received {
			s.line, s.key = l, max(s.key, l.Time)
			return true, nil
		}
	}
}

// Run waits until every endpoint has a client that has subscribed, plays all
// files in the order of their receive times and returns when the clients have
// taken everything. A slow client slows the replay, nothing is left out.
func (p *Player) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		for _, e := range p.endpoints {
			if c := e.current(); c != nil {
				c.kill() // a blocked write ends
			}
		}
	})
	defer stop()
	var sources []*source
	defer func() {
		for _, s := range sources {
			_ = s.f.Close()
		}
	}()
	for i, info := range p.files {
		f, err := os.Open(info.Path)
		if err != nil {
			return fmt.Errorf("opening the recording: %w", err)
		}
		s := &source{e: p.byVenue[info.Venue], f: f, r: NewReader(f, p.files[i].Path)}
		sources = append(sources, s)
		ok, err := s.next()
		if err != nil {
			return err
		}
		if !ok {
			s.key = -1
		}
	}
	for _, e := range p.endpoints {
		if _, err := e.client(ctx); err != nil {
			return fmt.Errorf("waiting for the client of %s: %w", e.Venue, err)
		}
	}
	if err := p.play(ctx, sources); err != nil {
		return err
	}
	for _, e := range p.endpoints {
		if err := e.finish(); err != nil {
			p.log.Warn("ending the replay", "venue", e.Venue, "err", err)
		}
	}
	for _, e := range p.endpoints {
		if err := e.gone(ctx); err != nil {
			return fmt.Errorf("waiting for the client of %s to read the end: %w", e.Venue, err)
		}
	}
	return nil
}

func (p *Player) play(ctx context.Context, sources []*source) error {
	sources = slices.DeleteFunc(slices.Clone(sources), func(s *source) bool { return s.key < 0 })
	var at int64        // recorded time of the last frame
	var played float64  // how long the replay takes up to it, seconds
	begin := time.Now() // pacing is the machine's
	var last *endpoint  // whose buffer may hold frames
	for len(sources) > 0 {
		s := sources[0]
		for _, o := range sources[1:] {
			if o.key < s.key {
				s = o
			}
		}
		if p.cfg.Speed > 0 {
			if at != 0 {
				played += min(time.Duration(s.key-at), p.cfg.MaxGap).Seconds() / p.cfg.Speed
			}
			if wait := time.Duration(played*1e9) - time.Since(begin); wait > time.Millisecond {
				if err := p.rest(ctx, wait, last); err != nil {
					return err
				}
			}
		}
		at = s.key
		if last != nil && last != s.e {
			// Order between connections holds only for what has left.
			last.flush()
		}
		last = s.e
		if err := s.e.give(ctx, s.line.Time, s.line.Data); err != nil {
			return fmt.Errorf("playing %s:%d: %w", s.r.name, s.line.Number, err)
		}
		p.position.Store(s.line.Time)
		p.served.Add(1)
		p.mu.Lock()
		p.counts[s.e.Venue][Describe(s.e.Venue, s.line.Data).Kind]++
		p.mu.Unlock()
		if s.e.left--; s.e.left == 0 {
			if err := s.e.finish(); err != nil {
				p.log.Warn("ending the replay", "venue", s.e.Venue, "err", err)
			}
		}
		ok, err := s.next()
		if err != nil {
			return err
		}
		if !ok {
			sources = slices.DeleteFunc(sources, func(o *source) bool { return o == s })
		}
	}
	return nil
}

// rest waits for the next frame's time, with nothing left in a buffer.
func (p *Player) rest(ctx context.Context, wait time.Duration, last *endpoint) error {
	if last != nil {
		last.flush()
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// endpoint serves one venue's frames to one client at a time.
type endpoint struct {
	Endpoint
	player            *Player
	symbols, channels set
	acks              bool
	left              int          // frames to come, Run's
	at                atomic.Int64 // time of the last frame given

	mu      sync.Mutex
	conn    *pconn
	begun   bool          // a frame was given
	ended   bool          // the close frame is out
	closed  bool          // Close was called
	changed chan struct{} // conn has come, gone or become ready
}

// pconn is one client. gorilla does the handshake and reads; all writes go
// through w under wmu, so that no frame is split by another.
type pconn struct {
	ws    *websocket.Conn
	nc    net.Conn
	wmu   sync.Mutex
	w     *bufio.Writer
	done  chan struct{}
	once  sync.Once
	ready bool // guarded by endpoint.mu
}

func (c *pconn) kill() {
	c.once.Do(func() {
		close(c.done)
		_ = c.nc.Close()
	})
}

// subscribeGrace is how long a client has to subscribe before it counts as one
// that does not.
const subscribeGrace = 2 * time.Second

// keepAlive is the time between pings, so that a client's watchdog knows a
// silent replay from a dead one.
const keepAlive = time.Second

func (e *endpoint) serve(w http.ResponseWriter, r *http.Request) {
	if !slices.Contains(websocket.Subprotocols(r), Subprotocol) {
		http.Error(w, "this is a replay: the client must offer the WebSocket subprotocol "+Subprotocol, http.StatusBadRequest)
		return
	}
	e.mu.Lock()
	busy := e.conn != nil || e.ended || e.closed
	e.mu.Unlock()
	if busy {
		http.Error(w, "the replay has its client, or has ended", http.StatusConflict)
		return
	}
	up := websocket.Upgrader{Subprotocols: []string{Subprotocol}, ReadBufferSize: 4096, WriteBufferSize: 256}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return // gorilla has answered
	}
	ws.SetReadLimit(1 << 20)
	c := &pconn{ws: ws, nc: ws.NetConn(), done: make(chan struct{})}
	c.w = bufio.NewWriterSize(c.nc, 64<<10)
	// A URL that names streams is a subscription.
	c.ready = r.URL.Query().Has("streams") || strings.Contains(r.URL.Path, "/ws/")
	e.mu.Lock()
	if e.conn != nil || e.ended || e.closed {
		e.mu.Unlock()
		_ = ws.Close()
		return
	}
	e.conn = c
	e.player.wg.Add(2)
	e.mu.Unlock()
	e.notify()
	go func() {
		defer e.player.wg.Done()
		e.keep(c)
	}()
	defer e.player.wg.Done()
	e.read(c)
	c.kill()
	e.mu.Lock()
	e.conn = nil
	early := e.begun && !e.ended && !e.closed
	e.mu.Unlock()
	if early {
		e.player.mu.Lock()
		e.player.breaks++
		e.player.mu.Unlock()
		e.player.log.Warn("losing the replay's client before the end", "venue", e.Venue)
	}
	e.notify()
}

func (e *endpoint) notify() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

func (e *endpoint) subscribed(c *pconn) {
	e.mu.Lock()
	c.ready = true
	e.mu.Unlock()
	e.notify()
}

// keep pings, and stops waiting for a subscription that does not come.
func (e *endpoint) keep(c *pconn) {
	ping := time.NewTicker(keepAlive)
	defer ping.Stop()
	grace := time.NewTimer(subscribeGrace)
	defer grace.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-grace.C:
			e.subscribed(c)
		case <-ping.C:
			_ = c.put(opPing, nil, nil, true) // the reader sees a broken connection
		}
	}
}

func (e *endpoint) read(c *pconn) {
	c.ws.SetPingHandler(func(data string) error { return c.put(opPong, nil, []byte(data), true) })
	c.ws.SetCloseHandler(func(int, string) error { return nil })
	for {
		_, msg, err := c.ws.ReadMessage()
		if err != nil {
			return
		}
		for _, ack := range e.answer(msg) {
			if err := c.message(e.at.Load(), ack, true); err != nil {
				return
			}
		}
		e.subscribed(c)
	}
}

// answer acknowledges a command where the recording holds no acknowledgement:
// clients may wait for one.
func (e *endpoint) answer(msg []byte) [][]byte {
	if e.acks {
		return nil
	}
	switch e.Venue {
	case "binance", "binance-usdm", "binance-coinm":
		var cmd struct {
			ID json.RawMessage `json:"id"`
		}
		if json.Unmarshal(msg, &cmd) != nil || len(cmd.ID) == 0 {
			return nil
		}
		return [][]byte{[]byte(`{"result":null,"id":` + string(cmd.ID) + `}`)}
	case "coinbase":
		var cmd struct {
			Channels []json.RawMessage `json:"channels"`
			Products []string          `json:"product_ids"`
		}
		if json.Unmarshal(msg, &cmd) != nil {
			return nil
		}
		type channel struct {
			Name     string   `json:"name"`
			Products []string `json:"product_ids"`
		}
		ack := struct {
			Type     string    `json:"type"`
			Channels []channel `json:"channels"`
		}{Type: "subscriptions", Channels: []channel{}}
		for _, raw := range cmd.Channels {
			ch := channel{Products: cmd.Products}
			if json.Unmarshal(raw, &ch.Name) == nil || json.Unmarshal(raw, &ch) == nil {
				ack.Channels = append(ack.Channels, ch)
			}
		}
		b, err := json.Marshal(ack)
		if err != nil {
			return nil
		}
		return [][]byte{b}
	}
	return nil
}

// client waits for a connection that has subscribed.
func (e *endpoint) client(ctx context.Context) (*pconn, error) {
	for {
		e.mu.Lock()
		c, closed := e.conn, e.closed
		ok := c != nil && c.ready
		e.mu.Unlock()
		if ok {
			return c, nil
		}
		if closed {
			return nil, errors.New("the player was closed")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-e.changed:
		case <-time.After(100 * time.Millisecond): // Close does not notify
		}
	}
}

// give writes one frame, to the next client when the present one goes away.
func (e *endpoint) give(ctx context.Context, t int64, frame []byte) error {
	e.at.Store(t)
	for {
		c, err := e.client(ctx)
		if err != nil {
			return err
		}
		e.mu.Lock()
		e.begun = true
		e.mu.Unlock()
		if err = c.message(t, frame, false); err == nil {
			return nil
		}
		c.kill()
		for e.current() == c { // until its reader has let go
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
	}
}

func (e *endpoint) current() *pconn {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.conn
}

func (e *endpoint) flush() {
	if c := e.current(); c != nil {
		c.wmu.Lock()
		_ = c.w.Flush() // the next write tells
		c.wmu.Unlock()
	}
}

// finish sends the close frame, once.
func (e *endpoint) finish() error {
	e.mu.Lock()
	c, ended := e.conn, e.ended
	e.ended = true
	e.mu.Unlock()
	if ended || c == nil {
		return nil
	}
	return c.put(opClose, nil, []byte{closeNormal >> 8, closeNormal & 0xff}, true)
}

// gone waits until the client has read the end and closed.
func (e *endpoint) gone(ctx context.Context) error {
	for {
		c := e.current()
		if c == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.done:
			return nil
		}
	}
}

// Opcodes and the close code (RFC 6455 sections 5.2 and 7.4).
const (
	opBinary    = 0x2
	opClose     = 0x8
	opPing      = 0x9
	opPong      = 0xa
	closeNormal = 1000
)

// message writes a frame with its time.
func (c *pconn) message(t int64, frame []byte, flush bool) error {
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], uint64(t))
	return c.put(opBinary, head[:], frame, flush)
}

// put writes one whole, unmasked WebSocket frame.
func (c *pconn) put(op byte, head, body []byte, flush bool) error {
	var buf [10]byte
	h := append(buf[:0], 0x80|op)
	switch n := len(head) + len(body); {
	case n < 126:
		h = append(h, byte(n))
	case n < 1<<16:
		h = binary.BigEndian.AppendUint16(append(h, 126), uint16(n))
	default:
		h = binary.BigEndian.AppendUint64(append(h, 127), uint64(n))
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	// bufio keeps its first error, so the last write or the flush tells.
	_, _ = c.w.Write(h)
	_, _ = c.w.Write(head)
	_, err := c.w.Write(body)
	if err == nil && flush {
		err = c.w.Flush()
	}
	return err
}

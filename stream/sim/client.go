package sim

import (
	"encoding/binary"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// Close codes (RFC 6455 section 7.4).
const (
	closeNormal         = 1000
	closeGoingAway      = 1001
	closePolicy         = 1008
	closeServiceRestart = 1012
)

const (
	// writeTimeout is how long a peer may leave its receive window closed.
	writeTimeout = 30 * time.Second
	// lingerTimeout is how long a closing connection waits for the peer's end.
	lingerTimeout = 500 * time.Millisecond
	maxCommand    = 64 << 10
	commandRate   = 5 // messages a second that Binance takes from a client
)

// client is one WebSocket connection. The market loop stages whole frames and
// hands them over once a tick; the writer sends what lies there in one write.
// gorilla does the handshake and reads; all writes go through out, so that a
// frame is never split by another.
type client struct {
	sim   *Sim
	venue *venue
	ws    *websocket.Conn
	nc    net.Conn
	born  time.Time
	wake  chan struct{} // out has something, or the state changed
	room  chan struct{} // out was taken
	done  chan struct{} // closed by kill
	gone  chan struct{} // closed when the reader has ended
	once  sync.Once

	// Guarded by Sim.mu.
	staged       []byte
	stagedFrames int64
	dirty        bool
	combined     bool            // frames wear the combined envelope
	streams      []string        // Binance: in the order of subscription
	have         map[string]bool // Binance: the same as a set
	subscribed   bool            // Coinbase: a valid subscribe has come

	mu         sync.Mutex
	out, spare []byte
	writing    bool
	finish     bool // close once out is sent
	stallUntil time.Time
	muteUntil  time.Time
	dupUntil   time.Time
	dupOnce    bool
	closeAt    time.Time // when a shutdown notice comes true
	pingAt     time.Time // the unanswered ping, zero when none
	pinged     time.Time
	pong       uint64 // the highest marker answered
	// Commands of the running second, for the venue's limit.
	second   int64
	commands int
}

// serve upgrades the request and runs the connection until it ends. setup
// subscribes what the URL names.
func (s *Sim) serve(v *venue, w http.ResponseWriter, r *http.Request, setup func(*client)) {
	if wait := s.refused(v); wait > 0 {
		w.Header().Set("Retry-After", itoa(1+int(wait/time.Second)))
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
		return
	}
	up := websocket.Upgrader{ReadBufferSize: 4096, WriteBufferSize: 256}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return // gorilla has answered
	}
	ws.SetReadLimit(maxCommand)
	now := time.Now()
	c := &client{
		sim: s, venue: v, ws: ws, nc: ws.NetConn(), born: now, pinged: now,
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1), done: make(chan struct{}),
		gone: make(chan struct{}), have: make(map[string]bool),
	}
	if !s.join(c) {
		_ = ws.Close()
		return
	}
	defer s.leave(c)
	if setup != nil {
		s.mu.Lock()
		setup(c)
		s.handOver(c)
		s.mu.Unlock()
	}
	go func() {
		defer s.wg.Done()
		c.write()
	}()
	c.read()
	<-c.done
}

// read takes the client's messages until the connection ends. After a close
// frame, ours or the peer's, the writer sends what waits and ends it.
func (c *client) read() {
	defer close(c.gone)
	c.ws.SetPingHandler(func(data string) error {
		c.send(opPong, []byte(data))
		if c.count() != nil {
			c.closeWith(closePolicy, "Too many requests")
		}
		return nil
	})
	c.ws.SetPongHandler(func(data string) error {
		c.mu.Lock()
		c.pingAt = time.Time{}
		if len(data) == 8 {
			c.pong = max(c.pong, binary.BigEndian.Uint64([]byte(data)))
		}
		c.mu.Unlock()
		return nil
	})
	c.ws.SetCloseHandler(func(code int, _ string) error {
		c.closeWith(code, "")
		return nil
	})
	for {
		_, msg, err := c.ws.ReadMessage()
		if err != nil {
			c.mu.Lock()
			finish := c.finish
			c.mu.Unlock()
			if !finish {
				c.kill()
			}
			return
		}
		if c.count() != nil {
			c.closeWith(closePolicy, "Too many requests")
		}
		if c.closing() {
			continue
		}
		c.sim.mu.Lock()
		c.venue.command(c, msg)
		c.sim.handOver(c)
		c.sim.mu.Unlock()
	}
}

func (c *client) closing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.finish
}

// count holds the client to the venue's rate of messages.
func (c *client) count() error {
	if c.venue.name != VenueBinance {
		return nil
	}
	now := time.Now().Unix()
	c.mu.Lock()
	defer c.mu.Unlock()
	if now != c.second {
		c.second, c.commands = now, 0
	}
	if c.commands++; c.commands > commandRate {
		return websocket.ErrCloseSent
	}
	return nil
}

// write sends what lies in out and keeps the venue's times: pings, deadlines,
// the end of a stall.
func (c *client) write() {
	defer c.kill()
	every := min(c.sim.cfg.PingInterval, c.sim.cfg.PongTimeout, c.sim.cfg.SubscribeGrace, time.Second) / 4
	tick := time.NewTicker(every)
	defer tick.Stop()
	stall := time.NewTimer(time.Hour)
	defer stall.Stop()
	for {
		c.mu.Lock()
		if wait := time.Until(c.stallUntil); wait > 0 && !c.finish {
			c.mu.Unlock()
			stall.Reset(wait)
			select {
			case <-c.done:
				return
			case <-c.wake:
			case <-stall.C:
			}
			continue
		}
		if len(c.out) == 0 {
			finish := c.finish
			c.mu.Unlock()
			if finish {
				c.linger()
				return
			}
			select {
			case <-c.done:
				return
			case <-c.wake:
			case <-tick.C:
				c.keep()
			}
			continue
		}
		buf := c.out
		c.out, c.spare, c.writing = c.spare[:0], nil, true
		c.mu.Unlock()
		signal(c.room)
		if err := c.nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return
		}
		_, err := c.nc.Write(buf)
		c.mu.Lock()
		c.spare, c.writing = buf[:0], false
		c.mu.Unlock()
		if err != nil {
			return
		}
		c.venue.bytes.Add(float64(len(buf)))
		select {
		case <-c.done:
			return
		case <-tick.C:
			c.keep()
		default:
		}
	}
}

// keep does what the venue does by the clock.
func (c *client) keep() {
	now := time.Now()
	cfg := &c.sim.cfg
	c.mu.Lock()
	ping := now.Sub(c.pinged) >= cfg.PingInterval
	dead := !c.pingAt.IsZero() && now.Sub(c.pingAt) >= cfg.PongTimeout
	leave := !c.closeAt.IsZero() && now.After(c.closeAt)
	if ping {
		c.pinged = now
		if c.pingAt.IsZero() {
			c.pingAt = now
		}
	}
	c.mu.Unlock()
	switch {
	case dead:
		c.closeWith(closePolicy, "Pong timeout")
	case leave, c.venue.name == VenueBinance && now.Sub(c.born) >= cfg.MaxAge:
		c.closeWith(closeGoingAway, "")
	case c.venue.name == VenueCoinbase && now.Sub(c.born) >= cfg.SubscribeGrace:
		c.sim.mu.Lock()
		ok := c.subscribed
		c.sim.mu.Unlock()
		if !ok {
			c.closeWith(closePolicy, "Subscribe timeout")
		}
	}
	if ping {
		c.send(opPing, []byte(itoa(int(now.UnixMilli()))))
	}
}

// stage appends one text frame, in the combined envelope where the client
// wants it; head is that envelope up to the payload. Sim.mu is held.
func (c *client) stage(head string, payload []byte) {
	if !c.dirty {
		c.dirty = true
		c.sim.dirty = append(c.sim.dirty, c)
	}
	c.stagedFrames++
	if c.combined && head != "" {
		c.staged = appendFrameHeader(c.staged, opText, len(head)+len(payload)+1)
		c.staged = append(c.staged, head...)
		c.staged = append(c.staged, payload...)
		c.staged = append(c.staged, '}')
		return
	}
	c.staged = append(appendFrameHeader(c.staged, opText, len(payload)), payload...)
}

// handOver moves what is staged for c to its writer. Sim.mu is held.
func (s *Sim) handOver(c *client) {
	if len(c.staged) == 0 {
		return
	}
	frames := c.stagedFrames
	c.mu.Lock()
	now := time.Now()
	full, n := false, len(c.staged)
	switch {
	case c.finish, now.Before(c.muteUntil):
		frames = 0
	case len(c.out)+2*len(c.staged) > s.cfg.QueueBytes && s.cfg.SlowClients == SlowClose:
		full = true
		frames = 0
	default:
		if len(c.out) == 0 && cap(c.out) < cap(c.staged) {
			c.out, c.staged = c.staged, c.out
		} else {
			c.out = append(c.out, c.staged...)
		}
		if c.dupOnce || now.Before(c.dupUntil) {
			c.dupOnce = false
			c.out = append(c.out, c.out[len(c.out)-n:]...)
			frames *= 2
		}
	}
	c.mu.Unlock()
	c.staged, c.stagedFrames = c.staged[:0], 0
	if full {
		s.slow.Add(1)
		c.venue.slow.Inc()
		s.log.Warn("closing a slow client", "venue", c.venue.name, "remote", c.nc.RemoteAddr().String(), "queue_bytes", s.cfg.QueueBytes)
		c.kill()
		return
	}
	c.venue.frames.Add(float64(frames))
	c.venue.sent.Add(frames)
	signal(c.wake)
}

// waitRoom blocks while the client's queue is full.
func (c *client) waitRoom() {
	for {
		c.mu.Lock()
		full := !c.finish && len(c.out) > c.sim.cfg.QueueBytes
		c.mu.Unlock()
		if !full {
			return
		}
		select {
		case <-c.done:
			return
		case <-c.sim.ctx.Done():
			return
		case <-c.room:
		}
	}
}

// send queues one frame behind what waits already. A muted connection sends
// nothing at all.
func (c *client) send(op byte, payload []byte) {
	c.mu.Lock()
	full := len(c.out) > c.sim.cfg.QueueBytes && c.sim.cfg.SlowClients == SlowClose
	if !full && !c.finish && !time.Now().Before(c.muteUntil) {
		c.out = append(appendFrameHeader(c.out, op, len(payload)), payload...)
	}
	c.mu.Unlock()
	if full {
		c.kill()
		return
	}
	signal(c.wake)
}

// closeWith sends a close frame after what waits and then closes.
func (c *client) closeWith(code int, reason string) {
	c.mu.Lock()
	if !c.finish {
		c.finish = true
		c.out = appendFrameHeader(c.out, opClose, 2+len(reason))
		c.out = append(c.out, byte(code>>8), byte(code))
		c.out = append(c.out, reason...)
	}
	c.mu.Unlock()
	signal(c.wake)
}

// linger gives the peer time to read the close frame: closing at once would
// reset the connection if something of the peer's is unread.
func (c *client) linger() {
	if tc, ok := c.nc.(*net.TCPConn); ok {
		_ = tc.CloseWrite()
	}
	t := time.NewTimer(lingerTimeout)
	defer t.Stop()
	select {
	case <-c.done:
	case <-c.gone:
	case <-t.C:
	}
}

// reset ends the connection as a broken line does: no close frame, what waits
// is gone.
func (c *client) reset() {
	if tc, ok := c.nc.(*net.TCPConn); ok {
		_ = tc.SetLinger(0)
	}
	c.kill()
}

// kill closes the socket; reader and writer end.
func (c *client) kill() {
	c.once.Do(func() {
		c.mu.Lock()
		c.finish = true
		c.mu.Unlock()
		close(c.done)
		_ = c.nc.Close()
	})
}

// lift ends stalls and mutes.
func (c *client) lift() {
	c.mu.Lock()
	c.stallUntil, c.muteUntil, c.dupUntil = time.Time{}, time.Time{}, time.Time{}
	c.mu.Unlock()
	signal(c.wake)
}

// flushed reports whether everything queued is with the kernel, or the
// connection is gone.
func (c *client) flushed() bool {
	select {
	case <-c.done:
		return true
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.out) == 0 && !c.writing
}

// answered reports whether the marker has come back, or the connection is gone.
func (c *client) answered(marker uint64) bool {
	select {
	case <-c.done:
		return true
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pong >= marker
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/autohedge/autohedge/stream/venue"
)

// conn is one WebSocket connection of a line. Its goroutines are started by
// start and have ended when ended is closed.
type conn struct {
	line   *line
	feed   *feed
	ws     *websocket.Conn
	number uint32
	rotate chan struct{} // the venue asks for a successor
	first  chan struct{} // closed at the first data frame
	ended  chan struct{} // closed at the end; err is set before
	err    error
	stop   chan struct{}          // closed when reading has ended
	why    atomic.Pointer[string] // why we ended it

	data    atomic.Int64 // data frames read
	control atomic.Int64 // control frames read
	buf     []byte       // the reader's

	// Guarded by feed.mu.
	decoder    venue.Decoder
	frame      venue.Frame
	kinds      []*FrameCount
	statements uint64 // coverage records written
	frames     uint64 // frames published from, to tell dead letters apart
	held       bool   // the predecessor still publishes: keep the frames
	heldFrames []heldFrame
	heldBytes  int
	retired    bool // the successor publishes
	subs       subscriptions
	lastRecv   int64     // receive time of the last frame; at first of the connection
	firstAt    time.Time // of the first data frame
	lastAt     time.Time // of the last one when reading ended
}

type heldFrame struct {
	data []byte
	recv int64
}

// maxHeld bounds what is kept during an overlap.
const maxHeld = 16 << 20

func newConn(l *line, ws *websocket.Conn) *conn {
	c := &conn{line: l, feed: l.feed, ws: ws, number: l.feed.numbers.next(), decoder: l.feed.venue.NewDecoder(),
		rotate: make(chan struct{}, 1), first: make(chan struct{}), ended: make(chan struct{}), stop: make(chan struct{}), buf: make([]byte, 64<<10)}
	if !l.feed.cfg.Replay {
		c.lastRecv = l.feed.env.Clock.Now().UnixNano()
	}
	ws.SetReadLimit(maxFrame)
	ws.SetPingHandler(func(payload string) error {
		c.control.Add(1)
		err := ws.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add(time.Second))
		var timeout interface{ Timeout() bool }
		if errors.Is(err, websocket.ErrCloseSent) || (errors.As(err, &timeout) && timeout.Timeout()) {
			return nil // a venue that does not read is the watchdog's business
		}
		return err
	})
	ws.SetPongHandler(func(string) error {
		c.control.Add(1)
		return nil
	})
	return c
}

// start subscribes, reads and watches in the background.
func (c *conn) start() {
	c.begin()
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		if err := c.subscribe(ctx); err != nil && ctx.Err() == nil {
			c.feed.log.Warn("subscribing", "err", err)
			c.end(whyDropped)
		}
	})
	if !c.feed.cfg.Replay {
		wg.Go(c.watch)
	}
	go func() {
		err := c.read()
		if why := c.why.Load(); why != nil {
			err = &endError{why: *why}
		}
		c.err = err
		cancel()
		c.abandon()
		close(c.stop)
		wg.Wait()
		close(c.ended)
	}()
}

// end closes the socket for a reason of ours; the first reason stays.
func (c *conn) end(why string) {
	if c.why.CompareAndSwap(nil, &why) {
		// Best effort: the peer may be gone, and the socket is closed in any case.
		_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(100*time.Millisecond))
		c.abandon()
	}
}

// abandon closes the socket without a word.
func (c *conn) abandon() {
	_ = c.ws.Close() // nothing of ours is buffered in it
}

// wantRotation asks the line for a successor.
func (c *conn) wantRotation() {
	select {
	case c.rotate <- struct{}{}:
	default:
	}
}

// healthy is how long data came.
func (c *conn) healthy() time.Duration {
	c.feed.mu.Lock()
	defer c.feed.mu.Unlock()
	if c.firstAt.IsZero() {
		return 0
	}
	return c.lastAt.Sub(c.firstAt)
}

// read handles frames until the connection ends.
func (c *conn) read() error {
	f := c.feed
	defer func() {
		f.mu.Lock()
		c.lastAt = time.Now()
		f.mu.Unlock()
	}()
	for {
		_, r, err := c.ws.NextReader()
		if err != nil {
			if f.cfg.Replay && websocket.IsCloseError(err, websocket.CloseNormalClosure) {
				return errFinished
			}
			return fmt.Errorf("reading: %w", err)
		}
		n, err := c.fill(r)
		if err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		// The receive time is taken under the lock, which is free but for a
		// clock record a second, so that records and clock records are in the
		// order of their times.
		f.mu.Lock()
		err = c.handle(c.buf[:n])
		f.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// fill reads one message into buf, which grows as needed and stays.
func (c *conn) fill(r io.Reader) (n int, err error) {
	for {
		if n == len(c.buf) {
			c.buf = append(c.buf, make([]byte, len(c.buf))...)
		}
		m, err := r.Read(c.buf[n:])
		n += m
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// handle stamps one message and publishes it, or keeps it for later. mu is held.
func (c *conn) handle(data []byte) error {
	var recv int64
	if c.feed.cfg.Replay {
		if len(data) < replayPrefix {
			return fmt.Errorf("reading a recorded frame: %d bytes have no receive time", len(data))
		}
		stamp := binary.BigEndian.Uint64(data)
		if stamp > math.MaxInt64 {
			return fmt.Errorf("reading a recorded frame: receive time %d is out of range", stamp)
		}
		recv, data = int64(stamp), data[replayPrefix:]
	} else {
		recv = c.feed.env.Clock.Now().UnixNano()
	}
	if c.data.Add(1) == 1 {
		c.firstAt = time.Now()
		close(c.first)
	}
	c.lastRecv = recv
	switch {
	case c.retired:
		return nil
	case c.held:
		if c.heldBytes += len(data); c.heldBytes > maxHeld {
			return &endError{why: whyStopped, detail: "too much arrived before the old connection ended"}
		}
		c.heldFrames = append(c.heldFrames, heldFrame{append([]byte(nil), data...), recv})
		return nil
	}
	c.frames++
	return c.feed.receive(c, data, recv)
}

// publishHeld publishes what was kept and goes on without keeping. mu is held.
func (c *conn) publishHeld() {
	frames := c.heldFrames
	c.held, c.heldFrames, c.heldBytes = false, nil, 0
	for _, h := range frames {
		c.frames++
		if err := c.feed.receive(c, h.data, h.recv); err != nil {
			c.why.CompareAndSwap(nil, ptr(reason(err)))
			c.abandon()
			return
		}
	}
}

func ptr(s string) *string { return &s }

// kind returns the counts of the frame's kind. mu is held.
func (c *conn) kind() *FrameCount {
	for int(c.frame.Kind) >= len(c.kinds) {
		c.kinds = append(c.kinds, c.feed.stats.kind(c.decoder.Kinds()[len(c.kinds)]))
	}
	return c.kinds[c.frame.Kind]
}

// The watchdog looks this often; a silence is noticed that much late at most.
const watchEvery = 250 * time.Millisecond

// watch pings, and ends the connection when it is silent for too long.
func (c *conn) watch() {
	cfg, info := &c.feed.cfg, &c.feed.info
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	now := time.Now()
	lastAny, lastPing := now, now
	p := pace{least: cfg.Stall, stalls: int(c.line.stalls.Load())}
	var data, control int64
	for {
		select {
		case <-c.stop:
			return
		case now = <-tick.C:
		}
		if n := c.data.Load(); n != data {
			data, lastAny = n, now
		}
		p.look(data, now)
		if n := c.control.Load(); n != control {
			control, lastAny = n, now
		}
		if now.Sub(lastAny) > cfg.Idle {
			c.end(whyIdle)
			return
		}
		switch {
		case p.stalled(now):
			c.line.stalls.Add(1)
			c.end(whyStall)
			return
		case p.steady(now):
			c.line.stalls.Store(0)
		}
		c.feed.lookForSilent(now)
		c.askAgain(now)
		if info.Ping > 0 && now.Sub(lastPing) >= info.Ping {
			lastPing = now
			// An error shows as a read error, or as silence.
			_ = c.ws.WriteControl(websocket.PingMessage, nil, now.Add(time.Second))
		}
	}
}

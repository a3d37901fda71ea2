package stream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/gorilla/websocket"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/venue"
)

// Reasons why a connection ends, in coverage records and metrics.
const (
	whyDropped   = "connection dropped"
	whyClosed    = "closed by the venue"
	whyIdle      = "idle"
	whyStall     = "stalled"
	whyQueueFull = "queue full"
	whyStopped   = "stopped"
	whyTooLong   = "frame too long"
)

// endError ends a connection for a reason of ours.
type endError struct{ why, detail string }

func (e *endError) Error() string {
	if e.detail == "" {
		return e.why
	}
	return e.why + ": " + e.detail
}

// errFinished ends a replay whose player has sent everything.
var errFinished = errors.New("the recording has ended")

// line keeps one connection alive: it connects, watches, reconnects and rotates.
type line struct {
	feed *feed
	plan venue.Plan
	wait *backoff.ExponentialBackOff
	// stalls counts the connections in a row that ended as stalled.
	stalls atomic.Int32
}

func newLine(f *feed, plan venue.Plan) *line {
	// With a randomization of 1 the wait is anything from 0 to twice the interval:
	// full jitter.
	return &line{feed: f, plan: plan, wait: &backoff.ExponentialBackOff{
		InitialInterval: f.cfg.BackoffMin / 2, RandomizationFactor: 1, Multiplier: 2, MaxInterval: f.cfg.BackoffMax / 2,
	}}
}

// run serves until ctx ends or a replay is over.
func (l *line) run(ctx context.Context) {
	l.wait.Reset()
	var c *conn
	for {
		if c == nil {
			if c = l.connect(ctx); c == nil {
				return
			}
			l.feed.up()
			c.start()
		}
		next, again := l.serve(ctx, c)
		if !again {
			return
		}
		c = next
	}
}

// connect tries until it succeeds, or returns nil when ctx ends.
func (l *line) connect(ctx context.Context) *conn {
	for {
		if !l.room(ctx) {
			return nil
		}
		if l.nothingToAsk(time.Now()) {
			if !pause(ctx, time.Second) {
				return nil
			}
			continue
		}
		if !l.feed.dials.wait(ctx) {
			return nil
		}
		c, err := dial(ctx, l)
		l.feed.once.Do(func() { close(l.feed.started) })
		if err == nil {
			return c
		}
		if ctx.Err() != nil {
			return nil
		}
		wait := l.after(err)
		l.feed.log.Warn("connecting again", "wait", wait.String(), "err", err)
		l.feed.setTrouble(err)
		if !pause(ctx, wait) {
			return nil
		}
	}
}

// after is the wait before the next attempt.
func (l *line) after(err error) time.Duration {
	wait := l.wait.NextBackOff()
	var refused *refusedError
	if errors.As(err, &refused) {
		wait = max(wait, refused.retryAfter)
	}
	return wait
}

// room waits until half of the producer's queue is free, and half of its files.
func (l *line) room(ctx context.Context) bool {
	for l.feed.out.Queued() > int64(l.feed.queue)/2 || l.feed.out.Spilled() > l.feed.spill/2 {
		if !pause(ctx, 20*time.Millisecond) {
			return false
		}
	}
	return ctx.Err() == nil
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// overlap is how long a connection and its successor both listen.
const overlap = 500 * time.Millisecond

// serve watches a connection until it ends; it returns its successor, nil when
// there is none yet, and whether to go on.
func (l *line) serve(ctx context.Context, c *conn) (next *conn, again bool) {
	r := &rotation{line: l, dialed: make(chan *conn, 1)}
	defer r.drop()
	var life <-chan time.Time
	if d := l.feed.info.Life; d > 0 && !l.feed.cfg.Replay {
		t := time.NewTimer(d)
		defer t.Stop()
		life = t.C
	}
	for {
		select {
		case <-ctx.Done():
			c.end(whyStopped)
			<-c.ended
			l.feed.down()
			return nil, false
		case <-c.ended:
			return l.succeed(ctx, c, r)
		case <-c.rotate:
			r.begin(ctx)
		case <-life:
			r.begin(ctx)
		case n := <-r.dialed:
			r.take(n)
		case <-r.first():
			r.overlapped, r.until = true, time.After(overlap)
		case <-r.ended():
			r.next, r.overlapped, r.until = nil, false, nil
			r.begin(ctx)
		case <-r.until:
			l.feed.takeOver(c, r.next)
			c.end(whyStopped)
			<-c.ended
			return r.use(), true
		}
	}
}

// succeed deals with the end of a connection.
func (l *line) succeed(ctx context.Context, c *conn, r *rotation) (next *conn, again bool) {
	f := l.feed
	if r.overlapped { // the successor has heard all since before the end
		f.takeOver(c, r.next)
		return r.use(), true
	}
	if errors.Is(c.err, errFinished) {
		f.down()
		return nil, false
	}
	why := reason(c.err)
	f.lose(c, why)
	if f.cfg.Replay {
		if ctx.Err() == nil {
			f.failed(fmt.Errorf("replaying %s: the player ended early: %w", f.cfg.name(), c.err))
		}
		return nil, false
	}
	if c.healthy() >= f.cfg.Healthy {
		l.wait.Reset()
	}
	if r.dialing {
		r.take(<-r.dialed)
	}
	if r.next != nil {
		f.up()
		f.release(r.next)
		return r.use(), true
	}
	if ctx.Err() != nil {
		return nil, false
	}
	wait := l.wait.NextBackOff()
	f.log.Warn("connection ended", "connection", c.number, "why", why, "wait", wait.String(), "err", c.err)
	f.setTrouble(c.err)
	return nil, pause(ctx, wait)
}

// reason maps the error that ended a connection to a word of ours.
func reason(err error) string {
	var own *endError
	var closed *websocket.CloseError
	switch {
	case errors.As(err, &own):
		return own.why
	case errors.Is(err, bus.ErrQueueFull):
		return whyQueueFull
	case errors.Is(err, websocket.ErrReadLimit):
		return whyTooLong
	case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
		return whyClosed
	}
	return whyDropped
}

// rotation is the planned replacement of a connection.
type rotation struct {
	line       *line
	dialing    bool
	dialed     chan *conn // nil: ctx ended
	next       *conn
	overlapped bool
	until      <-chan time.Time
	wg         sync.WaitGroup
}

// begin opens the successor in the background, trying until it succeeds.
func (r *rotation) begin(ctx context.Context) {
	if r.dialing || r.next != nil {
		return
	}
	r.dialing = true
	r.wg.Go(func() { r.dialed <- r.line.connect(ctx) })
}

// take starts the successor, whose frames are kept until it takes over.
func (r *rotation) take(c *conn) {
	r.dialing = false
	if c != nil {
		r.next = c
		c.held = true
		c.start()
	}
}

// use hands the successor over to the line.
func (r *rotation) use() *conn {
	c := r.next
	r.next = nil
	return c
}

func (r *rotation) first() <-chan struct{} {
	if r.next == nil || r.overlapped {
		return nil
	}
	return r.next.first
}

func (r *rotation) ended() <-chan struct{} {
	if r.next == nil {
		return nil
	}
	return r.next.ended
}

// drop ends a successor that was not used; only the end of ctx leaves one.
func (r *rotation) drop() {
	if r.dialing {
		if c := <-r.dialed; c != nil {
			c.abandon()
		}
	}
	if r.next != nil {
		r.next.end(whyStopped)
		<-r.next.ended
	}
	r.wg.Wait()
}

// refusedError is an answer to the handshake that is not a WebSocket.
type refusedError struct {
	status     string
	retryAfter time.Duration
}

func (e *refusedError) Error() string { return "handshake refused: " + e.status }

const (
	dialTimeout = 10 * time.Second
	// maxFrame is far above the largest snapshot known (protocols.md, appendix 1).
	maxFrame = 32 << 20
	// replayProtocol: each message is 8 bytes of recorded receive time (Unix
	// nanoseconds, big-endian) and the frame (design.md 4.10).
	replayProtocol = "autohedge.replay.1"
	replayPrefix   = 8
)

// dial connects and subscribes.
func dial(ctx context.Context, l *line) (*conn, error) {
	f := l.feed
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	d := websocket.Dialer{
		NetDialContext:   (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext,
		Proxy:            http.ProxyFromEnvironment,
		HandshakeTimeout: dialTimeout,
		ReadBufferSize:   64 << 10,
		WriteBufferSize:  4 << 10,
	}
	if f.cfg.Replay {
		d.Subprotocols = []string{replayProtocol}
	}
	header := http.Header{}
	for k, v := range l.plan.Header {
		header[k] = v
	}
	for k, v := range f.cfg.Headers {
		header.Set(k, v.Reveal())
	}
	ws, resp, err := d.DialContext(ctx, l.plan.URL, header)
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close() // gorilla has read what it wants of it
	}
	if err != nil {
		if resp != nil && errors.Is(err, websocket.ErrBadHandshake) {
			return nil, &refusedError{status: resp.Status, retryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
		}
		return nil, fmt.Errorf("connecting: %w", err)
	}
	if f.cfg.Replay && ws.Subprotocol() != replayProtocol {
		_ = ws.Close()
		return nil, fmt.Errorf("connecting to the player: it does not speak %s", replayProtocol)
	}
	return newConn(l, ws), nil
}

// retryAfter reads the seconds or the date of that header, bounded to an hour.
func retryAfter(text string, now time.Time) time.Duration {
	if at, err := http.ParseTime(text); err == nil {
		return min(max(at.Sub(now), 0), time.Hour)
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0
	}
	return time.Duration(min(n, 3600)) * time.Second
}

// limiter holds the attempts to connect to a venue within its window.
type limiter struct {
	n      int
	window time.Duration

	mu    sync.Mutex
	times []time.Time
}

// wait returns once an attempt is allowed; false when ctx ends.
func (l *limiter) wait(ctx context.Context) bool {
	for {
		l.mu.Lock()
		now := time.Now()
		for len(l.times) > 0 && now.Sub(l.times[0]) >= l.window {
			l.times = l.times[1:]
		}
		if len(l.times) < l.n {
			l.times = append(l.times, now)
			l.mu.Unlock()
			return ctx.Err() == nil
		}
		d := l.window - now.Sub(l.times[0])
		l.mu.Unlock()
		if !pause(ctx, d) {
			return false
		}
	}
}

// numbers hands out connection numbers of one venue, for ever: they go on from
// the highest in the log.
type numbers struct {
	mu   sync.Mutex
	last uint32
}

func (n *numbers) next() uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last < math.MaxUint32 {
		n.last++
	}
	return n.last
}

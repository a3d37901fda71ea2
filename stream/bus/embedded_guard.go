package bus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// maxRequest bounds a request's bytes, as socket.request.max.bytes of Apache Kafka
	// does: kfake makes room for what a request's head says before any of it has come.
	maxRequest = 100 << 20
	// maxOpenRequest is that of connections that have not logged in.
	maxOpenRequest = 1 << 20
	// guardLogEvery is how often at most a closed connection is logged.
	guardLogEvery = 10 * time.Second
)

// guardedListener hands kfake connections that it can trust: their requests have a bound
// and a key that it knows (it panics at others), and a login that has begun is carried
// out before anything else. kfake takes the user's name from the first step of a SCRAM
// login, so that without this a connection had all its rights before it proved anything.
type guardedListener struct {
	net.Listener
	log    *slog.Logger
	open   bool // there are no logins: everybody has all rights
	logged atomic.Int64
}

func (l *guardedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &guardedConn{Conn: conn, listener: l, trusted: l.open}, nil
}

// guardedConn follows the requests of a connection. Read is kfake's goroutine; Write and
// Close may be others.
type guardedConn struct {
	net.Conn
	listener *guardedListener

	head  [12]byte // length, key, version and correlation id of a request
	body  []byte   // of a handshake, which is read whole
	given int      // bytes of head and body that Read has handed out
	have  int      // bytes of head that are there
	left  int      // bytes of the request that are still to come
	steps int      // of the login that are to come

	mu       sync.Mutex
	step     awaited // of a login
	last     bool    // and it is the last one
	versions awaited // the request for the versions
	trusted  bool    // the login was answered
	closed   bool
}

// awaited is a request that has no answer yet.
type awaited struct {
	pending bool
	version int16
	corr    uint32
}

// answered reports whether b is the answer, and then notes that it is.
func (a *awaited) answered(b []byte) bool {
	if !a.pending || len(b) < 8 || binary.BigEndian.Uint32(b[4:]) != a.corr {
		return false
	}
	a.pending = false
	return true
}

// errGuarded closes a connection.
var errGuarded = errors.New("the connection is closed")

func (c *guardedConn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if c.given == c.have+len(c.body) && c.left == 0 {
		if err := c.next(); err != nil {
			if errors.Is(err, errGuarded) {
				c.note(err)
			}
			return 0, err
		}
	}
	if c.given < c.have {
		n := copy(b, c.head[c.given:c.have])
		c.given += n
		return n, nil
	}
	if at := c.given - c.have; at < len(c.body) {
		n := copy(b, c.body[at:])
		c.given += n
		return n, nil
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

// next reads the head of a request and judges it.
func (c *guardedConn) next() error {
	c.given, c.have, c.body = 0, 0, nil
	if _, err := io.ReadFull(c.Conn, c.head[:]); err != nil {
		return err
	}
	size, key := binary.BigEndian.Uint32(c.head[:]), int16(binary.BigEndian.Uint16(c.head[4:]))
	c.mu.Lock()
	limit := uint32(maxRequest)
	if !c.trusted {
		limit = maxOpenRequest
	}
	c.mu.Unlock()
	switch {
	case size < 8:
		return fmt.Errorf("%w: a request of %d bytes", errGuarded, size)
	case size > limit:
		return fmt.Errorf("%w: a request of %d bytes, more than the %d that it may have", errGuarded, size, limit)
	case kmsg.RequestForKey(key) == nil:
		return fmt.Errorf("%w: a request of the unknown kind %d", errGuarded, key)
	case c.steps > 0 && key != int16(kmsg.SASLAuthenticate) && key != int16(kmsg.ApiVersions):
		return fmt.Errorf("%w: %s in the middle of a login", errGuarded, kmsg.NameForKey(key))
	}
	c.have, c.left = len(c.head), int(size)-8
	asked := awaited{true, int16(binary.BigEndian.Uint16(c.head[6:])), binary.BigEndian.Uint32(c.head[8:])}
	switch kmsg.Key(key) {
	case kmsg.SASLHandshake:
		return c.handshake()
	case kmsg.SASLAuthenticate:
		c.mu.Lock()
		c.step, c.last = asked, c.steps == 1
		c.mu.Unlock()
		c.steps = max(0, c.steps-1)
	case kmsg.ApiVersions:
		c.mu.Lock()
		c.versions = asked
		c.mu.Unlock()
	}
	return nil
}

// handshake reads which login begins, and so how many steps it has.
func (c *guardedConn) handshake() error {
	if c.left > 1024 {
		return fmt.Errorf("%w: a login that begins with %d bytes", errGuarded, c.left)
	}
	c.body = make([]byte, c.left)
	if _, err := io.ReadFull(c.Conn, c.body); err != nil {
		return err
	}
	c.left = 0
	rest := c.body // the client's id, then the mechanism
	for range 2 {
		if len(rest) < 2 {
			return fmt.Errorf("%w: a login that names no mechanism", errGuarded)
		}
		n := max(0, int(int16(binary.BigEndian.Uint16(rest))))
		if len(rest) < 2+n {
			return fmt.Errorf("%w: a login that names no mechanism", errGuarded)
		}
		if len(rest) == 2+n {
			switch string(rest[2:]) {
			case embeddedMechanisms[0]:
				c.steps = 1
			case embeddedMechanisms[1], embeddedMechanisms[2]:
				c.steps = 2
			}
		}
		rest = rest[2+n:]
	}
	return nil
}

// Write hands an answer on, which kfake writes whole; the answer to the last step of a
// login means that it counts.
func (c *guardedConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	if c.step.answered(b) {
		c.trusted = c.trusted || c.last
	}
	if c.versions.answered(b) {
		offerHandshake(b, c.versions.version)
	}
	c.mu.Unlock()
	return c.Conn.Write(b)
}

// offerHandshake makes an answer to ApiVersions offer SaslHandshake from version 0 on, as
// Apache Kafka does. kfake has version 1 only, which clients take; but librdkafka does not
// log in where it misses version 0.
func offerHandshake(b []byte, version int16) {
	const head = 10 // length, correlation id and code
	if len(b) < head || binary.BigEndian.Uint16(b[8:]) != 0 {
		return // the answer to an unknown version has another form
	}
	at, n, width := head+4, 0, 6
	if version >= 3 {
		length, size := binary.Uvarint(b[head:])
		at, n, width = head+size, int(length)-1, 7
		if size <= 0 {
			return
		}
	} else if len(b) >= at {
		n = int(binary.BigEndian.Uint32(b[head:]))
	}
	for ; n > 0 && len(b) >= at+6; n-- {
		if kmsg.Key(binary.BigEndian.Uint16(b[at:])) == kmsg.SASLHandshake {
			binary.BigEndian.PutUint16(b[at+2:], 0)
			return
		}
		at += width
	}
}

// Close ends the connection. A login that kfake refuses it does not answer: the client is
// told here why.
func (c *guardedConn) Close() error {
	c.mu.Lock()
	refused := c.step.pending && !c.closed
	c.closed = true
	c.mu.Unlock()
	if refused {
		res := kmsg.NewPtrSASLAuthenticateResponse()
		res.Version, res.ErrorCode = c.step.version, kerr.SaslAuthenticationFailed.Code
		res.ErrorMessage = kmsg.StringPtr("the user or the password is wrong: see run/kafka.json of the data folder")
		b := make([]byte, 8, 128)
		binary.BigEndian.PutUint32(b[4:], c.step.corr)
		if res.IsFlexible() {
			b = append(b, 0)
		}
		b = res.AppendTo(b)
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Conn.Write(b) // the client may be gone
		c.note(errors.New("a login with a wrong user or password"))
	}
	return c.Conn.Close()
}

// note logs why a connection is closed, a few times a minute at most.
func (c *guardedConn) note(why error) {
	now := time.Now().UnixNano()
	if last := c.listener.logged.Load(); now-last < int64(guardLogEvery) || !c.listener.logged.CompareAndSwap(last, now) {
		return
	}
	c.listener.log.Warn("closing a connection to the embedded Kafka", "from", c.RemoteAddr().String(), "err", why)
}

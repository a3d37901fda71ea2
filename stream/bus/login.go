package bus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"
	"github.com/segmentio/kafka-go/sasl"
)

// A broker may limit how long a login counts (connections.max.reauth.ms, or the
// life of a token): a connection that sends a request after that is cut. kafka-go
// does not log in again on a connection, so that every expiry would cost a request
// and, in a group, a generation. login does it (KIP-368): between two requests,
// before the time is up, on the same connection, unseen by who uses it.

const (
	// renewAfter is the part of a login's life after which it is renewed.
	renewAfter = 0.8
	// renewEvery is how often at most a broker takes a new login.
	renewEvery = 1050 * time.Millisecond
)

// login is a connection that is logged in and stays so.
type login struct {
	net.Conn
	mechanism sasl.Mechanism
	host      string
	port      int
	version   int16 // of SaslAuthenticate; from 1 on it tells how long it counts
	renew     time.Time

	in, out frames
	waiting atomic.Int32 // requests whose answer is not read yet
	failed  func(error) error
	renewed prometheus.Counter
}

// logIn authenticates the connection to a broker that knows those versions.
func (c *Client) logIn(ctx context.Context, conn net.Conn, host string, port int, versions *apiversions.Response) (*login, error) {
	l := &login{Conn: conn, mechanism: c.sasl, host: host, port: port, failed: c.refused, renewed: c.metrics.loginsRenewed.WithLabelValues(c.sasl.Name())}
	for _, k := range versions.ApiKeys {
		if protocol.ApiKey(k.ApiKey) == protocol.SaslAuthenticate {
			l.version = min(k.MaxVersion, 1)
		}
	}
	return l, l.authenticate(ctx)
}

// authenticate runs the exchange; nothing else may be under way.
func (l *login) authenticate(ctx context.Context) error {
	began := time.Now()
	m, err := protocol.RoundTrip(l.Conn, 1, 1, clientID, &saslhandshake.Request{Mechanism: l.mechanism.Name()})
	if err != nil {
		return fmt.Errorf("asking for %s: %w", l.mechanism.Name(), err)
	}
	if res, ok := m.(*saslhandshake.Response); ok && res.ErrorCode != 0 {
		if code := kafka.Error(res.ErrorCode); code != kafka.UnsupportedSASLMechanism {
			return fmt.Errorf("asking for %s: %w", l.mechanism.Name(), code)
		}
		return &accessError{
			err:  fmt.Errorf("the broker has no %s: %w", l.mechanism.Name(), kafka.UnsupportedSASLMechanism),
			hint: "set kafka.sasl to one that it has: " + strings.ToLower(strings.Join(res.Mechanisms, ", ")),
		}
	}
	ctx = sasl.WithMetadata(ctx, &sasl.Metadata{Host: l.host, Port: l.port})
	state, answer, err := l.mechanism.Start(ctx)
	if err != nil {
		return fmt.Errorf("beginning %s: %w", l.mechanism.Name(), err)
	}
	var lifetime time.Duration
	for done := false; !done; {
		m, err := protocol.RoundTrip(l.Conn, l.version, 2, clientID, &saslauthenticate.Request{AuthBytes: answer})
		if err != nil {
			return &loginCutError{err}
		}
		res, ok := m.(*saslauthenticate.Response)
		if !ok {
			return fmt.Errorf("answer of type %T", m)
		}
		if res.ErrorCode != 0 {
			// The broker's message may not say more than that, and what it says is
			// its own: the code suffices.
			code := kafka.Error(res.ErrorCode)
			err := fmt.Errorf("the broker refuses the login by %s: %w", l.mechanism.Name(), code)
			if !permanent(code) {
				return err
			}
			return &accessError{
				err:  err,
				hint: "look at kafka.user and kafka.password: does the user exist for this mechanism, and is the password right?",
			}
		}
		lifetime = time.Duration(res.SessionLifetimeMs) * time.Millisecond
		if done, answer, err = state.Next(ctx, res.AuthBytes); err != nil {
			return &accessError{
				err:  fmt.Errorf("the broker does not prove that it knows the user by %s: %w", l.mechanism.Name(), err),
				hint: "look at kafka.brokers, kafka.user and kafka.password: is the password right, and is this the cluster?",
			}
		}
	}
	if lifetime > 0 {
		l.renew = began.Add(max(time.Duration(float64(lifetime)*renewAfter), renewEvery))
	}
	return nil
}

// Write renews the login when it is due, before a request begins. One that comes
// while an answer is awaited waits for the next request.
func (l *login) Write(b []byte) (int, error) {
	if !l.renew.IsZero() && l.out.between() && l.waiting.Load() == 0 && !time.Now().Before(l.renew) {
		if err := l.authenticate(context.Background()); err != nil { // bounded by the connection's deadline
			return 0, l.failed(fmt.Errorf("renewing the login at %s: %w", net.JoinHostPort(l.host, fmt.Sprint(l.port)), err))
		}
		l.renewed.Inc()
	}
	n, err := l.Conn.Write(b)
	begun, _ := l.out.advance(b[:n])
	l.waiting.Add(int32(begun))
	return n, err
}

// Read counts the answers.
func (l *login) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	_, ended := l.in.advance(b[:n])
	l.waiting.Add(-int32(ended))
	return n, err
}

// frames follows a stream of messages, each of which begins with its length in
// four bytes.
type frames struct {
	head [4]byte
	have int // bytes of head
	left int // bytes of the body to come
}

// between reports whether the next byte begins a message.
func (f *frames) between() bool { return f.have == 0 && f.left == 0 }

// advance passes over b and says how many messages began and ended in it.
func (f *frames) advance(b []byte) (begun, ended int) {
	for len(b) > 0 {
		if f.left == 0 {
			if f.have == 0 {
				begun++
			}
			n := copy(f.head[f.have:], b)
			f.have, b = f.have+n, b[n:]
			if f.have < len(f.head) {
				return begun, ended
			}
			f.left = int(binary.BigEndian.Uint32(f.head[:]))
		}
		n := min(f.left, len(b))
		f.left, b = f.left-n, b[n:]
		if f.left == 0 {
			f.have = 0
			ended++
		}
	}
	return begun, ended
}

// loginCutError is a connection that broke during the exchange, as some brokers
// answer a wrong password.
type loginCutError struct{ err error }

func (e *loginCutError) Error() string {
	return "the connection broke during the login: " + e.err.Error()
}
func (e *loginCutError) Unwrap() error { return e.err }

// accessError is a refusal that asking again does not change.
type accessError struct {
	err  error
	hint string
}

func (e *accessError) Error() string { return e.err.Error() + ": " + e.hint }
func (e *accessError) Unwrap() error { return e.err }

func isAccess(err error) bool {
	var a *accessError
	return errors.As(err, &a)
}

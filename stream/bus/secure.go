package bus

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
)

// refusedEvery is how often at most a refused connection is logged.
const refusedEvery = 30 * time.Second

// connect opens a connection as the configuration asks for: TCP, then TLS, then
// the login. Everything in the package connects by it. Errors say which key of
// the configuration to look at, and never hold the password.
func (c *Client) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := c.dial(ctx, network, addr)
	if err != nil || c.tls == nil && c.sasl == nil {
		return conn, err
	}
	secured, err := c.secure(ctx, conn, addr)
	if err != nil {
		_ = conn.Close()
		return nil, c.refused(fmt.Errorf("connecting to %s: %w", addr, err))
	}
	return secured, nil
}

func (c *Client) secure(ctx context.Context, conn net.Conn, addr string) (net.Conn, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(service)
	if err != nil {
		return nil, err
	}
	// Cancelling ends what is being waited for.
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(requestTimeout)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	raw := conn
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	name := cmp.Or(c.cfg.TLS.ServerName, host)
	if c.tls != nil {
		if conn, err = c.encrypt(ctx, conn, name); err != nil {
			return nil, c.tlsError(err, name)
		}
	}
	// With TLS 1.3 a broker refuses a client's certificate after the handshake:
	// the first answer tells. A broker answers this request once before a login.
	versions, err := askVersions(conn)
	switch {
	case err != nil && c.tls != nil:
		return nil, c.tlsError(err, name)
	case err != nil:
		return nil, fmt.Errorf("asking for the broker's versions: %w", err)
	}
	if c.sasl != nil {
		if conn, err = c.authenticated(ctx, conn, host, port, versions); err != nil {
			return nil, err
		}
	}
	if !stop() {
		return nil, ctx.Err()
	}
	return conn, conn.SetDeadline(time.Time{})
}

func askVersions(conn io.ReadWriter) (*apiversions.Response, error) {
	m, err := protocol.RoundTrip(conn, 0, 0, clientID, &apiversions.Request{})
	if err != nil {
		return nil, err
	}
	res, ok := m.(*apiversions.Response)
	if !ok {
		return nil, fmt.Errorf("answer of type %T", m)
	}
	if res.ErrorCode != 0 {
		return nil, kafka.Error(res.ErrorCode)
	}
	return res, nil
}

func (c *Client) authenticated(ctx context.Context, conn net.Conn, host string, port int, versions *apiversions.Response) (net.Conn, error) {
	l, err := c.logIn(ctx, conn, host, port, versions)
	var cut *loginCutError
	if errors.As(err, &cut) {
		return nil, fmt.Errorf("logging in as user %q by %s: %w: is the password right?", c.cfg.User, c.sasl.Name(), err)
	}
	if err != nil {
		return nil, fmt.Errorf("logging in as user %q: %w", c.cfg.User, err)
	}
	return l, nil
}

// encrypt runs the TLS handshake with a broker of that name.
func (c *Client) encrypt(ctx context.Context, conn net.Conn, name string) (net.Conn, error) {
	conf := c.tls.Clone()
	conf.ServerName = name
	secured := tls.Client(conn, conf)
	return secured, secured.HandshakeContext(ctx)
}

// tlsError says what of the configuration to look at.
func (c *Client) tlsError(err error, name string) error {
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		header    tls.RecordHeaderError
	)
	err = fmt.Errorf("setting up TLS: %w", err)
	switch {
	case errors.As(err, &authority):
		trusted := "the system's authorities"
		if c.cfg.TLS.CAFile != "" {
			trusted = c.cfg.TLS.CAFile
		}
		return &accessError{err, "the broker's certificate is signed by nobody in kafka.tls.ca_file (" + trusted + ")"}
	case errors.As(err, &hostname):
		return &accessError{err, fmt.Sprintf("the broker's certificate is not for %q: connect by a name in it, or set kafka.tls.server_name to one", name)}
	case errors.As(err, &invalid):
		return &accessError{err, "the broker's certificate does not count: let it be renewed, or look at kafka.tls.ca_file"}
	case errors.As(err, &header):
		return &accessError{err, "this listener speaks no TLS: set kafka.tls.enabled to false, or name the TLS port in kafka.brokers"}
	case strings.Contains(err.Error(), "remote error: tls:"):
		return &accessError{err, "the broker refuses: look at kafka.tls.cert_file and kafka.tls.key_file, which it may want or not trust"}
	case c.cfg.TLS.CertFile == "" && cutOff(err):
		return fmt.Errorf("%w: the broker hangs up: does it want a client certificate (kafka.tls.cert_file, kafka.tls.key_file)?", err)
	}
	return err
}

// cutOff reports whether the other side ended the connection.
func cutOff(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// refused counts a refusal and, once the client has been connected, logs it: what
// retries for ever must not do so in silence.
func (c *Client) refused(err error) error {
	if !isAccess(err) {
		return err
	}
	c.metrics.errors.WithLabelValues("access").Inc()
	if c.connected.Load() {
		now := time.Now().UnixNano()
		if last := c.refusedAt.Load(); now-last > int64(refusedEvery) && c.refusedAt.CompareAndSwap(last, now) {
			c.env.Log.Warn("the cluster refuses connections; they are being retried", "error", err)
		}
	}
	return err
}

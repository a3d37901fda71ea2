// Package obs is what operators see of a process: its log and its metrics
// endpoint, with the health endpoints beside it.
//
// It must not know any role. Start with NewLogger and Serve.
package obs

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/autohedge/autohedge/stream/component"
)

// LogConfig is what is logged and how.
type LogConfig struct {
	Level  string `yaml:"level" doc:"debug, info, warn or error"`
	Format string `yaml:"format" doc:"text for people, json for machines"`
}

// DefaultLogConfig returns the defaults.
func DefaultLogConfig() LogConfig { return LogConfig{Level: "info", Format: "text"} }

// Validate reports all problems.
func (c *LogConfig) Validate() component.Problems {
	var p component.Problems
	if _, err := level(c.Level); err != nil {
		p.Addf("level", "%v", err)
	}
	if c.Format != "text" && c.Format != "json" {
		p.Addf("format", "unknown format %q: want text or json", c.Format)
	}
	return p
}

func level(name string) (slog.Level, error) {
	switch strings.ToLower(name) {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("unknown level %q: want debug, info, warn or error", name)
}

// NewLogger returns a logger that writes to w.
func NewLogger(c LogConfig, w io.Writer) (*slog.Logger, error) {
	lvl, err := level(c.Level)
	if err != nil {
		return nil, err
	}
	opts := &slog.HandlerOptions{Level: lvl}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return slog.New(slog.NewTextHandler(w, opts)), nil
}

// NewRegistry returns a metrics registry with the process's and Go's own.
func NewRegistry(version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "autohedge_build_info", Help: "1, labelled with the version of the binary."}, []string{"version"})
	info.WithLabelValues(version).Set(1)
	r.MustRegister(info)
	return r
}

// HTTPConfig is where metrics and health are served.
type HTTPConfig struct {
	Listen   string           `yaml:"listen" doc:"host:port of /metrics, /livez, /readyz and /health; empty takes 127.0.0.1:9464, or a free port where that is busy; off serves nothing. Beyond loopback user and password are needed"`
	User     string           `yaml:"user" doc:"user name that /metrics and /health ask for (HTTP basic authentication); empty asks for none. /livez and /readyz never ask"`
	Password component.Secret `yaml:"password" doc:"its password"`
}

// DefaultListen is where metrics are served unless configured.
const DefaultListen = "127.0.0.1:9464"

// Validate reports all problems.
func (c *HTTPConfig) Validate() component.Problems {
	var p component.Problems
	if c.Listen != "" && c.Listen != "off" {
		if err := CheckAddress(c.Listen); err != nil {
			p.Addf("listen", "%v: want host:port, off, or nothing for %s", err, DefaultListen)
		} else if !component.IsLoopback(c.Listen) && (c.User == "" || c.Password.IsZero()) {
			p.Addf("listen", "is %s, which other machines reach: want user and password beside it, or a loopback address; metrics carry positions and profit", c.Listen)
		}
	}
	if (c.User == "") != (c.Password.IsZero()) {
		p.Addf("user", "user and password go together: want both or none")
	}
	return p
}

// CheckAddress returns an error for what is no host:port that a server can listen on.
func CheckAddress(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is no address", addr)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q has the port %q, not one of 0 to 65535", addr, port)
	}
	return nil
}

// Server serves metrics and health.
type Server struct {
	http *http.Server
	addr string
	done chan struct{}
}

// Serve starts serving; health answers /livez, /readyz and /health. A default
// address that is busy moves to a free port; a configured one is an error.
// It returns nil, nil when switched off.
func Serve(c HTTPConfig, metrics *prometheus.Registry, health http.Handler, log *slog.Logger) (*Server, error) {
	if c.Listen == "off" {
		return nil, nil
	}
	l, err := Listen(c.Listen, DefaultListen)
	if err != nil {
		return nil, fmt.Errorf("serving metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", c.authenticate(promhttp.HandlerFor(metrics, promhttp.HandlerOpts{EnableOpenMetrics: true, Registry: metrics})))
	mux.Handle("GET /livez", health)
	mux.Handle("GET /readyz", health)
	mux.Handle("GET /health", c.authenticate(health))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, links)
	})
	s := &Server{addr: l.Addr().String(), done: make(chan struct{}), http: &http.Server{
		Handler: component.RefuseBrowsers(mux), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("serving metrics ended", "err", err)
		}
	}()
	return s, nil
}

// links is what a browser shows at the root.
const links = `<!doctype html><title>autohedge</title><h1>autohedge</h1>
<ul><li><a href="/metrics">/metrics</a> for Prometheus<li><a href="/health">/health</a> every dependency, as JSON
<li><a href="/readyz">/readyz</a> may it be sent work<li><a href="/livez">/livez</a> does it live</ul>
`

// authenticate asks for the configured user and password, if there are any.
func (c *HTTPConfig) authenticate(next http.Handler) http.Handler {
	if c.User == "" {
		return next
	}
	// Digests are of one length, so that comparing them tells nothing of what they are of.
	wantUser, wantPassword := sha256.Sum256([]byte(c.User)), sha256.Sum256([]byte(c.Password.Reveal()))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		gotUser, gotPassword := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))
		if subtle.ConstantTimeCompare(gotUser[:], wantUser[:])&subtle.ConstantTimeCompare(gotPassword[:], wantPassword[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="autohedge"`)
			http.Error(w, "a user name and a password are needed", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Listen opens a configured address, or the default, or a free port of the
// default's host where the default is busy.
func Listen(configured, standard string) (net.Listener, error) {
	var lc net.ListenConfig
	if configured != "" {
		l, err := lc.Listen(context.Background(), "tcp", configured)
		if err != nil {
			return nil, fmt.Errorf("listening on %s: %w", configured, err)
		}
		return l, nil
	}
	l, err := lc.Listen(context.Background(), "tcp", standard)
	if errors.Is(err, syscall.EADDRINUSE) {
		host, _, _ := net.SplitHostPort(standard) //nolint:errcheck // a constant of ours
		l, err = lc.Listen(context.Background(), "tcp", net.JoinHostPort(host, "0"))
	}
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	return l, nil
}

// Addr returns host:port, or "off" when nothing is served.
func (s *Server) Addr() string {
	if s == nil {
		return "off"
	}
	return s.addr
}

// Close stops serving.
func (s *Server) Close(ctx context.Context) error {
	if s == nil {
		return nil
	}
	err := s.http.Shutdown(ctx)
	<-s.done
	if err != nil {
		return fmt.Errorf("closing metrics server: %w", err)
	}
	return nil
}

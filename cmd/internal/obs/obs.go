// Package obs is what operators see of a process: its log and its metrics
// endpoint, with the health endpoints beside it.
//
// It must not know any role. Start with NewLogger and Serve.
package obs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
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
	Listen string `yaml:"listen" doc:"host:port of /metrics, /livez, /readyz and /health; empty takes 127.0.0.1:9464, or a free port where that is busy; off serves nothing"`
}

// DefaultListen is where metrics are served unless configured.
const DefaultListen = "127.0.0.1:9464"

// Validate reports all problems.
func (c *HTTPConfig) Validate() component.Problems {
	var p component.Problems
	if c.Listen != "" && c.Listen != "off" {
		if _, _, err := net.SplitHostPort(c.Listen); err != nil {
			p.Addf("listen", "%q is no address: want host:port, off, or nothing for %s", c.Listen, DefaultListen)
		}
	}
	return p
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
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{EnableOpenMetrics: true, Registry: metrics}))
	mux.Handle("GET /livez", health)
	mux.Handle("GET /readyz", health)
	mux.Handle("GET /health", health)
	s := &Server{addr: l.Addr().String(), done: make(chan struct{}), http: &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
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

package bus

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/bus/kafkatest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// startSecured starts an Apache Kafka with TLS and users; only where the tests
// run on Apache Kafka.
func startSecured(t *testing.T, properties map[string]string) *kafkatest.Secured {
	t.Helper()
	bustest.ApacheOnly(t, "users and TLS need Apache Kafka")
	s, err := kafkatest.StartSecured(t.Context(), t.TempDir(), properties)
	bustest.NeedApache(t, err)
	t.Cleanup(func() {
		kept, err := s.Stop(t.Failed())
		if err != nil {
			t.Error(err)
		}
		if kept != "" {
			t.Logf("the broker's log is in %s", kept)
		}
	})
	return s
}

// secured is a configuration for a listener of it.
func secured(s *kafkatest.Secured, listener, mechanism string) Config {
	cfg := testConfig(s.On(listener))
	if listener != kafkatest.SASL {
		cfg.TLS = TLSConfig{Enabled: true, CAFile: s.CAFile}
	}
	if listener == kafkatest.MTLS {
		cfg.TLS.CertFile, cfg.TLS.KeyFile = s.CertFile, s.KeyFile
	}
	if mechanism != "" {
		cfg.SASL, cfg.User, cfg.Password = mechanism, kafkatest.User, component.NewSecret(kafkatest.Password)
	}
	return cfg
}

// watched is an Env whose log and metrics can be looked at.
func watched() (component.Env, *bustest.Log, *prometheus.Registry) {
	log, reg := &bustest.Log{}, prometheus.NewRegistry()
	env := component.Discard()
	env.Log, env.Metrics = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), reg
	return env, log, reg
}

// Everything works over each kind of listener, and a wrong setting is told as
// such at once. The password is in no error, log or metric.
func TestSecurityOnApache(t *testing.T) {
	s := startSecured(t, nil)
	env, log, reg := watched()
	for i, tt := range []struct{ listener, mechanism string }{
		{kafkatest.TLS, ""}, {kafkatest.MTLS, ""},
		{kafkatest.SASLTLS, "plain"}, {kafkatest.SASLTLS, "scram-sha-256"}, {kafkatest.SASLTLS, "scram-sha-512"},
		{kafkatest.SASL, "scram-sha-256"}, {kafkatest.SASL, "plain"},
	} {
		t.Run(tt.listener+" "+tt.mechanism, func(t *testing.T) {
			cfg := secured(s, tt.listener, tt.mechanism)
			cfg.Session = fmt.Sprintf("s%d", i)
			c, err := Connect(t.Context(), cfg, env)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			if err := c.EnsureTopics(t.Context()); err != nil {
				t.Fatal(err)
			}
			produce(t, newProducer(t, c, ProducerConfig{Name: "test", Blocking: true}), event.TopicMarket, 0, 40)
			seen := newHandledLog()
			k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, env)
			if err := k.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := k.Run(t.Context(), seen.handle); err != nil {
				t.Fatal(err)
			}
			if seen.count() != 40 {
				t.Errorf("%d records handled, want 40", seen.count())
			}
		})
	}
	for line := range strings.Lines(log.String()) {
		begins := strings.Contains(line, "the group has no offset here") // as each of these does
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN") && !begins {
			t.Errorf("the log says %s", line)
		}
	}

	const wrong = "canary-wrong-77"
	for _, tt := range []struct {
		name, listener, mechanism string
		change                    func(*Config)
		want                      []string
		patient                   bool // it may be a broker that is starting: tried for as long as Connect waits
	}{
		{name: "wrong password, plain", listener: kafkatest.SASLTLS, mechanism: "plain", change: func(c *Config) { c.Password = component.NewSecret(wrong) }, want: []string{"PLAIN", "kafka.password"}},
		{name: "wrong password, 256", listener: kafkatest.SASLTLS, mechanism: "scram-sha-256", change: func(c *Config) { c.Password = component.NewSecret(wrong) }, want: []string{"SCRAM-SHA-256", "kafka.password"}},
		{name: "wrong password, 512", listener: kafkatest.SASLTLS, mechanism: "scram-sha-512", change: func(c *Config) { c.Password = component.NewSecret(wrong) }, want: []string{"SCRAM-SHA-512", "kafka.password"}},
		{name: "unknown user", listener: kafkatest.SASLTLS, mechanism: "scram-sha-512", change: func(c *Config) { c.User = "nobody" }, want: []string{`user "nobody"`, "kafka.user"}},
		{name: "unknown authority", listener: kafkatest.TLS, change: func(c *Config) { c.TLS.CAFile = s.StrangerCA }, want: []string{"kafka.tls.ca_file"}},
		{name: "the system's authorities", listener: kafkatest.TLS, change: func(c *Config) { c.TLS.CAFile = "" }, want: []string{"kafka.tls.ca_file", "the system's"}},
		{name: "wrong name", listener: kafkatest.TLS, change: func(c *Config) { c.TLS.ServerName = "kafka.example.com" }, want: []string{`not for "kafka.example.com"`, "kafka.tls.server_name"}},
		{name: "no client certificate", listener: kafkatest.MTLS, change: func(c *Config) { c.TLS.CertFile, c.TLS.KeyFile = "", "" }, want: []string{"kafka.tls.cert_file"}, patient: true},
		{name: "TLS to a plain listener", listener: kafkatest.SASL, mechanism: "plain", change: func(c *Config) { c.TLS = TLSConfig{Enabled: true, CAFile: s.CAFile} }, want: []string{"TLS"}, patient: true},
		{name: "plain to a TLS listener", listener: kafkatest.TLS, change: func(c *Config) { c.TLS = TLSConfig{} }, want: []string{"kafka.tls.enabled"}, patient: true},
		{name: "no login", listener: kafkatest.SASL, change: func(*Config) {}, want: []string{"kafka.sasl"}, patient: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := secured(s, tt.listener, tt.mechanism)
			tt.change(&cfg)
			began := time.Now()
			_, err := Connect(t.Context(), cfg, env)
			if err == nil {
				t.Fatal("connected")
			}
			for _, text := range tt.want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("the error lacks %q: %v", text, err)
				}
			}
			if strings.Contains(err.Error(), wrong) || strings.Contains(err.Error(), kafkatest.Password) {
				t.Errorf("the password is in %v", err)
			}
			if took := time.Since(began); !tt.patient && took > connectPatience/2 {
				t.Errorf("told after %s", took)
			}
			t.Logf("%s: %v", time.Since(began).Round(time.Millisecond), err)
		})
	}
	t.Cleanup(func() {
		families, err := reg.Gather()
		if err != nil {
			t.Error(err)
		}
		if text := log.String() + fmt.Sprint(families); strings.Contains(text, wrong) || strings.Contains(text, kafkatest.Password) {
			t.Error("the password is in the log or the metrics")
		}
	})
}

// renews puts a load on a broker whose logins count for so long, over six of
// their lives: nothing may be lost, doubled, retried or logged, the group keeps
// its generation and no connection is made anew.
func renews(t *testing.T, cfg Config, life time.Duration) {
	t.Helper()
	env, log, reg := watched()
	var dialled atomic.Int64
	dial := (&net.Dialer{Timeout: 3 * time.Second}).DialContext
	c, err := connectOver(t.Context(), cfg, env, func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialled.Add(1)
		return dial(ctx, network, addr)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err := c.NewProducer(t.Context(), ProducerConfig{Name: "test", Blocking: true}, env)
	if err != nil {
		t.Fatal(err)
	}
	seen := newHandledLog()
	k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, env)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	var generation atomic.Int32
	go func() {
		done <- k.Run(ctx, func(ctx context.Context, a *Assignment) error {
			generation.Store(a.Generation)
			return seen.handle(ctx, a)
		})
	}()
	<-k.Ready()
	eventually(t, "a handler runs", 10*time.Second, func() bool { return generation.Load() != 0 })
	sum := func(names ...string) float64 { return bustest.Counter(t, reg, names...) }
	// A broker's first group waits for the coordinator, which is an error or two.
	troubles := sum("autohedge_bus_produce_retries_total", "autohedge_bus_fetch_retries_total", "autohedge_bus_errors_total")
	first := generation.Load()
	n := 0
	append1 := func() {
		if err := p.Append(event.TopicMarket, int32(n%4), []byte("k"), fmt.Appendf(nil, "%d", n), nil); err != nil {
			t.Fatal(err)
		}
		n++
	}
	append1()
	settled := int64(0)
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for began := time.Now(); time.Since(began) < 6*life; <-ticker.C {
		append1()
		if settled == 0 && time.Since(began) > life*3/5 {
			settled = dialled.Load()
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is handled", 20*time.Second, func() bool { return seen.count() >= n })
	if got := generation.Load(); got != first {
		t.Errorf("generation %d became %d", first, got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if seen.count() != n {
		t.Errorf("%d records handled, %d appended", seen.count(), n)
	}
	total := 0
	for part := range int32(4) {
		total += len(readAll(t, c, event.TopicMarket, part))
	}
	if total != n {
		t.Errorf("the log holds %d records, %d were appended", total, n)
	}
	if got := sum("autohedge_bus_produce_retries_total", "autohedge_bus_fetch_retries_total", "autohedge_bus_errors_total") - troubles; got != 0 {
		t.Errorf("%v retries and errors", got)
	}
	renewed := sum("autohedge_bus_logins_renewed_total")
	if text := log.String(); strings.Contains(text, "level=WARN") || strings.Contains(text, "level=ERROR") {
		t.Errorf("the log says\n%s", text)
	}
	// At least the group's, a producer's and a reader's connection, each life.
	if renewed < 3*4 {
		t.Errorf("%v logins were renewed: do they expire at all?", renewed)
	}
	t.Logf("%d records over %d lives of a login, %v renewals, generation %d, %d connections, %d of them after the first life",
		n, 6, renewed, first, dialled.Load(), dialled.Load()-settled)
}

// Logins that count for 1.5 s are renewed unseen.
func TestExpiringLoginsAreRenewedUnseenOnApache(t *testing.T) {
	s := startSecured(t, nil)
	for i, mechanism := range []string{"scram-sha-512", "plain"} {
		t.Run(mechanism, func(t *testing.T) {
			cfg := secured(s, kafkatest.EXPIRING, mechanism)
			cfg.Session = fmt.Sprintf("s%d", i)
			renews(t, cfg, kafkatest.ExpiresAfter)
		})
	}
}

func TestExpiringLoginsAreRenewedUnseenOnKfake(t *testing.T) {
	for _, mechanism := range mechanisms[1:] {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			b := startKfake(t, "", kfake.EnableSASL(), kfake.Superuser(strings.ToUpper(mechanism), "trader", "hush"),
				kfake.BrokerConfigs(map[string]string{"connections.max.reauth.ms": "1500"}))
			cfg := testConfig(b.Addr())
			cfg.SASL, cfg.User, cfg.Password = mechanism, "trader", component.NewSecret("hush")
			renews(t, cfg, 1500*time.Millisecond)
		})
	}
}

// A broker that closes idle connections is not noticed either.
func TestIdleConnectionsThatTheBrokerClosesOnApache(t *testing.T) {
	s := startSecured(t, map[string]string{"connections.max.idle.ms": "700"})
	env, log, _ := watched()
	c, err := Connect(t.Context(), secured(s, kafkatest.SASLTLS, "scram-sha-256"), env)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	seen := newHandledLog()
	k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, env)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx, seen.handle) }()
	<-k.Ready()
	const rounds = 4
	for i := range rounds {
		produce(t, p, event.TopicMarket, 4*i, 4)
		time.Sleep(1500 * time.Millisecond) // idle for twice as long as the broker allows
	}
	eventually(t, "all is handled", 20*time.Second, func() bool { return seen.count() >= 4*rounds })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	total := 0
	for part := range int32(4) {
		total += len(readAll(t, c, event.TopicMarket, part))
	}
	if total != 4*rounds || seen.count() != 4*rounds {
		t.Errorf("%d appended, %d in the log, %d handled", 4*rounds, total, seen.count())
	}
	if text := log.String(); strings.Contains(text, "level=WARN") || strings.Contains(text, "level=ERROR") {
		t.Errorf("the log says\n%s", text)
	}
}

// What the certificates get wrong is told at once, with the key to look at.
func TestTLSErrorsNameTheKeyOnKfake(t *testing.T) {
	server, client := certificates(t)
	_, stranger := certificates(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	startKfake(t, "", kfake.ListenFn(func(string, string) (net.Listener, error) { return tls.NewListener(ln, server), nil }))
	for _, tt := range []struct {
		name   string
		change func(*TLSConfig)
		want   string
	}{
		{"unknown authority", func(c *TLSConfig) { c.CAFile = stranger.CAFile }, "kafka.tls.ca_file"},
		{"wrong name", func(c *TLSConfig) { c.ServerName = "kafka.example.com" }, `not for "kafka.example.com"`},
		{"no client certificate", func(c *TLSConfig) { c.CertFile, c.KeyFile = "", "" }, "kafka.tls.cert_file"},
		{"another's client certificate", func(c *TLSConfig) { c.CertFile, c.KeyFile = stranger.CertFile, stranger.KeyFile }, "kafka.tls.cert_file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig(ln.Addr().String())
			cfg.TLS = client
			tt.change(&cfg.TLS)
			_, err := Connect(t.Context(), cfg, component.Discard())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("gave %v, want %s", err, tt.want)
			}
		})
	}
	cfg := testConfig(ln.Addr().String())
	ctx, cancel := contextWithTimeout(t, 400*time.Millisecond)
	defer cancel()
	if _, err := Connect(ctx, cfg, component.Discard()); err == nil || !strings.Contains(err.Error(), "kafka.tls.enabled") {
		t.Errorf("without TLS: %v", err)
	}
}

func TestFramesAreFollowedAcrossWrites(t *testing.T) {
	stream := []byte{0, 0, 0, 3, 'a', 'b', 'c', 0, 0, 0, 1, 'd', 0, 0, 0, 2, 'e', 'f'}
	for size := 1; size <= len(stream); size++ {
		var f frames
		begun, ended := 0, 0
		for at := 0; at < len(stream); at += size {
			b, e := f.advance(stream[at:min(at+size, len(stream))])
			begun, ended = begun+b, ended+e
			if between := f.between(); between != (begun == ended) {
				t.Fatalf("pieces of %d, at %d: between messages is %v after %d began and %d ended", size, at, between, begun, ended)
			}
		}
		if begun != 3 || ended != 3 {
			t.Errorf("pieces of %d: %d messages began, %d ended", size, begun, ended)
		}
	}
}

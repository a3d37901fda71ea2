package bus

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

func TestDefaultConfigHasNoProblems(t *testing.T) {
	cfg := DefaultConfig()
	if p := cfg.Validate(); len(p) != 0 {
		t.Error(p)
	}
	if cfg.Partitions != 0 {
		t.Errorf("%d partitions by default, want as many as there are", cfg.Partitions)
	}
}

func TestConfigProblems(t *testing.T) {
	secret := component.NewSecret("hush")
	for _, tt := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Brokers = []string{"localhost"} }, `brokers[0]: "localhost" is no address: want host:port`},
		{func(c *Config) { c.Partitions = -1 }, "partitions: -1 is out of range: want 1 to 1000, or 0 for as many as there are"},
		{func(c *Config) { c.Replication = 16 }, "replication: 16 is out of range: want 0 to 15"},
		{func(c *Config) { c.Brokers, c.Replication = nil, 3 }, "replication: 3 replicas on the embedded broker: it is one broker, want 0 or 1"},
		{func(c *Config) { c.Retention = time.Minute }, "retention: 1m0s is too short: want 1h or more"},
		{func(c *Config) { c.RetentionBytes = 5 }, "retention_bytes: 5 is too little: want 67108864 (64 MiB) or more, or -1"},
		{func(c *Config) { c.Compression = "brotli" }, `compression: unknown compression "brotli": want one of none, gzip, snappy, lz4, zstd`},
		{func(c *Config) { c.SASL = "oauth" }, `sasl: unknown mechanism "oauth": want one of none, plain, scram-sha-256, scram-sha-512`},
		{func(c *Config) { c.SASL, c.Password = "scram-sha-512", secret }, "user: is empty: scram-sha-512 needs a user"},
		{func(c *Config) { c.SASL, c.User = "scram-sha-512", "u" }, "password: is empty: scram-sha-512 needs a password"},
		{func(c *Config) { c.User = "u" }, "sasl: is none, but a user or password is given: want one of plain, scram-sha-256, scram-sha-512"},
		{func(c *Config) { c.SASL, c.User, c.Password = "plain", "u", secret }, "sasl: plain without TLS sends the password readable over the network"},
		{func(c *Config) { c.TLS.Enabled, c.TLS.CertFile = true, "x" }, "tls.cert_file: cert_file and key_file belong together: give both or neither"},
		{func(c *Config) { c.TLS.CAFile = "x" }, "tls.enabled: is false, but other TLS settings are given: set it to true or remove them"},
		{func(c *Config) { c.Session = "R 1" }, `session name "R 1": want lower-case letters, digits and _`},
	} {
		cfg := testConfig("localhost:9092")
		tt.change(&cfg)
		p := cfg.Validate()
		if len(p) != 1 || p[0].Error() != tt.want {
			t.Errorf("got %v\nwant %s", p, tt.want)
		}
	}
}

// certificates makes an authority and a certificate for 127.0.0.1 that serves
// both ends of mutual TLS.
func certificates(t *testing.T) (server *tls.Config, client TLSConfig) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for name, data := range map[string][]byte{certFile: certPEM, keyFile: keyPEM} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	server = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	return server, TLSConfig{Enabled: true, CAFile: certFile, CertFile: certFile, KeyFile: keyFile}
}

// Everything works over mutual TLS with each SASL mechanism: the group protocol
// connects by another way than the rest.
func TestMutualTLSAndSASLOnKfake(t *testing.T) {
	server, client := certificates(t)
	for _, mechanism := range mechanisms[1:] {
		t.Run(mechanism, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			b := startKfake(t, "", kfake.ListenFn(func(string, string) (net.Listener, error) { return tls.NewListener(ln, server), nil }),
				kfake.EnableSASL(), kfake.Superuser(strings.ToUpper(mechanism), "trader", "hush"))
			cfg := testConfig(ln.Addr().String())
			_ = b
			cfg.TLS, cfg.SASL, cfg.User, cfg.Password = client, mechanism, "trader", component.NewSecret("hush")
			c := connect(t, cfg)
			p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
			produce(t, p, event.TopicMarket, 0, 40)
			if seen, err := drained(t, c, "test", event.TopicMarket); err != nil || seen.count() != 40 {
				t.Errorf("%d records handled, want 40: %v", seen.count(), err)
			}
			cfg.Password = component.NewSecret("wrong")
			ctx, cancel := contextWithTimeout(t, 300*time.Millisecond)
			defer cancel()
			if _, err := Connect(ctx, cfg, component.Discard()); err == nil || !strings.Contains(err.Error(), "is the password right?") || strings.Contains(err.Error(), "wrong") {
				t.Errorf("a wrong password gave %v", err)
			}
		})
	}
}

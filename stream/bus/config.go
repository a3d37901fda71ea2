package bus

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/autohedge/autohedge/stream/component"
)

// Config is how to reach Kafka and what the topics are like.
type Config struct {
	Brokers        []string         `yaml:"brokers" doc:"host:port list; empty starts the embedded broker"`
	Partitions     int              `yaml:"partitions" doc:"partitions of every keyed topic, fixed once the topics exist; 0 takes as many as they have, and 12 for new ones"`
	Replication    int              `yaml:"replication" doc:"replicas of every topic; 0 takes 3, or as many as there are brokers"`
	Retention      time.Duration    `yaml:"retention" doc:"how long records are kept, well above what any reader may lag"`
	RetentionBytes int64            `yaml:"retention_bytes" doc:"bytes kept of each partition; -1 sets no bound; embedded.kafka_max_bytes bounds all of the embedded broker's together"`
	Compression    string           `yaml:"compression" doc:"none, gzip, snappy, lz4 or zstd"`
	SASL           string           `yaml:"sasl" doc:"none, plain, scram-sha-256 or scram-sha-512"`
	User           string           `yaml:"user" doc:"SASL user; without brokers one who may also log in at the embedded broker"`
	Password       component.Secret `yaml:"password" doc:"SASL password"`
	TLS            TLSConfig        `yaml:"tls" doc:"encryption of the connection"`
	Session        string           `yaml:"-"` // prefix of topics and groups, "" when live
	// Moved returns where the broker that was at the address listens now, or nothing
	// while it does not run; nil says that brokers stay where they are.
	Moved func(addr string) string `yaml:"-"`
}

// TLSConfig is the encryption of the connection to the brokers.
type TLSConfig struct {
	Enabled    bool   `yaml:"enabled" doc:"true connects with TLS"`
	CAFile     string `yaml:"ca_file" doc:"PEM file of the authorities to trust; empty takes the system's"`
	CertFile   string `yaml:"cert_file" doc:"PEM file of the client certificate, for mutual TLS"`
	KeyFile    string `yaml:"key_file" doc:"PEM file of the client certificate's key"`
	ServerName string `yaml:"server_name" doc:"name expected in the broker's certificate; empty takes the host"`
}

// NewPartitions is how many partitions new keyed topics get unless configured. The default
// symbols are on three of 12; README.md says what 4, 12 and 24 cost.
const NewPartitions = 12

// DefaultConfig reaches the embedded broker, which the host starts.
func DefaultConfig() Config {
	return Config{
		Retention:      7 * 24 * time.Hour,
		RetentionBytes: 8 << 30,
		Compression:    "none",
		SASL:           "none",
	}
}

// The legal names; an empty one is the first.
var (
	compressions = []string{"none", "gzip", "snappy", "lz4", "zstd"}
	mechanisms   = []string{"none", "plain", "scram-sha-256", "scram-sha-512"}
)

// Validate reports what is wrong with the configuration; it does no I/O.
func (c *Config) Validate() component.Problems {
	var p component.Problems
	for i, b := range c.Brokers {
		if host, port, err := net.SplitHostPort(b); err != nil || host == "" || port == "" {
			p.Addf(fmt.Sprintf("brokers[%d]", i), "%q is no address: want host:port", b)
		}
	}
	if c.Partitions < 0 || c.Partitions > 1000 {
		p.Addf("partitions", "%d is out of range: want 1 to 1000, or 0 for as many as there are", c.Partitions)
	}
	if c.Replication < 0 || c.Replication > 15 {
		p.Addf("replication", "%d is out of range: want 0 to 15", c.Replication)
	}
	if len(c.Brokers) == 0 && c.TLS.Enabled {
		p.Addf("tls.enabled", "the embedded broker has no TLS, and listens on loopback only: name kafka.brokers, or set it to false")
	}
	if len(c.Brokers) == 0 && c.Replication > 1 {
		p.Addf("replication", "%d replicas on the embedded broker: it is one broker, want 0 or 1", c.Replication)
	}
	if c.Retention < time.Hour {
		p.Addf("retention", "%s is too short: want 1h or more", c.Retention)
	}
	if c.RetentionBytes != -1 && c.RetentionBytes < 64<<20 {
		p.Addf("retention_bytes", "%d is too little: want 67108864 (64 MiB) or more, or -1", c.RetentionBytes)
	}
	if !slices.Contains(compressions, c.compression()) {
		p.Addf("compression", "unknown compression %q: want one of %s", c.Compression, strings.Join(compressions, ", "))
	}
	mech := c.mechanism()
	switch {
	case !slices.Contains(mechanisms, mech):
		p.Addf("sasl", "unknown mechanism %q: want one of %s", c.SASL, strings.Join(mechanisms, ", "))
	case mech != "none" && c.User == "":
		p.Addf("user", "is empty: %s needs a user", mech)
	case mech != "none" && c.Password.IsZero():
		p.Addf("password", "is empty: %s needs a password", mech)
	case mech == "none" && (c.User != "" || !c.Password.IsZero()):
		p.Addf("sasl", "is none, but a user or password is given: want one of %s", strings.Join(mechanisms[1:], ", "))
	case mech == "plain" && !c.TLS.Enabled && len(c.Brokers) > 0:
		p.Warnf("sasl", "plain without TLS sends the password readable over the network")
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		p.Addf("tls.cert_file", "cert_file and key_file belong together: give both or neither")
	}
	if !c.TLS.Enabled && c.TLS != (TLSConfig{}) {
		p.Addf("tls.enabled", "is false, but other TLS settings are given: set it to true or remove them")
	}
	if err := CheckSession(c.Session); err != nil {
		p.Addf("", "%v", err)
	}
	return p
}

// CheckSession reports whether a session may be called so; "" is the live one.
func CheckSession(name string) error {
	if name == "" {
		return nil
	}
	if len(name) > 40 {
		return fmt.Errorf("session name of %d characters: want 1 to 40", len(name))
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' {
			return fmt.Errorf("session name %q: want lower-case letters, digits and _", name)
		}
	}
	if name == "state" || name == "md" || name == "signals" || name == "autohedge" {
		return fmt.Errorf("session name %q is taken by topics: choose another", name)
	}
	return nil
}

func (c *Config) compression() string {
	if c.Compression == "" {
		return "none"
	}
	return strings.ToLower(c.Compression)
}

func (c *Config) mechanism() string {
	if c.SASL == "" {
		return "none"
	}
	return strings.ToLower(c.SASL)
}

// codec returns the compression codec and its code; nil for none.
func (c *Config) codec() compress.Codec {
	code := compress.Compression(slices.Index(compressions, c.compression()))
	return code.Codec()
}

// saslMechanism returns what authenticates a connection; nil for none.
func (c *Config) saslMechanism() (sasl.Mechanism, error) {
	switch c.mechanism() {
	case "none":
		return nil, nil
	case "plain":
		return plain.Mechanism{Username: c.User, Password: c.Password.Reveal()}, nil
	case "scram-sha-256":
		return scram.Mechanism(scram.SHA256, c.User, c.Password.Reveal())
	case "scram-sha-512":
		return scram.Mechanism(scram.SHA512, c.User, c.Password.Reveal())
	}
	return nil, fmt.Errorf("unknown SASL mechanism %q", c.SASL)
}

// config reads the files and returns the client's TLS setting; nil for none.
func (t *TLSConfig) config() (*tls.Config, error) {
	if !t.Enabled {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading tls.ca_file: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("reading tls.ca_file: no certificate in it")
		}
	}
	if t.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("reading tls.cert_file and tls.key_file: %w", err)
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	return conf, nil
}

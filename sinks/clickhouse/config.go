package clickhouse

import (
	"net/url"
	"os"
	"regexp"
	"slices"
	"time"

	"github.com/autohedge/autohedge/stream/component"
)

// Config names the ClickHouse to use.
type Config struct {
	URL         string           `yaml:"url" doc:"HTTP interface of a ClickHouse server (25.8 or newer), http://host:8123 or https://host:8443; empty runs the embedded engine"`
	User        string           `yaml:"user" doc:"user name"`
	Password    component.Secret `yaml:"password" doc:"the user's password, e.g. ${CLICKHOUSE_PASSWORD}"`
	Database    string           `yaml:"database" doc:"database; it is made when it is missing, and a session NAME lands in <database>_NAME"`
	CAFile      string           `yaml:"ca_file" doc:"PEM file of the authority that signed the server's certificate; empty trusts the system's"`
	Compression string           `yaml:"compression" doc:"of inserts: none, lz4, zstd, or auto: none on this machine and lz4 elsewhere"`
	Timeout     time.Duration    `yaml:"timeout" doc:"bound of one statement that has no bound of its own"`
	// Reader says that the client asks for people: on the embedded engine it takes none
	// of the connections that are kept for the writer.
	Reader bool `yaml:"-"`
	// Moved returns where the server that was at host:port listens now, or nothing while
	// it does not run; nil says that it stays where it is.
	Moved func(addr string) string `yaml:"-"`
}

// DefaultConfig is the embedded engine.
func DefaultConfig() Config {
	return Config{User: "default", Database: "autohedge", Compression: "auto", Timeout: time.Minute}
}

var databaseName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)

var compressions = []string{"auto", "none", "lz4", "zstd"}

// Validate finds mistakes without any I/O.
func (c *Config) Validate() component.Problems {
	var p component.Problems
	if c.URL != "" {
		u, err := url.Parse(c.URL)
		switch {
		case err != nil:
			p.Addf("url", "%q is no URL: want http://host:8123 or https://host:8443", c.URL)
		case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
			p.Addf("url", "%q: want http://host:8123 or https://host:8443 (the HTTP interface, not port 9000)", c.URL)
		case u.User != nil:
			p.Addf("url", "credentials do not belong into the URL: use user and password")
		case u.RawQuery != "":
			p.Addf("url", "%q: want no parameters", c.URL)
		case u.Scheme == "http" && !c.Password.IsZero() && !loopbackName(u.Hostname()):
			p.Warnf("url", "the password goes over the network in the clear: use https")
		}
		if u != nil && u.Port() == "9000" {
			p.Warnf("url", "port 9000 is ClickHouse's native protocol as a rule; the HTTP interface is 8123")
		}
	}
	if c.User == "" {
		p.Addf("user", "want a user name")
	}
	if !databaseName.MatchString(c.Database) {
		p.Addf("database", "%q: want letters, digits and underscores, not beginning with a digit", c.Database)
	}
	if !slices.Contains(compressions, c.Compression) {
		p.Addf("compression", "%q: want one of auto, none, lz4, zstd", c.Compression)
	}
	if c.Timeout < time.Second {
		p.Addf("timeout", "%s: want at least 1s", c.Timeout)
	}
	return p
}

// readCA reads the CA file.
func (c *Config) readCA() ([]byte, error) { return os.ReadFile(c.CAFile) }

package clickhouse

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/ch-go/proto"
	driver "github.com/ClickHouse/clickhouse-go/v2"
	chdriver "github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/autohedge/autohedge/stream/component"
)

// Client speaks to one database of one ClickHouse over HTTP, a server or the
// embedded engine alike: clickhouse-go for statements and low-rate questions,
// typed blocks for inserts. It is safe for concurrent use.
type Client struct {
	cfg      Config
	log      *slog.Logger
	base     *url.URL
	http     *http.Client
	conn     chdriver.Conn
	compress compress.Method
	buffers  sync.Pool

	mu sync.Mutex
	// doubtful are the tokens of inserts whose outcome is not known.
	doubtful map[string]bool
	// settled are the tokens of plans that a predecessor left: every insert under
	// them may have been tried before.
	settled map[string]bool
}

// Connect opens the client and checks that ClickHouse answers. It makes no
// tables: see Migrate.
func Connect(ctx context.Context, cfg Config, env component.Env) (*Client, error) {
	if cfg.URL == "" {
		return nil, errors.New("connecting to ClickHouse: no URL (start the embedded engine first)")
	}
	if err := cfg.Validate().Err(); err != nil {
		return nil, fmt.Errorf("connecting to ClickHouse: clickhouse.%w", err)
	}
	base, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("connecting to ClickHouse: %w", err)
	}
	c := &Client{
		cfg: cfg, log: env.Log, base: base, doubtful: make(map[string]bool), settled: make(map[string]bool),
		buffers: sync.Pool{New: func() any { return new(proto.Buffer) }},
	}
	switch {
	case cfg.Compression == "zstd":
		c.compress = compress.ZSTD
	case cfg.Compression == "lz4" || cfg.Compression == "auto" && !loopbackName(base.Hostname()):
		c.compress = compress.LZ4
	default:
		c.compress = compress.None
	}
	var tlsConfig *tls.Config
	if base.Scheme == "https" {
		tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if cfg.CAFile != "" {
			pem, err := cfg.readCA()
			if err != nil {
				return nil, fmt.Errorf("reading clickhouse.ca_file: %w", err)
			}
			tlsConfig.RootCAs = x509.NewCertPool()
			if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("reading clickhouse.ca_file: %s holds no certificate", cfg.CAFile)
			}
		}
	}
	dial := (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	if cfg.Moved != nil {
		plain := dial
		dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			return plain(ctx, network, cfg.Moved(addr))
		}
	}
	c.http = &http.Client{Transport: &http.Transport{
		Proxy:        http.ProxyFromEnvironment,
		DialContext:  dial,
		MaxIdleConns: 32, MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute, TLSClientConfig: tlsConfig, TLSHandshakeTimeout: 10 * time.Second,
		DisableCompression: true,
	}}
	headers := make(map[string]string)
	if cfg.Reader {
		headers[readerHeader] = "1"
	}
	c.conn, err = driver.Open(&driver.Options{
		HttpHeaders: headers,
		Protocol:    driver.HTTP, Addr: []string{hostPort(base)}, HttpUrlPath: base.Path, TLS: tlsConfig,
		Auth:        driver.Auth{Username: cfg.User, Password: cfg.Password.Reveal()},
		DialContext: func(ctx context.Context, addr string) (net.Conn, error) { return dial(ctx, "tcp", addr) },
		DialTimeout: 10 * time.Second, ReadTimeout: cfg.Timeout, MaxOpenConns: 8, MaxIdleConns: 4,
		ClientInfo: driver.ClientInfo{Products: []struct{ Name, Version string }{{Name: "autohedge"}}},
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to ClickHouse: %w", err)
	}
	if err := c.Ping(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to ClickHouse: %w", err), c.Close())
	}
	return c, nil
}

func hostPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	if u.Scheme == "https" {
		return net.JoinHostPort(u.Hostname(), "8443")
	}
	return net.JoinHostPort(u.Hostname(), "8123")
}

// Close closes the connections. What runs on the server goes on there.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	if err := c.conn.Close(); err != nil {
		return fmt.Errorf("closing ClickHouse connections: %w", err)
	}
	return nil
}

// Database is the database that rows land in.
func (c *Client) Database() string { return c.cfg.Database }

// URL is the address of the HTTP interface.
func (c *Client) URL() string { return c.cfg.URL }

// Ping asks whether ClickHouse answers statements.
func (c *Client) Ping(ctx context.Context) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	if err := c.conn.Ping(ctx); err != nil {
		return fmt.Errorf("asking ClickHouse at %s: %w", c.cfg.URL, err)
	}
	return nil
}

// Exec runs a statement without an answer; names that are not qualified are of
// the default database, not of the client's.
func (c *Client) Exec(ctx context.Context, sql string) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	return c.conn.Exec(ctx, sql)
}

// bound gives a statement the configured bound when it has none of its own.
func (c *Client) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.cfg.Timeout)
}

// Result is an answer as text. NULL is the empty string.
type Result struct {
	Columns []string
	Types   []string
	Rows    [][]string
}

// maxResult bounds what Query holds in memory.
const maxResult = 256 << 20

// resultFormat writes every value as text; a NULL is null.
const resultFormat = "JSONCompactStringsEachRowWithNamesAndTypes"

// nullText is how that format writes NULL.
const nullText = "ᴺᵁᴸᴸ"

// Query asks the client's database and returns the answer as text, for people
// and for checks. A statement that names a FORMAT of its own gets that format's
// text, in one column. It is bounded by ctx, or by the configured timeout.
func (c *Client) Query(ctx context.Context, sql string) (*Result, error) {
	body, format, err := c.ask(ctx, sql, resultFormat)
	if err != nil {
		return nil, err
	}
	if format != resultFormat {
		return &Result{Columns: []string{format}, Types: []string{"String"}, Rows: [][]string{{string(body)}}}, nil
	}
	res := &Result{}
	for dec := json.NewDecoder(bytes.NewReader(body)); ; {
		var row []string
		if err := dec.Decode(&row); errors.Is(err, io.EOF) {
			return res, nil
		} else if err != nil {
			return nil, fmt.Errorf("decoding ClickHouse's answer: %w", exceptionIn(body, err))
		}
		switch {
		case res.Columns == nil:
			res.Columns = row
		case res.Types == nil:
			res.Types = row
		default:
			for i := range row {
				if row[i] == nullText {
					row[i] = ""
				}
			}
			res.Rows = append(res.Rows, row)
		}
	}
}

// jsonFormat writes every value as JSON: numbers as numbers, arrays and maps as such.
const jsonFormat = "JSONCompactEachRowWithNamesAndTypes"

// QueryJSON is Query with values as JSON, for programs: numbers have all their
// digits, arrays and maps are such, NULL is null, and what JSON has no number for is
// a text ("nan", "inf").
func (c *Client) QueryJSON(ctx context.Context, sql string) (columns []string, rows [][]json.RawMessage, err error) {
	body, format, err := c.ask(ctx, sql, jsonFormat)
	if err != nil {
		return nil, nil, err
	}
	if format != jsonFormat {
		text, err := json.Marshal(string(body))
		return []string{format}, [][]json.RawMessage{{text}}, err //nolint:wrapcheck // a text always encodes
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	var types []string
	for _, head := range []*[]string{&columns, &types} {
		if err := dec.Decode(head); errors.Is(err, io.EOF) {
			return columns, nil, nil // a statement without an answer
		} else if err != nil {
			return nil, nil, fmt.Errorf("decoding ClickHouse's answer: %w", exceptionIn(body, err))
		}
	}
	for {
		var row []json.RawMessage
		if err := dec.Decode(&row); errors.Is(err, io.EOF) {
			return columns, rows, nil
		} else if err != nil {
			return nil, nil, fmt.Errorf("decoding ClickHouse's answer: %w", exceptionIn(body, err))
		}
		rows = append(rows, row)
	}
}

// ask sends a statement and returns the answer in the format, or in the one that the
// statement names.
func (c *Client) ask(ctx context.Context, sql, format string) (body []byte, got string, err error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	v := url.Values{"database": {c.cfg.Database}, "default_format": {format}, "output_format_json_quote_64bit_integers": {"0"},
		"output_format_json_quote_denormals": {"1"}}
	resp, err := c.post(ctx, v, strings.NewReader(sql))
	if err != nil {
		return nil, "", fmt.Errorf("asking ClickHouse: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // a reader
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxResult+1))
	if err != nil {
		return nil, "", fmt.Errorf("reading ClickHouse's answer: %w", exceptionIn(body, err))
	}
	if len(body) > maxResult {
		return nil, "", fmt.Errorf("reading ClickHouse's answer: it is longer than %d MiB", maxResult>>20)
	}
	return body, cmp.Or(resp.Header.Get("X-ClickHouse-Format"), format), nil
}

// post sends a request and returns a good answer; an exception is *Exception.
func (c *Client) post(ctx context.Context, v url.Values, body io.Reader) (*http.Response, error) {
	u := *c.base
	u.Host = hostPort(c.base)
	u.RawQuery = v.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-ClickHouse-User", c.cfg.User)
	if !c.cfg.Password.IsZero() {
		req.Header.Set("X-ClickHouse-Key", c.cfg.Password.Reveal())
	}
	req.Header.Set("User-Agent", "autohedge")
	if c.cfg.Reader {
		req.Header.Set(readerHeader, "1")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK && resp.Header.Get("X-ClickHouse-Exception-Code") == "" {
		return resp, nil
	}
	defer resp.Body.Close() //nolint:errcheck // a reader
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if len(text) == 0 {
		return nil, errors.Join(fmt.Errorf("the server answered %s", resp.Status), err)
	}
	if !strings.HasPrefix(string(text), "Code: ") { // a proxy, or no ClickHouse at all
		return nil, fmt.Errorf("the server answered %s: %.300q", resp.Status, text)
	}
	return nil, parseException(string(text))
}

// exceptionIn finds the exception that an answer broke off with, or returns err.
func exceptionIn(body []byte, err error) error {
	const marker = "__exception__\r\n"
	i := bytes.LastIndex(body, []byte(marker))
	if i >= 0 { // the closing marker, or the only one
		if j := bytes.LastIndex(body[:i], []byte(marker)); j >= 0 {
			i = j
		}
		if _, text, ok := bytes.Cut(body[i:], []byte("Code: ")); ok {
			text, _, _ = bytes.Cut(text, []byte("\r\n"))
			return parseException("Code: " + string(text))
		}
	}
	return err
}

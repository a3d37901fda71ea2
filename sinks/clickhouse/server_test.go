package clickhouse

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"
)

// answer is what an HTTP client sees.
type answer struct {
	status int
	header http.Header
	body   string
	err    error // of reading the body
}

// call sends a request as curl would.
func call(t testing.TB, method, address string, body io.Reader, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, address, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(text), err}
}

func post(t testing.TB, e *Engine, query string, values ...string) answer {
	t.Helper()
	return call(t, http.MethodPost, address(e, values...), strings.NewReader(query))
}

func address(e *Engine, values ...string) string {
	v := url.Values{}
	for i := 0; i+1 < len(values); i += 2 {
		v.Set(values[i], values[i+1])
	}
	return e.URL() + "/?" + v.Encode()
}

// freshDatabase makes a database for one test.
func freshDatabase(t testing.TB, e *Engine) string {
	t.Helper()
	name := "t_" + strings.ToLower(strings.NewReplacer("/", "_", "-", "_").Replace(t.Name()))
	if a := post(t, e, "DROP DATABASE IF EXISTS "+name); a.status != 200 {
		t.Fatal(a.body)
	}
	if a := post(t, e, "CREATE DATABASE "+name); a.status != 200 {
		t.Fatal(a.body)
	}
	return name
}

func TestHTTPInterface(t *testing.T) {
	e := sharedEngine(t)
	db := freshDatabase(t, e)
	must := func(query string, values ...string) string {
		t.Helper()
		a := post(t, e, query, append([]string{"database", db}, values...)...)
		if a.status != 200 {
			t.Fatalf("%s: %d %s", query, a.status, a.body)
		}
		return a.body
	}
	must("CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100")

	for _, c := range []struct {
		name, method, query, body string
		values                    []string
		status                    int
		want                      string // contained in the answer
	}{
		{name: "ping by query", method: "GET", query: "SELECT 1", status: 200, want: "1\n"},
		{name: "format in the text", method: "GET", query: "SELECT 1 AS x FORMAT JSONEachRow", status: 200, want: `{"x":1}`},
		{name: "format before settings", method: "GET", query: "SELECT 1 AS x FORMAT JSONEachRow SETTINGS max_threads = 1", status: 200, want: `{"x":1}`},
		{name: "default format", method: "GET", query: "SELECT 1 AS x", values: []string{"default_format", "CSVWithNames"}, status: 200, want: "\"x\"\n1\n"},
		{name: "a document", method: "POST", query: "SELECT number FROM numbers(200000) FORMAT JSONCompact", status: 200, want: `"rows": 200000`},
		{name: "many pieces", method: "POST", query: "SELECT count(), sum(number) FROM numbers(100000)", status: 200, want: "100000\t4999950000"},
		{name: "query and body", method: "POST", query: "SELECT 1 +", body: "1", status: 200, want: "2\n"},
		{name: "parameters", method: "GET", query: "SELECT {a:UInt8} + {b:UInt8}, {s:String}", values: []string{"param_a", "1", "param_b", "2", "param_s", `it's`}, status: 200, want: "3\tit\\'s\n"},
		{name: "setting", method: "GET", query: "SELECT getSetting('max_threads'), getSetting('max_execution_time')", values: []string{"max_threads", "1", "max_execution_time", "17"}, status: 200, want: "1\t17"},
		{name: "setting is gone afterwards", method: "GET", query: "SELECT getSetting('max_execution_time'), getSetting('async_insert')", status: 200, want: "0\tfalse"},
		{name: "insert in the body", method: "POST", body: "INSERT INTO t FORMAT CSV\n1,\"one\"\n2,\"two\"\n", status: 200},
		{name: "insert values", method: "POST", body: "INSERT INTO t VALUES (3, 'it''s (3); \\n'), (2 + 2, concat('f', 'our'))", status: 200},
		{name: "insert with data in the body", method: "POST", query: "INSERT INTO t (s, a) FORMAT JSONEachRow", body: `{"a": 5, "s": "five"} {"a": 6, "s": "six"}`, status: 200},
		{name: "insert select", method: "POST", body: "INSERT INTO t SELECT number + 7, 'n' FROM numbers(3)", status: 200},
		{name: "insert without format", method: "POST", query: "INSERT INTO t (a, s)", body: "(10, 'ten')", status: 200},
		{name: "what was inserted", method: "POST", query: "SELECT groupArray(a), groupArray(s) FROM (SELECT * FROM t ORDER BY a)", status: 200, want: `[1,2,3,4,5,6,7,8,9,10]`},
		{name: "syntax error", method: "GET", query: "SELEC 1", status: 400, want: "Code: 62. DB::Exception: Syntax error"},
		{name: "unknown table", method: "GET", query: "SELECT * FROM nope", status: 404, want: "Code: 60."},
		{name: "unknown table of an insert", method: "POST", query: "INSERT INTO nope FORMAT CSV", body: "1\n", status: 404, want: "Code: 60."},
		{name: "unknown setting", method: "GET", query: "SELECT 1", values: []string{"max_threadz", "1"}, status: 404, want: "Code: 115."},
		{name: "unknown database", method: "GET", query: "SELECT 1", values: []string{"database", "nowhere"}, status: 404, want: "Code: 81."},
		{name: "bad data", method: "POST", query: "INSERT INTO t FORMAT CSV", body: "x,y\n", status: 400, want: "Code: 27."},
		{name: "error at the first row", method: "GET", query: "SELECT throwIf(number = 0) FROM numbers(10)", status: 500, want: "Code: 395."},
		{name: "GET is readonly", method: "GET", query: "DROP TABLE t", status: 500, want: "Code: 164."},
		{name: "GET cannot insert", method: "GET", query: "INSERT INTO t VALUES (1, 'x')", status: 500, want: "Code: 164."},
		{name: "readonly setting", method: "POST", query: "DROP TABLE t", values: []string{"readonly", "1"}, status: 500, want: "Code: 164."},
		{name: "two statements", method: "POST", query: "SELECT 1; SELECT 2", status: 400, want: "Multi-statements are not allowed"},
		{name: "a final semicolon", method: "POST", query: "SELECT 1;", status: 200, want: "1\n"},
		{name: "only a comment", method: "POST", query: "-- nothing", status: 400, want: "Empty query"},
		{name: "show", method: "GET", query: "SHOW TABLES", status: 200, want: "t\n"},
		{name: "describe", method: "GET", query: "DESCRIBE TABLE t FORMAT TSV", status: 200, want: "a\tUInt64"},
		{name: "explain", method: "GET", query: "EXPLAIN SELECT 1", status: 200, want: "ReadFromSystemOne"},
		{name: "totals", method: "POST", query: "SELECT a % 2 AS k, count() FROM t GROUP BY k WITH TOTALS ORDER BY k FORMAT CSV", status: 200, want: "\n\n0,10"},
		{name: "session state does not leak", method: "POST", query: "SET max_threads = 1", status: 200},
		{name: "temporary tables do not leak", method: "POST", query: "CREATE TEMPORARY TABLE tt (a UInt8)", status: 200},
		{name: "no temporary table", method: "POST", query: "SELECT * FROM tt", status: 404, want: "Code: 60."},
		{name: "kill does not hang", method: "POST", query: "KILL QUERY WHERE query_id = 'nobody' SYNC", status: 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			values := append([]string{"database", db}, c.values...)
			if c.query != "" {
				values = append(values, "query", c.query)
			}
			a := call(t, c.method, address(e, values...), strings.NewReader(c.body))
			if a.status != c.status || !strings.Contains(a.body, c.want) {
				t.Errorf("got %d %.400q, want %d and %q", a.status, a.body, c.status, c.want)
			}
			if c.status != 200 && a.header.Get("X-ClickHouse-Exception-Code") == "" {
				t.Error("an exception without X-ClickHouse-Exception-Code")
			}
		})
	}

	t.Run("ping", func(t *testing.T) {
		for _, path := range []string{"/ping", "/", "/replicas_status"} {
			if a := call(t, "GET", e.URL()+path, nil); a.status != 200 || a.body != "Ok.\n" {
				t.Errorf("%s: %d %q", path, a.status, a.body)
			}
		}
		if a := call(t, "GET", e.URL()+"/nope", nil); a.status != 404 {
			t.Errorf("unknown path: %d", a.status)
		}
	})
	t.Run("headers", func(t *testing.T) {
		a := post(t, e, "INSERT INTO t VALUES (100, 'x'), (101, 'y')", "database", db, "query_id", "my-id")
		if got := a.header.Get("X-ClickHouse-Query-Id"); got != "my-id" {
			t.Errorf("query id %q", got)
		}
		if got := a.header.Get("X-ClickHouse-Summary"); !strings.Contains(got, `"written_rows":"2"`) {
			t.Errorf("summary %q", got)
		}
		a = post(t, e, "SELECT * FROM t FORMAT JSON", "database", db)
		if a.header.Get("X-ClickHouse-Format") != "JSON" || a.header.Get("X-ClickHouse-Timezone") == "" || !strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
			t.Errorf("headers %v", a.header)
		}
		if got := a.header.Get("X-ClickHouse-Summary"); !strings.Contains(got, `"result_rows":"12"`) {
			t.Errorf("summary %q", got)
		}
	})
	t.Run("gzip both ways", func(t *testing.T) {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		fmt.Fprint(w, "SELECT number FROM numbers(5)")
		w.Close()
		req := call(t, "POST", address(e, "enable_http_compression", "1"), &z, "Content-Encoding", "gzip", "Accept-Encoding", "gzip")
		if req.header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("headers %v", req.header)
		}
		r, err := gzip.NewReader(strings.NewReader(req.body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != "0\n1\n2\n3\n4\n" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("error in the middle", func(t *testing.T) {
		a := post(t, e, "SELECT number, throwIf(number = 3000000) FROM numbers(4000000) SETTINGS max_block_size = 10000, max_threads = 1")
		tag := a.header.Get("X-ClickHouse-Exception-Tag")
		if a.status != 200 || a.err == nil || !strings.Contains(a.body, "__exception__\r\n"+tag+"\r\nCode: 395.") {
			t.Errorf("status %d, tag %q, reading: %v, end %.300q", a.status, tag, a.err, a.body[max(0, len(a.body)-300):])
		}
	})
	t.Run("other sites are refused", func(t *testing.T) {
		for _, header := range [][2]string{{"Origin", "http://example.org"}, {"Origin", "http://localhost:3000"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}} {
			if a := call(t, "GET", address(e, "query", "SELECT 1"), nil, header[0], header[1]); a.status != 403 {
				t.Errorf("%v: status %d", header, a.status)
			}
		}
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, e.URL(), strings.NewReader("SELECT 1"))
		req.Host = "rebound.example.org"
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
	t.Run("a client that hangs up cancels its query", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, address(e, "query_id", "endless"), strings.NewReader("SELECT count() FROM numbers(1000000000000)"))
		failed := make(chan error, 1)
		go func() {
			resp, err := http.DefaultClient.Do(req)
			if err == nil {
				resp.Body.Close()
			}
			failed <- err
		}()
		running := "SELECT count() FROM system.processes WHERE startsWith(Settings['log_comment'], 'endless ')"
		waitFor(t, "the query to run", func() bool { return post(t, e, running).body == "1\n" })
		cancel()
		if err := <-failed; err == nil {
			t.Error("the cancelled request answered")
		}
		waitFor(t, "the query to be killed", func() bool { return post(t, e, running).body == "0\n" })
	})
	t.Run("deduplication token", func(t *testing.T) {
		must("CREATE TABLE d (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100")
		for _, token := range []string{"one", "one", "two"} {
			must("INSERT INTO d VALUES (1), (2)", "insert_deduplication_token", token, "async_insert", "0")
		}
		if got := must("SELECT count() FROM d"); got != "4\n" {
			t.Errorf("rows %s", got)
		}
	})
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s: in vain", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestStreamedInsert sends more data than the server reads to find their start.
func TestStreamedInsert(t *testing.T) {
	e := sharedEngine(t)
	db := freshDatabase(t, e)
	post(t, e, "CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a", "database", db)
	var body bytes.Buffer
	body.WriteString("INSERT INTO t FORMAT TSV\n")
	const rows = 300_000
	for i := range rows {
		fmt.Fprintf(&body, "%d\tabcdefghij\n", i)
	}
	size := body.Len()
	if a := call(t, "POST", address(e, "database", db), &body); a.status != 200 {
		t.Fatal(a.body)
	}
	if a := post(t, e, "SELECT count(), sum(a), sum(length(s)) FROM t", "database", db); a.body != fmt.Sprintf("%d\t%d\t%d\n", rows, rows*(rows-1)/2, rows*10) {
		t.Errorf("after %d bytes: %q", size, a.body)
	}
	// A body that breaks off is not acknowledged, nothing of it is stored, and the
	// server goes on.
	for _, framing := range []string{"Content-Length: 1000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n10\r\n1\tx\n1\tx\n1\tx\n1\tx\n\r\n10\r\n"} {
		raw, err := net.Dial("tcp", strings.TrimPrefix(e.URL(), "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(raw, "POST /?database=%s&query=INSERT+INTO+t+FORMAT+TSV HTTP/1.1\r\nHost: localhost\r\n%s1\tx\n1\tx\n", db, framing)
		if err := raw.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		reply, err := io.ReadAll(raw)
		if err != nil {
			t.Fatal(err)
		}
		raw.Close()
		if strings.Contains(string(reply), "200 OK") {
			t.Errorf("a broken body was acknowledged: %s", reply)
		}
	}
	if a := post(t, e, "SELECT count() FROM t", "database", db); a.body != fmt.Sprintln(rows) {
		t.Errorf("rows after broken bodies: %q, want %d", a.body, rows)
	}
	// A refused insert answers although the client still sends.
	if a := call(t, "POST", address(e, "query", "INSERT INTO nope FORMAT TSV"), strings.NewReader(strings.Repeat("x", 8<<20))); a.status != 404 {
		t.Errorf("refused insert: %d %s", a.status, a.body)
	}
}

func TestClickHouseGo(t *testing.T) {
	e := sharedEngine(t)
	db := freshDatabase(t, e)
	for _, method := range []driver.CompressionMethod{driver.CompressionNone, driver.CompressionLZ4, driver.CompressionZSTD, driver.CompressionGZIP} {
		t.Run(method.String(), func(t *testing.T) {
			conn, err := driver.Open(&driver.Options{
				Protocol: driver.HTTP, Addr: []string{strings.TrimPrefix(e.URL(), "http://")}, Auth: driver.Auth{Database: db},
				Compression: &driver.Compression{Method: method},
				Settings:    driver.Settings{"max_threads": 1},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ctx := t.Context()
			if err := conn.Ping(ctx); err != nil {
				t.Fatal("ping:", err)
			}
			if v, err := conn.ServerVersion(); err != nil || v.Version.String() != "26.7.2" && v.Version.String() != "26.7.2.1" {
				t.Errorf("version %v, %v", v, err)
			}
			for _, ddl := range []string{"DROP TABLE IF EXISTS g", "CREATE TABLE g (a UInt64, t DateTime64(9, 'UTC'), l LowCardinality(String), n Nullable(String), m Map(String, UInt64)) ENGINE = MergeTree ORDER BY a"} {
				if err := conn.Exec(ctx, ddl); err != nil {
					t.Fatal(ddl, err)
				}
			}
			batch, err := conn.PrepareBatch(ctx, "INSERT INTO g")
			if err != nil {
				t.Fatal(err)
			}
			when := time.Date(2026, 11, 23, 7, 0, 0, 123456789, time.UTC)
			const rows = 70_000
			for i := range rows {
				var n *string
				if i%2 == 0 {
					s := "even"
					n = &s
				}
				if err := batch.Append(uint64(i), when, fmt.Sprint("v", i%10), n, map[string]uint64{"k": uint64(i)}); err != nil {
					t.Fatal(err)
				}
			}
			if err := batch.Send(); err != nil {
				t.Fatal("sending the batch:", err)
			}
			rs, err := conn.Query(ctx, "SELECT a, t, l, n, m FROM g WHERE a < ? ORDER BY a", rows)
			if err != nil {
				t.Fatal(err)
			}
			count := 0
			for ; rs.Next(); count++ {
				var a uint64
				var at time.Time
				var l string
				var n *string
				var m map[string]uint64
				if err := rs.Scan(&a, &at, &l, &n, &m); err != nil {
					t.Fatal(err)
				}
				if a != uint64(count) || !at.Equal(when) || l != fmt.Sprint("v", count%10) || (n != nil) != (count%2 == 0) || m["k"] != a {
					t.Fatalf("row %d: %d %v %q %v %v", count, a, at, l, n, m)
				}
			}
			if err := rs.Err(); err != nil || count != rows {
				t.Errorf("%d rows, %v", count, err)
			}
			var threads string
			if err := conn.QueryRow(ctx, "SELECT toString(getSetting('max_threads'))").Scan(&threads); err != nil || threads != "1" {
				t.Errorf("max_threads %q, %v", threads, err)
			}
			err = conn.Exec(ctx, "SELECT * FROM nope")
			var ex *driver.Exception
			if !asError(err, &ex) || ex.Code != 60 {
				t.Errorf("unknown table: %v", err)
			}
		})
	}
}

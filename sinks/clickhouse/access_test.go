package clickhouse

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/component"
)

const testKey = "0123456789abcdef"

// guardedEngine is an engine as the product starts it: with a key, and open to read.
func guardedEngine(t *testing.T, change func(*EngineConfig)) *Engine {
	t.Helper()
	sharedEngine(t) // fetches the library
	cfg := EngineConfig{Dir: filepath.Join(t.TempDir(), "db"), Addr: "127.0.0.1:0", Key: component.NewSecret(testKey), OpenReads: true}
	if change != nil {
		change(&cfg)
	}
	e, err := StartEngine(t.Context(), cfg, testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close(t.Context()) })
	return e
}

var ownerHeaders = []string{"X-ClickHouse-User", KeyUser, "X-ClickHouse-Key", testKey}

func asOwner(t testing.TB, e *Engine, query string, values ...string) answer {
	t.Helper()
	return call(t, http.MethodPost, address(e, values...), strings.NewReader(query), ownerHeaders...)
}

// Nobody, the holder of the credential included, reaches files, URLs, other servers or
// programs through the port, however the statement is written.
func TestNobodyLeavesTheEngine(t *testing.T) {
	e := guardedEngine(t, nil)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("TOPSECRET\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := fmt.Sprintf("file('%s', 'LineAsString')", secret)
	if a := asOwner(t, e, "CREATE TABLE t (a String) ENGINE = MergeTree ORDER BY a"); a.status != 200 {
		t.Fatal(a.body)
	}
	for _, query := range []string{
		"SELECT * FROM " + file,
		"SELECT * FROM /* x */ file /* y */ (" + file[len("file("):],
		"select * from `file`(" + file[len("file("):],
		"SELECT * FROM `fil\\x65`(" + file[len("file("):],
		"SELECT * FROM \"file\" (" + file[len("file("):],
		"SELECT * FROM file($$" + secret + "$$, $$LineAsString$$)",
		"SELECT * FROM FILE('" + secret + "', 'LineAsString')",
		"SELECT 1 WHERE 'x' IN (SELECT * FROM " + file + ")",
		"WITH x AS (SELECT * FROM " + file + ") SELECT * FROM x",
		"SELECT 1 UNION ALL SELECT length(line) FROM " + file,
		"SELECT * FROM numbers(1) AS n, " + file + " AS f",
		"SELECT * FROM numbers(1) AS n JOIN " + file + " AS f ON 1",
		"SELECT * FROM view(SELECT * FROM " + file + ")",
		"INSERT INTO t SELECT * FROM " + file,
		"INSERT INTO FUNCTION " + file + " SELECT 'x'",
		"INSERT INTO TABLE FUNCTION " + file + " VALUES ('x')",
		"INSERT INTO t FROM INFILE '" + secret + "' FORMAT LineAsString",
		"SELECT 'x' INTO OUTFILE '" + secret + "' APPEND",
		"SELECT 'x' INTO OUTFILE '" + secret + "' TRUNCATE FORMAT TSV",
		"DESCRIBE " + file, "DESCRIBE TABLE " + file, "EXPLAIN SELECT * FROM " + file,
		"CREATE TABLE x AS " + file,
		"CREATE TABLE x (a String) ENGINE = File(TSV)", "CREATE TABLE x (a String) ENGINE File(TSV)", "CREATE TABLE x (a String) ENGINE=URL('http://127.0.0.1:1/', TSV)",
		"CREATE TABLE x (a String) ENGINE = S3('http://127.0.0.1:1/b/k')", "CREATE TABLE x (a String) ENGINE = `File`(TSV)", "CREATE TABLE x (a String) ENGINE = Buffer(default, t, 1, 1, 1, 1, 1, 1, 1)",
		"CREATE TABLE x (a String) ENGINE = MySQL('127.0.0.1:1', 'd', 't', 'u', 'p')", "CREATE TABLE x (a String) ENGINE = Executable('x', TSV)",
		"CREATE DATABASE x ENGINE = MySQL('127.0.0.1:1', 'd', 'u', 'p')", "CREATE DATABASE x ENGINE = Filesystem('/')",
		"CREATE VIEW x AS SELECT * FROM " + file, "CREATE MATERIALIZED VIEW x ENGINE = Memory AS SELECT * FROM " + file,
		"CREATE FUNCTION f AS (x) -> file(x)", "SELECT file('" + secret + "')",
		"CREATE DICTIONARY d (a UInt64, b String) PRIMARY KEY a SOURCE(FILE(path '" + secret + "' format 'TSV')) LAYOUT(FLAT()) LIFETIME(0)",
		"ATTACH TABLE x FROM '/tmp' (a String) ENGINE = MergeTree ORDER BY a", "BACKUP TABLE t TO File('" + secret + "')", "RESTORE TABLE t FROM File('" + secret + "')",
		"SELECT * FROM url('http://127.0.0.1:1/x', LineAsString)", "SELECT * FROM s3('http://127.0.0.1:1/x', LineAsString)", "SELECT * FROM remote('127.0.0.1:1', system.one)",
		"SELECT * FROM mysql('127.0.0.1:1', 'd', 't', 'u', 'p')", "SELECT * FROM executable('ls', LineAsString, 'a String')", "SELECT * FROM sqlite('" + secret + "', 't')",
		"SELECT * FROM merge('default', 't')", "SELECT * FROM cluster('default', system.one)", "SELECT * FROM filesystem('/')",
		"SELECT 1 SETTINGS engine_file_truncate_on_insert = 1", "SELECT 1 FORMAT Protobuf SETTINGS format_schema = '" + secret + ":X'",
		"SELECT 1; SELECT * FROM " + file,
		"SELECT 1 -- \nFROM " + file, "SELECT 1 # x\nFROM " + file,
		"CREATE NAMED COLLECTION c AS a = 1", "SELECT * FROM format(LineAsString, file('" + secret + "'))",
	} {
		if a := asOwner(t, e, query); a.status == 200 || strings.Contains(a.body, "TOPSECRET") {
			t.Errorf("%s: %d %.200s", query, a.status, a.body)
		}
		if a := post(t, e, query); a.status == 200 || strings.Contains(a.body, "TOPSECRET") {
			t.Errorf("without a credential: %s: %d %.200s", query, a.status, a.body)
		}
	}
	for _, setting := range []string{"engine_file_truncate_on_insert", "format_schema", "output_format_schema", "format_template_row", "s3_max_redirects"} {
		if a := asOwner(t, e, "SELECT 1", setting, "1"); a.status == 200 {
			t.Errorf("setting %s in the URL: %d %.200s", setting, a.status, a.body)
		}
	}
	if text, err := os.ReadFile(secret); err != nil || string(text) != "TOPSECRET\n" {
		t.Errorf("the file now holds %q, %v", text, err)
	}
}

// Without a credential tables can be read and nothing else; the guarded ones cannot.
func TestReadersOnlyRead(t *testing.T) {
	e := guardedEngine(t, nil)
	for _, query := range []string{
		"CREATE DATABASE d", "CREATE TABLE d.ticks (price Float64) ENGINE = MergeTree ORDER BY price", "INSERT INTO d.ticks VALUES (1)",
		"CREATE TABLE d.journal (request String) ENGINE = MergeTree ORDER BY request", "INSERT INTO d.journal VALUES ('TOPSECRET')",
		"CREATE TABLE d.control (who String) ENGINE = MergeTree ORDER BY who", "INSERT INTO d.control VALUES ('TOPSECRET')",
		"CREATE TABLE d.landed (control UInt64, journal UInt64) ENGINE = MergeTree ORDER BY control", "INSERT INTO d.landed VALUES (7, 8)",
	} {
		if a := asOwner(t, e, query); a.status != 200 {
			t.Fatalf("%s: %s", query, a.body)
		}
	}
	for query, want := range map[string]string{
		"SELECT price FROM ticks": "1\n", "SELECT count() FROM d.ticks WHERE price > 0": "1\n", "SELECT control, journal FROM landed": "7\t8\n",
		"SELECT l.control FROM landed AS l WHERE l.control = 7 ORDER BY control": "7\n", "SELECT sum(number) FROM numbers(3)": "3\n",
		"WITH x AS (SELECT price FROM ticks) SELECT * FROM x": "1\n", "EXISTS TABLE ticks": "1\n", "SELECT 'journal'": "journal\n",
		"SELECT 'FROM file(1)', formatReadableSize(1024)": "FROM file(1)\t1.00 KiB\n", "SELECT count() FROM ticks SETTINGS max_threads = 1": "1\n",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if a := call(t, method, address(e, "database", "d", "query", query), nil); a.body != want {
				t.Errorf("%s %s: %d %.200s", method, query, a.status, a.body)
			}
		}
	}
	if a := call(t, http.MethodPost, address(e, "database", "d"), strings.NewReader("SELECT count() FROM ticks"), "X-ClickHouse-User", "default"); a.body != "1\n" {
		t.Errorf("user default without a password: %d %s", a.status, a.body)
	}
	for _, query := range []string{
		"INSERT INTO ticks VALUES (2)", "INSERT INTO d.ticks SELECT 2", "CREATE TABLE evil (a Int8) ENGINE = Memory", "DROP TABLE ticks", "ALTER TABLE ticks DELETE WHERE 1", "TRUNCATE TABLE ticks",
		"OPTIMIZE TABLE ticks", "RENAME TABLE ticks TO x", "SET max_threads = 1", "USE default", "SYSTEM STOP MERGES", "KILL QUERY WHERE 1", "CREATE DATABASE evil",
		"SELECT * FROM journal", "SELECT * FROM d.journal", "SELECT * FROM `journal`", "SELECT * FROM \"d\".\"journal\"", "SELECT * FROM ticks, journal", "SELECT * FROM ticks, d.control AS c",
		"SELECT * FROM ticks JOIN control ON 1", "SELECT 1 WHERE 'TOPSECRET' IN (SELECT request FROM journal)", "SELECT 1 WHERE 'TOPSECRET' IN journal", "SELECT 'TOPSECRET' IN d.control",
		"WITH x AS (SELECT * FROM journal) SELECT * FROM x", "SELECT * FROM (SELECT * FROM control)", "DESCRIBE journal", "SHOW CREATE TABLE control", "EXPLAIN SELECT * FROM journal",
		"SELECT * FROM view(SELECT * FROM journal)", "SELECT (SELECT request FROM journal)", "SELECT * FROM merge('d', 'journal')", "SELECT * FROM loop(journal)",
		"SELECT * FROM mergeTreeIndex('d', 'journal')", "SELECT * FROM {t:Identifier}", "SELECT count() FROM numbers(1) SETTINGS max_execution_time = 0",
		"SELECT count() FROM numbers(1) SETTINGS max_threads = 1, max_memory_usage = 99999999999999", "SELECT 1 SETTINGS profile = 'x'",
	} {
		if a := post(t, e, query, "database", "d", "param_t", "journal"); a.status == 200 || strings.Contains(a.body, "TOPSECRET") {
			t.Errorf("%s: %d %.200s", query, a.status, a.body)
		}
	}
	for name, value := range map[string]string{"max_execution_time": "0", "max_memory_usage": "0", "allow_ddl": "1"} {
		if a := post(t, e, "SELECT 1", name, value); a.status == 200 {
			t.Errorf("setting %s=%s: %d %.200s", name, value, a.status, a.body)
		}
	}
	if a := asOwner(t, e, "SELECT (SELECT count() FROM d.ticks), (SELECT count() FROM d.journal)"); a.body != "1\t1\n" {
		t.Errorf("afterwards: %s", a.body)
	}
}

// The configured user and password are in force; a wrong one is refused, and where
// reading is not open nobody gets in without one.
func TestCredentials(t *testing.T) {
	closed := guardedEngine(t, func(c *EngineConfig) {
		c.User, c.Password, c.OpenReads = "trader", component.NewSecret("hunter2"), false
	})
	for _, tc := range []struct {
		name   string
		header []string
		want   int
	}{
		{"nobody", nil, 403}, {"default", []string{"X-ClickHouse-User", "default"}, 403}, {"a wrong password", []string{"X-ClickHouse-User", "trader", "X-ClickHouse-Key", "hunter3"}, 403},
		{"the configured one", []string{"X-ClickHouse-User", "trader", "X-ClickHouse-Key", "hunter2"}, 200}, {"the start's", ownerHeaders, 200},
		{"another user's password", []string{"X-ClickHouse-User", KeyUser, "X-ClickHouse-Key", "hunter2"}, 403},
	} {
		if a := call(t, http.MethodPost, closed.URL(), strings.NewReader("SELECT 1"), tc.header...); a.status != tc.want {
			t.Errorf("%s: %d %s", tc.name, a.status, a.body)
		}
	}
	open := guardedEngine(t, nil)
	if a := call(t, http.MethodPost, open.URL(), strings.NewReader("SELECT 1"), "X-ClickHouse-User", "default", "X-ClickHouse-Key", "guess"); a.status != 403 {
		t.Errorf("a wrong password where reading is open: %d %s", a.status, a.body)
	}
}

// Slow readers and those that never read hold neither the writer's connections nor
// their own for good.
func TestSlowReadersHoldNobodyUp(t *testing.T) {
	e := guardedEngine(t, func(c *EngineConfig) { c.MaxReaders = 4 })
	var slow sync.WaitGroup
	started := make(chan struct{}, 12)
	for range 12 { // three times as many as there are connections
		slow.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, e.URL(), strings.NewReader("SELECT number, repeat('x', 1000) FROM system.numbers LIMIT 5000000"))
			if err != nil {
				t.Error(err)
				return
			}
			started <- struct{}{}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return // refused, or the test is over
			}
			defer func() { _ = resp.Body.Close() }()
			r := bufio.NewReaderSize(resp.Body, 16)
			_, _ = r.ReadByte()
			<-t.Context().Done() // reads no more
		})
	}
	for range 12 {
		<-started
	}
	if a := asOwner(t, e, "CREATE TABLE w (a UInt64) ENGINE = MergeTree ORDER BY a"); a.status != 200 {
		t.Fatal(a.body)
	}
	waitFor(t, "the readers' connections to be taken", func() bool {
		return asOwner(t, e, "SELECT count() FROM system.processes WHERE query LIKE '%repeat%' AND query NOT LIKE '%processes%'").body == "4\n"
	})
	for i := range 50 {
		if a := asOwner(t, e, fmt.Sprintf("INSERT INTO w VALUES (%d)", i)); a.status != 200 {
			t.Fatalf("insert %d: %s", i, a.body)
		}
	}
	if a := asOwner(t, e, "SELECT count() FROM w"); a.body != "50\n" {
		t.Errorf("%s rows", a.body)
	}
}

// A client that hangs up ends its own statement only, also where another one runs under
// the same name.
func TestHangUpEndsOwnStatement(t *testing.T) {
	e := guardedEngine(t, nil)
	run := func(result chan<- int) func() {
		req, err := http.NewRequest(http.MethodPost, address(e, "log_comment", "dash"), strings.NewReader("SELECT count() FROM numbers(3000000000) WHERE NOT ignore(sipHash64(number))"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			resp, err := http.DefaultClient.Do(req.WithContext(ctx))
			if err != nil {
				result <- 0
				return
			}
			_ = resp.Body.Close()
			result <- resp.StatusCode
		}()
		return cancel
	}
	one, two := make(chan int, 1), make(chan int, 1)
	hangUp, end := run(one), run(two)
	defer end()
	running := func(n string) func() bool {
		return func() bool {
			return asOwner(t, e, "SELECT count() FROM system.processes WHERE startsWith(Settings['log_comment'], 'dash ')").body == n+"\n"
		}
	}
	waitFor(t, "both to run", running("2"))
	hangUp()
	<-one
	waitFor(t, "one to be gone", running("1"))
	select {
	case status := <-two:
		t.Errorf("the other statement ended with %d", status)
	default:
	}
}

// A child that hangs is replaced.
func TestHungChildIsReplaced(t *testing.T) {
	e := guardedEngine(t, nil)
	first := e.PID()
	if err := syscall.Kill(first, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for e.PID() == first || e.PID() == 0 {
		if time.Now().After(deadline) {
			t.Fatal("a hung child was not replaced within a minute")
		}
		time.Sleep(100 * time.Millisecond)
	}
	waitFor(t, "the new one to answer", func() bool { return asOwner(t, e, "SELECT 1").body == "1\n" })
}

// The child gets nothing of this process's environment that could be a secret.
func TestChildEnvironment(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "sk-secret")
	e := guardedEngine(t, nil)
	env := e.childEnvironment()
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", e.PID())); err == nil { // as the kernel has it
		env = strings.Split(string(text), "\x00")
	}
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		if strings.Contains(v, "sk-secret") || name == "HOME" || name == "PATH" {
			t.Errorf("the child has %s", name)
		}
	}
}

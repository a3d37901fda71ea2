package clickhouse

import (
	"fmt"
	"runtime"
	"testing"
	"time"
	"os"
	"unsafe"
	"strings"
)

func try(f func()) (r any) {
	defer func() { r = recover() }()
	f()
	return nil
}
func q(c *capi, conn unsafe.Pointer, s, f string) string {
	t := time.Now()
	r := c.queryWithParams(conn, strPtr(s), uintptr(len(s)), strPtr(f), uintptr(len(f)), nil, nil, nil, nil, 0)
	b, st, err := c.take(r, nil)
	d := time.Since(t)
	if len(b) > 600 { b = b[:600] }
	return fmt.Sprintf("[%s] %v\n%s\n  %+v err=%v", d.Round(10*time.Microsecond), s, b, st, err)
}
func TestExp(t *testing.T) {
	t0 := time.Now()
	c, err := loadCAPI("/tmp/chdb/x/package/libchdb.so")
	fmt.Println("load", time.Since(t0), err)
	t0 = time.Now()
	dir := t.TempDir()
	p, err := c.open([]string{"--path=" + dir})
	fmt.Println("open", time.Since(t0), err)
	conn := *(*unsafe.Pointer)(p)
	t0 = time.Now()
	p2, err := c.open([]string{"--path=" + dir})
	fmt.Println("open2", time.Since(t0), err)
	conn2 := *(*unsafe.Pointer)(p2)
	fmt.Println("recovered:", try(func() { var x *int; *x = 1 }), c.version())
	var s []string
	do := func(x, f string) { s = append(s, q(c, conn, x, f)) ; fmt.Println(s[len(s)-1]) }
	do("SELECT displayName(), version(), revision(), timezone()", "TSV")
	do("SELECT 1 FORMAT JSON", "")
	do("SELECT 1 FORMAT JSON", "CSV")
	do("SELECT 1", "JSON")
	do("SET max_threads=1, insert_deduplication_token='abc', async_insert=0", "TSV")
	do("SELECT getSetting('max_threads'), getSetting('insert_deduplication_token')", "TSV")
	do("SET max_threads=DEFAULT, insert_deduplication_token=DEFAULT", "TSV")
	do("SELECT getSetting('max_threads'), getSetting('insert_deduplication_token')", "TSV")
	do("SELECT 1; SELECT 2", "TSV")
	do("SELEC 1", "TSV")
	do("SELECT * FROM nope", "TSV")
	do("SET nope=1", "TSV")
	do("CREATE DATABASE d", "TSV")
	do("USE d", "TSV")
	do("SELECT currentDatabase()", "TSV")
	do("SET log_comment='qid1'", "TSV")
	do("SELECT query_id, query, Settings, user, client_name, interface FROM system.processes", "Vertical")
	do("SELECT name, value FROM system.server_settings WHERE name LIKE '%pool_size' OR name LIKE '%memory%'", "TSV")
	do("CREATE TABLE t (a UInt64, s String) ENGINE=MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window=100", "TSV")
	do("INSERT INTO t SELECT number, toString(number) FROM numbers(1000000)", "TSV")
	do("SELECT count(), sum(a) FROM t", "TSV")
	do("SELECT name FROM system.settings WHERE name LIKE '%query_id%' or name like '%http%'", "TSV")
	st, _ := os.ReadFile("/proc/self/status")
	for _, l := range strings.Split(string(st), "\n") { if strings.HasPrefix(l, "VmRSS") || strings.HasPrefix(l, "Threads") { fmt.Println(l) } }
	for _, f := range []string{"CSV", "JSON", "CSVWithNames", "JSONEachRow", "Native", "JSONCompact", "Pretty", "Parquet", "XML", "Vertical", "TSVWithNamesAndTypes", "RowBinaryWithNamesAndTypes", "ArrowStream"} {
		x := "SELECT a, s FROM t ORDER BY a LIMIT 200000"
		t0 := time.Now()
		r := c.streamWithParams(conn, strPtr(x), uintptr(len(x)), strPtr(f), uintptr(len(f)), nil, nil, nil, nil, 0)
		if e := c.resultError(r); e != "" { fmt.Println(f, e); c.destroyResult(r); continue }
		n, tot := 0, 0
		var heads []string
		for {
			b, stt, err := c.take(c.fetch(conn, r), nil)
			if err != nil { fmt.Println(f, err); break }
			if len(b) == 0 { fmt.Printf("end %+v\n", stt); break }
			n++; tot += len(b)
			if n < 3 { heads = append(heads, fmt.Sprintf("%.60q...%.40q", b, b[len(b)-min(40, len(b)):])) }
		}
		c.destroyResult(r)
		full, _, _ := c.take(c.queryWithParams(conn, strPtr(x), uintptr(len(x)), strPtr(f), uintptr(len(f)), nil, nil, nil, nil, 0), nil)
		fmt.Println(f, n, tot, len(full), time.Since(t0), heads)
	}
	for _, x := range []string{"SELECT 1", "INSERT INTO t VALUES (1,'a')", "INSERT INTO t", "SET a=1", "SHOW TABLES", "DESCRIBE t", "EXPLAIN SELECT 1", "EXISTS t", "CREATE TEMPORARY TABLE x (a Int8)", "OPTIMIZE TABLE t", "SELECT 1;", "SELECT 1; SELECT 2", "garbage x", "KILL QUERY WHERE 1", "SYSTEM FLUSH LOGS", "SELECT 1 INTO OUTFILE '/tmp/x'", "WITH 1 AS x SELECT x", "CHECK TABLE t", "USE d", "SHOW CREATE TABLE t", "SELECT * FROM file('/etc/passwd','LineAsString')", "BACKUP TABLE t TO File('x')"} {
		t0 := time.Now()
		cl, n := c.analyse(conn, x)
		fmt.Println(x, cl, n, time.Since(t0))
	}
	// insert stream
	ins := func(x, f, data string) {
		t0 := time.Now()
		h := c.insertWithParams(conn, strPtr(x), uintptr(len(x)), strPtr(f), uintptr(len(f)), nil, nil, nil, nil, 0)
		if e := c.insertError(h); e != "" { fmt.Println("INS", x, e); c.insertDestroy(h); return }
		rc := c.insertAppend(h, strPtr(data), uintptr(len(data)))
		b, stt, err := c.take(c.insertDone(h), nil)
		fmt.Println("INS", x, f, rc, string(b), stt, err, c.insertError(h), time.Since(t0))
		c.insertDestroy(h)
	}
	ins("INSERT INTO t (a, s)", "CSV", "1,a\n2,b\n")
	ins("INSERT INTO d.t (a, s) SETTINGS insert_deduplication_token='T1'", "JSONEachRow", `{"a":5,"s":"x"}`)
	ins("INSERT INTO d.t (a, s) SETTINGS insert_deduplication_token='T1'", "JSONEachRow", `{"a":5,"s":"x"}`)
	ins("INSERT INTO t (a, s)", "Values", "(1+1,concat('a','b')),(3, 'it''s; \\n')")
	ins("INSERT INTO t (a, s)", "CSV", "x,a\n2,b\n")
	ins("INSERT INTO nope (a, s)", "CSV", "x,a\n2,b\n")
	ins("INSERT INTO t", "CSV", "")
	// async kill
	go func() { fmt.Println("SLOW", q(c, conn2, "SELECT count() FROM numbers(100000000000) SETTINGS log_comment='slow1'", "TSV")) }()
	time.Sleep(500*time.Millisecond)
	do("SELECT query_id, Settings['log_comment'], query FROM system.processes", "TSV")
	do("KILL QUERY WHERE Settings['log_comment']='slow1' SYNC", "TSV")
	time.Sleep(300*time.Millisecond)
	fmt.Println("recovered:", try(func() { var x *int; *x = 1 }))
	runtime.GC()
	t0 = time.Now()
	c.closeConn(p2); fmt.Println("close2", time.Since(t0))
	c.closeConn(p); fmt.Println("close", time.Since(t0))
}

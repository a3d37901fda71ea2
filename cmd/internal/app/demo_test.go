package app_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// One folder's life: a demo that is looked at with every tool and ended with
// Ctrl-C, a second one that goes on, and one that begins anew.
func TestDemo(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	p := start(t, "demo", "--data", data, "--for", "10m", "--output", "json")
	p.ready()
	for _, table := range []string{"ticks", "quotes", "signals", "decisions"} {
		atLeast(t, data, 1, "SELECT count() FROM "+table)
	}
	t.Run("held", func(t *testing.T) { testHeld(t, data, p.pid()) })
	t.Run("tools", func(t *testing.T) { testTools(t, data) })
	t.Run("sessions", func(t *testing.T) { testSessions(t, data) })
	t.Run("http", func(t *testing.T) { testHTTP(t, p) })
	t.Run("kcat", func(t *testing.T) { testKcat(t, data) })

	begun := time.Now()
	p.signal(syscall.SIGINT)
	first := p.clean()
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("Ctrl-C took %s, want at most 20s", took)
	}
	if strings.Contains(p.err.String()+p.out.String(), "\x1b") {
		t.Error("escape sequences without a terminal")
	}
	p.says(`\d+s  ticks [\d,]+ \([\d,]+/s\)  feed age .*  signals \d+  decisions \d+ \(\d+ abstained\)  orders \d+  fills \d+  position .*  P&L .*  lag `)
	p.says(`stopping: draining`)
	ownerOnly(t, data)
	checkClosing(t, p.out.String())
	if first.Symbols < 4 || first.Venues != 2 || first.Signals == 0 || first.Decisions != first.Signals {
		t.Errorf("first run: %d symbols on %d venues, %d signals, %d decisions", first.Symbols, first.Venues, first.Signals, first.Decisions)
	}
	for table, n := range map[string]uint64{"ticks": first.Ticks, "quotes": first.Quotes, "signals": first.Signals, "decisions": first.Decisions, "fills": first.Fills} {
		if first.Rows[table] != n {
			t.Errorf("a fresh folder holds %d %s, its only run counts %d", first.Rows[table], table, n)
		}
	}

	p = start(t, "demo", "--data", data, "--for", "2s", "--output", "json")
	second := p.clean()
	for table, n := range map[string]uint64{"ticks": second.Ticks, "quotes": second.Quotes, "signals": second.Signals, "decisions": second.Decisions, "fills": second.Fills} {
		if second.Rows[table] != first.Rows[table]+n {
			t.Errorf("%s: %d rows after %d and a run of %d", table, second.Rows[table], first.Rows[table], n)
		}
	}
	if second.Ticks == 0 {
		t.Error("the second run has no ticks")
	}
	// Nothing runs now: the question starts the engine.
	out := succeed(t, "query", "--data", data, "--output", "json", "SELECT count() AS n FROM ticks")
	if got := queried(t, out); len(got) != 1 || got[0]["n"] != strconv.FormatUint(second.Rows["ticks"], 10) {
		t.Errorf("query answers %v, want %d", got, second.Rows["ticks"])
	}

	p = start(t, "demo", "--data", data, "--fresh", "--for", "2s")
	p.ended()
	text := p.out.String()
	m := regexp.MustCompile(`(?m)^  ticks +([\d,]+) of`).FindStringSubmatch(text)
	if m == nil || !strings.Contains(text, "ticks "+m[1]+",") && !strings.Contains(text, "ticks "+m[1]+"\n") {
		t.Errorf("a fresh folder holds other ticks than its only run:\n%s", text)
	}
	for _, want := range []string{"autohedge: closing summary (", "proof       lag 0, missing 0, duplicates 0, orders without their fills 0, P&L difference 0, differences from the simulator's ledger 0\n", "\n  data        " + data} {
		if !strings.Contains(text, want) {
			t.Errorf("the closing summary lacks %q:\n%s", want, text)
		}
	}
}

// checkClosing asserts every field of the closing object, with its type.
func checkClosing(t *testing.T, text string) {
	t.Helper()
	o := decode[map[string]any](t, text)
	decimal := regexp.MustCompile(`^-?\d+(\.\d+)?$`)
	whole := func(name string, v any) {
		n, ok := v.(json.Number)
		if !ok || !regexp.MustCompile(`^\d+$`).MatchString(n.String()) {
			t.Errorf("%s is %v, want a whole number", name, v)
		}
	}
	for _, f := range []string{"ticks", "quotes", "signals", "decisions", "orders", "fills", "lag", "missing", "duplicates", "sim_check", "unproven_orders"} {
		whole(f, o[f])
	}
	for _, f := range []string{"lag", "missing", "duplicates", "sim_check", "unproven_orders"} {
		if o[f] != json.Number("0") {
			t.Errorf("%s is %v, want 0", f, o[f])
		}
	}
	if o["pnl_check"] != "0" {
		t.Errorf("pnl_check is %v, want the text 0", o["pnl_check"])
	}
	rows, ok := o["rows"].(map[string]any)
	if !ok {
		t.Fatalf("rows is %v, want an object", o["rows"])
	}
	for _, table := range []string{"ticks", "quotes", "coverage", "signals", "journal", "decisions", "order_events", "fills", "positions", "control", "dead", "landed"} {
		whole("rows."+table, rows[table])
	}
	for _, f := range []string{"pnl", "position"} {
		m, ok := o[f].(map[string]any)
		if !ok {
			t.Errorf("%s is %v, want an object", f, o[f])
		}
		for k, v := range m {
			if s, ok := v.(string); !ok || !decimal.MatchString(s) {
				t.Errorf("%s of %s is %v, want a decimal as text", f, k, v)
			}
		}
	}
	if list, ok := o["errors"].([]any); !ok || len(list) > 0 {
		t.Errorf("errors is %v, want an empty list", o["errors"])
	}
}

// testHeld starts a second demo on a held folder: a clear error, and nothing lost.
func testHeld(t *testing.T, data string, pid int) {
	for _, args := range [][]string{{"demo", "--data", data}, {"demo", "--data", data, "--fresh"}} {
		out, stderr, code := run(t, args...)
		if code != 1 || !strings.Contains(stderr, fmt.Sprintf("is in use by process %d", pid)) || !strings.Contains(stderr, "--data") || out != "" {
			t.Errorf("%v: exit code %d, %s", args, code, stderr)
		}
	}
	if n := number(t, data, "SELECT count() FROM ticks"); n <= 0 {
		t.Errorf("%d ticks left", n)
	}
}

// testTools looks at a running demo.
func testTools(t *testing.T, data string) {
	type record struct {
		Topic, Key, Type, Time string
		Partition, Offset      *int64
		Event                  map[string]any
	}
	// A partition begins with its owner's epoch.
	var line record
	var out string
	for out = range strings.Lines(succeed(t, "tail", "signals", "--data", data, "--from", "start", "--follow=false")) {
		if line = decode[record](t, out); line.Type != "epoch" {
			break
		}
	}
	if line.Topic != "signals" || line.Type != "signal" || !strings.Contains(line.Key, "|") || line.Offset == nil || line.Event["Rule"] == nil && line.Event["rule"] == nil {
		t.Errorf("tail prints %s", out)
	}
	for _, topic := range []string{"md", "journal", "decisions", "positions"} {
		out = succeed(t, "tail", topic, "--data", data, "--from", "start", "--follow=false")
		if topic == "md" || topic == "decisions" {
			if out == "" {
				t.Errorf("tail %s prints nothing", topic)
			}
		}
		for l := range strings.Lines(out) {
			x := decode[map[string]any](t, l)
			if x["type"] == "unreadable" || x["event"] == nil {
				t.Fatalf("tail %s prints %s", topic, l)
			}
		}
	}
	out = succeed(t, "query", "--data", data, "SELECT venue, count() AS trades FROM ticks GROUP BY venue ORDER BY venue")
	if !regexp.MustCompile(`^venue +trades\n─+  ─+\nbinance +\d+\ncoinbase +\d+\n$`).MatchString(out) {
		t.Errorf("query prints\n%s", out)
	}
	// Numbers are numbers, with all their digits, and structures are structures.
	got := succeed(t, "query", "--data", data, "-o", "json", "SELECT 18446744073709551615 AS u, toDecimal128('0.123456789012345678', 18) AS d, NULL AS n, ['a', 'b'] AS list, 'x' AS s, nan AS f;")
	want := `[
  {"u": 18446744073709551615, "d": 0.123456789012345678, "n": null, "list": ["a","b"], "s": "x", "f": "nan"}
]
`
	if strings.ReplaceAll(got, `["a", "b"]`, `["a","b"]`) != want {
		t.Errorf("query answers\n%s\nwant\n%s", got, want)
	}
	if out := succeed(t, "query", "--data", data, "SELECT '\\x1b[31mred\\n' AS c"); strings.Contains(out, "\x1b") || !strings.Contains(out, `\x1b[31mred\n`) {
		t.Errorf("an escape sequence reaches the terminal: %q", out)
	}
	if _, stderr, code := run(t, "query", "--data", data, "SELEKT 1"); code != 1 || !strings.Contains(stderr, "yntax") {
		t.Errorf("a bad statement: exit code %d, %s", code, stderr)
	}
	lags := decode[[]struct {
		Group, Topic            string
		Partition               *int
		Committed, End, Records *int64
	}](t, succeed(t, "lag", "--data", data, "-o", "json"))
	groups := make(map[string]bool)
	for _, l := range lags {
		groups[l.Group] = true
		if l.Partition == nil || l.End == nil || l.Records == nil || *l.Records < 0 {
			t.Errorf("lag answers %+v", l)
		}
	}
	for _, g := range []string{"autohedge.sinks", "autohedge.signals", "autohedge.agents", "autohedge.execution"} {
		if !groups[g] {
			t.Errorf("lag says nothing of group %s, only of %v", g, groups)
		}
	}
	if out := succeed(t, "lag", "--data", data); !strings.HasPrefix(out, "GROUP ") || !strings.Contains(out, "autohedge.sinks") {
		t.Errorf("lag prints\n%s", out)
	}
}

// testHTTP looks at health and metrics.
func testHTTP(t *testing.T, p *process) {
	base := strings.TrimSuffix(p.says(`metrics=(http://\S+)/metrics`)[1], "/")
	get := func(path string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for _, path := range []string{"/livez", "/readyz", "/health"} {
		if code, body := get(path); code != http.StatusOK {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	code, body := get("/metrics")
	for _, name := range []string{"autohedge_stream_trades_total{", "autohedge_signals_published_total", "autohedge_agents_decisions_total", "autohedge_execution_kill_switch_active 0", "autohedge_sinks_rows_total", "autohedge_build_info"} {
		if code != http.StatusOK || !strings.Contains(body, name) {
			t.Errorf("/metrics: %d, no %s", code, name)
		}
	}
}

// testKcat reads a topic with another Kafka client, where it is installed.
func testKcat(t *testing.T, data string) {
	kcat, err := exec.LookPath("kcat")
	if err != nil {
		t.Log("kcat is not installed: .ci/interop.sh installs and runs it")
		return
	}
	// Without the credential kcat writes nothing, and reads all but what is private.
	conf := filepath.Join(data, "run", "kcat.conf")
	forge := exec.CommandContext(t.Context(), kcat, "-b", owner(t, data, "kafka"), "-P", "-t", "control", "-p", "0", "-X", "message.timeout.ms=5000")
	forge.Stdin = strings.NewReader("forged\n")
	if out, err := forge.CombinedOutput(); err == nil || !strings.Contains(string(out), "authorization failed") {
		t.Errorf("kcat without a credential wrote: %v, %s", err, out)
	}
	for _, open := range []bool{true, false} {
		args := []string{"-q", "-C", "-t", "journal", "-o", "beginning", "-e", "-f", "%S\n", "-X", "topic.metadata.refresh.interval.ms=200"}
		if open {
			args = append(args, "-F", conf)
		} else {
			args = append(args, "-b", owner(t, data, "kafka"))
		}
		out, err := exec.CommandContext(t.Context(), kcat, args...).CombinedOutput()
		if open != (err == nil) || !open && !strings.Contains(string(out), "authorization failed") {
			t.Errorf("kcat reads the journal, with the credential %t: %v, %.500s", open, err, out)
		}
	}
	list, err := exec.CommandContext(t.Context(), kcat, "-F", conf, "-L", "-J").Output()
	if err != nil {
		t.Fatalf("kcat -L: %v", err)
	}
	meta := decode[struct {
		Topics []struct {
			Topic      string
			Partitions []struct{ Partition int }
		}
	}](t, string(list))
	parts := make(map[string]int)
	for _, topic := range meta.Topics {
		parts[topic.Topic] = len(topic.Partitions)
	}
	for topic, n := range map[string]int{"md": 12, "signals": 12, "journal": 12, "decisions": 12, "orders": 12, "fills": 12, "positions": 12, "control": 1, "dead": 1, "instruments": 1, "meta": 1} {
		if parts[topic] != n {
			t.Errorf("kcat sees %d partitions of %s, want %d", parts[topic], topic, n)
		}
	}
	keys, err := exec.CommandContext(t.Context(), kcat, "-q", "-b", owner(t, data, "kafka"), "-C", "-t", "signals", "-o", "beginning", "-e", "-f", "%k %S\n").Output()
	if err != nil {
		t.Fatalf("kcat -C: %v", err)
	}
	signals, epochs := 0, 0
	for l := range strings.Lines(string(keys)) {
		switch {
		case regexp.MustCompile(`^(binance|coinbase)\|[A-Z-]+ [1-9]\d*\n$`).MatchString(l):
			signals++
		case regexp.MustCompile(`^signals\.\d+ [1-9]\d*\n$`).MatchString(l): // each owner's partitions begin with its epoch
			epochs++
		default:
			t.Errorf("kcat reads %q, want key and size", l)
		}
	}
	if signals == 0 || epochs == 0 {
		t.Errorf("kcat reads %d signals and %d epochs of their owners", signals, epochs)
	}
}

// testSessions lists and drops a session, beside the running demo.
func testSessions(t *testing.T, data string) {
	if got := succeed(t, "session", "list", "--data", data, "-o", "json"); strings.TrimSpace(got) != "[]" {
		t.Errorf("sessions of a folder without one: %s", got)
	}
	if _, stderr, code := run(t, "session", "drop", "r9", "--data", data); code != 1 || !strings.Contains(stderr, `there is no session "r9"`) {
		t.Errorf("dropping what is not there: exit code %d, %s", code, stderr)
	}
	if _, stderr, code := run(t, "tail", "md", "--session", "r9", "--data", data); code != 1 || !strings.Contains(stderr, `there is no session "r9"`) {
		t.Errorf("reading what is not there: exit code %d, %s", code, stderr)
	}
}

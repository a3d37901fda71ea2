package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/autohedge/autohedge/cmd/internal/app"
	"github.com/autohedge/autohedge/cmd/internal/config"
	"github.com/autohedge/autohedge/cmd/internal/folder"
	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// TestMain makes the test binary the command `autohedge` too, found on the PATH:
// tests run real processes, which can be killed.
func TestMain(m *testing.M) {
	clickhouse.RunChildIfAsked()
	bus.RunEmbeddedIfAsked()
	if filepath.Base(os.Args[0]) != "autohedge" {
		flag.Parse()
		// These tests mostly wait for processes of their own.
		if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue && !raceEnabled {
			if err := f.Value.Set("4"); err != nil {
				panic(err)
			}
		}
	}
	testscript.Main(m, map[string]func(){
		"autohedge": func() { os.Exit(app.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// patience bounds every wait: far beyond what a loaded machine needs.
const patience = 90 * time.Second

// buffer is an output that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// process is a running autohedge.
type process struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, err buffer
	done     chan struct{}
}

// library is there before the first process waits for it, whose patience would not
// do where the cache is empty and unpacking is slow, as under the race detector.
var library = sync.OnceValue(func() error {
	_, err := clickhouse.FindLibrary(context.Background(), os.Stderr)
	return err
})

// start runs autohedge until it ends, is killed, or the test ends.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	if err := library(); err != nil {
		t.Logf("there is no ClickHouse library: %v", err) // the process says it too
	}
	p := &process{t: t, cmd: exec.Command("autohedge", args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	// A child of it that lives longer must not hold the pipes.
	p.cmd.WaitDelay = 5 * time.Second
	p.cmd.Dir = t.TempDir()
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("starting autohedge: %v", err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the tests look at ProcessState
	}()
	t.Cleanup(func() {
		select {
		case <-p.done:
		default:
			p.kill()
		}
		if t.Failed() {
			t.Logf("autohedge %s (%v)\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), p.cmd.ProcessState, lastOf(p.out.String()), lastOf(p.err.String()))
		}
	})
	return p
}

// lastOf is the end of a text, where the news is.
func lastOf(s string) string {
	const n = 4000
	if len(s) <= n {
		return s
	}
	return "[...]" + s[len(s)-n:]
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends the process as a power switch would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("sending %v: %v", s, err)
	}
}

// pause stops the process, every thread of it, until SIGCONT.
func (p *process) pause() {
	p.t.Helper()
	p.signal(syscall.SIGSTOP)
	until(p.t, "the process stands still", func() bool {
		out, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(p.cmd.Process.Pid)).Output()
		if err != nil {
			p.t.Fatalf("asking for the state of a process: %v", err)
		}
		return strings.HasPrefix(strings.TrimSpace(string(out)), "T")
	})
}

// wait returns the exit code.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.kill()
		p.t.Fatalf("autohedge did not end within %s", patience)
	}
	return p.cmd.ProcessState.ExitCode()
}

// ended asserts a clean end.
func (p *process) ended() {
	p.t.Helper()
	if code := p.wait(); code != 0 {
		p.t.Fatalf("exit code %d, want 0", code)
	}
}

// ready waits until the roles run.
func (p *process) ready() {
	p.t.Helper()
	p.says(`msg=ready `)
}

// says waits until stderr or stdout matches, and returns the submatches.
func (p *process) says(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	var m []string
	until(p.t, "autohedge says "+pattern, func() bool {
		if m = re.FindStringSubmatch(p.err.String()); m == nil {
			m = re.FindStringSubmatch(p.out.String())
		}
		if m == nil {
			select {
			case <-p.done:
				p.t.Fatalf("autohedge ended (%v) before it said %s", p.cmd.ProcessState, pattern)
			default:
			}
		}
		return m != nil
	})
	return m
}

// until polls.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain until %s", patience, what)
		}
	}
}

// run runs autohedge to its end.
func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	p := start(t, args...)
	code = p.wait()
	return p.out.String(), p.err.String(), code
}

// succeed runs autohedge to its good end and returns its stdout.
func succeed(t *testing.T, args ...string) string {
	t.Helper()
	out, _, code := run(t, args...)
	if code != 0 {
		t.Fatalf("autohedge %s: exit code %d", strings.Join(args, " "), code)
	}
	return out
}

// decode reads the one JSON value that a command prints.
// queried returns the rows of a query's JSON, each value as its JSON writes it.
func queried(t *testing.T, text string) []map[string]string {
	t.Helper()
	var rows []map[string]string
	for _, r := range decode[[]map[string]any](t, text) {
		row := make(map[string]string, len(r))
		for name, v := range r {
			row[name] = fmt.Sprint(v)
		}
		rows = append(rows, row)
	}
	return rows
}

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("decoding %q: %v", text, err)
	}
	if _, err := d.Token(); err != io.EOF {
		t.Fatalf("more than one JSON value in %q", text)
	}
	return v
}

// owner returns the address of a part's live owner.
func owner(t *testing.T, data, part string) string {
	t.Helper()
	return announced(t, data, part).Addr
}

// announced is what the owner of a part of the folder announced; empty while it has none.
func announced(t *testing.T, data, part string) folder.Announcement {
	t.Helper()
	f, err := folder.Open(data)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := f.Owner(part)
	return a
}

// loggedIn changes a configuration, and its text, to log in at the broker of an
// announcement: a text hides passwords.
func loggedIn(a folder.Announcement, change func(*config.Config)) string {
	text := unhurried(func(c *config.Config) {
		c.Kafka.Brokers, c.Kafka.SASL, c.Kafka.User = []string{a.Addr}, "scram-sha-256", a.User
		change(c)
	})
	return strings.Replace(text, "  # SASL password\n  password: \"\"", "  password: \""+a.Password+"\"", 1)
}

// kafkaConfig reaches the folder's broker with its credential.
func kafkaConfig(t *testing.T, data string) bus.Config {
	t.Helper()
	a := announced(t, data, "kafka")
	if a.Password == "" {
		t.Fatalf("the broker of %s announces no credential: %+v", data, a)
	}
	cfg := bus.DefaultConfig()
	cfg.Brokers, cfg.SASL, cfg.User, cfg.Password = []string{a.Addr}, "scram-sha-256", a.User, component.NewSecret(a.Password)
	return cfg
}

// credential is that of a part of the folder, as its owner's tools find it.
func credential(t *testing.T, data, part string) (user, password string) {
	t.Helper()
	f, err := folder.Open(data)
	if err != nil {
		t.Fatal(err)
	}
	a, ok := f.Owner(part)
	if !ok {
		t.Fatalf("nobody runs %s", part)
	}
	return a.User, a.Password
}

// ask sends SQL to the folder's ClickHouse over plain HTTP, as curl would;
// an answer of one cell. It returns "" while nothing answers.
func ask(t *testing.T, data, sql string) string {
	t.Helper()
	base := owner(t, data, "clickhouse")
	if base == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/?database=autohedge&query="+url.QueryEscape(sql), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return ""
	}
	return strings.TrimSpace(string(body))
}

// number is ask for a count; -1 while nothing answers.
func number(t *testing.T, data, sql string) int {
	t.Helper()
	n, err := strconv.Atoi(ask(t, data, sql))
	if err != nil {
		return -1
	}
	return n
}

// atLeast waits until the answer to a count is n or more, and returns it.
func atLeast(t *testing.T, data string, n int, sql string) int {
	t.Helper()
	have := 0
	until(t, fmt.Sprintf("%q answers %d or more", sql, n), func() bool { have = number(t, data, sql); return have >= n })
	return have
}

// closing is the closing object of a demo; its exact shape is TestClosingObject's.
type closing struct {
	Ticks, Quotes, Signals, Decisions, Orders, Fills, Symbols, Venues uint64
	Rows                                                              map[string]uint64
	Lag, Missing, Duplicates                                          *int64
	SimCheck                                                          *uint64                                              `json:"sim_check"`
	PnLCheck                                                          string                                               `json:"pnl_check"`
	Actions                                                           map[string]uint64                                    `json:"decisions_by_action"`
	Frames                                                            map[string]struct{ Read, Published, Refused uint64 } `json:"frames"`
	Hashes                                                            map[string]string
	Session                                                           string
	Errors                                                            []string
}

// clean decodes the closing object of a demo that ended well and asserts what
// holds after every clean end.
func (p *process) clean() closing {
	p.t.Helper()
	p.ended()
	c := decode[closing](p.t, p.out.String())
	zero := func(n *int64) bool { return n != nil && *n == 0 }
	if !zero(c.Lag) || !zero(c.Missing) || !zero(c.Duplicates) || c.PnLCheck != "0" || c.Errors == nil || len(c.Errors) > 0 {
		p.t.Errorf("the run did not end clean: %s", p.out.String())
	}
	if c.Session == "" && c.SimCheck != nil && *c.SimCheck != 0 {
		p.t.Errorf("sim_check %d, want 0", *c.SimCheck)
	}
	return c
}

// unhurried is a configuration in which nothing grows too old to be traded on:
// what is tested is the way, not the speed of the machine. change may be nil.
func unhurried(change func(*config.Config)) string {
	c := config.Default()
	c.HTTP.Listen, c.Kafka.Partitions = "off", 4 // fewer are quicker
	for i := range c.Signals.Rules {
		c.Signals.Rules[i].TTL, c.Signals.Rules[i].MaxDriftBps = 2*time.Minute, event.MustDecimal("500")
	}
	c.Agents.Quote.MaxAge, c.Agents.Quote.MaxEventAge = 0, 0
	c.Agents.Policy.EdgeBps = 60 // every good signal is traded, not a probe now and then
	l := &c.Execution.Accounts[0].Limits
	l.MaxQuoteAge, l.MaxDecisionAge, l.MaxDriftBps, l.CollarBps = 2*time.Minute, 2*time.Minute, event.MustDecimal("500"), event.MustDecimal("500")
	if change != nil {
		change(&c)
	}
	return config.Sample(c)
}

// write puts a file into a folder and returns its path.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

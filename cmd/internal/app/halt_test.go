package app_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

type haltReport struct {
	Halts []struct {
		Scope, Who, Why, Source string
		Time                    int64
	}
	Engine, File, Control bool
	Warnings              []string
}

// A halt stops orders at once, outlives the engine and --fresh, and ends only
// with a resume.
func TestHaltAcrossRestarts(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	config := write(t, data, "autohedge.yaml", unhurried(nil))
	submitted := func(after int64) string {
		return fmt.Sprintf("SELECT count() FROM order_events WHERE state = 'submitting' AND time > fromUnixTimestamp64Nano(%d)", after)
	}
	refused := func(after int64) string {
		return fmt.Sprintf("SELECT count() FROM order_events WHERE state = 'risk_rejected' AND reason = 'kill_switch' AND time > fromUnixTimestamp64Nano(%d)", after)
	}
	status := func() haltReport {
		t.Helper()
		return decode[haltReport](t, succeed(t, "halt", "--status", "--data", data, "-o", "json"))
	}

	p := start(t, "demo", "--config", config, "--data", data, "--rate", "500", "--for", "10m", "--output", "json")
	p.ready()
	atLeast(t, data, 1, submitted(0))
	if s := status(); len(s.Halts) != 0 || !s.Engine {
		t.Errorf("before any halt: %+v", s)
	}
	r := decode[haltReport](t, succeed(t, "halt", "--stop", "--data", data, "--who", "ann", "--why", "drill", "-o", "json"))
	halted := time.Now().UnixNano() // nothing is sent once halt has returned
	if !r.Engine || !r.File || !r.Control || len(r.Halts) == 0 || r.Halts[0].Who != "ann" || r.Halts[0].Why != "drill" || len(r.Warnings) > 0 {
		t.Errorf("halt: %+v", r)
	}
	atLeast(t, data, 1, refused(halted))
	p.signal(syscall.SIGTERM)
	p.clean()

	// Nothing runs: the file says so.
	if out := succeed(t, "halt", "--status", "--data", data); !strings.Contains(out, "halted: all by ann: drill (nothing is sent, since 20") || !strings.Contains(out, "Z, file)") {
		t.Errorf("status without an engine: %s", out)
	}
	if _, stderr, code := run(t, "resume", "--data", data, "--why", "nobody is there"); code == 0 || !strings.Contains(stderr, "neither a running engine nor control can be reached") {
		t.Errorf("resume without an engine: exit code %d, %s", code, stderr)
	}

	p = start(t, "demo", "--config", config, "--data", data, "--rate", "500", "--for", "10m", "--output", "json")
	p.ready()
	restarted := time.Now().UnixNano()
	if s := status(); !s.Engine || len(s.Halts) == 0 || s.Halts[0].Why != "drill" {
		t.Errorf("after the restart: %+v", s)
	}
	p.says(`P&L .* lag .*HALTED`)
	atLeast(t, data, 1, refused(restarted))
	if n := number(t, data, submitted(halted)); n != 0 {
		t.Errorf("%d orders were sent after the halt", n)
	}
	if out := succeed(t, "resume", "--data", data, "--who", "ann", "--why", "drill over"); out != "nothing is halted\n" {
		t.Errorf("resume prints %q", out)
	}
	resumed := time.Now().UnixNano()
	atLeast(t, data, 1, submitted(resumed))

	// One symbol only.
	if out := succeed(t, "halt", "--data", data, "--scope", "symbol:BTCUSDT", "--why", "listing"); !strings.Contains(out, "halted: symbol:BTCUSDT by ") {
		t.Errorf("halt of a symbol prints %q", out)
	}
	if out := succeed(t, "tail", "control", "--data", data, "--from", "start", "--follow=false"); strings.Count(out, `"kind":"halt"`) != 2 || strings.Count(out, `"kind":"resume"`) != 1 || !strings.Contains(out, "drill over") {
		t.Errorf("control holds\n%s", out)
	}
	p.signal(syscall.SIGINT)
	p.clean()
}

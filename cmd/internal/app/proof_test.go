package app_test

import (
	"strings"
	"syscall"
	"testing"
)

// The proofs of the closing object can fail: each kind of damage to what has
// landed is seen by the check that guards against it, and the run fails.
func TestProofsSeeDamage(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	file := write(t, t.TempDir(), "autohedge.yaml", unhurried(nil))
	p := start(t, "demo", "--config", file, "--data", data, "--for", "10m", "--output", "json")
	p.ready()
	atLeast(t, data, 1, "SELECT count() FROM fills")
	atLeast(t, data, 2000, "SELECT count() FROM ticks")
	p.signal(syscall.SIGINT)
	p.clean()

	for _, sql := range []string{
		"ALTER TABLE ticks UPDATE price_exact = price_exact + 1 WHERE trade_id % 100 = 7 SETTINGS mutations_sync = 2",                   // sim_check
		"ALTER TABLE quotes DELETE WHERE sequence % 100 = 7 SETTINGS mutations_sync = 2",                                                // missing
		"INSERT INTO coverage SELECT * FROM coverage LIMIT 1",                                                                           // duplicates
		"ALTER TABLE fills UPDATE fee_quote = fee_quote + toDecimal128('0.000000000000000001', 18) WHERE 1 SETTINGS mutations_sync = 2", // pnl_check
		"ALTER TABLE fills DELETE WHERE client_order_id = (SELECT any(client_order_id) FROM fills) SETTINGS mutations_sync = 2",         // unproven_orders
	} {
		succeed(t, "query", "--data", data, sql)
	}
	stdout, stderr, code := run(t, "demo", "--config", file, "--data", data, "--for", "1s", "--output", "json")
	c := decode[struct {
		SimCheck   uint64   `json:"sim_check"`
		Missing    int64    `json:"missing"`
		Duplicates int64    `json:"duplicates"`
		PnLCheck   string   `json:"pnl_check"`
		Unproven   uint64   `json:"unproven_orders"`
		Errors     []string `json:"errors"`
	}](t, stdout)
	if c.SimCheck == 0 || c.Missing == 0 || c.Duplicates != 1 || c.PnLCheck == "0" || c.Unproven != 1 || len(c.Errors) < 4 {
		t.Errorf("the damage does not show: %+v", c)
	}
	if code != 1 || !strings.Contains(stderr, "the run had errors") {
		t.Errorf("exit code %d, saying %s", code, lastOf(stderr))
	}
}

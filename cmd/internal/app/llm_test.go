package app_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/autohedge/autohedge/agents/llm/llmtest"
	"github.com/autohedge/autohedge/cmd/internal/config"
)

// A desk behind an HTTP endpoint: its decisions trade and its exchanges stand in
// the journal as bytes; once the endpoint answers badly, nothing trades.
func TestModelDesk(t *testing.T) {
	t.Parallel()
	var bad atomic.Bool
	good := llmtest.Desk(nil)
	server := llmtest.Start(t, func(c llmtest.Call) llmtest.Reply {
		if !bad.Load() {
			return good(c)
		}
		switch c.N % 4 {
		case 0:
			return llmtest.Error(http.StatusInternalServerError, "server_error", "try later")
		case 1:
			return llmtest.Answer("The market looks good, buy everything!")
		case 2:
			return llmtest.Reply{Body: "<html>not the wire</html>"}
		}
		return llmtest.Refusal("I may not say")
	})
	data := t.TempDir()
	text := unhurried(func(c *config.Config) {
		c.Agents.Desk, c.Agents.LLM.BaseURL, c.Agents.LLM.Model = "llm", server.URL, "test-model"
	})
	file := write(t, data, "autohedge.yaml", strings.Replace(text, `api_key: ""`, "api_key: sk-test-not-to-be-seen", 1))
	p := start(t, "demo", "--config", file, "--data", data, "--rate", "500", "--for", "10m", "--output", "json")
	p.ready()
	atLeast(t, data, 3, "SELECT uniqExact(client_order_id) FROM order_events")

	bad.Store(true)
	turned := time.Now().Add(time.Second).UnixNano() // what was asked before is answered by then
	after := func(column string) string {
		return fmt.Sprintf(" AND %s > fromUnixTimestamp64Nano(%d)", column, turned)
	}
	atLeast(t, data, 8, "SELECT count() FROM decisions WHERE action = 'abstain'"+after("started_at"))
	p.signal(syscall.SIGINT)
	c := p.clean()
	if c.Decisions != c.Signals {
		t.Errorf("%d decisions on %d signals", c.Decisions, c.Signals)
	}

	one := func(sql string) map[string]string {
		t.Helper()
		rows := queried(t, succeed(t, "query", "--data", data, "-o", "json", sql))
		if len(rows) != 1 {
			t.Fatalf("%s: %v", sql, rows)
		}
		return rows[0]
	}
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	got := one(fmt.Sprintf(`SELECT
		(SELECT count() FROM decisions WHERE desk != '%[1]s' AND NOT %[3]s) AS strangers,
		(SELECT count() FROM decisions WHERE action != 'abstain' AND NOT %[3]s %[2]s) AS acted,
		(SELECT uniqExact(reason) FROM decisions WHERE action = 'abstain' %[2]s) AS reasons,
		(SELECT count() FROM order_events WHERE decision_id IN (SELECT event_id FROM decisions WHERE action = 'abstain')) AS orders,
		(SELECT count() FROM order_events WHERE decision_id IN (SELECT event_id FROM decisions WHERE NOT %[3]s %[2]s)) AS late_orders,
		(SELECT count() FROM fills) AS fills`, u.Host, after("started_at"),
		// A signal against a position is carried out by the rules, which close it.
		"(action = 'flat' AND reason = 'model_failed' AND desk = 'deterministic')"))
	if got["strangers"] != "0" || got["acted"] != "0" || got["orders"] != "0" || got["late_orders"] != "0" || got["fills"] == "0" || len(got["reasons"]) != 1 || got["reasons"] < "2" {
		t.Errorf("decisions and orders: %v", got)
	}
	// The journal holds what went over the wire, byte by byte.
	got = one(`SELECT count() AS calls, countIf(outcome = 'ok') AS good, countIf(status = 500) AS failed, countIf(outcome = 'refusal') AS refused,
		countIf(response = '<html>not the wire</html>') AS garbage, countIf(position(request, 'json_schema') = 0) AS bare,
		countIf(position(concat(request, response, error), 'sk-test') > 0) AS leaked, countIf(attempt > 1) AS again,
		(SELECT count() FROM decisions) - (SELECT countIf(kind = 'verdict') FROM journal) AS unjournalled
		FROM journal WHERE kind = 'model_call'`)
	if got["calls"] != fmt.Sprint(len(server.Calls())) || got["good"] == "0" || got["failed"] == "0" || got["refused"] == "0" || got["garbage"] == "0" ||
		got["bare"] != "0" || got["leaked"] != "0" || got["again"] != "0" || got["unjournalled"] != "0" {
		t.Errorf("journal, of %d calls: %v", len(server.Calls()), got)
	}
	calls := server.Calls()
	row := one("SELECT base64Encode(request) AS request FROM journal WHERE kind = 'model_call' ORDER BY time, event_id LIMIT 1")
	found := false
	for _, c := range calls {
		found = found || row["request"] == base64.StdEncoding.EncodeToString(c.Body)
	}
	if !found {
		t.Errorf("the journal's first request is none of those that were sent")
	}
	for _, c := range calls {
		if !c.Strict || c.Model != "test-model" || c.Header.Get("Authorization") != "Bearer sk-test-not-to-be-seen" {
			t.Fatalf("asked for %q of %q, strict %v", c.Name, c.Model, c.Strict)
		}
	}
}

package app_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
)

// topicState is what topics prints of one topic as JSON.
type topicState struct {
	Topic, Name          string
	Missing              bool
	Partitions, Replicas int
	Records, Bytes       *int64
	Settings             map[string]string
	Wrong                []struct{ Setting, Value, Want, Why, Mend string }
}

// topics shows, refuses and repairs, against the broker of `autohedge kafka`.
func TestTopicsAreShownAndRepaired(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	p := start(t, "kafka", "--data", data)
	p.says(`kafka listens on (127\.0\.0\.1:\d+)`)

	out, stderr, code := run(t, "topics", "--data", data)
	if code != 1 || !strings.Contains(out, "missing: the engine creates it") || !strings.Contains(stderr, "topics are not as they must be: md,") {
		t.Fatalf("without topics: exit code %d\n%s%s", code, out, stderr)
	}
	cfg := kafkaConfig(t, data)
	client, err := bus.Connect(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	if err := client.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	out = succeed(t, "topics", "--data", data)
	if !strings.HasPrefix(out, "TOPIC ") || !strings.Contains(out, "168h, 8 GiB a partition") || !strings.Contains(out, "newest of each key") || strings.Count(out, " good\n") == 0 {
		t.Errorf("topics prints\n%s", out)
	}
	states := decode[[]topicState](t, succeed(t, "topics", "--data", data, "-o", "json"))
	for _, s := range states {
		if s.Missing || s.Partitions == 0 || s.Replicas != 1 || s.Records == nil || s.Bytes == nil || *s.Records < 0 || *s.Bytes < 0 || len(s.Wrong) > 0 || s.Settings["cleanup.policy"] == "" {
			t.Errorf("topics answers %+v", s)
		}
	}

	// The configuration now asks for more.
	file := filepath.Join(t.TempDir(), "autohedge.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "kafka: {brokers: [%q], sasl: scram-sha-256, user: %s, password: %s, retention: 240h}\n",
		cfg.Brokers[0], cfg.User, cfg.Password.Reveal()), 0o600); err != nil {
		t.Fatal(err)
	}
	out, stderr, code = run(t, "topics", "--config", file)
	for _, text := range []string{
		"md: retention.ms is 604800000 (7d), set for the topic; want 864000000 (10d) (kafka.retention) or more: records go before a reader that lags has read them\n",
		"mend with: autohedge topics repair --yes --config " + file,
	} {
		if code != 1 || !strings.Contains(out, text) {
			t.Errorf("exit code %d, no %q in\n%s%s", code, text, out, stderr)
		}
	}
	_, stderr, code = run(t, "run", "--roles", "stream", "--config", file, "--data", t.TempDir())
	if code != 4 || !strings.Contains(stderr, "md: retention.ms is 604800000 (7d)") || !strings.Contains(stderr, "`autohedge topics repair --config FILE --yes`") {
		t.Errorf("the engine started, or did not say why: exit code %d, %s", code, stderr)
	}
	plan := succeed(t, "topics", "repair", "--config", file)
	if !strings.Contains(plan, "md: retention.ms: 604800000 (7d) -> 864000000 (10d)\n") || !strings.Contains(plan, "nothing was changed: do it with autohedge topics repair --yes --config "+file) {
		t.Errorf("the plan is\n%s", plan)
	}
	if _, _, code := run(t, "topics", "--config", file); code != 1 {
		t.Errorf("after the plan: exit code %d", code)
	}
	done := decode[struct {
		Applied bool
		Changes []struct{ Topic, Setting, Before, After string }
		Left    []any
	}](t, succeed(t, "topics", "repair", "--yes", "--config", file, "-o", "json"))
	if !done.Applied || len(done.Changes) == 0 || len(done.Left) > 0 || done.Changes[0].After != "864000000" {
		t.Errorf("the repair answers %+v", done)
	}
	if out := succeed(t, "topics", "repair", "--yes", "--config", file); out != "nothing to mend\n" {
		t.Errorf("the second repair prints\n%s", out)
	}
	succeed(t, "topics", "--config", file)
}

package app_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
)

// What `topics` calls good every start accepts, and what a start refuses `topics` names.
// One adopt, or discard, takes effect at once, also after five processes that first
// started together.
func TestTopicsAreJudgedAsByAStart(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	p := start(t, "kafka", "--data", data)
	p.says(`kafka listens on (127\.0\.0\.1:\d+)`)
	cfg := kafkaConfig(t, data)
	begin := func() error {
		client, err := bus.Connect(t.Context(), cfg, component.Discard())
		if err != nil {
			return err
		}
		defer func() { _ = client.Close() }()
		return client.EnsureTopics(t.Context())
	}
	var starters sync.WaitGroup
	for range 5 {
		starters.Go(func() {
			if err := begin(); err != nil {
				t.Error(err)
			}
		})
	}
	starters.Wait()
	succeed(t, "topics", "--data", data)

	admin := bustest.DialAs(t, cfg.User, cfg.Password.Reveal(), cfg.Brokers...)
	for _, command := range []string{"adopt", "discard"} {
		for _, again := range []bool{false, true} {
			admin.DeleteTopics(t, "signals")
			status := "deleted"
			if again {
				admin.CreateTopic(t, "signals", bus.NewPartitions, nil)
				status = "recreated"
			}
			out, _, code := run(t, "topics", "--data", data)
			if code != 1 || !strings.Contains(out, status) || !strings.Contains(out, "autohedge topics adopt signals") {
				t.Errorf("a topic that is %s: exit code %d\n%s", status, code, out)
			}
			if begin() == nil {
				t.Errorf("a start accepts a topic that is %s", status)
			}
			out = succeed(t, "topics", command, "signals", "--why", "test", "--yes", "--data", data)
			if err := begin(); err != nil {
				t.Errorf("after one %s: %v", command, err)
			}
			if again {
				succeed(t, "topics", "repair", "--yes", "--data", data) // the other program's settings
			}
			if left := succeed(t, "topics", "--data", data); strings.Contains(left, status) {
				t.Errorf("after one %s: %s\n%s", command, out, left)
			}
		}
	}
}

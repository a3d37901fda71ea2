package signals

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
)

// TestGoldenFolder starts the role on the data folder of an earlier build: it goes
// on from that build's snapshots, whose rules are still the default ones, publishes
// nothing that is there, and saves snapshots of its own, from which an edited set of
// rules goes on.
func TestGoldenFolder(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir := bustest.UnpackFolder(t, "../cmd/internal/app/testdata/golden/f028329.tar.gz")
	broker, err := bus.StartEmbedded(ctx, bus.EmbeddedConfig{Addr: "127.0.0.1:0", Dir: filepath.Join(dir, "kafka"), Partitions: 4}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := broker.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg := bus.DefaultConfig()
	cfg.Brokers = []string{broker.Addr()}
	cfg.Partitions = 4
	client, err := bus.Connect(ctx, cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := client.EnsureTopics(ctx); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, cfg: cfg, client: client}
	before := len(c.published())
	if before == 0 {
		t.Fatal("the folder has no signals: the test shows nothing")
	}
	edited := DefaultConfig()
	edited.Rules[0].Horizon *= 2
	for i, cfg := range []Config{DefaultConfig(), edited} {
		var text bytes.Buffer
		role, err := New(cfg, client, component.Env{Log: slog.New(slog.NewJSONHandler(&text, nil)), Metrics: component.Discard().Metrics, Clock: component.Discard().Clock})
		if err != nil {
			t.Fatal(err)
		}
		run, cancel := context.WithCancel(ctx)
		r := &running{t, role, cancel, make(chan error, 1)}
		go func() { r.err <- role.Run(run) }()
		r.ready()
		r.drain()
		log := text.String()
		if n := strings.Count(log, `"from":"snapshot"`); n != 4 || strings.Contains(log, `"level":"WARN"`) || strings.Contains(log, `"level":"ERROR"`) {
			t.Errorf("run %d: %d of 4 partitions go on from a snapshot:\n%s", i, n, log)
		}
		if edit := strings.Contains(log, `"keep_state":["ema-dip"]`); edit != (i == 1) {
			t.Errorf("run %d: the log tells of an edit: %v\n%s", i, edit, log)
		}
		if n := len(c.published()); n != before {
			t.Errorf("run %d: %d signals, there were %d", i, n, before)
		}
	}
}

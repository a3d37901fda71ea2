package app_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/autohedge/autohedge/cmd/internal/app"
	"github.com/autohedge/autohedge/cmd/internal/config"
)

// A data folder holds a simulated market or a real one, whichever command it was
// used with; json feeds are neither.
func TestMarketsDoNotMix(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	live := write("live.yaml", "kafka: {brokers: ['127.0.0.1:1']}\n")
	sim := write("sim.yaml", "kafka: {brokers: ['127.0.0.1:1']}\nstream:\n  feeds: [{venue: binance, url: 'ws://127.0.0.1:1/binance/stream', symbols: [BTCUSDT]}]\n")
	both := write("both.yaml", "stream:\n  feeds:\n    - {venue: binance, url: 'ws://127.0.0.1:1/stream', symbols: [BTCUSDT]}\n    - {venue: coinbase, symbols: [BTC-USD]}\n")
	for _, tc := range []struct{ name, feed, config, want string }{
		{"a demo's folder and real feeds", "sim", live, "holds a simulated market and the feeds have a real market"},
		{"a real folder and simulated feeds", "live", sim, "holds a real market and the feeds have a simulated market"},
		{"a folder of a former build", "config", sim, "127.0.0.1:1"}, // goes on to Kafka, which is not there
		{"both at once", "", both, "one engine trades one kind"},
	} {
		data := t.TempDir()
		if tc.feed != "" {
			if err := os.WriteFile(filepath.Join(data, "feed"), []byte(tc.feed+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var out, errOut bytes.Buffer
		if code := app.Main([]string{"run", "--config", tc.config, "--data", data, "--roles", "execution"}, nil, &out, &errOut); code == 0 || !strings.Contains(errOut.String(), tc.want) {
			t.Errorf("%s: exit code %d, want %q in\n%s", tc.name, code, tc.want, errOut.String())
		}
	}
}

// --fresh deletes nothing for a recording that is not there.
func TestFreshKeepsDataWithoutRecording(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	kept := filepath.Join(data, "kafka", "file")
	if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	code := app.Main([]string{"demo", "--fresh", "--data", data, "--feed", "recording:" + filepath.Join(data, "nosuchfile")}, nil, &out, &errOut)
	if _, err := os.Stat(kept); err != nil || code != 2 {
		t.Errorf("exit code %d, %v\n%s", code, err, errOut.String())
	}
}

// ownerOnly fails for what others than the owner may enter or read below dir.
func ownerOnly(t *testing.T, dir string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		n++
		if info.Mode().Perm()&0o077 != 0 && info.Mode().Type() != fs.ModeSymlink {
			t.Errorf("%s has rights %s", path, info.Mode())
		}
		return nil
	})
	if err != nil || n < 5 {
		t.Errorf("%d files of %s: %v", n, dir, err)
	}
}

// Roles find the folder's Kafka and ClickHouse again when these were killed and come
// back on other ports.
func TestRolesFollowMovedServers(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	conf := write(t, t.TempDir(), "autohedge.yaml", unhurried(func(c *config.Config) {
		c.Embedded.Kafka, c.Embedded.ClickHouse, c.HTTP.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	}))
	serve := func(part string) (*process, string) {
		p := start(t, part, "--config", conf, "--data", data, "--output", "json")
		return p, p.addresses()["address"]
	}
	kafka, kafkaAt := serve("kafka")
	store, storeAt := serve("clickhouse")
	roles := start(t, "run", "--config", conf, "--data", data, "--roles", "execution,sinks")
	roles.ready()
	health := strings.TrimSuffix(roles.says(`metrics=(http://\S+)/metrics`)[1], "/metrics") + "/health"
	dependencies := func(status string) func() bool {
		return func() bool {
			resp, err := http.Get(health) //nolint:noctx // a test's own server
			if err != nil {
				return false
			}
			defer func() { _ = resp.Body.Close() }()
			var report struct {
				Dependencies map[string]struct{ Status string } `json:"dependencies"`
			}
			if err := json.NewDecoder(resp.Body).Decode(&report); err != nil {
				return false
			}
			return report.Dependencies["kafka"].Status == status && report.Dependencies["clickhouse"].Status == status
		}
	}
	until(t, "both are up", dependencies("up"))
	kafka.kill()
	store.kill()
	until(t, "both are down", dependencies("down"))
	// Somebody else has their ports now.
	for _, addr := range []string{kafkaAt, strings.TrimPrefix(storeAt, "http://")} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
	}
	kafka, kafkaNow := serve("kafka")
	store, storeNow := serve("clickhouse")
	if kafkaNow == kafkaAt || storeNow == storeAt {
		t.Fatalf("the servers did not move: %s, %s", kafkaNow, storeNow)
	}
	until(t, "the roles found both again", dependencies("up"))
	roles.signal(syscall.SIGTERM)
	roles.ended()
	kafka.signal(syscall.SIGTERM)
	store.signal(syscall.SIGTERM)
	kafka.ended()
	store.ended()
}

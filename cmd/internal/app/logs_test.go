package app_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/autohedge/autohedge/cmd/internal/config"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// finished is the data folder of a demo that ended clean.
func finished(t *testing.T, conf string, more ...string) string {
	t.Helper()
	data := t.TempDir()
	p := start(t, append([]string{"demo", "--config", conf, "--data", data, "--for", "10m", "--output", "json"}, more...)...)
	p.ready()
	atLeast(t, data, 1, "SELECT count() FROM fills")
	atLeast(t, data, 2000, "SELECT count() FROM ticks")
	p.signal(syscall.SIGINT)
	p.clean()
	return data
}

// copied copies a data folder that nothing runs on.
func copied(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(filepath.Join(to, "data"), os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(to, "data")
}

var anyID = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// refuses asserts that a demo does not start on the folder, with exit code 1, the
// texts and so many different incarnations in its message.
func refuses(t *testing.T, conf, data string, incarnations int, texts ...string) {
	t.Helper()
	_, stderr, code := run(t, "demo", "--config", conf, "--data", data, "--for", "1s", "--output", "json")
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	said := lines[len(lines)-1]
	ids := make(map[string]bool)
	for _, id := range anyID.FindAllString(said, -1) {
		ids[id] = true
	}
	if code != 1 || len(ids) < incarnations {
		t.Errorf("exit code %d, want 1; %d incarnations, want %d: %s", code, len(ids), incarnations, said)
	}
	for _, text := range texts {
		if !strings.Contains(said, text) {
			t.Errorf("the message does not say %q: %s", text, said)
		}
	}
}

// A data folder whose logs are not those it was used with is refused with both
// sides' numbers; each of the two commands makes it start again.
func TestForeignLogs(t *testing.T) {
	t.Parallel()
	conf := write(t, t.TempDir(), "autohedge.yaml", unhurried(nil))
	ours, other := finished(t, conf), finished(t, conf, "--seed", "77")

	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		damage func(data string)
		topics []string
		ids    int
		texts  []string
		// clean says that the demo also ends clean afterwards: its own simulator made
		// all that is in the log.
		clean  bool
		halted bool
	}{
		{
			name: "another kafka folder",
			damage: func(data string) {
				must(os.RemoveAll(filepath.Join(data, "kafka")))
				must(os.CopyFS(filepath.Join(data, "kafka"), os.DirFS(filepath.Join(other, "kafka"))))
			},
			topics: []string{"--all"}, ids: 2, halted: true,
			texts: []string{"is incarnation ", "it is another log", "topics adopt md", "topics discard md", "the same holds for signals, ", "--all"},
		},
		{
			name: "a topic deleted",
			damage: func(data string) {
				path := filepath.Join(data, "kafka", "topics.json")
				text, err := os.ReadFile(path)
				must(err)
				var file struct {
					Version int              `json:"version"`
					Topics  []map[string]any `json:"topics"`
				}
				must(json.Unmarshal(text, &file))
				kept := file.Topics[:0]
				for _, topic := range file.Topics {
					if topic["name"] != "signals" {
						kept = append(kept, topic)
					}
				}
				file.Topics = kept
				text, err = json.Marshal(file)
				must(err)
				must(os.WriteFile(path, text, 0o600))
				parts, err := filepath.Glob(filepath.Join(data, "kafka", "partitions", "signals-*"))
				must(err)
				for _, p := range parts {
					must(os.RemoveAll(p))
				}
			},
			topics: []string{"signals"}, ids: 1, clean: true,
			texts: []string{"reading signals: the topic is missing, but it has been there as incarnation ", "topics adopt signals", "topics discard signals"},
		},
		{
			name: "a segment cut",
			damage: func(data string) {
				segments, err := filepath.Glob(filepath.Join(data, "kafka", "partitions", "md-*", "*.dat"))
				must(err)
				var largest string
				var size int64
				for _, s := range segments {
					info, err := os.Stat(s)
					must(err)
					if info.Size() > size {
						largest, size = s, info.Size()
					}
				}
				must(os.Truncate(largest, size/2))
			},
			topics: []string{"md"}, ids: 1, clean: true,
			texts: []string{"reading md/", " records before: it was cut or is another log", "topics adopt md", "topics discard md"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			damaged := copied(t, ours)
			tt.damage(damaged)
			for _, command := range []string{"adopt", "discard"} {
				data := copied(t, damaged)
				refuses(t, conf, data, tt.ids, tt.texts...)
				refuses(t, conf, data, tt.ids, tt.texts...) // looking changed nothing

				args := append([]string{"topics", command, "--data", data, "--why", "a test", "--who", "tester"}, tt.topics...)
				if _, stderr, code := run(t, args...); code != 2 || !strings.Contains(stderr, "nothing was changed: answer y, or say --yes") {
					t.Errorf("without a yes: exit code %d, %s", code, stderr)
				}
				args = append(args, "--yes", "--output", "json")
				if command == "discard" {
					args = append(args, "--rows")
				}
				report := decode[struct {
					Topics []struct {
						Topic, Former, Incarnation string
						Begins, Ends               []json.Number
					}
					Halted bool
				}](t, succeed(t, args...))
				if len(report.Topics) == 0 || report.Topics[0].Incarnation == report.Topics[0].Former || report.Halted != tt.halted {
					t.Errorf("%s reports %+v", command, report)
				}
				p := start(t, "demo", "--config", conf, "--data", data, "--for", "3s", "--output", "json")
				p.ready()
				// What was cut off and whose rows are deleted is nowhere any more, so
				// marks may name quotes that are gone.
				if tt.clean && (command == "adopt" || tt.topics[0] != "md") {
					p.clean()
				} else if c := decodeAtEnd(p); c.Missing == nil || *c.Missing != 0 || *c.Duplicates != 0 || *c.Lag != 0 {
					t.Errorf("after %s: %s", command, p.out.String())
				}
				if halted := strings.Contains(succeed(t, "halt", "--status", "--data", data), "compare the positions"); halted != tt.halted {
					t.Errorf("after %s: halted %t, want %t", command, halted, tt.halted)
				}
			}
		})
	}
}

// decodeAtEnd is the closing object of a demo that may have had faults.
func decodeAtEnd(p *process) closing {
	p.t.Helper()
	p.wait()
	return decode[closing](p.t, p.out.String())
}

// Retention overtakes sinks and signals while nothing runs: each refuses to start
// with both numbers, the skip that it names lets it, and the proof balances.
func TestOvertakenByRetention(t *testing.T) {
	t.Parallel()
	conf := write(t, t.TempDir(), "autohedge.yaml", unhurried(func(c *config.Config) { c.Embedded.Kafka = "127.0.0.1:0" }))
	data := finished(t, conf)
	const added, gone = 500, 400

	broker := start(t, "kafka", "--config", conf, "--data", data)
	until(t, "the broker runs", func() bool { return owner(t, data, "kafka") != "" })
	cfg := kafkaConfig(t, data)
	client, err := bus.Connect(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	if err := client.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	bounds, err := client.Offsets(t.Context(), event.TopicMarket)
	if err != nil {
		t.Fatal(err)
	}
	stood := bounds[0].End
	p, err := client.NewProducer(t.Context(), bus.ProducerConfig{Name: "test", Blocking: true}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	for range added {
		if err := p.Append(event.TopicMarket, 0, []byte("binance"), event.Marshal(&event.Clock{Feed: "gone", Time: 1}), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.DeleteRecords(t.Context(), event.TopicMarket, map[int32]int64{0: stood + gone}); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	broker.signal(syscall.SIGINT)
	broker.ended()

	// Where it ends is not said here: a start that the signals end may have added some.
	numbers, took := fmt.Sprintf("goes on at offset %d, but the log begins at %d and ends at ", stood, stood+gone), fmt.Sprintf(": retention took %d records first", gone)
	for _, role := range []string{"sinks", "signals"} { // as they start
		command := fmt.Sprintf("autohedge topics skip md/0 --group %s --to %d --why \"...\"", role, stood+gone)
		refuses(t, conf, data, 0, numbers, took, command)
		for _, tt := range []struct {
			to   int64
			want string
		}{{stood + gone + 1, "are still there"}, {stood - 1, "would go back"}} {
			_, stderr, code := run(t, "topics", "skip", "md/0", "--group", role, "--to", fmt.Sprint(tt.to), "--why", "a test", "--data", data, "--yes")
			if code != 1 || !strings.Contains(stderr, tt.want) {
				t.Errorf("skip to %d: exit code %d, %s", tt.to, code, stderr)
			}
		}
		skipped := decode[event.Skip](t, succeed(t, "topics", "skip", "md/0", "--group", role, "--to", "start", "--why", "a test", "--who", "tester", "--data", data, "--yes", "--output", "json"))
		if skipped.From != stood || skipped.To != stood+gone || skipped.Group != role || skipped.Who != "tester" {
			t.Errorf("skipped %+v", skipped)
		}
	}
	d := start(t, "demo", "--config", conf, "--data", data, "--for", "3s", "--output", "json")
	d.ready()
	if _, stderr, code := run(t, "topics", "skip", "md/0", "--group", "sinks", "--to", "start", "--why", "a test", "--data", data, "--yes"); code != 1 || !strings.Contains(stderr, "it is running") {
		t.Errorf("skip under a running role: exit code %d, %s", code, stderr)
	}
	// Retention took what tells second copies too: a trade that a venue sends again
	// when the feed connects may land twice, and nothing can know.
	if c := decodeAtEnd(d); c.Missing == nil || *c.Missing != 0 || *c.Lag != 0 || c.Ticks == 0 {
		t.Errorf("the proof does not hold: %s", d.out.String())
	}
	expired := succeed(t, "query", "--data", data, "--output", "json", "SELECT sum(expired) AS n, sum(missing) AS m FROM v_landed_proof")
	if !strings.Contains(expired, fmt.Sprintf(`"n": %d,`, gone)) || !strings.Contains(expired, `"m": 0`) {
		t.Errorf("the proof says %s, want %d expired and 0 missing", expired, gone)
	}
	dead := succeed(t, "query", "--data", data, "--output", "json", "SELECT count() AS n FROM dead WHERE reason LIKE 'records % were taken by retention before % read them, skipped by tester: a test'")
	if !strings.Contains(dead, `"n": 2`) {
		t.Errorf("the skips are stated by %s dead letters, want 2", dead)
	}
}

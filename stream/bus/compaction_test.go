package bus

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// killsVar is how often the broker is killed while it compacts.
const killsVar = "AUTOHEDGE_TEST_COMPACTION_KILLS"

// An embedded broker that is killed while it compacts keeps the newest record of each
// key that it acknowledged.
func TestEmbeddedBrokerKilledInCompactionLosesNothing(t *testing.T) {
	kills := scale(t, killsVar, 6)
	dir := t.TempDir()
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, seed))
	t.Logf("seed %d", seed)
	const keys = 300
	pad := strings.Repeat("x", 4096)
	acked := make([]int, keys)
	version, interrupted := 0, 0
	for kill := range kills {
		b, err := StartEmbeddedProcess(EmbeddedConfig{Dir: dir, CompactEvery: 20 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		dead := false
		end := func() {
			if !dead {
				dead = true
				_ = b.cmd.Process.Kill()
				_ = b.Close()
			}
		}
		t.Cleanup(end)
		c, err := Connect(t.Context(), testConfig(b.Addr()), component.Discard())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.EnsureTopics(t.Context()); err != nil {
			t.Fatalf("after %d kills: %v", kill, err)
		}
		got := make([]int, keys)
		readInstruments(t, c, func(key, value string) {
			var k, v int
			if _, err := fmt.Sscanf(key+" "+value, "k%d %d", &k, &v); err != nil {
				t.Fatalf("%q %.20q: %v", key, value, err)
			}
			got[k] = v
		})
		for k, v := range got {
			if v < acked[k] {
				t.Fatalf("after %d kills: key %d is at version %d, and %d was acknowledged", kill, k, v, acked[k])
			}
		}
		p, err := c.NewProducer(t.Context(), ProducerConfig{Name: "test", Blocking: true}, component.Discard())
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			for k := range keys {
				version++
				v := version
				if err := p.Append(event.TopicInstruments, 0, fmt.Appendf(nil, "k%d", k), fmt.Appendf(nil, "%d %s", v, pad), func(_ int64, err error) {
					if err == nil {
						acked[k] = v
					}
				}); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Duration(rng.IntN(60_000)) * time.Microsecond)
		end()
		if _, err := os.Stat(filepath.Join(dir, keptDir)); err == nil {
			interrupted++
		}
		_ = p.Close(t.Context())
		_ = c.Close()
	}
	t.Logf("%d kills, %d records of %d keys acknowledged, %d compactions interrupted, 0 keys lost", kills, version, keys, interrupted)
}

func readInstruments(t *testing.T, c *Client, each func(key, value string)) {
	t.Helper()
	r, err := c.NewReader(t.Context(), ReaderConfig{Topic: event.TopicInstruments, Offset: FromStart}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	bounds, err := c.Offsets(t.Context(), event.TopicInstruments)
	if err != nil {
		t.Fatal(err)
	}
	r.EndAt(bounds[0].End)
	for {
		records, err := r.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range records {
			each(string(rec.Key), string(rec.Value))
		}
	}
}

// Logs are compacted also by a broker that was started anew, only where there is room,
// and nothing is appended meanwhile.
func TestEmbeddedBrokerCompacts(t *testing.T) {
	dir := t.TempDir()
	var free atomic.Int64
	free.Store(1 << 40)
	cfg := EmbeddedConfig{Dir: dir, CompactEvery: 10 * time.Millisecond, free: func(string) (int64, error) { return free.Load(), nil }}
	size := func() (n int64) {
		files, err := logFiles(filepath.Join(dir, partitionsDir, event.TopicInstruments+"-0"))
		for errors.Is(err, fs.ErrNotExist) { // a segment went between the listing and the look at it
			files, err = logFiles(filepath.Join(dir, partitionsDir, event.TopicInstruments+"-0"))
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range files {
			n += info.Size()
		}
		return n
	}
	fill := func(c *Client, round int) {
		p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
		for i := range 200 {
			if err := p.Append(event.TopicInstruments, 0, fmt.Appendf(nil, "k%d", i%3), fmt.Appendf(nil, "%d %d %s", round, i, strings.Repeat("x", 5000)), nil); err != nil {
				t.Fatal(err)
			}
			if err := p.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for round := range 3 {
		b, err := StartEmbedded(t.Context(), cfg, component.Discard())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close() })
		c := connect(t, testConfig(b.Addr()))
		if round == 1 {
			free.Store(diskReserve + 1) // room for what is appended, not for compacting
		}
		fill(c, round)
		if round == 1 {
			time.Sleep(10 * cfg.CompactEvery)
			if n := size(); n < 200*5000 {
				t.Errorf("the log has %d bytes: it was compacted with a nearly full disk", n)
			}
			free.Store(1 << 40)
		}
		eventually(t, "the log is compacted", 10*time.Second, func() bool { return size() < 10*5000 })
		newest := make(map[string]string)
		readInstruments(t, c, func(key, value string) { newest[key], _, _ = strings.Cut(value, " x") })
		if want := (map[string]string{"k0": fmt.Sprint(round, " 198"), "k1": fmt.Sprint(round, " 199"), "k2": fmt.Sprint(round, " 197")}); !maps.Equal(newest, want) {
			t.Errorf("round %d: the newest records are %v, want %v", round, newest, want)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if left, err := filepath.Glob(filepath.Join(dir, keptDir+"*")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

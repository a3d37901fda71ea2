package bus

import (
	"context"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// childVar makes the test binary an embedded broker on that folder and address,
// so that a test can kill one.
const childVar = "AUTOHEDGE_TEST_BROKER"

func TestMain(m *testing.M) {
	RunEmbeddedIfAsked()
	if spec := os.Getenv(childVar); spec != "" {
		dir, addr, _ := strings.Cut(spec, "|")
		b, err := StartEmbedded(context.Background(), EmbeddedConfig{Dir: dir, Addr: addr}, component.Discard())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(b.Addr())
		// Ends with its parent: end of file on the inherited pipe.
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	if spec := os.Getenv(spillChild); spec != "" {
		fmt.Fprintln(os.Stderr, runSpiller(spec))
		os.Exit(1)
	}
	if addr := os.Getenv(ownerVar); addr != "" {
		os.Exit(runOwner(addr))
	}
	if spec := os.Getenv(memberVar); spec != "" {
		os.Exit(runMember(spec))
	}
	goleak.VerifyTestMain(bustest.Run{M: m, Brokers: sharedBrokers})
}

// child is an embedded broker in a process of its own.
type child struct {
	cmd  *exec.Cmd
	addr string
}

func startChild(t testing.TB, dir, addr string) *child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childVar+"="+dir+"|"+addr)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &child{cmd: cmd}
	t.Cleanup(b.kill)
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil {
		t.Fatalf("broker process said nothing: %v", err)
	}
	b.addr = strings.TrimSpace(string(line[:n]))
	return b
}

func (b *child) kill() {
	if b.cmd.ProcessState == nil {
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait()
	}
}

func testConfig(addr string) Config {
	cfg := DefaultConfig()
	cfg.Brokers, cfg.Partitions = []string{addr}, 4
	return cfg
}

// connect returns a client of the broker whose topics exist.
func connect(t testing.TB, cfg Config) *Client {
	t.Helper()
	c, err := Connect(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func newProducer(t testing.TB, c *Client, cfg ProducerConfig) *Producer {
	t.Helper()
	p, err := c.NewProducer(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = p.Close(ctx)
	})
	return p
}

// trade is a trade's wire form.
func trade(id uint64) []byte {
	return (&event.Trade{Channel: event.ChannelTrade, TradeID: id, Price: event.MustDecimal("1.5"), RecvTime: 1}).AppendWire(nil)
}

// inFlight waits until everything that was appended has been taken up to be sent.
func inFlight(t testing.TB, p *Producer) {
	t.Helper()
	eventually(t, "the first batches are in flight", 5*time.Second, func() bool {
		for _, l := range p.all {
			l.mu.Lock()
			waiting := l.open != nil || len(l.sealed) > 0
			l.mu.Unlock()
			if waiting {
				return false
			}
		}
		return true
	})
}

func readAll(t testing.TB, c *Client, topic string, partition int32) (values []string) {
	t.Helper()
	_, err := c.ReadAll(t.Context(), topic, partition, FromStart, func(r Record) error {
		values = append(values, string(r.Value))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// everyRecord reads a partition, second copies included.
func everyRecord(t testing.TB, c *Client, topic string, partition int32, each func(Record) error) error {
	t.Helper()
	bounds, err := c.bounds(t.Context(), topic, []int32{partition})
	if err != nil {
		t.Fatal(err)
	}
	cfg := ReaderConfig{Topic: topic, Partition: partition, Offset: FromStart, KeepCopies: true}
	return c.readUntil(t.Context(), cfg, bounds[0].End, each)
}

// handledLog is what a group handled, by partition, in the order of handling.
type handledLog struct {
	mu   sync.Mutex
	got  map[int32][]string
	next map[int32]int64
}

func newHandledLog() *handledLog {
	return &handledLog{got: make(map[int32][]string), next: make(map[int32]int64)}
}

func contextWithTimeout(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// ids returns the incarnation of every topic.
func (c *Client) ids() map[string]event.ID {
	ids := make(map[string]event.ID)
	for topic, life := range c.view().lives {
		ids[topic] = life.ID
	}
	return ids
}

// scale is how much a test does: usual, or what the environment variable says.
func scale(t testing.TB, variable string, usual int) int {
	t.Helper()
	v := os.Getenv(variable)
	if v == "" {
		return usual
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q: want a number above 0", variable, v)
	}
	return n
}

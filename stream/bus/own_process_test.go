package bus

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// ownerVar makes the test binary an owner that appends to fenceAt on the broker of
// that address until it is refused.
const ownerVar = "AUTOHEDGE_TEST_OWNER"

var fenceAt = TopicPartition{event.TopicOrders, 0}

// fencedExit is the exit code of an owner that was refused.
const fencedExit = 7

// runOwner is the owner's process: it prints its number, then appends without end.
func runOwner(addr string) int {
	err := func() error {
		c, err := Connect(context.Background(), testConfig(addr), component.Discard())
		if err != nil {
			return err
		}
		if err := c.EnsureTopics(context.Background()); err != nil {
			return err
		}
		o, err := c.Own(context.Background(), OwnConfig{Name: "test", Key: "role.1", Partitions: []TopicPartition{fenceAt}, Blocking: true, QueueBytes: 4 << 10}, component.Discard())
		if err != nil {
			return err
		}
		fmt.Println(o.Number())
		for i := 0; ; i++ {
			if err := o.Append(fenceAt.Topic, fenceAt.Partition, []byte("k"), fmt.Appendf(nil, "process %d %d", o.Number(), i), nil); err != nil {
				return err
			}
		}
	}()
	fmt.Fprintln(os.Stderr, err)
	if errors.Is(err, ErrFenced) && component.IsFatal(err) {
		return fencedExit
	}
	return 1
}

// ownerProcess is an owner in a process of its own.
type ownerProcess struct {
	cmd    *exec.Cmd
	number string
	stderr strings.Builder
}

func startOwner(t *testing.T, addr string) *ownerProcess {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &ownerProcess{cmd: exec.Command(exe)}
	p.cmd.Env = append(os.Environ(), ownerVar+"="+addr)
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the owner's process said nothing: %v", err)
	}
	p.number = strings.TrimSpace(line)
	return p
}

func (p *ownerProcess) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// A process that is stopped while it appends, and goes on after another owns its
// key and has read the partition to its end, appends nothing more and ends.
func TestStoppedOwnerAppendsNothingMore(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	rounds := 20
	if onApache() {
		rounds = 8
	}
	var before, after, mine int
	for round := range rounds {
		a := startOwner(t, b.Addr())
		began := end(t, c, fenceAt)
		eventually(t, "the first owner appends", 20*time.Second, func() bool { return end(t, c, fenceAt) > began+50 })
		a.signal(t, syscall.SIGSTOP)

		next := own(t, c, "role.1", fenceAt)
		if fmt.Sprint(next.Number()-1) != a.number {
			t.Fatalf("number %d follows %s", next.Number(), a.number)
		}
		read := len(readAll(t, c, fenceAt.Topic, fenceAt.Partition))
		for i := range 10 {
			if err := next.add(t, fenceAt, fmt.Sprintf("next %d", i)); err != nil {
				t.Fatal(err)
			}
		}
		a.signal(t, syscall.SIGCONT)
		err := a.cmd.Wait()
		if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != fencedExit || !strings.Contains(a.stderr.String(), `fenced: another owner of "role.1" took over`) {
			t.Fatalf("round %d: the former owner ended with %v: %s", round, err, a.stderr.String())
		}
		if err := next.add(t, fenceAt, "last"); err != nil {
			t.Fatal(err)
		}
		before += read
		for i, v := range readAll(t, c, fenceAt.Topic, fenceAt.Partition)[read:] {
			switch {
			case strings.HasPrefix(v, "process "):
				after++
				t.Errorf("round %d: %q landed %d records after the successor had read to the end", round, v, i)
			default:
				mine++
			}
		}
		next.abandon()
	}
	t.Logf("%d rounds: the successors read %d records to the end, then appended %d; %d of the stopped owners landed after; %d processes ended as fenced", rounds, before, mine, after, rounds)
	if mine != rounds*11 {
		t.Errorf("the successors' records are %d, want %d", mine, rounds*11)
	}
}

func end(t *testing.T, c *Client, at TopicPartition) int64 {
	t.Helper()
	bounds, err := c.Offsets(t.Context(), at.Topic)
	if err != nil {
		t.Fatal(err)
	}
	return bounds[at.Partition].End
}

// oneWay lets everything out and holds back what comes in while it is held.
type oneWay struct {
	mu   sync.Mutex
	held chan struct{}
}

func (w *oneWay) hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = make(chan struct{})
}

func (w *oneWay) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held != nil {
		close(w.held)
		w.held = nil
	}
}

func (w *oneWay) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &oneWayConn{conn, w}, nil
}

type oneWayConn struct {
	net.Conn
	w *oneWay
}

func (c *oneWayConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.w.mu.Lock()
	held := c.w.held
	c.w.mu.Unlock()
	if held != nil {
		<-held
	}
	return n, err
}

// An owner whose requests arrive, but who hears no answers, has appended before its
// successor's first record or not at all.
func TestOwnerThatHearsNothingAppendsNothingMore(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	const rounds = 10
	var before, after int
	for round := range rounds {
		way := &oneWay{}
		deaf := dialing(t, testConfig(b.Addr()), way.dial)
		t.Cleanup(way.release)
		a := own(t, deaf, "role.1", fenceAt)
		if err := a.add(t, fenceAt, "deaf, heard"); err != nil {
			t.Fatal(err)
		}
		began := end(t, c, fenceAt)
		way.hold()
		told := make(chan error, 200)
		send := func() {
			for range cap(told) / 2 {
				if err := a.Append(fenceAt.Topic, fenceAt.Partition, []byte("k"), []byte("deaf"), func(_ int64, err error) { told <- err }); err != nil {
					t.Fatal(err)
				}
			}
		}
		send()
		eventually(t, "the first of them lands", 10*time.Second, func() bool { return end(t, c, fenceAt) > began })
		next := own(t, c, "role.1", fenceAt)
		read := len(readAll(t, c, fenceAt.Topic, fenceAt.Partition))
		send()
		way.release()
		var refused int
		for range cap(told) {
			if err := <-told; err != nil {
				refused++
				if !errors.Is(err, ErrFenced) {
					t.Errorf("round %d: a record was told %v", round, err)
				}
			}
		}
		if refused < cap(told)/2 {
			t.Errorf("round %d: %d of %d were refused", round, refused, cap(told))
		}
		if err := a.Err(); !errors.Is(err, ErrFenced) || !component.IsFatal(err) {
			t.Fatalf("round %d: the former owner's error is %v", round, err)
		}
		if err := next.add(t, fenceAt, "next"); err != nil {
			t.Fatal(err)
		}
		before += read
		for _, v := range readAll(t, c, fenceAt.Topic, fenceAt.Partition)[read:] {
			if strings.HasPrefix(v, "deaf") {
				after++
			}
		}
		next.abandon()
	}
	t.Logf("%d rounds: the successors read %d records to the end; %d of the deaf owners landed after", rounds, before, after)
	if after != 0 {
		t.Errorf("%d records landed after the successor had read to the end", after)
	}
}

// dialing is connect with connections of the test's own making.
func dialing(t *testing.T, cfg Config, dial func(context.Context, string, string) (net.Conn, error)) *Client {
	t.Helper()
	c := connect(t, cfg)
	c.transport.CloseIdleConnections()
	c.transport.Dial = dial
	c.leaders.closeAll()
	c.leaders.dial = dial
	if _, err := c.picture(t.Context()); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return c
}

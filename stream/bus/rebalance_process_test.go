package bus

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

const (
	// memberVar makes the test binary a member of the group, on the broker of the
	// address before its |, with the name after it.
	memberVar = "AUTOHEDGE_TEST_MEMBER"
	// rebalancesVar is how many rounds of members that come and go the run has.
	rebalancesVar = "AUTOHEDGE_TEST_REBALANCES"
)

// runMember copies what it is assigned of md into signals, the same partition, until
// it is told to leave (SIGTERM, or the end of its parent). Each copy says by whom
// and in which generation it was made, from which committed offset on, after which
// call of Next, and of which offset.
func runMember(spec string) int {
	addr, name, _ := strings.Cut(spec, "|")
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	err := func() error {
		c, err := Connect(ctx, testConfig(addr), component.Discard())
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if err := c.AttachTopics(ctx); err != nil {
			return err
		}
		k := c.NewConsumer(ConsumerConfig{Role: "test", Topics: []string{event.TopicMarket}}, component.Discard())
		go func() {
			select {
			case <-k.Ready():
				fmt.Println("ready")
			case <-ctx.Done():
			}
		}()
		return k.Run(ctx, func(ctx context.Context, a *Assignment) error { return copyOut(ctx, c, a, name) })
	}()
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// copyOut is a member's handler: what it has copied is acknowledged before it
// commits it.
func copyOut(ctx context.Context, c *Client, a *Assignment, name string) error {
	p, err := c.NewProducer(ctx, ProducerConfig{Name: "test", Blocking: true}, component.Discard())
	if err != nil {
		return err
	}
	a.Bind(p)
	// What is in hand when the partition is lost is finished within the time there is.
	finish, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(stopPatience*3/5, cancel) })()
	defer func() { _ = p.Close(finish) }()
	a.Ready()
	for call := 1; ; call++ {
		records, err := a.Next(ctx)
		if err != nil {
			return err
		}
		for _, r := range records {
			value := fmt.Appendf(nil, "%s %d %d %d %d %s", name, a.Generation, max(a.Committed, 0), call, r.Offset, r.Value)
			if err := p.Append(event.TopicSignals, a.Partition, r.Key, value, nil); err != nil {
				return err
			}
		}
		if err := p.Flush(finish); err != nil {
			return err
		}
		a.Commit(a.Position())
	}
}

// memberProcess is a member in a process of its own.
type memberProcess struct {
	name    string
	cmd     *exec.Cmd
	stderr  strings.Builder
	ready   chan struct{}
	stopped bool
}

func startMember(t *testing.T, addr, name string) *memberProcess {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m := &memberProcess{name: name, cmd: exec.Command(exe), ready: make(chan struct{})}
	m.cmd.Env = append(os.Environ(), memberVar+"="+addr+"|"+name)
	m.cmd.Stderr = &m.stderr
	if _, err := m.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if m.cmd.ProcessState == nil {
			_ = m.cmd.Process.Kill()
			_ = m.cmd.Wait()
		}
	})
	go func() {
		if line, _ := bufio.NewReader(out).ReadString('\n'); line == "ready\n" {
			close(m.ready)
		}
	}()
	return m
}

func (m *memberProcess) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := m.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// leave ends the member cleanly.
func (m *memberProcess) leave(t *testing.T) {
	t.Helper()
	m.signal(t, syscall.SIGTERM)
	if err := m.cmd.Wait(); err != nil {
		t.Errorf("member %s left with %v: %s", m.name, err, m.stderr.String())
	}
}

// memberLoad appends to md until it is told to stop; each value is its key and how many
// of that key came before it.
type memberLoad struct {
	t       *testing.T
	c       *Client
	p       *Producer
	stop    chan struct{}
	stopped chan struct{}
	n       atomic.Int64
}

const loadKeys = 3000

func startLoadOn(t *testing.T, c *Client) *memberLoad {
	l := &memberLoad{t: t, c: c, p: newProducer(t, c, ProducerConfig{Name: "test", Blocking: true}), stop: make(chan struct{}), stopped: make(chan struct{})}
	go func() {
		defer close(l.stopped)
		rng := rand.New(rand.NewPCG(1, 2))
		var of [loadKeys]int
		for {
			select {
			case <-l.stop:
				return
			case <-time.After(4 * time.Millisecond): // some thousands a second, which a loaded machine can follow
			}
			for range 20 {
				k := rng.IntN(loadKeys)
				key := fmt.Appendf(nil, "binance|S%d", k)
				if err := l.p.Append(event.TopicMarket, c.Partition(event.TopicMarket, key), key, fmt.Appendf(nil, "%s %d", key, of[k]), nil); err != nil {
					t.Error(err)
					return
				}
				of[k]++
				l.n.Add(1)
			}
		}
	}()
	return l
}

// end stops the load and returns what md holds, by partition.
func (l *memberLoad) end() (logs [][]string) {
	l.t.Helper()
	close(l.stop)
	<-l.stopped
	if err := l.p.Flush(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	n := 0
	for part := range l.c.Partitions(event.TopicMarket) {
		logs = append(logs, readAll(l.t, l.c, event.TopicMarket, part))
		n += len(logs[part])
	}
	if int64(n) != l.n.Load() {
		l.t.Fatalf("md holds %d records of %d", n, l.n.Load())
	}
	return logs
}

// commitWatch looks at a group's offsets all the time: they never go back.
type commitWatch struct {
	mu      sync.Mutex
	at      map[int32]int64
	looks   int
	stop    context.CancelFunc
	stopped chan struct{}
}

func watchCommits(t *testing.T, c *Client) *commitWatch {
	ctx, cancel := context.WithCancel(t.Context())
	w := &commitWatch{at: make(map[int32]int64), stop: cancel, stopped: make(chan struct{})}
	go func() {
		defer close(w.stopped)
		for sleep(ctx, 20*time.Millisecond) == nil {
			lags, err := c.Lag(ctx, "test", event.TopicMarket)
			if err != nil {
				continue
			}
			w.mu.Lock()
			w.looks++
			for _, l := range lags {
				if last, seen := w.at[l.Partition]; seen && l.Committed < last {
					t.Errorf("the committed offset of partition %d went back from %d to %d", l.Partition, last, l.Committed)
				}
				w.at[l.Partition] = l.Committed
			}
			w.mu.Unlock()
		}
	}()
	return w
}

func (w *commitWatch) sum() (n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.at {
		n += max(at, 0)
	}
	return n
}

// Members in processes of their own join, leave, are killed, and are stopped and
// woken under load. Everything is handled and its effect is there, in the order of
// each key; what is handled again is what nobody had committed.
func TestRebalanceOfProcesses(t *testing.T) {
	rounds := scale(t, rebalancesVar, 1)
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	l := startLoadOn(t, c)
	commits := watchCommits(t, c)
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, seed))
	t.Logf("seed %d", seed)

	var members []*memberProcess
	var joined, left, killed, woken int
	join := func() {
		m := startMember(t, b.Addr(), fmt.Sprintf("m%d", joined))
		joined++
		members = append(members, m)
		select {
		case <-m.ready:
		case <-time.After(90 * time.Second):
			t.Fatalf("member %s does not get ready: %s", m.name, m.stderr.String())
		}
	}
	// take removes a member that runs.
	take := func() *memberProcess {
		i := rng.IntN(len(members))
		for members[i].stopped {
			i = (i + 1) % len(members)
		}
		m := members[i]
		members = slices.Delete(members, i, i+1)
		return m
	}
	flows := func() {
		t.Helper()
		before := commits.sum()
		eventually(t, "the group goes on", 90*time.Second, func() bool { return commits.sum() > before+300 })
	}
	join()
	for range rounds {
		join()
		flows()
		join()
		take().leave(t)
		left++
		flows()
		// One dies and one stands still, both unheard; then another joins.
		dead, asleep := take(), take()
		dead.signal(t, syscall.SIGKILL)
		_ = dead.cmd.Wait()
		killed++
		asleep.signal(t, syscall.SIGSTOP)
		asleep.stopped = true
		join()
		flows()
		asleep.signal(t, syscall.SIGCONT)
		asleep.stopped = false
		members = append(members, asleep)
		woken++
		flows()
		for len(members) > 2 {
			take().leave(t)
			left++
		}
	}
	logs := l.end()
	eventually(t, "everything is committed", 90*time.Second, func() bool { return commits.sum() == l.n.Load() })
	for len(members) > 0 {
		take().leave(t)
		left++
	}
	commits.stop()
	<-commits.stopped
	var all copiesOut
	for part, log := range logs {
		all.check(t, part, log, readAll(t, c, event.TopicSignals, int32(part)))
	}
	if all.again > all.uncommitted+all.late {
		t.Errorf("%d records were handled again, of which %d were not committed at a handover and %d came late", all.again, all.uncommitted, all.late)
	}
	t.Logf("%d members joined, %d left, %d were killed, %d stopped and woken: %d records of %d keys, 0 lost, 0 out of order; %d handovers, at which %d handled records were not committed; "+
		"%d handled again, %d of them by members that were woken; %d looks at the committed offsets, none went back",
		joined, left, killed, woken, l.n.Load(), loadKeys, all.handovers, all.uncommitted, all.again, all.late, commits.looks)
}

// copiesOut is what the members' copies say, in the order in which they landed.
type copiesOut struct{ handovers, uncommitted, again, late int }

func (o *copiesOut) check(t *testing.T, part int, log, copied []string) {
	t.Helper()
	type owner struct {
		generation int
		name       string
	}
	next := make(map[owner]int)     // offset that the owner's next copy must have
	lateCall := make(map[owner]int) // of Next, whose records came late
	frontier, newest, committed := 0, owner{generation: -1}, 0
	for i, v := range copied {
		var who owner
		var from, call, offset int
		if _, err := fmt.Sscanf(v, "%s %d %d %d %d", &who.name, &who.generation, &from, &call, &offset); err != nil {
			t.Fatalf("partition %d, copy %d: %q: %v", part, i, v, err)
		}
		if _, known := next[who]; !known {
			next[who] = from // the committed offset is where an owner begins
			if who.generation > newest.generation {
				if from < committed {
					t.Errorf("partition %d: generation %d begins at the committed offset %d, one before it at %d", part, who.generation, from, committed)
				}
				if from > frontier {
					t.Errorf("partition %d: generation %d begins at the committed offset %d, and copied is up to %d: LOST", part, who.generation, from, frontier)
				}
				newest, committed = who, from
				o.handovers++
				o.uncommitted += max(frontier-from, 0)
			}
		}
		if offset != next[who] {
			t.Errorf("partition %d: member %s of generation %d copies offset %d where %d is next", part, who.name, who.generation, offset, next[who])
		}
		next[who] = offset + 1
		if offset >= len(log) || !strings.HasSuffix(v, " "+log[offset]) {
			t.Fatalf("partition %d, copy %d: %q is not of offset %d", part, i, v, offset)
		}
		if who.generation < newest.generation {
			o.late++
			// A woken member finishes what it has in hand, and gets nothing more.
			if first, known := lateCall[who]; known && first != call {
				t.Errorf("partition %d: member %s of generation %d copies offset %d after generation %d began, of its call %d of Next, and had copied late of its call %d",
					part, who.name, who.generation, offset, newest.generation, call, first)
			}
			lateCall[who] = call
		}
		switch {
		case offset == frontier:
			frontier++ // in the log's order, and so in that of each key
		case offset < frontier:
			o.again++
		default:
			t.Fatalf("partition %d: offset %d is copied and %d is not: LOST OR OUT OF ORDER", part, offset, frontier)
		}
	}
	if frontier != len(log) {
		t.Errorf("partition %d: %d of %d records are copied", part, frontier, len(log))
	}
	o.keys(t, part, copied)
}

// keys looks at each key by itself: its numbers rise by one, but for what comes again.
func (o *copiesOut) keys(t *testing.T, part int, copied []string) {
	t.Helper()
	next := make(map[string]int)
	for _, v := range copied {
		f := strings.Fields(v)
		n, err := strconv.Atoi(f[6])
		if err != nil {
			t.Fatal(err)
		}
		if n > next[f[5]] {
			t.Errorf("partition %d: key %s has its record %d where %d is next", part, f[5], n, next[f[5]])
		}
		next[f[5]] = max(next[f[5]], n+1)
	}
}

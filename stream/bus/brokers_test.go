package bus

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/bus/kafkatest"
	"github.com/autohedge/autohedge/stream/component"
)

// apache is the Apache Kafka that the tests share. It is started by the first
// test that asks for a broker, and every test finds it without topics and groups.
var apache struct {
	sync.Mutex
	broker *kafkatest.Broker
	proxy  *faultyListener
	gone   error // why there is none
}

func onApache() bool { return bustest.OnApache() }

// sharedBrokers is what bustest.Run stops.
func sharedBrokers() (stop []func(keep bool) (string, error)) {
	if apache.proxy != nil {
		apache.proxy.stop()
	}
	if apache.broker != nil {
		stop = append(stop, apache.broker.Stop)
	}
	return stop
}

// broker is what a test runs against.
type broker struct {
	addr    string
	proxied string          // its address behind the test's proxy; only Apache Kafka's differs
	proxy   *faultyListener // nil unless from startFaulty
	cluster *kfake.Cluster  // nil on Apache Kafka
	admin   *bustest.Admin
}

// Addr returns host:port.
func (b *broker) Addr() string { return b.addr }

// startBroker returns an empty broker of the kind that the environment names.
func startBroker(t testing.TB) *broker {
	t.Helper()
	if !onApache() {
		return asBroker(t, startKfake(t, ""))
	}
	shared, _ := sharedApache(t)
	b := &broker{addr: shared.Addr(), proxied: shared.Addr(), admin: bustest.NewAdmin(t, kgo.SeedBrokers(shared.Addr()))}
	b.admin.Wipe(t)
	return b
}

// startFaulty returns an empty broker and what stands between it and those who
// connect to its proxied address.
func startFaulty(t testing.TB) (*broker, *faultyListener) {
	t.Helper()
	if !onApache() {
		e, l := startFaultyKfake(t)
		b := asBroker(t, e)
		b.proxy = l
		return b, l
	}
	_, proxy := sharedApache(t)
	b := startBroker(t)
	b.proxied, b.proxy = proxy.Addr().String(), proxy
	t.Cleanup(func() {
		proxy.damage.Store(nil)
		proxy.deaf.Store(false)
		proxy.setDead(false)
	})
	return b, proxy
}

// stuck makes a broker of startFaulty append nothing until release is called, for
// those who connect to its proxied address: the embedded one says that it has too
// few replicas, connections to Apache Kafka are cut at each produce request.
func (b *broker) stuck() (release func()) {
	if b.cluster != nil {
		h := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
		return sync.OnceFunc(func() { h.Remove() })
	}
	b.proxy.deaf.Store(true)
	return func() { b.proxy.deaf.Store(false) }
}

func asBroker(t testing.TB, e *Embedded) *broker {
	t.Helper()
	return &broker{addr: e.Addr(), proxied: e.Addr(), cluster: e.cluster, admin: bustest.NewAdmin(t, kgo.SeedBrokers(e.Addr()))}
}

func sharedApache(t testing.TB) (*kafkatest.Broker, *faultyListener) {
	t.Helper()
	apache.Lock()
	defer apache.Unlock()
	if apache.broker == nil && apache.gone == nil {
		apache.gone = startSharedApache(t)
	}
	bustest.NeedApache(t, apache.gone)
	return apache.broker, apache.proxy
}

func startSharedApache(t testing.TB) error {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	began := time.Now()
	_, measured := t.(*testing.B)
	broker, err := kafkatest.Start(context.Background(), kafkatest.Config{Proxied: ln.Addr().String(), Measured: measured, Properties: map[string]string{
		// A killed broker may register again once its session is over: after 9 s by
		// default.
		"broker.session.timeout.ms": "4000", "broker.heartbeat.interval.ms": "500",
	}})
	if err != nil {
		_ = ln.Close()
		return err
	}
	t.Logf("Apache Kafka %s listens on %s after %s", kafkatest.Version, broker.Addr(), time.Since(began).Round(time.Millisecond))
	apache.broker, apache.proxy = broker, newFaultyListener(ln)
	go apache.proxy.forward(broker.ProxyTarget())
	// The first group and the first transactional id make it create the topics of
	// the coordinators; that is not what the tests measure.
	admin := bustest.NewAdmin(t, kgo.SeedBrokers(broker.Addr()))
	find := kmsg.NewPtrFindCoordinatorRequest()
	for kind, key := range []string{"group", "owner"} {
		find.CoordinatorType, find.CoordinatorKey, find.CoordinatorKeys = int8(kind), key, []string{key}
		eventually(t, "the coordinators are up", 20*time.Second, func() bool {
			res, err := find.RequestWith(context.Background(), admin)
			return err == nil && res.ErrorCode == 0 && (len(res.Coordinators) == 0 || res.Coordinators[0].ErrorCode == 0)
		})
	}
	return nil
}

// compactible is what makes Apache Kafka compact a topic within a second of its
// segment being rolled, which the first record after segment.ms does.
var compactible = map[string]string{
	"cleanup.policy": "compact", "segment.ms": "200", "min.compaction.lag.ms": "0", "min.cleanable.dirty.ratio": "0.001",
}

// faultyListener stands between a broker and its clients.
type faultyListener struct {
	net.Listener
	// damage, when set, sees every write of the broker: it returns what to write
	// instead, or false to cut the connection. It may block to hold answers back.
	damage atomic.Pointer[func(b []byte) ([]byte, bool)]
	// deaf cuts connections at a produce request, which the broker does not get; for
	// a proxy alone.
	deaf atomic.Bool

	mu    sync.Mutex
	dead  bool
	conns map[net.Conn]struct{}
	all   sync.WaitGroup
}

func newFaultyListener(ln net.Listener) *faultyListener {
	return &faultyListener{Listener: ln, conns: make(map[net.Conn]struct{})}
}

// Accept implements net.Listener.
func (l *faultyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &faultyConn{Conn: c, l: l}, nil
}

// forward makes the listener a proxy in front of the address.
func (l *faultyListener) forward(to string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", to)
		if err != nil || !l.keep(c, up) {
			_ = c.Close()
			continue
		}
		l.all.Add(2)
		go func() {
			defer l.all.Done()
			_, _ = io.Copy(c, up)
			l.drop(c, up)
		}()
		go func() {
			defer l.all.Done()
			l.requests(up, c)
			l.drop(c, up)
		}()
	}
}

// requests hands requests on, one after the other.
func (l *faultyListener) requests(dst io.Writer, src io.Reader) {
	var head [6]byte // size of what follows, and of that the API key
	for {
		if _, err := io.ReadFull(src, head[:]); err != nil {
			return
		}
		if kmsg.Key(binary.BigEndian.Uint16(head[4:])) == kmsg.Produce && l.deaf.Load() {
			return
		}
		if _, err := dst.Write(head[:]); err != nil {
			return
		}
		if _, err := io.CopyN(dst, src, int64(binary.BigEndian.Uint32(head[:]))-2); err != nil {
			return
		}
	}
}

func (l *faultyListener) keep(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		for _, c := range conns {
			_ = c.Close()
		}
		return false
	}
	for _, c := range conns {
		l.conns[c] = struct{}{}
	}
	return true
}

func (l *faultyListener) drop(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(l.conns, c)
	}
}

// setDead cuts all connections of the proxy and takes no more.
func (l *faultyListener) setDead(dead bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = dead
	for c := range l.conns {
		if dead {
			_ = c.Close()
		}
	}
}

func (l *faultyListener) stop() {
	_ = l.Close()
	l.setDead(true)
	l.all.Wait()
}

// hold holds back what the broker answers until release is called.
func (l *faultyListener) hold(t testing.TB) (release func()) {
	held := make(chan struct{})
	wait := func(b []byte) ([]byte, bool) {
		<-held
		return b, true
	}
	l.damage.Store(&wait)
	release = sync.OnceFunc(func() {
		l.damage.Store(nil)
		close(held)
	})
	t.Cleanup(release)
	return release
}

type faultyConn struct {
	net.Conn
	l *faultyListener
}

func (c *faultyConn) Write(b []byte) (int, error) {
	if f := c.l.damage.Load(); f != nil {
		out, ok := (*f)(b)
		if !ok {
			_ = c.Close()
			return 0, net.ErrClosed
		}
		_, err := c.Conn.Write(out)
		return len(b), err
	}
	return c.Conn.Write(b)
}

// startKfake starts an embedded broker that ends with the test.
func startKfake(t testing.TB, dir string, opts ...kfake.Opt) *Embedded {
	t.Helper()
	b, err := startEmbedded(t.Context(), EmbeddedConfig{Dir: dir}, component.Discard(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// startFaultyKfake is an embedded broker behind a faultyListener.
func startFaultyKfake(t testing.TB) (*Embedded, *faultyListener) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newFaultyListener(ln)
	b := startKfake(t, "", kfake.ListenFn(func(string, string) (net.Listener, error) { return l, nil }))
	b.addr = ln.Addr().String()
	return b, l
}

// brokerProcess is a broker that a test kills and starts again on its data and
// address: the embedded one in a process of its own, or the shared Apache Kafka.
type brokerProcess struct {
	addr   string
	kill   func()
	start  func()
	signal func(syscall.Signal) // SIGSTOP or SIGCONT
	apache bool
}

func startBrokerProcess(t testing.TB) *brokerProcess {
	t.Helper()
	if !onApache() {
		dir := t.TempDir()
		child := startChild(t, dir, "127.0.0.1:0")
		return &brokerProcess{
			addr: child.addr,
			kill: func() { child.kill() }, start: func() { child = startChild(t, dir, child.addr) },
			signal: func(sig syscall.Signal) {
				if err := child.cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
			},
		}
	}
	shared, _ := sharedApache(t)
	b := startBroker(t)
	running := true
	p := &brokerProcess{addr: b.addr, apache: true}
	p.kill = func() {
		running = false
		shared.Kill()
	}
	p.start = func() {
		if err := shared.Restart(context.Background()); err != nil {
			t.Fatal(err)
		}
		running = true
	}
	p.signal = func(sig syscall.Signal) {
		do := shared.Pause
		if sig == syscall.SIGCONT {
			do = shared.Resume
		}
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if !running {
			p.start()
		}
		p.signal(syscall.SIGCONT) // a test may have left it stopped
	})
	return p
}

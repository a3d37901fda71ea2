package kafkatest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// startPatience is how long a broker may take until it listens; 3 s is usual.
const startPatience = 60 * time.Second

// Config sets up a Broker.
type Config struct {
	// Proxied, when set, is the host:port that the broker advertises to those who
	// come through its second listener: a proxy's, in front of ProxyTarget.
	Proxied string
	// Properties are added to server.properties.
	Properties map[string]string
}

// Broker is a running Apache Kafka: one node, broker and controller, replication
// factor 1, groups without initial delay, a log cleaner that does not wait.
type Broker struct {
	lib, dir           string
	addr, proxied, log string
	process            *process
}

// process is one life of the broker.
type process struct {
	cmd  *exec.Cmd
	over chan struct{} // closed when it has ended
}

// Start fetches Apache Kafka if need be, starts a broker and returns once it
// listens. Its data and log are in a folder of their own, which Stop removes.
func Start(ctx context.Context, cfg Config) (*Broker, error) {
	lib, err := Fetch(ctx)
	if err != nil {
		return nil, err
	}
	// The ports are free when they are chosen; another process may be quicker.
	for attempt := 0; ; attempt++ {
		b, err := start(ctx, lib, cfg)
		if err == nil {
			return b, nil
		}
		if attempt == 2 || !strings.Contains(err.Error(), "Address already in use") {
			return nil, fmt.Errorf("starting Apache Kafka: %w", err)
		}
	}
}

func start(ctx context.Context, lib string, cfg Config) (b *Broker, err error) {
	dir, err := os.MkdirTemp("", "autohedge-kafka-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	b = &Broker{lib: lib, dir: dir, addr: ports[0], proxied: ports[2], log: filepath.Join(dir, "server.log")}
	if cfg.Proxied == "" {
		cfg.Proxied = b.proxied
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	id[0] &= 0x7f        // "-" in front would be an option
	for name, text := range map[string]string{"server.properties": b.properties(cfg, ports[1]), "log4j2.xml": logging} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	format := b.java(ctx, "kafka.tools.StorageTool", "format", "-t", base64.RawURLEncoding.EncodeToString(id), "-c", filepath.Join(dir, "server.properties"))
	if out, err := format.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("formatting the storage: %w: %s", err, lastLines(string(out), 5))
	}
	if err := b.Restart(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *Broker) properties(cfg Config, controller string) string {
	values := map[string]string{
		"process.roles": "broker,controller", "node.id": "1",
		"controller.quorum.voters":       "1@" + controller,
		"listeners":                      "PLAINTEXT://" + b.addr + ",PROXIED://" + b.proxied + ",CONTROLLER://" + controller,
		"advertised.listeners":           "PLAINTEXT://" + b.addr + ",PROXIED://" + cfg.Proxied,
		"listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"controller.listener.names":      "CONTROLLER", "inter.broker.listener.name": "PLAINTEXT",
		"log.dirs":                         filepath.Join(b.dir, "data"),
		"group.initial.rebalance.delay.ms": "0", "offsets.topic.replication.factor": "1", "offsets.topic.num.partitions": "4",
		"transaction.state.log.replication.factor": "1", "transaction.state.log.min.isr": "1", "transaction.state.log.num.partitions": "4",
		"auto.create.topics.enable": "false", "log.cleaner.backoff.ms": "100", "log.cleaner.dedupe.buffer.size": "16777216",
		"log.segment.delete.delay.ms": "1000",
	}
	for name, value := range cfg.Properties {
		values[name] = value
	}
	var text strings.Builder
	for name, value := range values {
		fmt.Fprintf(&text, "%s=%s\n", name, value)
	}
	return text.String()
}

const logging = `<Configuration status="WARN">
  <Appenders><Console name="out"><PatternLayout pattern="%d{HH:mm:ss.SSS} %p %c{1} %m%n"/></Console></Appenders>
  <Loggers><Root level="INFO"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
`

func (b *Broker) java(ctx context.Context, args ...string) *exec.Cmd {
	all := append([]string{
		"-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
		"-Dlog4j2.configurationFile=" + filepath.Join(b.dir, "log4j2.xml"), "-cp", filepath.Join(b.lib, "*"),
	}, args...)
	return exec.CommandContext(ctx, "java", all...) // #nosec G204 -- our own arguments
}

// Addr is host:port of the broker.
func (b *Broker) Addr() string { return b.addr }

// ProxyTarget is where a proxy at Config.Proxied connects to.
func (b *Broker) ProxyTarget() string { return b.proxied }

// Log is the path of the broker's log; it grows over restarts.
func (b *Broker) Log() string { return b.log }

// Restart starts the broker on its data and ports, after Kill, and returns once
// it listens.
func (b *Broker) Restart(ctx context.Context) error {
	out, err := os.OpenFile(b.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	// Not bound to ctx: the broker outlives the call.
	cmd := b.java(context.WithoutCancel(ctx), "kafka.Kafka", filepath.Join(b.dir, "server.properties"))
	cmd.Stdout, cmd.Stderr = out, out
	endWithParent(cmd)
	p := &process{cmd: cmd, over: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.over)
		runtime.LockOSThread() // whose end is the broker's, see endWithParent
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	b.process = p
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if err := b.listening(ctx, p); err != nil {
		b.Kill()
		text, _ := os.ReadFile(b.log)
		return fmt.Errorf("waiting until it listens: %w; its log ends with\n%s", err, lastLines(string(text), 15))
	}
	return nil
}

func (b *Broker) listening(ctx context.Context, p *process) error {
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, "tcp", b.addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.over:
			return errors.New("it ended: " + p.cmd.ProcessState.String())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends the broker at once, as SIGKILL does; its data stay for a Restart.
func (b *Broker) Kill() {
	if b.process != nil {
		_ = b.process.cmd.Process.Kill()
		<-b.process.over
		b.process = nil
	}
}

// Stop kills the broker and removes its folder; with keep, the folder stays and
// its path is returned, for who looks into the log of a failure.
func (b *Broker) Stop(keep bool) (kept string, err error) {
	b.Kill()
	if keep {
		return b.dir, nil
	}
	return "", os.RemoveAll(b.dir)
}

// freePorts returns addresses on loopback that nobody listens on.
func freePorts(n int) ([]string, error) {
	addrs := make([]string, n)
	for i := range addrs {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = ln.Close() }() // at the end, or the same one comes again
		addrs[i] = net.JoinHostPort("127.0.0.1", strconv.Itoa(ln.Addr().(*net.TCPAddr).Port))
	}
	return addrs, nil
}

package kafkatest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// startPatience is how long a broker may take until it listens; 3 s is usual.
const startPatience = 90 * time.Second

// portAttempts is how often ports are chosen: they are free when they are, but
// another process may be quicker.
const portAttempts = 3

// errPortTaken says that somebody else listens where the broker wants to.
var errPortTaken = errors.New("a port was taken by another process")

// Config sets up a Broker.
type Config struct {
	// Proxied, when set, is the host:port that the broker advertises to those who
	// come through its second listener: a proxy's, in front of ProxyTarget.
	Proxied string
	// Properties are added to server.properties.
	Properties map[string]string
	// Measured starts the Java machine as Kafka's own kafka-server-start.sh does,
	// for measurements. Without, it compiles less, which starts sooner and runs
	// slower.
	Measured bool
}

// MeasuredOptions are the options of Java that Config.Measured gives.
const MeasuredOptions = "-Xmx1G -Xms1G -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent"

// The options of brokers that are not measured: alone, and one of three.
const (
	testOptions    = "-Xmx512m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
	clusterOptions = "-Xmx384m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
)

// Broker is a running Apache Kafka: groups without initial delay, a log cleaner
// that does not wait. From Start it is a cluster of its own, broker and
// controller, replication factor 1. Its methods are for one goroutine at a time.
type Broker struct {
	id                 int
	lib, dir           string
	addr, proxied, log string
	options            string // of Java
	process            *process
}

// Start fetches Apache Kafka if need be, starts a broker and returns once it
// listens. Its data and log are in a folder of their own, which Stop removes.
func Start(ctx context.Context, cfg Config) (*Broker, error) {
	lib, err := Fetch(ctx)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		b, err := start(ctx, lib, cfg)
		if err == nil {
			return b, nil
		}
		if attempt == portAttempts || !errors.Is(err, errPortTaken) {
			return nil, fmt.Errorf("starting Apache Kafka: %w", err)
		}
	}
}

func start(ctx context.Context, lib string, cfg Config) (*Broker, error) {
	if cfg.Measured {
		return startWith(ctx, lib, MeasuredOptions, cfg)
	}
	return startWith(ctx, lib, testOptions+sharedClasses(lib), cfg)
}

func startWith(ctx context.Context, lib, options string, cfg Config) (b *Broker, err error) {
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
	b = newBroker(1, lib, dir, options, ports)
	properties := b.properties(ports[1], cfg.Proxied)
	maps.Copy(properties, map[string]string{
		"controller.quorum.voters":         "1@" + ports[1],
		"offsets.topic.replication.factor": "1", "transaction.state.log.replication.factor": "1", "transaction.state.log.min.isr": "1",
	})
	maps.Copy(properties, alone)
	maps.Copy(properties, cfg.Properties)
	if err := b.format(ctx, clusterID(), properties); err != nil {
		return nil, err
	}
	if err := b.Restart(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

// alone lets a broker that is the only one in its cluster come back soon after it
// was killed: its controller waits until the session of its life before is over.
var alone = map[string]string{"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}

// newBroker describes a broker with three ports: for clients, for controllers,
// and for clients behind a proxy.
func newBroker(id int, lib, dir, options string, ports []string) *Broker {
	return &Broker{id: id, lib: lib, dir: dir, options: options, addr: ports[0], proxied: ports[2], log: filepath.Join(dir, "server.log")}
}

// clusterID is what the storage is formatted with.
func clusterID() string {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	id[0] &= 0x7f        // "-" in front would be an option
	return base64.RawURLEncoding.EncodeToString(id)
}

// properties are those that any number of brokers has.
func (b *Broker) properties(controller, advertised string) map[string]string {
	if advertised == "" {
		advertised = b.proxied
	}
	return map[string]string{
		"process.roles": "broker,controller", "node.id": strconv.Itoa(b.id),
		"listeners":                      "PLAINTEXT://" + b.addr + ",PROXIED://" + b.proxied + ",CONTROLLER://" + controller,
		"advertised.listeners":           "PLAINTEXT://" + b.addr + ",PROXIED://" + advertised,
		"listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"controller.listener.names":      "CONTROLLER", "inter.broker.listener.name": "PLAINTEXT",
		"log.dirs":                         filepath.Join(b.dir, "data"),
		"group.initial.rebalance.delay.ms": "0",
		"offsets.topic.num.partitions":     "4", "transaction.state.log.num.partitions": "4",
		"auto.create.topics.enable": "false", "log.cleaner.backoff.ms": "100", "log.cleaner.dedupe.buffer.size": "16777216",
		"log.segment.delete.delay.ms": "1000",
	}
}

// format writes the broker's files and prepares its data folder; options go to
// the tool that does so.
func (b *Broker) format(ctx context.Context, cluster string, properties map[string]string, options ...string) error {
	var text strings.Builder
	for name, value := range properties {
		fmt.Fprintf(&text, "%s=%s\n", name, value)
	}
	for name, content := range map[string]string{"server.properties": text.String(), "log4j2.xml": logging} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	args := append([]string{"kafka.tools.StorageTool", "format", "-t", cluster, "-c", filepath.Join(b.dir, "server.properties")}, options...)
	format := b.java(ctx, args...)
	if out, err := format.CombinedOutput(); err != nil {
		return fmt.Errorf("formatting the storage: %w: %s", err, lastLines(string(out), 5))
	}
	return nil
}

const logging = `<Configuration status="WARN">
  <Appenders><Console name="out"><PatternLayout pattern="%d{HH:mm:ss.SSS} %p %c{1} %m%n"/></Console></Appenders>
  <Loggers><Root level="INFO"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
`

func (b *Broker) java(ctx context.Context, args ...string) *exec.Cmd {
	all := append(strings.Fields(b.options), "-Dlog4j2.configurationFile="+filepath.Join(b.dir, "log4j2.xml"), "-cp", filepath.Join(b.lib, "*"))
	all = append(all, args...)
	return exec.CommandContext(ctx, "java", all...) // #nosec G204 -- our own arguments
}

// ID is the broker's node id.
func (b *Broker) ID() int { return b.id }

// Addr is host:port of the broker.
func (b *Broker) Addr() string { return b.addr }

// ProxyTarget is where a proxy at Config.Proxied connects to.
func (b *Broker) ProxyTarget() string { return b.proxied }

// Log is the path of the broker's log; it grows over restarts.
func (b *Broker) Log() string { return b.log }

// Running reports whether the broker's process lives: it may have ended by
// itself, as it does when it cannot write.
func (b *Broker) Running() bool { return b.process != nil && b.process.running() }

// Restart starts the broker on its data and ports, after Kill, and returns once
// it listens.
func (b *Broker) Restart(ctx context.Context) error {
	if err := b.spawn(ctx); err != nil {
		return err
	}
	return b.await(ctx)
}

// spawn starts the process.
func (b *Broker) spawn(ctx context.Context) error {
	out, err := os.OpenFile(b.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	// Not bound to ctx: the broker outlives the call.
	cmd := b.java(context.WithoutCancel(ctx), "kafka.Kafka", filepath.Join(b.dir, "server.properties"))
	cmd.Stdout, cmd.Stderr = out, out
	b.process, err = startProcess(cmd)
	return err
}

// await waits until the broker listens; one that does not is killed.
func (b *Broker) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	err := b.listening(ctx)
	if err == nil {
		return nil
	}
	b.Kill()
	text, _ := os.ReadFile(b.log)
	if strings.Contains(string(text), "Address already in use") {
		err = fmt.Errorf("%w: %w", errPortTaken, err)
	}
	return fmt.Errorf("waiting until broker %d listens: %w; its log ends with\n%s", b.id, err, lastLines(string(text), 15))
}

func (b *Broker) listening(ctx context.Context) error {
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, "tcp", b.addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-b.process.over:
			return errors.New("it ended: " + b.process.cmd.ProcessState.String())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends the broker at once, as SIGKILL does; its data stay for a Restart.
func (b *Broker) Kill() {
	if b.process != nil {
		b.process.kill()
		b.process = nil
	}
}

// Shutdown ends the broker in good order, as SIGTERM does: it hands its partitions
// over first. It is killed when ctx ends before.
func (b *Broker) Shutdown(ctx context.Context) error {
	if b.process == nil {
		return nil
	}
	defer b.Kill()
	if err := b.process.signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("shutting broker %d down: %w", b.id, err)
	}
	select {
	case <-b.process.over:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("shutting broker %d down: %w", b.id, ctx.Err())
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

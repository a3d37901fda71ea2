package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/autohedge/autohedge/stream/component"
)

// EmbeddedConfig sets up the embedded broker.
type EmbeddedConfig struct {
	Dir        string // data folder; empty keeps everything in memory
	Addr       string // host:port on loopback; port 0 takes a free one
	Partitions int    // of topics that a client creates without saying how many
	// CompactEvery is how often topics are compacted and what is past its retention
	// is removed; 0 is an hour. In memory kfake does it, once an hour.
	CompactEvery time.Duration
	// Logins are who may do everything; without one, everybody who connects may.
	Logins []Login
	// OpenReads lets connections without a login read the topics, but the private ones.
	OpenReads bool

	// MaxLogBytes bounds the log: beyond it the oldest records go, read or not, but of
	// topics that a state is rebuilt from. 0 is DefaultLogBytes.
	MaxLogBytes int64

	free   func(dir string) (int64, error) // freeOn where it is nil
	memory func() (available, total int64) // systemMemory where it is nil
}

// Embedded is a running embedded broker: one node, no replication, no fsync by
// default. README.md says how it differs from Apache Kafka.
type Embedded struct {
	cluster *kfake.Cluster
	addr    string
	dir     string
	close   sync.Once
	stop    func() // of the compaction; waits for it
}

// StartEmbedded starts the embedded broker (kfake). A busy address is an error
// that errors.Is(err, syscall.EADDRINUSE) tells. The caller sees to it that
// only one broker uses the folder.
func StartEmbedded(ctx context.Context, cfg EmbeddedConfig, env component.Env) (*Embedded, error) {
	return startEmbedded(ctx, cfg, env)
}

func startEmbedded(ctx context.Context, cfg EmbeddedConfig, env component.Env, extra ...kfake.Opt) (*Embedded, error) {
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("starting the embedded Kafka: address %q: %w", cfg.Addr, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("starting the embedded Kafka: %q is not on loopback, and it has no encryption: use 127.0.0.1", cfg.Addr)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("starting the embedded Kafka: %w", err)
	}
	log := env.Log.With("component", "kafka")
	guarded := &guardedListener{Listener: ln, log: log, open: len(cfg.Logins) == 0}
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return guarded, nil }),
		kfake.ClusterID("autohedge-embedded"),
		kfake.WithLogger(kfakeLog{log}),
		kfake.DefaultNumPartitions(cmp.Or(cfg.Partitions, NewPartitions)),
		kfake.MaxVersions(embeddedVersions()),
		// A restarted member is not held up by its dead predecessor for long.
		kfake.GroupMinSessionTimeout(time.Second),
	}
	var cost loadCost
	if cfg.Dir != "" {
		if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
			_ = ln.Close()
			return nil, fmt.Errorf("starting the embedded Kafka: %w", err)
		}
		if err := undoCompaction(cfg.Dir, log); err != nil {
			_ = ln.Close()
			return nil, fmt.Errorf("starting the embedded Kafka: undoing an interrupted compaction in %s: %w", cfg.Dir, err)
		}
		memory := cfg.memory
		if memory == nil {
			memory = systemMemory
		}
		cost, err = prepareLog(cfg.Dir, log)
		if err == nil {
			available, _ := memory()
			err = cost.check(cfg.Dir, available)
		}
		if err != nil {
			_ = ln.Close()
			return nil, fmt.Errorf("starting the embedded Kafka: %w", err)
		}
		opts = append(opts, kfake.DataDir(cfg.Dir), kfake.BrokerConfigs(map[string]string{
			"log.cleaner.backoff.ms": kfakeNever, "log.segment.bytes": strconv.Itoa(embeddedSegment),
		}))
	}
	if len(cfg.Logins) > 0 {
		access, err := accessOptions(cfg)
		if err != nil {
			_ = ln.Close()
			return nil, fmt.Errorf("starting the embedded Kafka: %w", err)
		}
		opts = append(opts, access...)
	}
	cluster, err := kfake.NewCluster(append(opts, extra...)...)
	if err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("starting the embedded Kafka in %s: %w", cfg.Dir, err)
	}
	e := &Embedded{cluster: cluster, addr: ln.Addr().String(), stop: func() {}, dir: cfg.Dir}
	cluster.ControlKey(int16(kmsg.ListGroups), func(req kmsg.Request) (kmsg.Response, error, bool) {
		lowerTypes(req.(*kmsg.ListGroupsRequest))
		return nil, nil, false // kfake answers
	})
	if cfg.Dir != "" {
		if err := forgetLogins(cfg.Dir); err != nil {
			cluster.Close()
			return nil, fmt.Errorf("starting the embedded Kafka: %w", err)
		}
		guard := &diskGuard{dir: cfg.Dir, log: log, free: cfg.free}
		if guard.free == nil {
			guard.free = freeOn
		}
		cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
			resp := guard.refuse(req.(*kmsg.ProduceRequest))
			if resp == nil {
				return nil, nil, false
			}
			cluster.KeepControl()
			return resp, nil, true
		})
		// kfake writes the producers' sequence windows when it is closed and reads
		// them when it starts. Left there, they would be read again after a kill,
		// stale, and refuse batches that are in order.
		if err := os.Remove(filepath.Join(cfg.Dir, "seq_windows.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			cluster.Close()
			return nil, fmt.Errorf("starting the embedded Kafka: %w", err)
		}
		compacting, stop := context.WithCancel(context.WithoutCancel(ctx))
		var stopped sync.WaitGroup
		c := &compactor{dir: cfg.Dir, cluster: cluster, guard: guard, log: log}
		stopped.Go(func() { c.run(compacting, cmp.Or(cfg.CompactEvery, compactEvery)) })
		keeper := &logKeeper{dir: cfg.Dir, cluster: cluster, max: cmp.Or(cfg.MaxLogBytes, DefaultLogBytes()), log: log}
		stopped.Go(func() { keeper.run(compacting) })
		if cost.bytes > embeddedSegment {
			debug.FreeOSMemory() // what the log was read into
		}
		e.stop = func() { stop(); stopped.Wait() }
	}
	return e, nil
}

// embeddedVersions are the requests that the embedded broker answers: those of the newest
// Apache Kafka, but those whose answers kfake leaves without lists that the Java client
// reads. Without DescribeTopicPartitions it describes topics by Metadata, and before
// version 5 the answer of CreateTopics has no settings.
func embeddedVersions() *kversion.Versions {
	v := kversion.Stable()
	v.SetMaxKeyVersion(int16(kmsg.DescribeTopicPartitions), -1)
	v.SetMaxKeyVersion(int16(kmsg.CreateTopics), 4)
	return v
}

// lowerTypes makes kfake find groups by the types that the Java client names, in its own
// spelling of them.
func lowerTypes(req *kmsg.ListGroupsRequest) {
	for i, t := range req.TypesFilter {
		req.TypesFilter[i] = strings.ToLower(t)
	}
}

// Addr returns host:port.
func (e *Embedded) Addr() string { return e.addr }

// Close stops the broker and saves its state.
func (e *Embedded) Close() (err error) {
	e.close.Do(func() {
		e.stop()
		e.cluster.Close()
		if e.dir != "" {
			err = forgetLogins(e.dir)
		}
	})
	return err
}

// kfakeLog hands kfake's warnings and errors on.
type kfakeLog struct{ log *slog.Logger }

// Logf implements kfake.Logger.
func (l kfakeLog) Logf(level kfake.LogLevel, msg string, args ...any) {
	if level != kfake.LogLevelError && level != kfake.LogLevelWarn {
		return
	}
	to := slog.LevelWarn
	if level == kfake.LogLevelError {
		to = slog.LevelError
	}
	l.log.Log(context.Background(), to, "embedded broker", "text", fmt.Sprintf(msg, args...))
}

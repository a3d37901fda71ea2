package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// Nodes is the size of a Cluster: three replicas of everything, of which two
// must have a record before it is acknowledged.
const Nodes = 3

// ClusterConfig sets up a Cluster.
type ClusterConfig struct {
	// Properties are added to the server.properties of every broker.
	Properties map[string]string
	// LogDirs are folders of the caller's, by node id, that the broker keeps its
	// partitions in, the first one also its metadata; without, they lie in the
	// cluster's own folder.
	LogDirs map[int][]string
	// OneController makes broker 1 the only controller, so that the cluster goes
	// on with it alone; otherwise all three are, and two must be up.
	OneController bool
}

// Cluster is three brokers on one machine, each of which can be killed, paused
// and started again.
type Cluster struct {
	dir     string
	brokers []*Broker
}

// StartCluster fetches Apache Kafka if need be, starts three brokers and returns
// once all listen. It takes about 5 s and 1 GB of memory.
func StartCluster(ctx context.Context, cfg ClusterConfig) (*Cluster, error) {
	lib, err := Fetch(ctx)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		c, err := startCluster(ctx, lib, cfg)
		if err == nil {
			return c, nil
		}
		if attempt == portAttempts || !errors.Is(err, errPortTaken) {
			return nil, fmt.Errorf("starting a cluster of Apache Kafka: %w", err)
		}
	}
}

func startCluster(ctx context.Context, lib string, cfg ClusterConfig) (c *Cluster, err error) {
	dir, err := os.MkdirTemp("", "autohedge-kafka-")
	if err != nil {
		return nil, err
	}
	c = &Cluster{dir: dir}
	defer func() {
		if err != nil {
			_, _ = c.Stop(false)
		}
	}()
	ports, err := freePorts(3 * Nodes)
	if err != nil {
		return nil, err
	}
	var voters []string
	for i := range Nodes {
		home := filepath.Join(dir, strconv.Itoa(i+1))
		if err = os.Mkdir(home, 0o750); err != nil {
			return nil, err
		}
		c.brokers = append(c.brokers, newBroker(i+1, lib, home, clusterOptions+sharedClasses(lib), ports[3*i:3*i+3]))
		if i == 0 || !cfg.OneController {
			voters = append(voters, fmt.Sprintf("%d@%s", i+1, ports[3*i+1]))
		}
	}
	id := clusterID()
	err = c.each(func(b *Broker) error {
		properties := b.properties(ports[3*b.id-2], "")
		maps.Copy(properties, map[string]string{
			"controller.quorum.voters":         strings.Join(voters, ","),
			"default.replication.factor":       "3",
			"min.insync.replicas":              "2",
			"offsets.topic.replication.factor": "3", "transaction.state.log.replication.factor": "3", "transaction.state.log.min.isr": "2",
		})
		if b.id > len(voters) {
			properties["process.roles"] = "broker"
			listeners, _, _ := strings.Cut(properties["listeners"], ",CONTROLLER:")
			properties["listeners"] = listeners
		}
		if dirs := cfg.LogDirs[b.id]; len(dirs) > 0 {
			properties["log.dirs"], properties["metadata.log.dir"] = strings.Join(dirs, ","), dirs[0]
		}
		maps.Copy(properties, cfg.Properties)
		return b.format(ctx, id, properties)
	})
	if err != nil {
		return nil, err
	}
	return c, c.Restart(ctx)
}

// Restart starts all brokers that do not run, at once, and returns when they
// listen.
func (c *Cluster) Restart(ctx context.Context) error {
	return c.each(func(b *Broker) error {
		if b.Running() {
			return nil
		}
		return b.Restart(ctx)
	})
}

// each does f for all brokers at once.
func (c *Cluster) each(f func(*Broker) error) error {
	errs := make([]error, len(c.brokers))
	var all sync.WaitGroup
	for i, b := range c.brokers {
		all.Go(func() { errs[i] = f(b) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Brokers returns the brokers in the order of their ids.
func (c *Cluster) Brokers() []*Broker { return c.brokers }

// Broker returns the broker of a node id, 1 to 3, such as the one that the
// metadata name as a partition's leader.
func (c *Cluster) Broker(id int) *Broker { return c.brokers[id-1] }

// Addrs returns host:port of every broker.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, len(c.brokers))
	for i, b := range c.brokers {
		addrs[i] = b.addr
	}
	return addrs
}

// Stop kills the brokers and removes their folder, LogDirs excepted; with keep,
// the folder stays and its path is returned.
func (c *Cluster) Stop(keep bool) (kept string, err error) {
	for _, b := range c.brokers {
		b.Kill()
	}
	if keep {
		return c.dir, nil
	}
	return "", os.RemoveAll(c.dir)
}

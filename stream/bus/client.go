package bus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"

	"github.com/autohedge/autohedge/stream/component"
)

const (
	clientID = "autohedge"
	// connectPatience is how long Connect waits for a broker that is starting.
	connectPatience = 10 * time.Second
)

// Client is the connection to one cluster, shared by everything in a process.
// It is safe for concurrent use.
type Client struct {
	cfg       Config
	env       component.Env
	metrics   *metrics
	transport *kafka.Transport
	// bulk has the connections for fetches that do not wait at the end of a log, see
	// fetcher.once.
	bulk    *kafka.Transport
	kafka   *kafka.Client
	leaders *leaders
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	tls     *tls.Config
	sasl    sasl.Mechanism
	seeds   []string // host:port of the brokers, those configured first

	connected atomic.Bool  // Connect has returned
	refusedAt atomic.Int64 // when a refused connection was logged last

	keyed atomic.Int32 // partitions of keyed topics, see countKeyed

	retrying atomic.Int64 // batches of its producers that the brokers have not taken at the first try

	mu         sync.RWMutex
	partitions map[string]int32 // by topic, without the session's prefix
	closed     map[string]error // why a topic is not among them although it may exist; replaced as a whole
	meta       *metaView        // replaced as a whole, never changed
	reigns     map[TopicPartition]reign
	unreadable map[string]bool // records that were logged as such
}

// Connect checks that the brokers answer; it waits up to 10 s (or as long as
// ctx allows, when that is shorter) for one that is starting.
func Connect(ctx context.Context, cfg Config, env component.Env) (*Client, error) {
	dial := (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	if cfg.Moved == nil {
		return connectOver(ctx, cfg, env, dial)
	}
	return connectOver(ctx, cfg, env, func(ctx context.Context, network, addr string) (net.Conn, error) {
		now := cfg.Moved(addr)
		if now == "" {
			return nil, fmt.Errorf("the broker that was at %s is not running", addr)
		}
		return dial(ctx, network, now)
	})
}

// connectOver is Connect over a network that tests may provide.
func connectOver(ctx context.Context, cfg Config, env component.Env, dial func(ctx context.Context, network, addr string) (net.Conn, error)) (*Client, error) {
	if len(cfg.Brokers) == 0 {
		return nil, errors.New("connecting to Kafka: no broker address is given")
	}
	if err := cfg.Validate().Err(); err != nil {
		return nil, fmt.Errorf("connecting to Kafka: %w", err)
	}
	c := &Client{cfg: cfg, env: env.With("bus"), metrics: newMetrics(env.Metrics), dial: dial}
	var err error
	if c.tls, err = cfg.TLS.config(); err != nil {
		return nil, fmt.Errorf("connecting to Kafka: %w", err)
	}
	if c.sasl, err = cfg.saslMechanism(); err != nil {
		return nil, fmt.Errorf("connecting to Kafka: %w", err)
	}
	newTransport := func() *kafka.Transport {
		return &kafka.Transport{
			Dial: c.connect, DialTimeout: dialTimeout, IdleTimeout: idleTimeout,
			MetadataTTL: 2 * time.Second, ClientID: clientID,
		}
	}
	c.transport, c.bulk = newTransport(), newTransport()
	c.leaders = newLeaders(c.connect)
	c.kafka = &kafka.Client{Addr: kafka.TCP(cfg.Brokers...), Transport: c.transport}
	brokers, err := c.probe(ctx)
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("connecting to Kafka at %v: %w", cfg.Brokers, err)
	}
	c.learn(brokers)
	c.connected.Store(true)
	return c, nil
}

// learn adds the brokers to those that are asked for the cluster's layout and for
// coordinators: when only one was configured, it may go down and the others not.
func (c *Client) learn(brokers []kafka.Broker) {
	c.seeds = slices.Clone(c.cfg.Brokers)
	for _, b := range brokers {
		if addr := net.JoinHostPort(b.Host, strconv.Itoa(b.Port)); !slices.Contains(c.seeds, addr) {
			c.seeds = append(c.seeds, addr)
		}
	}
	if len(c.seeds) > len(c.cfg.Brokers) {
		c.transport.CloseIdleConnections() // kafka-go has a pool for each list
		c.kafka.Addr = kafka.TCP(c.seeds...)
	}
}

// probe asks for the cluster's layout until a broker answers, and returns its
// brokers.
func (c *Client) probe(ctx context.Context) ([]kafka.Broker, error) {
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	var last error
	for attempt := 0; ; attempt++ {
		res, err := c.kafka.Metadata(ctx, &kafka.MetadataRequest{})
		if err == nil && len(res.Brokers) == 0 {
			err = errors.New("no broker is up")
		}
		if err == nil {
			return res.Brokers, nil
		}
		var access *accessError
		if errors.As(err, &access) {
			return nil, bare(err)
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		// The transport remembers its failure until it looks again, which may be
		// seconds away: start anew.
		c.transport.CloseIdleConnections()
		if sleep(ctx, min(50*time.Millisecond<<min(attempt, 5), time.Second)) != nil {
			if c.tls == nil && c.sasl == nil && cutOff(last) {
				return nil, fmt.Errorf("%w: the broker hangs up: does this listener want TLS (kafka.tls.enabled) or a login (kafka.sasl)?", bare(last))
			}
			return nil, bare(last)
		}
	}
}

// bare is the error without what kafka-go puts in front of it.
func bare(err error) error {
	if inner := errors.Unwrap(err); inner != nil && strings.HasPrefix(err.Error(), "kafka.(*Client)") {
		return inner
	}
	return err
}

// dialer is what the group protocol connects with.
func (c *Client) dialer() *kafka.Dialer {
	return &kafka.Dialer{ClientID: clientID, Timeout: 3 * time.Second, DialFunc: c.connect}
}

// prefix is what names of topics and groups of this session begin with.
func (c *Client) prefix() string {
	if c.cfg.Session == "" {
		return ""
	}
	return c.cfg.Session + "."
}

// Session returns the session's name, "" for the live one.
func (c *Client) Session() string { return c.cfg.Session }

// Group returns the consumer group of a role in this session.
func (c *Client) Group(role string) string { return c.prefix() + "autohedge." + role }

// Partitions returns the topic's number of partitions.
func (c *Client) Partitions(topic string) int32 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.partitions[topic]
}

// unknown is the error of a topic that has no partitions: the brokers refused to
// tell of it, or it does not exist.
func (c *Client) unknown(topic string) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if err := c.closed[topic]; err != nil {
		return err
	}
	return errors.New("no such topic")
}

func (c *Client) setClosed(closed map[string]error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = closed
}

// Partition returns the partition of a key, as the Java client's murmur2 gives.
func (c *Client) Partition(topic string, key []byte) int32 {
	return partitionOf(key, c.Partitions(topic))
}

// knownTopics returns the partition counts that EnsureTopics found.
func (c *Client) knownTopics() map[string]int32 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.partitions // replaced as a whole, never changed
}

// Close closes the connections. Producers, readers and consumers are closed
// before.
func (c *Client) Close() error {
	c.transport.CloseIdleConnections()
	c.bulk.CloseIdleConnections()
	c.leaders.close()
	return nil
}

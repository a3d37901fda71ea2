package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

const (
	// dialTimeout bounds making a connection, TLS and login included.
	dialTimeout = 5 * time.Second
	// idleTimeout is how long an unused connection is kept: less than the 10
	// minutes after which a broker ends it (connections.max.idle.ms).
	idleTimeout = 5 * time.Minute
)

// leaderOf returns host:port of the broker that leads the partition, by what the
// transport knows already: it asks for the cluster's layout every second or two.
func (c *Client) leaderOf(ctx context.Context, topic string, partition int32) (addr string, err error) {
	m, err := c.transport.RoundTrip(ctx, c.kafka.Addr, &metadata.Request{TopicNames: []string{topic}})
	if err != nil {
		return "", fmt.Errorf("looking for the leader of %s/%d: %w", topic, partition, noAnswer(err))
	}
	layout, ok := m.(*metadata.Response)
	if !ok || len(layout.Topics) != 1 {
		return "", fmt.Errorf("looking for the leader of %s/%d: answer is a %T", topic, partition, m)
	}
	partitions := layout.Topics[0].Partitions
	if len(partitions) == 0 {
		return "", protocol.NewErrNoTopic(topic)
	}
	i := slices.IndexFunc(partitions, func(p metadata.ResponsePartition) bool { return p.PartitionIndex == partition })
	if i < 0 {
		return "", protocol.NewErrNoPartition(topic, partition)
	}
	for _, b := range layout.Brokers {
		if b.NodeID == partitions[i].LeaderID {
			return net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))), nil
		}
	}
	return "", protocol.NewErrNoLeader(topic, partition)
}

// leaders are the connections of a client to the brokers that lead partitions, for
// produce requests alone: as many to each as requests were under way at once.
type leaders struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu     sync.Mutex
	idle   map[string][]*produceConn // by address, in the order in which they were last used
	closed bool
	sweep  *time.Timer // while something is idle
}

func newLeaders(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *leaders {
	return &leaders{dial: dial, idle: make(map[string][]*produceConn)}
}

// produce sends a batch to a partition's leader and returns its answer. A
// *routeError says that nothing was sent; after any other the batch may be in the
// log.
func (s *leaders) produce(ctx context.Context, addr, topic string, partition int32, data []byte) (produceAnswer, error) {
	pc, err := s.take(ctx, addr)
	if err != nil {
		return produceAnswer{}, &routeError{err}
	}
	used, began := pc.used, pc.idle
	a, err := pc.produce(ctx, topic, partition, data)
	if err != nil {
		_ = pc.Close()
		if used && ctx.Err() == nil {
			// What was idle even longer has most likely met the same end.
			s.closeIdle(addr, began)
		}
		return a, err
	}
	s.put(addr, pc)
	return a, nil
}

// take returns a connection for the caller alone: the one that was used last, or
// a new one.
func (s *leaders) take(ctx context.Context, addr string) (*produceConn, error) {
	s.mu.Lock()
	conns := s.idle[addr]
	if n := len(conns); n > 0 {
		pc := conns[n-1]
		conns[n-1] = nil
		s.idle[addr] = conns[:n-1]
		s.mu.Unlock()
		return pc, nil
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := s.dial(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", addr, noAnswer(err))
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	pc, err := newProduceConn(conn)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connecting to %s: %w", addr, noAnswer(err))
	}
	return pc, nil
}

// noAnswer hides an error code: what a broker answers while it is connected to is
// no answer to a batch, and is tried again.
func noAnswer(err error) error {
	if _, ok := errorCode(err); ok {
		return errors.New(err.Error())
	}
	return err
}

// put gives a connection back.
func (s *leaders) put(addr string, pc *produceConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = pc.Close()
		return
	}
	pc.idle = time.Now()
	s.idle[addr] = append(s.idle[addr], pc)
	if s.sweep == nil {
		s.sweep = time.AfterFunc(idleTimeout, s.closeOld)
	}
}

// closeIdle closes the connections to a broker that are idle since then or longer.
func (s *leaders) closeIdle(addr string, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := s.idle[addr]
	n := 0
	for ; n < len(conns) && !conns[n].idle.After(since); n++ {
		_ = conns[n].Close()
	}
	if s.idle[addr] = slices.Delete(conns, 0, n); len(s.idle[addr]) == 0 {
		delete(s.idle, addr)
	}
}

// closeOld closes what was not used for long.
func (s *leaders) closeOld() {
	since := time.Now().Add(-idleTimeout)
	s.mu.Lock()
	addrs := make([]string, 0, len(s.idle))
	for addr := range s.idle {
		addrs = append(addrs, addr)
	}
	s.mu.Unlock()
	for _, addr := range addrs {
		s.closeIdle(addr, since)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep = nil
	if len(s.idle) > 0 && !s.closed {
		s.sweep = time.AfterFunc(idleTimeout, s.closeOld)
	}
}

// close closes the connections; those in use follow when they are given back.
func (s *leaders) close() {
	s.mu.Lock()
	s.closed = true
	if s.sweep != nil {
		s.sweep.Stop()
	}
	s.mu.Unlock()
	s.closeAll()
}

// closeAll closes the connections that are idle.
func (s *leaders) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for addr, conns := range s.idle {
		for _, pc := range conns {
			_ = pc.Close()
		}
		delete(s.idle, addr)
	}
}

package bus

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/autohedge/autohedge/stream/component"
)

// virtual is an embedded broker on a network in memory, for use within a synctest
// bubble, where time passes only while everybody waits.
type virtual struct {
	network *kfake.VirtualNetwork
	cluster *kfake.Cluster
	cfg     func(*Config) // what its clients need beyond the address; nil is nothing
	answers *rewriter     // what its clients ask and are told
}

const virtualAddr = "127.0.0.1:9092"

// inBubble runs f with a virtual broker. That f's goroutines all end, and none of
// them waits for what cannot come, is seen to by synctest; that the fault matrix
// has rows for every kind of request that was sent, here.
func inBubble(t *testing.T, f func(t *testing.T, v *virtual), opts ...kfake.Opt) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		v := &virtual{network: new(kfake.VirtualNetwork), answers: newRewriter()}
		var err error
		v.cluster, err = kfake.NewCluster(append([]kfake.Opt{
			kfake.NumBrokers(1), kfake.Ports(9092), kfake.ListenFn(v.network.Listen), kfake.ClusterID("virtual"),
			kfake.GroupMinSessionTimeout(time.Second), kfake.DefaultNumPartitions(1),
		}, opts...)...)
		if err != nil {
			t.Fatal(err)
		}
		defer v.cluster.Close()
		f(t, v)
		for _, kind := range v.answers.unlisted() {
			t.Errorf("%s was sent and is not in the fault matrix: add it to faultOps", kind)
		}
	})
}

// open returns a client; close it before the bubble ends.
func (v *virtual) open(ctx context.Context) (*Client, error) {
	return v.openOver(ctx, v.network.DialContext)
}

func (v *virtual) openOver(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error)) (*Client, error) {
	return v.openAs(ctx, v.config(), dial)
}

func (v *virtual) openAs(ctx context.Context, cfg Config, dial func(context.Context, string, string) (net.Conn, error)) (*Client, error) {
	return connectOver(ctx, cfg, component.Discard(), func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return v.answers.wrap(conn), nil
	})
}

func (v *virtual) config() Config {
	cfg := testConfig(virtualAddr)
	if v.cfg != nil {
		v.cfg(&cfg)
	}
	return cfg
}

// connect returns a client of the broker whose topics exist; it is closed at the
// end of the bubble.
func (v *virtual) connect(t *testing.T) *Client {
	t.Helper()
	c, err := v.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

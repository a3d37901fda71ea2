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
}

const virtualAddr = "127.0.0.1:9092"

// inBubble runs f with a virtual broker. That f's goroutines all end, and none of
// them waits for what cannot come, is seen to by synctest.
func inBubble(t *testing.T, f func(t *testing.T, v *virtual)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		v := &virtual{network: new(kfake.VirtualNetwork)}
		var err error
		v.cluster, err = kfake.NewCluster(
			kfake.NumBrokers(1), kfake.Ports(9092), kfake.ListenFn(v.network.Listen), kfake.ClusterID("virtual"),
			kfake.GroupMinSessionTimeout(time.Second), kfake.DefaultNumPartitions(1),
		)
		if err != nil {
			t.Fatal(err)
		}
		defer v.cluster.Close()
		f(t, v)
	})
}

// open returns a client; close it before the bubble ends.
func (v *virtual) open(ctx context.Context) (*Client, error) {
	return v.openOver(ctx, v.network.DialContext)
}

func (v *virtual) openOver(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error)) (*Client, error) {
	return connectOver(ctx, testConfig(virtualAddr), component.Discard(), dial)
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

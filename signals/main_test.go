package signals

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/bus/kafkatest"
	"github.com/autohedge/autohedge/stream/component"
)

// kafkaVar chooses the broker of the tests, as in the tests of package bus: empty
// is the embedded one, "apache" a real Apache Kafka.
const kafkaVar = "AUTOHEDGE_TEST_KAFKA"

// apache is the Apache Kafka that the tests share; each has a session of its own.
var apache struct {
	sync.Mutex
	broker   *kafkatest.Broker
	sessions atomic.Int64
}

type run struct{ m *testing.M }

func (r run) Run() int {
	code := r.m.Run()
	if apache.broker != nil {
		if _, err := apache.broker.Stop(false); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	return code
}

// A role, a killed one too, leaves no goroutine behind.
func TestMain(m *testing.M) {
	if os.Getenv(childVar) != "" {
		os.Exit(child())
	}
	goleak.VerifyTestMain(run{m})
}

// startBroker returns the configuration of a client of the test's own topics.
func startBroker(t testing.TB) bus.Config {
	t.Helper()
	ctx := context.Background()
	cfg := bus.DefaultConfig()
	cfg.Partitions = testPartitions
	if os.Getenv(kafkaVar) == "apache" {
		apache.Lock()
		defer apache.Unlock()
		if apache.broker == nil {
			b, err := kafkatest.Start(ctx, kafkatest.Config{})
			if errors.Is(err, kafkatest.ErrUnavailable) && os.Getenv("CI") != "true" {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			apache.broker = b
		}
		cfg.Brokers, cfg.Session = []string{apache.broker.Addr()}, fmt.Sprintf("t%d", apache.sessions.Add(1))
		return cfg
	}
	broker, err := bus.StartEmbedded(ctx, bus.EmbeddedConfig{Addr: "127.0.0.1:0", Partitions: testPartitions}, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := broker.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg.Brokers = []string{broker.Addr()}
	return cfg
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/bus/kafkatest"
)

// The brokers that can be measured, as Options.Kafka names them.
const (
	Embedded = "embedded"
	Apache   = "apache"
)

// CheckKafka reports whether Options.Kafka may be called so.
func CheckKafka(name string) error {
	if name != "" && name != Embedded && name != Apache {
		return fmt.Errorf("unknown Kafka %q: want %s, or %s for both brokers", name, Embedded, Apache)
	}
	return nil
}

// brokers are the brokers of a run, each in a process of its own and started
// when it is first asked for.
type brokers struct {
	dir      string
	embedded *bus.EmbeddedProcess
	apache   *kafkatest.Broker
	sessions int
}

// suffix is what the names of measurements on the broker end with.
func suffix(kind string) string {
	if kind == Apache {
		return "." + Apache
	}
	return ""
}

// kinds are the brokers that measurements run on.
func (o Options) kinds() []string {
	if o.Kafka == Apache {
		return []string{Embedded, Apache}
	}
	return []string{Embedded}
}

// addr returns the address of the broker of that kind.
func (b *brokers) addr(ctx context.Context, kind string) (addr string, err error) {
	switch {
	case kind == Apache && b.apache == nil:
		if b.apache, err = kafkatest.Start(ctx, kafkatest.Config{Measured: true}); err != nil {
			return "", err
		}
	case kind == Embedded && b.embedded == nil:
		if b.embedded, err = bus.StartEmbeddedProcess(bus.EmbeddedConfig{Dir: filepath.Join(b.dir, "kafka")}); err != nil {
			return "", err
		}
	}
	if kind == Apache {
		return b.apache.Addr(), nil
	}
	return b.embedded.Addr(), nil
}

func (b *brokers) close() (err error) {
	if b.apache != nil {
		_, err = b.apache.Stop(false)
	}
	if b.embedded != nil {
		err = errors.Join(err, b.embedded.Close())
	}
	return err
}

// connection is a client of a broker in a session of its own.
type connection struct {
	*bus.Client
	addr    string
	session string
}

// topic is the name by which others than bus know a topic of the session.
func (c *connection) topic(name string) string { return c.session + "." + name }

// connect returns a client whose topics exist and are empty; drop removes them.
func (o Options) connect(ctx context.Context, kind string) (*connection, error) {
	addr, err := o.brokers.addr(ctx, kind)
	if err != nil {
		return nil, err
	}
	o.brokers.sessions++
	c := &connection{addr: addr, session: fmt.Sprintf("b%d", o.brokers.sessions)}
	cfg := bus.DefaultConfig()
	cfg.Partitions = 4 // as in every run since the first, to compare them
	cfg.Brokers, cfg.Session = []string{addr}, c.session
	if c.Client, err = bus.Connect(ctx, cfg, env(o)); err != nil {
		return nil, err
	}
	if err := c.EnsureTopics(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// drop removes the session's topics and closes the client.
func (c *connection) drop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	return errors.Join(c.DropSession(ctx, c.session), c.Close())
}

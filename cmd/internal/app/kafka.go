package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/autohedge/autohedge/cmd/internal/folder"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
)

// defaultKafka is where the embedded broker listens unless configured.
const defaultKafka = "127.0.0.1:9292"

// kafkaOf is the configuration that reaches the embedded broker of an announcement. It
// logs in by SCRAM, which tells the password to nobody who has taken the port.
func kafkaOf(cfg bus.Config, owner folder.Announcement) bus.Config {
	cfg.Brokers = []string{owner.Addr}
	if owner.Password != "" {
		cfg.SASL, cfg.User, cfg.Password = "scram-sha-256", owner.User, component.NewSecret(owner.Password)
	}
	return cfg
}

// embeddedKafka returns the address and the credential of the folder's broker, which
// another process may already run.
func (e *engine) embeddedKafka(ctx context.Context) (folder.Announcement, error) {
	if e.broker != nil {
		return e.kafkaAnnouncement, nil
	}
	_, err := e.ownOrJoin(ctx, "kafka", func() (string, error) {
		if err := e.startKafka(ctx); err != nil {
			return "", err
		}
		return e.broker.Addr(), nil
	})
	if err != nil {
		return folder.Announcement{}, err
	}
	if e.broker != nil {
		return e.kafkaAnnouncement, nil
	}
	owner, ok := e.folder.Owner("kafka")
	if !ok {
		return owner, errors.New("finding the folder's Kafka: its process has just ended: start again")
	}
	return owner, nil
}

// startKafka starts the folder's broker in this process.
func (e *engine) startKafka(ctx context.Context) error {
	if err := e.own("kafka"); err != nil {
		return err
	}
	key, err := e.folder.Key("kafka")
	if err != nil {
		return err
	}
	cfg := bus.EmbeddedConfig{
		Dir: e.folder.Kafka(), Partitions: e.cfg.Kafka.Partitions, OpenReads: e.cfg.Embedded.OpenReads, MaxLogBytes: e.maxLogBytes(),
		Logins: []bus.Login{{User: bus.KeyUser, Password: component.NewSecret(key)}},
	}
	if e.cfg.Kafka.User != "" {
		cfg.Logins = append(cfg.Logins, bus.Login{User: e.cfg.Kafka.User, Password: e.cfg.Kafka.Password})
	}
	// The last address comes first: clients of before find it there.
	last := e.folder.LastAddr("kafka")
	for _, addr := range []string{e.cfg.Embedded.Kafka, last, defaultKafka, "127.0.0.1:0"} {
		if addr == "" {
			continue
		}
		cfg.Addr = addr
		e.broker, err = bus.StartEmbedded(ctx, cfg, e.env)
		if !errors.Is(err, syscall.EADDRINUSE) || addr == e.cfg.Embedded.Kafka {
			break
		}
	}
	if err != nil {
		return err
	}
	if addr := e.broker.Addr(); e.cfg.Embedded.Kafka == "" && addr != defaultKafka && addr != last {
		e.env.Log.Info("the default Kafka port is busy, another one is used", "default", defaultKafka, "addr", addr)
	}
	e.kafkaAnnouncement = folder.Announcement{Addr: e.broker.Addr(), User: bus.KeyUser, Password: key}
	if err := e.writeClientFiles(); err != nil {
		return err
	}
	return e.folder.Announce("kafka", e.kafkaAnnouncement)
}

// maxLogBytes is what the embedded broker's log may take.
func (e *engine) maxLogBytes() int64 {
	return cmp.Or(e.cfg.Embedded.KafkaMaxBytes, bus.DefaultLogBytes())
}

// The files that let other people's clients log in, as their tools read them.
const (
	javaFile = "kafka.properties" // --command-config of the Java tools
	kcatFile = "kcat.conf"        // -F of kcat and of what else is made with librdkafka
)

// writeClientFiles writes them beside the announcement, for the folder's owner alone.
func (e *engine) writeClientFiles() error {
	a := e.kafkaAnnouncement
	for name, text := range map[string]string{
		javaFile: fmt.Sprintf("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-256\n"+
			"sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username=%q password=%q;\n", a.User, a.Password),
		kcatFile: fmt.Sprintf("bootstrap.servers=%s\nsecurity.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-256\nsasl.username=%s\nsasl.password=%s\n",
			a.Addr, a.User, a.Password),
	} {
		path := filepath.Join(e.folder.Run(), name)
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
	}
	return nil
}

package bus

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/bus/kafkatest"
	"github.com/autohedge/autohedge/stream/event"
)

// javaTool runs one of Apache Kafka's command-line tools and returns what it prints.
func javaTool(t *testing.T, class string, args ...string) (string, error) {
	t.Helper()
	bustest.ApacheOnly(t, "the tools come with Apache Kafka")
	lib, err := kafkatest.Fetch(t.Context())
	bustest.NeedApache(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "java", append([]string{"-XX:TieredStopAtLevel=1", "-cp", filepath.Join(lib, "*"), class}, args...)...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("forged\n"), &out, &out
	err = cmd.Run()
	return out.String(), err
}

// The Java tools that our own errors name, and those that look, work on the embedded
// broker with the credential of the start; without it they write nothing.
func TestJavaToolsOnTheEmbeddedBroker(t *testing.T) {
	b, cfg := startClosed(t, t.TempDir(), true)
	c := connect(t, cfg)
	p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
	produce(t, p, event.TopicMarket, 0, 40)
	if _, err := drained(t, c, "test", event.TopicMarket); err != nil {
		t.Fatal(err)
	}
	properties := filepath.Join(t.TempDir(), "kafka.properties")
	text := fmt.Sprintf("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-256\n"+
		"sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username=%q password=%q;\n", KeyUser, testKey)
	if err := os.WriteFile(properties, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	const (
		topics  = "org.apache.kafka.tools.TopicCommand"
		groups  = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
		configs = "org.apache.kafka.tools.ConfigCommand"
		console = "org.apache.kafka.tools.ConsoleProducer"
		reader  = "org.apache.kafka.tools.consumer.ConsoleConsumer"
		trim    = "org.apache.kafka.tools.DeleteRecordsCommand"
	)
	offsets := filepath.Join(t.TempDir(), "offsets.json")
	if err := os.WriteFile(offsets, []byte(`{"version": 1, "partitions": [{"topic": "md", "partition": 1, "offset": 4}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		class string
		args  string
		want  string // what it prints
		fails bool   // without the credential
	}{
		{topics, "--list", "md\n", false},
		{topics, "--describe --topic md", fmt.Sprintf("PartitionCount: %d", cfg.Partitions), false},
		{topics, "--describe", "Topic: meta", false},
		{groups, "--list", "autohedge.test", false},
		{groups, "--describe --group autohedge.test", "autohedge.test", false},
		{groups, "--describe --group autohedge.test --members", "", false},
		{groups, "--group autohedge.test --topic md:2 --reset-offsets --to-offset 3 --execute", "NEW-OFFSET", true},
		{groups, "--group autohedge.test --topic md --reset-offsets --to-earliest --execute", "NEW-OFFSET", true},
		{configs, "--describe --entity-type topics --entity-name md", "retention.ms", false},
		{configs, "--alter --entity-type topics --entity-name md --add-config retention.ms=700000000", "Completed updating config", true},
		{topics, "--create --topic mine --partitions 3 --replication-factor 1", "Created topic mine", true},
		{topics, "--delete --topic mine", "", true},
		{trim, "--offset-json-file " + offsets, "low_watermark: 4", true},
		{reader, "--topic md --partition 0 --offset 0 --max-messages 2 --timeout-ms 20000", "Processed a total of 2 messages", false},
		{console, "--topic dead", "", true},
	} {
		credential := "--command-config"
		args := append([]string{"--bootstrap-server", b.Addr()}, strings.Fields(tt.args)...)
		out, err := javaTool(t, tt.class, args...)
		switch refused := strings.Contains(strings.ToLower(out), "authoriz"); {
		case !tt.fails && (err != nil || !strings.Contains(out, tt.want)):
			t.Errorf("%s %s without a login: %v\n%s", tt.class, tt.args, err, out)
		case tt.fails && !refused && !strings.Contains(out, "does not exist"): // what may not be described
			t.Errorf("%s %s without a login was not refused: %v\n%s", tt.class, tt.args, err, out)
		}
		out, err = javaTool(t, tt.class, append(args, credential, properties)...)
		if err != nil || !strings.Contains(out, tt.want) || strings.Contains(out, "Exception") {
			t.Errorf("%s %s: %v\n%s", tt.class, tt.args, err, out)
		}
	}
}

package app_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/event"
)

// A Kafka that is killed comes back where it was, also when the default port is free by
// then, and with the same credential.
func TestKafkaComesBackOnItsLastPort(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	last := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(data, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "run", "kafka.last"), []byte(last+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "kafka", "--data", data)
	p.says(`kafka listens on ` + last)
	before := announced(t, data, "kafka")
	p.kill()
	start(t, "kafka", "--data", data).says(`kafka listens on ` + last)
	if after := announced(t, data, "kafka"); after.Addr != before.Addr || after.Password != before.Password || after.User != before.User {
		t.Errorf("announced %+v, before %+v", after, before)
	}
}

// A program without the credential moves no money: what it forges is refused.
func TestForgedRecordsNeedTheCredential(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	start(t, "kafka", "--data", data).says(`kafka listens on`)
	succeed(t, "topics", "adopt", "md", "--why", "makes the topics", "--yes", "--data", data)
	a := announced(t, data, "kafka")
	forged := func(topic string) []bustest.ForeignRecord {
		return []bustest.ForeignRecord{{Topic: topic, Key: []byte("paper"), Value: []byte("forged")}}
	}
	for _, spec := range event.Topics {
		if spec.Name != event.TopicMarket && spec.Name != event.TopicMeta {
			continue // the others are made by the first role
		}
		if err := bustest.WriteForeign(t.Context(), a.Addr, forged(spec.Name)); err == nil || !strings.Contains(err.Error(), "Not authorized") {
			t.Errorf("writing %s without the credential gave %v", spec.Name, err)
		}
		if err := bustest.WriteForeign(t.Context(), a.Addr, forged(spec.Name), bustest.LogIn(a.User, a.Password)); err != nil {
			t.Errorf("writing %s with it gave %v", spec.Name, err)
		}
	}
	for name, want := range map[string]string{"kafka.json": a.Password, "kcat.conf": a.Password, "kafka.properties": a.Password} {
		path := filepath.Join(data, "run", name)
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
		if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s does not hold the credential: %v", path, err)
		}
	}
}

package folder

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("FOLDER_TEST_HOLD"); dir != "" {
		f, err := Open(dir)
		if err == nil {
			_, err = f.Lock("")
		}
		if err != nil {
			os.Stdout.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Stdout.WriteString("held\n")
		var b [1]byte
		_, _ = os.Stdin.Read(b[:])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestLockNamesItsHolder(t *testing.T) {
	dir := t.TempDir()
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), "FOLDER_TEST_HOLD="+dir)
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = holder.Wait() }()
	buf := make([]byte, 100)
	n, _ := out.Read(buf)
	if string(buf[:n]) != "held\n" {
		t.Fatalf("holder said %q", buf[:n])
	}
	f, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Lock("")
	var held *HeldError
	if !errors.As(err, &held) || held.PID != holder.Process.Pid {
		t.Fatalf("got %v, want a HeldError of process %d", err, holder.Process.Pid)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	l, err := f.Lock("")
	if err != nil {
		t.Fatalf("after its holder was killed: %v", err)
	}
	l.Unlock()
}

func TestOwnerMustHoldTheLock(t *testing.T) {
	f, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Announce("kafka", Announcement{Addr: "127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	if a, ok := f.Owner("kafka"); ok {
		t.Fatalf("nobody holds kafka, but its owner is %+v", a)
	}
	l, err := f.Own("kafka")
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := f.Owner("kafka"); ok {
		t.Fatalf("a dead owner's announcement was taken for the new one's: %+v", a)
	}
	if err := f.Announce("kafka", Announcement{Addr: "127.0.0.1:2"}); err != nil {
		t.Fatal(err)
	}
	if a, ok := f.AwaitOwner(t.Context(), "kafka", time.Second); !ok || a.Addr != "127.0.0.1:2" || a.PID != os.Getpid() {
		t.Fatalf("owner is %+v, %v", a, ok)
	}
	var held *HeldError
	if err := f.Clear(); !errors.As(err, &held) {
		t.Fatalf("clearing what is in use gave %v", err)
	}
	f.Withdraw("kafka")
	l.Unlock()
	if _, err := os.Stat(filepath.Join(f.Run(), "kafka.json")); !os.IsNotExist(err) {
		t.Error("the announcement is still there")
	}
}

func TestClearKeepsTheLatch(t *testing.T) {
	f, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{f.Kafka(), f.ClickHouse(), f.Paper(), f.Sim()} {
		if err := os.MkdirAll(p, 0o750); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(f.Halt(), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Clear(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(f.Kafka()); !os.IsNotExist(err) {
		t.Error("kafka is still there")
	}
	if _, err := os.Stat(f.Halt()); err != nil {
		t.Error("the halt file is gone")
	}
}

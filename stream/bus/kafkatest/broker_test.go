package kafkatest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// childVar makes the test binary a process that starts a broker and waits.
const childVar = "AUTOHEDGE_TEST_KAFKA_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVar) == "" {
		os.Exit(m.Run())
	}
	b, err := Start(context.Background(), Config{})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println(b.Addr(), b.dir)
	select {}
}

// However the process that started a broker ends, the broker ends.
func TestBrokerEndsWithItsProcess(t *testing.T) {
	if os.Getenv("AUTOHEDGE_TEST_KAFKA") != "apache" {
		t.Skip("AUTOHEDGE_TEST_KAFKA is not apache")
	}
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a signal for it")
	}
	if _, err := Fetch(t.Context()); errors.Is(err, ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childVar+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	addr, dir, ok := strings.Cut(strings.TrimSpace(line), " ")
	if !ok || addr == "error" {
		t.Fatal(line)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := dial(addr); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); dial(addr) == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the broker listens although its process was killed")
		}
	}
}

func dial(addr string) error {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

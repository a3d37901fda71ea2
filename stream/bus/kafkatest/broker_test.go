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
	var addrs []string
	var dir string
	if os.Getenv(childVar) == "broker" {
		b, err := Start(context.Background(), Config{})
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		addrs, dir = []string{b.Addr()}, b.dir
	} else {
		c, err := StartCluster(context.Background(), ClusterConfig{})
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		// A paused one has to end as well.
		if err := c.Broker(2).Pause(); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		addrs, dir = c.Addrs(), c.dir
	}
	fmt.Println(strings.Join(addrs, ","), dir)
	select {}
}

// However the process that started brokers ends, they end.
func TestBrokersEndWithTheirProcess(t *testing.T) {
	for _, what := range []string{"broker", "cluster"} {
		t.Run(what, func(t *testing.T) { testEnds(t, what) })
	}
}

func testEnds(t *testing.T, what string) {
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
	cmd.Env = append(os.Environ(), childVar+"="+what)
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
	addrs, dir, ok := strings.Cut(strings.TrimSpace(line), " ")
	if !ok || addrs == "error" {
		t.Fatal(line)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for addr := range strings.SplitSeq(addrs, ",") {
		if err := dial(addr); err != nil { // a paused one's kernel still takes connections
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for addr := range strings.SplitSeq(addrs, ",") {
		for deadline := time.Now().Add(20 * time.Second); dial(addr) == nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the broker at %s listens although its process was killed", addr)
			}
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

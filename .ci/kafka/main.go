// Command kafka runs Apache Kafka for .ci: it starts brokers on free loopback
// ports, prints their addresses, comma separated, runs the command that is given
// with the addresses in KAFKA_BROKERS, and ends with that command's exit code.
// Without a command it waits for an interrupt. The brokers end with it.
//
//	go run ./.ci/kafka [-brokers 1|3] [-set NAME=VALUE]... [COMMAND [ARGUMENT...]]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/autohedge/autohedge/stream/bus/kafkatest"
)

func main() {
	brokers := flag.Int("brokers", 1, "how many: 1 or 3")
	properties := make(map[string]string)
	flag.Func("set", "a line of server.properties, NAME=VALUE; may be given again", func(s string) error {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("want NAME=VALUE")
		}
		properties[name] = value
		return nil
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, *brokers, properties, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
	}
	os.Exit(code)
}

func run(ctx context.Context, brokers int, properties map[string]string, command []string) (code int, err error) {
	addrs, end, err := start(ctx, brokers, properties)
	if err != nil {
		return 2, err
	}
	fmt.Println(addrs)
	if len(command) == 0 {
		<-ctx.Done()
	} else {
		cmd := exec.CommandContext(ctx, command[0], command[1:]...) // #nosec G204 -- what the caller asks for
		cmd.Env = append(os.Environ(), "KAFKA_BROKERS="+addrs)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		if err = cmd.Run(); err != nil {
			code = 1
			if exit := new(exec.ExitError); errors.As(err, &exit) && exit.ExitCode() > 0 {
				code, err = exit.ExitCode(), nil // it has said why
			}
		}
	}
	kept, eerr := end(code != 0)
	if kept != "" {
		fmt.Fprintln(os.Stderr, "kafka: the logs of the brokers are in", kept)
	}
	return code, errors.Join(err, eerr)
}

// start returns the addresses and what ends the brokers.
func start(ctx context.Context, brokers int, properties map[string]string) (addrs string, end func(keep bool) (string, error), err error) {
	switch brokers {
	case 1:
		b, err := kafkatest.Start(ctx, kafkatest.Config{Properties: properties})
		if err != nil {
			return "", nil, err
		}
		return b.Addr(), b.Stop, nil
	case 3:
		c, err := kafkatest.StartCluster(ctx, kafkatest.ClusterConfig{Properties: properties})
		if err != nil {
			return "", nil, err
		}
		return strings.Join(c.Addrs(), ","), c.Stop, nil
	}
	return "", nil, fmt.Errorf("%d brokers: want 1 or 3", brokers)
}

package bus

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/autohedge/autohedge/stream/component"
)

// embeddedVariable marks a re-exec of this binary as an embedded broker's
// process; its value is the EmbeddedConfig.
const embeddedVariable = "AUTOHEDGE_KAFKA_CHILD"

// RunEmbeddedIfAsked serves an embedded broker and ends the process when this
// process is the re-exec that StartEmbeddedProcess starts; otherwise it returns
// at once. Call it first in main and in every TestMain whose tests start one.
func RunEmbeddedIfAsked() {
	if spec := os.Getenv(embeddedVariable); spec != "" {
		syscall.Exit(runEmbedded(spec, os.Stdin, os.Stdout))
	}
}

// runEmbedded serves until in ends, which it does with the parent, however that
// ends.
func runEmbedded(spec string, in io.Reader, out io.Writer) (code int) {
	signal.Ignore(os.Interrupt) // the parent's business
	var cfg EmbeddedConfig
	err := json.Unmarshal([]byte(spec), &cfg)
	var b *Embedded
	if err == nil {
		b, err = StartEmbedded(context.Background(), cfg, component.Discard())
	}
	if err != nil {
		fmt.Fprintln(out, "error", err)
		return 1
	}
	fmt.Fprintln(out, "listening", b.Addr())
	_, _ = io.Copy(io.Discard, in)
	_ = b.Close() // it ends either way
	return 0
}

// EmbeddedProcess is an embedded broker in a process of its own, of this binary.
type EmbeddedProcess struct {
	cmd  *exec.Cmd
	in   io.Closer
	addr string
}

// StartEmbeddedProcess starts one; Close ends it, and so does the end of this
// process, however that comes.
func StartEmbeddedProcess(cfg EmbeddedConfig) (*EmbeddedProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	spec, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("starting an embedded Kafka process: %w", err)
	}
	cmd := exec.Command(self) //nolint:gosec // G204: this program itself
	cmd.Env = append(os.Environ(), embeddedVariable+"="+string(spec))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("opening a pipe to an embedded Kafka process: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("opening a pipe from an embedded Kafka process: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting an embedded Kafka process: %w", err)
	}
	p := &EmbeddedProcess{cmd: cmd, in: in}
	line, err := bufio.NewReader(out).ReadString('\n')
	line = strings.TrimSpace(line)
	addr, ok := strings.CutPrefix(line, "listening ")
	if !ok {
		if err == nil || line != "" {
			err = errors.New(strings.TrimPrefix(line, "error "))
		}
		_ = p.Close() // its end says no more than its words
		return nil, fmt.Errorf("starting an embedded Kafka process: %w", err)
	}
	p.addr = addr
	return p, nil
}

// Addr returns host:port.
func (p *EmbeddedProcess) Addr() string { return p.addr }

// Close stops the broker and waits until its process has ended.
func (p *EmbeddedProcess) Close() error {
	_ = p.in.Close()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("ending an embedded Kafka process: %w", err)
	}
	return nil
}

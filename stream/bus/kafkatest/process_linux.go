package kafkatest

import (
	"fmt"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// endWithParent makes the kernel kill the child when the thread that started it
// ends, however this process ends; the caller keeps that thread.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// Pause stops the broker's process as SIGSTOP does: its connections stay and
// nothing answers. Resume wakes it.
func (b *Broker) Pause() error { return b.send(syscall.SIGSTOP) }

// Resume wakes a paused broker.
func (b *Broker) Resume() error { return b.send(syscall.SIGCONT) }

func (b *Broker) send(sig syscall.Signal) error {
	if !b.Running() {
		return fmt.Errorf("sending %s to broker %d: it does not run", sig, b.id)
	}
	return b.process.signal(sig)
}

// LimitFiles makes every write beyond the first size bytes of a file fail in the
// running broker, from now on: what a full disk is to those who may not mount
// one. A Restart has no limit.
func (b *Broker) LimitFiles(size uint64) error {
	if !b.Running() {
		return fmt.Errorf("limiting the files of broker %d: it does not run", b.id)
	}
	if err := unix.Prlimit(b.process.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: unix.RLIM_INFINITY}, nil); err != nil {
		return fmt.Errorf("limiting the files of broker %d: %w", b.id, err)
	}
	return nil
}

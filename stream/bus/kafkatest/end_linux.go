package kafkatest

import (
	"os/exec"
	"syscall"
)

// endWithParent makes the kernel kill the child when the thread that started it
// ends, however this process ends; the caller keeps that thread.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

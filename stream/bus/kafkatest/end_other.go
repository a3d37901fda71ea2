//go:build !linux

package kafkatest

import "os/exec"

// endWithParent has no such signal to ask for here: the broker ends with Stop,
// and stays when this process is killed before.
func endWithParent(*exec.Cmd) {}

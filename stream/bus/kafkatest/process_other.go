//go:build !linux

package kafkatest

import (
	"errors"
	"os/exec"
)

// errLinux says that the machine lacks what a fault is made with.
var errLinux = errors.New("this fault is made on Linux only")

// endWithParent has no such signal to ask for here: the broker ends with Stop,
// and stays when this process is killed before.
func endWithParent(*exec.Cmd) {}

// Pause is for Linux.
func (b *Broker) Pause() error { return errLinux }

// Resume is for Linux.
func (b *Broker) Resume() error { return errLinux }

// LimitFiles is for Linux.
func (b *Broker) LimitFiles(uint64) error { return errLinux }

//go:build !linux

package clustertest

import "errors"

var errLinux = errors.New("a small tmpfs is mounted on Linux only")

func (disk) mount(int) error { return errLinux }

func (disk) unmount() error { return nil }

func (disk) fill() error { return errLinux }

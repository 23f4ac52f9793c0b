//go:build !linux

package main

import "syscall"

// endsWithParent does nothing here: a process ends when its input does.
func endsWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

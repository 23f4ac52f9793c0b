package main

import "syscall"

// endsWithParent has the kernel kill a process when the server is gone, even one
// that is stopped and does not see its input end.
func endsWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

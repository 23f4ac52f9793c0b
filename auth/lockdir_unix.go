//go:build unix

package auth

import (
	"os"
	"syscall"
)

// lockDir keeps other starts from making a master key in dir. It fails at once
// while another has the lock, unless it is to wait.
func lockDir(dir string, wait bool) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	if err := syscall.Flock(int(d.Fd()), how); err != nil {
		d.Close()
		return nil, err
	}
	return func() { d.Close() }, nil
}

//go:build unix

package audit

import (
	"errors"
	"os"
	"syscall"
)

// lock takes the file for this process until it is closed: two writers would
// fork the chain.
func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errors.New("another modelgate process has this audit log open; stop it first")
	}
	return err
}

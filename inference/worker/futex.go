//go:build linux && (amd64 || arm64)

package worker

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The operations of futex(2) on shared memory.
const (
	futexWait = 0
	futexWake = 1
)

// futex waits while the word has that value, or wakes that many who wait.
func futex(word *atomic.Uint32, op int, value uint32) {
	// Errors are wakes for no reason, which callers expect.
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), uintptr(op), uintptr(value), 0, 0, 0)
}

// takeOne makes a counter one less; false: it is 0.
func takeOne(counter *atomic.Uint32) bool {
	for {
		n := counter.Load()
		if n == 0 {
			return false
		}
		if counter.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// discard frees the pages of shared memory whose content nobody needs. Where
// that can't be, they stay for the next.
func discard(stretch []byte) { _ = unix.Madvise(stretch, unix.MADV_REMOVE) }

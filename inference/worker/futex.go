//go:build linux && (amd64 || arm64)

package worker

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The operations of futex(2) on shared memory.
const (
	futexWait = 0
	futexWake = 1
)

// wait sleeps while the word has that value, and may return for no reason.
//
// The first millisecond is slept without telling Go's scheduler. It would take
// the thread's processor away after 20 us, and wake a thread of its own to look
// for such cases all the time: under load, when sleeps are short, both cost
// more than the sleep. Meanwhile only the garbage collector may have to wait.
func wait(word *atomic.Uint32, value uint32) {
	short := unix.Timespec{Nsec: int64(time.Millisecond)}
	_, _, err := unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWait, uintptr(value), uintptr(unsafe.Pointer(&short)), 0, 0)
	if err == unix.ETIMEDOUT {
		_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWait, uintptr(value), 0, 0, 0)
	}
}

// wakeOne wakes one thread that sleeps on the word.
func wakeOne(word *atomic.Uint32) {
	_, _, _ = unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWake, 1, 0, 0, 0)
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

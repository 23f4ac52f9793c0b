//go:build linux && (amd64 || arm64)

package worker

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listen takes completions until the worker has ended.
func (s *session) listen() {
	defer close(s.heard)
	raw, err := s.control.SyscallConn()
	looked := false
	for idle := 0; err == nil; {
		var n int
		if n, err = s.drain(); err != nil {
			s.kill("liar: it gave an answer that can't be: " + err.Error())
		} else if n > 0 {
			idle, looked = 0, false
		} else if !looked {
			// While others have the processor, the worker may complete more, and need
			// not tell of it.
			looked = true
			runtime.Gosched()
		} else if idle++; idle > maxIdle {
			s.kill("liar: it calls and says nothing")
			break
		} else {
			err = s.await(raw)
			looked = false
		}
	}
	s.bury("exit: it hung up")
	_, _ = s.drain() // what it did before it ended is good
	s.vanish()
}

// await sleeps until the worker tells of completions, or somebody else does
// (rouseListener); it fails when the worker is gone.
func (s *session) await(raw syscall.RawConn) error {
	slept := false
	var failed error
	err := raw.Read(func(fd uintptr) bool {
		if !slept {
			// From here on the worker tells; what it did before is seen now.
			slept = true
			s.arena.armed.Store(1)
			return s.arena.completed.Load() != s.heardOf.Load()
		}
		var heard [64]byte
		n, err := unix.Read(int(fd), heard[:])
		if n == 0 && err == nil {
			failed = io.EOF
		}
		return true
	})
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.Join(err, failed)
	}
	select {
	case <-s.exited:
		return io.EOF
	default:
		return s.control.SetReadDeadline(time.Time{})
	}
}

// rouseListener makes the goroutine that waits for the worker look again.
func (p *process) rouseListener() { _ = p.control.SetReadDeadline(time.Unix(1, 0)) }

// maxIdle is how often a worker may wake the server for nothing.
const maxIdle = 1 << 12

// drain takes the completions there are.
func (s *session) drain() (int, error) {
	read := s.heardOf.Load()
	n := s.arena.completed.Load() - read
	if n == 0 {
		return 0, nil
	}
	if n > ringSize {
		return 0, fmt.Errorf("%d completions", n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for range n {
		index := s.arena.completions[read%ringSize].Load()
		read++
		s.heardOf.Store(read)
		if index >= uint32(len(s.calls)) || !s.calls[index].flying {
			return 0, fmt.Errorf("the completion of slot %d, which has no run", index)
		}
		c := s.calls[index]
		c.flying = false
		c.rounds++
		if c.left {
			c.release()
			if s.arena.slots[index].answer.outputs > maxKept {
				s.postReturn(c)
			}
			s.recycle(c)
			continue
		}
		c.done <- true
	}
	return int(n), nil
}

// vanish ends the calls of a worker that is gone. Those that it had begun may
// be why; when it was killed for one that overran its time, the others are not.
func (s *session) vanish() {
	s.mu.Lock()
	s.gone = true
	overrun := false
	for _, c := range s.calls {
		overrun = overrun || c.flying && c.overdue
	}
	for _, c := range s.calls {
		if !c.flying {
			continue
		}
		c.flying = false
		if c.left {
			c.release()
			continue // and nobody needs the slot
		}
		c.crash = s.process.crash(!overrun && s.arena.slots[c.index].began.Load() != 0)
		c.done <- true
	}
	closed := s.closed
	s.mu.Unlock()
	if !closed {
		s.engine.report(s.process)
		close(s.lost)
	}
}

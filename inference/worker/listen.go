//go:build linux && (amd64 || arm64)

package worker

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
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

// stopEnded tells the worker to end the runs whose context has ended, kills it
// when it does not, also when it does not even begin one though no thread is
// held up by an earlier run, and makes threads yield that run for long. It
// reports whether any run is going on.
func (s *session) stopEnded(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	running := false
	oldest, begun := s.oldestBegun()
	for _, c := range s.calls {
		if !c.flying {
			continue
		}
		running = true
		slot := &s.arena.slots[c.index]
		thread := slot.began.Load()
		if thread != 0 && c.seen.IsZero() {
			c.seen = now
		}
		if thread != 0 && !c.yields && now.Sub(c.seen) >= longRun {
			c.yields = true
			s.slow(thread)
		}
		s.stop(c, now, thread != 0, begun && int32(c.number-oldest) >= 0)
	}
	if running && now.Sub(s.counted) > time.Second {
		s.counted = now
		if n := threads(s.cmd.Process.Pid); n > s.most {
			s.kill(fmt.Sprintf("liar: it has %d threads", n))
		}
	}
	// A thread that was to take the next run, or to tell of the last one, may be
	// held up by a run that is longer than the worker is used to.
	if running && s.arena.taken.Load() != s.arena.submitted.Load() {
		s.rouse()
	}
	if running && s.arena.completed.Load() != s.heardOf.Load() && s.arena.armed.Load() != 0 {
		s.rouseListener()
	}
	return running
}

// stop ends a call in flight whose context has ended. waits tells whether an
// earlier one may be why it has not begun: they are taken up in order. The
// caller holds mu.
func (s *session) stop(c *call, now time.Time, began, waits bool) {
	if c.ended.IsZero() {
		if c.ctx.Err() == nil {
			return
		}
		c.ended = now
		s.arena.slots[c.index].cancel.Store(1)
	}
	if !began && waits && !c.left {
		// Not for as long as an earlier one takes. The slot stays the worker's.
		c.left = true
		c.done <- false
	}
	switch grace := s.engine.cfg.Grace; {
	case now.Sub(c.ended) <= grace:
	case began && now.Sub(c.seen) > grace:
		c.overdue = true
		s.kill("deadline: a run did not end in time")
	case !began && !waits:
		s.kill("liar: it does not take up a run")
	}
}

// oldestBegun is the number of the first submitted of the runs that the worker
// says it has begun; false: it has begun none. The caller holds mu.
func (s *session) oldestBegun() (number uint32, begun bool) {
	for _, c := range s.calls {
		if c.flying && s.arena.slots[c.index].began.Load() != 0 && (!begun || int32(c.number-number) < 0) {
			number, begun = c.number, true
		}
	}
	return number, begun
}

// threads is how many a process has; 0 where the kernel does not show them.
func threads(pid int) int {
	list, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	if err != nil {
		return 0
	}
	return len(list)
}

// slow makes a thread of the worker give way to all others. The number comes
// from the worker, and might be that of any process.
func (s *session) slow(thread uint32) {
	tid := strconv.FormatUint(uint64(thread), 10)
	if _, err := os.Stat("/proc/" + strconv.Itoa(s.cmd.Process.Pid) + "/task/" + tid); err == nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, int(thread), 10) // else it computes as before
	}
}

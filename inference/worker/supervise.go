//go:build linux && (amd64 || arm64)

package worker

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

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

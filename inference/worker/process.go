//go:build linux && (amd64 || arm64)

package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"modelgate/inference"
)

// process is one worker process, as the server has it.
type process struct {
	cmd     *exec.Cmd
	control *net.UnixConn
	memory  *os.File // what arena maps
	arena   arena
	said    *said
	model   string        // what the log calls it
	exited  chan struct{} // closed when it has ended and said holds all that it said
	// listened is set once a session listens to control. Before, what the worker
	// has sent is to be read even when it has ended.
	listened atomic.Bool

	mu     sync.Mutex
	reason string // why it was ended, or what the kernel says of its end; guarded by mu
}

// start starts a worker and gives it the shared memory.
func (e *Engine) start() (*process, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer ours.Close()
	defer theirs.Close()
	p := &process{said: &said{}, exited: make(chan struct{})}
	if p.control, err = dial(ours); err != nil {
		return nil, err
	}
	err = p.share(e.room)
	if err == nil {
		err = p.exec(e, theirs)
	}
	if err != nil {
		p.control.Close()
		p.unshare()
		return nil, err
	}
	return p, nil
}

// share makes the shared memory, whose size nobody can change.
func (p *process) share(room int) error {
	memory, err := memfd("modelgate-tensors", arenaSize(room))
	if err != nil {
		return err
	}
	p.memory = memory
	if _, err := unix.FcntlInt(memory.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return err
	}
	mapping, err := unix.Mmap(int(memory.Fd()), 0, arenaSize(room), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	p.arena, err = arenaOf(mapping)
	return err
}

// unshare gives the shared memory back. Nobody may use it any more.
func (p *process) unshare() {
	if p.arena.mapping != nil {
		_ = unix.Munmap(p.arena.mapping) // fails only for a mapping that is not ours
		p.arena = arena{}
	}
	if p.memory != nil {
		p.memory.Close()
	}
}

func memfd(name string, size int) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), name)
	if err := file.Truncate(int64(size)); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func (p *process) exec(e *Engine, control *os.File) error {
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	p.cmd = e.cage.command(workerFiles{control: control, memory: p.memory, library: e.library}, e.cfg.MaxMemory)
	p.cmd.Stdout, p.cmd.Stderr = in, in
	if err := e.cage.start(p.cmd); err != nil {
		out.Close()
		return fmt.Errorf("a worker can't be started: %w", err)
	}
	e.metrics.starts.Inc()
	e.metrics.workers.Inc()
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		defer out.Close()
		p.said.listen(out)
	}()
	go func() {
		err := p.cmd.Wait()
		e.metrics.workers.Dec()
		<-heard
		p.end(ending(err, p.said.text()))
		close(p.exited)
		if p.listened.Load() {
			p.rouseListener() // who may have missed that the socket was closed
		}
	}()
	return nil
}

// fatal are the signals by which a process ends that made a mistake.
var fatal = []syscall.Signal{syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGSYS}

// ending words how a process ended. Go's runtime catches the signal of a
// mistake in C code, tells of it, and exits with 2. What the process said is
// not to be trusted, and gives none of its words.
func ending(err error, said string) string {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return "exit: it ended by itself"
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return "signal: " + status.Signal().String()
	}
	if exit.ExitCode() == 2 {
		for _, s := range fatal {
			if strings.Contains("\n"+said, "\n"+unix.SignalName(s)+": ") {
				return "signal: " + s.String()
			}
		}
	}
	return "exit: " + exit.String()
}

// end notes why the process ends; the first to say so is right.
func (p *process) end(reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reason == "" {
		p.reason = reason
	}
}

// why tells how the process ended, or why it was ended.
func (p *process) why() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reason
}

// kill ends the process at once.
func (p *process) kill(reason string) {
	p.end(reason)
	_ = p.cmd.Process.Kill() // it fails for one that has ended
}

// bury returns when the process has ended, which it is about to do by itself.
func (p *process) bury(reason string) {
	select {
	case <-p.exited:
	case <-time.After(time.Second):
		p.kill(reason)
		<-p.exited
	}
}

// discard ends the process and frees what it held.
func (p *process) discard(reason string) {
	p.kill(reason)
	<-p.exited
	p.control.Close()
	p.unshare()
}

// crash is what the end of the process means to a run or a load.
func (p *process) crash(inside bool) *inference.Crash {
	reason := p.why()
	if p.said.lackedMemory() {
		reason = "memory: " + reason
	}
	return &inference.Crash{Reason: reason, Inside: inside}
}

// endWith kills the process when ctx ends, until the function that it returns
// is called; what waits for its words then sees their end.
func (p *process) endWith(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { p.kill("deadline: its time was up") })
}

// maxSaid is how much is kept of what a worker writes, of its beginning and
// of its end.
const maxSaid = 4 << 10

// said keeps what a worker writes to its standard output and error: nothing
// of it may get elsewhere than the protected log.
type said struct {
	mu    sync.Mutex
	first []byte // guarded by mu
	last  []byte // of what did not fit into first; guarded by mu
	cut   bool   // something in between is lost; guarded by mu
}

// talkPause is the rest after each piece of what a worker writes without end,
// which would take a processor of the server's else.
const talkPause = time.Millisecond

func (s *said) listen(from *os.File) {
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		s.add(buf[:n])
		if err != nil {
			return
		}
		if n == len(buf) {
			time.Sleep(talkPause)
		}
	}
}

func (s *said) add(text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(text), maxSaid-len(s.first))
	s.first = append(s.first, text[:n]...)
	if s.last = append(s.last, text[n:]...); len(s.last) > maxSaid {
		s.last = append(s.last[:0], s.last[len(s.last)-maxSaid:]...)
		s.cut = true
	}
}

// text is what was said, for the protected log; "" for nothing.
func (s *said) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	middle := ""
	if s.cut {
		middle = "\n[...]\n"
	}
	return strings.ToValidUTF8(strings.TrimSpace(string(s.first)+middle+string(s.last)), "?")
}

// lackedMemory reports whether the last words are those of one without memory.
func (s *said) lackedMemory() bool {
	text := s.text()
	for _, words := range []string{"out of memory", "cannot allocate memory", "bad_alloc"} {
		if strings.Contains(text, words) {
			return true
		}
	}
	return false
}

package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/sys/unix"
)

// hashCommand is the hidden subcommand of the processes that hash passwords. A
// hash takes a core for 30 ms and 46 MiB. In the server's own process its thread
// would hold one of the few turns of Go's scheduler, and its memory set the
// collector to work, whatever the thread's priority: predictions would wait. In
// a process of low priority it takes what they leave.
const hashCommand = "hash-passwords"

// hashNice is the priority of those processes: while all cores are busy they
// get a quarter of one, so that sign-ins go on, slowly.
const hashNice = 5

// hashPatience is how long a process may take besides what hashers.most allows
// for the work itself: on a loaded machine it waits for its turn.
const hashPatience = 20 * time.Second

// hashers are processes that hash passwords, as many as the gate lets in.
type hashers struct {
	idle   chan *hashProcess // as many as may work at once; nil: not started yet
	starts chan func()       // what run calls
	log    *slog.Logger
	// command makes the command to start; thisProgram but in tests.
	command  func() (*exec.Cmd, error)
	patience time.Duration // hashPatience but in tests
}

type hashProcess struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// hashRequest goes before the password and the salt, in little endian.
type hashRequest struct {
	Password, Salt, Time, Memory, Parallel, Size uint32
}

// newHashers prepares n processes; each starts when it is first needed.
func newHashers(n int, log *slog.Logger) *hashers {
	h := &hashers{make(chan *hashProcess, n), make(chan func()), log, thisProgram, hashPatience}
	for range n {
		h.idle <- nil
	}
	go h.run()
	return h
}

// run starts processes on one thread until close: Linux ends them when the
// thread that started them ends.
func (h *hashers) run() {
	runtime.LockOSThread() // never unlocked, so that no other goroutine ends it
	for start := range h.starts {
		start()
	}
}

// thisProgram runs the program that runs already, on Linux also when its file
// was replaced meanwhile: another version may talk otherwise. It keeps the name
// that it was started by.
func thisProgram() (*exec.Cmd, error) {
	path, err := os.Executable()
	if _, gone := os.Stat(ownLink); gone == nil {
		path, err = ownLink, nil
	}
	return &exec.Cmd{Path: path, Args: []string{os.Args[0], hashCommand}}, err
}

// ownLink is the program that runs, on Linux.
const ownLink = "/proc/self/exe"

// derive is argon2.IDKey, computed by one of the processes. One that has failed
// or hangs is replaced; where none can be started, the server computes by itself.
func (h *hashers) derive(password, salt []byte, passes, memory uint32, parallel uint8, size uint32) []byte {
	p := <-h.idle
	defer func() { h.idle <- p }()
	r := hashRequest{uint32(len(password)), uint32(len(salt)), passes, memory, uint32(parallel), size}
	key, err := p.derive(r, password, salt, h.most(r))
	if err == nil {
		return key
	}
	p.end()
	if p, err = h.start(); err == nil {
		if key, err = p.derive(r, password, salt, h.most(r)); err == nil {
			return key
		}
	}
	p.end()
	p = nil
	h.log.Warn("a password is hashed by the server itself, which slows predictions: no process for it could be used", "cause", err)
	return argon2.IDKey(password, salt, passes, memory, parallel, size)
}

var errNotStarted = errors.New("not started")

// most is the time after which a process is taken for one that hangs: a second
// for each 16 MiB that it fills, a hundred times what that takes, and patience.
func (h *hashers) most(r hashRequest) time.Duration {
	return h.patience + time.Duration(r.Time)*time.Duration(r.Memory)*time.Second/(16<<10)
}

// derive asks the process. One that has not answered after most is killed,
// which ends the waiting: else whoever stops it would stop all sign-ins, and
// the end of the server.
func (p *hashProcess) derive(r hashRequest, password, salt []byte, most time.Duration) ([]byte, error) {
	if p == nil {
		return nil, errNotStarted
	}
	defer time.AfterFunc(most, func() { _ = p.cmd.Process.Kill() }).Stop()
	order, err := binary.Append(nil, binary.LittleEndian, r)
	if err == nil {
		_, err = p.in.Write(append(append(order, password...), salt...))
	}
	if err != nil {
		return nil, fmt.Errorf("a process that hashes passwords: %w", err)
	}
	key := make([]byte, r.Size)
	if _, err := io.ReadFull(p.out, key); err != nil {
		return nil, fmt.Errorf("a process that hashes passwords: %w", err)
	}
	return key, nil
}

func (h *hashers) start() (*hashProcess, error) {
	cmd, err := h.command()
	if err != nil {
		return nil, err
	}
	p := &hashProcess{cmd: cmd}
	p.cmd.Env = []string{"GOMAXPROCS=1"} // none of the server's secrets
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = endsWithParent()
	p.cmd.SysProcAttr.Setpgid = true // Ctrl-C is for the server, which lets sign-ins end
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	started := make(chan error, 1)
	h.starts <- func() { started <- p.cmd.Start() }
	return p, <-started
}

// end ends a process, which does so by itself when its input does.
func (p *hashProcess) end() {
	if p == nil || p.cmd.Process == nil {
		return
	}
	p.in.Close()
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// close ends the processes once they are idle.
func (h *hashers) close() {
	for range cap(h.idle) {
		(<-h.idle).end()
	}
	close(h.starts)
}

// runHasher is the other process: it answers requests until its input ends.
func runHasher(in io.Reader, out io.Writer) int {
	// All threads of the process, which is alone in its group: the scheduler of Go
	// computes on any of them, and PRIO_PROCESS is one thread. Where it can't be had,
	// it computes as before.
	_ = unix.Setpriority(unix.PRIO_PGRP, 0, hashNice)
	idle := time.AfterFunc(time.Hour, debug.FreeOSMemory)
	defer idle.Stop()
	for r := bufio.NewReader(in); ; {
		var q hashRequest
		if err := binary.Read(r, binary.LittleEndian, &q); err != nil {
			return 0
		}
		text := make([]byte, q.Password+q.Salt)
		if _, err := io.ReadFull(r, text); err != nil {
			return 0
		}
		if _, err := out.Write(argon2.IDKey(text[:q.Password], text[q.Password:], q.Time, q.Memory, uint8(q.Parallel), q.Size)); err != nil {
			return 0
		}
		clear(text)
		runtime.GC()            // the next takes the same memory
		idle.Reset(time.Second) // or is long in coming
	}
}

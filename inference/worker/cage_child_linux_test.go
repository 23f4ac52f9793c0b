//go:build amd64 || arm64

package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"modelgate/inference"
	"modelgate/inference/ort"
	"modelgate/models"
)

// Names by which the test binary starts itself.
const (
	workerName  = "cage-worker"  // a worker that does a task of a test
	uncagedName = "cage-uncaged" // the same without a cage
	ranName     = "cage-ran"     // what a worker tries to start
	victimName  = "cage-victim"  // another process of the worker's user
	serverName  = "cage-server"  // a server with one worker, to be killed
	mainName    = "cage-main"    // a server that begins on the main thread
	deniedName  = "cage-denied"  // a server whose kernel lacks something
)

// cageMain makes the test binary what its name says; it returns for the names
// of others.
func cageMain() {
	switch os.Args[0] {
	case workerName, uncagedName:
		workerMain()
	case ranName:
		(&link{out: os.NewFile(controlFD, "control")}).tell(message{Outcome: &outcome{Name: "start a program"}})
		os.Exit(0)
	case victimName:
		unix.Prctl(unix.PR_SET_PTRACER, ^uintptr(0), 0, 0, 0) // in spite of Yama
		fmt.Println("here")
		os.Stdin.Read(make([]byte, 1)) // until the test ends
		os.Exit(0)
	case serverName:
		serverMain()
	case mainName:
		mainThread()
	case deniedName:
		deniedMain(os.Args[1:])
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// task is what a test has a worker do once the cage is shut.
type task struct {
	Do    string
	Prey  prey
	Bytes int   // to allocate
	Sizes []int // of the files in the shared memory, one after another
}

// message is what a worker answers.
type message struct {
	Protections *Protections
	Outcome     *outcome
	Text        string
}

// link is a worker's side of the control socket.
type link struct {
	mu  sync.Mutex
	out *os.File
}

func (l *link) tell(m message) {
	line, err := json.Marshal(m)
	fail(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.out.Write(append(line, '\n'))
	fail(err)
}

// workerMain is a worker of the tests.
func workerMain() {
	var in *inside
	if os.Args[0] == workerName {
		var err error
		in, err = enter(os.Args[2:])
		fail(err)
	}
	control := os.NewFile(controlFD, "control")
	l := &link{out: control}
	line, err := bufio.NewReader(control).ReadBytes('\n')
	fail(err)
	var t task
	fail(json.Unmarshal(line, &t))
	var engine *ort.Engine
	if t.Do == "run models" {
		engine, err = ort.Open(libraryPath, ort.Config{Memory: inference.NewMemory(256 << 20), MaxMemory: 256 << 20})
		fail(err)
	}
	var has Protections
	if in != nil {
		has, err = in.shut()
		fail(err)
	}
	l.tell(message{Protections: &has})
	switch t.Do {
	case "attack":
		attack(t.Prey, func(o outcome) { l.tell(message{Outcome: &o}) })
	case "allocate":
		allocate(t, l)
	case "run models":
		runModels(engine, t, l)
	case "panic":
		panic("as told")
	case "abort":
		unix.Kill(os.Getpid(), unix.SIGABRT)
	}
	select {} // until it is killed
}

// allocate tells whether it gets so much memory, and then as much as is its own.
func allocate(t task, l *link) {
	for _, n := range []int{t.Bytes, 1 << 20} {
		_, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		errno, _ := err.(unix.Errno)
		l.tell(message{Outcome: &outcome{Errno: errno}})
	}
}

// runModels loads and runs each file of the shared memory, several at once, and
// tells in order how it went.
func runModels(engine *ort.Engine, t task, l *link) {
	results := make([]string, len(t.Sizes))
	var all errgroup.Group
	all.SetLimit(8)
	offset := int64(0)
	for i, size := range t.Sizes {
		model := make([]byte, size)
		_, err := unix.Pread(memoryFD, model, offset)
		fail(err)
		offset += int64(size)
		all.Go(func() error {
			for range 3 {
				results[i] = runModel(engine, model)
			}
			return nil
		})
	}
	all.Wait()
	for _, result := range results {
		l.tell(message{Text: result})
	}
}

// runModel tells how a load and a run of ones went, with all outputs.
func runModel(engine *ort.Engine, model []byte) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := engine.Load(ctx, model, inference.Options{})
	if err != nil {
		return "load: " + words(err)
	}
	defer s.Close()
	mem := inference.NewMemory(64 << 20)
	var in []inference.Tensor
	for _, value := range s.Graph().Inputs {
		shape := make([]int64, len(value.Shape))
		for i, d := range value.Shape {
			shape[i] = max(d, 1)
		}
		tensor, err := inference.NewTensor(mem, value.Type, shape)
		if err != nil {
			return "input: " + words(err)
		}
		defer tensor.Release()
		if value.Type == models.Float32 {
			for i := range inference.View[float32](&tensor) {
				inference.View[float32](&tensor)[i] = 1
			}
		}
		in = append(in, tensor)
	}
	values, err := s.Run(ctx, in, []int{0})
	if err != nil {
		return "run: " + words(err)
	}
	defer values[0].Release()
	return "ran"
}

// words are an error's with its cause's.
func words(err error) string {
	text := err.Error()
	for err = errors.Unwrap(err); err != nil; err = errors.Unwrap(err) {
		text += ": " + err.Error()
	}
	return text
}

// idle starts a worker that never ends by itself, and returns once it is shut.
func idle(c *cage) *exec.Cmd {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	fail(err)
	far, near := os.NewFile(uintptr(ends[0]), "far"), os.NewFile(uintptr(ends[1]), "near")
	exe, err := os.Open("/proc/self/exe")
	fail(err)
	cmd := c.command(workerFiles{control: far, memory: exe, library: exe}, 1<<20)
	cmd.Args[0] = workerName
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	fail(c.start(cmd))
	_, err = near.Write([]byte("{}\n"))
	fail(err)
	far.Close()
	answer, err := bufio.NewReader(near).ReadString('\n')
	fail(err)
	if !strings.Contains(answer, "Protections") {
		fail(errors.New(answer))
	}
	return cmd
}

// ended waits for a process and words how it ended, "" for well. One that lives
// on after a minute is killed, and fails.
func ended(cmd *exec.Cmd) string {
	late := time.AfterFunc(time.Minute, func() { cmd.Process.Signal(unix.SIGTERM) })
	defer late.Stop()
	if err := cmd.Wait(); err != nil {
		return err.Error()
	}
	return ""
}

// serverMain has a worker, tells its process id, and waits to be killed.
func serverMain() {
	c, err := newCage(context.Background(), cageConfig{})
	fail(err)
	fmt.Println(idle(c).Process.Pid)
	select {}
}

// A goroutine that init locks stays on the main thread.
func init() {
	if os.Args[0] == mainName {
		runtime.LockOSThread()
	}
}

// mainThread begins a cage on the main thread, closes it under a worker, and
// tells how that ended.
func mainThread() {
	if unix.Gettid() != os.Getpid() {
		fail(errors.New("this is not the main thread"))
	}
	c := &cage{starts: make(chan func()), ended: make(chan struct{})}
	go func() {
		cmd := idle(c)
		c.close()
		fmt.Println(ended(cmd))
		os.Exit(0)
	}()
	c.run()
	select {}
}

// deniedMain makes a cage where the kernel refuses the system calls named, and
// prints what is missing.
func deniedMain(names []string) {
	fail(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	fail(installFilter(denial(names)))
	c, err := newCage(context.Background(), cageConfig{})
	fail(err)
	for _, gap := range c.protections().Missing() {
		fmt.Println(gap.Label)
	}
	for _, err := range c.refusals() {
		fmt.Fprintln(os.Stderr, err)
	}
	c.close()
	os.Exit(0)
}

// denial is a filter that refuses calls as kernels and containers do.
func denial(names []string) []bpf.RawInstruction {
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: offsetCall, Size: 4}}
	for _, name := range names {
		number, errno := uint32(unix.SYS_SECCOMP), unix.ENOSYS
		switch name {
		case "landlock":
			number = unix.SYS_LANDLOCK_CREATE_RULESET
		case "setuid":
			number, errno = unix.SYS_SETUID, unix.EPERM
		case "kill":
			number, errno = unix.SYS_KILL, unix.EPERM
		case "pidfd":
			number, errno = unix.SYS_PIDFD_SEND_SIGNAL, unix.EPERM
		case "namespaces":
			program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_CLONE, SkipFalse: 4},
				bpf.LoadAbsolute{Off: offsetArguments, Size: 4},
				bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.CLONE_NEWUSER | unix.CLONE_NEWNET, SkipFalse: 1},
				bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
				bpf.LoadAbsolute{Off: offsetCall, Size: 4})
			continue
		}
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: number, SkipFalse: 1},
			bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(errno)})
	}
	raw, err := bpf.Assemble(append(program, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}))
	fail(err)
	return raw
}

func proc(pid int, name string) string { return filepath.Join("/proc", fmt.Sprint(pid), name) }

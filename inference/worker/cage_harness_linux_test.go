//go:build amd64 || arm64

package worker

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// spare is the memory given to models of the tests.
const spare = 64 << 20

func openCage(t *testing.T, without layer) *cage {
	t.Helper()
	c, err := newCage(t.Context(), cageConfig{without: without})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

// testWorker is a worker that was given a task.
type testWorker struct {
	t       *testing.T
	cmd     *exec.Cmd
	control *os.File
	answers *json.Decoder
	output  chan string // all it wrote, once it has ended
	has     Protections
}

// begin starts a worker in the cage, or in none, and waits until it is shut.
func begin(t *testing.T, c *cage, do task, library string, contents []byte) *testWorker {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(err)
	far := os.NewFile(uintptr(ends[0]), "far")
	defer far.Close()
	fd, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
	must(err)
	memory := os.NewFile(uintptr(fd), "memory")
	defer memory.Close()
	_, err = memory.Write(contents)
	must(err)
	lib, err := os.Open(library)
	must(err)
	defer lib.Close()
	files := workerFiles{control: far, memory: memory, library: lib}

	var cmd *exec.Cmd
	if c == nil {
		cmd = &exec.Cmd{Path: "/proc/self/exe", Args: []string{uncagedName}, Dir: "/", ExtraFiles: []*os.File{far, memory, lib},
			SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}}
		// The thread must outlive the test's worker.
		c = &cage{starts: make(chan func()), ended: make(chan struct{})}
		go c.run()
		t.Cleanup(c.close)
	} else {
		cmd = c.command(files, spare)
		cmd.Args[0] = workerName
	}
	w := &testWorker{t: t, cmd: cmd, control: os.NewFile(uintptr(ends[1]), "control"), output: make(chan string, 1)}
	t.Cleanup(func() { w.control.Close() })
	output, write, err := os.Pipe()
	must(err)
	defer write.Close()
	cmd.Stdout, cmd.Stderr = write, write
	must(c.start(cmd))
	t.Cleanup(func() { w.end() })
	go func() {
		defer output.Close()
		text, _ := io.ReadAll(output)
		w.output <- string(text)
	}()
	line, err := json.Marshal(do)
	must(err)
	_, err = w.control.Write(append(line, '\n'))
	must(err)
	w.answers = json.NewDecoder(w.control)
	w.has = *w.next().Protections
	return w
}

// next is the worker's next answer; the test fails at the end of them.
func (w *testWorker) next() message {
	w.t.Helper()
	var m message
	if err := w.answers.Decode(&m); err != nil {
		w.t.Fatalf("the worker says no more (%v), but wrote:\n%s", err, w.end())
	}
	return m
}

// end kills the worker, if it has not ended, and returns all it wrote.
func (w *testWorker) end() string {
	w.cmd.Process.Kill()
	w.cmd.Wait()
	text := <-w.output
	w.output <- text
	return text
}

// secret stands for a key in the server's memory.
var secret = [8]byte{'s', 'e', 'c', 'r', 'e', 't'}

// hunt makes what a worker goes for, and a victim of the worker's user.
func hunt(t *testing.T, user *syscall.Credential) prey {
	t.Helper()
	folder := t.TempDir()
	p := prey{Database: filepath.Join(folder, "modelgate.db"), Key: filepath.Join(folder, "signing.key"),
		Scratch: filepath.Join(folder, "scratch"), Folder: folder, Program: filepath.Join(folder, "program"),
		Unix: filepath.Join(folder, "s"), Abstract: "modelgate-" + strconv.Itoa(os.Getpid()) + "-" + filepath.Base(filepath.Dir(folder)),
		Parent: os.Getpid(), Secret: uintptr(unsafe.Pointer(&secret))}
	for _, path := range []string{p.Database, p.Key, p.Scratch} {
		if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, "/proc/self/exe", p.Program, 0o755)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close() })
	p.TCP = tcp.Addr().(*net.TCPAddr).Port
	for _, name := range []string{p.Unix, "@" + p.Abstract} {
		l, err := net.Listen("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	leaked, err := os.Open(p.Key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { leaked.Close() })
	// As C libraries do: not to be closed on exec.
	p.Leaked, err = unix.FcntlInt(leaked.Fd(), unix.F_DUPFD, 100)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p.Leaked) })
	// Where Yama forbids it, others may look into this process as elsewhere.
	unix.Prctl(unix.PR_SET_PTRACER, ^uintptr(0), 0, 0, 0)
	p.Victim = victim(t, user)
	return p
}

// victim starts a process that does nothing, and returns its id.
func victim(t *testing.T, user *syscall.Credential) int {
	t.Helper()
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{victimName}, Dir: "/", SysProcAttr: &syscall.SysProcAttr{Credential: user}}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "here\n" {
		t.Fatalf("the victim said %q, %v", line, err)
	}
	return cmd.Process.Pid
}

func copyFile(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	source, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, mode)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(target, source); err != nil {
		t.Fatal(err)
	}
	if err := target.Close(); err != nil {
		t.Fatal(err)
	}
}

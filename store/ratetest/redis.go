package ratetest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Redis is a real server of a test's own, on a free port of loopback, that keeps nothing on the disk. It ends with the test.
type Redis struct {
	t       testing.TB
	program string
	dir     string
	running *exec.Cmd     // nil: none
	gone    chan struct{} // closed when running has ended

	Address string // 127.0.0.1:PORT, the same after a restart
}

// StartRedis starts the program that MODELGATE_TEST_REDIS names, or else redis-server, with further arguments
// ("--maxmemory", "2mb"). Where there is none the test is skipped.
func StartRedis(t testing.TB, args ...string) *Redis {
	t.Helper()
	name := os.Getenv("MODELGATE_TEST_REDIS")
	if name == "" {
		name = "redis-server"
	}
	program, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("there is no %s; install the Debian package redis-server, or name the program in MODELGATE_TEST_REDIS", name)
	}
	r := &Redis{t: t, program: program, dir: t.TempDir()}
	t.Cleanup(r.Kill)
	for range 5 {
		r.Address = freePort(t)
		if err = r.start(args); err == nil {
			return r
		}
	}
	t.Fatal(err)
	return nil
}

// URL is what modelgate is told.
func (r *Redis) URL() string { return "redis://" + r.Address + "/0" }

// Port is the last part of Address.
func (r *Redis) Port() string {
	_, port, _ := net.SplitHostPort(r.Address)
	return port
}

// PID is the process of the server.
func (r *Redis) PID() int { return r.running.Process.Pid }

// Dir is where the server keeps its files.
func (r *Redis) Dir() string { return r.dir }

// freePort is an address on which nobody listens at the moment.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Start starts the server again after Kill, with other arguments than before.
func (r *Redis) Start(args ...string) {
	r.t.Helper()
	if err := r.start(args); err != nil {
		r.t.Fatal(err)
	}
}

func (r *Redis) start(args []string) error {
	all := append([]string{"--bind", "127.0.0.1", "--port", r.Port(), "--dir", r.dir, "--save", "", "--appendonly", "no"}, args...)
	var said strings.Builder
	c := exec.Command(r.program, all...)
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		return err
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = c.Wait()
	}()
	r.running, r.gone = c, gone
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		select {
		case <-gone:
			r.running = nil
			return fmt.Errorf("%s ended at once:\n%s", r.program, &said)
		default:
		}
		if _, err := r.Command("PING"); err == nil {
			return nil
		}
		time.Sleep(5 * time.Millisecond) // it gives no sign
	}
	r.Kill()
	return fmt.Errorf("%s does not answer on %s", r.program, r.Address)
}

// Kill ends the server at once, with all that it knows, if it runs.
func (r *Redis) Kill() {
	if r.running == nil {
		return
	}
	_ = r.running.Process.Signal(syscall.SIGCONT)
	_ = r.running.Process.Kill()
	<-r.gone
	r.running = nil
}

// Hang stops the server without closing a connection, until Continue.
func (r *Redis) Hang() { r.signal(syscall.SIGSTOP) }

// Continue ends Hang.
func (r *Redis) Continue() { r.signal(syscall.SIGCONT) }

func (r *Redis) signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.running.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

// Must is Command for a test that goes no further without.
func (r *Redis) Must(words ...string) string {
	r.t.Helper()
	reply, err := r.Command(words...)
	if err != nil || strings.HasPrefix(reply, "-") {
		r.t.Fatalf("%q: %q, %v", words, reply, err)
	}
	return reply
}

// Command sends a command on a connection of its own and returns the first line of the reply, with the byte that says of
// which kind it is ("+OK", "-ERR ...", ":5").
func (r *Redis) Command(words ...string) (string, error) {
	c, err := net.DialTimeout("tcp", r.Address, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	command := "*" + strconv.Itoa(len(words)) + "\r\n"
	for _, w := range words {
		command += "$" + strconv.Itoa(len(w)) + "\r\n" + w + "\r\n"
	}
	if _, err := c.Write([]byte(command)); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

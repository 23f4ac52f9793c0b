//go:build amd64 || arm64

package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cage starts the workers of one server. Safe for concurrent use.
type cage struct {
	cfg     cageConfig
	plan    plan
	has     Protections // of the probe
	refused []error     // plans that the kernel refused
	starts  chan func()
	ended   chan struct{}
}

// plan is how a worker is started: what the kernel may refuse.
type plan struct {
	userNamespace bool
	namespaces    bool // of network and IPC
	otherUser     bool
}

func (p plan) String() string {
	var parts []string
	for _, part := range []struct {
		is   bool
		name string
	}{{p.userNamespace, "a user namespace"}, {p.namespaces, "network and IPC namespaces"}, {p.otherUser, "another user"}} {
		if part.is {
			parts = append(parts, part.name)
		}
	}
	if len(parts) == 0 {
		return "neither namespaces nor another user"
	}
	return strings.Join(parts, " and ")
}

// plans lists what to try, the best first.
func plans(root bool, without layer) []plan {
	all := []plan{
		{userNamespace: true, namespaces: true, otherUser: root},
		{namespaces: root, otherUser: root},
		{otherUser: root},
		{userNamespace: true, namespaces: true},
		{namespaces: root},
		{},
	}
	var list []plan
	seen := map[plan]bool{}
	for _, p := range all {
		if without&layerNamespaces != 0 {
			p.userNamespace, p.namespaces = false, false
		}
		p.otherUser = p.otherUser && without&layerUser == 0
		if !seen[p] {
			seen[p] = true
			list = append(list, p)
		}
	}
	return list
}

// newCage finds out what the kernel lets workers have, by starting some that
// shut themselves in without a model and are killed. It fails when they can't
// have the minimum, and says what the kernel must offer. A cage has a thread of
// its own until it is closed.
func newCage(ctx context.Context, cfg cageConfig) (*cage, error) {
	c := &cage{cfg: cfg, starts: make(chan func()), ended: make(chan struct{})}
	go c.run()
	for _, p := range plans(os.Geteuid() == 0, cfg.without) {
		c.plan = p
		has, err := c.probe(ctx)
		if err == nil {
			c.has = has
			return c, nil
		}
		c.refused = append(c.refused, fmt.Errorf("a worker with %s: %w", p, err))
		if ctx.Err() != nil {
			break
		}
	}
	c.close()
	return nil, fmt.Errorf("models can't be caged here: %w. The kernel must offer seccomp filters (Linux 3.17 or newer, "+
		"CONFIG_SECCOMP_FILTER), no_new_privs and RLIMIT_DATA that counts mappings (4.7), and /proc must be mounted; "+
		"--isolation=none runs models inside the server, unprotected", c.refused[len(c.refused)-1])
}

// run starts workers on one thread for as long as the server lives: the kernel
// kills them when the thread that started them ends.
func (c *cage) run() {
	runtime.LockOSThread() // never unlocked, so that the thread ends with the goroutine
	if unix.Gettid() != os.Getpid() {
		c.serve()
		return
	}
	// But the main thread never ends before the process. While it is held here,
	// another goroutine gets another.
	held := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		close(held)
		c.serve()
	}()
	<-held
	runtime.UnlockOSThread()
}

// serve starts what is asked for until the cage is closed.
func (c *cage) serve() {
	defer close(c.ended)
	for start := range c.starts {
		start()
	}
}

// close ends the thread that started the workers, and with it any that are left.
func (c *cage) close() {
	close(c.starts)
	<-c.ended
}

// protections are those that the probe had; each worker tells its own.
func (c *cage) protections() Protections { return c.has }

// refusals tells, for the protected log, which better ways to start a worker
// the kernel refused, and how.
func (c *cage) refusals() []error { return c.refused }

// command makes the command of a worker whose model may have data bytes of
// memory. The caller sets where its output goes, which must be a file and not a
// Writer, and starts it by start.
func (c *cage) command(files workerFiles, data int64) *exec.Cmd {
	o := c.orders()
	o.Data = data
	return c.build(files, o)
}

func (c *cage) orders() orders {
	return orders{Parent: os.Getpid(), ParentUser: os.Geteuid(), Namespaces: namespaces(), Without: c.cfg.without}
}

func (c *cage) build(files workerFiles, o orders) *exec.Cmd {
	return &exec.Cmd{
		Path: "/proc/self/exe", // the same program even if its file was replaced meanwhile
		Args: o.args(),
		// The library's initialisers read it.
		Env:         []string{"ORT_DISABLE_TELEMETRY=1"},
		Dir:         "/",
		ExtraFiles:  []*os.File{files.control, files.memory, files.library},
		SysProcAttr: c.plan.attributes(),
	}
}

// start starts a command of this cage. Its Wait may be called by any goroutine.
func (c *cage) start(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	c.starts <- func() { result <- cmd.Start() }
	return <-result
}

// attributes turns the plan into what os/exec knows.
func (p plan) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Setsid:    true, // else an interrupt from the terminal ends workers before the server has drained
	}
	uid, gid := os.Geteuid(), os.Getegid()
	if p.otherUser {
		uid, gid = workerUser, workerUser
		// An empty list of groups is set as well.
		a.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	if p.userNamespace {
		a.Cloneflags |= unix.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		a.GidMappingsEnableSetgroups = p.otherUser
	}
	if p.namespaces {
		a.Cloneflags |= unix.CLONE_NEWNET | unix.CLONE_NEWIPC
	}
	// The first stage empties the bounding set by it, and gives it up.
	if p.userNamespace || p.otherUser && hasCapability(unix.CAP_SETPCAP) {
		a.AmbientCaps = []uintptr{unix.CAP_SETPCAP}
	}
	return a
}

// hasCapability tells whether this process has a capability.
func hasCapability(capability uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[capability/32].Permitted&(1<<(capability%32)) != 0
}

// namespaces names those of this process.
func namespaces() map[string]string {
	names := map[string]string{}
	for _, kind := range []string{"user", "net", "ipc"} {
		if name, err := os.Readlink(filepath.Join("/proc/self/ns", kind)); err == nil {
			names[kind] = name
		}
	}
	return names
}

// probe starts a worker that shuts itself in, tells its protections, and is
// killed.
func (c *cage) probe(ctx context.Context) (Protections, error) {
	// Long enough for a machine under heavy load.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	void, err := os.Open(os.DevNull)
	if err != nil {
		return Protections{}, err
	}
	defer void.Close()
	control, hold, err := os.Pipe()
	if err != nil {
		return Protections{}, err
	}
	defer control.Close()
	defer hold.Close()
	output, write, err := os.Pipe()
	if err != nil {
		return Protections{}, err
	}
	defer output.Close()
	defer write.Close()

	o := c.orders()
	o.Probe, o.Data = true, 1<<20
	cmd := c.build(workerFiles{control: control, memory: void, library: void}, o)
	cmd.Stdout, cmd.Stderr = write, write
	if err := c.start(cmd); err != nil {
		return Protections{}, err
	}
	write.Close()
	defer context.AfterFunc(ctx, func() { output.SetReadDeadline(time.Now()) })()
	has, err := readProbe(output)
	// A server that is root without the capability KILL can't end what is
	// another's; the worker then ends because its control socket does.
	if killed := cmd.Process.Kill(); killed != nil && err == nil {
		err = fmt.Errorf("it could not be killed: %w", killed)
	}
	hold.Close()
	cmd.Wait() // it was killed, so its status says nothing
	return has, errors.Join(err, ctx.Err())
}

// readProbe reads the one line that a probe prints, or the reason it gives.
func readProbe(output io.Reader) (Protections, error) {
	var has Protections
	line, err := bufio.NewReader(io.LimitReader(output, 64<<10)).ReadString('\n')
	if json.Unmarshal([]byte(line), &has) == nil {
		return has, nil
	}
	if line = strings.TrimSpace(line); line != "" {
		return has, errors.New(line)
	}
	return has, fmt.Errorf("it ended without a word: %w", err)
}

//go:build amd64 || arm64

package worker

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// enter is the first call of a worker process, given what follows the name of
// the hidden subcommand. Go can't run code between fork and exec, so a process
// comes here twice: the first time it gives up what it can and executes itself
// anew, which makes a thread's restrictions those of the whole process; only
// the second time enter returns an inside. It does not return in a probe.
func enter(args []string) (*inside, error) {
	var o orders
	if err := o.parse(args); err != nil {
		return nil, err
	}
	if !o.Staged {
		return nil, stageOne(o)
	}
	in := &inside{o}
	if o.Probe {
		in.probe()
	}
	return in, nil
}

// probe shuts the cage around nothing and waits to be killed.
func (in *inside) probe() {
	has, err := in.shut()
	if err != nil {
		fmt.Fprintln(os.Stdout, err)
		os.Exit(1)
	}
	line, err := json.Marshal(has)
	if err != nil {
		os.Exit(1)
	}
	fmt.Fprintf(os.Stdout, "%s\n", line)
	unix.Read(controlFD, make([]byte, 1)) // until the server kills it, or is gone
	os.Exit(0)
}

// stageOne restricts the calling thread and executes the program again. It
// returns only when it fails.
func stageOne(o orders) error {
	runtime.LockOSThread()
	// So that nothing of the server's is left that was opened without
	// close-on-exec, by whatever library.
	if err := closeOnExec(controlFD + 3); err != nil {
		return fmt.Errorf("the inherited descriptors can't be closed: %w", err)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, libraryPath, unix.R_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("user %d can't read the file of ONNX Runtime: let all users read it (chmod o+r): %w", os.Geteuid(), err)
	}
	p := &o.Applied
	// Before Landlock, which forbids it. What fails here is told by Missing.
	p.OOMFirst = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0) == nil
	now := namespaces()
	own := func(kind string) bool {
		return o.Namespaces[kind] != "" && now[kind] != "" && now[kind] != o.Namespaces[kind]
	}
	p.UserNamespace, p.NetworkNamespace, p.IPCNamespace = own("user"), own("net"), own("ipc")
	if err := dropCapabilities(); err != nil {
		return fmt.Errorf("capabilities can't be given up: %w", err)
	}
	if err := limitResources(); err != nil {
		return err
	}
	if p.UserNamespace {
		if err := limitThreads(); err != nil {
			return err
		}
	}
	// A worker that wakes takes no processor from the server, which has more for it
	// in a moment. Where the kernel refuses, it wakes more often than it must.
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH}, 0)
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs can't be set: %w", err)
	}
	if err := pin(); err != nil {
		return fmt.Errorf("/proc/self can't be opened: %w", err)
	}
	if o.Without&layerLandlock == 0 {
		abi, err := restrictFiles()
		if err != nil {
			return fmt.Errorf("the kernel has Landlock, which does not take the rules: %w", err)
		}
		p.Landlock = abi
	}
	// A change of user clears it, and the server may have ended before it was set.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("the death of the server can't be watched: %w", err)
	}
	if os.Getppid() != o.Parent {
		return errors.New("the server has ended")
	}
	o.Staged = true
	args := o.args()
	args[0] = os.Args[0]
	err := syscall.Exec("/proc/self/exe", args, os.Environ())
	return fmt.Errorf("the second stage can't be executed: %w", err)
}

// closeOnExec marks all descriptors from first on. Closing them at once would
// take those that Go's runtime uses.
func closeOnExec(first int) error {
	if unix.CloseRange(uint(first), 1<<31-1, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return nil
	}
	// Before Linux 5.11.
	folder, err := os.Open("/proc/self/fd")
	if err != nil {
		return err
	}
	defer folder.Close()
	names, err := folder.Readdirnames(-1)
	for _, name := range names {
		if fd, err := strconv.Atoi(name); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
	return err
}

// dropCapabilities empties all sets of the thread, the bounding set as well
// where it has the right to.
func dropCapabilities() error {
	for c := uintptr(0); c < 64; c++ {
		if unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0) != nil {
			break // the last one there is, or no right: no_new_privs does as well
		}
	}
	// The kernel has had no ambient set before 4.3.
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil && err != unix.EINVAL {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}

// maxThreads is beyond the threads that a worker's memory has room for, if they
// are as large as those of glibc; without it one with small stacks takes all
// that the machine may have, and the server can't go on.
func maxThreads() uint64 { return 128 + 4*ownThreads() }

// limitThreads bounds the threads of a process in a user namespace of its own.
// Kernels before 5.14 count those of a user in all namespaces together, where a
// limit would keep workers from each other.
func limitThreads() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("the version of the kernel can't be read: %w", err)
	}
	var major, minor int
	release := unix.ByteSliceToString(name.Release[:])
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n < 2 || major < 5 || major == 5 && minor < 14 {
		return nil
	}
	return lower(unix.RLIMIT_NPROC, "NPROC", maxThreads())
}

// limitResources sets the limits of resources that need not know what the
// worker takes. RLIMIT_DATA and RLIMIT_AS come later, see shut. RLIMIT_CPU would
// kill a worker that has long served. For RLIMIT_NPROC see limitThreads.
func limitResources() error {
	for _, l := range []struct {
		what int
		name string
		most uint64
	}{
		{unix.RLIMIT_CORE, "CORE", 0},
		{unix.RLIMIT_FSIZE, "FSIZE", 0},
		{unix.RLIMIT_MEMLOCK, "MEMLOCK", 0},
		{unix.RLIMIT_MSGQUEUE, "MSGQUEUE", 0},
		{unix.RLIMIT_RTPRIO, "RTPRIO", 0},
		{unix.RLIMIT_NICE, "NICE", 0},
		{unix.RLIMIT_LOCKS, "LOCKS", 0},
		{unix.RLIMIT_NOFILE, "NOFILE", 64},
		{unix.RLIMIT_STACK, "STACK", 8 << 20}, // also what each thread of C reserves
	} {
		if err := lower(l.what, l.name, l.most); err != nil {
			return err
		}
	}
	return nil
}

// lower sets a limit, unless it is lower already.
func lower(what int, name string, most uint64) error {
	var was unix.Rlimit
	if err := unix.Getrlimit(what, &was); err != nil {
		return fmt.Errorf("RLIMIT_%s can't be read: %w", name, err)
	}
	most = min(most, was.Max)
	if err := unix.Setrlimit(what, &unix.Rlimit{Cur: most, Max: most}); err != nil {
		return fmt.Errorf("RLIMIT_%s can't be set: %w", name, err)
	}
	return nil
}

// pin opens /proc/self as processFD, for shut to read. It also keeps the kernel
// from forgetting the inode that Landlock's rule is about.
func pin() error {
	self, err := unix.Open("/proc/self", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if self == processFD {
		_, err = unix.FcntlInt(processFD, unix.F_SETFD, 0)
		return err
	}
	return unix.Dup3(self, processFD, 0)
}

// ownRoom is how many bytes a worker may take beyond what it has at rest and
// what its model has: an arena of Go's heap, and the stacks of threads, which
// count in full. Go ends the process when it can't have a thread.
func ownRoom() uint64 {
	const (
		arena = 64 << 20
		stack = 8<<20 + 256<<10 // with what the thread's allocator keeps
	)
	return arena + stack*ownThreads()
}

// ownThreads is how many threads a worker may come to have.
func ownThreads() uint64 { return uint64(16 + 2*runtime.GOMAXPROCS(0)) }

// ownReserve is how many bytes of addresses a worker may reserve beyond what it
// has at rest and what it may write to: each thread's allocator reserves 128
// MiB, and the file is mapped while it is loaded.
func ownReserve() uint64 { return 4<<30 + 128<<20*ownThreads() }

// shut closes the cage, on all threads of the process: from here on no path can
// be opened, nothing be started, mapped executable or connected to. It comes
// after the library was loaded and set up, and before the model arrives. An
// error means that the minimum does not hold, and the worker must end. What
// GOMAXPROCS is to be must be set before.
func (in *inside) shut() (Protections, error) {
	p := in.orders.Applied
	status, err := processStatus()
	if err != nil {
		return p, fmt.Errorf("/proc/self/status can't be read: %w", err)
	}
	unix.Close(processFD)
	if in.orders.Data <= 0 {
		return p, errors.New("a worker needs a bound for the memory of its model")
	}
	// Counted from what is mapped, since that depends on the build: a race
	// detector maps terabytes.
	most := status.data + ownRoom() + uint64(in.orders.Data)
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: most, Max: most}); err != nil {
		return p, fmt.Errorf("RLIMIT_DATA can't be set: %w", err)
	}
	if holds(most) {
		p.DataLimit = int64(most)
	}
	// Page tables count for no limit, and what is only read needs them as well.
	addresses := status.size + ownReserve() + ownRoom() + uint64(in.orders.Data)
	if err := lower(unix.RLIMIT_AS, "AS", addresses); err != nil {
		return p, err
	}
	p.NotDumpable = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) == nil
	p.NoCapabilities = status.noCapabilities
	p.OtherUser = os.Geteuid() != in.orders.ParentUser
	p.Root = os.Geteuid() == 0
	held, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	p.NoNewPrivs = err == nil && held == 1
	if in.orders.Without&layerSeccomp == 0 {
		program, err := assemble(policy(uint64(os.Getpid())))
		if err != nil {
			return p, fmt.Errorf("the seccomp filter can't be made: %w", err)
		}
		if err := installFilter(program); err != nil {
			return p, fmt.Errorf("the seccomp filter can't be installed: %w", err)
		}
		mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
		_, socket := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		p.Seccomp = err == nil && mode == unix.SECCOMP_MODE_FILTER && socket == unix.EPERM
	}
	return p, p.check(in.orders.Without)
}

// holds tells whether the kernel keeps to RLIMIT_DATA: not before Linux 4.7,
// nor with ignore_rlimit_data.
func holds(most uint64) bool {
	// Not reserved, so that it can't fail for want of memory.
	mapping, err := unix.Mmap(-1, 0, int(most), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err == nil {
		unix.Munmap(mapping)
	}
	return err == unix.ENOMEM
}

// procStatus is what shut needs of /proc/self/status.
type procStatus struct {
	data           uint64 // bytes that RLIMIT_DATA counts
	size           uint64 // bytes that RLIMIT_AS counts
	noCapabilities bool
}

func processStatus() (procStatus, error) {
	fd, err := unix.Openat(processFD, "status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return procStatus{}, err
	}
	file := os.NewFile(uintptr(fd), "status")
	defer file.Close()
	return parseStatus(file)
}

func parseStatus(r io.Reader) (procStatus, error) {
	s := procStatus{noCapabilities: true}
	found := 0
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch name {
		case "VmData", "VmSize":
			kilobytes, err := strconv.ParseUint(strings.TrimSuffix(value, " kB"), 10, 53)
			if err != nil {
				return s, err
			}
			if name == "VmData" {
				s.data = kilobytes << 10
			} else {
				s.size = kilobytes << 10
			}
			found++
		case "CapInh", "CapPrm", "CapEff", "CapAmb":
			s.noCapabilities = s.noCapabilities && strings.Trim(value, "0") == ""
			found++
		}
	}
	if err := lines.Err(); err != nil {
		return s, err
	}
	if found < 5 { // CapAmb came with Linux 4.3
		return s, errors.New("lines are missing in it")
	}
	return s, nil
}

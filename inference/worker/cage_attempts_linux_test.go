//go:build amd64 || arm64

package worker

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// prey is what a worker of the tests goes for.
type prey struct {
	Database string // files of the server
	Key      string
	Scratch  string // a file to be deleted
	Folder   string // where it may create files
	Program  string // to be started; it then writes to the control socket
	TCP      int    // port on 127.0.0.1
	Unix     string // path of a listening socket
	Abstract string // name of one
	Parent   int    // process id
	Secret   uintptr
	Victim   int // another process of the worker's user
	Leaked   int // a descriptor that the server forgot to close on exec
}

// who says who succeeds in an attempt without a cage.
type who int

const (
	byAnyone who = iota
	byRoot
	byChance // it depends on the kernel and its configuration
)

// attempt is one thing that a worker must not be able to do.
type attempt struct {
	name     string
	do       func(p prey) error
	uncaged  who
	landlock int        // the ABI from which on Landlock alone refuses it; 0: it does not
	refusal  unix.Errno // if it is neither EPERM nor EACCES
}

// closed closes what an attempt has opened.
func closed(fd int, err error) error {
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func openPath(path string, flags int) error {
	return closed(unix.Open(path, flags|unix.O_CLOEXEC, 0o600))
}

func connectTo(family int, to unix.Sockaddr) error {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, to)
}

func system(number uintptr, arguments ...uintptr) error {
	var a [6]uintptr
	copy(a[:], arguments)
	if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// attempts is the list. What may end the process or others comes last.
func attempts() []attempt {
	list := fileAttempts()
	list = append(list, socketAttempts()...)
	list = append(list, rightAttempts()...)
	list = append(list, kernelAttempts()...)
	list = append(list, processAttempts()...)
	return list
}

func fileAttempts() []attempt {
	return []attempt{
		{name: "open the database", do: func(p prey) error { return openPath(p.Database, unix.O_RDWR) }, landlock: 1},
		{name: "open the key file", do: func(p prey) error { return openPath(p.Key, unix.O_RDONLY) }, landlock: 1},
		{name: "open /etc/passwd", do: func(prey) error { return openPath("/etc/passwd", unix.O_RDONLY) }, landlock: 1},
		{name: "open by openat2", do: func(prey) error {
			return closed(unix.Openat2(unix.AT_FDCWD, "/etc/passwd", &unix.OpenHow{Flags: unix.O_RDONLY}))
		}, landlock: 1},
		{name: "list /", do: func(prey) error { return openPath("/", unix.O_RDONLY|unix.O_DIRECTORY) }, landlock: 1},
		{name: "look at a path", do: func(p prey) error { return unix.Stat(p.Database, new(unix.Stat_t)) }},
		{name: "create a file", do: func(p prey) error { return openPath(p.Folder+"/made", unix.O_CREAT|unix.O_WRONLY) }, landlock: 1},
		{name: "make a folder", do: func(p prey) error { return unix.Mkdir(p.Folder+"/folder", 0o700) }, landlock: 1},
		{name: "cut a file", do: func(p prey) error { return unix.Truncate(p.Scratch, 0) }, landlock: 3},
		{name: "delete a file", do: func(p prey) error { return unix.Unlink(p.Scratch) }, landlock: 1},
		{name: "write to its own /proc/self/mem", do: func(prey) error { return openPath("/proc/self/mem", unix.O_RDWR) }, landlock: 1},
		{name: "resize the shared memory", do: func(prey) error { return unix.Ftruncate(memoryFD, 1<<20) }},
		{name: "read a leaked descriptor", do: func(p prey) error {
			_, err := unix.Pread(p.Leaked, make([]byte, 1), 0)
			return err
		}, landlock: 1, refusal: unix.EBADF}, // it is the first stage that closes it
	}
}

func socketAttempts() []attempt {
	return []attempt{
		{name: "make a socket", do: func(prey) error {
			return closed(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
		}},
		{name: "make a pair of sockets", do: func(prey) error {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				unix.Close(pair[0])
				unix.Close(pair[1])
			}
			return err
		}},
		{name: "connect by TCP", do: func(p prey) error {
			return connectTo(unix.AF_INET, &unix.SockaddrInet4{Port: p.TCP, Addr: [4]byte{127, 0, 0, 1}})
		}, landlock: 4},
		{name: "connect to a unix socket", do: func(p prey) error {
			return connectTo(unix.AF_UNIX, &unix.SockaddrUnix{Name: p.Unix})
		}},
		{name: "connect to an abstract unix socket", do: func(p prey) error {
			return connectTo(unix.AF_UNIX, &unix.SockaddrUnix{Name: "@" + p.Abstract})
		}, landlock: 6},
		{name: "send a descriptor", do: func(prey) error {
			return unix.Sendmsg(controlFD, []byte(" "), unix.UnixRights(memoryFD), nil, 0)
		}},
		{name: "set an option of the control socket", do: func(prey) error {
			return unix.SetsockoptInt(controlFD, unix.SOL_SOCKET, unix.SO_PASSCRED, 0)
		}},
		{name: "have signals sent in its stead", do: func(p prey) error {
			_, err := unix.FcntlInt(controlFD, unix.F_SETOWN, p.Parent)
			return err
		}},
		{name: "control a descriptor", do: func(prey) error {
			_, err := unix.IoctlGetInt(controlFD, unix.TIOCINQ)
			return err
		}},
	}
}

func rightAttempts() []attempt {
	return []attempt{
		{name: "raise its own limit", do: func(prey) error {
			return unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
		}},
		{name: "become root", do: func(prey) error { return system(unix.SYS_SETRESUID, 0, 0, 0) }, uncaged: byRoot},
		{name: "leave its namespaces", do: func(prey) error { return system(unix.SYS_UNSHARE, unix.CLONE_FS) }},
		{name: "change its root", do: func(prey) error { return unix.Chroot("/") }, uncaged: byRoot},
		{name: "be looked into", do: func(prey) error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) }},
		{name: "outlive the server", do: func(prey) error { return unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0) }},
		{name: "have code made of memory", do: func(prey) error {
			_, err := unix.MmapPtr(-1, 0, nil, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
			return err
		}},
		{name: "make memory code", do: func(prey) error {
			page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err != nil {
				panic(err)
			}
			return unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC)
		}},
		{name: "take shared memory, which its limit does not count", do: func(prey) error {
			_, err := unix.MmapPtr(-1, 0, nil, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
			return err
		}},
		{name: "take a stack that grows, which its limit does not count", do: func(prey) error {
			_, err := unix.MmapPtr(-1, 0, nil, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_GROWSDOWN)
			return err
		}},
		{name: "keep memory that its limit does not count any more", do: func(prey) error {
			page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err != nil {
				panic(err)
			}
			page[0] = 1
			return unix.Mprotect(page, unix.PROT_READ)
		}},
		{name: "have page tables without end", do: func(prey) error {
			// Each 2 MB of it that are read cost 4 KB, though nothing is written.
			_, err := unix.MmapPtr(-1, 0, nil, 1<<40, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
			return err
		}, refusal: unix.ENOMEM},
		{name: "map the library as code", do: func(prey) error {
			_, err := unix.MmapPtr(libraryFD, 0, nil, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
			return err
		}},
	}
}

func kernelAttempts() []attempt {
	var attr [128]byte // all zero: of io_uring_params, perf_event_attr
	at := uintptr(unsafe.Pointer(&attr))
	return []attempt{
		{name: "make a memory file", do: func(prey) error { return closed(unix.MemfdCreate("made", unix.MFD_CLOEXEC)) }},
		{name: "make an io_uring", do: func(prey) error { return system(unix.SYS_IO_URING_SETUP, 1, at) }, uncaged: byChance},
		{name: "handle page faults", do: func(prey) error { return system(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|1) }, uncaged: byChance},
		{name: "make a BPF map", do: func(prey) error {
			create := [4]uint32{2, 4, 4, 1} // BPF_MAP_TYPE_ARRAY
			return system(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&create)), unsafe.Sizeof(create))
		}, uncaged: byChance},
		{name: "use keyrings", do: func(prey) error {
			return system(unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, ^uintptr(2), 1) // the session's
		}, uncaged: byChance},
		{name: "count events", do: func(prey) error { return system(unix.SYS_PERF_EVENT_OPEN, at, 0, ^uintptr(0), ^uintptr(0), 0) }, uncaged: byChance},
		{name: "make shared memory of System V", do: func(prey) error { return system(unix.SYS_SHMGET, 0, 4096, 0o600) }, uncaged: byChance},
		{name: "make a message queue", do: func(prey) error { return system(unix.SYS_MSGGET, 0, 0o600) }, uncaged: byChance},
		{name: "load a module", do: func(prey) error { return system(unix.SYS_FINIT_MODULE, 0, at, 0) }, uncaged: byChance},
		{name: "unmount", do: func(p prey) error { return unix.Unmount(p.Folder, 0) }, uncaged: byChance},
		{name: "watch files", do: func(prey) error { return closed(unix.InotifyInit1(unix.IN_CLOEXEC)) }},
		{name: "set a timer's signal", do: func(prey) error {
			return system(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, 0, at)
		}},
	}
}

func processAttempts() []attempt {
	return []attempt{
		{name: "read the server's memory", do: func(p prey) error {
			var word [8]byte
			local := unix.Iovec{Base: &word[0], Len: 8}
			_, err := unix.ProcessVMReadv(p.Parent, []unix.Iovec{local}, []unix.RemoteIovec{{Base: p.Secret, Len: 8}}, 0)
			return err
		}, landlock: 1},
		{name: "open the server's memory", do: func(p prey) error { return openPath(proc(p.Parent, "mem"), unix.O_RDONLY) }, landlock: 1},
		{name: "read the server's environment", do: func(p prey) error { return openPath(proc(p.Parent, "environ"), unix.O_RDONLY) }, landlock: 1},
		{name: "get a handle of the server", do: func(p prey) error { return closed(unix.PidfdOpen(p.Parent, 0)) }},
		{name: "signal the server", do: func(p prey) error { return unix.Kill(p.Parent, 0) }, landlock: 6},
		{name: "signal all", do: func(p prey) error { return unix.Kill(0, 0) }, landlock: 0},
		{name: "slow another down", do: func(p prey) error { return unix.Setpriority(unix.PRIO_PROCESS, p.Victim, 19) }},
		{name: "fork", do: func(prey) error { return forkOnce() }},
		{name: "fork by clone3", do: func(prey) error { return forkByClone3() }, refusal: unix.ENOSYS},
		{name: "trace another", do: func(p prey) error {
			return system(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(p.Victim), 0, 0)
		}, landlock: 1},
		{name: "signal a thread of another", do: func(p prey) error { return unix.Tgkill(p.Victim, p.Victim, 0) }, landlock: 6},
		{name: "kill another", do: func(p prey) error { return unix.Kill(p.Victim, unix.SIGKILL) }, landlock: 6},
		{name: "start a program", do: func(p prey) error {
			for _, fd := range []int{controlFD, memoryFD} {
				unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
			}
			return unix.Exec(p.Program, []string{ranName}, nil)
		}, landlock: 1},
	}
}

// forkOnce makes a process that ends at once, without Go's runtime, which it lacks.
//
//go:norace
func forkOnce() error {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	return reap(pid, errno)
}

// forkByClone3 does the same by clone3.
//
//go:norace
func forkByClone3() error {
	arguments := [8]uint64{4: uint64(unix.SIGCHLD)} // struct clone_args, first version
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&arguments)), unsafe.Sizeof(arguments), 0)
	return reap(pid, errno)
}

//go:norace
func reap(pid uintptr, errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	_, err := unix.Wait4(int(pid), nil, 0, nil)
	return err
}

// outcome of an attempt, as the worker tells it.
type outcome struct {
	Name  string
	Errno unix.Errno // 0: it succeeded
}

// attack makes all attempts and tells each outcome at once: the last does not
// return if it succeeds.
func attack(p prey, tell func(outcome)) {
	runtime.LockOSThread() // a tracer is a thread
	for _, a := range attempts() {
		err := a.do(p)
		errno, ok := err.(unix.Errno)
		if err != nil && !ok {
			panic(a.name + ": " + err.Error())
		}
		tell(outcome{a.name, errno})
	}
	os.Exit(0)
}

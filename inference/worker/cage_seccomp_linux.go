//go:build amd64 || arm64

package worker

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A rule permits a system call when all its conditions hold. A call may have
// several rules; one without any is refused with EPERM.
type rule struct {
	call uint32
	when []condition
}

// condition holds when an argument's bits under mask have the value.
type condition struct {
	argument    uint32
	mask, value uint64
}

// is is the condition that an argument is a value of 32 bits: the kernel takes
// what stands above in the register for nothing, if the parameter is an int.
func is(argument uint32, value uint64) condition {
	return condition{argument, 0xffffffff, value & 0xffffffff}
}

// zero is the condition that an argument is 0, a null pointer for one.
func zero(argument uint32) condition { return condition{argument, ^uint64(0), 0} }

// Flags of clone: what makes a thread, and what glibc, musl and Go add to it.
// None of the bits left makes a namespace or is harmful.
const (
	threadFlags  = unix.CLONE_VM | unix.CLONE_SIGHAND | unix.CLONE_THREAD
	allowedFlags = threadFlags | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SYSVSEM | unix.CLONE_SETTLS |
		unix.CLONE_PARENT_SETTID | unix.CLONE_CHILD_SETTID | unix.CLONE_CHILD_CLEARTID | unix.CLONE_DETACHED
)

// policy lists what a worker of that process id may ask of the kernel once it
// has its model: what Go's runtime, glibc, and ONNX Runtime do while they
// load, run and fail. Frequent ones come first.
func policy(pid uint64) []rule {
	var rules []rule
	always := func(calls ...uint32) {
		for _, call := range calls {
			rules = append(rules, rule{call: call})
		}
	}
	when := func(call uint32, conditions ...condition) { rules = append(rules, rule{call, conditions}) }

	always(unix.SYS_FUTEX, unix.SYS_READ, unix.SYS_WRITE, unix.SYS_MADVISE, unix.SYS_NANOSLEEP, unix.SYS_EPOLL_PWAIT,
		unix.SYS_SCHED_YIELD, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY)
	always(perArch...)

	// Memory, of which nothing becomes code. New mappings are private and don't
	// grow by themselves: RLIMIT_DATA counts neither shared memory nor stacks.
	notCode := condition{2, unix.PROT_EXEC, 0}
	when(unix.SYS_MMAP, notCode, condition{3, unix.MAP_TYPE | unix.MAP_GROWSDOWN, unix.MAP_PRIVATE})
	// What was written stays writable: RLIMIT_DATA would not count it any more.
	when(unix.SYS_MPROTECT, condition{2, unix.PROT_EXEC | unix.PROT_WRITE, unix.PROT_WRITE})
	always(unix.SYS_MUNMAP, unix.SYS_MREMAP, unix.SYS_BRK)
	when(unix.SYS_PRCTL, is(0, unix.PR_SET_VMA)) // names of mappings

	// Descriptors that are open: it has those given to it, and gets the
	// model's by recvmsg. It can't send any: there is no sendmsg, and sendto has no address.
	always(unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_LSEEK, unix.SYS_CLOSE, unix.SYS_FSTAT,
		unix.SYS_RECVMSG, unix.SYS_RECVFROM, unix.SYS_PPOLL, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EVENTFD2)
	when(unix.SYS_SENDTO, zero(4))
	// Not F_SETOWN, which has the kernel send signals in one's stead.
	for _, command := range []uint64{unix.F_GETFL, unix.F_SETFL, unix.F_GETFD, unix.F_SETFD, unix.F_DUPFD_CLOEXEC, unix.F_GET_SEALS} {
		when(unix.SYS_FCNTL, is(1, command))
	}

	// Threads. glibc takes clone when clone3, whose flags a filter can't see,
	// is not there: see assemble.
	when(unix.SYS_CLONE, condition{0, threadFlags | 0xffffffff&^allowedFlags, threadFlags})
	always(unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_GETTID, unix.SYS_GETPID, unix.SYS_GETPPID,
		unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_RESTART_SYSCALL, unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETCPU)
	when(unix.SYS_PRCTL, is(0, unix.PR_SET_NAME))
	// Of the calling thread only; RLIMIT_NICE is 0, so it never goes up.
	when(unix.SYS_SETPRIORITY, is(0, unix.PRIO_PROCESS), is(1, 0))

	// Signals, to itself.
	always(unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK)
	when(unix.SYS_TGKILL, is(0, pid))
	when(unix.SYS_KILL, is(0, pid))

	// What it may know of itself and the machine.
	always(unix.SYS_GETRANDOM, unix.SYS_CLOCK_GETRES, unix.SYS_GETRUSAGE,
		unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID)
	when(unix.SYS_PRLIMIT64, is(0, 0), zero(2))
	for _, option := range []uint64{unix.PR_GET_NAME, unix.PR_GET_SECCOMP, unix.PR_GET_NO_NEW_PRIVS, unix.PR_GET_DUMPABLE} {
		when(unix.SYS_PRCTL, is(0, option))
	}
	return rules
}

// Offsets in struct seccomp_data of the kernel's seccomp(2), of little-endian machines.
const (
	offsetCall      = 0
	offsetArch      = 4
	offsetArguments = 16
)

// assemble makes the filter program of seccomp(2).
func assemble(rules []rule) ([]bpf.RawInstruction, error) {
	refuse := bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	permit := bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	call := bpf.LoadAbsolute{Off: offsetCall, Size: 4}
	program := []bpf.Instruction{
		// The numbers mean other calls to a process of another architecture.
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS},
		call,
	}
	for _, r := range rules {
		if len(r.when) == 0 {
			program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: r.call, SkipFalse: 1}, permit)
			continue
		}
		var body []bpf.Instruction
		for _, c := range r.when {
			body = append(body, c.tests()...)
		}
		body = append(body, permit)
		// Each failed test goes to the end of the body, where the number is loaded again.
		for i, instruction := range body {
			if test, ok := instruction.(bpf.JumpIf); ok {
				test.SkipFalse = uint8(len(body) - i - 1)
				body[i] = test
			}
		}
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: r.call, SkipFalse: uint8(len(body) + 1)})
		program = append(program, body...)
		program = append(program, call)
	}
	program = append(program,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_CLONE3, SkipFalse: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		refuse)
	return bpf.Assemble(program)
}

// tests are the instructions that look at both halves of the argument.
func (c condition) tests() []bpf.Instruction {
	var list []bpf.Instruction
	for half := range uint32(2) {
		mask, value := uint32(c.mask>>(32*half)), uint32(c.value>>(32*half))
		if mask == 0 {
			continue
		}
		list = append(list, bpf.LoadAbsolute{Off: offsetArguments + 8*c.argument + 4*half, Size: 4},
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: value})
	}
	return list
}

// installFilter installs a program on all threads of the process.
func installFilter(raw []bpf.RawInstruction) error {
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	// x/sys has no wrapper.
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(code)
	if errno != 0 {
		return errno
	}
	if thread != 0 {
		return fmt.Errorf("thread %d has another filter", thread)
	}
	return nil
}

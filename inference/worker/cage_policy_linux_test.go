//go:build amd64 || arm64

package worker

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// decide runs the filter on a call, as the kernel would.
func decide(t *testing.T, vm *bpf.VM, arch, number uint32, arguments ...uint64) uint32 {
	t.Helper()
	// The machine of x/net reads words as big-endian.
	data := make([]byte, offsetArguments+6*8)
	binary.BigEndian.PutUint32(data[offsetCall:], number)
	binary.BigEndian.PutUint32(data[offsetArch:], arch)
	for i, a := range arguments {
		binary.BigEndian.PutUint32(data[offsetArguments+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[offsetArguments+8*i+4:], uint32(a>>32))
	}
	got, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got)
}

// TestCagePolicy has the filter decide about arguments that a process can't try
// without harm, or not on this architecture.
func TestCagePolicy(t *testing.T) {
	const pid, other = 4711, 4712
	const (
		allow  = unix.SECCOMP_RET_ALLOW
		refuse = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		absent = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	)
	rules := policy(pid)
	raw, err := assemble(rules)
	if err != nil {
		t.Fatal(err)
	}
	if most := 4096; len(raw) > most { // BPF_MAXINSNS of the kernel
		t.Errorf("%d instructions are too many; the kernel takes %d", len(raw), most)
	}
	program, whole := bpf.Disassemble(raw)
	vm, err := bpf.NewVM(program)
	if !whole || err != nil {
		t.Fatal(err)
	}
	const glibc, bare = 0x3d0f00, 0x50f00 // threads of glibc and Go
	const anonymous = unix.MAP_PRIVATE | unix.MAP_ANON
	for _, test := range []struct {
		name      string
		call      uint32
		arguments []uint64
		want      uint32
	}{
		{"read", unix.SYS_READ, []uint64{3, 1 << 40, 1}, allow},
		{"a thread of glibc", unix.SYS_CLONE, []uint64{glibc}, allow},
		{"a thread of Go", unix.SYS_CLONE, []uint64{bare}, allow},
		{"a process", unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}, refuse},
		{"a process that shares memory", unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_VFORK | uint64(unix.SIGCHLD)}, refuse},
		{"a thread in a user namespace", unix.SYS_CLONE, []uint64{glibc | unix.CLONE_NEWUSER}, refuse},
		{"a thread in a network namespace", unix.SYS_CLONE, []uint64{glibc | unix.CLONE_NEWNET}, refuse},
		{"a thread that is traced", unix.SYS_CLONE, []uint64{glibc | unix.CLONE_PTRACE}, refuse},
		{"a thread that signals", unix.SYS_CLONE, []uint64{glibc | uint64(unix.SIGCHLD)}, refuse},
		{"clone3", unix.SYS_CLONE3, []uint64{1 << 40, 88}, absent},
		{"memory", unix.SYS_MMAP, []uint64{0, 4096, unix.PROT_READ | unix.PROT_WRITE, anonymous}, allow},
		{"a stack of glibc", unix.SYS_MMAP, []uint64{0, 4096, unix.PROT_NONE, anonymous | unix.MAP_STACK | unix.MAP_NORESERVE}, allow},
		{"code", unix.SYS_MMAP, []uint64{0, 4096, unix.PROT_READ | unix.PROT_EXEC, anonymous}, refuse},
		{"shared memory", unix.SYS_MMAP, []uint64{0, 4096, unix.PROT_READ, unix.MAP_SHARED | unix.MAP_ANON}, refuse},
		{"memory that may be dropped", unix.SYS_MMAP, []uint64{0, 4096, unix.PROT_READ, unix.MAP_DROPPABLE | unix.MAP_ANON}, refuse},
		{"a stack that grows", unix.SYS_MMAP, []uint64{0, 4096, unix.PROT_READ, anonymous | unix.MAP_GROWSDOWN}, refuse},
		{"memory to write", unix.SYS_MPROTECT, []uint64{0, 4096, unix.PROT_READ | unix.PROT_WRITE}, allow},
		{"memory to read", unix.SYS_MPROTECT, []uint64{0, 4096, unix.PROT_READ}, refuse},
		{"memory to nothing", unix.SYS_MPROTECT, []uint64{0, 4096, unix.PROT_NONE}, refuse},
		{"memory to write and code", unix.SYS_MPROTECT, []uint64{0, 4096, unix.PROT_WRITE | unix.PROT_EXEC}, refuse},
		{"memory to code", unix.SYS_MPROTECT, []uint64{0, 4096, unix.PROT_EXEC}, refuse},
		{"memory to code by keys", unix.SYS_PKEY_MPROTECT, []uint64{0, 4096, unix.PROT_EXEC}, refuse},
		{"a signal to itself", unix.SYS_TGKILL, []uint64{pid, other, 23}, allow},
		{"with a high half that the kernel drops", unix.SYS_TGKILL, []uint64{1<<32 | pid, other, 23}, allow},
		{"a signal to another", unix.SYS_TGKILL, []uint64{other, other, 9}, refuse},
		{"kill itself", unix.SYS_KILL, []uint64{pid, 6}, allow},
		{"kill its group", unix.SYS_KILL, []uint64{0, 9}, refuse},
		{"kill all", unix.SYS_KILL, []uint64{0xffffffff, 9}, refuse},
		{"flags of a descriptor", unix.SYS_FCNTL, []uint64{3, unix.F_SETFL, 0}, allow},
		{"an owner of a descriptor", unix.SYS_FCNTL, []uint64{3, unix.F_SETOWN, pid}, refuse},
		{"an owner by struct", unix.SYS_FCNTL, []uint64{3, unix.F_SETOWN_EX, 1 << 40}, refuse},
		{"a signal of a descriptor", unix.SYS_FCNTL, []uint64{3, unix.F_SETSIG, 9}, refuse},
		{"send", unix.SYS_SENDTO, []uint64{3, 1 << 40, 1, 0, 0, 0}, allow},
		{"send to an address", unix.SYS_SENDTO, []uint64{3, 1 << 40, 1, 0, 1 << 40, 16}, refuse},
		{"send to an address below", unix.SYS_SENDTO, []uint64{3, 1 << 40, 1, 0, 1, 16}, refuse},
		{"go slower", unix.SYS_SETPRIORITY, []uint64{unix.PRIO_PROCESS, 0, 19}, allow},
		{"slow another", unix.SYS_SETPRIORITY, []uint64{unix.PRIO_PROCESS, other, 19}, refuse},
		{"slow a user", unix.SYS_SETPRIORITY, []uint64{unix.PRIO_USER, 0, 19}, refuse},
		{"read a limit", unix.SYS_PRLIMIT64, []uint64{0, unix.RLIMIT_STACK, 0, 1 << 40}, allow},
		{"set a limit", unix.SYS_PRLIMIT64, []uint64{0, unix.RLIMIT_STACK, 1 << 40, 0}, refuse},
		{"read another's limit", unix.SYS_PRLIMIT64, []uint64{other, unix.RLIMIT_STACK, 0, 1 << 40}, refuse},
		{"name itself", unix.SYS_PRCTL, []uint64{unix.PR_SET_NAME, 1 << 40}, allow},
		{"another filter", unix.SYS_PRCTL, []uint64{unix.PR_SET_SECCOMP, 2, 1 << 40}, refuse},
		{"a program of another ABI", unix.SYS_EXECVE | 0x40000000, nil, refuse},
		{"read of another ABI", unix.SYS_READ | 0x40000000, nil, refuse},
	} {
		if got := decide(t, vm, auditArch, test.call, test.arguments...); got != test.want {
			t.Errorf("%s: %#x, want %#x", test.name, got, test.want)
		}
	}
	if got := decide(t, vm, unix.AUDIT_ARCH_I386, unix.SYS_READ); got != unix.SECCOMP_RET_KILL_PROCESS {
		t.Errorf("a call of another architecture: %#x; it must end the process", got)
	}
	for number := range uint32(1024) {
		known := slices.ContainsFunc(rules, func(r rule) bool { return r.call == number })
		if got := decide(t, vm, auditArch, number, 1<<40, 1<<40, 7, 1<<40, 1<<40, 1<<40); !known && got != refuse && number != unix.SYS_CLONE3 {
			t.Errorf("call %d, which no rule names: %#x", number, got)
		}
	}
}

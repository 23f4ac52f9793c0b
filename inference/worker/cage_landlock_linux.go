//go:build amd64 || arm64

package worker

import (
	"bufio"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Rights of Landlock on files, by the kernel's landlock(7).
const (
	readFile   = unix.LANDLOCK_ACCESS_FS_READ_FILE
	readFolder = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	runFile    = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE
)

// rulesets are what Landlock is asked to refuse, the newest first: a kernel
// refuses the whole of a ruleset with a bit that it does not know.
func rulesets() []unix.LandlockRulesetAttr {
	const (
		first    = unix.LANDLOCK_ACCESS_FS_REFER - 1 // all of ABI 1
		refer    = first | unix.LANDLOCK_ACCESS_FS_REFER
		truncate = refer | unix.LANDLOCK_ACCESS_FS_TRUNCATE
		ioctl    = truncate | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
		unixes   = ioctl | unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX
		tcp      = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		udp      = unix.LANDLOCK_ACCESS_NET_BIND_UDP | unix.LANDLOCK_ACCESS_NET_CONNECT_SEND_UDP
		scopes   = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	)
	ruleset := func(files, net, scoped uint64) unix.LandlockRulesetAttr {
		return unix.LandlockRulesetAttr{Handled_access_fs: files, Handled_access_net: net, Scoped: scoped}
	}
	return []unix.LandlockRulesetAttr{
		ruleset(unixes, tcp|udp, scopes),
		ruleset(unixes, tcp, scopes), // after ABI 7
		ruleset(ioctl, tcp, scopes),  // 6
		ruleset(ioctl, tcp, 0),       // 5
		ruleset(truncate, tcp, 0),    // 4
		ruleset(truncate, 0, 0),      // 3
		ruleset(refer, 0, 0),         // 2
		ruleset(first, 0, 0),         // 1
	}
}

// restrictFiles puts the calling thread into a Landlock domain that may read
// what a program of this kind reads to start and load ONNX Runtime, and execute
// itself. It returns the kernel's ABI, 0 when it has no Landlock.
func restrictFiles() (int, error) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch errno {
	case 0:
	case unix.ENOSYS, unix.EOPNOTSUPP, unix.EPERM: // not built, not among the modules, not in the container's profile
		return 0, nil
	default:
		return 0, errno
	}
	ruleset, err := createRuleset()
	if err != nil {
		return 0, err
	}
	defer unix.Close(ruleset)
	for _, rule := range allowances() {
		if err := allow(ruleset, rule.path, rule.rights); err != nil {
			return 0, &os.PathError{Op: "landlock", Path: rule.path, Err: err}
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(ruleset), 0, 0); errno != 0 {
		return 0, errno
	}
	if root, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		unix.Close(root)
		return 0, nil // it takes rules and does not keep to them
	}
	return int(abi), nil
}

func createRuleset() (int, error) {
	var errno unix.Errno
	for _, attr := range rulesets() {
		// Up to Scoped; kernels that know less take a longer struct whose tail is 0.
		const size = unsafe.Offsetof(attr.Scoped) + unsafe.Sizeof(attr.Scoped)
		var fd uintptr
		fd, _, errno = unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
		if errno == 0 {
			unix.CloseOnExec(int(fd))
			return int(fd), nil
		}
	}
	return 0, errno
}

// allowance is a file or folder that a worker may use, by the rights named.
type allowance struct {
	path   string
	rights uint64
}

// allowances is what Go, the dynamic loader and ONNX Runtime were seen to need.
func allowances() []allowance {
	list := []allowance{
		{"/proc/self/exe", runFile},
		{libraryPath, readFile},
		{"/proc/self", readFolder}, // its own maps, for the bounds of C's stack
		{"/proc/cpuinfo", readFile},
		{"/sys/devices/system/cpu", readFolder},
		{"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", readFile},
		{"/etc/ld.so.cache", readFile},
	}
	for _, folder := range []string{"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"} {
		list = append(list, allowance{folder, readFolder})
	}
	// The dynamic loader, which the kernel executes, and the libraries of the
	// program wherever they are: the second stage is the same program.
	for _, path := range mapped() {
		list = append(list, allowance{path, runFile})
	}
	return list
}

// mapped lists the files that this process has mapped executable.
func mapped() []string {
	file, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil
	}
	defer file.Close()
	var paths []string
	seen := map[string]bool{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.SplitN(lines.Text(), "/", 2)
		if len(fields) == 2 && strings.Contains(fields[0], "x") && !seen[fields[1]] {
			seen[fields[1]] = true
			paths = append(paths, "/"+fields[1])
		}
	}
	return paths
}

// allow adds a rule. What does not exist needs none.
func allow(ruleset int, path string, rights uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT || err == unix.EACCES || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	attr := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

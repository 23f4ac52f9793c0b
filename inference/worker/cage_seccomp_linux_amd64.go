package worker

import "golang.org/x/sys/unix"

// auditArch is this architecture to a filter. The x32 ABI shares it, with other
// numbers of calls, which no rule has.
const auditArch = unix.AUDIT_ARCH_X86_64

// perArch are calls that newer architectures have under other names only.
var perArch = []uint32{unix.SYS_EPOLL_WAIT, unix.SYS_POLL, unix.SYS_GETRLIMIT, unix.SYS_TIME}

package worker

import "golang.org/x/sys/unix"

// auditArch is this architecture to a filter.
const auditArch = unix.AUDIT_ARCH_AARCH64

// perArch are calls that this architecture has and others have not: none.
var perArch []uint32

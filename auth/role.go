package auth

import (
	"fmt"
	"slices"
	"strings"
)

// permissionNames are the names of the bits, as http-api spells them, in bit
// order.
var permissionNames = [...]string{"users:manage", "models:write", "models:manage", "audit:read", "metrics:read"}

// AllPermissions is what role admin holds.
const AllPermissions = UsersManage | ModelsWrite | ModelsManage | AuditRead | MetricsRead

// ParsePermissions turns names into a set. An unknown name is ErrInvalid,
// naming it.
func ParsePermissions(names []string) (Permission, error) {
	var p Permission
	for _, n := range names {
		i := slices.Index(permissionNames[:], n)
		if i < 0 {
			return 0, ErrInvalid.With(fmt.Sprintf("no permission %q; there are %s", n, strings.Join(permissionNames[:], ", ")))
		}
		p |= 1 << i
	}
	return p, nil
}

// Names lists the set in bit order; never nil.
func (p Permission) Names() []string {
	names := []string{}
	for i, n := range permissionNames {
		if p&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return names
}

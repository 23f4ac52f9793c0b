package auth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// permissionNames are the names of the bits, lowest first.
var permissionNames = [...]string{"users:manage", "models:write", "models:manage", "audit:read", "metrics:read"}

const allPermissions = Permission(1<<len(permissionNames)) - 1

const adminRole, userRole = "admin", "user"

// builtinRoles don't change.
var builtinRoles = []Role{
	{Name: adminRole, Permissions: allPermissions, Builtin: true},
	{Name: "data-scientist", Permissions: ModelsWrite, Builtin: true},
	{Name: userRole, Builtin: true},
}

// ParsePermissions turns names such as "models:write" into a set. An unknown
// name is ErrInvalid, which names it.
func ParsePermissions(names []string) (Permission, error) {
	var p Permission
	for _, n := range names {
		i := slices.Index(permissionNames[:], n)
		if i < 0 {
			return 0, ErrInvalid.With(fmt.Sprintf("there is no permission %q; there are %s", n, strings.Join(permissionNames[:], ", ")))
		}
		p |= 1 << i
	}
	return p, nil
}

// Names lists the set, lowest bit first; never nil.
func (p Permission) Names() []string {
	names := []string{}
	for i, n := range permissionNames {
		if p&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return names
}

// validName says whether s is [a-z0-9][a-z0-9._-]{least-1,63}.
func validName(s string, least int) bool {
	if len(s) < least || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return false
		}
	}
	return true
}

var rateUnits = map[string]time.Duration{"S": time.Second, "M": time.Minute, "H": time.Hour, "D": 24 * time.Hour}

// parseRate reads a rate as ulule/limiter writes it, "600-M": events per
// second, minute, hour or day.
func parseRate(rate string) (n int64, period time.Duration, ok bool) {
	count, unit, _ := strings.Cut(rate, "-")
	n, err := strconv.ParseInt(count, 10, 64)
	period = rateUnits[unit]
	return n, period, err == nil && n > 0 && n <= 1e12 && period > 0 && strconv.FormatInt(n, 10) == count
}

// moreGenerous returns the rate that lets more through in the long run; of like
// ones the one with the larger count. Empty and unreadable rates lose.
func moreGenerous(a, b string) string {
	an, ap, aok := parseRate(a)
	bn, bp, bok := parseRate(b)
	switch {
	case !bok:
		if !aok {
			return ""
		}
		return a
	case !aok:
		return b
	}
	af, bf := float64(an)/float64(ap), float64(bn)/float64(bp)
	if bf > af || bf == af && bn > an {
		return b
	}
	return a
}

// Roles lists all roles by name. Needs users:manage.
func (s *Service) Roles(ctx context.Context, who Principal) ([]Role, error) {
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, Action{Name: "role.list"}); err != nil {
		return nil, err
	}
	return s.cfg.Store.Roles(ctx)
}

// PutRole makes a role or replaces its permissions, its rate ("600-M", or empty
// for the server's own) and its budget of rows a day (0: none). Needs users:manage and every permission that the role
// has or gets. ErrBuiltin for built-in roles. A permission that it gains is gained
// by all who have it, with what UpdateUser says of that.
func (s *Service) PutRole(ctx context.Context, who Principal, name string, permissions []string, rate string, dailyRows int64) (Role, error) {
	a := Action{Name: "role.put", Target: name, Detail: map[string]string{"permissions": strings.Join(permissions, " "), "rate": rate}}
	if dailyRows != 0 {
		a.Detail["daily_rows"] = strconv.FormatInt(dailyRows, 10)
	}
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, a); err != nil {
		return Role{}, err
	}
	if !validName(name, 1) {
		return Role{}, ErrInvalid.With("a role's name has up to 64 characters: lower-case letters and digits, and after the first also . _ -")
	}
	p, err := ParsePermissions(permissions)
	if err != nil {
		return Role{}, err
	}
	if _, _, ok := parseRate(rate); rate != "" && !ok {
		return Role{}, ErrInvalid.With(fmt.Sprintf("%q is no rate; write a count and S, M, H or D, as in 600-M for 600 a minute", rate))
	}
	if err := checkDailyRows(dailyRows); err != nil {
		return Role{}, err
	}
	unlock, err := s.lockAdmin(ctx)
	if err != nil {
		return Role{}, err
	}
	defer unlock()
	table, err := s.roleTable(ctx)
	if err != nil {
		return Role{}, err
	}
	role, exists := table[name]
	if err := s.mayChangeRole(ctx, who, role, p, a); err != nil {
		return Role{}, err
	}
	if !exists {
		role = Role{Name: name, CreatedAt: s.now()}
	} else if err := s.mayRaiseHolders(ctx, who, table, name, p&^role.Permissions, a); err != nil {
		return Role{}, err
	}
	role.Permissions, role.Rate, role.DailyRows = p, rate, dailyRows
	if err := s.cfg.Guard.Allow(ctx, who, UsersManage, a); err != nil {
		return Role{}, err
	}
	defer s.cache.revokeAll()
	if err := s.cfg.Store.PutRole(ctx, role); err != nil {
		return Role{}, err
	}
	return role, nil
}

// mayChangeRole refuses built-in roles, permissions that who lacks, and his own
// roles, but to administrators.
func (s *Service) mayChangeRole(ctx context.Context, who Principal, old Role, next Permission, a Action) error {
	if old.Builtin {
		return s.cfg.Guard.Decide(ctx, who, false, ErrBuiltin, true, a)
	}
	if p := old.Permissions | next; !who.Can(p) {
		err := ErrForbidden.With("you can't give or take permissions that you lack: " + strings.Join((p&^who.Permissions).Names(), ", "))
		return s.cfg.Guard.Decide(ctx, who, false, err, true, a)
	}
	if slices.Contains(who.Roles, old.Name) && !slices.Contains(who.Roles, adminRole) {
		err := ErrForbidden.With("nobody changes a role that he has himself, nor its rate or budget; ask an administrator")
		return s.cfg.Guard.Decide(ctx, who, false, err, true, a)
	}
	return nil
}

// DeleteRole removes a role that nobody has and no model names, else ErrInUse.
// Needs users:manage and the role's own permissions.
func (s *Service) DeleteRole(ctx context.Context, who Principal, name string) error {
	a := Action{Name: "role.delete", Target: name}
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, a); err != nil {
		return err
	}
	unlock, err := s.lockAdmin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	table, err := s.roleTable(ctx)
	if err != nil {
		return err
	}
	role, exists := table[name]
	if !exists {
		return ErrNotFound.With("there is no such role")
	}
	if err := s.mayChangeRole(ctx, who, role, 0, a); err != nil {
		return err
	}
	remove := func(f func() error) error {
		err := s.cfg.Store.DeleteRole(ctx, name, f)
		if errors.Is(err, ErrInUse) {
			return s.cfg.Guard.Decide(ctx, who, false, err, true, a)
		}
		return err
	}
	if err := remove(func() error { return errPeek }); !errors.Is(err, errPeek) {
		return err
	}
	if err := s.cfg.Guard.Allow(ctx, who, UsersManage, a); err != nil {
		return err
	}
	defer s.cache.revokeAll()
	return remove(func() error { return nil })
}

// RolesExist is ErrInvalid, naming the first that is missing, unless all the
// roles exist.
func (s *Service) RolesExist(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	table, err := s.roleTable(ctx)
	if err != nil {
		return err
	}
	return allExist(table, names)
}

func allExist(table map[string]Role, names []string) error {
	for _, n := range names {
		if _, ok := table[n]; !ok {
			return ErrInvalid.With(fmt.Sprintf("there is no role %q; GET /admin/roles lists all", n))
		}
	}
	return nil
}

// ensureRoles makes the built-in roles what they are.
func (s *Service) ensureRoles(ctx context.Context) error {
	for _, r := range builtinRoles {
		r.CreatedAt = s.now()
		if err := s.cfg.Store.PutRole(ctx, r); err != nil {
			return errors.Join(fmt.Errorf("built-in role %s", r.Name), err)
		}
	}
	if len(s.cfg.RequireTOTP)+len(s.cfg.Providers) == 0 {
		return nil
	}
	table, err := s.roleTable(ctx)
	if err != nil {
		return err
	}
	for _, name := range s.cfg.RequireTOTP {
		if _, ok := table[name]; !ok {
			s.cfg.Logger.Warn("a role that needs a second factor does not exist; check its spelling, or make it", "role", name)
		}
	}
	for _, p := range s.cfg.Providers {
		if len(s.cfg.RequireTOTP) > 0 && !p.tellsFactor() {
			s.cfg.Logger.Warn("nobody whose role needs a second factor comes in by this identity provider, which has no way to tell of one; set second_factor", "provider", p.Name)
		}
		given := slices.Concat(append(slices.Collect(maps.Values(p.Roles)), p.DefaultRoles)...)
		slices.Sort(given)
		for _, name := range slices.Compact(given) {
			if _, ok := table[name]; !ok {
				s.cfg.Logger.Warn("a role that an identity provider gives does not exist; check its spelling, or make it", "provider", p.Name, "role", name)
			}
		}
	}
	return nil
}

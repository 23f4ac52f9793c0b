package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	defaultPage = 100
	maxPage     = 1000
	maxRoles    = 100 // of a user
)

// UserPatch says what to change of a user; nil fields stay.
type UserPatch struct {
	Roles    *[]string
	Disabled *bool
}

func (p UserPatch) apply(u User) User {
	if p.Roles != nil {
		u.Roles = *p.Roles
	}
	if p.Disabled != nil {
		u.Disabled = *p.Disabled
	}
	return u
}

// isAdmin says whether the user is an administrator who can sign in.
func isAdmin(u User) bool {
	return u.Kind == Person && !u.Disabled && u.PasswordHash != "" && slices.Contains(u.Roles, adminRole)
}

// Users lists users by name, from the first one after a name. next is empty at
// the end. limit 0 is 100; at most 1000. Needs users:manage.
func (s *Service) Users(ctx context.Context, who Principal, after string, limit int) (items []User, next string, err error) {
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, Action{Name: "user.list"}); err != nil {
		return nil, "", err
	}
	if limit <= 0 {
		limit = defaultPage
	}
	limit = min(limit, maxPage)
	list, err := s.cfg.Store.Users(ctx, after, limit+1)
	if err != nil {
		return nil, "", err
	}
	if len(list) > limit {
		list = list[:limit]
		next = list[limit-1].Username
	}
	for i := range list {
		list[i] = shown(list[i])
	}
	return list, next, nil
}

// User returns one user. Needs users:manage.
func (s *Service) User(ctx context.Context, who Principal, id string) (User, error) {
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, Action{Name: "user.read", Target: id}); err != nil {
		return User{}, err
	}
	u, err := s.cfg.Store.User(ctx, id)
	return shown(u), noSuchUser(err)
}

func noSuchUser(err error) error {
	if errors.Is(err, ErrNotFound) {
		return ErrNotFound.With("there is no such user")
	}
	return err
}

// CreateUser makes a user without a password and an invitation by which he sets
// one. Needs users:manage and every permission that the roles give.
func (s *Service) CreateUser(ctx context.Context, who Principal, name string, roles []string) (User, string, error) {
	a := Action{Name: "user.create", Target: name, Detail: map[string]string{"roles": strings.Join(roles, " ")}}
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, a); err != nil {
		return User{}, "", err
	}
	if s.cfg.Registration == Closed {
		return User{}, "", ErrForbidden.With("registration is closed, also by invitation; the server's operator can change that")
	}
	name, err := username(name)
	if err != nil {
		return User{}, "", err
	}
	a.Target = name
	unlock, err := s.lockAdmin(ctx)
	if err != nil {
		return User{}, "", err
	}
	defer unlock()
	if roles, err = s.grantable(ctx, who, roles, nil, a); err != nil {
		return User{}, "", err
	}
	if err := s.nameFree(ctx, who, name, a); err != nil {
		return User{}, "", err
	}
	if err := s.cfg.Guard.Allow(ctx, who, UsersManage, a); err != nil {
		return User{}, "", err
	}
	now := s.now()
	u := User{ID: newID("u_"), Username: name, Roles: roles, CreatedAt: now, UpdatedAt: now}
	secret, hash := newSecret(invitePrefix)
	err = s.cfg.Store.CreateUser(ctx, u, &Ticket{Hash: hash, Kind: Invitation, UserID: u.ID, ExpiresAt: now.Add(s.cfg.InviteTTL)})
	if err != nil {
		return User{}, "", s.refuse(ctx, who, a, err)
	}
	return shown(u), secret, nil
}

// nameFree refuses a name that somebody has, before the record says that a user
// of that name may be made.
func (s *Service) nameFree(ctx context.Context, who Principal, name string, a Action) error {
	switch _, err := s.cfg.Store.UserByName(ctx, name); {
	case err == nil:
		return s.refuse(ctx, who, a, ErrTaken)
	case !errors.Is(err, ErrNotFound):
		return err
	}
	return nil
}

// grantable sorts a list of roles and refuses one that does not exist, and one
// not held before that gives permissions who lacks.
func (s *Service) grantable(ctx context.Context, who Principal, roles, held []string, a Action) ([]string, error) {
	roles = slices.Compact(slices.Sorted(slices.Values(roles)))
	if len(roles) > maxRoles {
		return nil, ErrInvalid.With(fmt.Sprintf("a user has at most %d roles", maxRoles))
	}
	table, err := s.roleTable(ctx)
	if err != nil {
		return nil, err
	}
	if err := allExist(table, roles); err != nil {
		return nil, err
	}
	for _, r := range roles {
		if !slices.Contains(held, r) && !who.Can(table[r].Permissions) {
			err := ErrForbidden.With(fmt.Sprintf("the role %s gives permissions that you lack", r))
			return nil, s.cfg.Guard.Decide(ctx, who, false, err, true, a)
		}
	}
	return roles, nil
}

// permissionsOf adds up what roles give.
func permissionsOf(table map[string]Role, roles []string) Permission {
	var p Permission
	for _, r := range roles {
		p |= table[r].Permissions
	}
	return p
}

// mayTouch refuses what nobody may do to a user: to take away the last
// administrator, to change oneself, to manage somebody with more rights. lost
// says that the user would not be an administrator any more.
func mayTouch(who Principal, table map[string]Role, u User, otherAdmins int, lost bool) error {
	switch {
	case lost && isAdmin(u) && otherAdmins == 0:
		return ErrLastAdmin
	case u.ID == who.UserID:
		return ErrForbidden.With("nobody changes his own roles, or disables or deletes himself; ask another administrator")
	case !who.Can(permissionsOf(table, u.Roles)):
		return ErrForbidden.With("this user has permissions that you lack")
	}
	return nil
}

// refuse records a refusal by mayTouch, or of a name that is taken; other errors
// pass.
func (s *Service) refuse(ctx context.Context, who Principal, a Action, err error) error {
	if errors.Is(err, ErrLastAdmin) || errors.Is(err, ErrForbidden) || errors.Is(err, ErrTaken) {
		return s.cfg.Guard.Decide(ctx, who, false, err, true, a)
	}
	return noSuchUser(err)
}

// target is how the log names a user: by name if there is one of that id.
func (s *Service) target(ctx context.Context, a Action, id string) Action {
	if u, err := s.cfg.Store.User(ctx, id); err == nil {
		a.Target = u.Username
	} else {
		a.Target = id
	}
	return a
}

// UpdateUser changes roles or disables. Both take effect on the user's next
// request; disabling ends his sessions, and a permission that he did not have
// voids his invitation or reset: who made it may lack that permission. Needs
// users:manage, every permission that the user has and every one that he gets.
// ErrLastAdmin rather than leave nobody in charge; a conflict when somebody with
// fewer permissions has made a secret or linked an identity by which he could be
// the user.
func (s *Service) UpdateUser(ctx context.Context, who Principal, id string, p UserPatch) (User, error) {
	a := s.target(ctx, Action{Name: "user.update", Detail: map[string]string{}}, id)
	if p.Roles != nil {
		a.Detail["roles"] = strings.Join(*p.Roles, " ")
	}
	if p.Disabled != nil {
		a.Detail["disabled"] = strconv.FormatBool(*p.Disabled)
	}
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, a); err != nil {
		return User{}, err
	}
	unlock, err := s.lockAdmin(ctx)
	if err != nil {
		return User{}, err
	}
	defer unlock()
	old, err := s.cfg.Store.User(ctx, id)
	if err != nil {
		return User{}, noSuchUser(err)
	}
	if p.Roles != nil {
		roles, err := s.grantable(ctx, who, *p.Roles, old.Roles, a)
		if err != nil {
			return User{}, err
		}
		p.Roles = &roles
	}
	if p == (UserPatch{}) {
		return shown(old), nil
	}
	if p.Roles != nil {
		if by, err := s.managedBy(ctx, id); err != nil {
			return User{}, err
		} else if by != nil && by.managesRoles() {
			err := ErrForbidden.With("the roles of this user come from the identity provider " + by.Name + "; change them there, or in its mapping")
			return User{}, s.cfg.Guard.Decide(ctx, who, false, err, true, a)
		}
	}
	return s.updateUser(ctx, who, old, p, a)
}

// updateUser judges and records the change, then makes it, judged again in the
// same transaction. The caller holds the admin lock.
func (s *Service) updateUser(ctx context.Context, who Principal, user User, p UserPatch, a Action) (User, error) {
	table, err := s.roleTable(ctx)
	if err != nil {
		return User{}, err
	}
	change := func(old User, otherAdmins int) (User, error) {
		next := p.apply(old)
		next.UpdatedAt = s.now()
		return next, mayTouch(who, table, old, otherAdmins, !isAdmin(next))
	}
	_, err = s.cfg.Store.UpdateUser(ctx, user.ID, func(old User, otherAdmins int) (User, error) {
		if _, err := change(old, otherAdmins); err != nil {
			return User{}, err
		}
		return User{}, errPeek
	})
	if !errors.Is(err, errPeek) {
		return User{}, s.refuse(ctx, who, a, err)
	}
	if p.Roles != nil {
		gained := permissionsOf(table, *p.Roles) &^ permissionsOf(table, user.Roles)
		if err := s.mayRaise(ctx, who, table, user, gained, a); err != nil {
			return User{}, err
		}
	}
	if err := s.cfg.Guard.Allow(ctx, who, UsersManage, a); err != nil {
		return User{}, err
	}
	defer s.cache.revoke(user.ID)
	next, err := s.cfg.Store.UpdateUser(ctx, user.ID, change)
	if err != nil {
		return User{}, s.refuse(ctx, who, a, err)
	}
	return shown(next), nil
}

// DeleteUser removes a user with his sessions and keys; his models stay. Needs
// users:manage and every permission that the user has. ErrLastAdmin rather than
// leave nobody in charge.
func (s *Service) DeleteUser(ctx context.Context, who Principal, id string) error {
	a := s.target(ctx, Action{Name: "user.delete"}, id)
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
	judge := func(old User, otherAdmins int) error { return mayTouch(who, table, old, otherAdmins, true) }
	err = s.cfg.Store.DeleteUser(ctx, id, func(old User, otherAdmins int) error {
		if err := judge(old, otherAdmins); err != nil {
			return err
		}
		return errPeek
	})
	if !errors.Is(err, errPeek) {
		return s.refuse(ctx, who, a, err)
	}
	if err := s.cfg.Guard.Allow(ctx, who, UsersManage, a); err != nil {
		return err
	}
	defer s.cache.revoke(id)
	return s.refuse(ctx, who, a, s.cfg.Store.DeleteUser(ctx, id, judge))
}

// ResetUser makes a token by which a user sets a new password once; his old
// password and sessions go on until he does. dropTOTP is for who has lost his
// second factor: it goes with the old password when the token is taken, and not
// before. Needs users:manage, every permission that the user has, and a sign-in of
// the last 10 minutes: the token is as good as his password.
func (s *Service) ResetUser(ctx context.Context, who Principal, id string, dropTOTP bool) (token string, expires time.Time, err error) {
	a := s.target(ctx, Action{Name: "user.reset"}, id)
	if dropTOTP {
		a.Detail = map[string]string{"totp": "removed with the token"}
	}
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, a); err != nil {
		return "", time.Time{}, err
	}
	unlock, err := s.lockAdmin(ctx)
	if err != nil {
		return "", time.Time{}, err
	}
	defer unlock()
	user, err := s.cfg.Store.User(ctx, id)
	if err != nil {
		return "", time.Time{}, noSuchUser(err)
	}
	if user.Kind == ServiceAccount {
		return "", time.Time{}, ErrInvalid.With("a service account has no password; give it a new secret instead")
	}
	table, err := s.roleTable(ctx)
	if err != nil {
		return "", time.Time{}, err
	}
	if user.ID == who.UserID { // a stolen access token must not become a password
		err := ErrForbidden.With("change your own password with the current one; if you lost it, ask another administrator")
		return "", time.Time{}, s.cfg.Guard.Decide(ctx, who, false, err, true, a)
	}
	if err := s.fresh(ctx, who, freshAuth, a); err != nil {
		return "", time.Time{}, err
	}
	if err := mayTouch(who, table, user, 0, false); err != nil {
		return "", time.Time{}, s.refuse(ctx, who, a, err)
	}
	if by, err := s.managedBy(ctx, id); err != nil {
		return "", time.Time{}, err
	} else if by != nil {
		err := ErrForbidden.With("this user signs in through the identity provider " + by.Name + " and has no password here")
		return "", time.Time{}, s.cfg.Guard.Decide(ctx, who, false, err, true, a)
	}
	if err := s.cfg.Guard.Allow(ctx, who, UsersManage, a); err != nil {
		return "", time.Time{}, err
	}
	token, hash := newSecret(resetPrefix)
	expires = s.now().Add(s.cfg.ResetTTL)
	if err := s.cfg.Store.PutTicket(ctx, Ticket{Hash: hash, Kind: PasswordReset, UserID: id, ExpiresAt: expires, DropsTOTP: dropTOTP}); err != nil {
		return "", time.Time{}, noSuchUser(err)
	}
	return token, expires, nil
}

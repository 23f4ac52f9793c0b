package auth_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"modelgate/audit"
	"modelgate/auth"
)

// Whoever lacks users:manage gets nowhere, and each try is recorded.
func TestAdministrationNeedsThePermission(t *testing.T) {
	e := newEnv(t)
	bob, tok := e.user("bob")
	alice, _ := e.user("alice")
	who := e.who(tok.Access)
	roles := []string{"admin"}
	tries := map[string]func() error{
		"user.list":       func() error { _, _, err := e.Users(e.ctx, who, "", 0); return err },
		"user.read":       func() error { _, err := e.User(e.ctx, who, alice.ID); return err },
		"user.create":     func() error { _, _, err := e.CreateUser(e.ctx, who, "eve", roles); return err },
		"user.update":     func() error { _, err := e.UpdateUser(e.ctx, who, bob.ID, auth.UserPatch{Roles: &roles}); return err },
		"user.delete":     func() error { return e.DeleteUser(e.ctx, who, alice.ID) },
		"user.reset":      func() error { _, _, err := e.ResetUser(e.ctx, who, alice.ID, false); return err },
		"session.list":    func() error { _, err := e.SessionsOf(e.ctx, who, alice.ID); return err },
		"session.end":     func() error { return e.EndSessionsOf(e.ctx, who, alice.ID) },
		"session.end_all": func() error { return e.EndEverySession(e.ctx, who) },
		"role.list":       func() error { _, err := e.Roles(e.ctx, who); return err },
		"role.put":        func() error { _, err := e.PutRole(e.ctx, who, "mine", []string{"users:manage"}, "", 0); return err },
		"role.delete":     func() error { return e.DeleteRole(e.ctx, who, "user") },
	}
	for action, try := range tries {
		err := try()
		want(t, err, auth.ErrForbidden)
		contains(t, detail(err), "users:manage")
		r := e.records(action)
		if len(r) == 0 || r[0].Outcome != audit.Denied || r[0].Actor != "bob" || r[0].Reason != "forbidden" {
			t.Errorf("%s: %+v", action, r)
		}
	}
	want(t, e.audit.Close(), nil) // and when a denial can't be recorded, nothing is answered
	for action, try := range tries {
		if err := try(); !errors.Is(err, auth.ErrUnavailable) {
			t.Errorf("%s: %v", action, err)
		}
	}
}

// Administration fails when it can't be recorded, and changes nothing.
func TestAdministrationFailsClosed(t *testing.T) {
	e := newEnv(t)
	alice, tok := e.user("alice")
	want(t, e.audit.Close(), nil)
	want(t, e.EndSessionOf(e.ctx, e.admin, alice.ID, tok.Session.ID), auth.ErrUnavailable)
	want(t, e.EndSessionsOf(e.ctx, e.admin, alice.ID), auth.ErrUnavailable)
	want(t, e.EndEverySession(e.ctx, e.admin), auth.ErrUnavailable)
	e.who(tok.Access)
	_, err := e.UpdateUser(e.ctx, e.admin, alice.ID, auth.UserPatch{Disabled: ptr(true)})
	want(t, err, auth.ErrUnavailable)
	want(t, e.DeleteUser(e.ctx, e.admin, alice.ID), auth.ErrUnavailable)
	_, _, err = e.CreateUser(e.ctx, e.admin, "eve", nil)
	want(t, err, auth.ErrUnavailable)
	_, _, err = e.ResetUser(e.ctx, e.admin, alice.ID, false)
	want(t, err, auth.ErrUnavailable)
	_, err = e.PutRole(e.ctx, e.admin, "ops", nil, "", 0)
	want(t, err, auth.ErrUnavailable)
	if u, err := e.db.User(e.ctx, alice.ID); err != nil || u.Disabled {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := e.db.UserByName(e.ctx, "eve"); !errors.Is(err, auth.ErrNotFound) {
		t.Error("a user was made without a record")
	}
}

func TestNobodyRaisesHimself(t *testing.T) {
	e := newEnv(t)
	mona := e.manager("mona", "users:manage") // may manage users, and nothing else
	alice, _ := e.user("alice")
	root, _ := e.user("root")
	e.give(root.ID, "admin")
	monaRoles := []string{"mona-role"}
	update := func(id string, p auth.UserPatch) error { _, err := e.UpdateUser(e.ctx, mona, id, p); return err }
	want(t, update(mona.UserID, auth.UserPatch{Roles: &[]string{"admin"}}), auth.ErrForbidden)
	want(t, update(mona.UserID, auth.UserPatch{Roles: &monaRoles}), auth.ErrForbidden)
	want(t, update(mona.UserID, auth.UserPatch{Disabled: ptr(true)}), auth.ErrForbidden)
	want(t, e.DeleteUser(e.ctx, mona, mona.UserID), auth.ErrForbidden)
	// What she lacks she can't give ...
	for _, role := range []string{"admin", "data-scientist"} {
		want(t, update(alice.ID, auth.UserPatch{Roles: &[]string{role}}), auth.ErrForbidden)
		_, _, err := e.CreateUser(e.ctx, mona, "eve", []string{role})
		want(t, err, auth.ErrForbidden)
	}
	want(t, update(alice.ID, auth.UserPatch{Roles: &[]string{"user", "mona-role"}}), nil)
	_, err := e.PutRole(e.ctx, mona, "mona-role", []string{"users:manage", "models:manage"}, "", 0)
	want(t, err, auth.ErrForbidden)
	contains(t, detail(err), "models:manage")
	_, err = e.PutRole(e.ctx, mona, "mona-role", []string{"users:manage"}, "1000000-S", 0)
	want(t, err, auth.ErrForbidden)
	contains(t, detail(err), "its rate")
	_, err = e.PutRole(e.ctx, mona, "label", nil, "5-S", 0)
	want(t, err, nil)
	// ... nor take, and somebody with more rights than hers is not hers to manage.
	_, err = e.PutRole(e.ctx, e.admin, "strong", []string{"audit:read"}, "", 0)
	want(t, err, nil)
	_, err = e.PutRole(e.ctx, mona, "strong", nil, "", 0)
	want(t, err, auth.ErrForbidden)
	want(t, e.DeleteRole(e.ctx, mona, "strong"), auth.ErrForbidden)
	want(t, update(root.ID, auth.UserPatch{Disabled: ptr(true)}), auth.ErrForbidden)
	want(t, update(root.ID, auth.UserPatch{Roles: &[]string{"user"}}), auth.ErrForbidden)
	want(t, e.DeleteUser(e.ctx, mona, root.ID), auth.ErrForbidden)
	_, _, err = e.ResetUser(e.ctx, mona, root.ID, false) // else she could sign in as root
	want(t, err, auth.ErrForbidden)
	if r := e.records("user.reset"); len(r) != 1 || r[0].Outcome != audit.Denied || r[0].Target != "root" {
		t.Errorf("%+v", r)
	}
	// A role that alice holds already and mona may not give stays when she adds another.
	e.give(alice.ID, "user")
	want(t, update(alice.ID, auth.UserPatch{Roles: &[]string{"user", "label"}}), nil)
}

// A reset token asked for while a user had few rights must not open the account
// once he has more.
func TestResetTokenDoesNotOutliveAPromotion(t *testing.T) {
	e := newEnv(t)
	mona := e.manager("mona", "users:manage")
	alice, _ := e.user("alice")
	token, _, err := e.ResetUser(e.ctx, mona, alice.ID, false)
	want(t, err, nil)
	e.give(alice.ID, "admin")
	want(t, e.ResetPassword(e.ctx, origin, token, "another lorry altogether"), auth.ErrToken)
	e.login("alice")
}

func TestLastAdminStays(t *testing.T) {
	e := newEnv(t)
	none := []string{"user"}
	disable, demote := auth.UserPatch{Disabled: ptr(true)}, auth.UserPatch{Roles: &none}
	update := func(who auth.Principal, id string, p auth.UserPatch) error {
		_, err := e.UpdateUser(e.ctx, who, id, p)
		return err
	}
	want(t, update(e.admin, e.admin.UserID, disable), auth.ErrLastAdmin)
	want(t, update(e.admin, e.admin.UserID, demote), auth.ErrLastAdmin)
	want(t, e.DeleteUser(e.ctx, e.admin, e.admin.UserID), auth.ErrLastAdmin)
	mona := e.manager("mona", "users:manage")
	want(t, update(mona, e.admin.UserID, disable), auth.ErrLastAdmin)
	// Somebody invited who can't sign in yet does not count.
	_, _, err := e.CreateUser(e.ctx, e.admin, "later", []string{"admin"})
	want(t, err, nil)
	want(t, update(e.admin, e.admin.UserID, demote), auth.ErrLastAdmin)
	if r := e.records("user.update")[0]; r.Outcome != audit.Denied || r.Reason != "last_admin" || r.Target != "admin" {
		t.Errorf("%+v", r)
	}
}

// Administrators who remove each other at the same time leave one.
func TestAdministratorsRemoveEachOther(t *testing.T) {
	for _, how := range []string{"disable", "demote", "delete"} {
		t.Run(how, func(t *testing.T) {
			e := newEnv(t)
			const n = 6
			admins := []auth.Principal{e.admin}
			for i := range n - 1 {
				u := e.register(fmt.Sprint("root", i))
				e.give(u.ID, "admin")
				admins = append(admins, e.who(e.login(u.Username).Access))
			}
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					for j := range n {
						if i == j {
							continue
						}
						var err error
						switch id := admins[j].UserID; how {
						case "disable":
							err = update(e, admins[i], id, auth.UserPatch{Disabled: ptr(true)})
						case "demote":
							err = update(e, admins[i], id, auth.UserPatch{Roles: &[]string{}})
						case "delete":
							err = e.DeleteUser(e.ctx, admins[i], id)
						}
						if err != nil && !errors.Is(err, auth.ErrLastAdmin) && !errors.Is(err, auth.ErrNotFound) {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			list, err := e.db.Users(e.ctx, "", 100)
			want(t, err, nil)
			left := 0
			for _, u := range list {
				if slices.Contains(u.Roles, "admin") && !u.Disabled {
					left++
				}
			}
			if left != 1 {
				t.Errorf("%d administrators are left", left)
			}
		})
	}
}

func update(e *env, who auth.Principal, id string, p auth.UserPatch) error {
	_, err := e.UpdateUser(e.ctx, who, id, p)
	return err
}

func TestUsers(t *testing.T) {
	e := newEnv(t)
	for i := range 7 {
		e.register(fmt.Sprint("user", i))
	}
	var names []string
	for after := ""; ; {
		items, next, err := e.Users(e.ctx, e.admin, after, 3)
		want(t, err, nil)
		for _, u := range items {
			if u.PasswordHash != "" {
				t.Error("a password hash is shown")
			}
			names = append(names, u.Username)
		}
		if after = next; after == "" {
			break
		}
	}
	if len(names) != 8 || !slices.IsSorted(names) {
		t.Errorf("%v", names)
	}
	items, _, err := e.Users(e.ctx, e.admin, "", -1)
	if want(t, err, nil); len(items) != 8 {
		t.Errorf("%d", len(items))
	}
	u, err := e.User(e.ctx, e.admin, items[1].ID)
	if want(t, err, nil); u.Username != items[1].Username || u.PasswordHash != "" {
		t.Errorf("%+v", u)
	}
	_, err = e.User(e.ctx, e.admin, "u_none")
	want(t, err, auth.ErrNotFound)
	want(t, update(e, e.admin, "u_none", auth.UserPatch{Disabled: ptr(true)}), auth.ErrNotFound)
	want(t, e.DeleteUser(e.ctx, e.admin, "u_none"), auth.ErrNotFound)
	want(t, update(e, e.admin, items[1].ID, auth.UserPatch{}), nil)
	err = update(e, e.admin, items[1].ID, auth.UserPatch{Roles: &[]string{"user", "no-such"}})
	want(t, err, auth.ErrInvalid)
	contains(t, detail(err), "no-such")
	_, _, err = e.CreateUser(e.ctx, e.admin, "user0", nil)
	want(t, err, auth.ErrTaken)
	_, _, err = e.CreateUser(e.ctx, e.admin, "x y", nil)
	want(t, err, auth.ErrInvalid)
	_, _, err = e.CreateUser(e.ctx, e.admin, "newcomer", []string{"no-such"})
	want(t, err, auth.ErrInvalid)
}

func TestRoles(t *testing.T) {
	e := newEnv(t)
	put := func(name string, permissions []string, rate string) error {
		_, err := e.PutRole(e.ctx, e.admin, name, permissions, rate, 0)
		return err
	}
	for _, name := range []string{"admin", "data-scientist", "user"} {
		want(t, put(name, nil, ""), auth.ErrBuiltin)
		want(t, e.DeleteRole(e.ctx, e.admin, name), auth.ErrBuiltin)
	}
	for _, name := range []string{"", "A", "a b", ".a", strings.Repeat("a", 65), "ä", "a/b", "a\n"} {
		want(t, put(name, nil, ""), auth.ErrInvalid)
	}
	err := put("ops", []string{"models:write", "models:fly"}, "")
	want(t, err, auth.ErrInvalid)
	contains(t, detail(err), "models:fly")
	contains(t, detail(err), "models:manage")
	for _, rate := range []string{"10", "10-", "-S", "0-S", "-1-S", "10-W", "10-s", "1.5-S", "10-S ", "010-S", "1e3-S", "99999999999999999999-S", "10-S-M"} {
		want(t, put("ops", nil, rate), auth.ErrInvalid)
	}
	for _, rate := range []string{"10-S", "600-M", "5000-H", "1-D", ""} {
		want(t, put("ops", []string{"models:write"}, rate), nil)
	}
	want(t, e.RolesExist(e.ctx, []string{"ops", "user"}), nil)
	want(t, e.RolesExist(e.ctx, nil), nil)
	err = e.RolesExist(e.ctx, []string{"ops", "nope", "neither"})
	want(t, err, auth.ErrInvalid)
	contains(t, detail(err), `"nope"`)
	alice, _ := e.user("alice")
	e.give(alice.ID, "ops")
	want(t, e.DeleteRole(e.ctx, e.admin, "ops"), auth.ErrInUse)
	if r := e.records("role.delete"); r[0].Outcome != audit.Denied || r[0].Reason != "in_use" || allowed(r) != 0 {
		t.Errorf("%+v", r)
	}
	e.give(alice.ID)
	want(t, e.DeleteRole(e.ctx, e.admin, "ops"), nil)
	want(t, e.DeleteRole(e.ctx, e.admin, "ops"), auth.ErrNotFound)
}

func TestPermissionNames(t *testing.T) {
	all := []string{"users:manage", "models:write", "models:manage", "audit:read", "metrics:read"}
	p, err := auth.ParsePermissions(all)
	want(t, err, nil)
	if p != auth.UsersManage|auth.ModelsWrite|auth.ModelsManage|auth.AuditRead|auth.MetricsRead || !slices.Equal(p.Names(), all) {
		t.Errorf("%v", p.Names())
	}
	if got := auth.Permission(0).Names(); got == nil || len(got) != 0 {
		t.Errorf("%v", got)
	}
	for _, bad := range []string{"", "USERS:MANAGE", "users:*", "*", "users:manage "} {
		_, err := auth.ParsePermissions([]string{bad})
		want(t, err, auth.ErrInvalid)
	}
}

func allowed(list []audit.Entry) (n int) {
	for _, r := range list {
		if r.Outcome == audit.Allowed {
			n++
		}
	}
	return n
}

// The log does not say that somebody was allowed to make a user whose name is
// taken: neither when that is known beforehand, nor alone when it is found out
// after the record.
func TestTakenNameIsDenied(t *testing.T) {
	for kind, create := range map[string]func(e *env) error{
		"person":  func(e *env) error { _, _, err := e.CreateUser(e.ctx, e.admin, "Alice", nil); return err },
		"service": func(e *env) error { _, _, _, err := e.CreateService(e.ctx, e.admin, "alice", nil, 0); return err },
	} {
		t.Run(kind, func(t *testing.T) {
			e := newEnv(t)
			denied := func(before int) {
				t.Helper()
				r := e.records("user.create")
				if r[0].Outcome != audit.Denied || r[0].Reason != "taken" || r[0].Target != "alice" || allowed(r) != before {
					t.Errorf("%+v", r)
				}
			}
			before := allowed(e.records("user.create"))
			e.store.set(nil, func(method string) {
				if method == "UserByName" { // free, and taken right after
					e.store.set(nil, nil)
					e.register("alice")
				}
			})
			want(t, create(e), auth.ErrTaken)
			denied(before + 1)
			want(t, create(e), auth.ErrTaken)
			denied(before + 1)
		})
	}
}

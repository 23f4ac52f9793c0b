package storetest

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"modelgate/auth"
	"modelgate/models"
)

var roleTests = []test{
	{"BuiltinRoles", testBuiltinRoles},
	{"PutRole", testPutRole},
	{"DeleteRole", testDeleteRole},
	{"DeleteRoleRace", testDeleteRoleRace},
}

func testBuiltinRoles(t *testing.T, s Store) {
	list, err := s.Roles(t.Context())
	ok(t, err)
	got := map[string]auth.Permission{}
	for _, r := range list {
		got[r.Name] = r.Permissions
		if !r.Builtin || r.Rate != "" || r.DailyRows != 0 || r.CreatedAt.IsZero() {
			t.Errorf("built-in role: %+v", r)
		}
	}
	equal(t, "roles", len(got), 3)
	equal(t, "rights of admin", got["admin"],
		auth.UsersManage|auth.ModelsWrite|auth.ModelsManage|auth.AuditRead|auth.MetricsRead)
	equal(t, "rights of data-scientist", got["data-scientist"], auth.ModelsWrite)
	equal(t, "rights of user", got["user"], 0)
}

func testPutRole(t *testing.T, s Store) {
	ctx := t.Context()
	role := func(name string) auth.Role {
		t.Helper()
		list, err := s.Roles(ctx)
		ok(t, err)
		if !slices.IsSortedFunc(list, func(a, b auth.Role) int { return strings.Compare(a.Name, b.Name) }) {
			t.Fatalf("roles are not in the order of their names: %v", list)
		}
		i := slices.IndexFunc(list, func(r auth.Role) bool { return r.Name == name })
		if i < 0 {
			t.Fatalf("no role %s", name)
		}
		return list[i]
	}
	made := auth.Role{Name: "analyst", Permissions: auth.AuditRead | auth.MetricsRead, Rate: "600-M", DailyRows: 1e12, CreatedAt: noon}
	ok(t, s.PutRole(ctx, made))
	made.CreatedAt = kept(noon)
	equal(t, "role", role("analyst"), made)

	ok(t, s.PutRole(ctx, auth.Role{Name: "analyst", Permissions: auth.ModelsWrite, Builtin: true, CreatedAt: noon.Add(time.Hour)}))
	made.Permissions, made.Rate, made.DailyRows = auth.ModelsWrite, "", 0
	equal(t, "replaced role", role("analyst"), made)

	for p := auth.Permission(0); p < 32; p++ {
		ok(t, s.PutRole(ctx, auth.Role{Name: "analyst", Permissions: p}))
		equal(t, "rights", role("analyst").Permissions, p)
	}
}

// yes agrees to the removal of a role.
func yes() error { return nil }

func testDeleteRole(t *testing.T, s Store) {
	ctx := t.Context()
	for _, name := range []string{"free", "of-user", "of-model", "of-rule"} {
		addRole(t, s, name)
	}
	addUser(t, s, "ada", "user", "of-user")
	m, v := newModel("iris", "", "of-model")
	m.Disclosure.Roles = map[string]models.Rule{"of-rule": {TopK: 1}}
	_, err := s.AddVersion(ctx, m, v, nil)
	ok(t, err)

	refusal := errors.New("no")
	want(t, s.DeleteRole(ctx, "free", func() error { return refusal }), refusal)
	ok(t, s.DeleteRole(ctx, "free", yes))
	want(t, s.DeleteRole(ctx, "free", yes), auth.ErrNotFound)
	for _, name := range []string{"of-user", "of-model", "of-rule"} {
		want(t, s.DeleteRole(ctx, name, func() error { t.Errorf("asked about %s", name); return nil }), auth.ErrInUse)
	}
	ok(t, s.DeleteUser(ctx, "id-ada", func(auth.User, int) error { return nil }))
	ok(t, s.DeleteModel(ctx, "iris"))
	for _, name := range []string{"of-user", "of-model", "of-rule"} {
		ok(t, s.DeleteRole(ctx, name, yes))
	}
	list, err := s.Roles(ctx)
	ok(t, err)
	equal(t, "roles left", len(list), 3)
}

// A role that is removed while it is given to a user is either gone, and not given, or given, and kept.
func testDeleteRoleRace(t *testing.T, s Store) {
	ctx := t.Context()
	for range 10 {
		addRole(t, s, "analyst")
		errs := race(2, func(i int) error {
			if i == 0 {
				return s.DeleteRole(ctx, "analyst", yes)
			}
			return s.CreateUser(ctx, newUser("ada", "analyst"), nil)
		})
		switch {
		case errs[0] == nil:
			want(t, errs[1], auth.ErrInvalid)
		case errs[1] == nil:
			want(t, errs[0], auth.ErrInUse)
			ok(t, s.DeleteUser(ctx, "id-ada", func(auth.User, int) error { return nil }))
		default:
			t.Fatal(errs)
		}
	}
}
